"""Far fields of stationary kernels in few dimensions: boxes that are well separated meet through a few nodes each."""

from sggp.native.far.field import FarField
from sggp.native.far.function import FarFunction

__all__ = ["FarField", "FarFunction"]
