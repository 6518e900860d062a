"""Exact repeats of an input become one row: the same posterior from a smaller system."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_BLOCK = 65_536  # rows whose codes are made at once
_ODD, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)  # 2^64 over the golden ratio


@dataclass(frozen=True)
class Groups:
    """Which rows share an input.

    Attributes:
        first: (g,) the first row of each group, in order of appearance.
        member: (n,) the group of each row.
    """

    first: Tensor
    member: Tensor

    @property
    def trivial(self) -> bool:
        """Whether no input repeats."""
        return len(self.first) == len(self.member)

    def noise(self, noise_variance: Tensor) -> Tensor:  # (n,) -> (g,)
        """The noise variance of each group: 1/Σ 1/σ²; with equal noise, σ²/r for r repeats.

        Noise-free rows (σ² = 0) make their group noise-free.
        """
        if self.trivial:
            return noise_variance
        return self._sum(noise_variance.reciprocal()[:, None])[:, 0].reciprocal()

    def mean(self, values: Tensor, noise_variance: Tensor) -> Tensor:  # (n, s), (n,) -> (g, s)
        """The precision-weighted mean of each group's rows."""
        if self.trivial:
            return values
        weight = noise_variance.reciprocal()[:, None]
        # rows without noise outweigh all others; among themselves they count equally
        exact = torch.isinf(weight)
        has_exact = self._sum(exact.to(values)) > 0
        weight = torch.where(has_exact[self.member], exact.to(weight), weight).to(values)
        return self._sum(weight * values) / self._sum(weight)

    def _sum(self, values: Tensor) -> Tensor:
        out = values.new_zeros(len(self.first), values.shape[1])
        return out.index_add_(0, self.member, values)


def group_rows(x: Tensor) -> Groups:
    """Group equal rows of x, (n, d), by their bytes (−0 counts as 0).

    Rows are told apart by a code of 64 bits; those that share one are compared byte by byte.

    Cost: O(n·d + n log n); 40·n bytes, and a copy of the rows that share a code.
    """
    n, rows = len(x), x.detach().cpu()
    number = _hashes if n < rows.shape[1] * rows.element_size() // 8 else _codes
    codes = np.concatenate([number(_words(part)) for part in rows.split(_BLOCK)])
    order = np.argsort(codes)
    shared = codes[order[1:]] == codes[order[:-1]]
    leader = np.arange(n)
    if shared.any():
        several = np.zeros(n, dtype=bool)
        several[order[1:][shared]] = several[order[:-1][shared]] = True
        places = np.flatnonzero(several)
        words = _words(rows[torch.from_numpy(places)])
        keys = (
            words.view(np.dtype((np.void, words.shape[1] * words.itemsize))).ravel() if words.size else None
        )
        same: tuple[np.ndarray, np.ndarray] = (np.zeros(1, dtype=int), np.zeros(len(places), dtype=int))
        if keys is not None:
            _, *same = np.unique(keys, return_index=True, return_inverse=True)  # type: ignore[assignment]
        leader[places] = places[same[0][same[1].ravel()]]
    first = np.flatnonzero(leader == np.arange(n))
    rank = np.empty(n, dtype=np.int64)
    rank[first] = np.arange(len(first))
    return Groups(torch.from_numpy(first).to(x.device), torch.from_numpy(rank[leader]).to(x.device))


def _words(rows: Tensor) -> np.ndarray:  # (m, d) -> (m, w)
    """The bytes of some rows as whole numbers, the longest that they divide into."""
    plain = np.ascontiguousarray((rows + 0 if rows.is_floating_point() else rows).numpy())
    size = plain.shape[1] * plain.itemsize
    word = next(
        kind for kind in (np.uint64, np.uint32, np.uint16, np.uint8) if size % np.dtype(kind).itemsize == 0
    )
    return plain.view(np.uint8).reshape(len(plain), size).view(word)


def _codes(words: np.ndarray) -> np.ndarray:  # (m, w) -> (m,)
    """A number for each row that depends on all of its words and their order."""
    code = np.full(len(words), _ODD)
    for word in words.T:
        code ^= word
        code *= _ODD
        code ^= code >> _SHIFT
    return code


def _hashes(words: np.ndarray) -> np.ndarray:  # (m, w) -> (m,)
    """The same row by row, which takes less where words are more than rows, as those of fingerprints."""
    return np.array([hash(row.tobytes()) for row in words], dtype=np.int64)
