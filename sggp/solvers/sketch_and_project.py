"""Accelerated sketch-and-project with Nyström block preconditioners (ADASAP)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sggp.checks import whole_number
from sggp.errors import InputError
from sggp.solvers.core.power import largest_eigenvalue
from sggp.solvers.core.problem import Problem, require_rows
from sggp.solvers.epochs import EpochSolver, EpochState

__all__ = ["SketchAndProject"]

_POWER_STEPS = 10
_POWER_MARGIN = 1.1


@dataclass(frozen=True)
class _Setup:
    """Rows of a block, and the constants of the acceleration."""

    block: int
    beta: float
    gamma: float
    a: float


@dataclass
class _State(EpochState):
    setup: _Setup
    w: Tensor
    v: Tensor
    z: Tensor
    average: Tensor | None  # weighted to the newest iterates; None without tail averaging
    steps: int = 0  # since the average was begun

    per_column: ClassVar[tuple[str, ...]] = (*EpochState.per_column, "w", "v", "z")


@dataclass(frozen=True)
class SketchAndProject(EpochSolver):
    """Approximate, accelerated projections onto random blocks of equations; no step size to set.

    A block 𝓑 of b rows is drawn, (K + λI)_𝓑𝓑 replaced by a Nyström preconditioner P = USUᵀ + ρI,
    the step found by power iterations, η = 1/λ₁(P⁻¹(K + Σ)_𝓑𝓑), and D = P⁻¹((K + Σ)_𝓑 Z − B_𝓑) drives three
    coupled sequences with Nesterov's acceleration.

    Args:
        block_size: b; None takes n/100, at least 256.
        rank: rank of the block preconditioners; 0 leaves P = ρI.
        tail_averaging: return a weighted mean of the iterates in place of the last, which smooths what sampling adds
            but lags behind: a share p in (0, 1] for a mean as old as that of the newest p·t of t iterates, True
            for p = 1/2. Worth trying where the residual levels off above the tolerance.

    Cost:
        b·n + b² entries, 2·b·n·s and about 12·b²·rank flops a step; memory 4·n·s + b², with averaging 5·n·s + b².

    Source: Rathore, Frangella, Garg, Fazliani, Dereziński and Udell 2025 (ADASAP), algorithm 1. Departures: 1. the
        spectrum of the sketch is clamped at zero; 2. μ = min(λ/(λ + mean diagonal), 1/ν), so that the acceleration does
        not depend on the units of the target; 3. blocks are cut from a permutation per epoch; 4. the running residual
        ends the solve, checked by a product; 5. growth of it halves the step and drops the acceleration; 6. the tail
        average has polynomially growing weights t^η, η = 2/p − 2 (Shamir and Zhang 2013, section 4), since the
        number of steps is not known in advance.
    """

    block_size: int | None = None
    rank: int = 100
    tail_averaging: bool | float = False

    def __post_init__(self) -> None:
        if self.block_size is not None:
            whole_number(self.block_size, "block_size")
        whole_number(self.rank, "rank", least=0)
        if not 0 <= self.tail_averaging <= 1:
            raise InputError(
                f"tail_averaging must be a bool or a share in (0, 1], got {self.tail_averaging}."
            )

    def setup(self, operator: Any, columns: int, generator: torch.Generator) -> _Setup:
        require_rows(operator, self)
        n = operator.shape[0]
        size = min(n, self.block_size if self.block_size is not None else max(256, n // 100))
        return _Setup(size, *_acceleration(operator, size))

    def start(self, problem: Problem, setup: _Setup) -> _State:
        zero = torch.zeros_like(problem.rhs)
        return _State(
            problem=problem,
            setup=setup,
            w=zero,
            v=zero.clone(),
            z=zero.clone(),
            average=zero.clone() if self.tail_averaging else None,
            **self.epoch_fields(problem, 1.0),
        )

    def step(self, state: _State) -> None:
        problem, setup = state.problem, state.setup
        rows = self.next_rows(state, setup.block)
        residual = problem.operator.rows_matmul(rows, state.z) - problem.rhs[rows]
        change = state.size * self._project(state, rows, residual)
        state.w.copy_(state.z)
        state.w.index_add_(0, rows, change, alpha=-1.0)
        state.v.lerp_(state.z, 1.0 - setup.beta)
        state.v.index_add_(0, rows, change, alpha=-setup.gamma)
        torch.lerp(state.w, state.v, setup.a, out=state.z)
        if state.average is not None:
            state.steps += 1
            power = 2.0 / (0.5 if self.tail_averaging is True else self.tail_averaging) - 2.0
            state.average.lerp_(state.w, (power + 1) / (state.steps + power))
        if self.visit(state, residual) and not self.close_epoch(state, self._newest(state)):
            self.back_off(state, "diverged: steps scaled by {:.3g}.", ("w", "v", "z"))
            if state.average is not None:
                state.average, state.steps = state.good.clone(), 0

    @staticmethod
    def _newest(state: _State) -> Tensor:
        return state.w if state.average is None else state.average

    def keep(self, state: _State, columns: Tensor) -> None:
        super().keep(state, columns)
        if state.average is not None:
            state.average = state.average[:, columns.to(state.average.device)]

    def _project(self, state: _State, rows: Tensor, residual: Tensor) -> Tensor:
        """ηP⁻¹ times the residual, in float64: the inverse cancels in float32."""
        generator = state.problem.generator
        block = state.problem.operator.block(rows, rows).double()
        inverse = _nystrom_inverse(block, min(self.rank, len(rows) // 2), generator)
        v = torch.randn(len(rows), 1, generator=generator, dtype=torch.float64).to(block)
        top = largest_eigenvalue(lambda u: inverse(block @ u), v, _POWER_STEPS)
        return (inverse(residual.double()) / (_POWER_MARGIN * max(top, 1e-300))).to(residual)

    def iterate(self, state: _State) -> Tensor:
        return self.better_of(state, self._newest(state))


def _acceleration(operator: Any, size: int) -> tuple[float, float, float]:
    """β, γ and a of the coupled sequences."""
    nu = operator.shape[0] / size
    diagonal = operator.diagonal().double()
    noise = getattr(operator, "noise_variance", None)
    floor = float(diagonal.min()) * 1e-6 if noise is None else max(float(noise.min()), 1e-12)
    mu = min(floor / float(diagonal.mean()), 1.0 / nu)
    mu = mu if mu > 0 else 1.0 / nu
    gamma = 1.0 / math.sqrt(mu * nu)
    return 1.0 - math.sqrt(mu / nu), gamma, 1.0 / (1.0 + gamma * nu)


def _nystrom_inverse(
    block: Tensor, rank: int, generator: torch.Generator
) -> Callable[[Tensor], Tensor]:  # (b, b)
    """v → P⁻¹v for P = USUᵀ + ρI; v itself with rank 0, or where the sketch has no factor."""
    if not rank:
        return lambda v: v
    draw = torch.randn(len(block), rank, generator=generator, dtype=torch.float64)
    sketch = torch.linalg.qr(draw.to(block))[0]
    image = block @ sketch
    shift = 1e-14 * float((sketch * image).sum())
    core = sketch.T @ image
    core = 0.5 * (core + core.T)
    core.diagonal().add_(shift)
    lower, info = torch.linalg.cholesky_ex(core)
    if int(info) or not bool(torch.isfinite(lower).all()):
        return lambda v: v
    half = torch.linalg.solve_triangular(lower, image.T, upper=False).T
    left, values, _ = torch.linalg.svd(half, full_matrices=False)
    spectrum = (values.square() - shift).clamp_min(0)
    damping = max(float(spectrum[-1]), float(block.diagonal().min()) * 1e-8, 1e-300)
    shrink = (spectrum / (spectrum + damping))[:, None]
    return lambda v: (v - left @ (shrink * (left.T @ v))) / damping
