"""What a covariance offers: blocks, products that never hold the matrix, its diagonal.

A `Covariance` is a frozen evaluator of one kernel. `sggp.kernels.as_covariance` makes one from any GPyTorch kernel;
subclass it directly (`_block` and `diagonal` are enough) for a kernel that is not a GPyTorch kernel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sggp.arrays import check_plain
from sggp.autograd import full_precision
from sggp.errors import DtypeError, InputError, ShapeError
from sggp.kernels.points import Points
from sggp.kernels.products import DifferentiableProduct, Factors, tiled_product
from sggp.kernels.sharing import identity_of, shared_product
from sggp.native.families import Profile
from sggp.native.reference import BYTES_PER_ENTRY
from sggp.native.tiling import tile_shape

if TYPE_CHECKING:
    from sggp.native.conditionals import TermsOf

__all__ = ["DEFAULT_BUDGET", "Covariance", "Points", "StationaryTerm"]

DEFAULT_BUDGET = 256 * 2**20
_PIECE = 2**20  # entries


class BilinearGradient(NamedTuple):
    """Derivatives of a bilinear form in a stationary covariance, float64."""

    lengthscale: Tensor  # (d,)
    scale: Tensor  # ()
    shape: Tensor | None  # (), None where there is no shape or it was not asked for


class StationaryTerm(NamedTuple):
    """One stationary kernel of a sum: k(x_i, z_j) = scale · φ(|a_i − b_j|²)."""

    a: Tensor  # (n, d) float64, divided by the length scales
    b: Tensor  # (m, d); the same object where both sets are one
    profile: Profile


class Covariance(ABC):
    """A frozen, picklable evaluator of one kernel k.

    Args:
        dtype: working precision for integer input (float rows keep their own); default float32.
        name: how errors call the kernel.

    Rows are (n, d) always. The results have the dtype of float rows. Instances are detached: changing the kernel they
    came from, or its parameters, changes nothing here.
    """

    centres = False  # whether `prepare` subtracts a centre: overridden where it does
    counts = (
        False  # whether rows of whole numbers are best left as they are stored: overridden where they are
    )
    shift_invariant = False  # whether k(x + c, z + c) = k(x, z): overridden where it is

    def __init__(self, *, dtype: torch.dtype | None = None, name: str = "") -> None:
        if dtype not in (None, torch.float32, torch.float64):
            raise DtypeError(
                f"dtype={dtype} is not a working precision; pass torch.float32 or torch.float64."
            )
        self.dtype = dtype
        self.name = name or type(self).__name__

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"

    # --- what a subclass writes ---------------------------------------------------------------------------------

    @property
    @abstractmethod
    def scale(self) -> float:
        """The largest k(x, x); estimated where the kernel does not state it."""

    @abstractmethod
    def _block(self, x: Points, z: Points) -> Tensor:
        """k(x_i, z_j) as a dense (n, m) block in the working precision of `x`, differentiable in the rows."""

    @abstractmethod
    def diagonal(self, x: Tensor | Points) -> Tensor:
        """k(x_i, x_i), (n,), in O(n·d); differentiable in the rows where it depends on them."""

    def _parts(self, raw: Tensor, centre: Tensor | None) -> Mapping[str, Tensor]:
        """Per-row quantities to compute once; nothing by default."""
        return {}

    def _children(self, raw: Tensor, centre: Tensor | None) -> tuple[Points, ...]:
        """The rows prepared for the terms of a composite; nothing by default."""
        return ()

    def _matmul(self, x: Points, z: Points, v: Tensor, memory_budget: int) -> Tensor:
        """The product without gradients; by tiles of `_block` unless a subclass knows better."""
        return tiled_product(self._block, x, z, v, self._tile_shape(x, z, v, memory_budget))

    def embedding(self, x: Tensor | Points) -> Tensor | None:
        """Float points (n, d') whose Euclidean distances order pairs as the kernel does; None where there are none."""
        return None

    def plain_rows(self, x: Points) -> Tensor:
        """The rows (n, d) as `small_blocks` takes them: as given, or narrower where that loses nothing.

        Floats are in float64: differences of neighbours are.
        """
        return x.raw.double() if x.raw.is_floating_point() else x.raw

    # --- what an engine may have fused for a kernel: None where it has not, and the caller takes blocks -----------

    def recomputes(self, device: torch.device) -> bool:
        """Whether products on `device` evaluate K as they go in about the time that a stored K takes."""
        return False

    def stationary_terms(self, x: Points, z: Points) -> list[StationaryTerm] | None:
        """k as a sum of stationary kernels of scaled rows, for far fields; None where it is no such sum."""
        return None

    def rescaled(self, factor: float) -> Covariance | None:
        """The covariance of factor · k."""
        return None

    def on_columns(self, columns: Tensor) -> Covariance | None:
        """k of rows of which only `columns` are seen."""
        return None

    def bilinear_gradient(
        self,
        x: Tensor,
        left: Tensor,
        right: Tensor,
        *,
        with_shape: bool,
        memory_budget: int,
        rows: slice = slice(None),
    ) -> BilinearGradient | None:
        """The gradient of Σ_j left_jᵀ K(x, x) right_j in the kernel's parameters; in the shape only if asked for.

        With `rows`, of the terms of these rows of `left` alone.
        """
        return None

    def neighbour_columns(
        self, x: Points, noise: Tensor, low_rank: Tensor | None, index: Tensor, real: Tensor
    ) -> Tensor | None:
        """Columns of a sparse inverse Cholesky factor: see `sggp.native.neighbours.sparse_columns`."""
        return None

    def residual_scores(
        self, x: Points, low_rank: Tensor, weight: Tensor, rows: Tensor, candidates: Tensor
    ) -> Tensor | None:
        """|k(x_i, x_c) − f_i·f_c| · weight_c of candidates c: see `sggp.native.neighbours.residual_scores`."""
        return None

    def log_conditionals(self, x: Tensor) -> TermsOf | None:
        """(length scales, scale, rows, wanted) → terms of Vecchia's likelihood over rows of x, (n, d) float64.

        The length scales and the scale of this covariance play no part: they are what a fit asks for.
        See `sggp.native.conditionals.log_conditionals`.
        """
        return None

    # --- what everybody calls -----------------------------------------------------------------------------------

    def prepare(self, x: Tensor | Points, centre: Tensor | None = None) -> Points:
        """Check rows and compute once what every block needs from them.

        Args:
            x: (n, d) float, integer or bool rows, or `Points`, returned as they are where they fit.
            centre: (d,) the point to subtract before scaling; default the mean of the rows. Two sets that meet in a
                block must share it (`block` and `matmul` see to that).

        Raises:
            ShapeError: `x` is not 2-D.
            DtypeError: `x` is not a tensor of a usable dtype.
        """
        if isinstance(x, Points):
            same = centre is None or x.centre is None or centre is x.centre or torch.equal(centre, x.centre)
            if x.owner is self and same:
                return x
            x = x.raw
        _check_rows(x, self.name)
        working = x.dtype if x.dtype in (torch.float32, torch.float64) else (self.dtype or torch.float32)
        if self.centres and centre is None:
            centre = _centre(x.detach())
        return Points(x, working, centre, self._parts(x, centre), self._children(x, centre), self)

    @full_precision()
    def block(self, x: Tensor | Points, z: Tensor | Points | None = None) -> Tensor:
        """k(x_i, z_j) as a dense (n, m) tensor, differentiable (twice) in float rows that require grad.

        Args:
            x: (n, d) rows.
            z: (m, d) rows; None means `x` itself.

        Raises:
            ShapeError: the rows differ in dimension.
        """
        return self._block(*self._pair(x, z))

    @full_precision()
    def matmul(
        self, x: Tensor | Points, z: Tensor | Points | None, v: Tensor, *, memory_budget: int = DEFAULT_BUDGET
    ) -> Tensor:
        """K(x, z) v, never holding K; differentiable (twice) in the rows and in `v`, in tiles both ways.

        Args:
            x: (n, d) rows.
            z: (m, d) rows; None means `x` itself.
            v: (m, s) or (m,) columns.
            memory_budget: bytes for tiles and temporaries; the rows, their preparation and the result come on top.

        Returns:
            (n, s), or (n,) for one column, in the dtype of float rows, else `dtype` of the covariance, else of `v`.

        Raises:
            ShapeError: rows and columns do not fit together.
            MemoryBudgetError: the budget does not hold one small tile.
        """
        x, z = self._pair(x, z)
        if v.ndim not in (1, 2) or v.shape[0] != len(z):
            raise ShapeError(
                f"v has shape {tuple(v.shape)}; expected ({len(z)}, s) to match the {len(z)} rows of z."
            )
        if not v.dtype.is_floating_point:
            raise DtypeError(f"v has dtype {v.dtype}; expected float32 or float64.")
        integer = not x.raw.dtype.is_floating_point
        working = v.dtype if integer and self.dtype is None else x.dtype
        x, z = (x.astype(working), z.astype(working)) if x is not z else (x.astype(working),) * 2
        columns = (v[:, None] if v.ndim == 1 else v).to(working)
        if torch.is_grad_enabled() and (x.requires_grad or z.requires_grad or v.requires_grad):
            out = DifferentiableProduct.apply(Factors(self, x, z, memory_budget), x.raw, z.raw, columns)
        else:
            with torch.no_grad():
                out = self._product(x, z, columns, memory_budget)
        return out[:, 0] if v.ndim == 1 else out

    def small_blocks(self, x: Tensor) -> Tensor:
        """Many small Gram matrices in float64: (b, m, d) rows → (b, m, m), without gradients.

        Cost: O(b·m²·d) time; temporaries are bounded, the result takes 8·b·m² bytes.
        """
        if x.ndim != 3:
            raise ShapeError(f"small_blocks got rows of shape {tuple(x.shape)}; expected (b, m, d).")
        with torch.no_grad():
            return self._small_blocks(x)

    def _small_blocks(self, x: Tensor) -> Tensor:
        out = torch.empty(x.shape[0], x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
        for i in range(x.shape[0]):
            rows = self.prepare(x[i]).astype(torch.float64)
            out[i] = self._block(rows, rows)
        return out

    # --- helpers ------------------------------------------------------------------------------------------------

    def _product(self, x: Points, z: Points, v: Tensor, memory_budget: int) -> Tensor:
        """`_matmul`, shared by the workers of a distributed run."""
        return shared_product(self._matmul, x, z, v, memory_budget, lambda: self.identity)

    @cached_property
    def identity(self) -> Tensor:
        """A number that tells covariances of other parameters apart."""
        return identity_of(self)

    def _pair(self, x: Tensor | Points, z: Tensor | Points | None) -> tuple[Points, Points]:
        """Both sets prepared with one centre; that of `z` where it is ready (train data), else that of `x`."""
        if z is None or z is x:
            x = self.prepare(x)
            return x, x
        for rows in (x, z):
            if not isinstance(rows, Points):
                _check_rows(rows, self.name)
        if x.shape[1] != z.shape[1]:
            raise ShapeError(
                f"rows of dimension {x.shape[1]} and {z.shape[1]} meet in one block of {self.name}; "
                "expected one dimension."
            )
        if isinstance(z, Points) and z.owner is self:
            return self.prepare(x, z.centre), z
        x = self.prepare(x)
        return x, self.prepare(z, x.centre)

    def _tile_shape(self, x: Points, z: Points, v: Tensor, memory_budget: int) -> tuple[int, int]:
        """Rows and columns of a tile of `_block` within the budget."""
        d = x.shape[1]
        return tile_shape(
            len(x), len(z), memory_budget, per_entry=BYTES_PER_ENTRY, per_row=32 * d + 8 * v.shape[1]
        )


def _check_rows(x: Tensor, name: str) -> None:
    if not isinstance(x, Tensor):
        raise DtypeError(f"{name} got rows of type {type(x).__name__}; expected a torch.Tensor.")
    check_plain(x, "rows")
    if x.ndim != 2:
        raise ShapeError(f"{name} got rows of shape {tuple(x.shape)}; expected (n, d).")
    if x.dtype.is_complex or x.dtype in (torch.float16, torch.bfloat16):
        raise DtypeError(
            f"{name} got rows of dtype {x.dtype}; expected float32, float64, an integer type or bool."
        )


def _centre(x: Tensor) -> Tensor:
    """The mean of the rows, (d,) float64."""
    if x.shape[0] == 0:
        return torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    if x.dtype == torch.float64:
        centre = torch.mean(x, 0)
    else:  # PyTorch copies what it sums in another type
        pieces = x.split(max(1, _PIECE // max(1, x.shape[1])))
        centre = torch.stack([piece.sum(0, dtype=torch.float64) for piece in pieces]).sum(0) / x.shape[0]
    if not bool(torch.isfinite(centre).all()):
        raise InputError(
            "the rows contain NaN or infinite values (or overflow when summed); clean them first."
        )
    return centre
