"""Data sets of the papers and of the examples, from `SGGP_DATA_DIR`, from RDKit's own wheel, or downloaded.

A file is looked for in the folder `SGGP_DATA_DIR` first. Files whose SHA-256 is known are otherwise downloaded to the
user's cache (extra `data`); the others are to be had in `SGGP_DATA_DIR` only, and the error says so.

`read_matrix` reads a table of numbers of your own, of any size.
"""

from typing import TYPE_CHECKING

from sggp.datasets.large import LARGE_NAMES, LargeTable, large, random_fold
from sggp.datasets.molecules import (
    MoleculeData,
    dockstring_evaluated,
    dockstring_small,
    enamine10k,
    esol,
    free_wilson,
    freesolv,
    lipophilicity,
    nci_first_5k,
    tyk2,
    zinc250k,
)
from sggp.datasets.split import RegressionSplit, Standardization, standardized_split
from sggp.datasets.uci import UCI_NAMES, UciHyperparameters, uci, uci_hyperparameters
from sggp.lazy import names_on_demand

if TYPE_CHECKING:
    from sggp.molecules.files.numeric import Matrix, read_matrix

__all__ = [
    "LARGE_NAMES",
    "UCI_NAMES",
    "LargeTable",
    "Matrix",
    "MoleculeData",
    "RegressionSplit",
    "Standardization",
    "UciHyperparameters",
    "dockstring_evaluated",
    "dockstring_small",
    "enamine10k",
    "esol",
    "free_wilson",
    "freesolv",
    "large",
    "lipophilicity",
    "nci_first_5k",
    "random_fold",
    "read_matrix",
    "standardized_split",
    "tyk2",
    "uci",
    "uci_hyperparameters",
    "zinc250k",
]

__getattr__, __dir__ = names_on_demand(
    __name__, {"sggp.molecules.files.numeric": ("Matrix", "read_matrix")}, __all__
)
