"""Processor seconds and memory of `sggp suggest`: 96 of a library's molecules, given some that were measured.

The library is zinc250k, 249,455 molecules; the measured ones are of DOCKSTRING, with their docking scores on F2
(thrombin), drawn at random. The first call makes the library's fingerprints, and is not counted; those of the measured
molecules are made in every call. Seconds are of the processor, user and system together, of the whole command in a
process of its own: interpreter and imports included. Memory is the most that it held (resident), mapped files included.

    python benchmarks/suggest.py [--measured 300 1000 5000] [--rows N] [--threads N] [--cache folder]

`--rows` takes the first molecules of the library only.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from lib.common import header, print_table, seeded
from sggp.datasets import dockstring_small, zinc250k

PICKS = 96
COMMAND = """
import sys
from sggp.cli import main
code = main(sys.argv[1:])
sys.path.insert(0, {here!r})
from lib.common import peak_gib
print(peak_gib())
sys.exit(code)
"""


def write(path: Path, columns: list[str], rows: list[tuple[object, ...]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([columns, *rows])
    return path


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def call(
    folder: Path, library: Path, measured: Path, cache: Path, threads: int
) -> tuple[float, float, float]:
    """Processor seconds, seconds and GiB of one call."""
    options = ["--minimize", "-q", PICKS, "--seed", 1, "--cache", cache, "--out", folder / "next.csv"]
    words = ["suggest", "--library", library, "--measured", measured, *options]
    code = COMMAND.format(here=str(Path(__file__).parent))
    before, begin = processor_seconds(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        check=False,
        capture_output=True,
        text=True,
    )
    seconds, work = time.perf_counter() - begin, processor_seconds() - before
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)
    return work, seconds, float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measured", type=int, nargs="+", default=[300, 1000, 5000])
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=None)
    chosen = parser.parse_args()
    header("sggp suggest", ("torch", "rdkit"))
    data, library = dockstring_small(), zinc250k().smiles[: chosen.rows]
    order = torch.randperm(len(data), generator=seeded(0)).tolist()
    scores = list(zip(data.smiles, data.values["F2"], strict=True))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = folder / "cache" if chosen.cache is None else chosen.cache
        listed = write(folder / "library.csv", ["smiles"], [(text,) for text in library])
        for count in [min(chosen.measured), *chosen.measured]:
            known = write(folder / "measured.csv", ["smiles", "F2"], [scores[i] for i in order[:count]])
            work, seconds, gib = call(folder, listed, known, cache, chosen.threads)
            rows.append([str(count), str(len(library)), f"{work:.1f}", f"{seconds:.1f}", f"{gib:.2f}"])
    print_table(["measured", "library", "processor s", "seconds", "GiB"], rows[1:])


if __name__ == "__main__":
    main()
