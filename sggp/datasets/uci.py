"""The UCI regression tables with the ten fixed folds of `uci_datasets`, and published hyperparameters for them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sggp.datasets.files import data_file
from sggp.datasets.split import FOLDS, RegressionSplit, check_fold, standardized_split
from sggp.errors import DataFileError, InputError

if TYPE_CHECKING:
    from gpytorch.kernels import Kernel

UCI_NAMES = ("pol", "elevators", "bike", "protein", "keggdirected", "concrete", "energy", "yacht", "wine")


@dataclass(frozen=True)
class UciHyperparameters:
    """Matérn-3/2 ARD hyperparameters on standardised data, as variances.

    Attributes:
        lengthscale: (d,).
        outputscale: variance of the function (the published signal scale, squared).
        noise_variance: variance of the noise (the published noise scale, squared).
    """

    name: str
    split: int
    lengthscale: np.ndarray
    outputscale: float
    noise_variance: float

    def kernel(self) -> Kernel:
        """A float64 `ScaleKernel(MaternKernel(nu=1.5))` with these values."""
        import torch  # this package stays light
        from gpytorch.kernels import MaternKernel, ScaleKernel

        kernel = ScaleKernel(MaternKernel(nu=1.5, ard_num_dims=len(self.lengthscale))).double()
        kernel.base_kernel.lengthscale = torch.as_tensor(self.lengthscale, dtype=torch.float64)
        kernel.outputscale = self.outputscale
        return kernel


def uci(name: str, split: int = 0, *, cache: str | os.PathLike[str] | None = None) -> RegressionSplit:
    """One UCI table split into 90 % training and 10 % test rows by the published mask, standardised, float64.

    Args:
        name: one of `UCI_NAMES`.
        split: test fold, 0 to 9 (papers use 0 to 4).
        cache: folder for downloads.

    Raises:
        InputError: unknown name or fold. DataFileError, MissingExtra: see `sggp.datasets.files.data_file`.

    Source: github.com/treforevans/uci_datasets (MIT). Statistics as in the stochastic-gradient GP papers
    (arXiv 2306.11589, 2310.20581): training mean and population standard deviation of x and of y, per split.
    """
    if name not in UCI_NAMES:
        raise InputError(f"unknown table {name!r}; choose one of {', '.join(UCI_NAMES)}.")
    check_fold(split, "split")
    table = _matrix(data_file(f"uci/{name}/data.csv.gz", cache=cache))
    masks = _matrix(data_file(f"uci/{name}/test_mask.csv.gz", cache=cache))
    if masks.shape != (len(table), FOLDS):
        raise DataFileError(f"the mask of {name} has shape {masks.shape}, expected ({len(table)}, {FOLDS}).")
    return standardized_split(table[:, :-1], table[:, -1], masks[:, split] > 0.5, name=name, split=split)


def uci_hyperparameters(name: str, split: int = 0) -> UciHyperparameters:
    """Published hyperparameters of one table and split, from uci/published_hparams.json below `SGGP_DATA_DIR`.

    The file lists scales (standard deviations); they are squared into variances here. Length scales of exactly
    0.6931 mark inputs that were constant in every neighbourhood used for tuning: start values, not a fit.

    Raises:
        InputError: no values for this table and split. DataFileError: the file is missing or damaged.

    Source: github.com/cambridge-mlg/sgd-gp, uci_regression_hparams.txt (MIT).
    """
    path = data_file("uci/published_hparams.json")
    try:
        tables: dict[str, Any] = json.loads(path.read_text())["hparams"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataFileError(f"{path} is not the file of published hyperparameters ({error}).") from error
    entry = (tables.get(name) or {}).get(str(split))
    if not entry or entry["noise_scale"] is None:
        raise InputError(
            f"no hyperparameters are published for {name!r}, split {split}; tables: {', '.join(tables)}."
        )
    return UciHyperparameters(
        name=name,
        split=split,
        lengthscale=np.asarray(entry["length_scale"], dtype=np.float64),
        outputscale=float(entry["signal_scale"]) ** 2,
        noise_variance=float(entry["noise_scale"]) ** 2,
    )


def _matrix(path: Path) -> np.ndarray:
    try:
        return np.loadtxt(path, delimiter=",", ndmin=2)
    except (ValueError, OSError) as error:
        raise DataFileError(f"{path} cannot be read as a table of numbers ({error}).") from error
