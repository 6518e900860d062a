"""Solves of a slowly changing system: each from the last solution, with the last preconditioner while it is close."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sggp.defaults import DIRECT_ROWS
from sggp.hyperparameters.merged import mean_and_weights, right_sides
from sggp.operators import KernelOperator
from sggp.solvers import Auto, Cholesky, ConjugateGradients, Prepared, Solution, Solver

__all__ = ["WarmSolves", "Weights", "solve_tolerances"]

_MOVED = 0.2
"""A preconditioner is built anew once a coordinate (a logarithm, where positive) has moved by more than this."""
_LOOSEST, _TIGHTEST = 1e-2, 1e-6
_NOISE_SHARE = 0.1
_MEAN_SHARE = 0.1


def solve_tolerances(noise: Tensor, diagonal: Tensor) -> tuple[float, float]:
    """Relative residuals for targets and for probes: 0.1·√(noise/diag H) for probes, within 1e-6 and 1e-2.

    The residual of a probe is then small beside its noise, so that it moves the quadratic forms of the gradient by
    less than the choice of probes does. Targets, of which there is only one draw, are solved ten times tighter.
    """
    ratio = float(noise.mean() / diagonal.mean())
    probes = min(_LOOSEST, max(_TIGHTEST, _NOISE_SHARE * ratio**0.5))
    return max(_TIGHTEST, _MEAN_SHARE * probes), probes


@dataclass(frozen=True)
class Weights:
    """What one solve gives.

    Attributes:
        mean: (t,) the constant mean. targets: (g, t) H⁻¹(y − m). probes: (g, s) H⁻¹z_j.
        solution: the solve; its columns are [1,] y, z.
    """

    mean: Tensor
    targets: Tensor
    probes: Tensor
    solution: Solution

    @property
    def residuals(self) -> tuple[float, float, float]:
        """Relative residuals: worst target, mean and worst probe."""
        found = torch.nan_to_num(self.solution.residual, nan=float("inf"))
        own, probes = found.tensor_split([len(found) - self.probes.shape[1]])
        return float(own.max()), float(probes.mean()), float(probes.max())


class WarmSolves:
    """Solves of (K + Σ)A = B for kernel and noise that move from call to call.

    Args:
        solver: any solver; None and `Auto` take `Cholesky` up to 3,000 rows and conjugate gradients beyond. The
            preconditioner of conjugate gradients is built anew only where a coordinate has moved by more than 0.2.
        rows: (g, d) inputs. columns: of B, to size the preconditioner for.
        dtype, memory_budget: of the operator.
        max_epochs: budget of each solve; None for the solver's own cap.

    Attributes:
        asked: the solver as it was given. solver: the one that is used.
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
        self.start: Tensor | None = None
        self.epochs = 0.0
        self.columns, self.asked, self.builds = columns, solver, 0
        if solver is None or isinstance(solver, Auto):
            direct = DIRECT_ROWS if solver is None else solver.direct_rows
            solver = Cholesky() if len(rows) <= direct else ConjugateGradients()
        self.solver = solver
        self.prepared: Prepared | None = None
        self.at = torch.zeros(0, dtype=torch.float64)

    def _set_up(self, operator: KernelOperator, coordinates: Tensor) -> Prepared:
        """The solver made ready for the operator, with the last preconditioner while that is close."""
        place = coordinates.detach().clone()
        kept = self.prepared if isinstance(self.solver, ConjugateGradients) else None
        if kept is not None and not bool(((place - self.at).abs() > _MOVED).any()):
            return kept.moved_to(operator)
        self.at, self.builds = place, self.builds + 1
        return self.solver.prepare(operator, columns=self.columns)

    def operator(self, kernel: Any, noise: Tensor) -> KernelOperator:
        """K + Σ under the kernel's present values."""
        return KernelOperator(kernel, self.rows, noise, dtype=self.dtype, memory_budget=self.memory_budget)

    def solve(
        self,
        operator: KernelOperator,
        targets: Tensor,
        probes: Tensor,
        mean: Tensor | None,
        coordinates: Tensor,
        tolerance: float | tuple[float, float] | None = None,
    ) -> Weights:
        """One more solve, from the last solution where it has as many columns.

        Args:
            operator: K + Σ. targets: (g, t) y. probes: (g, s) z. mean: the known (t,), or None for the best.
            coordinates: (p,) where the hyperparameters are; decides about the preconditioner.
            tolerance: relative residual of targets and of probes; None takes `solve_tolerances`.
        """
        if tolerance is None:
            tolerance = solve_tolerances(operator.noise_variance, operator.diagonal().double())
        first, second = tolerance if isinstance(tolerance, tuple) else (tolerance, tolerance)
        left = right_sides(targets, mean)
        own, rhs = left.shape[1], torch.cat([left, probes], dim=1)
        self.prepared = self._set_up(operator, coordinates)
        solution = self.prepared.solve(
            rhs,
            self.start if self.start is not None and self.start.shape == rhs.shape else None,
            tolerance=torch.tensor([first] * own + [second] * probes.shape[1], dtype=torch.float64),
            max_epochs=self.max_epochs,
            generator=self.generator,
            on_failure="return",
        )
        x = solution.x.double()
        self.start = torch.nan_to_num(x, posinf=0.0, neginf=0.0)
        self.epochs += solution.epochs
        x = torch.nan_to_num(x)
        return Weights(*mean_and_weights(x[:, :own], mean), x[:, own:], solution)
