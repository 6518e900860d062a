"""Primal stochastic gradient descent, preconditioned, with low-variance targets and a step found from the operator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from sggp.errors import InputError, UnsupportedOperator
from sggp.operators.base import LeastSquaresOperator, NeighbourOperator
from sggp.preconditioners import LowRankPlusNeighbour, Preconditioner
from sggp.solvers.base import column_norms
from sggp.solvers.epochs import EpochSolver, EpochState
from sggp.solvers.problem import Problem

__all__ = ["Curvature", "StochasticGradientDescent", "curvature"]

_SAFETY, _PLAIN_SAFETY = 0.25, 0.8
_SUBSET = 1024
_POWER_STEPS = 20
_WINDOW = 4
"""Passes over the observations that the plain average spans, and after which an anchor that costs a product moves."""
_PARTS, _MOST_ROWS = 16, 4096
"""Steps of a pass with a preconditioner, which every step applies once, and the most rows of one."""
_RANK, _NEIGHBOURS = 500, 20
"""Of the preconditioner for K + Σ. Without a low-rank part its errors mix large eigenvalues into small ones, and the
noise of the rows with them: the stable step falls tenfold."""
_TRIED = 8
"""Passes with a preconditioner without the residual falling by a tenth after which the step is halved."""
_PROBED = 256
_MEMORY_SHARE = 0.25
_MOST_FACTORED = 4096
"""Centres up to which their normal equation is factored."""
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
    data = _power(lambda u: operator.data_gradient(rows, u, zero, zero)[0], v)
    fits = int(min(_SUBSET, math.sqrt(getattr(operator, "memory_budget", math.inf) / 16)))
    some = torch.randperm(m, generator=generator)[: max(1, fits)].to(operator.device)
    block = operator.cross_block(some, some)
    penalty = _power(lambda u: block @ u, v[some].double()) * m / len(some)
    loud = torch.cat([rows, noise.topk(min(n, _SUBSET // 4), largest=False).indices])
    row = n * float((operator.design_norms(loud) / noise[loud]).max())
    return Curvature(data + penalty, row, float(operator.kernel_diagonal().sum()))


def _power(product: Any, v: Tensor) -> float:
    """The largest eigenvalue of a positive semi-definite product, from below to a few per cent."""
    top = 0.0
    v = v / v.norm().clamp_min(torch.finfo(v.dtype).tiny)
    for _ in range(_POWER_STEPS):
        v = product(v)
        last, top = top, float(v.double().norm())
        if not 0 < top < math.inf:
            break
        v = v / top
        if abs(top - last) < 0.01 * top:
            break
    return top

class _Geometry(Protocol):
    """What a step goes along: an unbiased estimate of M∇, whose gradient at the solution is zero."""

    window: int  # passes over the observations between two anchors, and that the average spans

    def curvature(self, generator: torch.Generator) -> Curvature:
        """What bounds the step."""
        ...

    def direction(
        self, rows: Tensor, look: Tensor, anchor: Tensor, target: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:  # (b,), (m, s), (m, s), (m, s) -> (m, s), (b, s) | None
        """M times the gradient at `look` from the observations `rows`, and the rows of A look − r where it saw them."""
        ...


@dataclass(frozen=True)
class _Plain:
    """M = I: the gradient itself, its penalty estimated from random features."""

    operator: Any
    num_features: int
    window: ClassVar[int] = _WINDOW

    def curvature(self, generator: torch.Generator) -> Curvature:
        return curvature(self.operator, generator)

    def direction(
        self, rows: Tensor, look: Tensor, anchor: Tensor, target: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        gradient, gap = self.operator.data_gradient(rows, look, anchor, target)
        gradient += self.operator.penalty_estimate(look - anchor, self.num_features, generator)
        return gradient, gap


@dataclass(frozen=True)
class _Functions:
    """M = P⁻¹ΣK⁻¹ with P ≈ K + Σ: the gradient among functions K(·, x)d, preconditioned.

    M K_{:,I} is P⁻¹Σ S_I, so the data term has no product with K beside K_I d, and the penalty's P⁻¹Σ(d − δ) is exact.
    """

    operator: Any
    apply: Callable[[Tensor], Tensor]
    window: ClassVar[int] = 1

    def curvature(self, generator: torch.Generator) -> Curvature:
        """From the block (HP⁻¹)_JJ of random rows J and of those with the least noise."""
        operator, n = self.operator, self.operator.shape[0]
        rows = _probed(operator.noise_variance, generator)
        columns = torch.zeros(n, len(rows), dtype=operator.dtype, device=operator.device)
        columns[rows, torch.arange(len(rows), device=rows.device)] = 1
        return _of_block(operator.rows_matmul(rows, self.apply(columns)).double(), n)

    def direction(
        self, rows: Tensor, look: Tensor, anchor: Tensor, target: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        noise = self.operator.noise_variance.to(look)[:, None]
        gradient = noise * (look - anchor)
        misfit = self.operator.rows_matmul(rows, look) - noise[rows] * look[rows] - target[rows]
        gap = misfit + gradient[rows]
        gradient.index_add_(0, rows, misfit, alpha=len(look) / len(rows))
        return self.apply(gradient), gap


@dataclass(frozen=True)
class _Normal:
    """M = Â⁻¹ with Â the normal equation of the observations moved to their centres; the penalty is exact."""

    operator: Any
    factor: Tensor  # (m, m) lower, float64
    window: ClassVar[int] = 1

    def curvature(self, generator: torch.Generator) -> Curvature:
        """From the block (Σ^-½ D Â⁻¹ Dᵀ Σ^-½)_JJ of random observations J; the penalty adds at most 1, as Â ≥ P."""
        noise = self.operator.noise_variance
        rows = _probed(noise, generator)
        design = self.operator.design_rows(rows).double() * noise[rows, None].rsqrt()
        found = _of_block(design @ torch.cholesky_solve(design.T, self.factor), len(noise))
        return replace(found, top=found.top + 1)

    def direction(
        self, rows: Tensor, look: Tensor, anchor: Tensor, target: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        gradient, gap = self.operator.data_gradient(rows, look, anchor, target)
        gradient += self.operator.penalty_product(look - anchor)
        return torch.cholesky_solve(gradient.double(), self.factor).to(look), gap


def _probed(noise: Tensor, generator: torch.Generator) -> Tensor:
    """Random observations, and after them those with the least noise."""
    some = torch.randperm(len(noise), generator=generator)[:_PROBED].to(noise.device)
    return torch.unique(torch.cat([some, noise.topk(min(len(noise), _PROBED // 4), largest=False).indices]))


def _of_block(block: Tensor, n: int) -> Curvature:
    """The curvature of an (n, n) matrix similar to a symmetric one, from a principal block.

    λ₁ is that of the entries off the diagonal, scaled up to n rows, plus the mean diagonal entry: unlike λ₁ of the
    whole block scaled up it is not at least n/|J| for the identity.
    """
    diagonal = block.diagonal()
    off = torch.linalg.eigvals(block - diagonal.diag()).real.max()
    return Curvature(float(diagonal.mean() + off * n / len(block)), n * float(diagonal.max()), 0.0)


@dataclass
class _State(EpochState):
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
    share: float = 1.0  # of the step

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
    preconditioner: Preconditioner | Literal["auto"] | None = "auto"

    default_max_epochs: ClassVar[float] = 1000.0

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must lie in [0, 1), got {self.momentum}.")
        if self.step_size is not None and not self.step_size > 0:
            raise InputError(f"step_size must be positive or None, got {self.step_size}.")
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1 or None, got {self.batch_size}.")
        if self.averaging is not None and not 0 < self.averaging <= 1:
            raise InputError(f"averaging must lie in (0, 1] or be None, got {self.averaging}.")
        if self.num_features < 1:
            raise InputError(f"num_features must be at least 1, got {self.num_features}.")
        if isinstance(self.preconditioner, str) and self.preconditioner != "auto":
            raise InputError(
                f'preconditioner must be None, "auto" or one of sggp.preconditioners, got {self.preconditioner!r}.'
            )
        if self.step_size is not None and isinstance(self.preconditioner, Preconditioner):
            raise InputError("step_size is that of the plain method: leave it out, or take preconditioner=None.")

    @classmethod
    def paper(cls, *, step_size: float = 0.5, iterations: int = 100_000) -> StochasticGradientDescent:
        """The published setting: βn = 0.5 for the mean (0.1 for samples), B = 512, ρ = 0.9, w = 100/T, 100 features."""
        return cls(step_size=step_size, batch_size=512, averaging=min(1.0, 100 / iterations))

    def start(self, problem: Problem) -> _State:
        operator, memory = problem.operator, problem.memory
        if not isinstance(operator, LeastSquaresOperator):
            raise UnsupportedOperator(
                "StochasticGradientDescent needs a LeastSquaresOperator (KernelOperator or InducingOperator), and "
                f"{type(operator).__name__} is none; use ConjugateGradients."
            )
        operator.require_noise()
        notes: list[str] = []
        if self.first_start(problem):
            memory["geometry"] = geometry = self._geometry(problem)
            plain = isinstance(geometry, _Plain)
            # the step in the papers' units, and what makes β of it
            memory["unit"] = _observations(operator) / _noise_scale(operator) if plain else 1.0
            memory["step"], memory["batch"] = self._tune(problem)
            unit = "βn" if plain else "β (1 is Newton's)"
            notes.append(f"step size {unit} = {memory['step']:.3g}, batch size {memory['batch']}.")
            if plain and not operator.draws_features:
                notes.append(
                    "the kernel has no random features: the penalty is estimated from sampled columns."
                )
        zero = torch.zeros_like(problem.rhs)
        s = zero.shape[1]
        share = memory["batch"] / _observations(operator)
        return _State(
            problem=problem,
            u=zero,
            velocity=zero.clone(),
            average=zero.clone(),
            anchor=zero.clone(),
            target=operator.anchored_target(zero, problem.rhs),
            mark=torch.ones(s, dtype=torch.float64),
            idle=torch.zeros(s, dtype=torch.long),
            weight=min(1.0, share / memory["geometry"].window) if self.averaging is None else self.averaging,
            patience=max(_PATIENCE, math.ceil(_PATIENT_STEPS * share)),
            notes=notes,
            **self.epoch_fields(problem),
        )

    def _geometry(self, problem: Problem) -> _Geometry:
        """The metric of the steps: preconditioned where the operator offers what a preconditioner is made of."""
        operator, chosen = problem.operator, self.preconditioner
        plain = _Plain(operator, self.num_features)
        if chosen is None or self.step_size is not None:
            return plain
        budget = _MEMORY_SHARE * getattr(operator, "memory_budget", math.inf)
        m = operator.shape[0]
        if isinstance(chosen, Preconditioner) or isinstance(operator, NeighbourOperator):
            if isinstance(chosen, str):
                rank = min(_RANK, m // 10, int(budget / (16 * m)) if budget < math.inf else _RANK)
                chosen = LowRankPlusNeighbour(max(1, rank), _NEIGHBOURS)
            return _Functions(operator, chosen.build(operator, problem.generator).apply)
        if not hasattr(operator, "gathered") or m > _MOST_FACTORED or 24 * m * m > budget:
            return plain
        return _Normal(operator, _lower(operator.gathered()))

    def _tune(self, problem: Problem) -> tuple[float, int]:
        """The step, in the papers' units where it is plain, and the batch size."""
        operator, rho, memory = problem.operator, self.momentum, problem.memory
        n = _observations(operator)
        if self.step_size is not None:
            return self.step_size, min(self.batch_size or _LARGEST_BATCH, n)
        found = memory["geometry"].curvature(problem.generator)
        full = found.top * (1 + 2 * rho) / (2 * (1 + rho))
        plain = isinstance(memory["geometry"], _Plain)
        if plain:
            # three times the batch whose noise bounds the step as much as the full gradient does
            wanted = 3 * found.row / max(2 * (1 - rho) * full, 1e-300)
            batch = self.batch_size or int(min(_LARGEST_BATCH, max(_LEAST_BATCH, wanted)))
        else:
            batch = self.batch_size or min(_MOST_ROWS, max(n // _PARTS, _LEAST_BATCH))
        batch = min(batch, n)
        # a batch of all observations has no noise; in between, sampling without replacement leaves the share 1 - B/n
        row = found.row / (2 * (1 - rho) * batch) * (1 - batch / n)
        feature = found.trace / (2 * (1 - rho) * self.num_features)
        safety = _PLAIN_SAFETY if plain else _SAFETY
        return safety * memory["unit"] / max(full + row + feature, 1e-300), batch

    def step(self, state: _State) -> None:
        problem, operator, memory = state.problem, state.problem.operator, state.problem.memory
        if state.place >= len(state.order):
            order = torch.randperm(_observations(operator), generator=problem.generator)
            state.order, state.place = order.to(problem.rhs.device), 0
            state.squares = torch.zeros_like(state.squares)
        rows = self.next_rows(state, memory["batch"])
        look = torch.add(state.u, state.velocity, alpha=self.momentum)
        geometry: _Geometry = memory["geometry"]
        direction, gap = geometry.direction(rows, look, state.anchor, state.target, problem.generator)
        state.velocity.mul_(self.momentum).add_(direction, alpha=-state.share * memory["step"] / memory["unit"])
        state.u.add_(state.velocity)
        state.average.lerp_(state.u, state.weight)
        if gap is not None:
            if self.visit(state, gap):
                self._follow(state, None, epochs=1)
        elif state.place >= len(state.order):
            state.seen += 1
            if state.seen % geometry.window == 0 or not bool(torch.isfinite(state.average).all()):
                target = operator.anchored_target(state.average, problem.rhs)
                state.squares = column_norms(target).square()
                self._follow(state, target, epochs=geometry.window)

    def _follow(self, state: _State, target: Tensor | None, epochs: int) -> None:
        """Know the residual and let the anchor follow the average, or back off."""
        operator = state.problem.operator
        if not self.close_epoch(state, state.average):
            self.back_off(
                state, "step", "diverged: step size halved to βn = {:.3g}.", ("u", "average", "anchor")
            )
            state.velocity = torch.zeros_like(state.u)
            state.target = operator.anchored_target(state.anchor, state.problem.rhs)
            return
        state.anchor = state.average.clone()
        state.target = operator.anchored_target(state.anchor, state.problem.rhs) if target is None else target
        fell = state.least < 0.9 * state.mark
        state.mark = torch.where(fell, state.least, state.mark)
        state.idle = torch.where(fell, 0, state.idle + epochs)
        plain = isinstance(state.problem.memory["geometry"], _Plain)
        if not plain and bool((state.idle > 0).any()) and int(state.idle.max()) % _TRIED == 0:
            state.share /= 2
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


def _lower(matrix: Tensor) -> Tensor:  # (m, m) -> (m, m)
    """The Cholesky factor in float64, with as little added to the diagonal as it takes."""
    scale, jitter = float(matrix.diagonal().max()), 1e-14
    while True:
        lower, info = torch.linalg.cholesky_ex(matrix)
        if int(info) == 0 or not jitter < 1:
            return lower
        matrix.diagonal().add_(jitter * scale)
        jitter *= 10


def _observations(operator: Any) -> int:
    return len(operator.noise_variance)


def _noise_scale(operator: Any) -> float:
    """The harmonic mean of the noise variances."""
    return 1.0 / float(operator.noise_variance.reciprocal().mean())
