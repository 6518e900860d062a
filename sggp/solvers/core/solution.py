"""What a solve returns: the columns found, the truth about each of them, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

import torch
from torch import Tensor

from sggp.errors import SolverFailure
from sggp.typing import ResidualKind

__all__ = ["Record", "Solution", "Status"]


class Status(StrEnum):
    """How a column ended. Only `CONVERGED` means that the tolerance was met."""

    CONVERGED = "converged"
    """The relative residual is at or below the column's tolerance."""
    BUDGET_SPENT = "budget_spent"
    """max_epochs, max_seconds, the callback or a stop ended the solve first. Raise the budget, or go on from x0=x."""
    STAGNATED = "stagnated"
    """The residual no longer falls: usually the floor of the working precision. Use float64 or a looser tolerance."""
    DIVERGED = "diverged"
    """The iteration grew even after its step was reduced to the least allowed. Choose another solver."""
    BREAKDOWN = "breakdown"
    """A quantity that must be positive was not: the operator is not positive definite to working precision."""
    NONFINITE_INPUT = "nonfinite_input"
    """The right-hand side holds NaN or infinity; nothing was computed for it."""


@dataclass(frozen=True)
class Record:
    """One line of a solve's history."""

    epochs: float
    seconds: float
    residual: Tensor  # (s,)
    kind: ResidualKind


@dataclass(frozen=True)
class Solution:
    """The outcome of `solver.solve(operator, rhs)`.

    Attributes:
        x: (n, s) or (n,), as the right-hand side was, and in its dtype; in float64 where rounding to that dtype would
            lose a tolerance that was met, or raise a residual by a tenth (then `notes` say so). All else here is said
            of this very tensor.
        status: one `Status` per column.
        residual: (s,) relative 2-norms ‖b − Ax‖/‖b‖, float64.
        residual_kind: "true" (measured by a full product) or "estimated" (from a random sample of rows, because a full
            product would have exceeded the budget).
        residual_error: (s,) standard errors of `residual`; zeros where it is true.
        tolerance: (s,) what was asked for.
        history: records of the residuals over the solve.
        epochs: work in units of n² kernel entries, preconditioner set-up included.
        seconds: wall time without the time spent on callbacks.
        iterations: steps taken.
        method: the solver and its settings.
        notes: what happened on the way (jitter added, step reduced, restarts), one sentence each.
    """

    x: Tensor
    status: tuple[Status, ...]
    residual: Tensor
    residual_kind: ResidualKind
    tolerance: Tensor
    history: tuple[Record, ...] = ()
    epochs: float = 0.0
    seconds: float = 0.0
    iterations: int = 0
    method: str = ""
    notes: tuple[str, ...] = field(default=())
    residual_error: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))

    def __post_init__(self) -> None:
        if len(self.residual_error) != len(self.residual):
            object.__setattr__(self, "residual_error", torch.zeros_like(self.residual))

    @property
    def converged(self) -> bool:
        """Whether every column met its tolerance."""
        return all(status is Status.CONVERGED for status in self.status)

    @property
    def worst(self) -> int:
        """The column furthest from its tolerance; columns that failed come before columns that converged."""
        if not self.status:
            return 0
        excess = self.residual / self.tolerance.clamp_min(torch.finfo(torch.float64).tiny)
        excess = torch.nan_to_num(excess, nan=float("inf"))
        failed = torch.tensor([status is not Status.CONVERGED for status in self.status])
        # a column can fail with a small recorded residual (non-finite input), so failure ranks first
        return int((excess.clamp_max(1e300) + 1e301 * failed.to(excess)).argmax())

    def columns(self, start: int, stop: int) -> Solution:
        """The solution of some of the columns; what was spent is that of all of them."""
        part = slice(start, stop)
        return replace(
            self,
            x=self.x[:, part],
            status=self.status[part],
            residual=self.residual[part],
            tolerance=self.tolerance[part],
            residual_error=self.residual_error[part],
            history=tuple(replace(record, residual=record.residual[part]) for record in self.history),
        )

    def raise_for_status(self) -> Solution:
        """Return self if every column converged.

        Raises:
            SolverFailure: otherwise; it carries this solution.
        """
        if not self.converged:
            raise SolverFailure(self.describe_failure(), self)
        return self

    def describe_failure(self) -> str:
        """Which columns missed their tolerance, by how much, and what to do."""
        missed = [i for i, status in enumerate(self.status) if status is not Status.CONVERGED]
        kinds = sorted({str(self.status[i]) for i in missed})
        worst = self.worst
        advice = {
            Status.BUDGET_SPENT: "Raise max_epochs or max_seconds, or continue with x0=solution.x.",
            Status.STAGNATED: "Work in float64 (dtype=torch.float64) or ask for a looser tolerance.",
            Status.DIVERGED: "Use ConjugateGradients.",
            Status.BREAKDOWN: "The matrix is not positive definite to working precision: add noise or use float64; or "
            "check that the kernel is a covariance function.",
            Status.NONFINITE_INPUT: "Remove NaN and infinity from the right-hand side.",
        }
        return (
            f"{len(missed)} of {len(self.status)} columns missed their tolerance ({', '.join(kinds)}); worst column "
            f"{worst}: relative residual {float(self.residual[worst]):.2e}, asked {float(self.tolerance[worst]):.2e}. "
            f"{advice.get(self.status[worst], '')}"
        )

    def __repr__(self) -> str:
        done = sum(status is Status.CONVERGED for status in self.status)
        if not self.status:
            return f"Solution({self.method}: no columns)"
        worst = self.worst
        error = float(self.residual_error[worst])
        found = f"{float(self.residual[worst]):.1e}" + (f" ± {error:.0e}" if error > 0 else "")
        return (
            f"Solution({self.method}: {done}/{len(self.status)} converged, worst column {worst} "
            f"{self.status[worst]} at {found} ({self.residual_kind}), "
            f"{self.epochs:.3g} epochs, {self.iterations} iterations, {self.seconds:.3g} s)"
        )
