"""Which boxes of two trees meet, and how: coupled where they are well separated, point by point where they are not.

Boxes of one level are near where their places in the grid differ by at most one in every direction. Children of near
boxes are near, or well separated: a whole cube lies between them in some direction. So every pair of points is met
once: in the first level in which its boxes are well separated, or in that in which one of two near boxes is a leaf.
Boxes many length scales wide would take too many nodes: they are taken for near.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sggp.native.far.tree import Level, Tree

__all__ = ["Far", "Near", "far_and_near"]

Offset = tuple[int, ...]
_WIDE = 3  # cells between children of near boxes, at most
_AT_ONCE = 2**16  # coordinates of places looked up together: with what is made of them, some megabytes


@dataclass(frozen=True)
class Far:
    """Pairs of boxes of one level that are `offset` cells apart: source's place less target's."""

    offset: Offset
    targets: Tensor  # (p,) int64, none twice
    sources: Tensor  # (p,) int64


@dataclass(frozen=True)
class Near:
    """For every leaf of the target tree the runs of source points that are met point by point.

    Attributes:
        groups: (g, 2) int64 ranges of targets. offsets: (g + 1,) int64 into `runs`: (r, 2) int64 ranges of sources.
    """

    groups: Tensor
    offsets: Tensor
    runs: Tensor

    @property
    def entries(self) -> int:
        """Pairs of points."""
        lengths = self.runs[:, 1] - self.runs[:, 0]
        heights = self.groups[:, 1] - self.groups[:, 0]
        return int((lengths * heights.repeat_interleave(self.offsets.diff())).sum())


def far_and_near(
    targets: Tree,
    sources: Tree,
    matters: Callable[[int, Tensor], Tensor],
    couples: Callable[[int], bool] = lambda level: True,
) -> tuple[list[list[Far]], Near]:
    """The coupled pairs of each level, and what is left to be met point by point.

    Args:
        targets, sources: trees in the same cube.
        matters: (level, (o, d) offsets) → (o,) whether boxes so far apart are worth coupling; then nearer ones are too.
        couples: level → whether boxes of it can be coupled; where they cannot, all that matters is left to their
            children, as if they were near, and met point by point where boxes more than three cells apart matter. Once
            one level can, all below it can.
    """
    far: list[list[Far]] = [[]]
    direct = _Direct(targets)
    root = torch.zeros(1, dtype=torch.int64)
    direct.add(targets.levels[0], sources.levels[0], [Far((), root, root)])
    coupled, left_over = False, False  # some level before; pairs that the one before could not
    for level in range(1, min(len(targets.levels), len(sources.levels))):
        left, right = targets.levels[level], sources.levels[level]
        cells = (targets.cube.size / targets.cube.side_at(level)).floor().long().tolist()
        widest = 2 * _WIDE + 1 if left_over else _WIDE
        offsets = _mattering(level, [min(c, widest) for c in cells], matters)
        whole = int(offsets.abs().max()) > _WIDE  # what cannot be coupled is not left over again
        close: list[Far] = []
        apart: list[Far] = []
        for pair in _Places(right).apart(left, offsets, parents=not left_over):
            (close if max(map(abs, pair.offset)) <= 1 else apart).append(pair)
        direct.add(left, right, close)
        able = coupled or not apart or couples(level)
        if not able:
            direct.add(left, right, apart, whole=whole)
            apart = []
        coupled, left_over = coupled or bool(apart), not able and not whole
        far.append(apart)
    return far, direct.near()


def _mattering(level: int, cells: list[int], matters: Callable[[int, Tensor], Tensor]) -> Tensor:  # -> (o, d)
    """Near offsets, and those of at most so many cells in each direction that matter, as the less far ones then do."""
    bounds = []
    for k, most in enumerate(cells):
        farther = torch.arange(2, max(most, 1) + 1)
        line = torch.zeros(len(farther), len(cells), dtype=torch.int64)
        line[:, k] = farther
        reach = min(1, most) + int(matters(level, line).cumprod(0).sum())
        bounds.append(torch.arange(-reach, reach + 1))
    offsets = torch.cartesian_prod(*bounds).reshape(-1, len(cells))
    return offsets[(offsets.abs().amax(1) <= 1) | matters(level, offsets)]


class _Places:
    """The boxes of a level by their places."""

    def __init__(self, level: Level) -> None:
        width = level.cell.max(0).values + 2 * _WIDE + 2
        self.stride = torch.cat([width.flip(0).cumprod(0).flip(0)[1:], torch.ones(1, dtype=torch.int64)])
        self.width = width
        self.numbers, self.which = self._number(level.cell).sort()

    def _number(self, cell: Tensor) -> Tensor:
        return ((cell + _WIDE) * self.stride).sum(1)

    def apart(self, left: Level, offsets: Tensor, *, parents: bool) -> Iterator[Far]:
        """Boxes of `left`, and those of this level that are an offset from them; of near parents where asked."""
        boxes = left.cell  # (b, d)
        for steps in offsets.split(max(1, _AT_ONCE // boxes.numel())):
            wanted = boxes + steps[:, None]  # (o, b, d)
            inside = ((wanted >= 0) & (wanted + _WIDE < self.width)).all(2)
            if parents:
                inside &= ((wanted >> 1) - (boxes >> 1)).abs().amax(2) <= 1
            step, a = inside.nonzero().unbind(1)
            number = self._number(wanted[step, a])
            place = torch.searchsorted(self.numbers, number).clamp_max(len(self.numbers) - 1)
            there = self.numbers[place] == number
            step, a, b = step[there], a[there], self.which[place[there]]
            counts = torch.bincount(step, minlength=len(steps)).tolist()
            for offset, targets, sources in zip(
                steps.tolist(), a.split(counts), b.split(counts), strict=True
            ):
                if len(targets):
                    yield Far(tuple(offset), targets, sources)


class _Direct:
    """Collects pairs of near boxes of which one is a leaf."""

    def __init__(self, targets: Tree) -> None:
        self.groups = targets.leaves
        self.starts = targets.leaves[:, 0].contiguous()
        self.found: list[tuple[Tensor, Tensor, Tensor]] = []  # leaf, first source, end of sources

    def add(self, left: Level, right: Level, pairs: Sequence[Far], *, whole: bool = False) -> None:
        if not pairs:
            return
        a, b = torch.cat([pair.targets for pair in pairs]), torch.cat([pair.sources for pair in pairs])
        if not whole:
            chosen = left.leaf[a] | right.leaf[b]
            a, b = a[chosen], b[chosen]
        first = torch.searchsorted(self.starts, left.start[a])
        count = torch.searchsorted(self.starts, left.stop[a]) - first
        which = torch.arange(len(a)).repeat_interleave(count)
        within = torch.arange(len(which)) - (count.cumsum(0) - count)[which]
        self.found.append((first[which] + within, right.start[b][which], right.stop[b][which]))

    def near(self) -> Near:
        leaf, start, stop = (torch.cat(parts) for parts in zip(*self.found, strict=True))
        order = start.argsort(stable=True)
        order = order[leaf[order].argsort(stable=True)]
        leaf, start, stop = leaf[order], start[order], stop[order]
        joins = torch.zeros(len(leaf), dtype=torch.bool)
        joins[1:] = (leaf[1:] == leaf[:-1]) & (start[1:] == stop[:-1])
        first = (~joins).nonzero()[:, 0]
        last = torch.cat([first[1:], torch.tensor([len(leaf)])]) - 1
        runs = torch.stack([start[first], stop[last]], 1)
        counts = torch.bincount(leaf[first], minlength=len(self.groups))
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        return Near(self.groups, offsets, runs)
