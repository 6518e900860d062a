"""Rows, noise and budgets of the systems of a Gaussian process, checked once."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sggp.errors import DtypeError, InputError, MemoryBudgetError, ShapeError
from sggp.kernels.points import Points
from sggp.operators.base import Operator

__all__ = ["SystemOperator", "check_rows", "noise_vector", "retyped", "tile_bytes", "working_points"]

_TILE_BYTES = 256 * 2**20


class SystemOperator(Operator):
    """What the operators of this package share: rows of observations, their noise, a precision and a budget.

    Args:
        x: (n, d) observations.
        unknowns: how many numbers a column of the solution has.
        noise_variance: scalar or (n,), ≥ 0.
        dtype: working precision; None takes that of x, float32 for integer x.
        memory_budget: bytes that a product, with what is kept, may take.
    """

    def __init__(
        self,
        x: Tensor,
        unknowns: int,
        noise_variance: float | Tensor,
        dtype: torch.dtype | None,
        memory_budget: float,
    ) -> None:
        self._dtype = check_rows("x", x, dtype)
        if memory_budget <= 0:
            raise InputError(f"memory_budget must be a positive number of bytes, got {memory_budget}.")
        self.x = x.detach()
        self.memory_budget = float(memory_budget)
        self._unknowns = unknowns
        self._noise64 = noise_vector(noise_variance, x)
        self._noise = self._noise64.to(self._dtype)

    @property
    def shape(self) -> tuple[int, int]:
        return (self._unknowns, self._unknowns)

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def noise_variance(self) -> Tensor:  # (n,)
        """Σ as a float64 vector."""
        return self._noise64

    def _tile_bytes(self) -> int:
        return tile_bytes(self.memory_budget)

    def _check_columns(self, v: Tensor) -> None:
        if v.ndim != 2 or v.shape[0] != self._unknowns:
            raise ShapeError(
                f"expected a right-hand side of shape ({self._unknowns}, s), got {tuple(v.shape)}."
            )
        if v.dtype != self._dtype:
            raise DtypeError(f"expected a right-hand side of dtype {self._dtype}, got {v.dtype}.")


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


def check_rows(name: str, rows: Any, dtype: torch.dtype | None) -> torch.dtype:
    """Check (n, d) rows and settle the working precision: `dtype`, else that of float rows, else float32.

    Raises:
        ShapeError, InputError, DtypeError: naming what was given and what is expected.
    """
    if not isinstance(rows, Tensor):
        raise DtypeError(f"{name} must be a torch.Tensor of shape (n, d), got {type(rows).__name__}.")
    if rows.ndim != 2 or len(rows) == 0:
        raise ShapeError(f"{name} must be (n, d) with n ≥ 1, got shape {tuple(rows.shape)}.")
    if dtype is None:
        dtype = rows.dtype if rows.is_floating_point() else torch.float32
    if dtype not in (torch.float32, torch.float64):
        raise DtypeError(f"the working precision must be torch.float32 or torch.float64, got {dtype}.")
    if rows.is_floating_point() and not bool(torch.isfinite(rows).all()):
        bad = int((~torch.isfinite(rows)).any(1).nonzero()[0])
        raise InputError(f"{name} holds NaN or infinity (first in row {bad}); remove or impute such rows.")
    return dtype


def working_points(points: Points, dtype: torch.dtype) -> tuple[Points, bool]:
    """The rows that products work with, and whether they are rounded.

    In float32, centred rows of a shift-invariant kernel are held in float32: the matrix stays that of a kernel, at
    inputs moved by less than 6e-8 of their distance from the centre. Other kernels keep float64 rows, and only their
    entries are narrowed.
    """
    covariance = points.owner
    if dtype == torch.float64 or covariance is None or not covariance.shift_invariant:
        return retyped(points, dtype), False
    narrow = points.raw.to(dtype)
    if torch.equal(narrow.double(), points.raw):
        return covariance.prepare(narrow, points.centre), False
    return covariance.prepare((points.raw - points.raw.mean(0)).to(dtype)), True


def retyped(points: Points, dtype: torch.dtype) -> Points:
    """The same prepared rows with another working precision for what is computed from them."""
    children = tuple(retyped(child, dtype) for child in points.children)
    return replace(points, dtype=dtype, children=children)


def noise_vector(noise_variance: float | Tensor, x: Tensor) -> Tensor:  # -> (n,)
    """Σ as a float64 vector, checked."""
    noise = torch.as_tensor(noise_variance, dtype=torch.float64, device=x.device).detach()
    if noise.ndim == 0 or noise.numel() == 1:
        noise = noise.reshape(()).expand(len(x))
    if noise.shape != (len(x),):
        raise ShapeError(f"noise_variance must be a scalar or ({len(x)},), got shape {tuple(noise.shape)}.")
    if not bool(torch.isfinite(noise).all()) or bool((noise < 0).any()) or math.isnan(float(noise.sum())):
        raise InputError(
            "noise_variance must be finite and not negative; it is a variance in squared units of the target."
        )
    return noise.contiguous()
