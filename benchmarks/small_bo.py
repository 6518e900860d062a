"""Bayesian optimisation of six test functions with few measurements, BoTorch, Optuna and random search beside us.

Ten initial points and thirty more on the unit cube, to be maximised. Simple regret is that of the recommended point
without noise: of the best measured one, or, where measurements are noisy (a standard deviation of 5 % of the function's
over Sobol points), of the measured one with the highest posterior mean (of BoTorch's model where a method shows none).
Seconds are of the processor in one thread, medians over rounds and seeds, so that they hardly depend on what else runs.

    logei     LogEI, one point after the other
    qlogei    qLogEI, batches of four
    thompson  four posterior paths maximised per batch; `sggp.bayesopt.Campaign` beside our BoTorch model

The initial points and the noise of a function and seed are the same for all. A file of runs (`--json`) is added to, and
what it holds is not run again. `--mixes` adds our paths with BoTorch's hyperparameters and a dense posterior with ours;
`--hyperparameters` shows what both learn from the same designs instead. A default is decided on other seeds (`--first`)
than those that are told of; beside the counts stands the mean difference of the logarithms of regret and its error.

    python benchmarks/small_bo.py [--functions branin] [--seeds 20] [--first 0] [--strategies logei]
        [--models ours random] [--noise both] [--rounds 30] [--mixes] [--workers 2]
        [--json runs.jsonl] [--report runs.jsonl]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from botorch.exceptions.errors import BotorchError
from linear_operator.utils.errors import NanError, NotPSDError

from lib.bo_learnt import compare
from lib.bo_report import Records, key, report
from lib.common import described
from lib.objectives import FUNCTIONS, INITIAL, NOISES, Problem
from lib.proposers import BATCH, MODELS, OPTUNA, STRATEGIES, Proposer, make_proposer, settings
from lib.surrogates import MANY, MIXES
from sggp.errors import SggpError

FAILURES = (SggpError, BotorchError, NotPSDError, NanError, torch.linalg.LinAlgError)
"""What a model may raise that is told in the table; anything else ends the benchmark."""
PACKAGES = ("torch", "gpytorch", "botorch", "optuna")


def run(setup: dict[str, Any]) -> dict[str, Any]:
    """One optimisation, as a record that JSON can hold."""
    problem = Problem(setup["function"], setup["noise"], setup["seed"])
    record = {**setup, "spread": problem.spread, "failure": "", "fit_seconds": [], "suggest_seconds": []}
    with warnings.catch_warnings(record=True) as caught, TemporaryDirectory() as folder:
        warnings.simplefilter("always")
        try:
            optimise(make_proposer(problem, setup["strategy"], setup["model"], Path(folder)), record)
        except FAILURES as error:
            record["failure"] = f"{type(error).__name__}: {str(error)[:200]}"
    return {**record, "warnings": dict(Counter(warning.category.__name__ for warning in caught))}


def optimise(proposer: Proposer, record: dict[str, Any]) -> None:
    """Measure until the budget is spent; points, seconds and regret go into the record."""
    problem, total = proposer.problem, INITIAL + record["rounds"]
    x = problem.design(INITIAL)
    y = problem.measure(x, 0)
    while len(x) < total:
        seed = 1000 * problem.seed + len(x)
        torch.manual_seed(seed)
        start = time.process_time()
        proposer.fit(x, y, seed)
        fitted = time.process_time()
        points = proposer.suggest(min(BATCH[record["strategy"]], total - len(x)))
        record["suggest_seconds"].append(time.process_time() - fitted)
        record["fit_seconds"].append(fitted - start)
        y = torch.cat([y, problem.measure(points, len(x))])
        x = torch.cat([x, points])
        record["x"], record["y"], record["learnt"] = x.tolist(), y.tolist(), proposer.learnt()
    regrets = problem.regret(x)
    if problem.noise == "exact":
        record["regret"] = float(regrets.min())
        record["best_so_far"] = regrets.cummin(0).values.tolist()
        return
    proposer.fit(x, y, 1000 * problem.seed + total)
    record["regret"] = float(regrets[proposer.means().argmax()])


def setups(arguments: argparse.Namespace, where: str) -> list[dict[str, Any]]:
    """Every run asked for, those of one problem side by side."""
    models = [*arguments.models, *(MIXES if arguments.mixes else ())]
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    cases = product(seeds, arguments.functions, arguments.noise, arguments.strategies)
    return [
        {
            "function": function,
            "noise": noise,
            "seed": seed,
            "strategy": strategy,
            "model": model,
            "rounds": arguments.rounds,
            "where": where,
        }
        for seed, function, noise, strategy in cases
        for model in models
        if model in STRATEGIES[strategy]
    ]


def one_thread() -> None:
    torch.set_num_threads(1)


def run_all(todo: list[dict[str, Any]], records: Records, workers: int) -> None:
    """In processes of one thread each; every run is kept as soon as it has ended."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the workers as they start
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=one_thread) as pool:
        futures = [pool.submit(run, setup) for setup in todo]
        for number, future in enumerate(as_completed(futures), 1):
            record = future.result()
            records.add(record)
            seconds = sum(record["fit_seconds"]) + sum(record["suggest_seconds"])
            told = record["failure"] or f"regret {record['regret']:.3g}"
            name = " ".join(str(part) for part in key(record)[:-1])
            print(f"{number}/{len(todo)}  {name}: {told}, {seconds:.1f} s", flush=True)
    print()


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--functions", nargs="+", choices=FUNCTIONS, default=list(FUNCTIONS), metavar="FUNCTION")
    add("--seeds", type=int, default=20, help="number of seeds")
    add("--first", type=int, default=0, help="the first of them")
    add("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES), metavar="STRATEGY")
    models = (*MODELS, MANY)
    add("--models", nargs="+", choices=models, default=list(MODELS), metavar="MODEL", help=", ".join(models))
    add("--mixes", action="store_true", help="our paths with BoTorch's hyperparameters, and the reverse")
    add("--noise", choices=[*NOISES, "both"], default="both")
    add("--rounds", type=int, default=30, help="measurements after the initial ones; batches share them")
    add("--workers", type=int, default=2, help="processes, of one thread each")
    add("--json", type=Path, help="file of runs, one JSON object per line; added to")
    add("--report", type=Path, help="print the tables of such a file, run nothing")
    add("--hyperparameters", action="store_true", help="what ours and BoTorch's learn from the same designs")
    add("--design", type=int, default=20, help="points of those designs")
    arguments = parser.parse_args()
    arguments.noise = list(NOISES) if arguments.noise == "both" else [arguments.noise]
    return arguments


def main() -> None:
    arguments = parsed()
    print("# Bayesian optimisation with few measurements\n")
    if arguments.report is not None:
        report(Records(arguments.report).runs.values())
        return
    if find_spec("optuna") is None and OPTUNA in arguments.models:
        print("Optuna is not installed: left out.\n")
        arguments.models.remove(OPTUNA)
    torch.set_num_threads(1)
    where = f"{described(PACKAGES)}\n{settings()}"
    if arguments.hyperparameters:
        print(f"{where}\n", flush=True)
        compare(arguments.functions, arguments.noise, arguments.seeds, arguments.design)
        return
    asked, records = setups(arguments, where), Records(arguments.json)
    todo = [setup for setup in asked if key(setup) not in records.runs]
    print(f"{len(todo)} runs of {len(asked)} to do\n", flush=True)
    run_all(todo, records, arguments.workers)
    report(records.runs[key(setup)] for setup in asked)


if __name__ == "__main__":
    main()
