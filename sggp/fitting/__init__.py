"""From a table to a fitted model: kernel, scaling, learning and conditioning, the same for every face."""

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
