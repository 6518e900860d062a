"""The tables of `outlook.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from lib.common import print_table

__all__ = ["key", "report"]

KEY = ("library", "rule", "rows", "paths", "seed")
BINS = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0001)


def key(record: dict[str, Any]) -> tuple[Any, ...]:
    """What makes a replay the same as another."""
    return (*(record[name] for name in KEY), record.get("constraint", False))


def report(runs: Iterable[dict[str, Any]]) -> None:
    """For each rule: intervals and bounds, probabilities and gains by library; reliability of all together."""
    found = [run for run in runs if not run["failure"]]
    for where in sorted({run["where"] for run in found}):
        print(f"{where}\n", flush=True)
    for rule in sorted({run["rule"] for run in found}):
        part = [run for run in found if run["rule"] == rule]
        print(f"## rule {rule}\n")
        _intervals(part)
        _chances(part)
        _reliability(part)


def _groups(runs: Sequence[dict[str, Any]]) -> Iterable[tuple[list[str], list[dict[str, Any]]]]:
    """Label cells and stages: of each library each stage, then all of them."""
    for library, rows in sorted({(run["library"], run["rows"]) for run in runs}):
        part = [run for run in runs if (run["library"], run["rows"]) == (library, rows)]
        named = f"{library}, {rows}" if rows else library
        every = [stage for run in part for stage in run["stages"]]
        for number in sorted({stage["stage"] for stage in every}):
            yield [named, str(number), str(len(part))], [s for s in every if s["stage"] == number]
        yield [named, "all", str(len(part))], every


def _intervals(runs: Sequence[dict[str, Any]]) -> None:
    print("90 % statements: shares that were true (of intervals: and their own probability)")
    table = []
    for label, stages in _groups(runs):
        cells = []
        for place in (0, 1):
            found = [stage["found"][place] for stage in stages]
            hit = [one["low"] - 1e-9 <= one["truth"] <= one["high"] + 1e-9 for one in found]
            low = [one["truth"] < one["low"] - 1e-9 for one in found]
            cells += [
                f"{np.mean(hit):.3f} ({np.mean([one['inside'] for one in found]):.3f})",
                f"{np.mean(low):.3f}/{1 - np.mean(hit) - np.mean(low):.3f}",
                f"{np.mean([one['truth'] for one in found]):.2f}/{np.mean([one['expected'] for one in found]):.2f}",
            ]
        regret = [stage["regret"] for stage in stages]
        cells += [
            f"{np.mean([one['below'] for one in regret]):.3f}",
            "/".join(f"{np.mean([one[name] for one in regret]):.2f}" for name in ("truth", "median", "most")),
        ]
        table.append([*label, *cells])
    columns = ["library", "batches", "replays"]
    for top in ("1 %", "10"):
        columns += [f"best {top} found", "truth below/above", "truth/expected"]
    print_table([*columns, "regret bound", "regret true/median/bound (std)"], table)


def _chances(runs: Sequence[dict[str, Any]]) -> None:
    print("probabilities: mean said / share true (Brier score; that of the share itself)")
    table = []
    for label, stages in _groups(runs):
        cells = []
        for place in (0, 1):
            said = np.array([stage["within"][place]["probability"] for stage in stages])
            cells.append(_brier(said, np.array([stage["within"][place]["truth"] for stage in stages])))
        gain = [stage["gain"] for stage in stages]
        cells.append(_brier(np.array([g["probability"] for g in gain]), np.array([g["came"] for g in gain])))
        truth = np.array([one["truth"] for one in gain])
        cells.append(
            f"{np.mean([one['expected'] for one in gain]):.3f}/{truth.mean():.3f} "
            f"± {truth.std() / len(truth) ** 0.5:.3f}"
        )
        table.append([*label, *cells])
    print_table(
        [
            "library",
            "batches",
            "replays",
            "best found is best",
            "within .1 std",
            "next batch better",
            "gain said/true (std)",
        ],
        table,
    )


def _brier(said: np.ndarray, came: np.ndarray) -> str:
    share = came.mean()
    return f"{said.mean():.2f}/{share:.2f} ({np.mean((said - came) ** 2):.3f}; {share * (1 - share):.3f})"


def _reliability(runs: Sequence[dict[str, Any]]) -> None:
    print("reliability over all libraries: said, and how often it was so")
    stages = [stage for run in runs for stage in run["stages"]]
    pairs = {
        "best found is best": [(s["within"][0]["probability"], s["within"][0]["truth"]) for s in stages],
        "within .1 std": [(s["within"][1]["probability"], s["within"][1]["truth"]) for s in stages],
        "next batch better": [(s["gain"]["probability"], s["gain"]["came"]) for s in stages],
    }
    table = []
    for name, both in pairs.items():
        said, came = np.array([p for p, _ in both]), np.array([c for _, c in both])
        where = np.digitize(said, BINS)
        cells = []
        for number in range(1, len(BINS)):
            inside = where == number
            cells.append(
                f"{said[inside].mean():.2f}/{came[inside].mean():.2f} ({inside.sum()})"
                if inside.any()
                else ""
            )
        table.append([name, *cells])
    print_table(["", *(f"{a:g}-{min(b, 1):g}" for a, b in pairwise(BINS))], table)
