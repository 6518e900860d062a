"""Where the next measurement may be made: a box of real inputs, or a finite pool of candidates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from sggp.errors import DtypeError, InputError, ShapeError
from sggp.typing import Dtype

__all__ = ["Box", "Pool", "Space"]

_DIGEST_ROWS = 64


class Box:
    """All points between a lower and an upper bound per dimension.

    Args:
        bounds: (d, 2), one row ``[low, high]`` per dimension, finite, low < high.

    Raises:
        ShapeError: `bounds` is not (d, 2).
        InputError: a bound is not finite or a lower bound is not below its upper bound.

    Example:
        >>> Box([[0.0, 1.0], [-5.0, 10.0]]).dimension
        2
    """

    def __init__(self, bounds: Any) -> None:
        table = torch.as_tensor(bounds, dtype=torch.float64).detach().clone().cpu()
        if table.ndim != 2 or table.shape[1] != 2 or table.shape[0] == 0:
            raise ShapeError(
                f"bounds must be (d, 2), one row [low, high] per dimension; got shape {tuple(table.shape)}."
            )
        if not bool(torch.isfinite(table).all()):
            raise InputError(
                "bounds must be finite: a box search needs a lower and an upper end per dimension."
            )
        bad = (table[:, 0] >= table[:, 1]).nonzero().flatten().tolist()
        if bad:
            raise InputError(
                f"lower bound not below upper bound in dimension(s) {bad}: {table[bad].tolist()}."
            )
        self.bounds = table

    @property
    def dimension(self) -> int:
        """Number of inputs d."""
        return self.bounds.shape[0]

    @property
    def low(self) -> Tensor:
        """(d,) float64 lower bounds."""
        return self.bounds[:, 0]

    @property
    def width(self) -> Tensor:
        """(d,) float64 edge lengths."""
        return self.bounds[:, 1] - self.bounds[:, 0]

    def sample(self, count: int, *, generator: torch.Generator, dtype: Dtype = torch.float64) -> Tensor:
        """(count, d) points drawn uniformly from the box."""
        unit = torch.rand(count, self.dimension, generator=generator, dtype=torch.float64)
        return self.clip((self.low + unit * self.width).to(dtype))

    def clip(self, points: Tensor) -> Tensor:
        """(..., d) points moved to the nearest point of the box."""
        low, high = self.bounds.to(points.dtype).to(points.device).unbind(-1)
        return torch.minimum(torch.maximum(points, low), high)

    def to_unit(self, points: Tensor) -> Tensor:
        """(..., d) points of the box in the coordinates of the unit cube, float64."""
        return (points.to(torch.float64) - self.low) / self.width

    def from_unit(self, points: Tensor) -> Tensor:
        """(..., d) points of the unit cube in the coordinates of the box, float64."""
        return self.clip(self.low + points.to(torch.float64) * self.width)

    def check(self, point: Any) -> Tensor:
        """One point as (d,) float64, refused when it has the wrong length or lies outside."""
        x = torch.as_tensor(point, dtype=torch.float64).flatten()
        if x.shape[0] != self.dimension:
            raise ShapeError(f"a point of this box has {self.dimension} coordinates, got {x.shape[0]}.")
        inside = (x >= self.bounds[:, 0]) & (x <= self.bounds[:, 1])
        if not bool(inside.all()):
            raise InputError(f"point {x.tolist()} is outside the bounds {self.bounds.tolist()}.")
        return x

    def describe(self) -> dict[str, Any]:
        """What identifies this space in a stored campaign."""
        return {"kind": "box", "bounds": self.bounds.tolist()}


@runtime_checkable
class RowTable(Protocol):
    """What a pool needs of a table: a length and rows by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any) -> Tensor: ...


class Pool:
    """A finite set of N candidates, addressed by row index and read in chunks.

    Args:
        table: (N, d) tensor, or a table with ``len(table)`` and ``table[rows] -> (k, d)`` such as
            `sggp.molecules.FingerprintTable`, which may live on disk: only a chunk is ever in memory.
        chunk_size: rows evaluated at once; lower it when memory is short.

    Raises:
        InputError: the table is empty or `chunk_size` is not positive.
        ShapeError: a tensor that is not two-dimensional.
    """

    def __init__(self, table: Any, *, chunk_size: int = 8192) -> None:
        if isinstance(table, Tensor) and table.ndim != 2:
            raise ShapeError(f"a pool of points must be (N, d), got shape {tuple(table.shape)}.")
        if not isinstance(table, RowTable):
            raise DtypeError(
                f"a pool needs a tensor or a table with len() and rows by index, got {type(table).__name__}."
            )
        if len(table) == 0:
            raise InputError("the pool has no rows: there is nothing to choose from.")
        if chunk_size < 1:
            raise InputError(f"chunk_size must be at least 1, got {chunk_size}.")
        self.table = table
        self.chunk_size = int(chunk_size)

    def __len__(self) -> int:
        return len(self.table)

    def rows(self, rows: Any) -> Tensor:
        """(k, d) features of the given rows.

        Raises:
            InputError: an index outside 0..N-1.
        """
        index = torch.as_tensor(rows, dtype=torch.long).flatten()
        if index.numel() and (int(index.min()) < 0 or int(index.max()) >= len(self)):
            raise InputError(
                f"pool rows run from 0 to {len(self) - 1}, got {int(index.min())}..{int(index.max())}."
            )
        out = self.table[index]
        if not isinstance(out, Tensor):
            raise DtypeError(f"table[rows] must give a tensor, got {type(out).__name__}.")
        return out

    def chunks(self, size: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """Pairs (first row, (chunk, d) features) over the whole pool, in order."""
        step = self.chunk_size if size is None else int(size)
        for start in range(0, len(self), step):
            yield start, self.table[slice(start, min(start + step, len(self)))]

    def describe(self) -> dict[str, Any]:
        """What identifies this pool in a stored campaign: its shape and a digest of some of its rows."""
        probe = (
            torch.linspace(0, len(self) - 1, min(_DIGEST_ROWS, len(self)), dtype=torch.float64).round().long()
        )
        features = self.rows(probe).contiguous()
        digest = hashlib.sha256(features.cpu().numpy().tobytes()).hexdigest()
        return {"kind": "pool", "rows": len(self), "width": int(features.shape[1]), "digest": digest}


Space: TypeAlias = Box | Pool


def as_rows(rows: Iterable[int] | Tensor, size: int, *, what: str) -> Tensor:
    """Sorted distinct int64 row indices, checked against 0..size-1."""
    listed = rows if isinstance(rows, Tensor) else torch.tensor(list(rows), dtype=torch.long)
    if listed.dtype == torch.bool:
        if listed.shape != (size,):
            raise ShapeError(f"a mask of {what} rows must have shape ({size},), got {tuple(listed.shape)}.")
        listed = listed.nonzero()
    if listed.is_floating_point():
        raise DtypeError(f"{what} must hold row indices (integers), got {listed.dtype}.")
    index = torch.unique(listed.flatten().to(torch.long))
    if index.numel() and (int(index[0]) < 0 or int(index[-1]) >= size):
        raise InputError(
            f"{what} holds row {int(index[0])}..{int(index[-1])}, but the pool has rows 0..{size - 1}."
        )
    return index
