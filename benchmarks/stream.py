"""A batch out of a library on disk that is read once: rows per processor second, and the memory that it takes.

Writes ZINC's 250,000 molecules several times over into packed files, with ids of their own: as they are, then with a
carbon, a nitrogen, an oxygen, ... in front where they begin with an aliphatic carbon. The model is learnt from the
log P of some of them.

    python benchmarks/stream.py [--rows 1000000] [--files 8] [--rules ucb] [--parts morgan2] [--processes 1]
"""

from __future__ import annotations

import argparse
import gzip
import resource
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch

from lib.common import header, peak_gib, print_table, seeded
from sggp.bayesopt import fit_surrogate
from sggp.bayesopt.streaming import LibrarySearch, StreamProgress, suggest_from_files
from sggp.bayesopt.streaming.shards import STREAM_RULES
from sggp.datasets import zinc250k
from sggp.molecules import FingerprintTable, SmilesFingerprinter, compute_property

FRONTS = ("", "C", "N", "O", "F", "S", "Cl", "Br", "CC", "CN", "CO")


def write_library(folder: Path, smiles: list[str], rows: int, files: int) -> list[Path]:
    """The library as packed files of equal numbers of rows."""
    every = (
        f"{front if text[0] == 'C' and text[:2] != 'Cl' else ''}{text}" for front in FRONTS for text in smiles
    )
    numbered = (f"{text} Z{number}\n" for number, text in enumerate(every))
    paths = []
    for number in range(files):
        paths.append(folder / f"part-{number}.smi.gz")
        with gzip.open(paths[-1], "wt", compresslevel=3) as stream:
            stream.writelines(islice(numbered, -(-rows // files)))
    return paths


def processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(own.ru_utime + own.ru_stime for own in used)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--rules", nargs="+", default=["ucb"], choices=STREAM_RULES)
    parser.add_argument("--parts", nargs="+", default=["morgan2"])
    parser.add_argument("--measured", type=int, default=500)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    header("A library on disk, read once", ("torch", "rdkit"))
    smiles = list(zinc250k().smiles)
    rows = torch.randperm(len(smiles), generator=seeded(0))[: options.measured]
    known = [smiles[row] for row in rows.tolist()]
    own = SmilesFingerprinter(parts=options.parts, n_jobs=options.processes)
    table = FingerprintTable.from_smiles(known, own)
    values = torch.from_numpy(compute_property(known, "logp"))
    model = fit_surrogate(
        table[:], values, num_samples=max(64, options.batch), kernel=table.parts, generator=1
    )
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        paths = write_library(Path(folder), smiles, options.rows, options.files)
        smiles.clear()
        for rule in options.rules:
            search = LibrarySearch(
                model.posterior, rule, options.batch, exclude=known, fingerprinter=own, seed=0
            )
            start, before, seen = time.monotonic(), processor_seconds(), list[StreamProgress]()
            answer = suggest_from_files(search, paths, state=Path(folder) / rule, progress=seen.append)
            used, found = processor_seconds() - before, answer.found
            lines.append(
                [
                    rule,
                    f"{found.rows:,}",
                    f"{found.unusable:,}",
                    f"{len(answer.table):,}",
                    f"{used:.0f}",
                    f"{found.rows / used:,.0f}",
                    f"{time.monotonic() - start:.0f}",
                    f"{peak_gib():.2f}",
                    f"{(Path(folder) / rule).stat().st_size / 1000:.0f}",
                ]
            )
    names = ["rule", "rows", "unusable", "kept", "processor s", "rows per processor s", "s"]
    print_table([*names, "peak GiB", "state kB"], lines)


if __name__ == "__main__":
    main()
