"""K + Σ: a kernel matrix plus a diagonal of noise variances."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from sggp.arrays import check_rows
from sggp.defaults import MEMORY_BUDGET
from sggp.neighbours import KernelNeighbours
from sggp.operators.base import Forwarded, NeighbourOperator
from sggp.operators.least_squares import KernelLeastSquares
from sggp.operators.matrix import KernelMatrix
from sggp.operators.rows import SystemOperator, require
from sggp.parallel import Part, by_ranks, entered

__all__ = ["KernelOperator"]


class KernelOperator(SystemOperator):
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

    What its parts offer is forwarded, and explained there: `sggp.operators.matrix.KernelMatrix`,
    `sggp.neighbours.KernelNeighbours` and `sggp.operators.least_squares.KernelLeastSquares`.
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
        x = check_rows(x)
        super().__init__(x, len(x), noise_variance, dtype, memory_budget)
        self._matrix = matrix = KernelMatrix(kernel, x, self.dtype, self.memory_budget, self.workers)
        self.covariance, self.rounds_inputs = matrix.covariance, matrix.rounds_inputs
        self._exact = (matrix.covariance64, matrix.points64)
        self._neighbours = KernelNeighbours(
            (matrix.covariance, matrix.points), self._exact, self.noise_variance, matrix.count
        )
        self._least_squares = KernelLeastSquares(kernel, matrix, self._noise)

    def with_noise(self, noise: Tensor) -> NeighbourOperator:  # (n,) float64
        """The same K with another Σ, for preconditioners: they share the matrix and count its entries together."""
        other = copy.copy(self)
        other.noise_variance, other._noise = noise, noise.to(self.dtype)
        matrix = self._matrix
        other._neighbours = KernelNeighbours(
            (matrix.covariance, matrix.points), self._exact, noise, matrix.count
        )
        return other

    entries_evaluated = Forwarded("_matrix")
    keeps_matrix = Forwarded("_matrix")

    def __repr__(self) -> str:
        how = "fused" if self._matrix.recomputes else "by tiles"
        kept = "kept in memory" if self.keeps_matrix else how
        shared = "" if self.workers.size == 1 else f", {self.workers}"
        return f"KernelOperator(n={len(self.x)}, d={self.x.shape[1]}, {self.dtype}, K {kept}{shared})"

    # products -----------------------------------------------------------------------------------------------------

    def matmul(self, v: Tensor) -> Tensor:  # (n, s) -> (n, s)
        """(K + Σ) v."""
        self._check_columns(v)
        return self._matrix.matmul(v).addcmul_(self._noise[:, None], v)

    def matmul_wide(self, v: Tensor) -> Tensor:  # (n, s) -> (n, s)
        """(K + Σ) v in float64 whatever the working precision, by tiles: what iterative refinement measures with."""
        v = v.double()
        if self.dtype == torch.float64:
            return self.matmul(v)
        far = self._matrix.far
        product = self._matrix.product64(v) if far is None else self._matrix.far_product(far, v)
        return product.addcmul_(self.noise_variance[:, None], v)

    def product_within(
        self, v: Tensor, allowed: Tensor
    ) -> tuple[Tensor, Tensor]:  # (n, s), (s,) -> (n, s), (s,)
        """`matmul_wide(v)` with no more error than allowed, as 2-norms of its columns, and that error.

        The error of a far field is measured on exact rows at random places: see `sggp.operators.far`.
        """
        matrix = self._matrix
        if matrix.far is None:
            return self.matmul_wide(v), torch.zeros(v.shape[1], dtype=torch.float64)
        before = matrix.far.entries
        product, error = matrix.far.within(v.double(), allowed)
        matrix.count(matrix.far.entries - before)
        return product.addcmul_(self.noise_variance[:, None], v.double()), error

    @property
    def approximates(self) -> bool:
        """Whether products are by a far field."""
        return self._matrix.far is not None

    @property
    def entries_per_epoch(self) -> int:
        """n², or what a product with a far field takes."""
        far = self._matrix.far
        return len(self.x) ** 2 if far is None else far.entries_per_product

    def rows_matmul(self, rows: Tensor, v: Tensor) -> Tensor:  # (b,), (n, s) -> (b, s)
        """Rows of K + Σ times v."""
        self._check_columns(v)
        return self._matrix.rows_matmul(rows, v).addcmul_(self._noise[rows, None], v[rows])

    def rows_matmul_wide(self, rows: Tensor, v: Tensor) -> Tensor:  # (b,), (n, s) -> (b, s)
        """Rows of K + Σ times v in float64 whatever the working precision, as `matmul_wide`."""
        v = v.double()
        product = self._matrix.product64(v, rows)
        return product.addcmul_(self.noise_variance[rows, None], v[rows])

    def columns_matmul(self, cols: Tensor, v: Tensor) -> Tensor:  # (b,), (b, s) -> (n, s)
        """Columns of K + Σ times v."""
        return self._matrix.columns_matmul(cols, v).index_add_(0, cols, self._noise[cols, None] * v)

    def block(self, rows: Tensor, cols: Tensor) -> Tensor:  # (b,), (c,) -> (b, c)
        """A dense block of K + Σ; the noise enters where a row meets itself."""
        matrix, b, c = self._matrix, len(rows), len(cols)
        self._require(matrix.bytes_of(b, c), f"a dense ({b}, {c}) block")
        matrix.count(b * c)
        if matrix.kept is not None:
            out = matrix.kept[rows][:, cols]
        else:
            out = self.covariance.block(matrix.points[rows], matrix.points[cols])
        return out + torch.where(rows[:, None] == cols[None], self._noise[rows, None], out.new_zeros(()))

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:  # -> (n, n)
        """K + Σ as one tensor.

        Raises:
            MemoryBudgetError: n²·itemsize exceeds the budget.
        """
        n = len(self.x)
        self._require(torch.finfo(dtype).bits // 8 * n * n, f"the dense ({n}, {n}) matrix")
        self._matrix.count(n * n)
        out = self._matrix.by_tiles(dtype, wide=dtype == torch.float64)
        out.diagonal().add_(self.noise_variance.to(dtype))
        return out

    def dense_rows(self, start: int, stop: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Rows of K + Σ from `start` to before `stop` and the columns before `stop`, (stop - start, stop).

        Raises:
            MemoryBudgetError: the lower triangle of all rows, in such parts, exceeds the budget.
        """
        n, rows = len(self.x), stop - start
        self._require(
            torch.finfo(dtype).bits // 16 * n * (n + rows), f"the lower triangle of the ({n}, {n}) matrix"
        )
        self._matrix.count(rows * stop)
        out = self._matrix.by_tiles(dtype, slice(start, stop), slice(0, stop), wide=dtype == torch.float64)
        out[:, start:].diagonal().add_(self.noise_variance[start:stop].to(dtype))
        return out

    def diagonal(self) -> Tensor:  # (n,)
        """The diagonal of K + Σ in the working precision."""
        return self.covariance.diagonal(self._matrix.points).to(self.dtype) + self._noise

    def work(self, columns: float) -> float:
        """Entries whose evaluation and multiplication take as long as a product with so many columns."""
        far = self._matrix.far
        return self.entries_per_epoch if far is None else far.work(columns)

    # what preconditioners ask for -----------------------------------------------------------------------------------

    def kernel_diagonal(self) -> Tensor:  # (n,)
        """The diagonal of K in float64."""
        covariance, points = self._exact
        return covariance.diagonal(points).double()

    def cross_block(self, rows: Tensor, cols: Tensor) -> Tensor:  # (b,), (c,) -> (b, c)
        """A block of K in float64."""
        self._require(8 * len(rows) * len(cols), f"a dense ({len(rows)}, {len(cols)}) block")
        self._matrix.count(len(rows) * len(cols))
        covariance, points = self._exact
        return covariance.block(points[rows], points[cols]).double()

    def cross_matmul(
        self, v: Tensor, rows: Tensor | None = None, cols: Tensor | None = None
    ) -> Tensor:  # (c or n, s), (b,), (c,) -> (b or n, s)
        """A block of K in float64, of all rows or columns where none are named, times v; it is held nowhere."""
        return self._matrix.product64(v.double(), rows, cols)

    def small_blocks(self, index: Tensor) -> Tensor:  # (b, m) -> (b, m, m)
        """Blocks K[index_i, index_i] in float64."""
        self._matrix.count(index.shape[0] * index.shape[1] ** 2)
        return self._exact[0].small_blocks(self.x[index])

    def sparse_columns(self, index: Tensor, real: Tensor, low_rank: Tensor | None) -> Tensor | None:
        """Columns of the sparse inverse factor in one fused call, or None where this kernel or device has none.

        See `sggp.native.neighbours.sparse_columns`.
        """
        covariance, points = self._exact

        def some(rows: slice) -> Tensor | None:
            return covariance.neighbour_columns(
                points, self.noise_variance, low_rank, index[rows], real[rows]
            )

        one = some(slice(0, 1))
        if one is None:
            return None

        def share(part: Part) -> Tensor:
            found = some(part.rows)
            return one if found is None else found

        self._matrix.count(index.shape[0] * index.shape[1] ** 2)
        with entered(self.workers):
            return by_ranks(len(index), share, (index,))

    ordering = Forwarded("_neighbours")
    nearest_chosen = Forwarded("_neighbours")
    metric_columns = Forwarded("_neighbours")
    earlier_neighbours = Forwarded("_neighbours")
    earlier_of = Forwarded("_neighbours")

    # what stochastic gradient descent asks for ----------------------------------------------------------------------

    draws_features = Forwarded("_least_squares")
    require_noise = Forwarded("_least_squares")
    anchored_target = Forwarded("_least_squares")
    data_gradient = Forwarded("_least_squares")
    penalty_estimate = Forwarded("_least_squares")
    design_norms = Forwarded("_least_squares")

    def _require(self, size: float, what: str) -> None:
        instead = "a solver that needs only products (ConjugateGradients, StochasticDualDescent)"
        require(size, what, self.memory_budget, instead)
