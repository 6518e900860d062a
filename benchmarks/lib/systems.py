"""The linear systems of the benchmarks: data, kernel and noise, by name."""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass, replace
from typing import Any

import gpytorch
import numpy as np
import torch
from torch import Tensor

from lib.common import seeded
from sggp.datasets import large, random_fold, uci, uci_hyperparameters
from sggp.datasets.files import data_file
from sggp.hyperparameters import learn_hyperparameters, named_kernel
from sggp.kernels import TanimotoMinMax
from sggp.posterior.merge import group_rows

__all__ = [
    "LEARNING_ROWS",
    "Learnt",
    "System",
    "arm_system",
    "docking_system",
    "large_rows",
    "large_system",
    "learn",
    "plain_system",
    "uci_system",
]

LEARNING_ROWS = {"britain_magnetic": 160_000, "houseelectric_2007h1": 24_000}
"""Rows that the hyperparameters of a large table are learnt on: with fewer, short structure passes for noise."""
NOISE_RATIOS = {"houseelectric_2007h1": 1.9e-3}
"""Noise over signal variance where it is held: the reference counts of that table belong to this value."""


@dataclass(frozen=True)
class System:
    """(K + Σ) A = B on training rows, and the test rows that its mean is wanted at.

    Attributes:
        kernel: GPyTorch kernel, float64. noise: scalar, or one per row where repeats were merged.
        x, y: (n, d), (n,) standardised. xs, ys: (m, d), (m,) test rows.
    """

    name: str
    kernel: Any
    noise: float | Tensor
    x: Tensor
    y: Tensor
    xs: Tensor
    ys: Tensor

    @property
    def n(self) -> int:
        return len(self.x)

    @property
    def noise_vector(self) -> Tensor:  # (n,)
        return torch.as_tensor(self.noise, dtype=torch.float64).expand(self.n).clone()

    def merged(self, columns: Tensor) -> tuple[System, Tensor]:
        """The same posterior from distinct rows only, and (n, s) right-hand sides merged alike."""
        groups, noise = group_rows(self.x), self.noise_vector
        target = groups.mean(self.y[:, None], noise)[:, 0]
        system = replace(self, x=self.x[groups.first], y=target, noise=groups.noise(noise))
        return system, groups.mean(columns, noise)


def uci_system(name: str, rows: int | None = None, noise_variance: float | None = None) -> System:
    """Split 0 of a UCI table with the published hyperparameters; `rows` cuts training and test rows."""
    data, published = uci(name, 0), uci_hyperparameters(name, 0)
    x, y, xs, ys = (torch.as_tensor(a)[:rows] for a in (data.x_train, data.y_train, data.x_test, data.y_test))
    noise = published.noise_variance if noise_variance is None else noise_variance
    return System(name, published.kernel().requires_grad_(False), noise, x, y, xs, ys)


@dataclass(frozen=True)
class Learnt:
    """Matérn-3/2 hyperparameters found by this run, in a form that pickle carries to other processes."""

    lengthscale: tuple[float, ...]
    outputscale: float
    noise_variance: float

    def kernel(self) -> Any:
        base = gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=len(self.lengthscale))
        kernel = gpytorch.kernels.ScaleKernel(base).double()
        base.lengthscale = torch.tensor(self.lengthscale, dtype=torch.float64)
        kernel.outputscale = self.outputscale
        return kernel.requires_grad_(False)

    def __str__(self) -> str:
        scales = ", ".join(f"{value:.3g}" for value in self.lengthscale)
        return (
            f"length scales [{scales}], signal variance {self.outputscale:.4g}, noise variance "
            f"{self.noise_variance:.4g}, noise/signal {self.noise_variance / self.outputscale:.2e}"
        )


def large_rows(name: str, rows: int) -> tuple[Tensor, Tensor]:
    """The first `rows` of a fixed random order of a large table's training part (random fold 0), standardised."""
    table = large(name)
    data = table.split(random_fold(len(table.x), 0))
    chosen = np.random.default_rng(0).permutation(len(data.x_train))[:rows]
    return torch.as_tensor(data.x_train[chosen]), torch.as_tensor(data.y_train[chosen])


def learn(name: str, rows: int) -> Learnt:
    """Hyperparameters of a large table by the nearest-neighbour likelihood on `rows` rows, with a fixed seed.

    Where the noise is held, it is so at that share of the target's variance while learning, and at that share of the
    learnt signal variance afterwards.
    """
    x, y = large_rows(name, rows)
    start, ratio = named_kernel("matern32", x.shape[1]), NOISE_RATIOS.get(name)
    optimizer = "nearest-neighbour" if rows >= 1000 else "exact"
    found = learn_hyperparameters(
        start, x, y, optimizer=optimizer, mean=0.0, noise_variance=ratio, generator=seeded(0)
    )
    signal = float(found.kernel.outputscale)
    return Learnt(
        tuple(found.kernel.base_kernel.lengthscale.detach().flatten().tolist()),
        signal,
        float(found.noise_variance) if ratio is None else ratio * signal,
    )


