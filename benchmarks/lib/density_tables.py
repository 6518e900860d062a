"""The tables of `densities.py`: training and test rows in standardised units, and what a unit of the target is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sggp.datasets import UCI_NAMES, standardized_split, uci
from sggp.datasets.files import data_file

__all__ = ["CHOICES", "FOLDERS", "HEATON", "TABLES", "Table", "load"]

HEATON = "heaton_satellite"
FOLDERS = (
    *("autompg", "housing", "stock", "pendulum", "airfoil", "gas", "skillcraft", "sml", "parkinsons"),
    "tamielectric",
)
"""UCI tables that `sggp.datasets.uci` does not list: same source and format, in SGGP_DATA_DIR only."""
TABLES = (
    *(
        "autompg",
        "housing",
        "stock",
        "pendulum",
        "energy",
        "concrete",
        "airfoil",
        "wine",
        "gas",
        "skillcraft",
    ),
    *("sml", "parkinsons", "pol", "elevators", "bike", "protein", "tamielectric", "keggdirected", HEATON),
)
"""The default ones, by rows."""
CHOICES = (*TABLES, *(name for name in UCI_NAMES if name not in TABLES))


@dataclass(frozen=True)
class Table:
    """One split, standardised with the training part's statistics.

    Attributes:
        x_train, y_train: (n, d), (n,). x_test, y_test: (m, d), (m,).
        unit: what 1 in the target is worth where scores are reported: 1 for UCI tables (standardised targets), the
            deviation of the training targets for heaton_satellite (degrees).
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    unit: float = 1.0


def load(name: str, split: int = 0, rows: int | None = None) -> Table:
    """A table's split; `rows` cuts training and test rows. heaton_satellite has its own mask, as split 0."""
    unit = 1.0
    if name == HEATON:
        with np.load(data_file(f"large/{name}.npz")) as content:
            x, y, test = (content[key] for key in ("X", "y", "test_mask"))
        data = standardized_split(x, y, test.astype(bool), name=name)
        unit = float(data.y_statistics.scale)
    elif name in UCI_NAMES:
        data = uci(name, split)
    else:
        table, masks = (
            np.loadtxt(data_file(f"uci/{name}/{part}.csv.gz"), delimiter=",", ndmin=2)
            for part in ("data", "test_mask")
        )
        data = standardized_split(table[:, :-1], table[:, -1], masks[:, split] > 0.5, name=name, split=split)
    return Table(*(a[:rows] for a in (data.x_train, data.y_train, data.x_test, data.y_test)), unit)
