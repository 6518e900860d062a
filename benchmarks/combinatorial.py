"""The best products of a reaction without listing them: how many of the true best hundred by number of evaluations.

Quinazolinones of public reagents (Klarich et al. 2024, 10.1021/acs.jcim.3c01790), in three sizes: 0.94 million, whose
truth is known by exhaustive search; 94 million, with the authors' list of the best hundred; 22 billion. Objectives, to
be maximised: "similarity" to a query by Morgan bits of radius 3 (as published), "atom-pairs" by atom pair bits,
"log P" penalised by size and rings, and "docking", a random forest that was trained on docking scores of F2.

    ours              200 random products, then batches of 50 by the rule of a campaign, on Morgan counts of radius 2,
                      which no objective is made of
    reagent-thompson  one belief per reagent, three products each to begin with
    genetic           a genetic algorithm on reagents
    forest            a random forest that sees every product (0.94 million only)
    random            chance

Evaluations count every different product, those to begin with included; a combination without a product counts as one.
Seconds are of the wall and of the processors, children included, for a whole search; memory is of this process.

    python benchmarks/combinatorial.py [--size 0.94M] [--objectives similarity docking] [--contenders ours genetic]
        [--seeds 0 1 2 3 4] [--budget 2000] [--rule ucb] [--parts morgan2] [--json runs.jsonl] [--report runs.jsonl]
        [--cache folder] [--plot found.png]
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from lib.bo_report import Records
from lib.common import described, print_table
from lib.reaction_objectives import OBJECTIVES, SIZES, TOP, Truth, library, published, truth, values
from lib.reaction_peers import PEERS
from sggp.bayesopt import Campaign, Combinatorial
from sggp.bayesopt.rules import RULES
from sggp.molecules import ReactionLibrary, SmilesFingerprinter

KEY = ("size", "objective", "contender", "seed", "budget", "rule", "parts")
START, BATCH = 200, 50
PACKAGES = ("torch", "scikit-learn", "rdkit")


class Evaluations:
    """Counts what is evaluated, and what of it is among the best hundred.

    Args:
        setup: the run.
        facts: the truth, None where it is not known.
    """

    def __init__(self, setup: dict[str, Any], facts: Truth | None) -> None:
        self.setup, self.facts = setup, facts
        self.listed = published() if (setup["size"], setup["objective"]) == ("94M", "similarity") else None
        self.known: dict[str, float] = {}
        self.lost = 0
        self.curve: list[tuple[int, float]] = []

    @property
    def count(self) -> int:
        return len(self.known) + self.lost

    @property
    def found(self) -> float:
        """How many of the best hundred were evaluated; where nobody knows those, the mean of the best hundred."""
        if self.listed is not None:
            return len(self.listed & set(self.known))
        if self.facts is not None:
            return min(TOP, sum(value >= self.facts.cut - 1e-12 for value in self.known.values()))
        best = sorted(self.known.values(), reverse=True)[:TOP]
        return float(np.mean(best)) if len(best) == TOP else float("nan")

    def of(self, names: list[str]) -> list[float]:
        """The values of products, NaN for "", which is no product."""
        new = [name for name in dict.fromkeys(names) if name and name not in self.known]
        if new:
            self.known |= dict(zip(new, values(self.setup["objective"], new).tolist(), strict=True))
        self.lost += sum(not name for name in names)
        self.curve.append((self.count, self.found))
        return [self.known.get(name, float("nan")) for name in names]


def run(setup: dict[str, Any], cache: Path | None) -> dict[str, Any]:
    """One search, as a record that JSON can hold."""
    listed = setup["size"] in ("tiny", "0.94M")
    facts = truth(setup["size"], setup["objective"], cache, os.cpu_count() or 1) if listed else None
    done = Evaluations(setup, facts)
    wall, cpu = time.perf_counter(), _cpu()
    note = (ours if setup["contender"] == "ours" else theirs)(setup, done)
    seconds = {"wall": time.perf_counter() - wall, "cpu": _cpu() - cpu}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {**setup, **seconds, "GiB": memory, "curve": done.curve, "note": note}


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def ours(setup: dict[str, Any], done: Evaluations) -> str:
    """A campaign, its products made anew."""
    prints = SmilesFingerprinter(parts=setup["parts"].split(","))
    space = Combinatorial(library(setup["size"]), fingerprinter=prints)
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(
            space,
            Path(folder, "c.db"),
            maximize=True,
            seed=setup["seed"],
            rule=setup["rule"],
            num_initial=START,
        )
        while done.count < setup["budget"] and done.found != TOP:
            count = BATCH if done.count else min(START, setup["budget"])
            trials = campaign.ask(min(count, setup["budget"] - done.count))
            told = done.of([str(trial.label) for trial in trials])
            campaign.tell_many(zip([trial.id for trial in trials], told, strict=True))
    return f"{len(space.library.products):,} products made"


def theirs(setup: dict[str, Any], done: Evaluations) -> str:
    """A peer, whose products are made when it asks for them."""
    made = ReactionLibrary(library(setup["size"]), fingerprinter=SmilesFingerprinter(fp_size=64))
    search = PEERS[setup["contender"]](
        made.reactions[0].sizes, np.random.default_rng(setup["seed"]), done.facts
    )
    asked = next(search)
    stuck = 0
    while done.count < setup["budget"] and done.found != TOP and stuck < 1000:
        before, told = done.count, []
        for some in np.array_split(asked, max(1, len(asked) // 500)):
            positions = made.make(made.number(0, some))
            names = made.products.canonical or ()
            told += done.of([str(names[place]) if place >= 0 else "" for place in positions.tolist()])
        stuck = stuck + 1 if done.count == before else 0
        asked = search.send(np.asarray(told))
    return "stopped: nothing new in 1,000 steps" if stuck else ""


def key(record: dict[str, Any]) -> tuple[Any, ...]:
    """What makes a run the same as another."""
    return tuple(record[name] for name in KEY)


def at(record: dict[str, Any], budget: int) -> float:
    """What was found after so many evaluations; what was found in the end where all was found before."""
    reached = [found for count, found in record["curve"] if count <= budget]
    return reached[-1] if reached else float("nan")


def report(runs: Iterable[dict[str, Any]]) -> None:
    """A table per size and objective, a row per contender; medians over seeds."""
    found = list(runs)
    for where in sorted({run["where"] for run in found}):
        print(f"{where}\n", flush=True)
    for size, objective in dict.fromkeys((run["size"], run["objective"]) for run in found):
        part = [run for run in found if (run["size"], run["objective"]) == (size, objective)]
        what = "mean of the best 100" if size == "22G" else "of the best 100"
        print(
            f"## {objective}, {size} ({' x '.join(map(str, SIZES[size]))}): {what}, median (least) over seeds"
        )
        most = max(run["budget"] for run in part)
        budgets = [b for b in (300, 400, 500, 600, 1000, 2000, 5000, 10_000, 50_000) if b <= most] or [most]
        rows = []
        for name in dict.fromkeys((run["contender"], run["rule"], run["parts"]) for run in part):
            own = [run for run in part if (run["contender"], run["rule"], run["parts"]) == name]
            cells = [[at(run, budget) for run in own] for budget in budgets]
            shown = [_cell(cell) for cell in cells]
            spent = [f"{np.median([run[unit] for run in own]):.3g}" for unit in ("wall", "cpu", "GiB")]
            called = " ".join(name) if name[0] == "ours" else name[0]
            rows.append([called, str(len(own)), *shown, *spent])
        print_table(["contender", "seeds", *map(str, budgets), "wall s", "CPU s", "GiB"], rows)


def _cell(values: list[float]) -> str:
    """Median and least."""
    known = [value for value in values if np.isfinite(value)]
    return f"{np.median(known):.4g} ({min(known):.4g})" if known else "–"


def plot(runs: Iterable[dict[str, Any]], path: Path) -> None:
    """Found against evaluations, a panel per objective."""
    import matplotlib.pyplot as plt

    found = list(runs)
    panels = list(dict.fromkeys((run["size"], run["objective"]) for run in found))
    figure, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels), 3.2), squeeze=False)
    for axis, (size, objective) in zip(axes[0], panels, strict=True):
        part = [run for run in found if (run["size"], run["objective"]) == (size, objective)]
        grid = np.unique(np.geomspace(START, max(run["budget"] for run in part), 80).astype(int))
        for name in sorted({run["contender"] for run in part}, key=["ours", *PEERS].index):
            lines = [[at(run, budget) for budget in grid] for run in part if run["contender"] == name]
            axis.plot(grid, np.median(np.nan_to_num(np.asarray(lines)), axis=0), label=name)
        axis.set(title=f"{objective}, {size}", xlabel="evaluations", xscale="log")
    axes[0][0].set_ylabel("of the best 100")
    axes[0][-1].legend(frameon=False, fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", choices=SIZES, default="0.94M")
    add("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES), metavar="OBJECTIVE")
    add("--contenders", nargs="+", choices=["ours", *PEERS], default=["ours", *PEERS], metavar="CONTENDER")
    add("--seeds", type=int, nargs="+", default=list(range(5)))
    add("--budget", type=int, default=2000, help="evaluations")
    add("--rule", choices=sorted(RULES), default="ucb", help="of ours")
    add("--parts", default="morgan2", help="fingerprints of ours, joined by commas")
    add("--cache", type=Path, help="folder that keeps the truth between calls")
    add("--json", type=Path, help="file of runs, one JSON object per line; added to")
    add("--report", type=Path, help="print the tables of such a file, run nothing")
    add("--plot", type=Path, help="draw found against evaluations into this file")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    print("# The best products of a reaction\n")
    records = Records(arguments.report or arguments.json, key)
    shown = list(records.runs.values())
    if arguments.report is None:
        asked = [
            {
                "size": arguments.size,
                "objective": objective,
                "contender": contender,
                "seed": seed,
                "budget": arguments.budget,
                "rule": arguments.rule if contender == "ours" else "",
                "parts": arguments.parts if contender == "ours" else "",
                "where": described(PACKAGES),
            }
            for objective, seed, contender in product(
                arguments.objectives, arguments.seeds, arguments.contenders
            )
            if contender != "forest" or arguments.size in ("tiny", "0.94M")
        ]
        for setup in asked:
            if key(setup) not in records.runs:
                records.add(one := run(setup, arguments.cache))
                told = f"{at(one, one['budget']):.4g} after {one['curve'][-1][0]}, {one['wall']:.0f} s {one['note']}"
                print(" ".join(str(part) for part in key(setup)), told, flush=True)
        shown = [records.runs[key(setup)] for setup in asked]
        print()
    report(shown)
    if arguments.plot is not None:
        plot(shown, arguments.plot)


if __name__ == "__main__":
    main()
