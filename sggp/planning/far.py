"""What a product by a far field takes: near entries and coupling coefficients, counted for rows that fill a cube.

Boxes of level l are a grid of 2^l a side. A box meets up to 3^d of its own level point by point, in the last one, and
is coupled with the children of its parent's neighbours that are not its own. So pairs are counted, not measured; what
is measured are the nodes of a box, by its width in length scales.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from sggp.operators.far import CAPACITIES, COLUMNS_OF_AN_ENTRY, FAR_ROWS, MOST_DIMENSIONS, PAYS, SIZED_FOR

__all__ = ["EXTENT", "FarWork", "far_work"]

EXTENT = 5.0
"""Length scales that a column's range is taken for."""
_WIDTHS = (0.0625, 0.25, 0.625, 2.5)
_NODES = {
    ("matern12", 1): (2, 2, 2, 2),
    ("matern32", 1): (4, 4, 4, 4),
    ("matern52", 1): (5, 6, 6, 6),
    ("rbf", 1): (4, 5, 7, 8),
    ("matern12", 2): (43, 49, 53, 53),
    ("matern32", 2): (25, 40, 50, 59),
    ("matern52", 2): (16, 33, 48, 63),
    ("rbf", 2): (10, 18, 34, 79),
    ("matern12", 3): (253, 301, 351, 419),
    ("matern32", 3): (106, 222, 315, 478),
    ("matern52", 3): (44, 152, 281, 499),
    ("rbf", 3): (22, 54, 148, 590),
}
"""Nodes of a box of those widths in length scales, by kernel and dimensions, for the tolerance of float32 products."""
_NARROW = 100.0
"""Coefficients for each node in whose time a wide coupling with many columns is multiplied, as two narrow factors."""
_TYPICAL = "rbf"
"""What is chosen for a smooth function."""


class FarWork(NamedTuple):
    """Of one product: `near` entries that are made, `coefficients` of couplings, and as many `narrow` ones instead."""

    near: float
    coefficients: float
    narrow: float

    def entries(self, columns: float) -> float:
        """Entries that take as long as a product with so many columns, as `FarField.work`."""
        return self.near + self.coefficients * columns / (COLUMNS_OF_AN_ENTRY + columns)


def far_work(n: int, d: int, kernel: str = "auto", extent: float = EXTENT) -> FarWork | None:
    """The work of a product of n rows that fill a cube, where `sggp.operators.far` takes a far field; else None.

    Args:
        n: rows. d: columns. kernel: "auto" for what is typical, or a name. extent: length scales across the cube.

    Cost: none to speak of; within 30 % of the count of a `FarMatrix` on uniform rows.
    """
    if n < FAR_ROWS or d > MOST_DIMENSIONS:
        return None
    name = _TYPICAL if kernel == "auto" else kernel
    found = min((_sized(n, d, name, extent, capacity) for capacity in CAPACITIES), key=_size)
    return found if _size(found) <= PAYS * n * n else None


def _size(work: FarWork) -> float:
    return work.entries(SIZED_FOR)


def _sized(n: int, d: int, kernel: str, extent: float, capacity: int) -> FarWork:
    """With so many points in a leaf at most: a mean where some boxes of a level are divided and some are not."""
    level = 0
    while n / 2 ** (d * level) > capacity + 3 * math.sqrt(capacity):
        level += 1
    mean = n / 2 ** (d * level)
    divided = 0.5 * math.erfc((capacity - mean) / math.sqrt(2 * mean))  # a Poisson number above the capacity
    parts = [(1 - divided, _levelled(n, d, kernel, extent, level))]
    parts.append((divided, _levelled(n, d, kernel, extent, level + 1)))
    near, coefficients, narrow = (sum(share * work[i] for share, work in parts) for i in range(3))
    return FarWork(near, coefficients, narrow)


def _levelled(n: int, d: int, kernel: str, extent: float, last: int) -> FarWork:
    """With leaves in one level."""
    levels = [(_pairs(d, level), _nodes(kernel, d, extent / 2**level)) for level in range(2, last + 1)]
    coefficients = sum(pairs * nodes**2 for pairs, nodes in levels)
    narrow = sum(pairs * nodes * min(nodes, _NARROW) for pairs, nodes in levels)
    return FarWork(float(n) ** 2 / 4 ** (d * last) * _neighbours(d, last), coefficients, narrow)


def _neighbours(d: int, level: int) -> float:
    """Pairs of boxes of a level that touch, or are the same."""
    return (3.0 * 2**level - 2) ** d


def _pairs(d: int, level: int) -> float:
    """Pairs of boxes of a level that are coupled: children of those that touch, which do not touch."""
    return 4.0**d * _neighbours(d, level - 1) - _neighbours(d, level)


def _nodes(kernel: str, d: int, width: float) -> float:
    """Between the widths of the table a power of the width; beyond the largest as many, below the least a power too."""
    counts = _NODES[kernel, d]
    if width >= _WIDTHS[-1]:
        return counts[-1]
    i = max(1, next(i for i, w in enumerate(_WIDTHS) if width < w))
    power = math.log(counts[i] / counts[i - 1]) / math.log(_WIDTHS[i] / _WIDTHS[i - 1])
    return max(d + 1.0, counts[i] * (width / _WIDTHS[i]) ** power)
