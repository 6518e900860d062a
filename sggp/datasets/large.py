"""Large real tables (a quarter to half a million rows) kept as npz files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sggp.datasets.files import data_file
from sggp.datasets.split import FOLDS, RegressionSplit, check_fold, standardized_split
from sggp.errors import DataFileError, InputError

LARGE_NAMES = ("britain_magnetic", "beijing_pm25", "houseelectric_2007h1")


@dataclass(frozen=True)
class LargeTable:
    """A raw table: x (n, d) and y (n,) float64 in their own units and row order, names, and extra columns.

    `extras` holds what blocked folds need: `line_code` and `survey_code` of britain_magnetic, `station_names`.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    feature_names: tuple[str, ...]
    target_name: str
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)

    def split(self, test: np.ndarray, split: int = 0) -> RegressionSplit:
        """Standardised training and test part for a boolean mask of test rows, e.g. of `random_fold`."""
        return standardized_split(
            self.x,
            self.y,
            test,
            name=self.name,
            split=split,
            feature_names=self.feature_names,
            target_name=self.target_name,
        )

    def __repr__(self) -> str:
        return f"LargeTable({self.name!r}, n={len(self.x)}, d={self.x.shape[1]}, target={self.target_name!r})"


def large(name: str) -> LargeTable:
    """A large table from `SGGP_DATA_DIR`/large.

    Random folds of britain_magnetic (flight lines) and beijing_pm25 (stations, hours) interpolate between strongly
    dependent neighbours; report a blocked fold beside them. houseelectric_2007h1 is one eighth of houseelectric with
    reconstructed date columns, and is not comparable with it.

    Raises:
        InputError: unknown name. DataFileError: the file is not there or damaged.
    """
    if name not in LARGE_NAMES:
        raise InputError(f"unknown table {name!r}; choose one of {', '.join(LARGE_NAMES)}.")
    path = data_file(f"large/{name}.npz")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            content = {key: arrays[key] for key in arrays.files}
        x, y = content.pop("X").astype(np.float64), content.pop("y").astype(np.float64)
        features, target = content.pop("feature_names"), content.pop("target_name")
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DataFileError(f"{path} is not a table of this package ({error}).") from error
    return LargeTable(name, x, y, tuple(map(str, features)), str(target), content)


def random_fold(n: int, fold: int = 0) -> np.ndarray:
    """Test rows of one of ten random folds of n rows, (n,) bool; the ten folds partition the rows.

    Fold i is every tenth entry from i of `numpy.random.default_rng(0).permutation(n)`: part of the protocol, so that
    everybody tests on the same rows.
    """
    check_fold(fold, "fold")
    test = np.zeros(n, dtype=bool)
    test[np.random.default_rng(0).permutation(n)[fold::FOLDS]] = True
    return test
