"""Conditionals of scaled stationary kernels in the C++ engine: no batch of small matrices is ever in memory.

The same terms as `gram_function` and `log_conditionals` give together, which stay the reference and serve every other
kernel, precision and device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gpytorch.kernels import Kernel
from torch import Tensor
from torch.autograd.function import once_differentiable

from sggp.hyperparameters.gram import stationary_parts
from sggp.kernels import as_covariance
from sggp.native.conditionals import Rows

__all__ = ["fused_conditionals"]

FusedConditionals = Callable[[Tensor, Tensor, Tensor], Tensor]


class _LogConditional(torch.autograd.Function):
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
        scale = torch.ones((), dtype=torch.float64)
        for outer in scales:
            scale = scale * outer.outputscale
        lengthscale = core.lengthscale.reshape(-1).expand(x.shape[1])
        value: Tensor = _LogConditional.apply(lengthscale, scale, noise, residuals, terms_of, index)
        return value

    return conditionals
