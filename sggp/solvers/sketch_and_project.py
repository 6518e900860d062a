"""Accelerated sketch-and-project with Nyström block preconditioners (ADASAP)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sggp.errors import InputError, UnsupportedOperator
from sggp.operators.base import RowOperator
from sggp.solvers.base import IterativeSolver, State
from sggp.solvers.problem import Problem
from sggp.solvers.solution import Status
from sggp.typing import ResidualKind

__all__ = ["SketchAndProject"]

_POWER_STEPS = 10
_POWER_MARGIN = 1.1
_GROWTH = 20.0
_MOST_BACKOFFS = 12


@dataclass
class _State(State):
    w: Tensor
    v: Tensor
    z: Tensor
    good: Tensor
    squares: Tensor  # (s,)
    estimate: Tensor  # (s,)
    least: Tensor  # (s,)
    order: Tensor
    place: int = 0
    fresh: bool = False
    diverged: bool = False

    per_column: ClassVar[tuple[str, ...]] = ("w", "v", "z", "good", "squares", "estimate", "least")


@dataclass(frozen=True)
class SketchAndProject(IterativeSolver):
    """Approximate, accelerated projections onto random blocks of equations; no step size to set.

    A block 𝓑 of b rows is drawn, (K + λI)_𝓑𝓑 replaced by a Nyström preconditioner P = USUᵀ + ρI,
    the step found by power iterations, η = 1/λ₁(P⁻¹(K + Σ)_𝓑𝓑), and D = P⁻¹((K + Σ)_𝓑 Z − B_𝓑) drives three
    coupled sequences with Nesterov's acceleration.

    Args:
        block_size: b; None takes n/100, at least 256.
        rank: rank of the block preconditioners; 0 leaves P = ρI.

    Cost:
        b·n + b² entries, 2·b·n·s and about 12·b²·rank flops a step; memory 4·n·s + b².

    Source: Rathore, Frangella, Garg, Fazliani, Dereziński and Udell 2025 (ADASAP), algorithm 1. Departures: 1. the
        spectrum of the sketch is clamped at zero; 2. μ = min(λ/(λ + mean diagonal), 1/ν), so that the acceleration does
        not depend on the units of the target; 3. blocks are cut from a permutation per epoch; 4. the running residual
        ends the solve, confirmed by a product; 5. growth of it halves the step and drops the acceleration.
    """

    block_size: int | None = None
    rank: int = 100

    default_max_epochs: ClassVar[float] = 1000.0

    def __post_init__(self) -> None:
        if self.block_size is not None and self.block_size < 1:
            raise InputError(f"block_size must be at least 1 or None, got {self.block_size}.")
        if self.rank < 0:
            raise InputError(f"rank must not be negative, got {self.rank}.")

    def start(self, problem: Problem) -> _State:
        if not isinstance(problem.operator, RowOperator):
            raise UnsupportedOperator(
                f"SketchAndProject needs rows_matmul and block, which {type(problem.operator).__name__} does not "
                "offer; use ConjugateGradients."
            )
        memory, n = problem.memory, problem.n
        if "constants" not in memory:
            size = min(n, self.block_size if self.block_size is not None else max(256, n // 100))
            memory["constants"] = (size, *_acceleration(problem, size))
            memory["shrink"], memory["backoffs"], memory["caution"] = 1.0, 0, 1.0
        else:
            memory["caution"] *= 2.0
        zero = torch.zeros_like(problem.rhs)
        s = zero.shape[1]
        ones = torch.ones(s, dtype=torch.float64)
        return _State(
            problem=problem,
            w=zero,
            v=zero.clone(),
            z=zero.clone(),
            good=zero.clone(),
            squares=torch.zeros(s, dtype=torch.float64),
            estimate=ones,
            least=ones,
            order=torch.empty(0, dtype=torch.long),
            notes=[],
        )

    def step(self, state: _State) -> None:
        problem, memory = state.problem, state.problem.memory
        size, beta, gamma, a = memory["constants"]
        state.fresh = False
        if state.place >= len(state.order):
            state.order = torch.randperm(problem.n, generator=problem.generator).to(problem.rhs.device)
            state.place = 0
            state.squares = torch.zeros_like(state.squares)
        rows = state.order[state.place : state.place + size]
        state.place += len(rows)
        gap = problem.operator.rows_matmul(rows, state.z) - problem.rhs[rows]
        state.squares += gap.double().square().sum(0).cpu()
        change = memory["shrink"] * self._project(state, rows, gap)
        state.w.copy_(state.z)
        state.w.index_add_(0, rows, change, alpha=-1.0)
        state.v.lerp_(state.z, 1.0 - beta)
        state.v.index_add_(0, rows, change, alpha=-gamma)
        torch.lerp(state.w, state.v, a, out=state.z)
        if state.place >= len(state.order) or not bool(torch.isfinite(state.squares).all()):
            self._close_epoch(state)

    def _project(self, state: _State, rows: Tensor, gap: Tensor) -> Tensor:
        """ηP⁻¹ gap, in float64: the inverse cancels in float32."""
        generator = state.problem.generator
        block = state.problem.operator.block(rows, rows).double()
        size, rank = len(rows), min(self.rank, len(rows) // 2)
        noise = max(float(block.diagonal().min()) * 1e-8, 1e-300)
        if rank:
            sketch = torch.linalg.qr(
                torch.randn(size, rank, generator=generator, dtype=torch.float64).to(block)
            )[0]
            image = block @ sketch
            shift = 1e-14 * float((sketch * image).sum())
            core = sketch.T @ image
            core = 0.5 * (core + core.T)
            core.diagonal().add_(shift)
            lower, info = torch.linalg.cholesky_ex(core)
            if int(info) == 0:
                left, values, _ = torch.linalg.svd(
                    torch.linalg.solve_triangular(lower, image.T, upper=False).T, full_matrices=False
                )
                spectrum = (values.square() - shift).clamp_min(0)
                damping = max(float(spectrum[-1]), noise)
                shrink = spectrum / (spectrum + damping)

                def inverse(v: Tensor) -> Tensor:
                    return (v - left @ (shrink[:, None] * (left.T @ v))) / damping

                return (inverse(gap.double()) / _top(block, inverse, generator)).to(gap)
        return (gap.double() / _top(block, lambda v: v, generator)).to(gap)

    def _close_epoch(self, state: _State) -> None:
        seen = state.squares.sqrt() * math.sqrt(len(state.order) / max(1, state.place))
        if not bool(torch.isfinite(seen).all()) or bool(
            (seen > _GROWTH * state.least.clamp_min(1e-12)).any()
        ):
            memory = state.problem.memory
            memory["backoffs"] += 1
            memory["shrink"] /= 2
            state.notes.append(f"diverged: steps scaled by {memory['shrink']:.3g}.")
            state.diverged = memory["backoffs"] >= _MOST_BACKOFFS
            state.w, state.v, state.z = state.good.clone(), state.good.clone(), state.good.clone()
            state.order, state.place = state.order[:0], 0
            return
        state.fresh = True
        state.estimate = seen
        better = seen < state.least
        if bool(better.any()):
            state.good[:, better] = state.w[:, better]
        state.least = torch.minimum(state.least, seen)

    def iterate(self, state: _State) -> Tensor:
        return state.good if state.diverged else state.w

    def residual(self, state: _State) -> tuple[Tensor, ResidualKind] | None:
        return (state.estimate * state.problem.memory["caution"], "estimated") if state.fresh else None

    def failures(self, state: _State) -> list[Status | None]:
        return [Status.DIVERGED if state.diverged else None] * state.problem.rhs.shape[1]


def _acceleration(problem: Problem, size: int) -> tuple[float, float, float]:
    """β, γ and a of the coupled sequences."""
    nu = problem.n / size
    diagonal = problem.operator.diagonal().double()
    noise = getattr(problem.operator, "noise_variance", None)
    floor = float(diagonal.min()) * 1e-6 if noise is None else max(float(noise.min()), 1e-12)
    mu = min(floor / float(diagonal.mean()), 1.0 / nu)
    gamma = 1.0 / math.sqrt(mu * nu)
    return 1.0 - math.sqrt(mu / nu), gamma, 1.0 / (1.0 + gamma * nu)


def _top(block: Tensor, inverse: Any, generator: torch.Generator) -> float:
    """λ₁(P⁻¹A) by power iterations, with a margin for stopping early."""
    v = torch.randn(len(block), 1, generator=generator, dtype=torch.float64).to(block)
    v = v / v.norm()
    top = 1.0
    for _ in range(_POWER_STEPS):
        v = inverse(block @ v)
        top = float(v.norm())
        v = v / max(top, 1e-300)
    return _POWER_MARGIN * max(top, 1e-300)
