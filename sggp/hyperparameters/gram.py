"""Differentiable Gram matrices of one kernel, batched: (..., m, d) -> (..., m, m).

Stationary kernels have their gradient in the length scales in closed form: autograd keeps a dozen arrays of the size of
the blocks and goes over each of them twice; here there are two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from gpytorch.kernels import AdditiveKernel, Kernel, MaternKernel, RBFKernel, RQKernel, ScaleKernel
from torch import Tensor
from torch.autograd.function import once_differentiable

from sggp.kernels import as_covariance
from sggp.kernels.generic import dense_tile

GramFunction = Callable[[Tensor], Tensor]
LOG_TWO_PI = math.log(2 * math.pi)
_LEAST_DISTANCE = 1e-8  # the slope of exp(-r) in r² is taken at no less: it is infinite where rows coincide
RadialFunction = Callable[[Tensor], tuple[Tensor, Tensor]]


def _rbf(square: Tensor) -> tuple[Tensor, Tensor]:
    value = torch.exp(-0.5 * square)
    return value, -0.5 * value


def _matern12(square: Tensor) -> tuple[Tensor, Tensor]:
    r = square.sqrt()
    value = torch.exp(-r)
    return value, value / (-2.0 * r.clamp_min(_LEAST_DISTANCE))


def _matern32(square: Tensor) -> tuple[Tensor, Tensor]:
    r = square.mul(3.0).sqrt_()
    decay = torch.exp(-r)
    return r.add_(1.0).mul_(decay), decay.mul_(-1.5)


def _matern52(square: Tensor) -> tuple[Tensor, Tensor]:
    r = square.mul(5.0).sqrt_()
    decay = torch.exp(-r)
    slope = (1.0 + r).mul_(decay)
    return slope.addcmul(r.square(), decay, value=1.0 / 3.0), slope.mul_(-5.0 / 6.0)


_MATERN: dict[float, RadialFunction] = {0.5: _matern12, 1.5: _matern32, 2.5: _matern52}


def profile(core: Kernel) -> RadialFunction | None:
    """r² -> (φ, dφ/dr²) of an RBF or a Matérn kernel in GPyTorch's parametrisation; None for every other kernel."""
    if type(core) is RBFKernel:
        return _rbf
    return _MATERN.get(core.nu) if type(core) is MaternKernel else None


class _Correlations(torch.autograd.Function):
    """φ(|x_a - x_b|² over ℓ²) and, with W = upstream ∘ dφ/dr² and z = x/ℓ, dℓ_j = -2/ℓ_j Σ_ab W_ab (z_aj - z_bj)²."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, lengthscale: Tensor, phi: RadialFunction
    ) -> Tensor:  # (..., m, d), (d,) or (1,)
        z = (x - x[..., -1:, :]) / lengthscale  # near the origin: no cancellation to speak of
        norms = z.square().sum(dim=-1)
        square = torch.matmul(z, z.transpose(-1, -2)).mul_(-2.0)
        square.add_(norms.unsqueeze(-1)).add_(norms.unsqueeze(-2)).clamp_min_(0.0)
        value, slope = phi(square)
        value.diagonal(dim1=-2, dim2=-1).fill_(1.0)
        slope.diagonal(dim1=-2, dim2=-1).zero_()
        ctx.save_for_backward(z, slope, lengthscale)
        return value

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, Tensor, None]:
        z, slope, lengthscale = ctx.saved_tensors
        weight = upstream[0] * slope
        sums = weight.sum(dim=-1) + weight.sum(dim=-2)
        pulled = (z * sums.unsqueeze(-1) - 2.0 * torch.matmul(weight, z)).mul_(z)
        entries = pulled.reshape(-1, z.shape[-1]).sum(dim=0)
        return None, entries.sum_to_size(lengthscale.shape) * (-2.0 / lengthscale), None


def correlations(x: Tensor, lengthscale: Tensor, phi: RadialFunction) -> Tensor:  # -> (..., m, m)
    """Correlations within blocks of rows, differentiable in the length scales; one on the diagonal.

    Args:
        x: (..., m, d) float64 rows, which get no gradient.
        lengthscale: d or one of them.
        phi: the `profile`.

    Cost: about four arrays of the size of the result with its gradient, and twice the product of the rows.
    """
    value: Tensor = _Correlations.apply(x, lengthscale.reshape(-1), phi)
    return value


def stationary_parts(kernel: Kernel) -> tuple[list[ScaleKernel], RBFKernel | MaternKernel | RQKernel] | None:
    """Split ScaleKernel(...(stationary kernel)) into its scales and its core; None for every other structure."""
    scales, core = _scales_and_base(kernel)
    if type(core) in (RBFKernel, MaternKernel, RQKernel) and core.active_dims is None:
        return scales, core
    return None


def frozen_base(kernel: Kernel) -> tuple[list[ScaleKernel], Kernel] | None:
    """Split ScaleKernel(...(base)) where the base has nothing to learn; None where it has."""
    scales, base = _scales_and_base(kernel)
    return None if any(p.requires_grad for p in base.parameters()) else (scales, base)


def _scales_and_base(kernel: Kernel) -> tuple[list[ScaleKernel], Kernel]:
    scales: list[ScaleKernel] = []
    while type(kernel) is ScaleKernel and kernel.active_dims is None:
        scales.append(kernel)
        kernel = kernel.base_kernel
    return scales, kernel


def total_scale(scales: Sequence[ScaleKernel], like: Tensor) -> Tensor:
    """The product of all output scales, a differentiable float64 scalar on the device of `like`."""
    scale = torch.ones((), dtype=torch.float64, device=like.device)
    for outer in scales:
        scale = scale * outer.outputscale
    return scale


def _stationary_gram(scales: list[ScaleKernel], core: RBFKernel | MaternKernel | RQKernel) -> GramFunction:
    phi = profile(core)

    def gram(x: Tensor) -> Tensor:
        block = _by_autograd(core, x) if phi is None else correlations(x, core.lengthscale, phi)
        return block * total_scale(scales, x) if scales else block

    return gram


def _by_autograd(core: RQKernel, x: Tensor) -> Tensor:
    """Correlations of a kernel whose profile has parameters of its own."""
    z = (x - x[..., -1:, :]) / core.lengthscale.reshape(-1)
    norms = z.square().sum(dim=-1)
    square = norms.unsqueeze(-1) + norms.unsqueeze(-2) - 2.0 * torch.matmul(z, z.transpose(-1, -2))
    value = (1 + square.clamp_min(0.0) / (2 * core.alpha)).pow(-core.alpha)
    return value.masked_fill(torch.eye(x.shape[-2], dtype=torch.bool, device=x.device), 1.0)


def _frozen_block(base: Kernel) -> GramFunction:
    """The base's matrix of the rows asked for last, which is evaluated once; batches by the kernel itself."""
    covariance = as_covariance(base, dtype=torch.float64)
    known: list[tuple[Tensor, Tensor]] = []

    def block(x: Tensor) -> Tensor:
        if x.dim() != 2:
            return dense_tile(base, x)
        if not known or known[0][0] is not x:
            with torch.no_grad():
                known[:] = [(x, covariance.block(x))]
        return known[0][1]

    return block


