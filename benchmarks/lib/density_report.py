"""The tables of `densities.py`, from cells: one table × split × contender each."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from statistics import mean, stdev
from typing import Any

from lib.common import print_table
from lib.density_contenders import CONTENDERS, REFERENCE
from lib.density_tables import CHOICES

__all__ = ["gaps", "ranks", "report"]

Cell = dict[str, Any]
Found = dict[str, dict[str, dict[int, Cell]]]  # table → contender → split
BAND = (0.93, 0.97)
NONE = "–"
COLUMNS = (
    *("RMSE", "NLL", "CRPS", "inside 95 %", "width of 95 %", "inside conformal 95 %", "width of it"),
    *("seconds", "CPU s", "GiB"),
)


def arranged(cells: Iterable[Cell]) -> Found:
    """Cells that ended well, tables and contenders in the order of their lists."""
    good = [cell for cell in cells if not cell["failure"]]
    tables = sorted({cell["table"] for cell in good}, key=CHOICES.index)
    names = [*CONTENDERS, *sorted({cell["contender"] for cell in good} - set(CONTENDERS))]
    found: Found = {table: {name: {} for name in names} for table in tables}
    for cell in good:
        found[cell["table"]][cell["contender"]][cell["split"]] = cell
    return {table: {name: splits for name, splits in rows.items() if splits} for table, rows in found.items()}


def label(name: str) -> str:
    return CONTENDERS[name].label if name in CONTENDERS else name


def told(values: list[float], form: str = ".4f") -> str:
    """A mean and, of several values, their standard deviation."""
    if not values:
        return NONE
    return format(mean(values), form) + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")


def values(splits: dict[int, Cell], what: str) -> list[float]:
    return [cell[what] for cell in splits.values() if cell.get(what) is not None]


def by_cell(found: Found, what: str) -> dict[tuple[str, int], dict[str, float]]:
    """Scores of everyone who has one, per table and split."""
    out: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    for table, rows in found.items():
        for name, splits in rows.items():
            for split, cell in splits.items():
                if cell[what] is not None:
                    out[table, split][name] = cell[what]
    return dict(out)


def over_tables(
    found: Found, what: str, per_cell: Callable[[dict[str, float], str], float | None]
) -> dict[str, list[float]]:
    """A number per contender and table: the mean over its splits of what `per_cell` makes of a cell's scores."""
    collected: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (table, _), scores in by_cell(found, what).items():
        for name in scores:
            number = per_cell(scores, name)
            if number is not None:
                collected[name][table].append(number)
    return {name: [mean(numbers) for numbers in tables.values()] for name, tables in collected.items()}


def ranks(scores: dict[str, float], name: str) -> float:
    """1 for the least; equal scores share the mean of their places."""
    mine = scores[name]
    below, equal = sum(s < mine for s in scores.values()), sum(s == mine for s in scores.values())
    return below + (equal + 1) / 2


def gaps(scores: dict[str, float], name: str) -> float:
    return scores[name] - min(scores.values())


def relative_gaps(scores: dict[str, float], name: str) -> float:
    return scores[name] / min(scores.values()) - 1


def ratio(scores: dict[str, float], name: str) -> float | None:
    """The logarithm of the ratio to our homoscedastic model."""
    return math.log(scores[name] / scores[REFERENCE]) if REFERENCE in scores else None


def geometric(logs: list[float] | None) -> str:
    return f"{math.exp(mean(logs)):.2f}" if logs else NONE


def print_tables(found: Found) -> None:
    rows = []
    for table, contenders in found.items():
        for name, splits in contenders.items():
            first = next(iter(splits.values()))
            numbers = [told(values(splits, what)) for what in ("rmse", "nll", "crps")]
            shares = ("coverage", "width", "conformal_coverage", "conformal_width")
            numbers += [told(values(splits, what), ".3f") for what in shares]
            numbers += [f"{mean(values(splits, what)):.1f}" for what in ("seconds", "cpu_seconds")]
            peaks = values(splits, "peak_gib")
            numbers.append(f"{max(peaks):.2f}" if peaks else NONE)
            size = f"{table} ({first['n']:,} × {first['d']})"
            rows.append([size, label(name), ",".join(map(str, sorted(splits))), *numbers])
    print_table(["table", "contender", "splits", *COLUMNS], rows)


