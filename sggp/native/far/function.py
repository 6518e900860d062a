"""x ↦ K(x, b) v for fixed sources and weights: what is far is brought to the leaves once, for all points x.

A point then takes the polynomials of its leaf, and the sources near it one by one.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from sggp.native.families import Profile
from sggp.native.far.cells import Cells, padded
from sggp.native.far.leaves import Leaves
from sggp.native.far.lists import Near
from sggp.native.far.near import products_near
from sggp.native.far.passes import Passes
from sggp.native.far.tree import Level, Tree, enclosing, grow

__all__ = ["FarFunction"]

_ROWS = 2**17
"""Points at a time."""
_GROUP = 512
"""Points that are met by the same sources together, at most."""
_COLUMN_BYTES = 384 * 2**20
"""Of the nodes' values on the way: more columns take several passes."""


class _Weighted(NamedTuple):
    v: Tensor  # (m, s) in the order of the sources
    locals: dict[int, Tensor]  # level -> (b, s, r), of all its cells


class FarFunction:
    """Sums Σ_j k(x, b_j) v_j as functions of x, in a cube of twice the side of that around b.

    Args:
        b: (m, d) float64 scaled sources, d ≤ 3 by intent.
        profile: φ and the scale. tolerance: of an entry, relative to the scale. capacity: points of a leaf, at most.

    Cost: `weigh` takes s·`passes.coefficients` multiply-adds, and for every leaf s·r numbers in the precision of v; a
        value some `near_rows` kernel entries and the polynomials of one leaf.
    """

    def __init__(self, b: Tensor, profile: Profile, tolerance: float, *, capacity: int) -> None:
        self.profile, self.capacity = profile, capacity
        self.sources = grow(b, padded(enclosing(b)), capacity)
        self.cells = Cells(self.sources, 3.0 ** (b.shape[1] - 1) * capacity)
        self._tree = self.cells.tree
        self.passes = Passes(self._tree, self.sources, profile, tolerance)
        self._weighted = _Weighted(torch.zeros(len(b), 0), {})

    @property
    def near_rows(self) -> float:
        """Sources met one by one, on average over points that lie as the sources do."""
        near = self.passes.near
        length = torch.zeros(len(self.cells), dtype=torch.int64)
        of = torch.arange(len(self.cells)).repeat_interleave(near.offsets.diff())
        length.index_add_(0, of, near.runs[:, 1] - near.runs[:, 0])
        return float(length[self.cells.leaf_of(self.sources.rows)].double().mean())

    @property
    def numbers(self) -> int:
        """Kept for a column: at the nodes of all cells."""
        return self.passes.nodes() if self.passes.bases else 0

    @property
    def dtype(self) -> torch.dtype:
        """Of values: that of the weights."""
        return self._weighted.v.dtype

    def weigh(self, v: Tensor) -> None:  # (m, s)
        """Take these weights; values are in their precision."""
        v = v[self.sources.order].contiguous()
        bases = self.passes.bases
        kept = {
            level: torch.zeros(len(boxes), v.shape[1], bases[level].rank, dtype=v.dtype)
            for level, boxes in enumerate(self.cells.levels)
            if level in bases
        }
        if kept:
            step = max(1, _COLUMN_BYTES // (2 * v.element_size() * self.passes.nodes()))
            for start in range(0, v.shape[1], step):
                columns = slice(start, start + step)
                for level, own in self.passes.locals(v[:, columns].contiguous()):
                    kept[level][:, columns] = own * self.profile.scale
        self._weighted = _Weighted(v, kept)

    def columns(self, chosen: Tensor) -> FarFunction:  # (c,)
        """The sums with some columns of the weights."""
        found, (v, locals_) = copy.copy(self), self._weighted
        kept = {level: own[:, chosen] for level, own in locals_.items()}
        found._weighted = _Weighted(v[:, chosen].contiguous(), kept)
        return found

    def inside(self, x: Tensor) -> Tensor:  # (q, d) -> (q,)
        """Where values can be asked for."""
        return self.cells.inside(x)

    def __call__(self, x: Tensor) -> Tensor:  # (q, d) -> (q, s)
        """The sums at scaled points that are `inside`, in the precision of the weights."""
        out = torch.empty(len(x), self._weighted.v.shape[1], dtype=self.dtype)
        for rows, part in zip(x.split(_ROWS), out.split(_ROWS), strict=True):
            self._some(rows, part, self._weighted)
        return out

    def _some(self, x: Tensor, out: Tensor, weighted: _Weighted) -> None:
        leaf, order = self.cells.leaf_of(x).sort()
        rows = x[order]
        hit, count = leaf.unique_consecutive(return_counts=True)
        start = count.cumsum(0) - count
        found = products_near(
            rows, self.sources.rows, weighted.v, self.profile, self._near(hit, start, count)
        )
        depth, place = self.cells.depth[hit], self.cells.place[hit]
        for level, kept in weighted.locals.items():
            which = (depth == level).nonzero()[:, 0]
            if not len(which):
                continue
            at = place[which]
            zero = torch.zeros_like(at)
            own = Level(
                self.cells.levels[level].cell[at],
                start[which],
                start[which] + count[which],
                zero,
                zero,
                zero == 0,
            )
            levels = (own,) * (level + 1)
            tree = Tree(self.cells.cube, order, rows, levels, self._tree.leaves)
            Leaves(tree, level, self.passes.bases[level]).fields(kept[at], found)
        out[order] = found

    def _near(self, hit: Tensor, start: Tensor, count: Tensor) -> Near:
        """Groups of at most so many points of the leaves `hit`, with the sources near them."""
        parts = (count + _GROUP - 1) // _GROUP
        leaf = torch.arange(len(hit)).repeat_interleave(parts)
        part = torch.arange(len(leaf)) - (parts.cumsum(0) - parts)[leaf]
        first = start[leaf] + part * _GROUP
        groups = torch.stack([first, torch.minimum(first + _GROUP, (start + count)[leaf])], 1)
        offsets, runs = self.passes.near.offsets, self.passes.near.runs
        begin = offsets[hit][leaf]
        length = offsets[hit + 1][leaf] - begin
        ends = length.cumsum(0)
        within = torch.arange(int(length.sum())) - (ends - length).repeat_interleave(length)
        return Near(
            groups,
            torch.cat([torch.zeros(1, dtype=torch.int64), ends]),
            runs[begin.repeat_interleave(length) + within],
        )
