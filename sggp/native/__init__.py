"""Engines that multiply by kernel matrices, all with the signatures of `sggp.native.reference`."""

from sggp.native import reference
from sggp.native.engines import Engine, engine

__all__ = ["Engine", "engine", "reference"]
