"""Libraries of molecules whose values are all known, for `screening.py`: fingerprints, values, and what was found."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lib.common import seeded
from sggp.datasets.files import data_file
from sggp.errors import MoleculeWarning
from sggp.molecules import FingerprintTable

__all__ = ["LIBRARIES", "Library", "load"]

ROUNDS = 5
TOP = 0.01
"""Share of the library that is the top, and that is known at first."""


@dataclass(frozen=True)
class Source:
    """Where a library comes from: a table of the data folder, its columns, and the share of it that is a batch."""

    table: str
    smiles: str
    value: str
    maximize: bool = False
    batch: float = TOP


LIBRARIES = {
    "esol": Source("esol.csv.gz", "smiles", "measured log solubility in mols per litre", maximize=True),
    "enamine10k": Source("enamine10k_4unn_docking.csv.gz", "smiles", "score"),
    "tyk2": Source("tyk2_fep_10k.csv.gz", "SMILES", "dG_bind"),
    "F2": Source("dockstring_molopt_evaluated.csv.gz", "smiles", "F2", batch=0.001),
}


@dataclass(frozen=True)
class Library:
    """N molecules: their fingerprints, values (N,), the direction, and the number of molecules in a batch."""

    name: str
    table: FingerprintTable
    values: Tensor
    maximize: bool
    batch: int

    def __len__(self) -> int:
        return len(self.values)

    @property
    def known(self) -> int:
        """How many molecules are known at first, and how many are the top."""
        return max(2, round(TOP * len(self)))

    def start(self, seed: int) -> list[int]:
        """The rows known at first, the same for every contender."""
        return torch.randperm(len(self), generator=seeded(seed))[: self.known].tolist()

    @functools.cached_property
    def counts(self) -> Tensor:
        """(N, 2048) uint8: counts of Morgan fingerprints of radius 2, for the peers."""
        start, stop = self.table.parts["morgan2"]
        return torch.cat([rows[:, start:stop] for _, rows in self.table.chunks()])

    @functools.cached_property
    def top(self) -> set[int]:
        """The rows of the top; of equal values the first."""
        order = torch.argsort(self.values, descending=self.maximize, stable=True)
        return set(order[: self.known].tolist())

    def found(self, batches: list[list[int]]) -> list[float]:
        """The share of the top that was measured after each batch."""
        seen, out = set(), []
        for rows in batches:
            seen |= self.top & set(rows)
            out.append(len(seen) / len(self.top))
        return out


@functools.cache
def load(name: str, rows: int | None = None, cache: Path | None = None) -> Library:
    """A library, cut to its first rows; molecules that cannot be parsed and repeats are left out.

    Fingerprints are kept in the folder `cache`.
    """
    source = LIBRARIES[name]
    frame: Any = pd.read_csv(
        data_file(f"mol/{source.table}"), usecols=[source.smiles, source.value]
    ).dropna()[:rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MoleculeWarning)
        table = FingerprintTable.from_smiles(
            frame[source.smiles].tolist(), on_invalid="drop", on_duplicate="drop", cache=cache
        )
    values = np.asarray(frame[source.value], dtype=np.float64)[np.asarray(table.source_rows)]
    batch = max(1, round(source.batch * len(values)))
    return Library(name, table, torch.from_numpy(values), source.maximize, batch)
