"""Where derivatives end: gradients that may not be differentiated once more say so instead of being constants.

PyTorch's `once_differentiable` lets a gradient pass as a constant where the one that came from above is constant, as
that of a sum is, and what it puts on the graph is not on the way to the inputs: second derivatives were zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sggp.errors import InputError

__all__ = ["differentiated_no_more", "differentiated_once"]


def differentiated_once(values: Tensor, reason: str, *of: Tensor) -> Tensor:
    """The values, whose gradients can be had but not be differentiated: InputError, with the reason, where they are.

    Args:
        of: what the values are functions of, on the way to what is differentiated in.
    """
    found: Tensor = _Once.apply(values, reason, *of)
    return found


def differentiated_no_more(gradient: Tensor, reason: str, *of: Tensor) -> Tensor:
    """A gradient, for a backward pass, that raises InputError where it is differentiated itself."""
    found: Tensor = _Never.apply(gradient, reason, *of)
    return found


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, reason: str, *of: Tensor) -> Tensor:
        ctx.reason = reason
        ctx.save_for_backward(*of)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        of = ctx.saved_tensors
        return differentiated_no_more(upstream[0], ctx.reason, *of), None, *[None] * len(of)


class _Never(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, reason: str, *of: Tensor) -> Tensor:
        ctx.reason = reason
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        raise InputError(f"{ctx.reason}: leave out create_graph=True, or take differences of gradients.")
