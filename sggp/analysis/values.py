"""Values of functions and measurements, checked before anything is made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sggp.errors import InputError, ShapeError

_ROUNDING = 64 * float(np.finfo(float).eps)
"""Values that differ by less than this share of the largest are one value and its rounding."""


def values_at(predict: Callable[[np.ndarray], np.ndarray], points: np.ndarray) -> np.ndarray:  # -> (q,)
    """predict(points) in float64.

    Raises:
        ShapeError: not one number for each point. InputError: they are no finite numbers.
    """
    found = numbers(predict(points), "the values of the function")
    if found.shape != points.shape[:1]:
        raise ShapeError(
            f"the function must give one number for each row, ({len(points)},) for points {points.shape}, got "
            f"{found.shape}."
        )
    return found


def numbers(values: Any, name: str) -> np.ndarray:
    """Finite numbers as an array of float64.

    Raises:
        InputError: they are not.
    """
    try:
        found = np.asarray(values, dtype=float)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor that requires gradients
        raise InputError(f"{name} cannot be read as numbers: {error}") from error
    if not np.isfinite(found).all():
        raise InputError(f"{name} hold {found[~np.isfinite(found)][0]}, expected finite numbers.")
    return found


def differ(values: np.ndarray) -> bool:
    """Whether they differ by more than rounding: equal ones may have a variance of 1e-34."""
    return bool(np.ptp(values) > _ROUNDING * np.abs(values).max())
