"""Checks for authors: each returns the list of what is wrong, empty where nothing is."""

from sggp.testing.features import check_features
from sggp.testing.solvers import check_solver

__all__ = ["check_features", "check_solver"]
