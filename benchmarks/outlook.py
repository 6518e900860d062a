"""Is what `sggp.bayesopt.outlook` says true as often as it says? Replays of campaigns whose values are all known.

A replay draws molecules of a library at random (`--rows`, 0 for all of it), knows 1 % of them, at least 20, and
measures batches of as many, chosen by a rule. After 1, 3 and 5 batches the outlook is asked for and compared with the
truth: the interval of the number of the best 1 % and of the best 10 found, the 90 % bound of how much better the best
there is is, the probabilities that the best found is the best (or nearly) and that the next batch holds something
better, and the expected gain. With `--constraint` a second outcome, log P, is measured with the first, and only what
has one of at most the median counts. The prior of the correction was chosen on seeds 1000 to 1029 and the form of its
bend on 1000 to 1015: report others. A file of replays (`--json`) is added to, and what it holds is not run again.

    python benchmarks/outlook.py [--libraries tyk2 esol] [--seeds 200] [--first 0] [--rows 2500] [--rules ucb thompson]
        [--paths 128] [--constraint] [--workers 1] [--json replays.jsonl] [--report replays.jsonl] [--cache folder]
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any

import torch
from linear_operator.utils.errors import NanError, NotPSDError

from lib.bo_report import Records
from lib.common import described
from lib.outlook_conditions import replay_with_constraint
from lib.outlook_replay import LIBRARIES, replay
from lib.outlook_report import key, report
from sggp.bayesopt.rules import DEFAULT_RULE, RULES
from sggp.errors import SggpError

FAILURES = (SggpError, NotPSDError, NanError, torch.linalg.LinAlgError)
"""What a replay may raise that is told in the table; anything else ends the benchmark."""
PACKAGES = ("torch", "gpytorch", "rdkit")


def run(setup: dict[str, Any], cache: Path | None) -> dict[str, Any]:
    """One replay, as a record that JSON can hold."""
    torch.set_num_threads(1)
    start, record = time.process_time(), {**setup, "failure": "", "stages": []}
    try:
        record["stages"] = (replay_with_constraint if setup["constraint"] else replay)(setup, cache)
    except FAILURES as error:
        record["failure"] = f"{type(error).__name__}: {str(error)[:200]}"
    return {**record, "seconds": time.process_time() - start}


def run_all(todo: list[dict[str, Any]], records: Records, workers: int, cache: Path | None) -> None:
    if workers == 1:
        for setup in todo:
            records.add(run(setup, cache))
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as executor:
        for future in as_completed([executor.submit(run, setup, cache) for setup in todo]):
            records.add(future.result())


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    libraries = ["enamine10k", "tyk2", "lipophilicity", "esol"]
    parser.add_argument("--libraries", nargs="+", default=libraries, choices=list(LIBRARIES))
    parser.add_argument("--seeds", type=int, default=200, help="how many replays of each")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--rows", type=int, default=2500, help="molecules drawn of a library; 0 for all")
    parser.add_argument("--rules", nargs="+", default=[DEFAULT_RULE], choices=list(RULES))
    parser.add_argument("--paths", type=int, default=128)
    parser.add_argument("--constraint", action="store_true", help="a measured log P of at most the median")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file to add the replays to")
    parser.add_argument("--report", type=Path, help="show the tables of such a file, run nothing")
    parser.add_argument("--cache", type=Path, help="folder for fingerprints")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    print("# Is it worth going on? What was said and what was so\n")
    if arguments.report is not None:
        report(Records(arguments.report, key).runs.values())
        return
    torch.set_num_threads(1)
    where = described(PACKAGES)
    # seeds outermost: an interrupted run has the same seeds of every library
    asked = [
        {
            "library": library,
            "rule": rule,
            "rows": arguments.rows,
            "paths": arguments.paths,
            "constraint": arguments.constraint,
            "seed": seed,
            "where": where,
        }
        for seed, library, rule in product(
            range(arguments.first, arguments.first + arguments.seeds), arguments.libraries, arguments.rules
        )
    ]
    records = Records(arguments.json, key)
    todo = [setup for setup in asked if key(setup) not in records.runs]
    print(f"{len(todo)} replays of {len(asked)} to do\n", flush=True)
    run_all(todo, records, arguments.workers, arguments.cache)
    report(records.runs[key(setup)] for setup in asked)
    for record in (records.runs[key(setup)] for setup in asked):
        if record["failure"]:
            print(f"failed: {', '.join(map(str, key(record)))}: {record['failure']}")


if __name__ == "__main__":
    main()
