"""Screening a library of molecules with the Python API: fingerprints, a model, a batch, and again.

The library is the NCI set that RDKit carries; the "measurement" is Crippen's log P. Replace both by your own.

python examples/molecules/library_screening.py            # 5 batches of 20 from 4,900 molecules
python examples/molecules/library_screening.py --quick    # 2 batches of 5 from 500
"""

from __future__ import annotations

import argparse
import warnings

import gpytorch
import torch

from sggp.bayesopt import Pool, ThompsonSampling
from sggp.datasets import nci_first_5k
from sggp.errors import MoleculeWarning
from sggp.hyperparameters import learn_hyperparameters
from sggp.kernels import TanimotoMinMax
from sggp.molecules import FingerprintTable, SmilesFingerprinter, compute_property
from sggp.posterior import condition


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rounds, batch, size = (2, 5, 500) if options.quick else (5, 20, None)
    generator = torch.Generator().manual_seed(options.seed)

    with warnings.catch_warnings():  # a few of its SMILES cannot be parsed; table.report lists them
        warnings.simplefilter("ignore", MoleculeWarning)
        table = FingerprintTable.from_smiles(
            nci_first_5k().smiles[:size],
            SmilesFingerprinter(),  # Morgan counts alone, for one kernel
            on_invalid="drop",
            on_duplicate="drop",
        )
    print(
        f"{table}; left out: {len(table.report.invalid)} invalid, {len(table.report.duplicate_rows)} repeats"
    )

    def measure(rows: list[int]) -> torch.Tensor:
        return torch.from_numpy(compute_property([table.smiles[row] for row in rows], "logp"))

    measured = torch.randperm(len(table), generator=generator)[:50].tolist()
    values = measure(measured)
    thompson = ThompsonSampling(Pool(table), batch, maximize=True)
    print(f"{len(measured)} random molecules: best log P {values.max():.2f}")
    for number in range(1, rounds + 1):
        counts = table[measured]  # (n, 2048) uint8: fingerprints stay integers
        centred = (values - values.mean()) / values.std()
        fit = learn_hyperparameters(gpytorch.kernels.ScaleKernel(TanimotoMinMax()), counts, centred)
        posterior = condition(
            fit.kernel,
            counts,
            centred,
            noise_variance=fit.noise_variance,
            mean=fit.mean,
            num_samples=batch,
            generator=generator,
        )
        chosen = thompson.suggest(posterior, exclude=measured, generator=generator).tolist()
        measured, values = measured + chosen, torch.cat([values, measure(chosen)])
        print(f"batch {number}: best log P of {len(measured)} molecules {values.max():.2f}")

    print("the five best:")
    for place in values.argsort(descending=True)[:5].tolist():
        print(f"  {values[place]:6.2f}  {table.smiles[measured[place]]}")


if __name__ == "__main__":
    main()
