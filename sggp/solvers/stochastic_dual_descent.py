"""Stochastic dual descent with a step size found from the operator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sggp.solvers.core.power import largest_eigenvalue
from sggp.solvers.core.problem import Problem, require_rows
from sggp.solvers.epochs import EpochSolver, EpochState, check_descent

__all__ = ["StochasticDualDescent", "stable_step"]

_SAFETY = 0.75
_SUBSET = 2048
_POWER_STEPS = 30
_WINDOW = 4.0
"""Epochs that the average spans in the end."""
_NEWEST = 9.0
"""Before that the average of k iterates spans the last k/9 or so: iterate j has a weight of about j⁸."""


@dataclass(frozen=True)
class _Setup:
    """The step βn in the papers' units, and the rows of a step."""

    step: float
    batch: int


@dataclass
class _State(EpochState):
    batch: int
    alpha: Tensor
    velocity: Tensor
    average: Tensor
    weight: float
    count: int = 0  # iterates in the average

    per_column: ClassVar[tuple[str, ...]] = (*EpochState.per_column, "alpha", "velocity", "average")


def stable_step(operator: Any, generator: torch.Generator) -> tuple[float, float]:
    """What bounds the step: (λ₁(H)/n, largest diagonal entry of H), from at most 2,048 rows.

    λ₁/n of a random principal block is biased upward for H/n, so the bound errs on the safe side. There are fewer rows
    where the float64 block would exceed the operator's `memory_budget`.
    """
    n = operator.shape[0]
    fitting = math.isqrt(int(min(8 * _SUBSET**2, getattr(operator, "memory_budget", math.inf)) // 8))
    rows = torch.randperm(n, generator=generator)[: max(1, fitting)].to(operator.device)
    block = operator.block(rows, rows).double()
    top = largest_eigenvalue(block.matmul, torch.ones_like(block[:, :1]), _POWER_STEPS)
    return top / len(rows), float(operator.diagonal().max())


@dataclass(frozen=True)
class StochasticDualDescent(EpochSolver):
    """Stochastic dual descent: Nesterov steps on random coordinates of ½αᵀ(K+Σ)α − αᵀb, with geometric averaging.

    One step draws a batch I of B rows and moves only those coordinates:
    g = (n/B) S_Iᵀ(H_I(α + ρv) − b_I), v ← ρv − βg, α ← α + v, ᾱ ← ᾱ + r(α − ᾱ).

    No step size is needed: with step_size=None, βn = 0.75·min(2(1+ρ)/(1+2ρ)·n/λ₁(H), 2(1−ρ)·B/max diag H), where λ₁ is
    bounded from a random principal block. Divergence is detected from the running residual; the step is then halved and
    the iteration goes on from the last good average, and `Solution.notes` says so.

    Args:
        step_size: βn, the step in the papers' units; None finds it.
        batch_size: rows B of a step; None takes three times the smallest batch at which the first bound rules, within
            [64, 1024].
        momentum: ρ in [0, 1).
        averaging: weight r of the newest iterate in the geometric average; 1 is the last iterate. None spans four
            epochs, and before there are 36 of them the last ninth of all iterates, r = 9/(k + 8) at the k-th, so that a
            solve of less than an epoch does not average over its start from zero.

    Cost:
        B·n entries and 2·B·n·s flops a step; memory some 40·n·s bytes in float32, of which 8 are in float64.

    Source: Lin et al. 2024 (SDD), algorithm 1. Departures: 1. the step is found, not given; 2. rows are drawn without
        replacement from a permutation per epoch; 3. the running residual over the last epoch ends the solve, checked by
        a full product; 4. divergence is backed off; 5. the average grows with the iterates.
    """

    step_size: float | None = None
    batch_size: int | None = None
    momentum: float = 0.9
    averaging: float | None = None

    default_max_epochs: ClassVar[float] = 2000.0

    def __post_init__(self) -> None:
        check_descent(self)

    @classmethod
    def paper(cls, *, step_size: float = 50.0) -> StochasticDualDescent:
        """The published setting: βn = 50 for the mean (10 for samples), B = 512, ρ = 0.9, r = 1e-3."""
        return cls(step_size=step_size, batch_size=512, momentum=0.9, averaging=1e-3)

    def setup(self, operator: Any, columns: int, generator: torch.Generator) -> _Setup:
        require_rows(operator, self)
        n, rho = operator.shape[0], self.momentum
        top, largest = stable_step(operator, generator)
        ruling = (1 + rho) / ((1 + 2 * rho) * (1 - rho)) * largest / max(top, 1e-300)
        batch = self.batch_size
        if batch is None:
            batch = int(min(1024, max(64, 3 * ruling)))
        batch = min(batch, n)
        if self.step_size is not None:
            return _Setup(self.step_size, batch)
        full = 2 * (1 + rho) / (1 + 2 * rho) / max(top, 1e-300)
        single = 2 * (1 - rho) * batch / max(largest, 1e-300)
        return _Setup(_SAFETY * min(full, single), batch)

    def start(self, problem: Problem, setup: _Setup) -> _State:
        zero = torch.zeros_like(problem.rhs)
        share = setup.batch / (_WINDOW * problem.n)
        return _State(
            problem=problem,
            batch=setup.batch,
            alpha=zero,
            velocity=zero.clone(),
            average=zero.clone(),
            weight=min(1.0, share) if self.averaging is None else self.averaging,
            notes=[f"step size βn = {setup.step:.3g}, batch size {setup.batch}."],
            **self.epoch_fields(problem, setup.step),
        )

    def step(self, state: _State) -> None:
        problem = state.problem
        rows = self.next_rows(state, state.batch)
        look = torch.add(state.alpha, state.velocity, alpha=self.momentum)
        residual = problem.operator.rows_matmul(rows, look) - problem.rhs[rows]
        state.velocity.mul_(self.momentum)
        # β·g with g = (n/B) S_I(Hα − b)_I, and βn the step in the papers' units
        state.velocity.index_add_(0, rows, residual, alpha=-state.size / len(rows))
        state.alpha.add_(state.velocity)
        young = 0.0 if self.averaging is not None else _NEWEST / (state.count + _NEWEST)
        state.average.lerp_(state.alpha, max(state.weight, young))
        state.count += 1
        if self.visit(state, residual) and not self.close_epoch(state, state.average):
            note = "diverged: step size halved to βn = {:.3g}."
            self.back_off(state, note, ("alpha", "average"))
            state.velocity, state.count = torch.zeros_like(state.alpha), 0

    def iterate(self, state: _State) -> Tensor:
        return self.better_of(state, state.average)
