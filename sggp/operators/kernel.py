"""K + Σ: a kernel matrix plus a diagonal of noise variances, fused with its products, kept in memory or by tiles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sggp.arrays import check_budget, check_noise, check_rows, working_dtype
from sggp.defaults import MEMORY_BUDGET
from sggp.errors import DtypeError, MemoryBudgetError, ShapeError
from sggp.kernels import as_covariance
from sggp.kernels.covariance import Points
from sggp.kernels.stationary import StationaryCovariance
from sggp.native import neighbours as native_neighbours
from sggp.operators.base import Operator
from sggp.operators.kernel_neighbours import KernelNeighbours
from sggp.operators.least_squares import KernelLeastSquares, detached_copy

__all__ = ["KernelOperator"]

_TILE_BYTES = 256 * 2**20


class KernelOperator(KernelNeighbours, KernelLeastSquares, Operator):  # type: ignore[misc]
    """The symmetric positive definite matrix K(x, x) + diag(noise_variance).

    Products are in `dtype`, and so are the inputs they see (`rounds_inputs`: whether that moved them; `matmul_wide`
    sees them as given); the small blocks that preconditioners ask for are in float64. A compiled engine evaluates K as
    it multiplies; where there is none for this kernel or device, K is kept in memory from the first product on if
    n²·itemsize fits `memory_budget`, else every product evaluates tiles. Nothing of size (rows, n) is held beside.

    Args:
        kernel: any GPyTorch kernel, or a `sggp.kernels.Covariance`.
        x: (n, d) inputs; floating, or integer counts for Tanimoto kernels.
        noise_variance: scalar or (n,), in squared units of the target, ≥ 0.
        dtype: working precision of products; default the dtype of x (float32 for integer x).
        memory_budget: bytes that a product, and K itself, may take; default 4 GiB.

    Raises:
        ShapeError, InputError, DtypeError: x or the noise cannot be used.
        MemoryBudgetError: on a request for a dense block that cannot fit, before it is allocated.

    Cost:
        `matmul` n² entries and 2·n²·s flops; O(tile) memory beside K.
    """

    def __init__(
        self,
        kernel: Any,
        x: Tensor,
        noise_variance: float | Tensor,
        *,
        dtype: torch.dtype | None = None,
        memory_budget: float = MEMORY_BUDGET,
    ) -> None:
        self.x = x = check_rows(x)
        dtype = working_dtype(dtype, x)
        self.memory_budget = check_budget(memory_budget)
        self.entries_evaluated = 0
        self._dtype = dtype
        self._noise64 = check_noise(noise_variance, len(x), x.device)
        self._noise = self._noise64.to(dtype)
        self._covariance64 = as_covariance(kernel, dtype=torch.float64)
        if x.is_floating_point():
            self.covariance = self._covariance64
            self._points64 = self.covariance.prepare(self.x.double())
            self._points, self.rounds_inputs = _working_points(self._points64, dtype)
        else:
            self.covariance = as_covariance(kernel, dtype=dtype)
            self._points64 = self._covariance64.prepare(self.x)
            self._points = self.covariance.prepare(self.x)
            self.rounds_inputs = False
        self._matrix: Tensor | None = None
        self._fused = isinstance(self.covariance, StationaryCovariance) and native_neighbours.available(
            x.device
        )
        self._kernel, self._penalty_rows, self._penalty_points = detached_copy(kernel), self.x, self._points

    @property
    def shape(self) -> tuple[int, int]:
        return (len(self.x), len(self.x))

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

    @property
    def keeps_matrix(self) -> bool:
        """Whether K is evaluated once: it fits the budget and no compiled engine does nearly as well without."""
        fits = self._bytes(len(self.x), len(self.x)) + self._tile_bytes() <= self.memory_budget
        return fits and not self._fused

    def __repr__(self) -> str:
        kept = "kept in memory" if self.keeps_matrix else "fused" if self._fused else "by tiles"
        return f"KernelOperator(n={len(self.x)}, d={self.x.shape[1]}, {self._dtype}, K {kept})"

    # products -----------------------------------------------------------------------------------------------------

    def matmul(self, v: Tensor) -> Tensor:  # (n, s) -> (n, s)
        """(K + Σ) v."""
        self._check_columns(v)
        self.entries_evaluated += len(self.x) ** 2
        if self.keeps_matrix:
            product = self._stored() @ v
        else:
            product = self.covariance.matmul(
                self._points, self._points, v, memory_budget=self._tile_bytes()
            ).to(self._dtype)
        return product.addcmul_(self._noise[:, None], v)

    def matmul_wide(self, v: Tensor) -> Tensor:  # (n, s) -> (n, s)
        """(K + Σ) v in float64 whatever the working precision, by tiles: what iterative refinement measures with."""
        if self._dtype == torch.float64:
            return self.matmul(v.double())
        self.entries_evaluated += len(self.x) ** 2
        v = v.double()
        product = self._covariance64.matmul(
            self._points64, self._points64, v, memory_budget=self._tile_bytes()
        )
        return product.double().addcmul_(self._noise64[:, None], v)

    def rows_matmul(self, rows: Tensor, v: Tensor) -> Tensor:  # (b,), (n, s) -> (b, s)
        """Rows of K + Σ times v."""
        self._check_columns(v)
        self.entries_evaluated += len(rows) * len(self.x)
        if self.keeps_matrix:
            product = self._stored()[rows] @ v
        else:
            product = self.covariance.matmul(
                self._points[rows], self._points, v, memory_budget=self._tile_bytes()
            )
        return product.addcmul_(self._noise[rows, None], v[rows])

    def columns_matmul(self, cols: Tensor, v: Tensor) -> Tensor:  # (b,), (b, s) -> (n, s)
        """Columns of K + Σ times v."""
        self.entries_evaluated += len(cols) * len(self.x)
        if self.keeps_matrix:
            product = self._stored()[cols].T @ v
        else:
            product = self.covariance.matmul(
                self._points, self._points[cols], v, memory_budget=self._tile_bytes()
            )
        return product.to(self._dtype).index_add_(0, cols, self._noise[cols, None] * v)

    def block(self, rows: Tensor, cols: Tensor) -> Tensor:  # (b,), (c,) -> (b, c)
        """A dense block of K + Σ; the noise enters where a row meets itself."""
        self._require(self._bytes(len(rows), len(cols)), f"a dense ({len(rows)}, {len(cols)}) block")
        self.entries_evaluated += len(rows) * len(cols)
        if self._matrix is not None:
            out = self._matrix[rows][:, cols]
        else:
            out = self.covariance.block(self._points[rows], self._points[cols])
        return out + torch.where(rows[:, None] == cols[None], self._noise[rows, None], out.new_zeros(()))

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:  # -> (n, n)
        """K + Σ as one tensor.

        Raises:
            MemoryBudgetError: n²·itemsize exceeds the budget.
        """
        n = len(self.x)
        itemsize = torch.finfo(dtype).bits // 8
        self._require(itemsize * n * n, f"the dense ({n}, {n}) matrix")
        self.entries_evaluated += n * n
        wide = dtype == torch.float64
        covariance, points = (self._covariance64, self._points64) if wide else (self.covariance, self._points)
        out = torch.empty(n, n, dtype=dtype, device=self.device)
        for tile in torch.arange(n, device=self.device).split(self._tile_rows(itemsize)):
            out[tile] = covariance.block(points[tile], points).to(dtype)
        out.diagonal().add_(self._noise64.to(dtype))
        return out

    def diagonal(self) -> Tensor:  # (n,)
        """The diagonal of K + Σ in the working precision."""
        return self.covariance.diagonal(self._points).to(self._dtype) + self._noise

    # what preconditioners ask for -----------------------------------------------------------------------------------

    def kernel_diagonal(self) -> Tensor:  # (n,)
        """The diagonal of K in float64."""
        return self._covariance64.diagonal(self._points64).double()

    def cross_block(self, rows: Tensor, cols: Tensor) -> Tensor:  # (b,), (c,) -> (b, c)
        """A block of K in float64."""
        self._require(8 * len(rows) * len(cols), f"a dense ({len(rows)}, {len(cols)}) block")
        self.entries_evaluated += len(rows) * len(cols)
        return self._covariance64.block(self._points64[rows], self._points64[cols]).double()

    def small_blocks(self, index: Tensor) -> Tensor:  # (b, m) -> (b, m, m)
        """Blocks K[index_i, index_i] in float64."""
        self.entries_evaluated += index.shape[0] * index.shape[1] ** 2
        return self._covariance64.small_blocks(self.x[index])

    # helpers --------------------------------------------------------------------------------------------------------

    def _stored(self) -> Tensor:
        if self._matrix is None:
            n = len(self.x)
            out = torch.empty(n, n, dtype=self._dtype, device=self.device)
            for tile in torch.arange(n, device=self.device).split(self._tile_rows(out.element_size())):
                out[tile] = self.covariance.block(self._points[tile], self._points)
            self._matrix = out
        return self._matrix

    def _bytes(self, rows: int, cols: int) -> int:
        return (torch.finfo(self._dtype).bits // 8) * rows * cols

    def _tile_bytes(self) -> int:
        return int(min(_TILE_BYTES, self.memory_budget / 4))

    def _tile_rows(self, itemsize: int) -> int:
        # a tile and the handful of temporaries of the same size that evaluating it takes
        return max(1, self._tile_bytes() // (8 * itemsize * len(self.x)))

    def _require(self, size: float, what: str) -> None:
        if size > self.memory_budget:
            raise MemoryBudgetError(
                f"{what} needs {size / 2**30:.2f} GiB, more than memory_budget = {self.memory_budget / 2**30:.2f} GiB. "
                "Raise memory_budget, or use a solver that needs only products (ConjugateGradients, "
                "StochasticDualDescent)."
            )

    def _check_columns(self, v: Tensor) -> None:
        if v.ndim != 2 or v.shape[0] != len(self.x):
            raise ShapeError(f"expected a right-hand side of shape ({len(self.x)}, s), got {tuple(v.shape)}.")
        if v.dtype != self._dtype:
            raise DtypeError(f"expected a right-hand side of dtype {self._dtype}, got {v.dtype}.")


def _working_points(points: Points, dtype: torch.dtype) -> tuple[Points, bool]:
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
