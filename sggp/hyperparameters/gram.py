"""Differentiable Gram matrices of one kernel, batched: (..., m, d) -> (..., m, m)."""

from __future__ import annotations

import math
from collections.abc import Callable

import gpytorch
import torch
from gpytorch.kernels import Kernel, MaternKernel, RBFKernel, RQKernel, ScaleKernel
from torch import Tensor

from sggp.errors import UnsupportedKernel
from sggp.hyperparameters.stationary import correlations, profile
from sggp.kernels import as_covariance

GramFunction = Callable[[Tensor], Tensor]


def stationary_parts(kernel: Kernel) -> tuple[list[ScaleKernel], RBFKernel | MaternKernel | RQKernel] | None:
    """Split ScaleKernel(...(stationary kernel)) into its scales and its core; None for every other structure."""
    scales: list[ScaleKernel] = []
    while type(kernel) is ScaleKernel and kernel.active_dims is None:
        scales.append(kernel)
        kernel = kernel.base_kernel
    if type(kernel) in (RBFKernel, MaternKernel, RQKernel) and kernel.active_dims is None:
        return scales, kernel
    return None


def frozen_base(kernel: Kernel) -> tuple[list[ScaleKernel], Kernel] | None:
    """Split ScaleKernel(...(base)) where the base has nothing to learn; None where it has."""
    scales: list[ScaleKernel] = []
    while type(kernel) is ScaleKernel and kernel.active_dims is None:
        scales.append(kernel)
        kernel = kernel.base_kernel
    if any(p.requires_grad for p in kernel.parameters()):
        return None
    return scales, kernel


def scaled_points(kernel: Kernel, x: Tensor) -> Tensor | None:  # (n, d)
    """x over the length scales of a scaled stationary kernel, centred; None for every other kernel."""
    parts = stationary_parts(kernel)
    if parts is None:
        return None
    with torch.no_grad():
        z = x.to(torch.float64)
        return (z - z.mean(dim=0)) / parts[1].lengthscale.reshape(-1)


def _stationary_gram(scales: list[ScaleKernel], core: RBFKernel | MaternKernel | RQKernel) -> GramFunction:
    phi = profile(core)

    def gram(x: Tensor) -> Tensor:
        block = _by_autograd(core, x) if phi is None else correlations(x, core.lengthscale, phi)
        for scale in scales:
            block = block * scale.outputscale
        return block

    return gram


def _by_autograd(core: RQKernel, x: Tensor) -> Tensor:
    """Correlations of a kernel whose profile has parameters of its own."""
    z = (x - x[..., -1:, :]) / core.lengthscale.reshape(-1)
    norms = z.square().sum(dim=-1)
    square = norms.unsqueeze(-1) + norms.unsqueeze(-2) - 2.0 * torch.matmul(z, z.transpose(-1, -2))
    value = (1 + square.clamp_min(0.0) / (2 * core.alpha)).pow(-core.alpha)
    eye = torch.eye(x.shape[-2], dtype=torch.bool, device=x.device)
    return torch.where(eye, torch.ones((), dtype=value.dtype, device=x.device), value)


def _frozen_gram(scales: list[ScaleKernel], base: Kernel, otherwise: GramFunction) -> GramFunction:
    """Scales times the base's matrix of the rows asked for last, which is evaluated once; `otherwise` for batches."""
    covariance = as_covariance(base, dtype=torch.float64)
    known: list[tuple[Tensor, Tensor]] = []

    def gram(x: Tensor) -> Tensor:
        if x.dim() != 2:
            return otherwise(x)
        if not known or known[0][0] is not x:
            with torch.no_grad():
                known[:] = [(x, covariance.block(x))]
        block = known[0][1]
        for scale in scales:
            block = block * scale.outputscale
        return block

    return gram


def gram_function(kernel: Kernel) -> GramFunction:
    """The Gram matrix of `kernel` as a function of rows, differentiable in the kernel's raw parameters.

    Scaled RBF, Matérn and RQ kernels use their closed form; of kernels in which nothing but scales is learnt (Tanimoto)
    the matrix below the scales is kept for the rows asked for last; every other kernel is called itself. The result is
    float64 for float64 rows.
    """
    parts = stationary_parts(kernel)
    if parts is not None:
        return _stationary_gram(*parts)
    frozen = frozen_base(kernel)
    if frozen is not None and frozen[0]:
        return _frozen_gram(*frozen, _called_gram(kernel))
    return _called_gram(kernel)


def _called_gram(kernel: Kernel) -> GramFunction:
    """The kernel itself, checked for the shape of what it gives."""

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
