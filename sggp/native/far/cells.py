"""Cells that fill a cube, wherever values may be asked for: small among points, large far from them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
from torch import Tensor

from sggp.native.far.tree import Cube, Level, Tree, interleaved

__all__ = ["Cells", "padded"]


def padded(cube: Cube) -> Cube:
    """The cube of twice the side around the same middle; its extents are doubled in every direction."""
    return Cube(cube.low - cube.size / 2, 2 * cube.side, 2 * cube.size)


class Cells:
    """A tree of cells without gaps. A cell is divided if divided boxes of the sources near it hold many points.

    Args:
        sources: the tree that is looked at from the cells, in the same cube.
        most: how many points of divided boxes may be near a cell that is not divided.

    Attributes:
        levels: the cells, of which `start` and `stop` count leaves. leaves: (l,) how many; in the order of keys.
        depth, place: (l,) int64 the level of each leaf, and where in the level it stands.

    Cost: about one cell for each box of the sources where these fill the space, up to 3^d where they lie in planes or
        along lines, and 3^d look-ups each.
    """

    def __init__(self, sources: Tree, most: float) -> None:
        self.cube = sources.cube
        levels = self._divided(sources, most)
        cube, d = self.cube, len(self.cube.low)
        first = [interleaved(v.cell << (cube.depth - i), cube.depth) for i, v in enumerate(levels)]
        depth = torch.cat([torch.full((int(v.leaf.sum()),), i) for i, v in enumerate(levels)])
        place = torch.cat([v.leaf.nonzero()[:, 0] for v in levels])
        self.keys, order = torch.cat([k[v.leaf] for k, v in zip(first, levels, strict=True)]).sort()
        self.depth, self.place = depth[order], place[order]
        bounds = [
            (torch.searchsorted(self.keys, k), torch.searchsorted(self.keys, k + (1 << d * (cube.depth - i))))
            for i, k in enumerate(first)
        ]
        self.levels = tuple(
            replace(v, start=start, stop=stop) for v, (start, stop) in zip(levels, bounds, strict=True)
        )

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def tree(self) -> Tree:
        """With one point in every leaf, about which no more is said."""
        numbers = torch.arange(len(self))
        return Tree(
            self.cube,
            numbers,
            torch.empty(0, len(self.cube.low), dtype=torch.float64),
            self.levels,
            torch.stack([numbers, numbers + 1], 1),
        )

    def inside(self, x: Tensor) -> Tensor:  # (q, d) -> (q,)
        """Whether the cube, as far as it extends, holds the points."""
        place = x - self.cube.low
        return ((place >= 0) & (place <= self.cube.size)).all(1)

    def leaf_of(self, x: Tensor) -> Tensor:  # (q, d) -> (q,)
        """The leaves in which points inside lie."""
        key = interleaved(self.cube.finest(x), self.cube.depth)
        return torch.searchsorted(self.keys, key, right=True) - 1

    def _divided(self, sources: Tree, most: float) -> list[Level]:
        cube, d = self.cube, len(self.cube.low)
        octant = torch.arange(2**d)
        steps = torch.stack([octant >> k & 1 for k in range(d)], 1)
        cell, parent = torch.zeros(1, d, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
        octants, levels = parent, list[Level]()
        for level in range(cube.depth + 1):
            leaf = torch.ones(len(cell), dtype=torch.bool)
            if level < min(len(sources.levels), cube.depth):
                leaf = _near_points(cell, sources.levels[level]) <= most
            levels.append(Level(cell, parent, parent, parent, octants, leaf))
            split = (~leaf).nonzero()[:, 0]
            if not len(split):
                break
            children = (2 * cell[split, None] + steps).flatten(0, 1)
            inside = (children * cube.side_at(level + 1) <= cube.size).all(1)
            cell, parent = children[inside], split.repeat_interleave(2**d)[inside]
            octants = octant.repeat(len(split))[inside]
        return levels


def _near_points(cell: Tensor, boxes: Level) -> Tensor:  # (c, d) -> (c,)
    """How many points the divided boxes hold that are near each cell."""
    split = ~boxes.leaf
    found = torch.zeros(len(cell), dtype=torch.int64)
    if not bool(split.any()):
        return found
    width = torch.maximum(cell.amax(0), boxes.cell.amax(0)) + 3
    stride = torch.cat([width.flip(0).cumprod(0).flip(0)[1:], torch.ones(1, dtype=torch.int64)])
    numbers, order = ((boxes.cell[split] + 1) * stride).sum(1).sort()
    count = (boxes.stop - boxes.start)[split][order]
    for offset in itertools.product((-1, 0, 1), repeat=cell.shape[1]):
        wanted = ((cell + 1 + torch.tensor(offset)) * stride).sum(1)
        at = torch.searchsorted(numbers, wanted).clamp_max(len(numbers) - 1)
        found += torch.where(numbers[at] == wanted, count[at], 0)
    return found
