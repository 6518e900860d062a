"""A kernel over the rows of a table, named by their numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gpytorch
import torch
from linear_operator import to_dense
from torch import Tensor

from sggp.errors import DtypeError, InputError
from sggp.kernels.convert import as_covariance, register
from sggp.kernels.covariance import Covariance
from sggp.kernels.features.base import FeatureMap, _Wrapper
from sggp.kernels.features.registry import draw_features
from sggp.kernels.points import Points
from sggp.native.tiling import tile_shape

__all__ = ["TableKernel"]

_ROWS = 4096
"""Rows of the table that are unpacked at a time: 64 MiB in float64 for 2,048 columns."""


class _NoSuchRow(InputError, IndexError):
    """A row number outside the table."""


class _Shared:
    """A table that copies of a kernel share."""

    def __init__(self, table: Any) -> None:
        width = (
            table.shape[1] if isinstance(table, Tensor) and table.ndim == 2 else getattr(table, "width", None)
        )
        if width is None:
            raise DtypeError(
                f"table must be a tensor (N, d) or a FingerprintTable, got {type(table).__name__}: pass one row "
                "for each candidate."
            )
        self.table, self.width = table, int(width)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self

    def rows(self, numbers: Tensor, *, counts: bool = False) -> Tensor:  # (..., n, 1) -> (..., n, d)
        """The rows with these numbers, in the type of floating numbers; whole ones as they are stored for `counts`.

        Raises:
            InputError: no whole numbers in [0, N).
        """
        flat = numbers.detach().reshape(-1)
        index = flat.long()
        if bool((index != flat).any()) or (
            len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self.table)
        ):
            raise _NoSuchRow(
                f"inputs must be row numbers, whole and from 0 to {len(self.table) - 1}; got others."
            )
        found = self.table[
            index.to(self.table.device) if isinstance(self.table, Tensor) else index.cpu().numpy()
        ]
        stored = counts and not found.is_floating_point()
        found = found.to(
            numbers.device, numbers.dtype if numbers.is_floating_point() and not stored else None
        )
        return found.reshape(*numbers.shape[:-1], self.width)


class TableKernel(gpytorch.kernels.Kernel):
    """k(i, j) = base(row i of a table, row j): inputs are row numbers, (n, 1).

    So candidates of a large library cost eight bytes each, and their fingerprints are unpacked a block at a time. The
    table is shared by copies of the kernel and is part of a pickle of it.

    Args:
        base_kernel: kernel of the rows, such as `TanimotoMinMax`.
        table: a tensor (N, d) or a `sggp.molecules.FingerprintTable`.

    Raises:
        DtypeError: the table is neither. InputError, on a call: a number names no row.

    Cost: that of the base kernel, and unpacking; memory of some 4,096 rows beside the result.

    Example:
        >>> import torch
        >>> from sggp.kernels import TableKernel, TanimotoMinMax
        >>> table = torch.tensor([[1, 3, 0], [2, 1, 2]], dtype=torch.uint8)
        >>> TableKernel(TanimotoMinMax(), table)(torch.tensor([[0.0]]), torch.tensor([[1.0]])).to_dense()
        tensor([[0.2857]])
    """

    has_lengthscale = False
    is_stationary = False

    def __init__(self, base_kernel: gpytorch.kernels.Kernel, table: Any) -> None:
        super().__init__()
        self.base_kernel = base_kernel
        self._shared = _Shared(table)

    @property
    def table(self) -> Any:
        """The table, as it was given."""
        return self._shared.table

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        """The covariances of row numbers (…, n, 1) and (…, m, 1): (…, n, m), or (…, n) with `diag`."""
        rows = self._shared.rows
        if diag:
            pairs = zip(x1.split(_ROWS, -2), x2.split(_ROWS, -2), strict=True)
            return torch.cat([to_dense(self.base_kernel(rows(a), rows(b), diag=True)) for a, b in pairs], -1)
        if torch.equal(x1, x2) and x1.shape[-2] <= _ROWS:
            same = rows(x1)
            return to_dense(self.base_kernel(same, same))
        columns = []
        for b in x2.split(_ROWS, -2):
            right = rows(b)
            columns.append(
                torch.cat([to_dense(self.base_kernel(rows(a), right)) for a in x1.split(_ROWS, -2)], -2)
            )
        return columns[0] if len(columns) == 1 else torch.cat(columns, -1)


class TableCovariance(Covariance):
    """k(i, j) = k_inner(row i, row j): the engine of the base kernel, on rows that are unpacked a block at a time.

    Args:
        inner: the covariance of the rows. shared: their table.
    """

    def __init__(self, inner: Covariance, shared: _Shared) -> None:
        super().__init__(dtype=inner.dtype, name="TableKernel")
        self.inner, self.shared = inner, shared

    @property
    def scale(self) -> float:
        return self.inner.scale

    def rescaled(self, factor: float) -> Covariance | None:
        scaled = self.inner.rescaled(factor)
        return None if scaled is None else TableCovariance(scaled, self.shared)

    def recomputes(self, device: torch.device) -> bool:
        return self.inner.recomputes(device)

    def _pairs(self, x: Points, z: Points) -> tuple[Points, Points]:
        right = self._unpacked(z)
        return (right, right) if x is z else self._beside(x, right)

    def _beside(self, x: Points, right: Points) -> tuple[Points, Points]:
        left, right = self.inner._pair(self._found(x), right)
        return left.astype(x.dtype), right

    def _unpacked(self, x: Points) -> Points:
        return self.inner.prepare(self._found(x)).astype(x.dtype)

    def _found(self, x: Points) -> Tensor:
        return self.shared.rows(x.raw.to(x.dtype), counts=self.inner.counts)

    def _block(self, x: Points, z: Points) -> Tensor:
        return self.inner._block(*self._pairs(x, z))

    def _matmul(self, x: Points, z: Points, v: Tensor, memory_budget: int) -> Tensor:
        out = torch.zeros(len(x), v.shape[1], dtype=v.dtype, device=v.device)
        for first in range(0, len(z), _ROWS):
            cols = slice(first, first + _ROWS)
            right = self._unpacked(z[cols])
            for start in range(0, len(x), _ROWS):
                rows = slice(start, start + _ROWS)
                same = x is z and rows == cols
                pair = (right, right) if same else self._beside(x[rows], right)
                out[rows] += self.inner._matmul(*pair, v[cols], memory_budget)
        return out

    def diagonal(self, x: Tensor | Points) -> Tensor:
        """k(x_i, x_i), (n,)."""
        x = self.prepare(x)
        pieces = [self._unpacked(x[start : start + _ROWS]) for start in range(0, len(x), _ROWS)]
        return torch.cat([self.inner.diagonal(piece) for piece in pieces] or [x.raw.new_zeros(0).to(x.dtype)])

    def _small_blocks(self, x: Tensor) -> Tensor:
        out = torch.empty(x.shape[0], x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
        step = max(1, _ROWS // max(1, x.shape[1]))
        for start in range(0, len(x), step):
            some = x[start : start + step].double()
            out[start : start + step] = self.inner._small_blocks(
                self.shared.rows(some, counts=self.inner.counts)
            )
        return out

    def _tile_shape(self, x: Points, z: Points, v: Tensor, memory_budget: int) -> tuple[int, int]:
        per_row = 64 * self.shared.width + 8 * v.shape[1]
        return tile_shape(len(x), len(z), memory_budget, per_entry=80, per_row=per_row)


@register
def _(kernel: TableKernel, dtype: torch.dtype | None) -> Covariance:
    return TableCovariance(as_covariance(kernel.base_kernel, dtype=dtype), kernel._shared)


@dataclass(frozen=True, eq=False)
class RowsMap(_Wrapper):
    """φ of the rows of a table, given their numbers."""

    base: FeatureMap
    shared: _Shared
    input_dim: int = 1

    differentiable = False

    def _evaluate(self, x: Tensor) -> Tensor:
        return self._base_of(x).phi(self.shared.rows(x, counts=self.base.counts))

    def _grouped(self, x: Tensor) -> Tensor:
        return self._base_of(x)._grouped(self.shared.rows(x, counts=self.base.counts))

    def _base_of(self, x: Tensor) -> FeatureMap:
        """The map whose features of stored rows have the type of floating numbers."""
        return self.base.to(dtype=x.dtype) if self.base.counts and x.is_floating_point() else self.base

    def centred(self, at: Tensor) -> RowsMap:
        return self


@draw_features.register(TableKernel)
def _of_table(
    kernel: TableKernel, num_features: int, *, input_dim: int, generator: torch.Generator
) -> RowsMap:
    if input_dim != 1:
        raise InputError(f"TableKernel takes one column of row numbers, got {input_dim} columns.")
    shared = kernel._shared
    base = draw_features(kernel.base_kernel, num_features, input_dim=shared.width, generator=generator)
    return RowsMap(base, shared)
