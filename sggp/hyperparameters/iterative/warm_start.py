"""Solves of a slowly changing system: each from the last solution, with the last preconditioner while it is close."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sggp.defaults import DIRECT_ROWS
from sggp.operators import KernelOperator
from sggp.solvers import Auto, Cholesky, ConjugateGradients, Prepared, Solution, Solver

__all__ = ["WarmSolves", "default_tolerances"]

_MOVED = 0.2
"""A preconditioner is built anew once a coordinate (a logarithm, where positive) has moved by more than this."""
_LOOSEST, _TIGHTEST = 1e-2, 1e-6
_NOISE_SHARE = 0.1
_MEAN_SHARE = 0.1


def default_tolerances(noise: Tensor, diagonal: Tensor) -> tuple[float, float]:
    """Relative residuals for targets and for probes: 0.1·√(noise/diag H) for probes, within 1e-6 and 1e-2.

    The residual of a probe is then small beside its noise, so that it moves the quadratic forms of the gradient by
    less than the choice of probes does. Targets, of which there is only one draw, are solved ten times tighter.
    """
    ratio = float(noise.mean() / diagonal.mean())
    probes = min(_LOOSEST, max(_TIGHTEST, _NOISE_SHARE * ratio**0.5))
    return max(_TIGHTEST, _MEAN_SHARE * probes), probes


class WarmSolves:
    """Solves of (K + Σ)A = B for kernel and noise that move from call to call.

    Args:
        solver: any solver; None and `Auto` take `Cholesky` up to 3,000 rows and conjugate gradients beyond. The
            preconditioner of conjugate gradients is built anew only where a coordinate has moved by more than 0.2.
        rows: (g, d) inputs. columns: of B, to size the preconditioner for.
        dtype, memory_budget: of the operator.
        max_epochs: budget of each solve; None for the solver's own cap.

    Attributes:
        last: the latest solution; the next solve starts from it.
        epochs: of all solves so far. builds: how often the solver was set up anew.
    """

    def __init__(
        self,
        solver: Solver | None,
        rows: Tensor,
        columns: int,
        *,
        dtype: torch.dtype,
        memory_budget: float,
        max_epochs: float | None,
        generator: torch.Generator,
    ) -> None:
        self.rows, self.dtype, self.memory_budget = rows, dtype, float(memory_budget)
        self.max_epochs, self.generator = max_epochs, generator
        self.last: Solution | None = None
        self.start: Tensor | None = None
        self.epochs = 0.0
        self.columns, self.builds = columns, 0
        self.solver = self._chosen(solver)
        self.prepared: Prepared | None = None
        self.at = torch.zeros(0, dtype=torch.float64)

    def _chosen(self, solver: Solver | None) -> Solver:
        g = len(self.rows)
        if solver is None or isinstance(solver, Auto):
            direct = DIRECT_ROWS if solver is None else solver.direct_rows
            solver = Cholesky() if g <= direct else ConjugateGradients()
        return solver

    @property
    def _preconditioned(self) -> bool:
        return isinstance(self.solver, ConjugateGradients)

    def operator(self, kernel: Any, noise: Tensor) -> KernelOperator:
        """K + Σ under the kernel's present values."""
        return KernelOperator(kernel, self.rows, noise, dtype=self.dtype, memory_budget=self.memory_budget)

    def solve(
        self, operator: KernelOperator, rhs: Tensor, tolerance: Tensor, coordinates: Tensor
    ) -> Solution:
        """One more solve, from the last solution where it has as many columns.

        Args:
            operator: K + Σ. rhs: (g, s). tolerance: (s,).
            coordinates: (p,) where the hyperparameters are; decides about the preconditioner.
        """
        place = coordinates.detach().clone()
        if (
            self.prepared is None
            or not self._preconditioned
            or bool(((place - self.at).abs() > _MOVED).any())
        ):
            self.prepared, self.at = self.solver.prepare(operator, columns=self.columns), place
            self.builds += 1
        else:
            self.prepared = self.prepared.moved_to(operator)
        start = self.start if self.start is not None and self.start.shape == rhs.shape else None
        self.last = self.prepared.solve(
            rhs,
            start,
            tolerance=tolerance,
            max_epochs=self.max_epochs,
            generator=self.generator,
            on_failure="return",
        )
        self.start = torch.nan_to_num(self.last.x.double(), posinf=0.0, neginf=0.0)
        self.epochs += self.last.epochs
        return self.last
