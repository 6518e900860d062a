"""Conditionals of a Gaussian process given a few earlier rows: the terms of Vecchia's likelihood."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sggp.hyperparameters.gram import log_two_pi
from sggp.linalg import try_cholesky


class _LogConditional(torch.autograd.Function):
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
        variance = blocks[:, rest, rest] - (blocks[:, :rest, rest] * b[:, :, 0]).sum(dim=1)
        variance = torch.maximum(variance, 1e-14 * blocks[:, rest, rest])
        error = residuals[:, rest] - (b * residuals[:, :rest]).sum(dim=1)  # (b, t)
        w = torch.cat([-b[:, :, 0], torch.ones_like(variance)[:, None]], dim=1)
        ctx.save_for_backward(w, a, error, variance)
        t = residuals.shape[2]
        return -0.5 * (error.square().sum(dim=1) / variance + t * (variance.log() + log_two_pi()))

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
    gram = torch.where(pair, gram, torch.zeros((), dtype=gram.dtype, device=gram.device))
    diagonal = torch.where(
        valid, noise.expand(valid.shape), torch.ones((), dtype=gram.dtype, device=gram.device)
    )
    value: Tensor = _LogConditional.apply(
        gram + torch.diag_embed(diagonal),
        torch.where(valid[:, :, None], residuals, torch.zeros_like(residuals)),
    )
    return value
