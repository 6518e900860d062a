"""Engines that multiply by kernel matrices, all with the signatures of `sggp.native.reference`."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sggp.errors import MemoryBudgetError
from sggp.native import reference

__all__ = ["engine", "multiply", "reference"]


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
    if torch.device(device).type == "cuda" and dtype in (torch.float32, torch.float64):
        triton = importlib.import_module(
            "sggp.native.triton"
        )  # Triton itself is imported at the first product
        if triton.available():
            return triton
    return reference


def multiply(chosen: ModuleType, name: str, *args: Any, **kwargs: Any) -> Tensor:
    """The product `name` on the engine `chosen`, or on the reference where the budget is below one of its tiles.

    Tiles of a native engine are fixed by the registers and there is one per thread; those of the reference shrink.

    Raises:
        MemoryBudgetError: the budget is too small for the reference, too.
    """
    try:
        return getattr(chosen, name)(*args, **kwargs)
    except MemoryBudgetError:
        if chosen is reference:
            raise
        return getattr(reference, name)(*args, **kwargs)


@functools.cache
def _cpu() -> ModuleType | None:
    if importlib.util.find_spec("sggp.native.cpu") is None:
        return None
    return importlib.import_module("sggp.native.cpu")
