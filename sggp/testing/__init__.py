"""Checks for authors: each returns the list of what is wrong, empty where nothing is."""

from sggp.testing.features import check_features

__all__ = ["check_features"]
