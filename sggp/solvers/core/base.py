"""What a solver is: a frozen record of settings with one method, `solve`; `prepare` keeps what A alone decides."""

from __future__ import annotations

import dataclasses
import os
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor

from sggp.autograd import full_precision
from sggp.errors import NotConverged
from sggp.solvers.core.limits import Callback, Limits, Options
from sggp.solvers.core.problem import check_operator
from sggp.solvers.core.solution import Solution
from sggp.typing import FailurePolicy, Seed

__all__ = ["Prepared", "Setup", "Solver", "column_norms"]


@dataclass
class Setup:
    """What a solver makes of an operator before its first step: made once, when a solve needs it first."""

    columns: int | None = None
    value: Any = None
    states: tuple[Tensor, Tensor] | None = None  # of the generator when it was made, and after that

    def of(self, solver: Solver, operator: Any, columns: int, generator: torch.Generator) -> Any:
        """The set-up; a solve with the same seed as the one that made it goes on with the same random numbers."""
        if self.states is None:
            self.columns = columns if self.columns is None else self.columns
            before = generator.get_state()
            self.value = solver.setup(operator, self.columns, generator)
            self.states = before, generator.get_state()
        elif torch.equal(generator.get_state(), self.states[0]):
            generator.set_state(self.states[1])
        return self.value


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
                from a twentieth of the rows (at most 4,096), and says so, where the operator offers rows and n ≥ 1,280.
            max_seconds: wall time allowed; checked after every step, and between the blocks of a preconditioner's
                set-up, which may take seven tenths of it. A pass is kept within where it takes at most a twentieth of
                it; one that would take more than all of it is not begun.
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
        with full_precision():
            solution = self._solve(operator, rhs, x0, limits)
        return _finish(solution, on_failure)

    def prepare(self, operator: Any, *, columns: int | None = None) -> Prepared:
        """The solver bound to an operator, for many right-hand sides: what A alone decides is made once.

        That is a factor, a preconditioner, a step size or blocks of rows. It is made when the first solve needs it,
        within that solve's budget and counted in its epochs; later ones have it for nothing.

        Args:
            operator: A. columns: right-hand sides of a solve, by which a preconditioner is sized; None takes those of
                the first.

        Example:
            >>> import torch
            >>> from sggp.operators import KernelOperator
            >>> from sggp.solvers import Cholesky
            >>> import gpytorch
            >>> x = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
            >>> operator = KernelOperator(gpytorch.kernels.MaternKernel(nu=1.5).double(), x, 0.1)
            >>> prepared = Cholesky().prepare(operator)
            >>> [prepared.solve(torch.sin(k * x[:, 0])).epochs for k in (1, 2)]  # the second has the factor
            [2.0, 1.0]
        """
        return Prepared(self, operator, Setup(columns))

    def setup(self, operator: Any, columns: int, generator: torch.Generator) -> Any:
        """What A alone decides, as a record of the solver's own; None where there is nothing to set up.

        Args:
            operator: A. columns: right-hand sides to expect. generator: source of randomness.
        """
        return None

    @abstractmethod
    def _solve(self, operator: Any, rhs: Tensor, x0: Tensor | None, limits: Limits) -> Solution:
        """Solve within `limits`, whatever the outcome: `solve` warns or raises.

        A solver with a `setup` takes a fifth argument, `setup: Setup | None`.
        """

    def describe(self) -> str:
        """The solver's name and the settings that differ from the defaults."""
        shown = []
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
            if (value := getattr(self, f.name)) != default:
                shown.append(f"{f.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


class Prepared:
    """A solver and an operator: see `Solver.prepare`.

    Attributes:
        solver, operator: what it was made of.
    """

    def __init__(self, solver: Solver, operator: Any, setup: Setup) -> None:
        check_operator(operator)
        self.solver, self.operator, self._setup = solver, operator, setup

    def __repr__(self) -> str:
        made = "not set up yet" if self._setup.states is None else "set up"
        return f"Prepared({self.solver!r}, {self.operator!r}, {made})"

    def solve(self, rhs: Tensor, x0: Tensor | None = None, **options: Unpack[Options]) -> Solution:
        """As `solver.solve(operator, rhs, x0, …)`, with the same result, and without setting up again."""
        limits = Limits(**options)
        # a solver with a setup takes it: see Solver._solve
        setup = () if type(self.solver).setup is Solver.setup else (self._setup,)
        with full_precision():
            solution = self.solver._solve(self.operator, rhs, x0, limits, *setup)
        return _finish(solution, limits.on_failure)

    def moved_to(self, operator: Any) -> Prepared:
        """The same set-up for a matrix not far from the one it is made of: a preconditioner need not be exact.

        For iterative solvers only; a factor would be that of another matrix, and the measured residual says so.
        """
        return Prepared(self.solver, operator, self._setup)


def _finish(solution: Solution, on_failure: FailurePolicy) -> Solution:
    """Return, warn or raise, as the caller asked."""
    if solution.converged or on_failure == "return":
        return solution
    if on_failure == "raise":
        return solution.raise_for_status()
    warnings.warn(f"{solution.method}: {solution.describe_failure()}", NotConverged, stacklevel=3)
    return solution


def column_norms(v: Tensor) -> Tensor:  # (n, s) -> (s,)
    """Float64 2-norms of the columns, on the CPU."""
    return torch.linalg.vector_norm(v.double(), dim=0).cpu()
