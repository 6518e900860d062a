"""Learn a property from measured molecules: R², error and calibration on molecules the model has not seen.

    python examples/molecules/regression.py                      # solubility (ESOL) or, without data, computed log P
    python examples/molecules/regression.py --file measured.csv  # your own: columns of SMILES and values are guessed
    python examples/molecules/regression.py --quick              # a small run of a few seconds

The model is a Gaussian process with the min-max Tanimoto kernel on count fingerprints. Calibration is the share of
test values inside the model's 50 % and 90 % intervals: well calibrated means about 50 % and 90 %.
"""

import argparse
from statistics import NormalDist

import numpy as np

from sggp import GPRegressor
from sggp.datasets import esol, nci_first_5k
from sggp.errors import DataFileError
from sggp.molecules import SmilesFingerprinter, compute_property, read_molecules


def load(path):
    """Name of the property, SMILES and values: of a file, of ESOL, or of molecules that come with RDKit."""
    if path is not None:
        data = read_molecules(path, need_values=True)
        print(f"columns: {data.guess}")
        for row in data.rejected:
            print(f"  not used, line {row.line}: {row.reason}")
        return data.guess.value, data.smiles, data.values
    try:
        data = esol()
        return "log10 solubility (mol/l)", list(data.smiles), data.values["log_solubility"]
    except DataFileError:
        smiles = list(nci_first_5k().smiles)
        report = SmilesFingerprinter().check(smiles)
        print(report.describe(limit=2))
        unusable = {*report.rows, *report.duplicate_rows}
        smiles = [text for row, text in enumerate(smiles) if row not in unusable]
        return "log P (Crippen, computed)", smiles, compute_property(smiles, "logp")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", help="CSV, TSV or SMI file of measured molecules (gzip accepted)")
    parser.add_argument("--rows", type=int, default=1500, help="use at most this many molecules")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="200 molecules")
    arguments = parser.parse_args()

    name, smiles, values = load(arguments.file)
    generator = np.random.default_rng(arguments.seed)
    rows = generator.permutation(len(smiles))[: 200 if arguments.quick else arguments.rows]
    counts = SmilesFingerprinter(radius=2, fp_size=2048).fit_transform([smiles[row] for row in rows])
    y = np.asarray(values)[rows]
    n = int(0.8 * len(rows))

    model = GPRegressor(kernel="tanimoto", random_state=arguments.seed).fit(counts[:n], y[:n])
    mean, std = model.predict(counts[n:], return_std=True, include_noise=True)
    error = y[n:] - mean

    print(f"{name}: {n} molecules to learn from, {len(error)} to test on")
    print(f"R²      {1 - (error**2).mean() / y[n:].var():.3f}")
    print(f"RMSE    {np.sqrt((error**2).mean()):.3f}  (spread of the test values {y[n:].std():.3f})")
    print(f"NLL     {(0.5 * np.log(2 * np.pi * std**2) + 0.5 * (error / std) ** 2).mean():.3f}")
    for level in (0.5, 0.9):
        inside = np.abs(error) <= NormalDist().inv_cdf(0.5 + level / 2) * std
        print(f"inside the {level:.0%} interval: {inside.mean():.0%}")


if __name__ == "__main__":
    main()
