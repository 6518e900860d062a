"""Gradients of quadratic forms in a kernel's parameters, by tiles."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import gpytorch.kernels as gk
import torch
from torch import Tensor

from sggp.autograd import with_gradients
from sggp.errors import DtypeError, ShapeError
from sggp.kernels.convert import check_kernel_structure, forward_covariance
from sggp.kernels.covariance import DEFAULT_BUDGET, BilinearGradient
from sggp.kernels.generic import copied, dense_tile
from sggp.kernels.sharing import worth_sharing
from sggp.native.tiling import tile_shape, tiles
from sggp.parallel import Part, current

__all__ = ["kernel_gradient"]


@with_gradients()
def kernel_gradient(
    kernel: gk.Kernel, x: Tensor, left: Tensor, right: Tensor, *, memory_budget: int = DEFAULT_BUDGET
) -> dict[str, Tensor]:
    """The gradient of Σ_j left_jᵀ K(x, x) right_j in the kernel's raw parameters.

    Args:
        kernel: a GPyTorch kernel; its parameters are read, not changed, and their `.grad` is left alone.
        x: (n, d) rows.
        left: (n, s) columns.
        right: (n, s) columns.
        memory_budget: bytes that a tile and its graph may take.

    Returns:
        From the name of every parameter that requires a gradient (as in `kernel.named_parameters()`) to a tensor of
        its shape and dtype. Chain it with the constraint to differentiate in the parameter itself.

    Raises:
        ShapeError: x, left and right do not fit together.
        UnsupportedKernel: the kernel is a batch or has several outputs per input.

    Cost: O(n²·(d + s)). (Scaled) RBF, Matérn and RQ kernels use a closed form in float64; others, the autograd
    graph of one tile at a time.

    Example:
        >>> import torch, gpytorch
        >>> k = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
        >>> sorted(kernel_gradient(k, torch.randn(5, 2), torch.ones(5, 1), torch.ones(5, 1)))
        ['base_kernel.raw_lengthscale', 'raw_outputscale']
    """
    check_kernel_structure(kernel)
    if x.ndim != 2 or left.ndim != 2 or left.shape != right.shape or left.shape[0] != x.shape[0]:
        raise ShapeError(
            f"got x {tuple(x.shape)}, left {tuple(left.shape)}, right {tuple(right.shape)}; "
            "expected (n, d), (n, s), (n, s)."
        )
    if not (left.dtype.is_floating_point and right.dtype.is_floating_point):
        raise DtypeError(f"left and right have dtypes {left.dtype} and {right.dtype}; expected floats.")
    form = Form(x.detach(), left.detach(), right.detach(), memory_budget)
    closed = _closed_form(kernel, form)
    return _by_tiles(kernel, form) if closed is None else closed


class Form(NamedTuple):
    """Σ_j left_jᵀ K(x, x) right_j, and the bytes that a tile may take."""

    x: Tensor
    left: Tensor
    right: Tensor
    memory_budget: int

    def total(self, compute: Callable[[Part], Tensor]) -> Tensor:
        """The sum of what `compute` gives for some rows of `left`, over the workers of a distributed run."""
        n = len(self.x)
        if not worth_sharing(n * n):
            return compute(Part(0, slice(0, n)))
        return current().total(n, compute, (self.x, self.left, self.right))


def _closed_form(kernel: gk.Kernel, form: Form) -> dict[str, Tensor] | None:
    """The stationary engine's bilinear form, chained to raw parameters; None for kernels it does not cover."""
    _, base = _unscaled(kernel)
    covariance = forward_covariance(base, None)
    if covariance is None:
        return None
    columns = form.x if kernel.active_dims is None else form.x[:, kernel.active_dims.to(form.x.device)]
    shaped = isinstance(base, gk.RQKernel) and base.raw_alpha.requires_grad
    gradient = partial(covariance.bilinear_gradient, with_shape=shaped, memory_budget=form.memory_budget)
    one = gradient(columns[:1], form.left[:1], form.right[:1])  # whether there is one, and its sizes
    if one is None:
        return None

    def some_rows(part: Part) -> Tensor:
        given = (part.here(value) for value in (columns, form.left, form.right))
        found = gradient(*given, rows=part.rows) or ()
        return torch.cat([value.reshape(-1) for value in found if value is not None])

    lengthscale, scale, *shape = form.total(some_rows).split([one.lengthscale.numel(), 1, *[1] * shaped])
    found = BilinearGradient(lengthscale, scale[0], shape[0][0] if shape else None)
    work = copied(kernel)
    scales, base = _unscaled(work)
    values = [float(value.detach()) for value in scales]
    factor = math.prod(values)

    def pull(value: Tensor, parameter: Tensor) -> Tensor:
        value = value if value.numel() == parameter.numel() else value.sum()
        return (value * factor).to(parameter).reshape(parameter.shape)

    outputs, grads = [base.lengthscale], [pull(found.lengthscale, base.lengthscale)]
    for place, outputscale in enumerate(scales):
        others = math.prod(values[:place] + values[place + 1 :])
        outputs.append(outputscale)
        grads.append((found.scale * others).to(outputscale).reshape(outputscale.shape))
    if found.shape is not None:
        outputs.append(base.alpha)
        grads.append(pull(found.shape, base.alpha))
    return _pull_back(work, outputs, grads)


