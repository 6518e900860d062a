"""What a candidate is, whatever row it stands in: the key by which trials find it again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from sggp.molecules.standardise import Standardiser

_BLOCK = 4096
_NAMES = (("canonical", ""), ("ids", "id:"), ("smiles", "text:"))


class Identity:
    """The keys of a table's rows: canonical SMILES, else "id:" and the id, else a digest of the exact features.

    Rows with equal keys are *twins*: the same thing twice. 64 bits per row are kept, and read once, when first needed.

    Args:
        table: N rows by number, perhaps with `canonical`, `ids` or `smiles`, texts by number.
        standard: makes canonical SMILES parents, which are the keys then.
    """

    def __init__(self, table: Any, standard: Standardiser | None = None) -> None:
        self._table, self._standard = table, standard
        self._order: np.ndarray | None = None
        self._sorted = self._hashes = np.empty(0, dtype=np.int64)

    @property
    def named(self) -> bool:
        """Whether keys are made of texts, and not of features."""
        return _named(self._table) is not None

    def keys(self, rows: Tensor) -> list[str]:
        """The keys of these rows (k,)."""
        found = _named(self._table)
        if found is None:
            return [key for block in rows.split(_BLOCK) for key in feature_keys(self._table[block])]
        prefix, texts = found
        return [prefix + self._form(str(texts[row])) for row in rows.tolist()]

    def find(self, keys: Sequence[str]) -> Tensor:
        """(k,) int64: the first row of each key, -1 where there is none. Cost: O(k log N) after the first call."""
        order = self._index()
        wanted = np.fromiter((hash(key) for key in keys), dtype=np.int64, count=len(keys))
        left, right = (np.searchsorted(self._sorted, wanted, side) for side in ("left", "right"))
        rows = torch.full((len(keys),), -1)
        there = np.flatnonzero(left < right)
        first = torch.from_numpy(order[left[there]])
        for place, row, key in zip(there.tolist(), first.tolist(), self.keys(first), strict=True):
            if key != keys[place]:  # two keys of one hash: look at all that share it
                shared = torch.from_numpy(order[left[place] : right[place]])
                same = [
                    r for r, k in zip(shared.tolist(), self.keys(shared), strict=True) if k == keys[place]
                ]
                row = min(same, default=-1)
            rows[place] = row
        return rows

    @property
    def distinct(self) -> int:
        """How many different keys there are."""
        self._index()
        return 1 + int(np.count_nonzero(self._sorted[1:] != self._sorted[:-1]))

    def repeats(self) -> Tensor:
        """The rows that are twins of an earlier one, ascending."""
        order = self._index()
        again = np.flatnonzero(self._sorted[1:] == self._sorted[:-1]) + 1
        return torch.from_numpy(np.sort(order[again]))

    def twins(self, rows: Tensor) -> Tensor:
        """All rows with the key of one of these (k,), themselves included, ascending."""
        order = self._index()
        wanted = self._hashes[rows.numpy()]
        left, right = (np.searchsorted(self._sorted, wanted, side) for side in ("left", "right"))
        sizes = right - left
        within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return torch.from_numpy(np.unique(order[np.repeat(left, sizes) + within]))

    def _index(self) -> np.ndarray:
        """(N,) rows in the order of their hashes, the lower row first where they are equal."""
        if self._order is None:
            count = len(self._table)
            self._hashes = np.fromiter(map(hash, self._all_keys()), dtype=np.int64, count=count)
            self._order = np.argsort(self._hashes, kind="stable")
            self._sorted = self._hashes[self._order]
        return self._order

    def _form(self, text: str) -> str:
        return text if self._standard is None else self._standard.parents([text])[0]

    def _all_keys(self) -> Iterator[str]:
        found = _named(self._table)
        if found is not None:
            prefix, texts = found
            return (prefix + self._form(str(text)) for text in texts)
        blocks = (slice(start, start + _BLOCK) for start in range(0, len(self._table), _BLOCK))
        return (key for block in blocks for key in feature_keys(self._table[block]))


def feature_keys(features: Tensor) -> list[str]:
    """A digest of each row of numbers (k, d), the same whatever type the numbers are kept in."""
    return [hashlib.blake2b(row, digest_size=16).hexdigest() for row in _rows_of_bytes(features)]


def _named(table: Any) -> tuple[str, Sequence[str]] | None:
    """The prefix of keys, and the texts of all rows; None where features are all there is."""
    found = ((prefix, getattr(table, name, None)) for name, prefix in _NAMES)
    return next(((prefix, texts) for prefix, texts in found if texts is not None), None)


def _rows_of_bytes(features: Tensor) -> list[bytes]:
    """The numbers of each row as bytes: of uint8 where all of them are such counts, of float64 else.

    So that bits, counts and floats of the same values have the same bytes, and -0.0 those of 0.0.
    """
    kept = features.detach().cpu()
    if kept.dtype == torch.uint8:
        return [row.tobytes() for row in kept.contiguous().numpy()]
    wide = kept.to(torch.float64) + 0.0
    small = kept.clamp(0, 255).to(torch.uint8)
    counts = (small.to(torch.float64) == wide).all(dim=1).tolist()
    pairs = zip(counts, small.contiguous().numpy(), wide.contiguous().numpy(), strict=True)
    return [(short if count else long).tobytes() for count, short, long in pairs]
