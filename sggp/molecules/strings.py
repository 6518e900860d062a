"""Many short texts in one block of bytes: an immutable sequence that can be memory-mapped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np


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
