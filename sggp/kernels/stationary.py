"""The fast engine's covariance: RBF, Matérn and rational quadratic kernels with length scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import singledispatch
from typing import Any

import torch
from gpytorch.kernels import MaternKernel, RBFKernel, RQKernel
from torch import Tensor

from sggp.autograd import full_precision
from sggp.errors import ShapeError, UnsupportedKernel
from sggp.kernels.covariance import BilinearGradient, Covariance, StationaryTerm
from sggp.kernels.derivatives import differentiated_no_more
from sggp.kernels.points import Points
from sggp.native import engine, reference
from sggp.native.conditionals import TermsOf
from sggp.native.families import FAMILIES, Profile
from sggp.native.reference import Source, shape_gradient

__all__ = ["StationaryCovariance", "profile_of"]

_CHUNK_BYTES = 32 * 2**20


@singledispatch
def profile_of(kernel: Any) -> Profile | None:
    """The profile of a stationary kernel with length scales, its scale one; None for every other kernel.

    `profile_of.register(SomeKernel)` lets the fused engines and `draw_features` serve another kernel type whose family
    is in `sggp.native.families`.
    """
    return None


@profile_of.register
def _(kernel: RBFKernel) -> Profile | None:
    return Profile("rbf")


@profile_of.register
def _(kernel: MaternKernel) -> Profile | None:
    return next((Profile(name) for name, family in FAMILIES.items() if family.nu == kernel.nu), None)


@profile_of.register
def _(kernel: RQKernel) -> Profile | None:
    if kernel.alpha.numel() != 1:
        raise UnsupportedKernel(f"alpha of RQKernel has {kernel.alpha.numel()} values; expected one.")
    return Profile("rq", alpha=float(kernel.alpha.detach().double()))


class StationaryCovariance(Covariance):
    """k(x, z) = scale · φ(|(x − z)/ℓ|²).

    Args:
        profile: φ, the scale and the shape.
        lengthscale: (d,) or () positive length scales, in the units of the columns.
        columns: the columns of the input that the kernel looks at; None for all.
        dtype: working precision for integer input.
        name: how errors call the kernel.

    Every entry is within 1e-6 (float32) or 1e-12 (float64) of the scale, near-duplicates and data far from the
    origin included; k(x, x) is exactly the scale.
    """

    centres = True
    shift_invariant = True

    def __init__(
        self,
        profile: Profile,
        lengthscale: Tensor,
        *,
        columns: Tensor | None = None,
        dtype: torch.dtype | None = None,
        name: str = "",
    ) -> None:
        super().__init__(dtype=dtype, name=name)
        self.profile = profile
        self.lengthscale = lengthscale.detach().double().reshape(-1).clone()
        self.columns = None if columns is None else columns.detach().long().reshape(-1).clone()

    @property
    def scale(self) -> float:
        """The output scale, k(x, x)."""
        return self.profile.scale

    def _select(self, x: Tensor) -> Tensor:
        if self.columns is None:
            selected = x
        elif x.shape[1] <= int(self.columns.max()):
            raise ShapeError(
                f"{self.name} looks at column {int(self.columns.max())} of rows with {x.shape[1]} columns."
            )
        else:
            selected = x[:, self.columns.to(x.device)]
        if self.lengthscale.numel() not in (1, selected.shape[1]):
            raise ShapeError(
                f"{self.name} has {self.lengthscale.numel()} length scales; the rows have {selected.shape[1]} columns."
            )
        return selected

    def _weights(self, x: Tensor) -> Tensor:
        return self.lengthscale.to(x.device).reciprocal().expand(x.shape[1])

    def _parts(self, raw: Tensor, centre: Tensor | None) -> Mapping[str, Tensor]:
        selected = self._select(raw)
        weights = self._weights(selected)
        if centre is None:
            return {"scaled": selected.double() * weights, "selected": selected.detach()}
        own = (centre if self.columns is None else centre[self.columns.to(centre.device)]).to(raw.device)
        wide = selected.double()
        shifted = wide - own if wide is selected else wide.sub_(own)  # no more copies than are needed
        return {"scaled": shifted.mul_(weights), "selected": selected.detach()}

    def _source(self, x: Points, z: Points) -> Source:
        selected = x.parts["selected"]
        return Source(selected, z.parts["selected"], self._weights(selected))

    def _block(self, x: Points, z: Points) -> Tensor:
        a, b = x.parts["scaled"], z.parts["scaled"]
        if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
            return _StationaryBlock.apply(a, b, self.profile, x.dtype, self._source(x, z))
        evaluate = engine(a.device, x.dtype).stationary_block
        return evaluate(a, b, self.profile, dtype=x.dtype, source=self._source(x, z))

    def _matmul(self, x: Points, z: Points, v: Tensor, memory_budget: int) -> Tensor:
        a, b = x.parts["scaled"], z.parts["scaled"]
        product = engine(a.device, v.dtype).stationary_matmul
        return product(a, b, v, self.profile, memory_budget, source=self._source(x, z))

    def recomputes(self, device: torch.device) -> bool:
        return engine(device, torch.float64).recomputes

    def _like(self, profile: Profile, columns: Tensor | None) -> StationaryCovariance:
        return StationaryCovariance(
            profile, self.lengthscale, columns=columns, dtype=self.dtype, name=self.name
        )

    def rescaled(self, factor: float) -> StationaryCovariance:
        return self._like(replace(self.profile, scale=self.profile.scale * factor), self.columns)

    def on_columns(self, columns: Tensor) -> StationaryCovariance | None:
        """k of rows of which only `columns` are seen; None where it picks columns already."""
        return self._like(self.profile, columns) if self.columns is None else None

    def stationary_terms(self, x: Points, z: Points) -> list[StationaryTerm]:
        return [StationaryTerm(x.parts["scaled"].detach(), z.parts["scaled"].detach(), self.profile)]

    def bilinear_gradient(
        self,
        x: Tensor,
        left: Tensor,
        right: Tensor,
        *,
        with_shape: bool,
        memory_budget: int,
        rows: slice = slice(None),
    ) -> BilinearGradient:
        a = self.prepare(x).parts["scaled"]
        own, left = a[rows], left[rows]
        gradient = engine(a.device, a.dtype).stationary_gradient
        logarithms, scale = gradient(own, a, left, right, self.profile, memory_budget=memory_budget)
        shape = None
        if with_shape and self.profile.kind.shaped:
            shape = self.scale * shape_gradient((own, a), left, right, self.profile.shape, memory_budget)
        return BilinearGradient(logarithms / self.lengthscale.to(a.device), scale, shape)

    def neighbour_columns(
        self, x: Points, noise: Tensor, low_rank: Tensor | None, index: Tensor, real: Tensor
    ) -> Tensor | None:
        a = x.parts["scaled"]
        return engine(a.device, a.dtype).sparse_columns(a, self.profile, noise, low_rank, index, real)

    def residual_scores(
        self, x: Points, low_rank: Tensor, weight: Tensor, rows: Tensor, candidates: Tensor
    ) -> Tensor | None:
        a = x.parts["scaled"]
        return engine(a.device, a.dtype).residual_scores(a, self.profile, low_rank, weight, rows, candidates)

    def log_conditionals(self, x: Tensor) -> TermsOf | None:
        """See `Covariance.log_conditionals`; for families without a shape on all columns."""
        conditionals = engine(x.device, x.dtype).log_conditionals
        unfit = x.dtype != torch.float64 or self.columns is not None or self.profile.kind.shaped
        if conditionals is None or unfit:
            return None
        x = x.contiguous()
        return lambda lengthscale, scale, rows, wanted: conditionals(
            x, lengthscale, replace(self.profile, scale=scale), rows, wanted=wanted
        )

    def diagonal(self, x: Tensor | Points) -> Tensor:
        """The scale, n times."""
        x = self.prepare(x)
        return torch.full((len(x),), self.scale, dtype=x.dtype, device=x.device)

    def embedding(self, x: Tensor | Points) -> Tensor | None:
        x = self.prepare(x)
        return x.parts["scaled"].detach().to(x.dtype)

    def _small_blocks(self, x: Tensor) -> Tensor:
        b, m = x.shape[:2]
        selected = self._select(x.reshape(b * m, x.shape[2]))
        weights, raw = self._weights(selected), selected.double().reshape(b, m, selected.shape[1])
        blocks = engine(x.device, torch.float64).small_stationary(raw, weights, self.profile)
        if blocks is not None:
            return blocks
        # neighbours are close: differences from one of them lose nothing to the distance from the origin
        rows = (raw - raw[:, :1]) * weights
        out = torch.empty(b, m, m, dtype=torch.float64, device=x.device)
        step = max(1, _CHUNK_BYTES // (24 * max(m * m, 1)))
        for part, r2 in zip(rows.split(step), out.split(step), strict=True):
            r2.zero_()
            for k in range(part.shape[2]):
                difference = part[:, :, None, k] - part[:, None, :, k]
                r2.addcmul_(difference, difference)
            r2.copy_(reference.profile_values(r2.clamp_max_(1e300), self.profile))
        return out


class _StationaryBlock(torch.autograd.Function):
    """A block with its gradient in closed form: ∂k/∂a_i = 2 Σ_j W_ij (a_i − b_j), W = G ∘ scale·φ'(r²)."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, profile: Profile, dtype: torch.dtype, source: Source
    ) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.profile, ctx.source = profile, source
        return engine(a.device, dtype).stationary_block(a, b, profile, dtype=dtype, source=source)

    @staticmethod
    @full_precision()
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        if torch.is_grad_enabled():  # a gradient of the gradient is wanted
            weight = 2.0 * grad * _StationarySlope.apply(a, b, ctx.profile, ctx.source)
            return *_pulled(weight, a, b, ctx.needs_input_grad), None, None, None
        weight = _falls(a, b, ctx.profile, ctx.source, grad.dtype).mul_(grad).double()
        pulled = _pulled(weight, a, b, ctx.needs_input_grad)
        return *(part if part is None else part.mul_(-2.0) for part in pulled), None, None, None


