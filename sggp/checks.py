"""Checks of single arguments: each raises an InputError that says what was given, expected and what to do."""

from __future__ import annotations

import math
import operator
import os
import reprlib
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sggp.errors import InputError

__all__ = ["as_numbers", "as_path", "direction", "finite_number", "flag", "one_of", "whole_number"]

_DIRECTIONS = {
    **dict.fromkeys(("max", "maximum", "maximize", "maximise", "up", "higher"), True),
    **dict.fromkeys(("min", "minimum", "minimize", "minimise", "down", "lower"), False),
}
_REPR = reprlib.Repr()
_REPR.maxother = _REPR.maxstring = 60


def whole_number(value: Any, name: str, *, least: int | None = 1) -> int:
    """An integer of at least `least` (None: any): a Python or NumPy integer or an integer tensor of one element.

    It has to fit 64 bits; 2.0 and True are no whole numbers.
    """
    expected = "an integer" if least is None else f"an integer of at least {least}"
    try:
        if _is_bool(value):
            raise TypeError
        number = operator.index(value)
    except TypeError as error:
        raise InputError(f"{name} must be {expected}, got {_shown(value)}.") from error
    if least is not None and number < least:
        raise InputError(f"{name} must be at least {least}, got {number}.")
    if not -(2**63) <= number < 2**63:
        raise InputError(f"{name} does not fit 64 bits: {_shown(value)}.")
    return number


def finite_number(value: Any, name: str, advice: str = "", *, infinite: bool = False) -> float:
    """A finite real number as a float: any real number, or an array or tensor that holds exactly one.

    With `infinite`, infinity is one too. No numbers are: text, None, truth values, complex ones, masked cells (0 to
    NumPy), times. The error ends with `advice`.
    """
    if type(value) is float and math.isfinite(value):  # most of them, quickly
        return value
    number = math.nan
    if not (isinstance(value, str | bytes) or _is_bool(value) or _is_complex(value) or _is_other(value)):
        with suppress(TypeError, ValueError, OverflowError, RuntimeError):
            number = float(value.item() if hasattr(value, "item") else value)
    if math.isfinite(number) or (infinite and math.isinf(number)):
        return number
    raise InputError(
        f"{name} must be a finite number, got {_shown(value)}" + (f"; {advice}." if advice else ".")
    )


def flag(value: Any, name: str) -> bool:
    """True or False, and nothing that merely counts as one of them: `"no"` is true."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name} must be True or False, got {_shown(value)}.")
    return bool(value)


def direction(value: Any, name: str) -> bool:
    """Whether larger is better: True or False, or a word such as "max", "maximise", "min", "minimize"."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    word = value.strip().lower() if isinstance(value, str) else None
    if word not in _DIRECTIONS:
        raise InputError(f"{name} must be True, False, 'max' or 'min', got {_shown(value)}.")
    return _DIRECTIONS[word]


def one_of(value: Any, name: str, choices: Collection[str]) -> str:
    """One of some names."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}, got {_shown(value)}.")
    return value


def as_numbers(values: Any, name: str, expected: str) -> Tensor:
    """A tensor of real numbers, float64, from a tensor, an array or nested sequences of equal lengths."""
    try:
        if isinstance(values, dict) or _is_complex(values):
            raise TypeError
        return torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InputError(f"{name} must be {expected}; got {_shown(values)}.") from error


def as_path(value: Any, name: str) -> Path:
    """A path, from text or a path."""
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"{name} must be a path, got {_shown(value)}.")
    return Path(value)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or getattr(value, "dtype", None) in (torch.bool, np.dtype(bool))


def _is_complex(value: Any) -> bool:
    return isinstance(value, complex) or "complex" in str(getattr(value, "dtype", ""))


def _is_other(value: Any) -> bool:
    """What NumPy turns into a number though it is none: masked cells, times."""
    return np.ma.is_masked(value) or getattr(getattr(value, "dtype", None), "kind", "") in ("m", "M")


def _shown(value: Any) -> str:
    """A value and its type, short enough for a message."""
    return f"{_REPR.repr(value)} ({type(value).__name__})"
