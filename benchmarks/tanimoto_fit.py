"""Tanimoto hyperparameters: mean, output scale and noise in one call, from thousands to 250,000 molecules.

Two parts, count fingerprints of radius 1 and 1,024 positions, T_MM throughout.

docking    The five DOCKSTRING targets of the published study on its small table: our values (from all rows, by
           `learn_hyperparameters`) beside the published ones (exact marginal likelihood on 5,000 rows of the large
           table), and the exact log marginal likelihood per row of the small table that each of them gives.
library    All of ZINC250k. Two targets: logP (RDKit), whose values nobody knows, and a draw from a Gaussian process
           with known mean, output scale and noise, which the fit should find again. Each fit runs in a process of its
           own: "peak" is all of it, "table" what the fingerprints alone take.

Seconds are those of the fit; featurising comes before it (kept in --cache).

    python benchmarks/tanimoto_fit.py [--parts docking library] [--rows N] [--cache FOLDER] [--targets F2 ...]
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from pathlib import Path

import gpytorch
import numpy as np
import torch
from torch import Tensor

from lib.common import Apart, end, header, peak_gib, print_table, run_apart, seeded
from sggp.datasets.molecules import dockstring_small, zinc250k
from sggp.hyperparameters import FitResult, exact_log_marginal_likelihood, learn_hyperparameters
from sggp.kernels import TanimotoMinMax, draw_features
from sggp.molecules import FingerprintTable, SmilesFingerprinter, compute_property

PUBLISHED = {  # output scale, noise variance, mean; Tripp et al. 2023, T_MM on counts
    "ESR2": (0.635, 0.272, -6.80),
    "F2": (0.396, 0.085, -6.34),
    "KIT": (0.852, 0.130, -6.03),
    "PARP1": (0.574, 0.080, -6.91),
    "PGR": (0.856, 0.316, -6.65),
}
KNOWN = (2.0, 0.2, -6.0)  # output scale, noise variance, mean of the drawn target
FEATURES = 2048


def fitted(counts: Tensor, y: Tensor, seed: int) -> FitResult:
    return learn_hyperparameters(gpytorch.kernels.ScaleKernel(TanimotoMinMax()), counts, y, generator=seed)


def value(counts: Tensor, y: Tensor, outputscale: float, noise: float, mean: float) -> float:
    """Exact log marginal likelihood per row."""
    kernel = gpytorch.kernels.ScaleKernel(TanimotoMinMax()).double()
    kernel.outputscale = outputscale
    found = exact_log_marginal_likelihood(
        kernel.requires_grad_(False), counts, y, noise_variance=noise, mean=mean
    )
    return found / len(y)


def docking(targets: list[str], rows: int | None) -> None:
    data = dockstring_small()
    fingerprinter = SmilesFingerprinter(radius=1, fp_size=1024)
    counts = FingerprintTable.from_smiles(data.smiles[:rows], fingerprinter)[:]
    table = []
    for name in targets:
        y = torch.from_numpy(data.values[name][:rows])
        there = ~y.isnan()
        own, target = counts[there], y[there]
        fit = fitted(own, target, seed=0)
        ours = (float(fit.kernel.outputscale), float(fit.noise_variance), float(fit.mean))
        for label, values, rest in (
            (fit.method, ours, [f"{fit.seconds:.1f}", "yes" if fit.converged else "no"]),
            ("published", PUBLISHED[name], ["–", "–"]),
        ):
            shown = [f"{number:.3f}" for number in values]
            table.append([name, str(len(target)), label, *shown, f"{value(own, target, *values):.4f}", *rest])
        print(f"{name}: done", flush=True)
    columns = ["target", "rows", "values", "scale", "noise", "mean", "exact value", "seconds", "converged"]
    print_table(columns, table)


def drawn(counts: Tensor, cache: Path) -> Tensor:  # (n, d) -> (n,)
    """mean + a draw of f by random features + noise, with the values of `KNOWN`; kept in the cache."""
    path = cache / f"drawn-{len(counts)}-{FEATURES}.npy"
    if not path.is_file():
        scale, noise, mean = KNOWN
        generator = seeded(0)
        features = draw_features(TanimotoMinMax(), FEATURES, input_dim=counts.shape[1], generator=generator)
        weights = torch.randn(FEATURES, 1, generator=generator, dtype=torch.float64)
        f = torch.cat([features.apply(part, weights)[:, 0].double() for part in counts.split(4096)])
        noisy = torch.randn(len(counts), generator=generator, dtype=torch.float64)
        np.save(path, (mean + scale**0.5 * f + noise**0.5 * noisy).numpy())
    return torch.from_numpy(np.load(path))


def fit_library(counts: Path, target: Path, seed: int) -> tuple[list[float], float, str, float, float]:
    """Values, seconds, how it ended, GiB of the table, GiB before the fit; in a process of its own."""
    x, y = torch.from_numpy(np.load(counts)), torch.from_numpy(np.load(target))
    before = peak_gib()
    fit = fitted(x, y, seed)
    values = [float(fit.kernel.outputscale), float(fit.noise_variance), float(fit.mean)]
    return values, fit.seconds, fit.message, x.nbytes / 2**30, before


def library(rows: int | None, cache: Path) -> None:
    smiles = zinc250k().smiles[:rows]
    name = hashlib.blake2b("\n".join(smiles).encode(), digest_size=6).hexdigest()
    stored, properties = cache / f"counts-{name}.npy", cache / f"logp-{name}.npy"
    fingerprinter = SmilesFingerprinter(radius=1, fp_size=1024)
    if not stored.is_file():
        np.save(
            stored,
            FingerprintTable.from_smiles(smiles, fingerprinter)
            .dense(slice(None), memory_budget=2**30)
            .numpy(),
        )
    if not properties.is_file():
        np.save(properties, compute_property(smiles, "logp"))
    counts = torch.from_numpy(np.load(stored, mmap_mode="r+"))
    synthetic = cache / f"target-{name}.npy"
    np.save(synthetic, drawn(counts, cache).numpy())
    table = []
    for label, target, truth in (("logP", properties, None), ("drawn", synthetic, KNOWN)):
        run: Apart = run_apart(fit_library, stored, target, 0)
        if run.value is None:
            table.append([label, str(len(smiles)), *["–"] * 7, run.failure])
            continue
        values, seconds, message, size, _ = run.value
        shown = [f"{number:.4g}" for number in values]
        known = "–" if truth is None else ", ".join(f"{number:g}" for number in truth)
        table.append(
            [
                label,
                str(len(smiles)),
                *shown,
                known,
                f"{seconds:.1f}",
                f"{run.peak_gib:.2f}",
                f"{size:.2f}",
                message,
            ]
        )
    columns = ["target", "rows", "scale", "noise", "mean", "truth", "seconds", "peak GiB", "table GiB", "end"]
    print_table(columns, table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="*", choices=["docking", "library"], default=["docking", "library"])
    add("--targets", nargs="*", choices=list(PUBLISHED), default=list(PUBLISHED))
    add("--rows", type=int, default=None, help="molecules to keep of every table (a dry run)")
    add("--cache", type=Path, default=None, help="folder for fingerprints and targets of the library")
    arguments = parser.parse_args()
    header("Tanimoto hyperparameters from few and from many molecules", ("torch", "gpytorch", "rdkit"))
    if "docking" in arguments.parts:
        docking(arguments.targets, arguments.rows)
    if "library" in arguments.parts:
        with tempfile.TemporaryDirectory() as folder:
            cache = arguments.cache or Path(folder)
            cache.mkdir(parents=True, exist_ok=True)
            library(arguments.rows, cache)
    end()


if __name__ == "__main__":
    main()
