"""Differentiable Gram matrices of one kernel, batched: (..., m, d) -> (..., m, m)."""

from __future__ import annotations

import math
from collections.abc import Callable

import gpytorch
import torch
from gpytorch.kernels import Kernel, MaternKernel, RBFKernel, RQKernel, ScaleKernel
from torch import Tensor

from sggp.errors import UnsupportedKernel

GramFunction = Callable[[Tensor], Tensor]
_TINY = 1e-30  # keeps sqrt differentiable where two rows coincide; their gradient is zero all the same


def stationary_parts(kernel: Kernel) -> tuple[list[ScaleKernel], RBFKernel | MaternKernel | RQKernel] | None:
    """Split ScaleKernel(...(stationary kernel)) into its scales and its core; None for every other structure."""
    scales: list[ScaleKernel] = []
    while type(kernel) is ScaleKernel and kernel.active_dims is None:
        scales.append(kernel)
        kernel = kernel.base_kernel
    if type(kernel) in (RBFKernel, MaternKernel, RQKernel) and kernel.active_dims is None:
        return scales, kernel
    return None


def _correlation(core: RBFKernel | MaternKernel | RQKernel, square: Tensor) -> Tensor:
    """The profile phi(r^2) of a stationary kernel, GPyTorch's parametrisation."""
    if isinstance(core, RBFKernel):
        return torch.exp(-0.5 * square)
    if isinstance(core, RQKernel):
        alpha = core.alpha
        return (1 + square / (2 * alpha)).pow(-alpha)
    r = (2 * core.nu * (square + _TINY)).sqrt()
    if core.nu == 0.5:
        return torch.exp(-r)
    polynomial = 1 + r if core.nu == 1.5 else 1 + r + r.square() / 3
    return polynomial * torch.exp(-r)


def scaled_points(kernel: Kernel, x: Tensor) -> Tensor | None:  # (n, d)
    """x over the length scales of a scaled stationary kernel, centred; None for every other kernel."""
    parts = stationary_parts(kernel)
    if parts is None:
        return None
    with torch.no_grad():
        z = x.to(torch.float64)
        return (z - z.mean(dim=0)) / parts[1].lengthscale.reshape(-1)


def _stationary_gram(scales: list[ScaleKernel], core: RBFKernel | MaternKernel | RQKernel) -> GramFunction:
    def gram(x: Tensor) -> Tensor:
        z = (x - x[..., -1:, :]) / core.lengthscale.reshape(
            -1
        )  # near the origin: no cancellation to speak of
        norms = z.square().sum(dim=-1)
        square = (
            torch.baddbmm(norms.unsqueeze(-1) + norms.unsqueeze(-2), z, z.transpose(-1, -2), alpha=-2.0)
            if z.dim() == 3
            else norms.unsqueeze(-1) + norms.unsqueeze(-2) - 2.0 * (z @ z.transpose(-1, -2))
        )
        square = square.clamp_min(0.0)
        eye = torch.eye(x.shape[-2], dtype=torch.bool, device=x.device)
        block = torch.where(eye, torch.ones((), dtype=z.dtype, device=z.device), _correlation(core, square))
        for scale in scales:
            block = block * scale.outputscale
        return block

    return gram


def gram_function(kernel: Kernel) -> GramFunction:
    """The Gram matrix of `kernel` as a function of rows, differentiable in the kernel's raw parameters.

    Scaled RBF, Matérn and RQ kernels use their closed form; every other kernel is called itself. The result
    is float64 for float64 rows.
    """
    parts = stationary_parts(kernel)
    if parts is not None:
        return _stationary_gram(*parts)

    def gram(x: Tensor) -> Tensor:
        with gpytorch.settings.lazily_evaluate_kernels(False):
            value = kernel(x)
        block = value if isinstance(value, Tensor) else value.to_dense()
        expected = (*x.shape[:-1], x.shape[-2])
        if tuple(block.shape) != expected:
            raise UnsupportedKernel(
                f"{type(kernel).__name__} gave a matrix of shape {tuple(block.shape)} for rows of shape "
                f"{tuple(x.shape)}, expected {expected}: kernels with several outputs per input are not supported."
            )
        return block

    return gram


def log_two_pi() -> float:
    """log(2 pi)."""
    return math.log(2 * math.pi)
