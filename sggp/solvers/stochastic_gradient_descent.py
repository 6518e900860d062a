"""Primal stochastic gradient descent, preconditioned, with low-variance targets and a step found from the operator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sggp.errors import InputError, UnsupportedOperator
from sggp.operators.base import LeastSquaresOperator
from sggp.preconditioners import Preconditioner
from sggp.solvers.core.base import column_norms
from sggp.solvers.core.problem import Problem
from sggp.solvers.core.stagnation import count_idle
from sggp.solvers.descent_directions import Curvature, Direction, Normal, Plain, curvature, direction_for
from sggp.solvers.epochs import EpochSolver, EpochState, check_descent

__all__ = ["Curvature", "StochasticGradientDescent", "curvature"]

_LEAST_BATCH, _LARGEST_BATCH = 64, 512
_PARTS, _MOST_ROWS = 16, 4096
"""Steps of a pass with a preconditioner, which every step applies once, and the most rows of one."""
_TRIED, _TRIED_STEPS, _TRIES = 8, 128, 8
"""Passes, and steps, without the residual falling by a tenth after which a preconditioned step is halved, each time
twice as many as before; after `_TRIES` times as many as at first a column is measured again."""
_GROWTH = 20.0
"""A residual this many times the least one so far is divergence."""
_PATIENCE, _PATIENT_STEPS = 40, 500
"""Passes, and steps, without the residual falling by a tenth after which a plain column is measured again."""


@dataclass(frozen=True)
class _Setup:
    """Where steps go, their size in the papers' units, what makes β of it, and the observations of a step."""

    direction: Direction
    step: float
    unit: float
    batch: int

    @property
    def plain(self) -> bool:
        return isinstance(self.direction, Plain)


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
    energy: Tensor  # (s,) least rᵀMr of a preconditioned normal equation
    weight: float
    patience: int  # epochs
    tried: int  # epochs without a fall until a preconditioned step is halved
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
        "energy",
    )


