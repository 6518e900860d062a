"""Far fields of stationary kernels in few dimensions: boxes that are well separated meet through a few nodes each."""

from sggp.native.far.field import FarField

__all__ = ["FarField"]
