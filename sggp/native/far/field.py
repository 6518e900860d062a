"""Products K(a, b) v with a stationary kernel in few dimensions, in about n log n operations.

Boxes of a tree that are well separated see one another through a few nodes each (`sggp.native.far.basis`): values go up
the tree to nodes, across between nodes of boxes of one level, and down to points; what is near is met point by point.

Sources: L. Greengard and V. Rokhlin, "A fast algorithm for particle simulations", J. Comput. Phys. 73 (1987);
W. Hackbusch and S. Börm, "Data-sparse approximation by adaptive H²-matrices", Computing 69 (2002). Departure: no
lists for a leaf beside smaller boxes, whose points are met one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from sggp.native import library
from sggp.native.families import Profile
from sggp.native.far.basis import Basis, basis_for, kernel_between
from sggp.native.far.leaves import Leaves
from sggp.native.far.lists import Offset, far_and_near
from sggp.native.far.near import near_products, near_products_in_torch
from sggp.native.far.tree import Tree, enclosing, grow

__all__ = ["FarField"]

_COLUMN_BYTES = 384 * 2**20
"""Of the nodes' values of one pass: more columns take several."""
_COUPLING_BYTES = 384 * 2**20
"""Of couplings that are kept between products; others are evaluated again."""
_GATHER_BYTES = 32 * 2**20
_NEGLIGIBLE = 0.1
CAPACITY = 400


class _Move(NamedTuple):
    """Children at one place in their parents."""

    parents: Tensor  # (c,) boxes
    children: Tensor  # (c,) boxes of the level below
    table: Tensor  # (r', r): weights of the nodes of a parent, for the nodes of a child