class _Term(NamedTuple):
    """One term of a sum: scales times a matrix of the rows of the sum."""

    scales: list[ScaleKernel]
    block: GramFunction


def _term(kernel: Kernel) -> _Term | None:
    """A term of a sum; None where it has no form that is faster than the kernel itself."""
    scales: list[ScaleKernel] = []
    base: Kernel = kernel
    while type(base) is ScaleKernel:
        if not _same_columns(base.active_dims, base.base_kernel.active_dims):
            return None
        scales.append(base)
        base = base.base_kernel
    if scales and not any(p.requires_grad for p in base.parameters()):
        return _Term(scales, _frozen_block(base))
    if profile(base) is None:
        return None
    gram, columns = _stationary_gram([], base), base.active_dims

    def of_columns(x: Tensor) -> Tensor:
        return gram((x if columns is None else x[..., columns]).to(torch.float64))

    return _Term(scales, of_columns)


def _same_columns(outer: Tensor | None, inner: Tensor | None) -> bool:
    """Whether a ScaleKernel looks at the columns of its base, as it does unless it was given others."""
    return torch.equal(outer, inner) if outer is not None and inner is not None else outer is inner


class _WeightedSum(torch.autograd.Function):
    """Σ_t w_t B_t of weights (t,) and matrices of one shape, with no matrix beside the result."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, *blocks: Tensor) -> Tensor:
        ctx.save_for_backward(weights, *blocks)
        total = blocks[0] * weights[0]
        for weight, block in zip(weights[1:].tolist(), blocks[1:], strict=True):
            total.add_(block, alpha=weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        weights, *blocks = ctx.saved_tensors
        flat = upstream.reshape(-1)
        slopes = torch.stack([torch.dot(flat, block.reshape(-1)) for block in blocks])
        needed = zip(weights, ctx.needs_input_grad[1:], strict=True)
        return slopes, *(upstream * weight if own else None for weight, own in needed)


def _sum_of(terms: Sequence[_Term], scales: list[ScaleKernel], x: Tensor) -> Tensor:
    weights = torch.stack([total_scale([*scales, *term.scales], x) for term in terms])
    value: Tensor = _WeightedSum.apply(weights, *(term.block(x) for term in terms))
    return value


def gram_function(kernel: Kernel) -> GramFunction:
    """The Gram matrix of `kernel` as a function of rows, differentiable in the kernel's raw parameters.

    Scaled RBF, Matérn and RQ kernels use their closed form; of kernels in which nothing but scales is learnt (Tanimoto)
    the matrix below the scales is kept for the rows asked for last; a sum of such kernels, each of some columns, is
    their sum; every other kernel is called itself. The result is float64 for float64 rows.
    """
    outer, inner = _scales_and_base(kernel)
    if type(inner) is AdditiveKernel and inner.active_dims is None:
        terms = [_term(part) for part in inner.kernels]
        known = [term for term in terms if term is not None]
        return partial(_sum_of, known, outer) if len(known) == len(terms) else partial(dense_tile, kernel)
    parts = stationary_parts(kernel)
    if parts is not None:
        return _stationary_gram(*parts)
    frozen = frozen_base(kernel)
    if frozen is not None and frozen[0]:
        block = _frozen_block(frozen[1])
        return lambda x: block(x) * total_scale(frozen[0], x)
    return partial(dense_tile, kernel)
