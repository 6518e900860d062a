"""Screening libraries whose values are all known: the share of the best 1 % that is found by measuring a few per cent.

1 % of a library is known, drawn at random; five batches of 1 % (of F2: 0.1 %) follow, each chosen from all that was
measured before. The known molecules of a library and seed are the same for all. Docking scores and free energies are to
be minimised, solubility (ESOL) to be maximised. Seconds are of the processor, for a whole campaign, fingerprints left
out.

    ours          the rules of `sggp.bayesopt.rules`, with the model that a campaign fits
    random        chance
    forest        the best means of a random forest of 200 trees (scikit-learn)
    exact-greedy  the best means of scikit-learn's exact Gaussian process with the min-max kernel of the same counts
    exact-ucb     its mean + 2 std
    botorch-ucb   mean + 2 std of BoTorch's `SingleTaskGP` with that kernel
    botorch-ts    its `MaxPosteriorSampling`: for each of a batch the best of a joint sample, of the 10,000 best means
    qpo           qPO as published: which of the 10,000 best means is the best of a joint sample, counted over 10,000

A file of runs (`--json`) is added to, and what it holds is not run again.

    python benchmarks/screening.py [--libraries enamine10k tyk2 esol F2] [--seeds 0 1 2 3 4] [--contenders ucb random]
        [--workers 2] [--json runs.jsonl] [--report runs.jsonl] [--rows 1000]
        [--cache folder]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any

import torch
from linear_operator.utils.errors import NanError, NotPSDError

from lib.bo_report import Records
from lib.common import described
from lib.screen_libraries import LIBRARIES, ROUNDS, Library, load
from lib.screen_peers import PEERS
from lib.screen_report import key, report
from sggp.bayesopt.rules import DEFAULT_RULE, RULES
from sggp.bayesopt.screening import screen
from sggp.errors import SggpError

CONTENDERS = list(dict.fromkeys([DEFAULT_RULE, *RULES, *PEERS]))
FAILURES = (SggpError, MemoryError, NotPSDError, NanError, torch.linalg.LinAlgError)
"""What a contender may raise that is told in the table; anything else ends the benchmark."""
PACKAGES = ("torch", "gpytorch", "scikit-learn", "botorch", "rdkit")


def run(setup: dict[str, Any], cache: Path | None) -> dict[str, Any]:
    """One campaign, as a record that JSON can hold."""
    library = load(setup["library"], setup["rows"], cache)
    about = {"size": len(library), "known": library.known, "batch": library.batch, "batches": ROUNDS}
    record = {**setup, **about, "failure": "", "found": []}
    start = time.process_time()
    try:
        batches = ours(library, setup) if setup["contender"] in RULES else theirs(library, setup)
        record["found"] = library.found(batches)
    except FAILURES as error:
        record["failure"] = f"{type(error).__name__}: {str(error)[:200]}"
    record["seconds"] = time.process_time() - start
    return record


def ours(library: Library, setup: dict[str, Any]) -> list[list[int]]:
    """The known rows and each batch of `screen`."""
    done = screen(
        library.table,
        library.values,
        library.start(setup["seed"]),
        rounds=ROUNDS,
        batch_size=library.batch,
        maximize=library.maximize,
        generator=setup["seed"],
        rule=setup["contender"],
    )
    return [step.rows for step in done.steps]


def theirs(library: Library, setup: dict[str, Any]) -> list[list[int]]:
    """The known rows and each batch of a peer."""
    batches = [library.start(setup["seed"])]
    for number in range(ROUNDS):
        measured = [row for rows in batches for row in rows]
        batches.append(PEERS[setup["contender"]](library, measured, 1000 * (setup["seed"] + 1) + number))
    return batches


def one_thread() -> None:
    torch.set_num_threads(1)


def run_all(todo: list[dict[str, Any]], records: Records, workers: int, cache: Path | None) -> None:
    """In processes of one thread each; every run is kept as soon as it has ended."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the workers as they start
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=one_thread) as pool:
        futures = [pool.submit(run, setup, cache) for setup in todo]
        for number, future in enumerate(as_completed(futures), 1):
            record = future.result()
            records.add(record)
            told = record["failure"] or f"found {record['found'][-1]:.3f}, {record['seconds']:.0f} s"
            name = " ".join(str(part) for part in key(record)[:-1])
            print(f"{number}/{len(todo)}  {name}: {told}", flush=True)
    print()


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES), metavar="LIBRARY")
    add("--seeds", type=int, nargs="+", default=list(range(5)))
    add("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS, metavar="CONTENDER")
    add("--rows", type=int, help="use only the first rows of each library")
    add("--workers", type=int, default=2, help="processes, of one thread each")
    add("--cache", type=Path, help="folder that keeps fingerprints between calls")
    add("--json", type=Path, help="file of runs, one JSON object per line; added to")
    add("--report", type=Path, help="print the tables of such a file, run nothing")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    print("# Screening libraries of molecules\n")
    if arguments.report is not None:
        report(Records(arguments.report, key).runs.values())
        return
    where, records = described(PACKAGES), Records(arguments.json, key)
    asked = [
        {"library": library, "contender": contender, "seed": seed, "rows": arguments.rows, "where": where}
        for library, seed, contender in product(arguments.libraries, arguments.seeds, arguments.contenders)
    ]
    todo = [setup for setup in asked if key(setup) not in records.runs]
    print(f"{len(todo)} runs of {len(asked)} to do\n", flush=True)
    run_all(todo, records, arguments.workers, arguments.cache)
    report(records.runs[key(setup)] for setup in asked)


if __name__ == "__main__":
    main()
