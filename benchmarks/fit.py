"""From raw rows to predictions, nothing tuned and nothing published: `GPRegressor()` beside what else there is.

UCI tables, split 0 unless another is asked for. Everyone gets the same standardised rows in a process of its own and
learns its hyperparameters itself: a Matérn-3/2 kernel with one length scale per input, noise and a constant mean;
`GPRegressor()` chooses among four kernels by rows that it leaves out, and says so. RMSE and the mean negative
log density (NLL, noise included) are on standardised test targets. Seconds are those of fitting and predicting mean and
variance of all test rows. Peers with no end of their own (Adam, of GPyTorch and HiGP) train for four times our seconds,
or for `--cap-seconds`. HiGP's kernel has one length scale for all inputs. gpboost and higp are optional: a row says
where one is missing. Runs are repeated in turn, medians are printed, with the seed of the repeat.

    python benchmarks/fit.py [--sets pol protein] [--peers svgp gpboost] [--repeats 3]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lib.common import available_gib, end, header, print_table, run_apart
from lib.fitters import (
    Scores,
    Task,
    gpboost_run,
    gpytorch_exact_run,
    gpytorch_svgp_run,
    ours_run,
    scikit_learn_run,
)
from lib.higp_peer import higp_run

LARGE = ("pol", "bike", "protein", "keggdirected")
SMALL = ("concrete", "energy", "yacht", "wine")
PEERS = {
    "exact": "GPyTorch exact",
    "svgp": "GPyTorch SVGP, 1,024 points",
    "scikit-learn": "scikit-learn",
    "gpboost": "gpboost, Vecchia",
    "higp": "HiGP, AFN",
}
SCIKIT_ROWS, SVGP_ROWS, LARGE_ROWS = 1600, 1025, 10_000
WANTED = {"pol": (0.070, -1.28, 40.0), "protein": (0.48, 0.54, 150.0)}  # RMSE, NLL, seconds
SMALL_GAP, SHORTEST_CAP, CAP_FACTOR = 0.02, 120.0, 4.0


@dataclass
class Contender:
    """A regressor on one table, and its runs."""

    label: str
    call: Callable[..., Scores | str]
    arguments: tuple[Any, ...]
    ours: bool = False
    runs: list[Scores] = field(default_factory=list)
    peak: float = 0.0
    failure: str = ""

    def run(self, task: Task, seed: int, limit_gib: float | None, limit_seconds: float) -> None:
        apart = run_apart(
            self.call,
            task,
            *self.arguments,
            seed,
            limit_gib=None if self.ours else limit_gib,
            limit_seconds=limit_seconds,
        )
        if isinstance(apart.value, Scores):
            self.runs.append(apart.value)
            self.peak = max(self.peak, apart.peak_gib)
        else:
            self.failure = apart.failure or str(apart.value)

    def median(self, what: str) -> float:
        return statistics.median(getattr(run, what) for run in self.runs)

    def cells(self, name: str) -> list[str]:
        if not self.runs:
            return [name, self.label, *["–"] * 7, self.failure]
        numbers = [f"{self.median(what):.4f}" for what in ("rmse", "nll")]
        seconds = [f"{self.median(f'{what}seconds'):.1f}" for what in ("", "fit_", "predict_", "cpu_")]
        return [name, self.label, *numbers, *seconds, f"{self.peak:.2f}", self.runs[-1].note]


def contenders(task: Task, recipes: list[str], peers: list[str], cap: float) -> list[Contender]:
    """The recipes beside the default one, and the peers that are meant for tables of this size."""
    n = len(task.arrays()[0])
    calls: dict[str, tuple[Callable[..., Scores | str], tuple[Any, ...]]] = {
        "exact": (gpytorch_exact_run, (cap,)),
        "svgp": (gpytorch_svgp_run, (cap,)),
        "scikit-learn": (scikit_learn_run, ()),
        "gpboost": (gpboost_run, ()),
        "higp": (higp_run, (cap,)),
    }
    fitting = {"scikit-learn": n <= SCIKIT_ROWS, "svgp": n >= SVGP_ROWS or task.rows is not None}
    others = [Contender(f"GPRegressor, {r}", ours_run, (r,), ours=True) for r in recipes if r != "auto"]
    return others + [
        Contender(PEERS[name], *calls[name]) for name in PEERS if name in peers and fitting.get(name, True)
    ]


def race(task: Task, arguments: argparse.Namespace) -> list[Contender]:
    """The default recipe first, whose seconds cap the others; then the others; then repeats in turn."""
    first = Contender("GPRegressor()", ours_run, ("auto",), ours=True)
    first.run(task, 0, None, arguments.limit_seconds)
    ours = first.median("seconds") if first.runs else 0.0
    cap = arguments.cap_seconds or max(SHORTEST_CAP, CAP_FACTOR * ours)
    limit = arguments.peer_gib or available_gib() - 1.0
    print(
        f"{task.name}: ours took {ours:.1f} s; peers may take {limit:.1f} GiB, Adam {cap:.0f} s", flush=True
    )
    field_ = [first, *contenders(task, arguments.recipes, arguments.peers, cap)]
    for contender in field_[1:]:
        contender.run(task, 0, limit, arguments.limit_seconds)
    for seed in range(1, arguments.repeats):
        for contender in field_:
            if contender.runs and contender.runs[0].seconds <= arguments.once_above:
                contender.run(task, seed, limit, arguments.limit_seconds)
    return field_


def verdict(good: bool) -> str:
    return "met" if good else "MISSED"


def judge(task: Task, found: list[Contender]) -> None:
    """Against what is wanted of absolute numbers, and of each peer that got to an answer."""
    first, n = found[0], len(task.arrays()[0])
    if not first.runs:
        print(f"{task.name}: GPRegressor() gave nothing: MISSED ({first.failure})")
        return
    rmse, nll, seconds = (first.median(what) for what in ("rmse", "nll", "seconds"))
    if task.name in WANTED and task.rows is None and task.split == 0:
        wanted = WANTED[task.name]
        for name, value, most in zip(("RMSE", "NLL", "seconds"), (rmse, nll, seconds), wanted, strict=True):
            print(f"{task.name}: {name} {value:.4g} ≤ {most:g}: {verdict(value <= most)}")
    for peer in found[1:]:
        if peer.ours or not peer.runs:
            continue
        theirs, longer = peer.median("nll"), peer.median("seconds") / seconds
        text = f"{task.name}: {peer.label}: NLL {theirs:.4f} beside {nll:.4f}, {longer:.1f} × our seconds"
        if n > LARGE_ROWS:
            print(f"{text}: {verdict(nll < theirs and longer >= 3)} (less NLL in a third of its time)")
        elif peer.label == PEERS["scikit-learn"]:
            print(f"{text}: {verdict(nll <= theirs + SMALL_GAP)} (NLL to {SMALL_GAP})")
            if n > 1000:
                print(f"{task.name}: a tenth of scikit-learn's time: {verdict(longer >= 10)}")
        else:
            print(text)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sets", nargs="+", choices=[*LARGE, *SMALL], default=[*LARGE, *SMALL])
    add("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    add("--recipes", nargs="*", default=[], help="further values of optimizer= to show beside the default")
    add("--split", type=int, default=0, help="of the ten of every table")
    add("--rows", type=int, default=None, help="training and test rows to keep (a dry run)")
    add("--repeats", type=int, default=3, help="runs of everyone; medians are printed")
    add("--once-above", type=float, default=100.0, help="no repeats of who took longer, in seconds")
    add("--cap-seconds", type=float, default=None, help="training by Adam; default 4 × ours")
    add("--limit-seconds", type=float, default=1800.0, help="after which anyone is stopped")
    add("--peer-gib", type=float, default=None, help="memory a peer may take; default what is free less 1")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    packages = ("torch", "gpytorch", "linear_operator", "scikit-learn", "gpboost", "higp")
    header(f"fit and predict from raw rows: split {arguments.split}, nothing tuned", packages)
    results = []
    for name in arguments.sets:
        task = Task(name, arguments.rows, arguments.split)
        results.append((task, race(task, arguments)))
    print()
    print_table(
        ["table", "regressor", "RMSE", "NLL", "seconds", "fit", "predict", "CPU s", "peak GiB", "note"],
        [contender.cells(task.name) for task, found in results for contender in found],
    )
    for task, found in results:
        judge(task, found)
    end()


if __name__ == "__main__":
    main()
