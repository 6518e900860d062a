"""Rows, noise and budgets of the systems of a Gaussian process, checked once."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sggp.arrays import check_budget, check_noise, checked_dtype
from sggp.errors import DtypeError, MemoryBudgetError, ShapeError
from sggp.kernels.points import Points
from sggp.operators.base import Operator
from sggp.parallel import current

__all__ = ["SystemOperator", "require", "retyped", "tile_bytes", "working_points"]

_TILE_BYTES = 256 * 2**20
_ROWS = 65_536  # that are looked at together


class SystemOperator(Operator):
    """What the operators of this package share: rows of observations, their noise, a precision and a budget.

    Args:
        x: (n, d) observations, checked by `sggp.arrays.check_rows`.
        unknowns: how many numbers a column of the solution has.
        noise_variance: scalar or (n,), ≥ 0.
        dtype: working precision; None takes that of x, float32 for integer x.
        memory_budget: bytes that a product, with what is kept, may take.

    Attributes:
        shape, dtype, device: those of the matrix and its products.
        workers: those of the `with sggp.distributed()` that it is made in.
        noise_variance: (n,) Σ, float64.
    """

    def __init__(
        self,
        x: Tensor,
        unknowns: int,
        noise_variance: float | Tensor,
        dtype: torch.dtype | None,
        memory_budget: float,
    ) -> None:
        self.x, self.device, self.shape, self.workers = x, x.device, (unknowns, unknowns), current()
        own = x.dtype if x.is_floating_point() else torch.float32
        self.dtype = checked_dtype(dtype) or own
        self.memory_budget = check_budget(memory_budget)
        self.noise_variance = check_noise(noise_variance, len(x), x.device)  # (n,) float64
        self._noise = self.noise_variance.to(self.dtype)

    def _check_columns(self, v: Tensor) -> None:
        if v.ndim != 2 or v.shape[0] != self.shape[0]:
            raise ShapeError(
                f"expected a right-hand side of shape ({self.shape[0]}, s), got {tuple(v.shape)}."
            )
        if v.dtype != self.dtype:
            raise DtypeError(f"expected a right-hand side of dtype {self.dtype}, got {v.dtype}.")


def tile_bytes(memory_budget: float) -> int:
    """What a product may take for its tiles."""
    return int(min(_TILE_BYTES, memory_budget / 4))


def require(size: float, what: str, memory_budget: float, instead: str) -> None:
    """Refuse what does not fit the budget, before it is allocated."""
    if size > memory_budget:
        raise MemoryBudgetError(
            f"{what} needs {size / 2**30:.2f} GiB, more than memory_budget = {memory_budget / 2**30:.2f} GiB. "
            f"Raise memory_budget, or use {instead}."
        )


def working_points(points: Points, dtype: torch.dtype) -> tuple[Points, bool]:
    """The rows that products work with, and whether they are rounded.

    In float32, centred rows of a shift-invariant kernel are held in float32: the matrix stays that of a kernel, at
    inputs moved by less than 6e-8 of their distance from the centre. Other kernels keep float64 rows, and only their
    entries are narrowed.
    """
    covariance = points.owner
    if dtype == torch.float64 or covariance is None or not covariance.shift_invariant:
        return retyped(points, dtype), False
    raw, narrow = points.raw, points.raw.to(dtype)
    pairs = zip(narrow.split(_ROWS), raw.split(_ROWS), strict=True)
    if all(torch.equal(own.double(), given) for own, given in pairs):
        return covariance.prepare(narrow, points.centre), False
    centre = raw.mean(0)
    for own, given in zip(narrow.split(_ROWS), raw.split(_ROWS), strict=True):
        own.copy_(given - centre)
    return covariance.prepare(narrow), True


def retyped(points: Points, dtype: torch.dtype) -> Points:
    """The same prepared rows with another working precision for what is computed from them."""
    children = tuple(retyped(child, dtype) for child in points.children)
    return replace(points, dtype=dtype, children=children)