class FarField:
    """K(a, b) as something that multiplies: near entries as they are, far ones within a tolerance.

    Args:
        a: (n, d) float64 scaled targets, d ≤ 3 by intent. b: (m, d) scaled sources; None for those of `a`.
        profile: φ and the scale.
        tolerance: what an entry may be wrong by, relative to the scale.
        capacity: points of a leaf, at most.

    Cost:
        near entries, each made once, and 2·s·Σ r² flops over coupled pairs of boxes, some 6^d − 3^d for each box with
        its r nodes (r about 200 in three dimensions for a tolerance of 1e-6); memory of the rows twice, some 0.4 GiB
        of couplings, and the nodes' values.

    Attributes:
        near: what is met point by point, `near.entries` kernel entries that a product makes.
        coefficients: of couplings that a product reads.
    """

    def __init__(
        self, a: Tensor, b: Tensor | None, profile: Profile, tolerance: float, *, capacity: int = CAPACITY
    ) -> None:
        self.profile, self.tolerance = profile, tolerance
        self._unit = replace(profile, scale=1.0)
        self.cube = enclosing(a) if b is None else enclosing(a, b)
        self.targets = grow(a, self.cube, capacity)
        self.sources = self.targets if b is None else grow(b, self.cube, capacity)
        self.far, self.near = far_and_near(self.targets, self.sources, self._matters)
        coupled = [level for level, pairs in enumerate(self.far) if pairs]
        self.top = coupled[0] if coupled else len(self.far)
        deepest = max(len(self.targets.levels), len(self.sources.levels)) if coupled else 0
        self.bases = {level: self._basis(level) for level in range(self.top, deepest)}
        self.coefficients = sum(
            len(pair.targets) * self.bases[level].rank ** 2 for level in coupled for pair in self.far[level]
        )
        self._couplings: dict[tuple[int, Offset, torch.dtype], Tensor] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        return len(self.targets.order), len(self.sources.order)

    @property
    def entries(self) -> int:
        """Kernel entries that a product makes, and coupling coefficients that it reads."""
        return self.near.entries + self.coefficients

    def work(self, columns: float) -> float:
        """Entries that take as long as a product with so many columns.

        An entry takes 1 + s/22 of its evaluation to make and to multiply by s columns, a coefficient s/22.
        """
        return self.near.entries + self.coefficients * columns / (22 + columns)

    def matmul(self, v: Tensor) -> Tensor:  # (m, s) -> (n, s)
        """K(a, b) v, in the precision of v."""
        given = v[self.sources.order].contiguous()
        product = near_products if library.available() else near_products_in_torch
        found = product(self.targets.rows, self.sources.rows, given, self.profile, self.near)
        if self.bases:
            columns = max(1, _COLUMN_BYTES // (2 * v.element_size() * self._nodes()))
            for some, rows in zip(given.split(columns, 1), found.split(columns, 1), strict=True):
                field = torch.zeros_like(rows)
                self._down(self._across(self._up(some)), field)
                rows += field.mul_(self.profile.scale)
        out = torch.empty_like(found)
        out[self.targets.order] = found
        return out

    def _nodes(self) -> int:
        """Of all boxes, in the larger of the trees."""
        return max(
            sum(len(boxes) * self.bases[i].rank for i, boxes in enumerate(tree.levels) if i in self.bases)
            for tree in (self.targets, self.sources)
        )

    # the three passes -------------------------------------------------------------------------------------------------

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
            step = max(1, _GATHER_BYTES // (own.element_size() * s * r))
            for pair in self.far[level] if level < len(self.far) else []:
                table = self._coupling(level, pair.offset, own.dtype)
                for a, b in zip(pair.targets.split(step), pair.sources.split(step), strict=True):
                    product = own[b].reshape(-1, r) @ table.T
                    field.index_add_(0, a, product.reshape(len(a), s, r))
            fields[level] = field
        return fields

    def _down(self, fields: dict[int, Tensor], out: Tensor) -> None:
        """Adds the fields at points."""
        levels, above = self.targets.levels, None
        for level in range(self.top, len(levels)):
            basis = self.bases[level]
            own = fields.pop(level, None)
            if own is None:
                own = torch.zeros(len(levels[level]), out.shape[1], basis.rank, dtype=out.dtype)
            if above is not None:
                for move in self._moves(self.targets, level - 1):
                    own.index_add_(0, move.children, above[move.parents] @ move.table.T.to(out.dtype))
            Leaves(self.targets, level, basis).fields(own, out)
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

    # what they need ---------------------------------------------------------------------------------------------------

    def _basis(self, level: int) -> Basis:
        cube = self.cube
        side, extent = cube.side_at(level), cube.extent_at(level)
        return basis_for(
            side, tuple(extent.tolist()), tuple(cube.size.tolist()), self._unit, self.tolerance / 4
        )

    def _matters(self, level: int, offset: Offset) -> bool:
        """Whether the kernel between boxes so far apart is more than a share of the tolerance."""
        side, extent = self.cube.side_at(level), self.cube.extent_at(level)
        gap = (torch.tensor(offset, dtype=torch.float64).abs() * side - extent).clamp_min(0.0)
        value = kernel_between(gap[None], torch.zeros_like(gap)[None], self._unit)
        return float(value) > _NEGLIGIBLE * self.tolerance

    def _coupling(self, level: int, offset: Offset, dtype: torch.dtype) -> Tensor:  # (r, r)
        """φ between the nodes of a target and those of a source `offset` cells away."""
        reverse = tuple(-t for t in offset)
        if (level, reverse, dtype) in self._couplings:
            return self._couplings[level, reverse, dtype].T
        key = (level, offset, dtype)
        if key not in self._couplings:
            nodes = self.bases[level].nodes
            shift = torch.tensor(offset, dtype=torch.float64) * self.cube.side_at(level)
            table = kernel_between(nodes, nodes + shift, self._unit).to(dtype)
            held = sum(t.numel() * t.element_size() for t in self._couplings.values())
            if held + table.numel() * table.element_size() > _COUPLING_BYTES:
                return table
            self._couplings[key] = table
        return self._couplings[key]
