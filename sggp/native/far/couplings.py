"""The kernel between nodes of boxes some cells apart, as one matrix or as two narrow ones.

Nodes are as many as all that is far from a box takes. What one box at one place takes is less, the further away the
less, so most couplings have a rank of a fifth of their size.

Source of the factors: N. Halko, P. Martinsson and J. Tropp, "Finding structure with randomness", SIAM Review 53 (2011),
algorithm 4.4.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sggp.native.families import Profile
from sggp.native.far.basis import Basis, kernel_between
from sggp.native.far.lists import Offset
from sggp.native.far.tree import Cube

__all__ = ["Couplings"]

_BYTES = 384 * 2**20
"""Of couplings that are kept between products; others are evaluated again."""
_WIDTHS = (24, 32, 40, 52, 68, 88, 112)
_SHARE = 0.8
"""Of the multiplications that two factors may take, to be preferred."""
_PAYS = 1000
"""Columns and pairs of boxes that a product must have for two factors to be looked for."""
_CUT = 0.05
"""Norm of what factors leave out, in tolerances: weights of nodes have norms of 3 at most."""


class Couplings:
    """Factors whose product is φ between the nodes of a target and those of a source.

    Args:
        cube: what is divided. bases: of the levels. profile: φ, of scale one. tolerance: of an entry.
    """

    def __init__(self, cube: Cube, bases: dict[int, Basis], profile: Profile, tolerance: float) -> None:
        self.cube, self.bases, self.tolerance = cube, bases, tolerance
        self._unit = replace(profile, scale=1.0)
        self._kept: dict[tuple[int, Offset, torch.dtype], tuple[Tensor, ...]] = {}
        self._whole: set[tuple[int, Offset, torch.dtype]] = set()
        self._bytes = 0

    def factors(self, level: int, offset: Offset, dtype: torch.dtype, uses: int) -> tuple[Tensor, ...]:
        """The coupling with boxes `offset` cells away, (r, r), or (r, k) and (k, r) where that is less work.

        Args:
            uses: columns times pairs of boxes that are about to be multiplied.
        """
        reverse = tuple(-t for t in offset)
        if reverse < offset:
            return tuple(f.T for f in reversed(self.factors(level, reverse, dtype, uses)))
        key = (level, offset, dtype)
        found = self._kept.get(key)
        if found is None or (key in self._whole and uses >= _PAYS):
            nodes = self.bases[level].nodes
            shift = torch.tensor(offset, dtype=torch.float64) * self.cube.side_at(level)
            table = kernel_between(nodes, nodes + shift, self._unit)
            parts = _narrow(table, _CUT * self.tolerance) if uses >= _PAYS else None
            found = tuple(f.to(dtype) for f in ((table,) if parts is None else parts))
            self._keep(key, found, uses < _PAYS)
        return found

    def _keep(
        self, key: tuple[int, Offset, torch.dtype], found: tuple[Tensor, ...], may_be_less: bool
    ) -> None:
        self._bytes -= sum(f.nbytes for f in self._kept.pop(key, ()))
        self._whole.discard(key)
        size = sum(f.nbytes for f in found)
        if self._bytes + size <= _BYTES:
            self._kept[key] = found
            self._bytes += size
            if may_be_less:
                self._whole.add(key)


def _narrow(table: Tensor, cut: float) -> tuple[Tensor, Tensor] | None:
    """Q and QᵀT for an orthonormal Q of few columns, with ‖T − QQᵀT‖ ≤ cut; None where that takes too many."""
    r = len(table)
    generator = torch.Generator().manual_seed(0)
    for width in _WIDTHS:
        if 2 * width > _SHARE * r:
            return None
        start = torch.randn(r, width, generator=generator, dtype=torch.float64)
        image = torch.linalg.qr(table.T @ torch.linalg.qr(table @ start)[0])[0]
        left = torch.linalg.qr(table @ image)[0]
        right = left.T @ table
        if float((table - left @ right).norm()) <= cut:
            return left, right
    return None