def _unscaled(kernel: gk.Kernel) -> tuple[list[Tensor], gk.Kernel]:
    """The output scales around a kernel, outermost first, and the kernel; the outermost has chosen its columns."""
    scales = []
    while type(kernel) is gk.ScaleKernel:
        scales.append(kernel.outputscale)
        kernel = kernel.base_kernel
    return scales, kernel


def _pull_back(kernel: gk.Kernel, outputs: list[Tensor], grads: list[Tensor]) -> dict[str, Tensor]:
    """Gradients of the outputs in the parameters that want one; zeros for those that play no part."""
    named = {name: p for name, p in kernel.named_parameters() if p.requires_grad}
    live = [(o, g) for o, g in zip(outputs, grads, strict=True) if o.requires_grad]
    if not live:
        return {name: torch.zeros_like(p) for name, p in named.items()}
    found = torch.autograd.grad(
        [o for o, _ in live], list(named.values()), [g for _, g in live], allow_unused=True
    )
    return {
        name: torch.zeros_like(p) if grad is None else grad
        for (name, p), grad in zip(named.items(), found, strict=True)
    }


def _by_tiles(kernel: gk.Kernel, form: Form) -> dict[str, Tensor]:
    """Autograd through the kernel itself, holding the graph of one tile at a time."""
    x = form.x
    dtype = x.dtype if x.dtype in (torch.float32, torch.float64) else form.left.dtype
    named = {name: p for name, p in kernel.named_parameters() if p.requires_grad}
    if not named:
        return {}

    def some_rows(part: Part) -> Tensor:
        work = copied(kernel).to(dtype=dtype, device=part.device or x.device)
        rows, left, right = part.here(x.to(dtype)), part.here(form.left), part.here(form.right)
        parameters = [p for p in work.parameters() if p.requires_grad]
        total = [torch.zeros_like(p) for p in parameters]
        # the graph keeps every temporary, some with one value per coordinate
        per_entry, per_row = 128 + 24 * x.shape[1], 16 * x.shape[1] + 8 * left.shape[1]
        own = range(len(x))[part.rows]
        shape = tile_shape(len(own), len(x), form.memory_budget, per_entry=per_entry, per_row=per_row)
        for tile, cols in tiles(len(own), len(x), shape):
            places = slice(own.start + tile.start, own.start + tile.stop)
            with torch.enable_grad():
                block = dense_tile(work, rows[places], rows[cols])
            if not block.requires_grad:
                continue
            outer = (left[places] @ right[cols].T).to(block.dtype)
            grads = torch.autograd.grad(block, parameters, outer, allow_unused=True)
            for value, grad in zip(total, grads, strict=True):
                if grad is not None:
                    value += grad
        return torch.cat([value.reshape(-1) for value in total])

    parts = form.total(some_rows).split([p.numel() for p in named.values()])
    return {
        name: part.reshape(p.shape).to(p.dtype) for (name, p), part in zip(named.items(), parts, strict=True)
    }
