"""Nearest rows: exact by tiles or by a k-d tree, or approximate by an index; among all rows or earlier ones."""

from sggp.neighbours.rows import (
    Method,
    coarse_to_fine,
    coarse_to_fine_by_gaps,
    earlier_by_score,
    earlier_neighbours,
    nearest,
)

__all__ = [
    "Method",
    "coarse_to_fine",
    "coarse_to_fine_by_gaps",
    "earlier_by_score",
    "earlier_neighbours",
    "nearest",
]
