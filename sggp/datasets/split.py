"""A table split into standardised training and test parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sggp.errors import InputError, ShapeError

FOLDS = 10
"""Test folds of every table."""


@dataclass(frozen=True)
class Standardization:
    """Column means and population standard deviations of the training part; 1 where the deviation is exactly 0.

    The guard is exact on purpose: some real columns have deviations of 2e-6 and must be scaled like any other.
    """

    mean: np.ndarray
    scale: np.ndarray

    @staticmethod
    def of(values: np.ndarray) -> Standardization:
        """Statistics over the first axis, in float64, ddof 0."""
        scale = values.std(axis=0)
        return Standardization(values.mean(axis=0), np.where(scale == 0, 1.0, scale))

    def apply(self, values: np.ndarray) -> np.ndarray:
        """(values − mean) / scale."""
        return np.asarray((values - self.mean) / self.scale)

    def undo(self, values: np.ndarray) -> np.ndarray:
        """Back to the original unit: values · scale + mean."""
        return np.asarray(values * self.scale + self.mean)


@dataclass(frozen=True)
class RegressionSplit:
    """Training and test part of one data set, float64, both standardised with the training part's statistics.

    Attributes:
        name, split: which table and which test fold.
        x_train, y_train: (n, d), (n,).
        x_test, y_test: (m, d), (m,).
        x_statistics, y_statistics: how to go back to the original units.
        feature_names: d names.
        target_name: name of y.
    """

    name: str
    split: int
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    x_statistics: Standardization
    y_statistics: Standardization
    feature_names: tuple[str, ...]
    target_name: str

    def __repr__(self) -> str:
        n, d = self.x_train.shape
        rows = f"train={n}, test={len(self.x_test)}"
        return f"RegressionSplit({self.name!r}, split={self.split}, {rows}, d={d})"


def check_fold(fold: Any, name: str) -> None:
    """Raise `InputError` unless `fold` is a whole number from 0 to 9."""
    if isinstance(fold, bool) or not isinstance(fold, int | np.integer) or not 0 <= fold < FOLDS:
        raise InputError(f"{name} must be an integer from 0 to {FOLDS - 1}, got {fold!r}.")


def standardized_split(
    x: np.ndarray,
    y: np.ndarray,
    test: np.ndarray,
    *,
    name: str = "",
    split: int = 0,
    feature_names: tuple[str, ...] = (),
    target_name: str = "y",
) -> RegressionSplit:
    """Split by a boolean mask of test rows and z-score x and y with the training part (ddof 0, exact-zero guard).

    Args:
        x: (n, d). y: (n,). test: (n,) bool, True for test rows.
        name, split, feature_names, target_name: labels that are carried along.

    Raises:
        ShapeError: lengths that do not fit. InputError: no training or no test row, or a value that is not finite.
    """
    x, y, test = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), np.asarray(test)
    if x.ndim != 2 or y.shape != x.shape[:1] or test.shape != y.shape or test.dtype != bool:
        raise ShapeError(
            f"expected x (n, d), y (n,) and a boolean mask (n,), got {x.shape}, {y.shape} and {test.shape}."
        )
    if test.all() or not test.any():
        raise InputError(
            f"the mask must leave training and test rows, it marks {int(test.sum())} of {len(test)}."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("x and y must be finite; remove the rows with missing values first.")
    x_statistics, y_statistics = Standardization.of(x[~test]), Standardization.of(y[~test])
    return RegressionSplit(
        name=name,
        split=split,
        x_train=x_statistics.apply(x[~test]),
        y_train=y_statistics.apply(y[~test]),
        x_test=x_statistics.apply(x[test]),
        y_test=y_statistics.apply(y[test]),
        x_statistics=x_statistics,
        y_statistics=y_statistics,
        feature_names=feature_names or tuple(f"x{i}" for i in range(x.shape[1])),
        target_name=target_name,
    )
