"""Engines that multiply by kernel matrices, all with the signatures of `sggp.native.reference`."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType

import torch

from sggp.native import reference

__all__ = ["engine", "reference"]


def engine(device: torch.device | str, dtype: torch.dtype) -> ModuleType:
    """The fastest engine that works on `device` in `dtype`; the torch reference where there is no other.

    Args:
        device: where the points live.
        dtype: the precision of the entries.
    """
    if torch.device(device).type == "cpu" and dtype in (torch.float32, torch.float64):
        native = _cpu()
        if native is not None and native.available():
            return native
    return reference


@functools.cache
def _cpu() -> ModuleType | None:
    if importlib.util.find_spec("sggp.native.cpu") is None:
        return None
    return importlib.import_module("sggp.native.cpu")
