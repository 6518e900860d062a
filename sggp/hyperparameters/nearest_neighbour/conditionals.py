"""Conditionals of a Gaussian process given a few earlier rows: the terms of Vecchia's likelihood.

`log_conditionals` takes batches of small matrices, whatever the kernel, precision and device. For scaled stationary
kernels `fused_conditionals` has the same terms from the C++ engine, with no batch of matrices in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gpytorch.kernels import Kernel
from torch import Tensor
from torch.autograd.function import once_differentiable

from sggp.hyperparameters.gram import LOG_TWO_PI, stationary_parts, total_scale
from sggp.kernels import as_covariance
from sggp.linalg import try_cholesky
from sggp.native.conditionals import Rows


class _OfBlocks(torch.autograd.Function):
    """log N(r_last | r_rest) for blocks H of covariances; gradient in closed form, one rank-one matrix per block.

    With N the rest, b = H_NN^-1 H_Ni, w = (-b, 1), a = H_NN^-1 r_N, v = H_ii - H_iN b, e = r_i - b^T r_N:
    dl/dH = sym( w q^T ), q = (e^2/v - 1)/(2v) w + (e/v) (a, 0), and dl/dr = -(e/v) w.
    """

    @staticmethod
    def forward(ctx: Any, blocks: Tensor, residuals: Tensor) -> Tensor:  # (b, k, k), (b, k, t) -> (b,)
        rest = residuals.shape[1] - 1
        factor = try_cholesky(blocks[:, :rest, :rest])[0]
        columns = torch.cat([blocks[:, :rest, rest:], residuals[:, :rest]], dim=2)
        solved = torch.cholesky_solve(columns, factor) if rest else columns
        b, a = solved[:, :, :1], solved[:, :, 1:]
        # y_i | y_N ~ N(m + bᵀr_N, v): Katzfuss & Guinness 2021, equation 2
        variance = blocks[:, rest, rest] - (blocks[:, :rest, rest] * b[:, :, 0]).sum(dim=1)
        variance = torch.maximum(variance, 1e-14 * blocks[:, rest, rest])
        error = residuals[:, rest] - (b * residuals[:, :rest]).sum(dim=1)  # (b, t)
        w = torch.cat([-b[:, :, 0], torch.ones_like(variance)[:, None]], dim=1)
        ctx.save_for_backward(w, a, error, variance)
        t = residuals.shape[2]
        return -0.5 * (error.square().sum(dim=1) / variance + t * (variance.log() + LOG_TWO_PI))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor]:
        w, a, error, variance = ctx.saved_tensors
        (grad,) = upstream
        slope = error / variance[:, None]  # (b, t)
        q = 0.5 * (slope.square() - 1 / variance[:, None]).sum(dim=1, keepdim=True) * w
        q[:, :-1] += (a * slope[:, None, :]).sum(dim=2)
        outer = w[:, :, None] * (grad[:, None] * q)[:, None, :]
        return 0.5 * (outer + outer.transpose(1, 2)), -(grad[:, None] * w)[:, :, None] * slope[:, None, :]


def log_conditionals(gram: Tensor, residuals: Tensor, noise: Tensor, valid: Tensor) -> Tensor:  # (b,)
    """log N(y_i | y_N(i)), one term per block, summed over targets.

    Args:
        gram: (b, k, k) noise-free covariances of [neighbours, the row itself], float64.
        residuals: (b, k, t) targets less the mean, in the same order.
        noise: scalar, or (b, k) for per-point noise.
        valid: (b, k) false where a neighbour is missing (the first rows have fewer than k - 1 earlier ones).

    Returns:
        (b,) log densities, differentiable in gram, residuals and noise. Summed over all rows of an ordering
        they are Vecchia's log likelihood; with all earlier rows as neighbours, the exact one. NaN for a row whose
        neighbours have no factor even with a jitter of 1e-4 of the diagonal.

    Source: Vecchia 1988; Katzfuss & Guinness 2021, equation 2.
    """
    pair = valid[:, :, None] & valid[:, None, :]
    diagonal = noise.expand(valid.shape).masked_fill(~valid, 1.0)
    covariance = gram.masked_fill(~pair, 0.0) + torch.diag_embed(diagonal)
    value: Tensor = _OfBlocks.apply(covariance, residuals.masked_fill(~valid[:, :, None], 0.0))
    return value


FusedConditionals = Callable[[Tensor, Tensor, Tensor], Tensor]


class _OfRows(torch.autograd.Function):
    """Terms with their derivatives row by row, found together; backward weighs the rows."""

    @staticmethod
    def forward(
        ctx: Any,
        lengthscale: Tensor,  # (d,)
        scale: Tensor,  # ()
        noise: Tensor,  # () or (b, k)
        residuals: Tensor,  # (b, k, t)
        terms_of: Any,  # what `Covariance.log_conditionals` gives
        index: Tensor,
    ) -> Tensor:  # (b,)
        rows = Rows(index, residuals, noise)
        terms = terms_of(lengthscale, float(scale.detach()), rows, ctx.needs_input_grad[:4])
        ctx.save_for_backward(*terms[1:])
        return terms.value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        lengthscale, scale, noise, residuals = ctx.saved_tensors
        (grad,) = upstream
        if noise is not None:
            noise = grad @ noise if noise.dim() == 1 else grad[:, None] * noise
        return (
            None if lengthscale is None else grad @ lengthscale,
            None if scale is None else grad @ scale,
            noise,
            None if residuals is None else grad[:, None, None] * residuals,
            *(None,) * 2,
        )


def fused_conditionals(kernel: Kernel, x: Tensor) -> FusedConditionals | None:
    """(index, residuals, noise) -> log conditionals of rows of x, where the C++ engine has them for this kernel.

    The function takes (b, k) positions in x of [neighbours, the row itself], -1 where a neighbour is missing, (b, k, t)
    residuals and a noise of shape () or (b, k), and is differentiable in the kernel's parameters, in the residuals and
    in the noise. None for kernels other than scaled RBF and Matérn ones, and where there is no such engine.
    """
    parts = stationary_parts(kernel)
    if parts is None:
        return None
    scales, core = parts
    terms_of = as_covariance(core).log_conditionals(x)
    if terms_of is None or core.lengthscale.dtype != torch.float64:
        return None

    def conditionals(index: Tensor, residuals: Tensor, noise: Tensor) -> Tensor:
        lengthscale = core.lengthscale.reshape(-1).expand(x.shape[1])
        value: Tensor = _OfRows.apply(lengthscale, total_scale(scales, x), noise, residuals, terms_of, index)
        return value

    return conditionals
