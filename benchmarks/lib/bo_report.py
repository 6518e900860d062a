"""Runs of `small_bo.py`: a file of them, one line of JSON each, and the tables."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np

from lib.common import print_table
from lib.objectives import INITIAL
from lib.proposers import STRATEGIES
from lib.surrogates import OURS

__all__ = ["Records", "key", "report"]

KEY = ("function", "noise", "seed", "strategy", "model", "rounds")
NIL = 1e-6
"""Regrets closer than this share of the function's spread count as equal."""


def key(record: dict[str, Any]) -> tuple[Any, ...]:
    """What makes a run the same as another."""
    return tuple(record[name] for name in KEY)


class Records:
    """Finished runs, kept in a file as they come where there is one.

    Args:
        path: file with one JSON object per line, read where it exists; None keeps the runs in memory.
        key: what makes a run the same as another.
    """

    def __init__(self, path: Path | None, key: Callable[[dict[str, Any]], tuple[Any, ...]] = key) -> None:
        self.path, self.key = path, key
        self.runs: dict[tuple[Any, ...], dict[str, Any]] = {}
        lines = path.read_text(encoding="utf-8").splitlines() if path is not None and path.is_file() else []
        for line in lines:
            record = json.loads(line)
            self.runs[self.key(record)] = record

    def add(self, record: dict[str, Any]) -> None:
        self.runs[self.key(record)] = record
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


def report(runs: Iterable[dict[str, Any]]) -> None:
    """A table per strategy and kind of noise; a row per function and model."""
    found = list(runs)
    for where in sorted({run["where"] for run in found}):
        print(f"{where}\n", flush=True)
    for noise in sorted({run["noise"] for run in found}):
        for strategy in STRATEGIES:
            for rounds in sorted({run["rounds"] for run in found}):
                part = [run for run in found if _is(run, noise, strategy, rounds)]
                if part:
                    print(f"## {strategy}, {noise}: {INITIAL} + {rounds} measurements")
                    _table(part)
    for run in found:
        if run["failure"]:
            print(f"failed: {', '.join(map(str, key(run)))}: {run['failure']}")
    _print_warnings(found)


def _is(run: dict[str, Any], noise: str, strategy: str, rounds: int) -> bool:
    return run["noise"] == noise and run["strategy"] == strategy and run["rounds"] == rounds


def _table(runs: list[dict[str, Any]]) -> None:
    rows = []
    names = STRATEGIES[runs[0]["strategy"]]
    differences: dict[str, list[float]] = {}
    for function in dict.fromkeys(run["function"] for run in runs):
        here = [run for run in runs if run["function"] == function]
        ours = {run["seed"]: run for run in here if run["model"] == OURS and not run["failure"]}
        for model in names:
            theirs = [run for run in here if run["model"] == model]
            if theirs:
                pairs = [] if model == OURS else _pairs(theirs, ours)
                differences.setdefault(model, []).extend(math.log(a / b) for a, b in pairs)
                rows.append([function, model, *_cells(theirs, pairs)])
    columns = ["function", "model", "seeds", "median regret", "quartiles", "ours better / equal / worse"]
    print_table([*columns, "log regret, ours less its", "fit, CPU s", "suggest, CPU s"], rows)
    for model, found in differences.items():
        if len(found) > 1:
            print(f"log regret, ours less that of {model}: {_told(found)} over {len(found)} pairs\n")


def _pairs(theirs: list[dict[str, Any]], ours: dict[int, dict[str, Any]]) -> list[tuple[float, float]]:
    """Regret of ours and of the other on each seed that both have, none below what counts as nothing."""
    return [
        (max(ours[run["seed"]]["regret"], nil), max(run["regret"], nil))
        for run in theirs
        if run["seed"] in ours and not run["failure"] and (nil := NIL * run["spread"])
    ]


def _told(differences: list[float]) -> str:
    """A mean and its standard error."""
    if len(differences) < 2:
        return "–"
    return f"{mean(differences):+.2f} ± {stdev(differences) / math.sqrt(len(differences)):.2f}"


def _cells(runs: list[dict[str, Any]], pairs: list[tuple[float, float]]) -> list[str]:
    good = [run for run in runs if not run["failure"]]
    count = str(len(good)) + (f" ({len(runs) - len(good)} failed)" if len(good) < len(runs) else "")
    if not good:
        return [count, "–", "–", "–", "–", "–", "–"]
    regrets = np.array([run["regret"] for run in good])
    low, middle, high = np.quantile(regrets, [0.25, 0.5, 0.75])
    nil = NIL * good[0]["spread"]
    better = sum(a < b - nil for a, b in pairs)
    worse = sum(a > b + nil for a, b in pairs)
    seconds = [
        median(value for run in good for value in run[name]) for name in ("fit_seconds", "suggest_seconds")
    ]
    return [
        count,
        f"{middle:.3g}",
        f"{low:.2g} – {high:.2g}",
        f"{better} / {len(pairs) - better - worse} / {worse}" if pairs else "",
        _told([math.log(a / b) for a, b in pairs]) if pairs else "",
        *(f"{value:.3f}" for value in seconds),
    ]


def _print_warnings(runs: list[dict[str, Any]]) -> None:
    counts: dict[str, dict[str, int]] = {}
    for run in runs:
        for name, count in run["warnings"].items():
            of_model = counts.setdefault(run["model"], {})
            of_model[name] = of_model.get(name, 0) + count
    for model, names in counts.items():
        print(f"warnings, {model}: {', '.join(f'{count} {name}' for name, count in sorted(names.items()))}")
