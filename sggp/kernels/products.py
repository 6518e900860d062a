"""Products with blocks of a covariance, tile by tile, and their gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sggp.autograd import full_precision
from sggp.kernels.points import Points
from sggp.native.tiling import tiles

__all__ = ["DifferentiableProduct", "Factors", "tiled_product"]


class Evaluator(Protocol):
    """What a product asks of a covariance."""

    def prepare(self, x: Tensor, centre: Tensor | None = None) -> Points: ...
    def _block(self, x: Points, z: Points) -> Tensor: ...
    def _product(self, x: Points, z: Points, v: Tensor, memory_budget: int) -> Tensor: ...
    def _tile_shape(self, x: Points, z: Points, v: Tensor, memory_budget: int) -> tuple[int, int]: ...


class Factors(NamedTuple):
    """K(x, z) and the bytes that a product with it may take."""

    covariance: Evaluator
    x: Points
    z: Points
    memory_budget: int


def tiled_product(
    block: Callable[[Points, Points], Tensor], x: Points, z: Points, v: Tensor, shape: tuple[int, int]
) -> Tensor:
    """Σ over tiles of block(x, z) v, (n, s); `block` maps two sets of points to a dense tile."""
    out = torch.zeros(len(x), v.shape[1], dtype=v.dtype, device=v.device)
    for rows, cols in tiles(len(x), len(z), shape):
        out[rows].addmm_(block(x[rows], z[cols]).to(v.dtype), v[cols])
    return out


class DifferentiableProduct(torch.autograd.Function):
    """K(x, z) v with gradients in x, z and v; the backward pass works by tiles too.

    grad_v = K(z, x) G; grad_x and grad_z pull G vᵀ, formed one tile at a time, back through the block. A gradient that
    is to be differentiated itself is that of one block of all rows.
    """

    @staticmethod
    def forward(ctx: Any, factors: Factors, raw_x: Tensor, raw_z: Tensor, v: Tensor) -> Tensor:
        covariance, x, z, ctx.memory_budget = factors
        ctx.covariance, ctx.centre = covariance, x.centre
        ctx.save_for_backward(raw_x, raw_z, v)
        return covariance._product(x, z, v, ctx.memory_budget)

    @staticmethod
    @full_precision()
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        covariance: Evaluator = ctx.covariance
        if torch.is_grad_enabled():
            return _on_the_graph(covariance, ctx, grad)
        raw_x, raw_z, v = (t.detach() for t in ctx.saved_tensors)
        x = covariance.prepare(raw_x, ctx.centre).astype(v.dtype)
        z = covariance.prepare(raw_z, ctx.centre).astype(v.dtype)
        need_x, need_z, need_v = ctx.needs_input_grad[1:]
        grad_v = covariance._product(z, x, grad, ctx.memory_budget) if need_v else None
        grad_x = torch.zeros_like(raw_x) if need_x else None
        grad_z = torch.zeros_like(raw_z) if need_z else None
        if need_x or need_z:
            shape = covariance._tile_shape(x, z, v, ctx.memory_budget // 2)
            for rows, cols in tiles(len(x), len(z), shape):
                with torch.enable_grad():
                    tile_x = raw_x[rows].requires_grad_(need_x)
                    tile_z = raw_z[cols].requires_grad_(need_z)
                    points = (covariance.prepare(tile, ctx.centre) for tile in (tile_x, tile_z))
                    block = covariance._block(*points)
                outer = grad[rows] @ v[cols].T
                wanted = [t for t, need in ((tile_x, need_x), (tile_z, need_z)) if need]
                parts = iter(torch.autograd.grad(block, wanted, outer.to(block.dtype)))
                if grad_x is not None:
                    grad_x[rows] += next(parts)
                if grad_z is not None:
                    grad_z[cols] += next(parts)
        return None, grad_x, grad_z, grad_v


def _on_the_graph(covariance: Evaluator, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients with their graph: they are those of the dense product."""
    given = [tensor.view_as(tensor) for tensor in ctx.saved_tensors]  # x and z may be one tensor
    wanted = ctx.needs_input_grad[1:]
    v = given[2]
    x, z = (covariance.prepare(rows, ctx.centre).astype(v.dtype) for rows in given[:2])
    product = covariance._block(x, z).to(v.dtype) @ v
    inputs = [tensor for tensor, need in zip(given, wanted, strict=True) if need]
    parts = iter(torch.autograd.grad(product, inputs, grad, create_graph=True))
    return None, *(next(parts) if need else None for need in wanted)
