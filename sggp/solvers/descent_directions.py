"""Where a step of primal gradient descent goes: along the gradient, or along one that is preconditioned."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from sggp.linalg import cholesky
from sggp.operators.base import NeighbourOperator, completed
from sggp.preconditioners import LowRankPlusNeighbour, Preconditioner
from sggp.solvers.core.power import largest_eigenvalue

__all__ = ["Curvature", "Direction", "Functions", "Normal", "Plain", "curvature", "direction_for"]

_SUBSET = 1024
_POWER_STEPS = 20
_WINDOW = 4
"""Passes over the observations that the plain average spans, and after which an anchor that costs a product moves."""
_RANK, _NEIGHBOURS = 500, 20
"""Of the preconditioner for K + Σ. Without a low-rank part its errors mix large eigenvalues into small ones, and with
them the noise of sampled rows: the stable step falls tenfold."""
_DAMPED, _MOST_DAMPING = 0.05, 10.0
"""The noise that the preconditioner is given: this share of K's mean diagonal, within one and so many times its own, by
one factor for all rows: with P's noise proportional to Σ no row has small eigenvalues of its own. With less P is less
like K + Σ, and the stable step falls with n; with more small eigenvalues take longer."""
_PROBED = 256
_POWER_PRODUCTS, _SIGNS = 6, 7
"""Products, and random signs in each, by which the curvature among functions is measured."""
_MEMORY_SHARE = 0.25
_MOST_FACTORED = 4096
"""Centres up to which their normal equation is factored."""


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


class Direction(Protocol):
    """What a step goes along: an unbiased estimate of M∇, whose gradient at the solution is zero."""

    window: ClassVar[int]  # passes over the observations between two anchors, and that the average spans
    safety_factor: ClassVar[float]  # of the step, within what the curvature allows

    def curvature(self, generator: torch.Generator) -> Curvature:
        """What bounds the step."""
        ...

    def at(
        self, rows: Tensor, look: Tensor, anchor: Tensor, target: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:  # (b,), (m, s), (m, s), (m, s) -> (m, s), (b, s) | None
        """M times the gradient at `look` from the observations `rows`, and the rows of A look − r where it saw them."""
        ...


def direction_for(
    operator: Any, chosen: Preconditioner | str | None, num_features: int, generator: torch.Generator
) -> Direction:
    """The direction that `chosen` (a preconditioner, "auto" or None) means for this operator.

    Raises:
        UnsupportedOperator: the operator lacks the small blocks that a given preconditioner needs.
    """
    m = operator.shape[0]
    budget = _MEMORY_SHARE * getattr(operator, "memory_budget", math.inf)
    kept = m * (48 * _NEIGHBOURS + 16)
    if isinstance(chosen, str) and isinstance(operator, NeighbourOperator) and kept <= budget:
        rank = int(min(_RANK, m / 10, (budget - kept) / (16 * m)))
        damped = _damped(operator)
        built = LowRankPlusNeighbour(max(1, rank), _NEIGHBOURS).build(damped, generator)
        operator.entries_evaluated = damped.entries_evaluated
        return Functions(operator, built.apply)
    if isinstance(chosen, Preconditioner):
        return Functions(operator, chosen.build(operator, generator).apply)
    centred = hasattr(operator, "gathered") and m <= _MOST_FACTORED and 24 * m * m <= budget
    if chosen is None or not centred:
        return Plain(operator, num_features)
    return Normal(operator, cholesky(operator.gathered(), "the normal equation of the centres"))


@dataclass(frozen=True)
class Plain:
    """M = I: the gradient itself, its penalty estimated from random features."""

    operator: Any
    num_features: int
    window: ClassVar[int] = _WINDOW
    safety_factor: ClassVar[float] = 0.8

    def curvature(self, generator: torch.Generator) -> Curvature:
        return curvature(self.operator, generator)

    def at(
        self, rows: Tensor, look: Tensor, anchor: Tensor, target: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        gradient, gap = self.operator.data_gradient(rows, look, anchor, target)
        gradient += self.operator.penalty_estimate(look - anchor, self.num_features, generator)
        return gradient, gap


@dataclass(frozen=True)
class Functions:
    """M = P⁻¹ΣK⁻¹ with P ≈ K + Σ: the gradient among functions K(·, x)d, preconditioned.

    M K_{:,I} is P⁻¹Σ S_I, so the data term has no product with K beside K_I d, and the penalty's P⁻¹Σ(d − δ) is exact.
    The safety factor leaves room for what few power iterations miss, and for how momentum adds noises up.
    """

    operator: Any
    apply: Callable[[Tensor], Tensor]
    window: ClassVar[int] = 1
    safety_factor: ClassVar[float] = 0.5

    def curvature(self, generator: torch.Generator) -> Curvature:
        """λ₁(A) and the spectral radius of the entries squared, A∘A, for A = HP⁻¹, by power iterations.

        A step without noise multiplies the gradient g by I − βA; sampled rows S_I add the variance β²(n/B)(A∘A)g², so
        that it is ρ(A∘A), of columns of A and not of its diagonal, that bounds the step. Errors of P far from a row are
        small and many: they grow with n. (A∘A)w is the mean of (A diag(√w)z)² over random signs z.

        Cost: products with K of 8 columns, 6 of them.
        """
        operator, n = self.operator, self.operator.shape[0]
        signs = torch.randint(2, (_POWER_PRODUCTS, n, _SIGNS), generator=generator, dtype=torch.int8)
        v = torch.randn(n, 1, generator=generator, dtype=torch.float64).to(operator.device)
        mass, top, row = torch.ones_like(v), 0.0, 0.0
        for drawn in signs.to(operator.device):
            both = torch.cat([v, (2.0 * drawn - 1) * mass.sqrt()], 1)
            product = operator.matmul(self.apply(both).to(operator.dtype)).double()
            if not bool(torch.isfinite(product).all()):
                return Curvature(math.inf, math.inf, 0.0)
            top = max(top, float(product[:, 0].norm() / v.norm()))
            v, grown = product[:, :1], product[:, 1:].square().mean(1, keepdim=True)
            row, mass = max(row, float(grown.mean() / mass.mean())), grown
        return Curvature(top, n * row, 0.0)

    def at(
        self, rows: Tensor, look: Tensor, anchor: Tensor, target: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        noise = self.operator.noise_variance.to(look)[:, None]
        gradient = noise * (look - anchor)
        misfit = self.operator.rows_matmul(rows, look) - noise[rows] * look[rows] - target[rows]
        gap = misfit + gradient[rows]
        gradient.index_add_(0, rows, misfit, alpha=len(look) / len(rows))
        return self.apply(gradient), gap


@dataclass(frozen=True)
class Normal:
    """M = Â⁻¹ with Â the normal equation of the observations moved to their centres; the penalty is exact."""

    operator: Any
    factor: Tensor  # (m, m) lower, float64
    window: ClassVar[int] = 1
    safety_factor: ClassVar[float] = 0.6

    def curvature(self, generator: torch.Generator) -> Curvature:
        """From the block (Σ^-½ D Â⁻¹ Dᵀ Σ^-½)_JJ of random observations J; the penalty adds at most 1, as Â ≥ P."""
        noise = self.operator.noise_variance
        rows = _probed(noise, generator)
        design = self.operator.design_rows(rows).double() * noise[rows, None].rsqrt()
        found = _of_block(design @ torch.cholesky_solve(design.T, self.factor), len(noise))
        return replace(found, top=found.top + 1)

    def at(
        self, rows: Tensor, look: Tensor, anchor: Tensor, target: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        gradient, gap = self.operator.data_gradient(rows, look, anchor, target)
        gradient += self.operator.penalty_product(look - anchor)
        return torch.cholesky_solve(gradient.double(), self.factor).to(look), gap

    def energy(self, gradient: Tensor) -> Tensor:  # (m, s) -> (s,)
        """gᵀMg, float64, on the CPU."""
        half = torch.linalg.solve_triangular(self.factor, gradient.double(), upper=False)
        return half.square().sum(0).cpu()


def _probed(noise: Tensor, generator: torch.Generator) -> Tensor:
    """Random observations, and after them those with the least noise."""
    some = torch.randperm(len(noise), generator=generator)[:_PROBED].to(noise.device)
    return torch.unique(torch.cat([some, noise.topk(min(len(noise), _PROBED // 4), largest=False).indices]))


def _of_block(block: Tensor, n: int) -> Curvature:
    """The curvature of an (n, n) matrix similar to a symmetric one, from a principal block.

    λ₁ is that of the entries off the diagonal, scaled up to n rows, plus the mean diagonal entry: unlike λ₁ of the
    whole block scaled up it is not at least n/|J| for the identity.
    """
    if not bool(torch.isfinite(block).all()):
        return Curvature(math.inf, math.inf, 0.0)
    diagonal = block.diagonal()
    off = torch.linalg.eigvals(block - diagonal.diag()).real.max()
    return Curvature(float(diagonal.mean() + off * n / len(block)), n * float(diagonal.max()), 0.0)


def _damped(operator: Any) -> Any:
    """The operator with the noise that its preconditioner is built for."""
    noise = operator.noise_variance
    scale = (_DAMPED * operator.kernel_diagonal().mean() / noise.median()).clamp(1.0, _MOST_DAMPING)
    renewed = completed(operator).with_noise
    return operator if renewed is None else renewed(scale * noise)