class _StationarySlope(torch.autograd.Function):
    """The slopes scale·φ'(r²), with their gradient: as above, with φ'' in the place of φ'."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, profile: Profile, source: Source) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.profile, ctx.source = profile, source
        return _falls(a, b, profile, source, torch.float64).neg_()

    @staticmethod
    @full_precision()
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        grad = differentiated_no_more(grad, "third derivatives of this kernel are not implemented", a, b)
        weight = 2.0 * grad * reference.stationary_curvature(a, b, ctx.profile, source=ctx.source)
        return *_pulled(weight, a, b, ctx.needs_input_grad), None, None


def _falls(a: Tensor, b: Tensor, profile: Profile, source: Source, dtype: torch.dtype) -> Tensor:
    """−scale·φ'(r²) as a dense block: by the engine where it is a kernel itself, in the time of a block of values."""
    if profile.kind.fall is None:
        return reference.stationary_slope(a, b, profile, source=source).neg_().to(dtype)
    fall, stretch = profile.kind.fall(profile)
    stretched = source._replace(weights=stretch * source.weights)
    evaluate = engine(a.device, dtype).stationary_block
    return evaluate(stretch * a, stretch * b, fall, dtype=dtype, source=stretched)


def _pulled(
    weight: Tensor, a: Tensor, b: Tensor, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """Σ_j W_ij (a_i − b_j) and Σ_i W_ij (b_j − a_i), where they are wanted."""
    of_a = weight.sum(1, keepdim=True) * a - weight @ b if wanted[0] else None
    of_b = weight.sum(0)[:, None] * b - weight.T @ a if wanted[1] else None
    return of_a, of_b
