"""The tables of `screening.py`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from lib.common import print_table

__all__ = ["KEY", "key", "report"]

KEY = ("library", "contender", "seed", "rows")


def key(record: dict[str, Any]) -> tuple[Any, ...]:
    """What makes a run the same as another."""
    return tuple(record[name] for name in KEY)


def report(runs: Iterable[dict[str, Any]]) -> None:
    """A table per library, a row per contender; every contender beside the first one on the seeds both have."""
    found = list(runs)
    for where in sorted({run["where"] for run in found}):
        print(f"{where}\n", flush=True)
    for library in dict.fromkeys(run["library"] for run in found):
        part = [run for run in found if run["library"] == library]
        one = part[0]
        print(
            f"## {library}: {one['size']:,} molecules, {one['known']} known at first, {one['batches']} batches of "
            f"{one['batch']}; top {one['known']}"
        )
        _table(part)
    for run in found:
        if run["failure"]:
            print(f"failed: {', '.join(map(str, key(run)))}: {run['failure']}")


def _table(runs: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(run["contender"] for run in runs))
    shares = {
        name: {run["seed"]: run["found"][-1] for run in runs if run["contender"] == name and run["found"]}
        for name in names
    }
    seconds = {
        name: [run["seconds"] for run in runs if run["contender"] == name and run["found"]] for name in names
    }
    first, rows = shares[names[0]], []
    for name in names:
        values = np.array(list(shares[name].values()))
        if not len(values):
            rows.append([name, "0", "–", "–", "–"])
            continue
        beside = [first[seed] - share for seed, share in shares[name].items() if seed in first]
        mean, paired = _with_error(values), "" if name == names[0] else _with_error(np.array(beside), "+")
        rows.append([name, str(len(values)), mean, paired, f"{np.mean(seconds[name]):.0f}"])
    print_table(["contender", "seeds", "top found", f"{names[0]} finds more by", "CPU s a campaign"], rows)


def _with_error(values: np.ndarray, sign: str = "") -> str:
    """Mean ± standard error of the mean."""
    if len(values) < 2:
        return f"{values.mean():{sign}.3f}" if len(values) else "–"
    return f"{values.mean():{sign}.3f} ± {values.std(ddof=1) / len(values) ** 0.5:.3f}"
