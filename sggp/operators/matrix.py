"""K(x, x): evaluated as it is multiplied, kept in memory, or by tiles."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sggp.kernels import as_covariance
from sggp.operators.far import FarMatrix, far_matrix
from sggp.operators.rows import tile_bytes, working_points
from sggp.parallel import Part, Workers, entered

__all__ = ["KernelMatrix"]

_TILE_BYTES = 64 * 2**20
"""Of the tiles of a matrix that is made whole, temporaries included: more is no faster."""


class KernelMatrix:
    """The noise-free matrix behind a `KernelOperator`, in its working precision and in float64, and what it evaluated.

    Several workers share each product by rows of K, and keep their own rows of it where they are kept.

    Args:
        kernel: any GPyTorch kernel, or a `sggp.kernels.Covariance`.
        x: (n, d) checked rows.
        dtype: working precision of products.
        memory_budget: bytes that a product, and what is kept of K, may take.
        workers: who shares the products.

    Attributes:
        keeps_matrix: whether K is evaluated once: it fits the budget, and no compiled engine does nearly as well
            without.
        entries_evaluated: kernel entries that were evaluated or read since construction.
    """

    def __init__(
        self, kernel: Any, x: Tensor, dtype: torch.dtype, memory_budget: float, workers: Workers
    ) -> None:
        self.x, self.dtype, self.memory_budget, self.workers = x.detach(), dtype, memory_budget, workers
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
        needed = self.bytes_of(-(-len(x) // workers.size), len(x)) + tile_bytes(memory_budget)
        self.keeps_matrix = needed <= memory_budget and not self.recomputes
        self._kept: dict[int, Tensor] = {}

    def count(self, entries: int) -> None:
        """Add to the number of entries that were evaluated or read."""
        self.entries_evaluated += entries

    @property
    def kept(self) -> Tensor | None:
        """All of K, where this process keeps it and has evaluated it."""
        return self._kept.get(0) if self.workers.size == 1 else None

    def stored(self, part: Part) -> Tensor:  # -> (rows of the part, n)
        """A worker's rows of K, evaluated at the first call."""
        if part.number not in self._kept:
            points = part.here(self.points)
            self._kept[part.number] = self._tiles(points[part.rows], points, self.dtype)
        return self._kept[part.number]

    def bytes_of(self, rows: int, cols: int) -> int:
        """Size of a block in the working precision."""
        return (torch.finfo(self.dtype).bits // 8) * rows * cols

    def matmul(self, v: Tensor) -> Tensor:  # (n, s) -> (n, s)
        """K v."""
        if self.far is not None:
            return self.far_product(self.far, v)
        self.count(len(self.x) ** 2)
        if not self.keeps_matrix:
            return self.product(self.points, self.points, v)
        return self.workers.gather(
            len(self.x), lambda part: self.stored(part) @ part.here(v), (v, *self.alike)
        )

    @property
    def alike(self) -> tuple[Tensor, Tensor]:
        """What every rank must hold alike: the rows, and a number for the kernel."""
        return self.x, self.covariance64.identity

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
        if not self.keeps_matrix:
            return self.product(self.points[rows], self.points, v)
        return self._row_block(rows).matmul(v)

    def columns_matmul(self, cols: Tensor, v: Tensor) -> Tensor:  # (b,), (b, s) -> (n, s)
        """Columns of K times v."""
        self.count(len(cols) * len(self.x))
        if not self.keeps_matrix:
            return self.product(self.points, self.points[cols], v)
        return self._row_block(cols).transposed_matmul(v)

    def product(self, left: Any, right: Any, v: Tensor) -> Tensor:
        """K(left, right) v for prepared points, by tiles; counts nothing."""
        budget = tile_bytes(self.memory_budget)
        with entered(self.workers):
            return self.covariance.matmul(left, right, v, memory_budget=budget).to(self.dtype)

    def product64(self, v: Tensor, rows: Tensor | None = None, cols: Tensor | None = None) -> Tensor:
        """K v in float64, of the rows as given, (n, s); or some rows of it, (b, s), or some columns, v (c, s)."""
        points, budget = self.points64, tile_bytes(self.memory_budget)
        left, right = (points if some is None else points[some] for some in (rows, cols))
        self.count(len(left) * len(right))
        with entered(self.workers):
            return self.covariance64.matmul(left, right, v, memory_budget=budget).double()

    def rows(self, rows: Tensor) -> RowBlock:  # (b,) -> (b, n)
        """Rows of K as one block that multiplies from both sides, evaluated once."""
        self.count(len(rows) * len(self.x))
        return self._row_block(rows)

    def _row_block(self, rows: Tensor) -> RowBlock:
        return RowBlock(self, rows)

    def dense_rows(self, rows: Tensor) -> Tensor:  # (b,) -> (b, n)
        """Rows of K as a tensor."""
        self.count(len(rows) * len(self.x))
        if self.kept is not None:
            return self.kept[rows]
        return self.covariance.block(self.points[rows], self.points).to(self.dtype)

    def by_tiles(
        self,
        dtype: torch.dtype,
        rows: slice = slice(None),
        columns: slice = slice(None),
        *,
        wide: bool = False,
    ) -> Tensor:  # -> (n, n), or some rows and columns
        """K as a new tensor; `wide`: evaluated in float64 from the rows as given. Counts nothing."""
        points = self.points64 if wide else self.points
        return self._tiles(points[rows], points[columns], dtype, wide=wide)

    def _tiles(self, left: Any, right: Any, dtype: torch.dtype, *, wide: bool = False) -> Tensor:
        covariance = self.covariance64 if wide else self.covariance
        out = torch.empty(len(left), len(right), dtype=dtype, device=right.device)
        # a tile and the handful of temporaries of the same size that evaluating it takes
        rows = max(
            1, min(tile_bytes(self.memory_budget), _TILE_BYTES) // (8 * out.element_size() * len(right))
        )
        for tile in (slice(start, start + rows) for start in range(0, len(left), rows)):  # views, not copies
            out[tile] = covariance.block(left[tile], right)
        return out


class RowBlock:
    """Rows of K, (b, n), of which every worker evaluates its columns once, for a product and one with the transpose."""

    def __init__(self, matrix: KernelMatrix, rows: Tensor) -> None:
        self._matrix, self._rows, self._parts = matrix, rows, dict[int, Tensor]()

    def _part(self, part: Part) -> Tensor:  # -> (b, columns of the part)
        if part.number not in self._parts:
            matrix, rows = self._matrix, part.here(self._rows)
            if matrix.keeps_matrix:
                found = (
                    matrix.stored(part)[:, rows].T if matrix.workers.size > 1 else matrix.stored(part)[rows]
                )
            else:
                points = part.here(matrix.points)
                found = matrix.covariance.block(points[rows], points[part.rows]).to(matrix.dtype)
            self._parts[part.number] = found
        return self._parts[part.number]

    def matmul(self, v: Tensor) -> Tensor:  # (n, s) -> (b, s)
        """K_I v."""
        return self._matrix.workers.total(
            len(v),
            lambda part: self._part(part) @ part.here(v[part.rows]),
            (self._rows, v, *self._matrix.alike),
        )

    def transposed_matmul(self, w: Tensor) -> Tensor:  # (b, s) -> (n, s)
        """K_Iᵀ w."""
        return self._matrix.workers.gather(
            len(self._matrix.x),
            lambda part: self._part(part).T @ part.here(w),
            (self._rows, w, *self._matrix.alike),
        )
