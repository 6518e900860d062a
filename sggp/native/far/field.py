"""Products K(a, b) v with a stationary kernel in few dimensions, in about n log n operations.

Boxes of a tree that are well separated see one another through a few nodes each (`sggp.native.far.basis`): values go up
the tree to nodes, across between nodes of boxes of one level, and down to points; what is near is met point by point.

Sources: L. Greengard and V. Rokhlin, "A fast algorithm for particle simulations", J. Comput. Phys. 73 (1987);
W. Hackbusch and S. Börm, "Data-sparse approximation by adaptive H²-matrices", Computing 69 (2002). Departure: no
lists for a leaf beside smaller boxes, whose points are met one by one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sggp.native.families import Profile
from sggp.native.far.leaves import Leaves
from sggp.native.far.near import products_near
from sggp.native.far.passes import Passes
from sggp.native.far.tree import enclosing, grow

__all__ = ["FarField"]

_COLUMN_BYTES = 384 * 2**20
"""Of the nodes' values of one pass: more columns take several."""
CAPACITY = 400


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
        self.profile = profile
        cube = enclosing(a) if b is None else enclosing(a, b)
        self.targets = grow(a, cube, capacity)
        self.sources = self.targets if b is None else grow(b, cube, capacity)
        self._passes = Passes(self.targets, self.sources, profile, tolerance)
        self.far, self.near = self._passes.far, self._passes.near
        self.coefficients = self._passes.coefficients

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
        given, passes = v[self.sources.order].contiguous(), self._passes
        found = products_near(self.targets.rows, self.sources.rows, given, self.profile, self.near)
        if passes.bases:
            columns = max(1, _COLUMN_BYTES // (2 * v.element_size() * passes.nodes()))
            for some, rows in zip(given.split(columns, 1), found.split(columns, 1), strict=True):
                field = torch.zeros_like(rows)
                for level, own in passes.locals(some):
                    Leaves(self.targets, level, passes.bases[level]).fields(own, field)
                rows += field.mul_(self.profile.scale)
        out = torch.empty_like(found)
        out[self.targets.order] = found
        return out
