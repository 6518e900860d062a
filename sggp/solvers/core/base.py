"""What a solver is: a frozen record of settings with one method, `solve`."""

from __future__ import annotations

import dataclasses
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from sggp.solvers.core.driver import Callback, Limits, drive, finish
from sggp.solvers.core.problem import Problem
from sggp.solvers.core.solution import Solution, Status
from sggp.typing import FailurePolicy, ResidualKind, Seed

__all__ = ["IterativeSolver", "Solver", "State"]


@dataclass
class State:
    """Base of every iterative solver's state: the open columns, and notes for the report.

    A subclass names in `per_column` its tensor fields whose last dimension runs over columns; once a column is settled
    the driver drops it from them, so that frozen columns cost nothing.
    """

    per_column: ClassVar[tuple[str, ...]] = ()

    problem: Problem
    notes: list[str] = field(default_factory=list, kw_only=True)


class Solver(ABC):
    """A way to solve A x = b. Subclasses are frozen dataclasses of settings; the problem is an argument of `solve`."""

    def solve(
        self,
        operator: Any,
        rhs: Tensor,
        x0: Tensor | None = None,
        *,
        tolerance: float | Tensor = 1e-2,
        max_epochs: float | None = None,
        max_seconds: float | None = None,
        generator: Seed = None,
        callback: Callback | None = None,
        on_failure: FailurePolicy = "warn",
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Solution:
        """Solve for all columns of `rhs`.

        Args:
            operator: a symmetric positive definite `LinearOperator` of shape (n, n).
            rhs: (n,) or (n, s).
            x0: a start of the same shape; None starts from zero. There is no other warm start.
            tolerance: relative residual ‖b − Ax‖/‖b‖ to reach, a number or one per column (s,).
            max_epochs: work allowed, in units of n² kernel entries; None takes the solver's own cap. From 20 epochs on
                the pass that measures the final residual is kept within; below that the final residual is estimated
                from a twentieth of the rows, and says so, where the operator offers rows and n ≥ 1,280.
            max_seconds: wall time allowed; checked after every step. A pass is kept within where it takes at most a
                twentieth of it.
            generator: seed or generator of all randomness; None draws fresh entropy.
            callback: called with a `Progress` after every step; returning True ends the solve. Its time is not counted.
            on_failure: what to do if a column misses its tolerance: "warn" (`NotConverged`), "raise"
                (`SolverFailure`, which carries the solution) or "return" in silence.
            checkpoint: a file to save the solve in while it runs. The same call after a kill goes on from there and,
                given the same machine and number of threads, ends with the same numbers; epochs, seconds and history
                include those before the kill. The file stays: the same call once more returns the same solution at
                once, and goes on if only a budget was spent and is now larger. Writing takes at most a twentieth of the
                time: once a second, or less often where a write takes long. Direct solvers ignore it.

        Returns:
            A `Solution`; its `status` tells the outcome of each column. Its `x` has the dtype of `rhs`, or is float64
            where rounding would lose the tolerance: what is stated was measured on the tensor that is returned.

        Raises:
            ShapeError, DtypeError, InputError, UnsupportedOperator: an argument cannot be used.
            CheckpointError: the checkpoint cannot be written, is damaged, or was written for another solve.
        """
        limits = Limits(tolerance, max_epochs, max_seconds, generator, callback, on_failure, checkpoint)
        return finish(self._solve(operator, rhs, x0, limits), limits.on_failure)

    @abstractmethod
    def _solve(self, operator: Any, rhs: Tensor, x0: Tensor | None, limits: Limits) -> Solution:
        """Solve within `limits`, whatever the outcome: `solve` warns or raises."""

    def describe(self) -> str:
        """The solver's name and the settings that differ from the defaults."""
        shown = []
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
            if value != default:
                shown.append(f"{f.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


class IterativeSolver(Solver):
    """A solver that the driver steps. Authors write `start`, `step`, `iterate`, and `residual` if one is cheap."""

    default_max_epochs: ClassVar[float] = 1000.0

    @abstractmethod
    def start(self, problem: Problem) -> Any:
        """Set up a `State` for `problem`, at x = 0."""

    @abstractmethod
    def step(self, state: Any) -> None:
        """Advance the state by one step."""

    @abstractmethod
    def iterate(self, state: Any) -> Tensor:  # -> (n, s)
        """The current approximation of the open columns."""

    def residual(self, state: Any) -> tuple[Tensor, ResidualKind] | None:
        """Relative residuals (s,) if they are known at this step, with their kind; None otherwise."""
        return None

    def failures(self, state: Any) -> list[Status | None]:
        """A status for each open column that cannot go on, None for the others."""
        return [None] * state.problem.rhs.shape[1]

    def stalled(self, state: Any) -> Tensor:  # -> (s,) bool
        """Which open columns no longer get better; their residual is measured and they start again from there."""
        return torch.zeros(state.problem.rhs.shape[1], dtype=torch.bool)

    def keep(self, state: Any, columns: Tensor) -> None:
        """Drop all columns but these from the state."""
        problem = state.problem
        for name in state.per_column:
            value = getattr(state, name)
            setattr(state, name, value[..., columns.to(value.device)])
        state.problem = dataclasses.replace(
            problem,
            rhs=problem.rhs[:, columns],
            x0=None,
            tolerance=problem.tolerance[columns],
            columns=problem.columns[columns],
        )

    def _solve(self, operator: Any, rhs: Tensor, x0: Tensor | None, limits: Limits) -> Solution:
        return drive(self, operator, rhs, x0, limits)


def column_norms(v: Tensor) -> Tensor:  # (n, s) -> (s,)
    """Float64 2-norms of the columns, on the CPU."""
    return torch.linalg.vector_norm(v.double(), dim=0).cpu()
