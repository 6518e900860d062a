"""K(x, x): evaluated as it is multiplied, kept in memory, or by tiles."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sggp.kernels import as_covariance
from sggp.operators.far import FarMatrix, far_matrix
from sggp.operators.rows import tile_bytes, working_points

__all__ = ["KernelMatrix"]

_TILE_BYTES = 64 * 2**20
"""Of the tiles of a matrix that is made whole, temporaries included: more is no faster."""


class KernelMatrix:
    """The noise-free matrix behind a `KernelOperator`, in its working precision and in float64, and what it evaluated.

    Args:
        kernel: any GPyTorch kernel, or a `sggp.kernels.Covariance`.
        x: (n, d) checked rows.
        dtype: working precision of products.
        memory_budget: bytes that a product, and K itself, may take.

    Attributes:
        keeps_matrix: whether K is evaluated once: it fits the budget, and no compiled engine does nearly as well
            without.
        entries_evaluated: kernel entries that were evaluated or read since construction.
    """

    def __init__(self, kernel: Any, x: Tensor, dtype: torch.dtype, memory_budget: float) -> None:
        self.x, self.dtype, self.memory_budget = x.detach(), dtype, memory_budget
        self.entries_evaluated = 0
        self.covariance64 = as_covariance(kernel, dtype=torch.float64)
        if x.is_floating_point():
            self.covariance = self.covariance64
            self.points64 = self.covariance.prepare(self.x.double())
            self.points, self.rounds_inputs = working_points(self.points64, dtype)
        else:
            self.points64 = self.covariance64.prepare(self.x)
            self.covariance, self.points, self.rounds_inputs = self.covariance64, self.points64, False
            if dtype != torch.float64:
                self.covariance = as_covariance(kernel, dtype=dtype)
                self.points = self.covariance.prepare(self.x)
        self.recomputes = self.covariance.recomputes(x.device)
        needed = self.bytes_of(len(x), len(x)) + tile_bytes(memory_budget)
        self.keeps_matrix = needed <= memory_budget and not self.recomputes
        self.kept: Tensor | None = None

    def count(self, entries: int) -> None:
        """Add to the number of entries that were evaluated or read."""
        self.entries_evaluated += entries

    def stored(self) -> Tensor:
        """K, evaluated at the first call."""
        if self.kept is None:
            self.kept = self.by_tiles(self.dtype)
        return self.kept

    def bytes_of(self, rows: int, cols: int) -> int:
        """Size of a block in the working precision."""
        return (torch.finfo(self.dtype).bits // 8) * rows * cols

    def matmul(self, v: Tensor) -> Tensor:  # (n, s) -> (n, s)
        """K v."""
        if self.far is not None:
            return self.far_product(self.far, v)
        self.count(len(self.x) ** 2)
        return self.stored() @ v if self.keeps_matrix else self.product(self.points, self.points, v)

    @cached_property
    def far(self) -> FarMatrix | None:
        """K by a far field, of the rows as given, where that pays: `sggp.operators.far`."""
        return None if self.keeps_matrix else far_matrix(self.points64)

    def far_product(self, far: FarMatrix, v: Tensor) -> Tensor:
        """K v in the precision of v, counted."""
        before = far.entries
        product = far.matmul(v)
        self.count(far.entries - before)
        return product

    def rows_matmul(self, rows: Tensor, v: Tensor) -> Tensor:  # (b,), (n, s) -> (b, s)
        """Rows of K times v."""
        self.count(len(rows) * len(self.x))
        return (
            self.stored()[rows] @ v if self.keeps_matrix else self.product(self.points[rows], self.points, v)
        )

    def columns_matmul(self, cols: Tensor, v: Tensor) -> Tensor:  # (b,), (b, s) -> (n, s)
        """Columns of K times v."""
        self.count(len(cols) * len(self.x))
        return (
            self.stored()[cols].T @ v
            if self.keeps_matrix
            else self.product(self.points, self.points[cols], v)
        )

    def product(self, left: Any, right: Any, v: Tensor) -> Tensor:
        """K(left, right) v for prepared points, by tiles; counts nothing."""
        budget = tile_bytes(self.memory_budget)
        return self.covariance.matmul(left, right, v, memory_budget=budget).to(self.dtype)

    def rows(self, rows: Tensor) -> Tensor:  # (b,) -> (b, n)
        """Rows of K as one block."""
        self.count(len(rows) * len(self.x))
        if self.keeps_matrix:
            return self.stored()[rows]
        return self.covariance.block(self.points[rows], self.points).to(self.dtype)

    def by_tiles(self, dtype: torch.dtype, *, wide: bool = False) -> Tensor:  # -> (n, n)
        """K as a new tensor; `wide`: evaluated in float64 from the rows as given. Counts nothing."""
        n = len(self.x)
        covariance, points = (self.covariance64, self.points64) if wide else (self.covariance, self.points)
        out = torch.empty(n, n, dtype=dtype, device=self.x.device)
        # a tile and the handful of temporaries of the same size that evaluating it takes
        rows = max(1, min(tile_bytes(self.memory_budget), _TILE_BYTES) // (8 * out.element_size() * n))
        for tile in (slice(start, start + rows) for start in range(0, n, rows)):  # views, not copies
            out[tile] = covariance.block(points[tile], points)
        return out
