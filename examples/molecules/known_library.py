"""A screening campaign whose answers are known: how much of a library's best is found by measuring a few per cent?

The objective looks its value up in a table of docking scores or free energies; put your own assay in its place. 1 % of
the library is measured at random, then five batches follow, chosen by the model. The tables are read from the folder
that SGGP_DATA_DIR names.

python examples/molecules/known_library.py                 # Enamine 10k, docking scores: a minute or two
python examples/molecules/known_library.py tyk2            # free energies of binding to TYK2: as long
python examples/molecules/known_library.py F2              # 97,000 docking scores of DOCKSTRING: some minutes
python examples/molecules/known_library.py --quick         # 400 molecules, two batches
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np

from sggp.bayesopt import Campaign, Pool, Trial
from sggp.datasets import dockstring_evaluated, enamine10k, tyk2
from sggp.errors import DataFileError, MoleculeWarning
from sggp.molecules import FingerprintTable

TABLES = {  # name: loader, column, share of the library in a batch
    "enamine10k": (enamine10k, "score", 0.01),
    "tyk2": (tyk2, "free_energy", 0.01),
    "F2": (dockstring_evaluated, "F2", 0.001),
}
PARTS = {"1 %": 0.01, "0.1 %": 0.001}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", nargs="?", choices=list(TABLES), default="enamine10k")
    parser.add_argument("--quick", action="store_true", help="400 molecules, two batches")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", help="folder that keeps the fingerprints for the next time")
    options = parser.parse_args()

    loader, column, share = TABLES[options.table]
    try:
        data = loader()
    except DataFileError as error:
        print(f"The table is not here, nothing was run: {error}")
        return
    docked = np.flatnonzero(np.isfinite(data.values[column]))[: 400 if options.quick else None]
    with warnings.catch_warnings():  # some SMILES of optimisers cannot be parsed; table.report lists them
        warnings.simplefilter("ignore", MoleculeWarning)
        table = FingerprintTable.from_smiles(
            [data.smiles[row] for row in docked], on_invalid="drop", on_duplicate="drop", cache=options.cache
        )
    values = data.values[column][docked][table.source_rows]
    size = len(values)
    first, batch = max(10, round(0.01 * size)), max(5, round(share * size))

    def look_up(trial: Trial) -> float:
        return float(values[trial.index])

    order = np.argsort(values, kind="stable")  # lower is better
    tops = {name: set(order[: max(1, round(part * size))].tolist()) for name, part in PARTS.items()}
    print(f"{options.table}: {size:,} molecules, {first} at random, then batches of {batch}")
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(
            Pool(table), Path(folder) / "known.db", maximize=False, seed=options.seed, num_initial=first
        )
        for number in range(3 if options.quick else 6):
            count = batch if number else first
            campaign.run(look_up, budget=count, batch_size=count)
            done = {trial.index for trial in campaign.results()}
            found = "  ".join(f"{name} {len(top & done) / len(top):4.0%}" for name, top in tops.items())
            print(
                f"{len(done):5,} measured ({len(done) / size:.1%}, what chance would find): found of the best {found}"
                f"; best {campaign.best()[0].value:.4g}"
            )


if __name__ == "__main__":
    main()
