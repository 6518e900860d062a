"""Points in a tree of cubes: each cube with more points than a capacity has up to 2^d children of half its side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Cube", "Level", "Tree", "enclosing", "grow", "interleaved"]

_MARGIN = 1e-9
_BITS = 60
_MOST_LEVELS = 24


@dataclass(frozen=True)
class Cube:
    """The cube that is divided, with the box inside it that holds points.

    Attributes:
        low: (d,) the corner. side: its side, positive. size: (d,) extents of the points from the corner.
    """

    low: Tensor
    side: float
    size: Tensor

    @property
    def depth(self) -> int:
        """Levels that keys of 60 bits have room for."""
        return min(_MOST_LEVELS, _BITS // len(self.low))

    def finest(self, points: Tensor) -> Tensor:  # (n, d) -> (n, d)
        """Places in the grid of the last level; those of the nearest points of the cube for points outside."""
        place = (points - self.low) * (2.0**self.depth / self.side)
        return place.clamp_(0, 2.0**self.depth - 1).long()

    def side_at(self, level: int) -> float:
        """Side of the cubes of a level."""
        return self.side / 2.0**level

    def extent_at(self, level: int) -> Tensor:  # -> (d,)
        """Extents that boxes of a level have inside their cubes: less than the side where all points lie thinner.

        A direction keeps its full side as long as the next level divides it, so that boxes hold those of their
        children.
        """
        side = self.side_at(level)
        return torch.where(self.size > side / 2, torch.full_like(self.size, side), self.size)


@dataclass(frozen=True)
class Level:
    """The boxes of one side that hold points, in the order of the points.

    Attributes:
        cell: (b, d) int64 places in the grid of this level.
        start, stop: (b,) int64 their points.
        parent: (b,) int64 boxes of the level above. octant: (b,) int64 which child of it, bit k for direction k.
        leaf: (b,) bool, whether a box has no children.
    """

    cell: Tensor
    start: Tensor
    stop: Tensor
    parent: Tensor
    octant: Tensor
    leaf: Tensor

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True)
class Tree:
    """Points sorted so that those of every box stand together.

    Attributes:
        cube: what is divided. order: (n,) int64 which point stands where. rows: (n, d) float64 the points in order.
        levels: from the cube itself down. leaves: (l, 2) int64 ranges of points of all leaves, in order.
    """

    cube: Cube
    order: Tensor
    rows: Tensor
    levels: tuple[Level, ...]
    leaves: Tensor


def enclosing(*points: Tensor) -> Cube:
    """The least cube around sets of points (n, d), a little wider."""
    low = torch.stack([rows.min(0).values for rows in points]).min(0).values
    high = torch.stack([rows.max(0).values for rows in points]).max(0).values
    size = high - low
    side = float(size.max()) * (1 + _MARGIN)
    return Cube(low, side if side > 0 else 1.0, size)


def grow(points: Tensor, cube: Cube, capacity: int) -> Tree:
    """The tree of points (n, d) in a cube; boxes of the last level that keys have room for are leaves, however full."""
    n, d = points.shape
    depth = cube.depth
    fine = cube.finest(points)
    key = interleaved(fine, depth)
    key, order = key.sort(stable=True)
    fine = fine[order]
    levels: list[Level] = []
    start, stop = torch.zeros(1, dtype=torch.int64), torch.full((1,), n, dtype=torch.int64)
    parent, octant = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    for level in range(depth + 1):
        cell = fine[start] >> (depth - level)
        leaf = (stop - start <= capacity) | (level == depth)
        levels.append(Level(cell, start, stop, parent, octant, leaf))
        split = (~leaf).nonzero()[:, 0]
        if not len(split):
            break
        shift = d * (depth - level - 1)
        first = (key[start[split]] >> (shift + d)) << d
        children = first[:, None] + torch.arange(2**d + 1)
        bounds = torch.searchsorted(key, (children << shift).reshape(-1)).reshape(children.shape)
        filled = bounds[:, 1:] > bounds[:, :-1]
        row, octant = filled.nonzero(as_tuple=True)
        parent, start, stop = split[row], bounds[:, :-1][filled], bounds[:, 1:][filled]
    return Tree(cube, order, points[order].contiguous(), tuple(levels), _leaves(levels))


def interleaved(cell: Tensor, depth: int) -> Tensor:  # (n, d) -> (n,)
    """Bits of the d coordinates in turn, coordinate 0 lowest: sorting by them follows the tree."""
    d = cell.shape[1]
    key = torch.zeros(len(cell), dtype=torch.int64)
    for k in range(d):
        column = cell[:, k].contiguous()
        for bit in range(depth):
            key |= ((column >> bit) & 1) << (d * bit + k)
    return key


def _leaves(levels: list[Level]) -> Tensor:
    ranges = torch.cat([torch.stack([v.start[v.leaf], v.stop[v.leaf]], 1) for v in levels])
    return ranges[ranges[:, 0].argsort()]
