"""The one power iteration: how large a positive semi-definite matrix is."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["largest_eigenvalue"]


def largest_eigenvalue(
    product: Callable[[Tensor], Tensor], v: Tensor, steps: int, rtol: float = 0.0
) -> float:  # v (n, 1)
    """λ₁ of a positive semi-definite product, from below, by power iterations from v.

    They end after `steps`, or once the estimate moves by less than a share `rtol`; at zero, NaN or infinity at once.
    """
    top, v = 0.0, v / v.norm().clamp_min(torch.finfo(v.dtype).tiny)
    for _ in range(steps):
        v = product(v)
        last, top = top, float(v.double().norm())
        if not 0 < top < math.inf:
            break
        v = v / top
        if abs(top - last) < rtol * top:
            break
    return top