@dataclass(frozen=True)
class StochasticGradientDescent(EpochSolver):
    """Preconditioned Nesterov steps on mini-batch gradients of the primal objective, with geometric averaging.

    For K + Σ the objective is ½(r − Kd)ᵀΣ⁻¹(r − Kd) + ½dᵀKd. One step draws a batch I of B observations:
    g = (n/B) K_{I,:}ᵀΣ_I⁻¹(K_I d + Σ_I δ_I − r_I) + K(d − δ), v ← ρv − βMg, d ← d + v, d̄ ← d̄ + w(d − d̄).
    For an `InducingOperator` it is the same with K_XZ and K_ZZ: stochastic gradient descent with inducing points.

    The Hessian KΣ⁻¹(K + Σ) is about the square of K/σ, so M stands for its inverse. For K + Σ it is P⁻¹ΣK⁻¹ with P a
    preconditioner of K + Σ: the gradient among functions K(·, x)d, preconditioned, where
    Mg = P⁻¹[(n/B) S_I(K_I d + Σ_I δ_I − r_I) + Σ(d − δ)] has an exact penalty and no second product with K_I. With
    inducing points M is the inverse of the normal equation of the observations moved to their centres, up to 4,096
    centres. Without a preconditioner (None, other operators) M = I and K(d − δ) is ΦΦᵀ(d − δ) with fresh random
    features; then directions of small eigenvalues hardly move: predictions near data become good long before the
    residual is small, and a column whose residual stops falling ends as `stagnated`, however far it is.

    No step size is needed: β = f/(λ₁/c + (1 − B/n)/β_row) with c = 2(1+ρ)/(1+2ρ), β_row = 2(1−ρ)·B/(n·max_i L_i),
    where λ₁ is that of M times the Hessian and L_i what one observation adds to it, both from a few hundred rows, and f
    is 0.6 with inducing points and 0.8 for M = I, which has 1/β_feature = tr K/(2(1−ρ)·p) beside the others. Among
    functions f is 0.5, and λ₁ and, in place of max_i L_i, the spectral radius of the squared entries of (K + Σ)P⁻¹ are
    measured by six products with K.
    Divergence is detected from the running residual; the step is then halved and the iteration goes on from the last
    good average, and `Solution.notes` says so.

    Args:
        step_size: βn in the papers' units, in which the objective is multiplied by the noise variance (by the harmonic
            mean where it differs between observations), of the plain method; None finds the step.
        batch_size: observations B of a step; None takes n/16 within [64, 4,096]; without a preconditioner three times
            the batch at which β_row is the first bound, within [64, 512], and 512 with a step_size.
        momentum: ρ in [0, 1).
        averaging: weight w of the newest iterate in the geometric average; None spans one epoch, or four without a
            preconditioner.
        num_features: random features of a plain step's penalty; columns of K where the kernel has no features.
        preconditioner: "auto" is `LowRankPlusNeighbour` of rank min(500, n/10) with 20
            neighbours, within a quarter of the operator's memory budget, for a noise of a twentieth of the mean
            variance, by a factor within [1, 10] that all rows share; or the centres' normal equation; None is the plain
            method, which a step_size takes too; or one of `sggp.preconditioners`.

    Raises:
        InputError: a setting is out of range, or an observation has no noise.
        UnsupportedOperator: the operator does not offer `LeastSquaresOperator`, or not what the preconditioner needs.

    Cost:
        For K + Σ, B·n entries, 2·B·n·s flops and one application of P a step; once 6·n² entries; memory 7·n·s and P.
        With m inducing points, m·(B + m) entries and 2·m²·s flops a step, m·(n + m) entries every pass over the
        observations, and once 4·m³ flops; memory 8·m². Plain: B·n entries, 4·B·n·s flops and
        n·p features a step, or B·m entries.

    Source: Lin et al. 2023 (SGD), sections 3.1 (low-variance targets) and 3.2 (inducing points). Departures:
        1. The step is found, not given, and divergence is backed off instead of clipped. 2. The low-variance target,
        δ = Σ⁻¹ε for r = t + ε, is generalised: δ is the running average, refreshed once an epoch. Every δ gives the
        same expected gradient, and at δ = d = d* both terms vanish for every batch and every Φ, so the noise is
        multiplicative and a constant step converges to the solution itself, for any right-hand side. 3. With inducing
        points δ enters the data term as well, as in stochastic variance-reduced gradient descent (Johnson and Zhang
        2013). 4. Observations are drawn without replacement from a permutation per epoch. 5. A running residual ends
        the solve, confirmed by a product. 6. Gradients are preconditioned among functions, as in Ma and Belkin 2017
        and 2019 (EigenPro), by the whole of P instead of leading eigenvectors; with inducing points by the matrix of
        Rudi, Carratino and Rosasco 2017 (FALKON). 7. The preconditioned penalty is exact, and its step
        bounded by the variance that errors of P bring into sampled rows. 8. Where the residual does not fall by a tenth
        in eight epochs the preconditioned step is halved.
    """

    step_size: float | None = None
    batch_size: int | None = None
    momentum: float = 0.9
    averaging: float | None = None
    num_features: int = 100
    preconditioner: Preconditioner | Literal["auto"] | None = "auto"

    default_max_epochs: ClassVar[float] = 1000.0

    def __post_init__(self) -> None:
        check_descent(self)
        if self.num_features < 1:
            raise InputError(f"num_features must be at least 1, got {self.num_features}.")
        if isinstance(self.preconditioner, str) and self.preconditioner != "auto":
            raise InputError(
                f'preconditioner must be None, "auto" or one of sggp.preconditioners, got {self.preconditioner!r}.'
            )
        if self.step_size is not None and isinstance(self.preconditioner, Preconditioner):
            raise InputError(
                "step_size is that of the plain method: leave it out, or take preconditioner=None."
            )

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
        chosen = None if self.step_size is not None else self.preconditioner
        direction = direction_for(operator, chosen, self.num_features, generator)
        plain = isinstance(direction, Plain)
        unit = _observations(operator) / _noise_scale(operator) if plain else 1.0
        return _Setup(direction, *self._tune(operator, direction, unit, generator))

    def start(self, problem: Problem, setup: _Setup) -> _State:
        operator, direction, plain = problem.operator, setup.direction, setup.plain
        unit = "βn" if plain else "β (1 is Newton's)"
        notes = [f"step size {unit} = {setup.step:.3g}, batch size {setup.batch}."]
        if plain and not operator.draws_features:
            notes.append("the kernel has no random features: the penalty is estimated from sampled columns.")
        zero = torch.zeros_like(problem.rhs)
        s = zero.shape[1]
        share = setup.batch / _observations(operator)
        tried = max(_TRIED, math.ceil(_TRIED_STEPS * share))
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
            energy=direction.energy(problem.rhs) if isinstance(direction, Normal) else torch.zeros(s),
            weight=min(1.0, share / direction.window) if self.averaging is None else self.averaging,
            patience=max(_PATIENCE, math.ceil(_PATIENT_STEPS * share)) if plain else _TRIES * tried,
            tried=tried,
            notes=notes,
            **self.epoch_fields(problem, setup.step),
        )

    def _tune(
        self, operator: Any, direction: Direction, unit: float, generator: torch.Generator
    ) -> tuple[float, float, int]:
        """The step in the papers' units where it is plain, what makes β of it, and the batch size."""
        rho, n = self.momentum, _observations(operator)
        if self.step_size is not None:
            return self.step_size, unit, min(self.batch_size or _LARGEST_BATCH, n)
        found = direction.curvature(generator)
        full = found.top * (1 + 2 * rho) / (2 * (1 + rho))
        if isinstance(direction, Plain):
            # three times the batch whose noise bounds the step as much as the full gradient does
            wanted = 3 * found.row / max(2 * (1 - rho) * full, 1e-300)
            batch = self.batch_size or int(min(_LARGEST_BATCH, max(_LEAST_BATCH, wanted)))
        else:
            batch = self.batch_size or min(_MOST_ROWS, max(n // _PARTS, _LEAST_BATCH))
        batch = min(batch, n)
        # a batch of all observations has no noise; in between, sampling without replacement leaves the share 1 - B/n
        row = found.row / (2 * (1 - rho) * batch) * (1 - batch / n)
        feature = found.trace / (2 * (1 - rho) * self.num_features)
        return direction.safety_factor * unit / max(full + row + feature, 1e-300), unit, batch

    def step(self, state: _State) -> None:
        problem, operator, setup = state.problem, state.problem.operator, state.setup
        if state.place >= len(state.order):
            order = torch.randperm(_observations(operator), generator=problem.generator)
            state.order, state.place = order.to(problem.rhs.device), 0
            state.squares = torch.zeros_like(state.squares)
        rows = self.next_rows(state, setup.batch)
        look = torch.add(state.u, state.velocity, alpha=self.momentum)
        change, gap = setup.direction.at(rows, look, state.anchor, state.target, problem.generator)
        state.velocity.mul_(self.momentum).add_(change, alpha=-state.size / setup.unit)
        state.u.add_(state.velocity)
        state.average.lerp_(state.u, state.weight)
        if gap is not None:
            if self.visit(state, gap):
                self._follow(state, None, epochs=1)
        elif state.place >= len(state.order):
            state.seen += 1
            if state.seen % setup.direction.window == 0 or not bool(torch.isfinite(state.average).all()):
                target = operator.anchored_target(state.average, problem.rhs)
                state.squares = column_norms(target).square()
                self._follow(state, target, epochs=setup.direction.window)

    def _follow(self, state: _State, target: Tensor | None, epochs: int) -> None:
        """Know the residual and let the anchor follow the average, or back off."""
        operator, direction = state.problem.operator, state.setup.direction
        growth = _GROWTH
        if target is not None and isinstance(direction, Normal):
            # the residual of a normal equation may grow while its energy, which the steps reduce, falls
            energy = direction.energy(target)
            growth = math.inf if bool((energy <= _GROWTH**2 * state.energy).all()) else 0.0
            state.energy = torch.minimum(state.energy, energy)
        if not self.close_epoch(state, state.average, growth):
            self.back_off(state, "diverged: step size halved to {:.3g}.", ("u", "average", "anchor"))
            state.velocity = torch.zeros_like(state.u)
            state.target = operator.anchored_target(state.anchor, state.problem.rhs)
            return
        state.anchor = state.average.clone()
        state.target = operator.anchored_target(state.anchor, state.problem.rhs) if target is None else target
        count_idle(state, epochs)
        plain = state.setup.plain
        longest = int(state.idle.max())
        if not plain and longest >= state.tried:
            state.size /= 2
            state.tried *= 2
        if longest >= state.patience:
            note = f"the residual fell by less than a tenth in {state.patience} epochs: " + (
                "small eigenvalues are out of reach of the plain primal gradient; a preconditioner, "
                "StochasticDualDescent or ConjugateGradients go further."
                if plain
                else "its step was halved, and its gap is measured and solved for anew."
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
