"""Many short texts, and many sparse rows of counts, in few arrays that can be memory-mapped."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from sggp.arrays import fingerprint_rows
from sggp.errors import DtypeError, InputError, ShapeError

_AT_ONCE, _SCATTERED = 256, 32
"""Rows whose entries are placed together: positions take eight times the memory of the counts. Fewer where they do not
follow one another, for with each entry of a mapped file the system takes in 64 kB about it."""


@dataclass(frozen=True)
class PackedCounts:
    """n sparse rows of `width` counts.

    Args:
        pointers: (n + 1,) int64, where the entries of each row begin.
        columns: (e,) position of each entry, uint16 or, above 65,536 positions, uint32.
        counts: (e,) uint8.
        width: number of positions.
    """

    pointers: np.ndarray
    columns: np.ndarray
    counts: np.ndarray
    width: int

    @staticmethod
    def pack(sizes: np.ndarray, columns: np.ndarray, counts: np.ndarray, width: int) -> PackedCounts:
        """Rows of these sizes (n,), from the entries (e,) of one after the other."""
        pointers = np.zeros(len(sizes) + 1, dtype=np.int64)
        np.cumsum(sizes, out=pointers[1:])
        kind = np.uint16 if width <= 2**16 else np.uint32
        return PackedCounts(
            pointers, columns.astype(kind, copy=False), counts.astype(np.uint8, copy=False), width
        )

    @staticmethod
    def of(counts: Any) -> PackedCounts:
        """A matrix of whole numbers from 0 to 255, (n, width), array, tensor, nested lists or RDKit's folded vectors.

        Raises:
            ShapeError: not a matrix. DtypeError: not numbers. InputError: empty, or an entry that is no such number.
        """
        counts = fingerprint_rows(counts)
        try:
            array = counts.detach().cpu().numpy() if hasattr(counts, "detach") else np.asarray(counts)
        except ValueError as error:
            raise ShapeError(f"expected counts of shape (n, width): {error}.") from error
        if array.ndim != 2:
            raise ShapeError(f"expected counts of shape (n, width), got {array.shape}.")
        if array.size == 0:
            raise InputError(f"expected at least one row and one column of counts, got shape {array.shape}.")
        if array.dtype.kind not in "buif":
            raise DtypeError(f"expected numeric counts, got {array.dtype}.")
        if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.floor(array)).all()):
            raise InputError(
                "counts must be finite whole numbers; this array has NaN, infinite or fractional entries."
            )
        if array.min() < 0 or array.max() > 255:
            raise InputError(
                f"counts must lie in 0 … 255, got {array.min()} … {array.max()}: clip them first."
            )
        rows, columns = np.nonzero(array)
        sizes = np.bincount(rows, minlength=len(array))
        return PackedCounts.pack(sizes, columns, array[rows, columns], array.shape[1])

    def __len__(self) -> int:
        return len(self.pointers) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of all three arrays."""
        return int(self.pointers.nbytes + self.columns.nbytes + self.counts.nbytes)

    def dense(self, rows: np.ndarray) -> np.ndarray:
        """(k, width) uint8 of these rows (k,) int64."""
        out = np.zeros((rows.size, self.width), dtype=np.uint8)
        together = rows.size and int(rows[-1]) - int(rows[0]) == rows.size - 1
        step = _AT_ONCE if together else _SCATTERED
        for start in range(0, rows.size, step):
            sizes, entries = self._entries(rows[start : start + step])
            place = np.repeat(np.arange(start, start + sizes.size), sizes)
            out[place, self.columns[entries]] = self.counts[entries]
            _give_back(self.columns, self.counts)
        return out

    def take(self, rows: np.ndarray) -> PackedCounts:
        """These rows, packed."""
        sizes, entries = self._entries(rows)
        return PackedCounts.pack(sizes, np.asarray(self.columns[entries]), self.counts[entries], self.width)

    def columns_between(self, start: int, stop: int) -> PackedCounts:
        """The columns from `start` to before `stop`, packed."""
        inside = (self.columns >= start) & (self.columns < stop)
        before = np.concatenate([[0], np.cumsum(inside)])[self.pointers]
        return PackedCounts.pack(
            np.diff(before), self.columns[inside] - start, self.counts[inside], stop - start
        )

    def _entries(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many entries each of the rows has, and where they all are."""
        starts = np.asarray(self.pointers[rows])
        sizes = np.asarray(self.pointers[rows + 1]) - starts
        shift = starts - (np.cumsum(sizes) - sizes)
        return sizes, np.arange(int(sizes.sum())) + np.repeat(shift, sizes)


class PackedStrings(Sequence[str]):
    """A read-only sequence of str kept as UTF-8 bytes and offsets.

    A Python list needs about 90 bytes per SMILES, this about 50, and none of it is read from disk before it is used.

    Args:
        data: (b,) uint8, all texts one after the other.
        offsets: (n + 1,) int64, where each begins.
    """

    def __init__(self, data: np.ndarray, offsets: np.ndarray) -> None:
        self.data = data
        self.offsets = offsets

    @staticmethod
    def pack(texts: Iterable[str]) -> PackedStrings:
        """Pack an iterable of str."""
        encoded = [text.encode() for text in texts]
        offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(text) for text in encoded], out=offsets[1:])
        return PackedStrings(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = index.__index__()
        if position < 0:
            position += len(self)
        if not 0 <= position < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} texts.")
        return bytes(self.data[self.offsets[position] : self.offsets[position + 1]]).decode()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), 4096):
            offsets = self.offsets[start : start + 4097]
            block = bytes(self.data[offsets[0] : offsets[-1]])
            base = int(offsets[0])
            for low, high in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
                yield block[low - base : high - base].decode()
        _give_back(self.data, self.offsets)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Sequence) and not isinstance(other, str):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def take(self, rows: np.ndarray) -> PackedStrings:
        """The texts at these positions, packed."""
        return PackedStrings.pack(self[int(row)] for row in rows)

    def __repr__(self) -> str:
        return f"PackedStrings({len(self)} texts, {self.data.nbytes} bytes)"


def _give_back(*arrays: np.ndarray) -> None:
    """Memory of mapped files that were read: a sweep would else gather all of a file in it."""
    for array in arrays:
        mapped: Any = getattr(array, "_mmap", None)
        if hasattr(mapped, "madvise"):  # not on Windows
            mapped.madvise(mmap.MADV_DONTNEED)


def as_texts(entries: Any, name: str) -> list[str] | None:
    """One text per molecule, or None; refused where it is no list."""
    if entries is None:
        return None
    if isinstance(entries, str | bytes) or not hasattr(entries, "__iter__"):
        raise InputError(f"{name} must be a list with one entry per molecule, got {type(entries).__name__}.")
    return [str(entry) for entry in entries]
