"""Far fields of stationary kernels in few dimensions: boxes that are well separated meet through a few nodes each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sggp.lazy import names_on_demand

if TYPE_CHECKING:
    from sggp.native.far.field import FarField
    from sggp.native.far.function import FarFunction

__all__ = ["FarField", "FarFunction"]

_NAMES_OF = {"sggp.native.far.field": ("FarField",), "sggp.native.far.function": ("FarFunction",)}
__getattr__, __dir__ = names_on_demand(__name__, _NAMES_OF)
