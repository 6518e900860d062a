"""What fingerprints side by side add: molecules predicted from a few hundred others, by the model of campaigns.

n molecules are drawn at random and at most 1,000 others are predicted, for each of a few draws. The log density is that
of a measurement, in nats of targets of unit variance; "ahead" is how far it is ahead of Morgan counts alone, with the
standard error of the paired difference over draws; "left out" is the same of leave-one-out on the n molecules, over
molecules, all draws together. Seconds are of the processor, for one fit.

    python benchmarks/fingerprints.py [--libraries esol F2 lipophilicity] [--rows 100 400] [--draws 3]
        [--parts all no-paths ...] [--size 3000]
"""

from __future__ import annotations

import argparse
import math
import time
import warnings

import numpy as np
import torch
from torch import Tensor

from lib.common import header, print_table
from sggp.bayesopt import fit_surrogate
from sggp.datasets import molecules
from sggp.errors import MoleculeWarning
from sggp.molecules import FingerprintTable, SmilesFingerprinter
from sggp.molecules.encoding.parts import COMBINED

SETS = {"morgan2": ("morgan2",), "all": COMBINED}
SETS |= {f"no-{name}": tuple(other for other in COMBINED if other != name) for name in COMBINED}
SETS |= {"all+morgan3": ("morgan3", *COMBINED)}
LIBRARIES = ("esol", "F2", "PGR", "lipophilicity", "freesolv")
TESTED = 1000


def library(name: str, size: int) -> tuple[FingerprintTable, Tensor]:
    """Up to so many molecules of a library with every part, in random order, and their values."""
    docked = name in ("F2", "PGR")
    data = molecules.dockstring_small() if docked else getattr(molecules, name)()
    values = data.values[name] if docked else next(iter(data.values.values()))
    order = np.random.default_rng(0).permutation(np.flatnonzero(np.isfinite(values)))[:size]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MoleculeWarning)
        fingerprinter = SmilesFingerprinter(parts=("morgan3", *COMBINED))
        table = FingerprintTable.from_smiles(
            [data.smiles[i] for i in order], fingerprinter, on_invalid="drop"
        )
    return table, torch.from_numpy(values[order][table.source_rows]).double()


def columns(table: FingerprintTable, names: tuple[str, ...]) -> tuple[Tensor, dict[str, tuple[int, int]]]:
    """Some parts of a table, (n, width) uint8, and where they are."""
    pieces, ranges, start = [], {}, 0
    for name in names:
        first, stop = table.parts[name]
        pieces.append(table[:][:, first:stop])
        ranges[name] = (start, start + stop - first)
        start += stop - first
    return torch.cat(pieces, 1), ranges


def density(error: Tensor, std: Tensor) -> Tensor:
    """Log densities of normal errors."""
    return -0.5 * (error / std).square() - std.log() - 0.5 * math.log(2 * math.pi)


def score(
    x: Tensor, y: Tensor, known: Tensor, tested: Tensor, parts: dict[str, tuple[int, int]]
) -> tuple[float, ...]:
    """R², log density, seconds, and the leave-one-out density of each known molecule."""
    start = time.process_time()
    model = fit_surrogate(x[known], y[known], num_samples=1, generator=0, kernel=parts)
    seconds, unit = time.process_time() - start, float(y.std())
    mean, std = model.predict(x[tested], observation_noise=True)
    error = y[tested] - mean
    left, spread = model.leave_one_out()
    return (
        1 - float(error.square().mean() / y[tested].var()),
        float(density(error / unit, std / unit).mean()),
        seconds,
        density((y[known] - left) / unit, spread / unit),
        model.weights,
    )


def pair(values: Tensor) -> str:
    """A mean with its standard error."""
    error = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{float(values.mean()):+.3f} ± {error:.3f}"


def compare(name: str, options: argparse.Namespace) -> None:
    """One table for one library."""
    table, y = library(name, options.size)
    lines = []
    for n in options.rows:
        first: list[tuple[float, ...]] = []
        for label in ["morgan2", *options.parts]:
            x, parts = columns(table, SETS[label])
            found = []
            for draw in range(options.draws):
                order = torch.randperm(len(y), generator=torch.Generator().manual_seed(draw))
                found.append(score(x, y, order[:n], order[n : n + TESTED], parts))
            first = first or found
            ahead = torch.tensor([own[1] - base[1] for own, base in zip(found, first, strict=True)])
            left = torch.cat([own[3] - base[3] for own, base in zip(found, first, strict=True)])
            means = [sum(own[i] for own in found) / len(found) for i in range(3)]
            shares = " ".join(f"{share:.2f}" for share in found[0][4].values())
            lines.append(
                [
                    n,
                    label,
                    f"{means[0]:.3f}",
                    f"{means[1]:.3f}",
                    pair(ahead),
                    pair(left),
                    shares,
                    f"{means[2]:.1f}",
                ]
            )
    print(f"## {name} ({len(y)} molecules)\n")
    print_table(["known", "parts", "R²", "log density", "ahead", "left out", "weights", "s"], lines)
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--libraries", nargs="+", default=list(LIBRARIES[:3]), choices=LIBRARIES)
    parser.add_argument("--rows", nargs="+", type=int, default=[100, 400])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--parts", nargs="+", default=["all"], choices=list(SETS)[1:])
    parser.add_argument("--size", type=int, default=3000)
    options = parser.parse_args()
    header("fingerprints side by side", ("torch", "gpytorch", "rdkit"))
    for name in options.libraries:
        compare(name, options)


if __name__ == "__main__":
    main()