def print_matrix(found: Found, what: str, title: str, aim: float = -math.inf) -> None:
    """Means over splits; the closest to the aim in bold, a star where not all of a table's splits are there."""
    names = list(dict.fromkeys(name for rows in found.values() for name in rows))
    lines = []
    for table, rows in found.items():
        means = {name: mean(v) for name, splits in rows.items() if (v := values(splits, what))}
        most = max(len(splits) for splits in rows.values())
        best = min(
            means.values(), key=lambda value: value if math.isinf(aim) else abs(value - aim), default=0.0
        )
        line = [table]
        for name in names:
            if name not in means:
                line.append(NONE)
                continue
            text = f"{means[name]:.3f}" + ("*" if len(values(rows[name], what)) < most else "")
            line.append(f"**{text}**" if means[name] == best else text)
        lines.append(line)
    print(f"{title}, mean over splits\n")
    print_table([title, *(label(name) for name in names)], lines)


def inside(covered: list[float]) -> str:
    """How many tables' coverages are in the band."""
    return f"{sum(BAND[0] <= c <= BAND[1] for c in covered)} of {len(covered)}" if covered else NONE


def print_summary(found: Found) -> None:
    nll, crps = by_cell(found, "nll"), by_cell(found, "crps")
    places = {what: over_tables(found, what, ranks) for what in ("nll", "crps")}
    behind = {
        "nll": over_tables(found, "nll", gaps),
        "crps": over_tables(found, "crps", relative_gaps),
    }
    ratios = {what: over_tables(found, what, ratio) for what in ("rmse", "seconds", "cpu_seconds")}
    rows = []
    for name in dict.fromkeys(name for contenders in found.values() for name in contenders):
        mine = [contenders[name] for contenders in found.values() if name in contenders]
        covered = [mean(values(splits, "coverage")) for splits in mine]
        row = [label(name), str(len(covered))]
        for what, cells in (("nll", nll), ("crps", crps)):
            here = [scores for scores in cells.values() if name in scores]
            firsts = sum(scores[name] == min(scores.values()) for scores in here)
            distance = behind[what].get(name)
            form = ".3f" if what == "nll" else ".1%"
            row.append(f"{mean(places[what][name]):.2f}" if distance else NONE)
            row.append(f"{firsts} of {len(here)}" if here else NONE)
            row.append(format(mean(distance), form) if distance else NONE)
        row.append(inside(covered))
        row.append(inside([mean(v) for rows in mine if (v := values(rows, "conformal_coverage"))]))
        row += [geometric(ratios[what].get(name)) for what in ("rmse", "seconds", "cpu_seconds")]
        rows.append(row)
    columns = ["contender", "tables"]
    for what in ("NLL", "CRPS"):
        columns += [f"rank, {what}", f"first, {what}", f"behind the best, {what}"]
    band = f"{BAND[0]}–{BAND[1]}"
    columns += [f"coverage {band}", f"conformal {band}", "RMSE, ratio", "seconds, ratio", "CPU s, ratio"]
    print(
        "Ranks and distances are taken per table and split among those who ran it, then averaged over splits, then "
        "over tables; coverage is the mean over splits; ratios are to our homoscedastic model, geometric means over "
        "tables.\n"
    )
    print_table(columns, rows)


def report(cells: Iterable[Cell]) -> None:
    """Print where it ran, every table, scores side by side, the summary, and what failed."""
    cells = list(cells)
    for where in sorted({cell["where"] for cell in cells}):
        print(f"{where}\n", flush=True)
    found = arranged(cells)
    if found:
        print_tables(found)
        for what, title in (("nll", "NLL"), ("crps", "CRPS"), ("rmse", "RMSE")):
            print_matrix(found, what, title)
        print_matrix(found, "coverage", "inside 95 %", 0.95)
        print_summary(found)
    for cell in cells:
        name = f"{cell['table']}, split {cell['split']}, {label(cell['contender'])}"
        if cell["failure"]:
            print(f"failed: {name}: {cell['failure']}")
        elif cell["nll"] is None:
            print(f"no NLL: {name}: the density through its quantiles is capped on too many rows")
