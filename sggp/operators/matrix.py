"""K(x, x): evaluated as it is multiplied, kept in memory, or by tiles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sggp.kernels import as_covariance
from sggp.operators.rows import require, tile_bytes, working_points

__all__ = ["KernelMatrix"]


class KernelMatrix:
    """The noise-free matrix behind a `KernelOperator`, in its working precision and in float64, and what it evaluated.

    Args:
        kernel: any GPyTorch kernel, or a `sggp.kernels.Covariance`.
        x: (n, d) checked rows.
        dtype: working precision of products.
        memory_budget: bytes that a product, and K itself, may take.
    """

    def __init__(self, kernel: Any, x: Tensor, dtype: torch.dtype, memory_budget: float) -> None:
        self.x, self.dtype, self.memory_budget = x.detach(), dtype, memory_budget
        self.entries = 0
        self.covariance64 = as_covariance(kernel, dtype=torch.float64)
        if x.is_floating_point():
            self.covariance = self.covariance64
            self.points64 = self.covariance.prepare(self.x.double())
            self.points, self.rounds_inputs = working_points(self.points64, dtype)
        else:
            self.covariance = as_covariance(kernel, dtype=dtype)
            self.points64 = self.covariance64.prepare(self.x)
            self.points, self.rounds_inputs = self.covariance.prepare(self.x), False
        self.recomputes = self.covariance.recomputes(x.device)
        self._stored: Tensor | None = None

    def count(self, entries: int) -> None:
        """Add to the number of entries that were evaluated or read."""
        self.entries += entries

    @property
    def keeps(self) -> bool:
        """Whether K is evaluated once: it fits the budget and no compiled engine does nearly as well without."""
        n = len(self.x)
        fits = self.bytes_of(n, n) + tile_bytes(self.memory_budget) <= self.memory_budget
        return fits and not self.recomputes

    def stored(self) -> Tensor:
        """K, once it is held."""
        if self._stored is None:
            self._stored = self._by_tiles(self.dtype)
        return self._stored

    def bytes_of(self, rows: int, cols: int) -> int:
        """Size of a block in the working precision."""
        return (torch.finfo(self.dtype).bits // 8) * rows * cols

    # products in the working precision ------------------------------------------------------------------------------

    def matmul(self, v: Tensor) -> Tensor:  # (n, s) -> (n, s)
        """K v."""
        self.count(len(self.x) ** 2)
        return self.stored() @ v if self.keeps else self.product(self.points, self.points, v)

    def rows_matmul(self, rows: Tensor, v: Tensor) -> Tensor:  # (b,), (n, s) -> (b, s)
        """Rows of K times v."""
        self.count(len(rows) * len(self.x))
        return self.stored()[rows] @ v if self.keeps else self.product(self.points[rows], self.points, v)

    def columns_matmul(self, cols: Tensor, v: Tensor) -> Tensor:  # (b,), (b, s) -> (n, s)
        """Columns of K times v."""
        self.count(len(cols) * len(self.x))
        return self.stored()[cols].T @ v if self.keeps else self.product(self.points, self.points[cols], v)

    def product(self, left: Any, right: Any, v: Tensor) -> Tensor:
        """K(left, right) v for prepared points, by tiles; counts nothing."""
        budget = tile_bytes(self.memory_budget)
        return self.covariance.matmul(left, right, v, memory_budget=budget).to(self.dtype)

    def rows(self, rows: Tensor) -> Tensor:  # (b,) -> (b, n)
        """Rows of K as one block."""
        self.count(len(rows) * len(self.x))
        if self.keeps:
            return self.stored()[rows]
        return self.covariance.block(self.points[rows], self.points).to(self.dtype)

    def block(self, rows: Tensor, cols: Tensor) -> Tensor:  # (b,), (c,) -> (b, c)
        """A dense block of K."""
        self._require(self.bytes_of(len(rows), len(cols)), f"a dense ({len(rows)}, {len(cols)}) block")
        self.count(len(rows) * len(cols))
        if self._stored is not None:
            return self._stored[rows][:, cols]
        return self.covariance.block(self.points[rows], self.points[cols])

    def dense(self, dtype: torch.dtype) -> Tensor:  # -> (n, n)
        """K as a new tensor, evaluated from the rows as given where `dtype` is float64."""
        n = len(self.x)
        self._require(torch.finfo(dtype).bits // 8 * n * n, f"the dense ({n}, {n}) matrix")
        self.count(n * n)
        return self._by_tiles(dtype, wide=dtype == torch.float64)

    # in float64 -----------------------------------------------------------------------------------------------------

    def matmul_wide(self, v: Tensor) -> Tensor:  # (n, s) -> (n, s)
        """K v in float64 whatever the working precision, by tiles."""
        self.count(len(self.x) ** 2)
        budget = tile_bytes(self.memory_budget)
        return self.covariance64.matmul(self.points64, self.points64, v, memory_budget=budget).double()

    def diagonal(self) -> Tensor:  # (n,)
        """The diagonal of K."""
        return self.covariance64.diagonal(self.points64).double()

    def cross_block(self, rows: Tensor, cols: Tensor) -> Tensor:  # (b,), (c,) -> (b, c)
        """A block of K."""
        self._require(8 * len(rows) * len(cols), f"a dense ({len(rows)}, {len(cols)}) block")
        self.count(len(rows) * len(cols))
        return self.covariance64.block(self.points64[rows], self.points64[cols]).double()

    def small_blocks(self, index: Tensor) -> Tensor:  # (b, m) -> (b, m, m)
        """Blocks K[index_i, index_i]."""
        self.count(index.shape[0] * index.shape[1] ** 2)
        return self.covariance64.small_blocks(self.x[index])

    def neighbour_columns(
        self, noise: Tensor, low_rank: Tensor | None, index: Tensor, real: Tensor
    ) -> Tensor | None:
        """Columns of the sparse inverse factor of K + noise in one fused call, or None where there is none."""
        found = self.covariance64.neighbour_columns(self.points64, noise, low_rank, index, real)
        if found is not None:
            self.count(index.shape[0] * index.shape[1] ** 2)
        return found

    # helpers --------------------------------------------------------------------------------------------------------

    def _by_tiles(self, dtype: torch.dtype, *, wide: bool = False) -> Tensor:
        n = len(self.x)
        covariance, points = (self.covariance64, self.points64) if wide else (self.covariance, self.points)
        out = torch.empty(n, n, dtype=dtype, device=self.x.device)
        # a tile and the handful of temporaries of the same size that evaluating it takes
        rows = max(1, tile_bytes(self.memory_budget) // (8 * out.element_size() * n))
        for tile in torch.arange(n, device=self.x.device).split(rows):
            out[tile] = covariance.block(points[tile], points).to(dtype)
        return out

    def _require(self, size: float, what: str) -> None:
        instead = "a solver that needs only products (ConjugateGradients, StochasticDualDescent)"
        require(size, what, self.memory_budget, instead)
