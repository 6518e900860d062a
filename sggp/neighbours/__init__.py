"""Nearest rows: exact by tiles or by a k-d tree, or approximate by an index; among all rows or earlier ones."""

from sggp.neighbours.correlation import KernelNeighbours
from sggp.neighbours.ordering import max_min_ordering, max_min_ordering_by
from sggp.neighbours.search import Method, earlier_neighbours, earlier_rows, nearest
from sggp.neighbours.similarity import earlier_by_score, earlier_by_similarity

coarse_to_fine, coarse_to_fine_by_gaps = max_min_ordering, max_min_ordering_by  # their names in 0.1

__all__ = [
    "KernelNeighbours",
    "Method",
    "coarse_to_fine",
    "coarse_to_fine_by_gaps",
    "earlier_by_score",
    "earlier_by_similarity",
    "earlier_neighbours",
    "earlier_rows",
    "max_min_ordering",
    "max_min_ordering_by",
    "nearest",
]
