"""The normal equation of a Gaussian process that is written on inducing points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sggp.arrays import check_rows
from sggp.defaults import MEMORY_BUDGET
from sggp.errors import DtypeError, ShapeError
from sggp.kernels import as_covariance
from sggp.kernels.covariance import Covariance
from sggp.kernels.points import Points
from sggp.operators.least_squares import PenaltyEstimate, detached_copy
from sggp.operators.rows import SystemOperator, require, retyped, tile_bytes
from sggp.parallel import Part, entered

__all__ = ["InducingOperator"]

Term = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(rows (b,), K(x_rows, z) (b, m), out) -> what these rows add to a sum, which may be out, added to in place."""


class InducingOperator(PenaltyEstimate, SystemOperator):
    """The symmetric positive definite matrix A = K_ZX Σ⁻¹ K_XZ + K_ZZ.

    A u = K_ZX Σ⁻¹ y minimises ½(y − K_XZ u)ᵀΣ⁻¹(y − K_XZ u) + ½uᵀK_ZZ u, and K(·, Z)u is the posterior mean of the
    best function on the centres Z; with Z = X it is that of the exact Gaussian process. Right-hand sides are made by
    `normal_rhs`. K_XZ and K_ZZ are kept in memory from the first product on when (n + m)·m·itemsize fits
    `memory_budget`; otherwise every product streams over x and evaluates each entry once. Several workers share the
    rows of x and stream.

    Args:
        kernel: any GPyTorch kernel, or a `sggp.kernels.Covariance`.
        x: (n, d) inputs; floating, or integer counts for Tanimoto kernels.
        z: (m, d) centres, m ≤ n in any sensible use; integer where x is.
        noise_variance: scalar or (n,), in squared units of the target, > 0.
        dtype: working precision of products; default the dtype of x (float32 for integer x). Sums over x are kept in
            float64 whatever it is.
        memory_budget: bytes that a product, with what is kept, may take; default 4 GiB.

    Raises:
        ShapeError, InputError, DtypeError: x, z or the noise cannot be used.
        MemoryBudgetError: on a request for the dense matrix where it cannot fit.

    Cost:
        `matmul` m·(n + m) entries and 4·n·m·s flops. One such product is one epoch (`entries_per_epoch`).

    A relative residual of this equation says less than one of K + Σ: what small eigenvalues contribute to predictions
    is amplified by up to the root of the condition number of A. Ask for tolerances a thousand times smaller.

    Source: Lin et al. 2023, section 3.2 (SGD with inducing points).
    """

    def __init__(
        self,
        kernel: Any,
        x: Tensor,
        z: Tensor,
        noise_variance: float | Tensor,
        *,
        dtype: torch.dtype | None = None,
        memory_budget: float = MEMORY_BUDGET,
    ) -> None:
        x = check_rows(x)
        z = check_rows(z, "z", dimension=x.shape[1])
        super().__init__(x, len(z), noise_variance, dtype, memory_budget)
        dtype = self.dtype
        if z.is_floating_point() != x.is_floating_point():
            raise DtypeError(f"z must be integer exactly where x is, got {z.dtype} and {x.dtype}.")
        self.z = z.to(x.device)
        self.entries_evaluated = 0
        self.require_noise()
        self._kernel = detached_copy(kernel)
        self._covariance64 = as_covariance(kernel, dtype=torch.float64)
        if x.is_floating_point():
            self.covariance = self._covariance64
            self._z64 = self.covariance.prepare(self.z.double())
            self._x64 = self.covariance.prepare(self.x.double(), self._z64.centre)
            self._z, self._x = retyped(self._z64, dtype), retyped(self._x64, dtype)
        else:
            self.covariance = as_covariance(kernel, dtype=dtype)
            self._z64, self._x64 = self._covariance64.prepare(self.z), self._covariance64.prepare(self.x)
            self._z, self._x = self.covariance.prepare(self.z), self.covariance.prepare(self.x)
        self._penalty_rows, self._penalty_points = self.z, self._z
        self._design: Tensor | None = None
        self._penalty: Tensor | None = None

    @property
    def entries_per_epoch(self) -> int:
        """Entries of one product: m·(n + m)."""
        return len(self.z) * (len(self.x) + len(self.z))

    @property
    def keeps_matrix(self) -> bool:
        """Whether K_XZ and K_ZZ fit the memory budget and so are evaluated once."""
        itemsize = torch.finfo(self.dtype).bits // 8
        needed = itemsize * self.entries_per_epoch + tile_bytes(self.memory_budget)
        return self.workers.size == 1 and needed <= self.memory_budget

    def __repr__(self) -> str:
        kept = "kept in memory" if self.keeps_matrix else "by tiles"
        return f"InducingOperator(n={len(self.x)}, m={len(self.z)}, d={self.x.shape[1]}, {self.dtype}, K_XZ {kept})"

    # products -----------------------------------------------------------------------------------------------------

    def matmul(self, v: Tensor) -> Tensor:  # (m, s) -> (m, s)
        """A v."""
        self._check_columns(v)
        return self._product(v, wide=False).to(self.dtype)

    def matmul_wide(self, v: Tensor) -> Tensor:  # (m, s) -> (m, s)
        """A v in float64 whatever the working precision: what iterative refinement measures with."""
        return self._product(v.double(), wide=True)

    def normal_rhs(self, targets: Tensor) -> Tensor:  # (n, s) -> (m, s)
        """K_ZX Σ⁻¹ targets in float64: the right-hand side that belongs to targets on x.

        Args:
            targets: (n, s) or (n,), in units of y, the prior mean subtracted.

        Raises:
            ShapeError: it has another shape.

        Cost: n·m entries.
        """
        if targets.ndim not in (1, 2) or len(targets) != len(self.x):
            raise ShapeError(f"targets must be ({len(self.x)}, s), got shape {tuple(targets.shape)}.")
        columns = (targets[:, None] if targets.ndim == 1 else targets).double() / self.noise_variance[:, None]
        out = torch.zeros(len(self.z), columns.shape[1], dtype=torch.float64, device=self.device)
        out = self._summed(out, lambda tile, block, out: out.addmm_(block.T, columns[tile].to(out)), columns)
        return out[:, 0] if targets.ndim == 1 else out

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:  # -> (m, m)
        """A as one tensor, summed in float64 by tiles; m·(n + m) entries and 2·n·m² flops.

        Raises:
            MemoryBudgetError: 8·m² bytes exceed the budget.
        """
        m = len(self.z)
        require(
            8 * m * m,
            f"the dense ({m}, {m}) matrix",
            self.memory_budget,
            "ConjugateGradients or StochasticGradientDescent",
        )
        out = self._covariance64.block(self._z64).double()
        self.entries_evaluated += m * m

        def term(tile: Tensor, block: Tensor, out: Tensor) -> Tensor:
            root = block * self.noise_variance[tile].rsqrt().to(block)[:, None]
            return out.addmm_(root.T, root)

        out = self._summed(out, term)
        return (0.5 * (out + out.T)).to(dtype)

    def diagonal(self) -> Tensor:  # (m,)
        """The diagonal of A in the working precision; n·m entries."""

        def term(tile: Tensor, block: Tensor, out: Tensor) -> Tensor:
            return out.add_((block.double().square() / self.noise_variance[tile, None].to(out)).sum(0))

        return self._summed(self.kernel_diagonal(), term, wide=False).to(self.dtype)

    # what stochastic gradient descent asks for ----------------------------------------------------------------------

    def anchored_target(self, anchor: Tensor, gap: Tensor) -> Tensor:  # (m, s), (m, s) -> (m, s)
        """r − A δ, by one product unless δ = 0: the full gradient at the anchor, negative."""
        if not bool(anchor.any()):
            return gap.clone()
        return (gap.double() - self._product(anchor, wide=False)).to(self.dtype)

    def data_gradient(
        self, rows: Tensor, u: Tensor, anchor: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """(n/b) K_ZI Σ_I⁻¹ K_IZ (u − δ) − (r − Aδ): the change from the anchor by rows, the rest exactly.

        Args:
            rows: (b,) I, without repeats.
            u: (m, s). anchor: (m, s) δ. target: (m, s) `anchored_target(anchor, r)`.

        Returns:
            (m, s) in the working precision, and None: observations are not rows of A.

        Cost: b·m entries, 4·b·m·s flops.
        """
        change = u - anchor
        scale = (self._noise * (len(rows) / len(self.x))).reciprocal()[:, None]

        def term(tile: Tensor, block: Tensor, out: Tensor) -> Tensor:
            return out.addmm_(block.T, (block @ change.to(out)).mul_(scale[tile].to(out)))

        return self._summed(-target, term, change, rows=rows, wide=False), None

    def design_norms(self, rows: Tensor) -> Tensor:  # (b,) -> (b,)
        """Squared norms of rows of K_XZ in float64; b·m entries."""
        tiles = rows.split(self._tile_rows(wide=False))
        return torch.cat([self._rows_of_design(tile).square().sum(1, dtype=torch.float64) for tile in tiles])

    def kernel_diagonal(self) -> Tensor:  # (m,)
        """The diagonal of K_ZZ in float64."""
        return self._covariance64.diagonal(self._z64).double()

    def design_rows(self, rows: Tensor) -> Tensor:  # (b,) -> (b, m)
        """Rows of K_XZ in the working precision; b·m entries."""
        return self._rows_of_design(rows)

    def penalty_product(self, u: Tensor) -> Tensor:  # (m, s) -> (m, s)
        """K_ZZ u; m² entries."""
        return self._penalty_product(u, wide=False).to(self.dtype)

    def gathered(self) -> Tensor:  # -> (m, m)
        """K_ZZ W K_ZZ + K_ZZ in float64: A with every observation moved to the centre it is closest to.

        W is diagonal: the sum of 1/σ_i² over the observations with the largest |k(x_i, z)| at that centre.

        Cost: m·(n + m) entries, 2·m³ flops.

        Source: Rudi, Carratino and Rosasco 2017 (FALKON), equation 13, where W is (n/m)Σ⁻¹.
        """

        def term(tile: Tensor, block: Tensor, out: Tensor) -> Tensor:
            return out.index_add_(0, block.abs().argmax(1), self.noise_variance[tile].reciprocal().to(out))

        weights = torch.zeros(len(self.z), dtype=torch.float64, device=self.device)
        weights = self._summed(weights, term, wide=False)
        self.entries_evaluated += len(self.z) ** 2
        penalty = self._covariance64.block(self._z64).double()
        return torch.addmm(penalty, penalty * weights, penalty)

    def cross_block(self, rows: Tensor, cols: Tensor) -> Tensor:  # (b,), (c,) -> (b, c)
        """A block of K_ZZ in float64; b·c entries."""
        self.entries_evaluated += len(rows) * len(cols)
        return self._covariance64.block(self._z64[rows], self._z64[cols]).double()

    # helpers --------------------------------------------------------------------------------------------------------

    def _product(self, v: Tensor, *, wide: bool) -> Tensor:  # -> float64
        def term(tile: Tensor, block: Tensor, out: Tensor) -> Tensor:
            product = (block @ v.to(block.device)) / self.noise_variance[tile, None].to(block.device, v.dtype)
            return out.add_(block.T @ product)

        return self._summed(self._penalty_product(v, wide=wide), term, v, wide=wide)

    def _penalty_product(self, v: Tensor, *, wide: bool) -> Tensor:  # -> float64
        self.entries_evaluated += len(self.z) ** 2
        if self.keeps_matrix and not wide:
            return (self._stored()[1] @ v).double()
        covariance, _, z = self._side(wide)
        with entered(self.workers):
            return covariance.matmul(z, z, v, memory_budget=tile_bytes(self.memory_budget)).double()

    def _summed(
        self, out: Tensor, term: Term, *alike: Tensor, rows: Tensor | None = None, wide: bool = True
    ) -> Tensor:
        """`out` plus the terms of all rows of x, or of some, by tiles in which each entry is evaluated once.

        Args:
            term: see `Term`. alike: what it uses that may differ from call to call. wide: blocks in float64.
        """
        n = len(self.x) if rows is None else len(rows)
        self.entries_evaluated += n * len(self.z)

        def own(part: Part) -> Tensor:
            total = out if self.workers.size == 1 else torch.zeros_like(part.here(out))
            places = torch.arange(part.rows.start, part.rows.stop, device=self.device)
            for tile in places.split(self._tile_rows(wide)):
                these = tile if rows is None else rows[tile]
                total = term(these, self._block(part, these, wide=wide), total)
            return total

        total = self.workers.total(n, own, (out, *alike, self.x, self.z, self.covariance.identity))
        return total if self.workers.size == 1 else out + total

    def _rows_of_design(self, rows: Tensor) -> Tensor:
        self.entries_evaluated += len(rows) * len(self.z)
        return self._block(Part(0, slice(0, len(self.x))), rows, wide=False)

    def _block(self, part: Part, rows: Tensor, *, wide: bool) -> Tensor:
        """K(x_rows, z) where the part is computed."""
        if self.keeps_matrix and not wide:
            return self._stored()[0][rows]
        covariance, x, z = self._side(wide)
        block = covariance.block(part.here(x[rows]), part.here(z))
        return block.to(torch.float64 if wide else self.dtype)

    def _side(self, wide: bool) -> tuple[Covariance, Points, Points]:
        """The covariance with x and z in float64 or in the working precision."""
        if wide:
            return self._covariance64, self._x64, self._z64
        return self.covariance, self._x, self._z

    def _stored(self) -> tuple[Tensor, Tensor]:
        if self._design is None or self._penalty is None:
            design = torch.empty(len(self.x), len(self.z), dtype=self.dtype, device=self.device)
            for tile in torch.arange(len(self.x), device=self.device).split(self._tile_rows(wide=False)):
                design[tile] = self.covariance.block(self._x[tile], self._z).to(self.dtype)
            self._design, self._penalty = design, self.covariance.block(self._z).to(self.dtype)
        return self._design, self._penalty

    def _count(self, entries: int) -> None:
        self.entries_evaluated += entries

    def _tile_rows(self, wide: bool) -> int:
        itemsize = 8 if wide else torch.finfo(self.dtype).bits // 8
        # a tile and the handful of temporaries of the same size that evaluating it takes
        return max(1, tile_bytes(self.memory_budget) // (8 * itemsize * len(self.z)))
