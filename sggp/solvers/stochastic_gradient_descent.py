"""Primal stochastic gradient descent with low-variance targets and a step size found from the operator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sggp.errors import InputError, UnsupportedOperator
from sggp.operators.base import LeastSquaresOperator
from sggp.solvers.core.base import column_norms
from sggp.solvers.core.power import largest_eigenvalue
from sggp.solvers.core.problem import Problem
from sggp.solvers.core.stagnation import count_idle
from sggp.solvers.epochs import EpochSolver, EpochState, check_descent

__all__ = ["Curvature", "StochasticGradientDescent", "curvature"]

_SAFETY = 0.8
_SUBSET = 1024
_POWER_STEPS = 20
_WINDOW = 4
"""Epochs that the average spans, and after which an anchor that costs a product is moved."""
_LEAST_BATCH, _LARGEST_BATCH = 64, 512
_PATIENCE, _PATIENT_STEPS = 40, 500
"""Epochs, and steps, without the running residual falling by a tenth after which a column is measured again."""


@dataclass(frozen=True)
class Curvature:
    """What bounds the step of the objective ½(y − Du)ᵀΣ⁻¹(y − Du) + ½uᵀPu over n observations.

    Attributes:
        top: λ₁(DᵀΣ⁻¹D) + λ₁(P).
        row: n·max_i ‖D_i‖²/σ_i²: the largest eigenvalue of the estimate from one observation.
        trace: tr P, the expected eigenvalue of the penalty estimated from one feature.
    """

    top: float
    row: float
    trace: float


def curvature(operator: Any, generator: torch.Generator) -> Curvature:
    """The curvature from at most 1,024 random observations and as many rows of the penalty.

    λ₁ of a random part, scaled up, is biased upward, so the step errs on the safe side. The observations with the least
    noise, whose single terms are the largest, are always among those whose row norms are taken.

    Cost: at most 20·1,024·m entries, once a solve.
    """
    noise = operator.noise_variance
    n, m = len(noise), operator.shape[0]
    rows = torch.randperm(n, generator=generator)[:_SUBSET].to(noise.device)
    start = torch.randn(m, 1, generator=generator, dtype=torch.float64)
    v = start.to(device=operator.device, dtype=operator.dtype) / start.norm().to(operator.device)
    zero = torch.zeros_like(v)
    data = largest_eigenvalue(lambda u: operator.data_gradient(rows, u, zero, zero)[0], v, _POWER_STEPS, 0.01)
    fits = int(min(_SUBSET, math.sqrt(getattr(operator, "memory_budget", math.inf) / 16)))
    some = torch.randperm(m, generator=generator)[: max(1, fits)].to(operator.device)
    block = operator.cross_block(some, some)
    penalty = largest_eigenvalue(block.matmul, v[some].double(), _POWER_STEPS, 0.01) * m / len(some)
    loud = torch.cat([rows, noise.topk(min(n, _SUBSET // 4), largest=False).indices])
    row = n * float((operator.design_norms(loud) / noise[loud]).max())
    return Curvature(data + penalty, row, float(operator.kernel_diagonal().sum()))


@dataclass(frozen=True)
class _Setup:
    """The step in the papers' units, what makes β of it, and the observations of a step."""

    step: float
    unit: float
    batch: int


@dataclass
class _State(EpochState):
    setup: _Setup
    u: Tensor
    velocity: Tensor
    average: Tensor
    anchor: Tensor
    target: Tensor  # what the data gradient needs of the anchor
    mark: Tensor  # (s,) least residual when it last fell by a tenth
    idle: Tensor  # (s,) epochs since then
    weight: float
    patience: int  # epochs
    seen: int = 0  # epochs

    per_column: ClassVar[tuple[str, ...]] = (
        *EpochState.per_column,
        "u",
        "velocity",
        "average",
        "anchor",
        "target",
        "mark",
        "idle",
    )