def large_system(name: str, rows: int, learnt: Learnt) -> System:
    x, y = large_rows(name, rows)
    return System(name, learnt.kernel(), learnt.noise_variance, x, y, x[:0], y[:0])


ARM_SCALES = {
    "rbf": ((2.72, 1.93, 1.52, 1.36, 1.36, 1.51, 1.76, 2.82), 0.868),
    "matern32": ((3.53, 2.73, 2.07, 1.84, 1.87, 2.02, 2.48, 4.14), 0.387),
}
"""Length scales and signal variance learnt by the nearest-neighbour likelihood on 10,000 rows of `arm_rows`."""


def arm_rows(rows: int, noise_variance: float = 1e-4) -> tuple[Tensor, Tensor]:
    """The distance of a robot arm's hand from a point, by the angles of its eight joints: (rows, 8), (rows,).

    Angles are uniform up to a quarter turn either way, links become shorter from 1 to 0.5. Target and inputs are
    standardised; the noise variance is a share of the target's variance. Kin of the kin40k table.
    """
    generator = seeded(0)
    x = 2 * torch.rand(40_000, 8, generator=generator, dtype=torch.float64) - 1
    link, turned = torch.linspace(1.0, 0.5, 8, dtype=torch.float64), (0.5 * torch.pi * x).cumsum(1)
    across, along = (link * turned.cos()).sum(1) - 0.5, (link * turned.sin()).sum(1) - 0.5
    y = (across.square() + along.square() + 0.1).sqrt()
    y = (y - y.mean()) / y.std()
    y = y + noise_variance**0.5 * torch.randn(len(y), generator=generator, dtype=torch.float64)
    return ((x - x.mean(0)) / x.std(0))[:rows], y[:rows]


def arm_system(kind: str, rows: int, noise_variance: float) -> System:
    """`arm_rows` under an "rbf" or "matern32" kernel with the hyperparameters of `ARM_SCALES`."""
    x, y = arm_rows(rows)
    kernel, (scales, signal) = named_kernel(kind, 8), ARM_SCALES[kind]
    kernel.base_kernel.lengthscale = torch.tensor(scales, dtype=torch.float64)
    kernel.outputscale = signal
    return System(f"arm {kind}", kernel.requires_grad_(False), noise_variance, x, y, x[:0], y[:0])


def plain_system(name: str, kind: str, rows: int | None) -> System:
    """A UCI table without published hyperparameters: its training rows of fold 0, and a kernel learnt on them.

    Raises:
        DataFileError: the table is not there.
    """
    folder = data_file(f"uci/{name}/data.csv.gz").parent
    table = np.loadtxt(folder / "data.csv.gz", delimiter=",")
    table = table[np.loadtxt(folder / "test_mask.csv.gz", delimiter=",")[:, 0] == 0][:rows]
    spread = table.std(0)
    x, y = torch.as_tensor((table - table.mean(0)) / np.where(spread > 0, spread, 1.0)).split(
        [table.shape[1] - 1, 1], 1
    )
    y = y[:, 0].contiguous()
    found = learn_hyperparameters(
        named_kernel(kind, x.shape[1]), x, y, optimizer="nearest-neighbour", mean=0.0, generator=seeded(0)
    )
    kernel = found.kernel.requires_grad_(False)
    return System(f"{name} {kind}", kernel, float(found.noise_variance), x, y, x[:0], y[:0])


def docking_system(rows: int | None, noise_variance: float) -> System:
    """DOCKSTRING scores of F2, about 13,000 molecules, count fingerprints of radius 1 and 1,024 positions, T_MM.

    Raises:
        MissingExtra: RDKit is not installed. DataFileError: the table is not there.
    """
    from sggp.molecules import FingerprintTable, SmilesFingerprinter

    text = gzip.decompress(data_file("mol/dockstring_merged_5targets.csv.gz").read_bytes()).decode()
    table = [row for row in csv.DictReader(text.splitlines()) if row["F2"]][:rows]
    fingerprinter = SmilesFingerprinter(radius=1, fp_size=1024, on_invalid="skip")
    counts = FingerprintTable.from_smiles([row["smiles"] for row in table], fingerprinter)[:]
    y = torch.tensor([min(float(row["F2"]), 5.0) for row in table], dtype=torch.float64)
    y = (y - y.mean()) / y.std()
    kernel = gpytorch.kernels.ScaleKernel(TanimotoMinMax()).double()
    kernel.outputscale = 1.0
    return System("dockstring F2", kernel.requires_grad_(False), noise_variance, counts, y, counts[:0], y[:0])
