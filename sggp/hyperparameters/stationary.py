"""Correlations of stationary kernels within blocks of rows, with the gradient in the length scales in closed form.

Autograd keeps a dozen arrays of the size of the blocks and goes over each of them twice; here there are two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gpytorch.kernels import Kernel, MaternKernel, RBFKernel
from torch import Tensor

_LEAST_DISTANCE = 1e-8  # the slope of exp(-r) in r² is taken at no less: it is infinite where rows coincide
Profile = Callable[[Tensor], tuple[Tensor, Tensor]]


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


_MATERN: dict[float, Profile] = {0.5: _matern12, 1.5: _matern32, 2.5: _matern52}


def profile(core: Kernel) -> Profile | None:
    """r² -> (φ, dφ/dr²) of an RBF or a Matérn kernel in GPyTorch's parametrisation; None for every other kernel."""
    if type(core) is RBFKernel:
        return _rbf
    return _MATERN.get(core.nu) if type(core) is MaternKernel else None


class _Correlations(torch.autograd.Function):
    """φ(|x_a - x_b|² over ℓ²) and, with W = upstream ∘ dφ/dr² and z = x/ℓ, dℓ_j = -2/ℓ_j Σ_ab W_ab (z_aj - z_bj)²."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, lengthscale: Tensor, phi: Profile
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


def correlations(x: Tensor, lengthscale: Tensor, phi: Profile) -> Tensor:  # -> (..., m, m)
    """Correlations within blocks of rows, differentiable in the length scales; one on the diagonal.

    Args:
        x: (..., m, d) float64 rows, which get no gradient.
        lengthscale: d or one of them.
        phi: the `profile`.

    Cost: about four arrays of the size of the result with its gradient, and twice the product of the rows.
    """
    value: Tensor = _Correlations.apply(x, lengthscale.reshape(-1), phi)
    return value