@dataclass(frozen=True)
class StochasticGradientDescent(EpochSolver):
    """Nesterov steps on mini-batch gradients of the primal objective, with geometric averaging.

    For K + Σ the objective is ½(r − Kd)ᵀΣ⁻¹(r − Kd) + ½dᵀKd, and one step draws a batch I of B observations and fresh
    random features Φ with E ΦΦᵀ = K:
    g = (n/B) K_{I,:}ᵀΣ_I⁻¹(K_I d + Σ_I δ_I − r_I) + ΦΦᵀ(d − δ), v ← ρv − βg, d ← d + v, d̄ ← d̄ + w(d − d̄).
    For an `InducingOperator` it is the same with K_XZ and K_ZZ: stochastic gradient descent with inducing points.

    No step size is needed: with step_size=None, β = 0.8/(λ₁/c + 1/β_row + 1/β_feature) with c = 2(1+ρ)/(1+2ρ),
    β_row = 2(1−ρ)·B/(n·max_i ‖K_i‖²/σ_i²) and β_feature = 2(1−ρ)·p/tr K, where λ₁ is that of the objective's Hessian
    KΣ⁻¹K + K, bounded from random rows. Divergence is detected from the running residual; the step is then halved and
    the iteration goes on from the last good average, and `Solution.notes` says so.

    The Hessian is about the square of K/σ, so the directions of small eigenvalues hardly move: predictions become good
    long before the residual is small, and residuals below a per cent are reached only for well-conditioned systems. A
    column whose residual stops falling ends as `stagnated`, and the notes say why. `StochasticDualDescent` and
    `ConjugateGradients` do not have this limit.

    Args:
        step_size: βn in the papers' units, in which the objective is multiplied by the noise variance (by the harmonic
            mean where it differs between observations); None finds it.
        batch_size: observations B of a step; None takes three times the batch at which β_row is the first bound, within
            [64, 512], or all there are; 512 with a step_size.
        momentum: ρ in [0, 1).
        averaging: weight w of the newest iterate in the geometric average; None spans four epochs.
        num_features: random features of a step's penalty; columns of K where the kernel has no features.

    Raises:
        InputError: a setting is out of range, or an observation has no noise.
        UnsupportedOperator: the operator does not offer `LeastSquaresOperator`.

    Cost:
        For K + Σ, B·n entries, 4·B·n·s flops and n·p features a step; memory 7·n·s + n·p. With m inducing points, B·m
        entries a step, and one product, m·(n + m) entries, every fourth pass over the observations.

    Source: Lin et al. 2023 (SGD), sections 3.1 (low-variance targets) and 3.2 (inducing points). Departures:
        1. The step is found, not given, and divergence is backed off instead of clipped. 2. The low-variance target,
        δ = Σ⁻¹ε for r = t + ε, is generalised: δ is the running average, refreshed once an epoch. Every δ gives the
        same expected gradient, and at δ = d = d* both terms vanish for every batch and every Φ, so the noise is
        multiplicative and a constant step converges to the solution itself, for any right-hand side. 3. With inducing
        points δ enters the data term as well, as in stochastic variance-reduced gradient descent (Johnson and Zhang
        2013). 4. Observations are drawn without replacement from a permutation per epoch. 5. A running residual ends
        the solve, confirmed by a product.
    """

    step_size: float | None = None
    batch_size: int | None = None
    momentum: float = 0.9
    averaging: float | None = None
    num_features: int = 100

    default_max_epochs: ClassVar[float] = 1000.0

    def __post_init__(self) -> None:
        check_descent(self)
        if self.num_features < 1:
            raise InputError(f"num_features must be at least 1, got {self.num_features}.")

    @classmethod
    def paper(cls, *, step_size: float = 0.5, iterations: int = 100_000) -> StochasticGradientDescent:
        """The published setting: βn = 0.5 for the mean (0.1 for samples), B = 512, ρ = 0.9, w = 100/T, 100 features."""
        return cls(step_size=step_size, batch_size=512, averaging=min(1.0, 100 / iterations))

    def setup(self, operator: Any, columns: int, generator: torch.Generator) -> _Setup:
        if not isinstance(operator, LeastSquaresOperator):
            raise UnsupportedOperator(
                "StochasticGradientDescent needs a LeastSquaresOperator (KernelOperator or InducingOperator), and "
                f"{type(operator).__name__} is none; use ConjugateGradients."
            )
        operator.require_noise()
        unit = _observations(operator) / _noise_scale(operator)
        step, batch = self._tune(operator, unit, generator)
        return _Setup(step, unit, batch)

    def start(self, problem: Problem, setup: _Setup) -> _State:
        operator = problem.operator
        notes = [f"step size βn = {setup.step:.3g}, batch size {setup.batch}."]
        if not operator.draws_features:
            notes.append("the kernel has no random features: the penalty is estimated from sampled columns.")
        zero = torch.zeros_like(problem.rhs)
        s = zero.shape[1]
        share = setup.batch / _observations(operator)
        return _State(
            problem=problem,
            setup=setup,
            u=zero,
            velocity=zero.clone(),
            average=zero.clone(),
            anchor=zero.clone(),
            target=operator.anchored_target(zero, problem.rhs),
            mark=torch.ones(s, dtype=torch.float64),
            idle=torch.zeros(s, dtype=torch.long),
            weight=min(1.0, share / _WINDOW) if self.averaging is None else self.averaging,
            patience=max(_PATIENCE, math.ceil(_PATIENT_STEPS * share)),
            notes=notes,
            **self.epoch_fields(problem, setup.step),
        )

    def _tune(self, operator: Any, unit: float, generator: torch.Generator) -> tuple[float, int]:
        """βn in the papers' units, and the batch size."""
        rho, n = self.momentum, _observations(operator)
        if self.step_size is not None:
            return self.step_size, min(self.batch_size or _LARGEST_BATCH, n)
        found = curvature(operator, generator)
        full = found.top * (1 + 2 * rho) / (2 * (1 + rho))
        # three times the batch whose noise bounds the step as much as the full gradient does
        wanted = 3 * found.row / max(2 * (1 - rho) * full, 1e-300)
        batch = self.batch_size or int(min(_LARGEST_BATCH, max(_LEAST_BATCH, wanted)))
        batch = min(batch, n)
        # a batch of all observations has no noise; in between, sampling without replacement leaves the share 1 - B/n
        row = found.row / (2 * (1 - rho) * batch) * (1 - batch / n)
        feature = found.trace / (2 * (1 - rho) * self.num_features)
        return _SAFETY * unit / max(full + row + feature, 1e-300), batch

    def step(self, state: _State) -> None:
        problem, operator = state.problem, state.problem.operator
        if state.place >= len(state.order):
            order = torch.randperm(_observations(operator), generator=problem.generator)
            state.order, state.place = order.to(problem.rhs.device), 0
            state.squares = torch.zeros_like(state.squares)
        rows = self.next_rows(state, state.setup.batch)
        look = torch.add(state.u, state.velocity, alpha=self.momentum)
        gradient, gap = operator.data_gradient(rows, look, state.anchor, state.target)
        gradient += operator.penalty_estimate(look - state.anchor, self.num_features, problem.generator)
        state.velocity.mul_(self.momentum).add_(gradient, alpha=-state.size / state.setup.unit)
        state.u.add_(state.velocity)
        state.average.lerp_(state.u, state.weight)
        if gap is not None:
            if self.visit(state, gap):
                self._follow(state, None, epochs=1)
        elif state.place >= len(state.order):
            state.seen += 1
            if state.seen % _WINDOW == 0 or not bool(torch.isfinite(state.average).all()):
                target = operator.anchored_target(state.average, problem.rhs)
                state.squares = column_norms(target).square()
                self._follow(state, target, epochs=_WINDOW)

    def _follow(self, state: _State, target: Tensor | None, epochs: int) -> None:
        """Know the residual and let the anchor follow the average, or back off."""
        operator = state.problem.operator
        if not self.close_epoch(state, state.average):
            self.back_off(state, "diverged: step size halved to βn = {:.3g}.", ("u", "average", "anchor"))
            state.velocity = torch.zeros_like(state.u)
            state.target = operator.anchored_target(state.anchor, state.problem.rhs)
            return
        state.anchor = state.average.clone()
        state.target = operator.anchored_target(state.anchor, state.problem.rhs) if target is None else target
        count_idle(state, epochs)
        if bool((state.idle >= state.patience).any()):
            note = (
                f"the residual fell by less than a tenth in {state.patience} epochs: small eigenvalues are out of "
                "reach of the primal gradient; StochasticDualDescent or ConjugateGradients go further."
            )
            state.notes.extend([note] if note not in state.notes else [])

    def iterate(self, state: _State) -> Tensor:
        return self.better_of(state, state.average)

    def stalled(self, state: _State) -> Tensor:
        return state.idle >= state.patience


def _observations(operator: Any) -> int:
    return len(operator.noise_variance)


def _noise_scale(operator: Any) -> float:
    """The harmonic mean of the noise variances."""
    return 1.0 / float(operator.noise_variance.reciprocal().mean())
