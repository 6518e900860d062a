"""The rows of a library that may yet be chosen, and which of them more rows leave behind."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

_BLOCK = 1024


class Molecule(NamedTuple):
    """A row as it stands in its file, and its canonical SMILES."""

    smiles: str
    id: str
    canonical: str


@dataclass(frozen=True)
class Shortlist:
    """Rows on lists, by their values: entry j puts row `rows[j]` on list `lists[j]` with `values[j]`.

    Attributes:
        lists: (m,) int64.
        rows: (m,) int64, numbers that grow with file and line.
        values: (m,) float64, larger is better.
        molecules: row → molecule, for all rows that are on a list; no two of one canonical SMILES.
    """

    lists: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    values: np.ndarray = field(default_factory=lambda: np.empty(0))
    molecules: dict[int, Molecule] = field(default_factory=dict)

    def on(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and values of a list."""
        mine = self.lists == number
        return self.rows[mine], self.values[mine]

    def where(self, keep: np.ndarray) -> Shortlist:
        """The entries of a mask (m,)."""
        rows = self.rows[keep]
        left = {row: self.molecules[row] for row in np.unique(rows).tolist()}
        return Shortlist(self.lists[keep], rows, self.values[keep], left)

    def joined(self, other: Shortlist) -> Shortlist:
        """Both; of rows that are one molecule the first."""
        both = Shortlist(
            np.concatenate([self.lists, other.lists]),
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.values, other.values]),
            self.molecules | other.molecules,
        )
        first: dict[str, int] = {}
        for row in sorted(both.molecules):
            first.setdefault(both.molecules[row].canonical, row)
        if len(first) == len(both.molecules):
            return both
        return both.where(np.isin(both.rows, np.fromiter(first.values(), dtype=np.int64)))


class Lists(Protocol):
    """Which rows stay, by the values (p, n) that they have on p lists."""

    def enter(self, kept: Shortlist, values: np.ndarray) -> np.ndarray:
        """(n,) which of new rows, later than all that are kept, may stay; those that surely do not are False."""

    def entries(self, values: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """List and position of every entry that rows with values (p, n) make, of which `free` (n,) may be chosen."""

    def cut(self, kept: Shortlist) -> Shortlist:
        """What stays."""


@dataclass(frozen=True)
class Deepest:
    """The `depths[i]` best free rows of list i, equal ones by row."""

    depths: np.ndarray

    def enter(self, kept: Shortlist, values: np.ndarray) -> np.ndarray:
        full = np.bincount(kept.lists, minlength=len(self.depths)) >= self.depths
        floor = np.full(len(self.depths), math.inf)
        np.minimum.at(floor, kept.lists, kept.values)
        return np.any(values > np.where(full, floor, -math.inf)[:, None], axis=0)

    def entries(self, values: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lists, place = np.nonzero(np.broadcast_to(free, values.shape))
        return lists, place

    def cut(self, kept: Shortlist) -> Shortlist:
        order = np.lexsort((kept.rows, -kept.values, kept.lists))
        lists = kept.lists[order]
        starts = np.searchsorted(lists, np.arange(len(self.depths)))
        return kept.where(np.sort(order[np.arange(len(lists)) - starts[lists] < self.depths[lists]]))


@dataclass(frozen=True)
class Frontier:
    """The rows that may be among the `depth` best by expected improvement, whatever the best mean turns out to be.

    List 0 holds the `count` best means, of rows that are not free too: the last of them is the mark b that
    improvement is measured from. Lists 1 and 2 hold mean and standard deviation of free rows. b only grows with more
    rows, and of two rows the one with the larger standard deviation, once ahead, stays ahead when b grows: the
    derivative of their difference, Φ((m₂−b)/s₂) − Φ((m₁−b)/s₁), changes sign once, and the difference tends to 0 from
    above. So a row is left behind by `depth` others that have at least its improvement at the present b and at least
    its standard deviation.

    Args:
        count, depth: as above.
        score: (mean, std, b) → improvement, (n,) each.
    """

    count: int
    depth: int
    score: Callable[[np.ndarray, np.ndarray, float], np.ndarray]

    def enter(self, kept: Shortlist, values: np.ndarray) -> np.ndarray:
        mark = self._mark(kept)
        inside = values[0] > mark
        _, mean = kept.on(1)
        _, std = kept.on(2)
        ahead, score = self._height(mean, std, mark), self._height(values[1], values[2], mark)
        for start in range(0, len(inside), _BLOCK):
            part = slice(start, start + _BLOCK)
            above = (ahead >= score[part, None]) & (std >= values[2][part, None])
            inside[part] |= above.sum(axis=1) < self.depth
        return inside

    def entries(self, values: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        every, own = np.arange(values.shape[1]), np.flatnonzero(free)
        lists = np.repeat([0, 1, 2], [len(every), len(own), len(own)])
        return lists, np.concatenate([every, own, own])

    def cut(self, kept: Shortlist) -> Shortlist:
        keep = np.zeros(len(kept.lists), dtype=bool)
        means = np.flatnonzero(kept.lists == 0)
        keep[means[np.lexsort((kept.rows[means], -kept.values[means]))[: self.count]]] = True
        first, second = np.flatnonzero(kept.lists == 1), np.flatnonzero(kept.lists == 2)
        first = first[np.argsort(kept.rows[first])]
        second = second[np.argsort(kept.rows[second])]
        mean, std = kept.values[first], kept.values[second]
        stays = skyband(self._height(mean, std, self._mark(kept)), std, self.depth)
        keep[first[stays]] = keep[second[stays]] = True
        return kept.where(keep)

    def _mark(self, kept: Shortlist) -> float:
        _, means = kept.on(0)
        return float(np.sort(means)[-self.count]) if len(means) >= self.count else -math.inf

    def _height(self, mean: np.ndarray, std: np.ndarray, mark: float) -> np.ndarray:
        """What orders rows beside their standard deviations; the mean while there is no mark."""
        return mean if mark == -math.inf else self.score(mean, std, mark)


def skyband(first: np.ndarray, second: np.ndarray, depth: int) -> np.ndarray:
    """(n,) which rows have fewer than `depth` others that are before them by `first` and not below by `second`.

    Equal values of `first` are ordered by position. Cost: O(n log n).
    """
    stays = np.zeros(len(first), dtype=bool)
    largest: list[float] = []
    for place in np.lexsort((np.arange(len(first)), -first)).tolist():
        value = float(second[place])
        if len(largest) < depth:
            stays[place] = True
            heapq.heappush(largest, value)
        elif value > largest[0]:
            stays[place] = True
            heapq.heapreplace(largest, value)
    return stays
