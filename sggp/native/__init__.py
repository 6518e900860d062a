"""Engines that multiply by kernel matrices, all with the signatures of `sggp.native.reference`."""

from __future__ import annotations

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
        if importlib.util.find_spec("sggp.native.cpu") is not None:
            from sggp.native import cpu

            if cpu.available():
                return cpu
    return reference
