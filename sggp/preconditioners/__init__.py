"""Preconditioners: frozen settings; `build(operator, generator)` gives an object with `apply(v)` and `log_det`."""

from sggp.preconditioners.balanced import Balanced
from sggp.preconditioners.base import Built, Given, Preconditioner, Rooted, Unfinished
from sggp.preconditioners.local_nystrom import LocalNystrom
from sggp.preconditioners.neighbour import LowRankPlusNeighbour, NearestNeighbour
from sggp.preconditioners.nystrom import Nystrom, PivotedCholesky
from sggp.preconditioners.recomputed import RecomputedNystrom

__all__ = [
    "Balanced",
    "Built",
    "Given",
    "LocalNystrom",
    "LowRankPlusNeighbour",
    "NearestNeighbour",
    "Nystrom",
    "PivotedCholesky",
    "Preconditioner",
    "RecomputedNystrom",
    "Rooted",
    "Unfinished",
]
