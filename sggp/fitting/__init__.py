"""From a table to a fitted model: kernel, scaling, learning and conditioning, the same for every face.

Learning and what it needs are loaded at first use: a face can be imported without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sggp.lazy import names_on_demand

if TYPE_CHECKING:
    from sggp.fitting.model import FittedModel, ModelSettings, default_kernel, fit_model
    from sggp.fitting.selection import select_kernel
    from sggp.fitting.unknown_constant import with_unknown_constant

__all__ = [
    "FittedModel",
    "ModelSettings",
    "default_kernel",
    "fit_model",
    "select_kernel",
    "with_unknown_constant",
]

# a name listed here belongs into __all__ and the imports above, too
_NAMES_OF = {
    "sggp.fitting.model": ("FittedModel", "ModelSettings", "default_kernel", "fit_model"),
    "sggp.fitting.selection": ("select_kernel",),
    "sggp.fitting.unknown_constant": ("with_unknown_constant",),
}

__getattr__, __dir__ = names_on_demand(__name__, _NAMES_OF)
