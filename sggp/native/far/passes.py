"""Values of sources at nodes, up a tree of theirs, across to boxes of targets, and down to the leaves of these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from sggp.native.families import Profile
from sggp.native.far.basis import Basis, basis_for, kernel_between
from sggp.native.far.couplings import Couplings
from sggp.native.far.leaves import Leaves
from sggp.native.far.lists import far_and_near
from sggp.native.far.tree import Tree

__all__ = ["Passes"]

_GATHER_BYTES = 2**19
"""Of a block of moments on its way across, for each thread: it is read again while it is in the cache."""
_NEGLIGIBLE = 0.1
_SAFETY = 2
"""Of an entry's tolerance over that of nodes: the errors of both sides add up."""


class _Move(NamedTuple):
    """Children at one place in their parents."""

    parents: Tensor  # (c,) boxes
    children: Tensor  # (c,) boxes of the level below
    table: Tensor  # (r', r): weights of the nodes of a parent, for the nodes of a child


class Passes:
    """The far part of K(targets, sources), of scale one, and which points are left to be met one by one.

    Args:
        targets, sources: trees in the same cube.
        profile: φ. tolerance: what an entry may be wrong by, relative to the scale.

    Attributes:
        near: what is met point by point. coefficients: of couplings that a product reads.
        bases: of each level from `top` on, the first one whose boxes are coupled; none where nothing is far.
    """

    def __init__(self, targets: Tree, sources: Tree, profile: Profile, tolerance: float) -> None:
        self.cube, self.targets, self.sources = sources.cube, targets, sources
        self.tolerance, self._unit = tolerance, replace(profile, scale=1.0)
        self.far, self.near = far_and_near(targets, sources, self._matters, self._couples)
        coupled = [level for level, pairs in enumerate(self.far) if pairs]
        self.top = coupled[0] if coupled else len(self.far)
        deepest = max(len(targets.levels), len(sources.levels)) if coupled else 0
        self.bases = {level: self._basis(level) for level in range(self.top, deepest)}
        self.coefficients = sum(
            len(pair.targets) * self.bases[level].rank ** 2 for level in coupled for pair in self.far[level]
        )
        self._couplings = Couplings(self.cube, self.bases, profile, tolerance)

    def nodes(self) -> int:
        """Of all boxes, in the larger of the trees."""
        return max(
            sum(len(boxes) * self.bases[i].rank for i, boxes in enumerate(tree.levels) if i in self.bases)
            for tree in (self.targets, self.sources)
        )

    def locals(self, v: Tensor) -> Iterator[tuple[int, Tensor]]:  # (m, s) in the order of the sources
        """Levels of the targets from `top` on, and the field (b, s, r) at the nodes of each of their boxes.

        Those of a leaf are of all sources that are far from it.
        """
        yield from self._down(self._across(self._up(v)), v)

    def _up(self, v: Tensor) -> dict[int, Tensor]:
        """Moments (b, s, r) of the sources at the nodes of every box."""
        moments: dict[int, Tensor] = {}
        levels = self.sources.levels
        for level in range(len(levels) - 1, self.top - 1, -1):
            basis = self.bases[level]
            own = torch.zeros(len(levels[level]), v.shape[1], basis.rank, dtype=v.dtype)
            Leaves(self.sources, level, basis).moments(v, own)
            if level + 1 in moments:
                for move in self._moves(self.sources, level):
                    own.index_add_(
                        0, move.parents, moments[level + 1][move.children] @ move.table.to(v.dtype)
                    )
            moments[level] = own
        return moments

    def _across(self, moments: dict[int, Tensor]) -> dict[int, Tensor]:
        """Fields (b, s, r) at the nodes of the targets' boxes, of the boxes they are coupled with."""
        fields: dict[int, Tensor] = {}
        for level, own in list(moments.items()):
            if level >= len(self.targets.levels):
                continue
            boxes, (_, s, r) = len(self.targets.levels[level]), own.shape
            field = torch.zeros(boxes, s, r, dtype=own.dtype)
            step = max(1, _GATHER_BYTES * torch.get_num_threads() // (own.element_size() * s * r))
            for pair in self.far[level] if level < len(self.far) else []:
                uses = s * len(pair.targets)
                factors = [f.T for f in self._couplings.factors(level, pair.offset, own.dtype, uses)]
                for a, b in zip(pair.targets.split(step), pair.sources.split(step), strict=True):
                    product = own[b].reshape(-1, r)
                    for factor in reversed(factors):
                        product = product @ factor
                    field.index_add_(0, a, product.reshape(len(a), s, r))
            fields[level] = field
        return fields

    def _down(self, fields: dict[int, Tensor], v: Tensor) -> Iterator[tuple[int, Tensor]]:
        levels, above = self.targets.levels, None
        for level in range(self.top, len(levels)):
            own = fields.pop(level, None)
            if own is None:
                own = torch.zeros(len(levels[level]), v.shape[1], self.bases[level].rank, dtype=v.dtype)
            if above is not None:
                for move in self._moves(self.targets, level - 1):
                    own.index_add_(0, move.children, above[move.parents] @ move.table.T.to(v.dtype))
            yield level, own
            above = own

    def _moves(self, tree: Tree, level: int) -> Iterator[_Move]:
        """From the boxes below a level to their parents: one for each place of a child in its parent."""
        upper, lower, below = self.bases[level], self.bases[level + 1], tree.levels[level + 1]
        side = self.cube.side_at(level + 1)
        for octant in below.octant.unique().tolist():
            children = (below.octant == octant).nonzero()[:, 0]
            place = torch.tensor(
                [float(octant >> k & 1) for k in range(len(self.cube.low))], dtype=torch.float64
            )
            shift = place * side + lower.extent / 2 - upper.extent / 2
            yield _Move(below.parent[children], children, upper.values(lower.nodes + shift))

    def _basis(self, level: int) -> Basis:
        cube = self.cube
        side, extent = cube.side_at(level), cube.extent_at(level)
        allowed = self.tolerance / _SAFETY
        return basis_for(side, tuple(extent.tolist()), tuple(cube.size.tolist()), self._unit, allowed)

    def _couples(self, level: int) -> bool:
        """Whether nodes of this level reach the tolerance: those of boxes many length scales wide would be too many."""
        return self._basis(level).error <= self.tolerance / _SAFETY

    def _matters(self, level: int, offsets: Tensor) -> Tensor:  # (o, d) -> (o,)
        """Whether the kernel between boxes so far apart is more than a share of the tolerance."""
        side, extent = self.cube.side_at(level), self.cube.extent_at(level)
        gaps = (offsets.abs().double() * side - extent).clamp_min(0.0)
        here = torch.zeros(1, len(extent), dtype=torch.float64)
        return kernel_between(gaps, here, self._unit)[:, 0] > _NEGLIGIBLE * self.tolerance
