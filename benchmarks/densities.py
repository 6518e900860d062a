"""What regressors say of new measurements: predictive densities beside peers, on real tables, nothing tuned.

`GPRegressor()` as it is and our homoscedastic Matérn-3/2, CatBoost's RMSEWithUncertainty, LightGBM's quantiles,
NGBoost, gpboost (Vecchia, Matérn-3/2 with a length scale per column) and scikit-learn's GP up to 2,500 rows, at their
defaults (docstrings of benchmarks/lib/density_contenders.py say the rest). Everyone gets the same rows, standardised
with the training rows' statistics, in a process of its own; one that hangs, dies or is not installed costs one cell,
and is said. UCI tables by their published folds; heaton_satellite by its own mask, as split 0.

RMSE, mean negative log density (NLL), CRPS and the width of the central 95 % are of measurements, in units of
standardised targets (heaton_satellite: degrees). LightGBM: quantile regressions at twenty levels, .025 to .975, and one
of the mean; CRPS is twice their mean pinball loss; NLL is of the density that is constant between them with exponential
tails, never narrower than .001 per step, and left out where this binds on more than a tenth of the rows. Seconds are
those of fitting and predicting, imports and a warm-up of ours before them; seed 0.

A file of cells (`--json`) is replaced after every cell, and what it holds is not run again.

    python benchmarks/densities.py [--tables pol ...] [--contenders ours catboost "GPRegressor(kernel='matern52')" ...]
        [--splits 0 1 2] [--limit-seconds 900] [--json cells.json] [--retry] [--report cells.json peers.json ...]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lib.common import available_gib, described, end
from lib.density_cells import Cells, Limits, key, run_cell
from lib.density_contenders import CONTENDERS, contender
from lib.density_report import report
from lib.density_tables import CHOICES, HEATON, TABLES, load
from sggp.errors import SggpError

PACKAGES = ("torch", "gpytorch", "catboost", "lightgbm", "ngboost", "gpboost", "scikit-learn")


def asked(arguments: argparse.Namespace, where: str) -> Iterator[dict[str, Any]]:
    """Every cell, the contenders of one split side by side."""
    for table in arguments.tables:
        try:
            n = len(load(table, 0, arguments.rows).x_train)
        except SggpError as error:
            print(f"{table} is left out: {error}", flush=True)
            continue
        splits = [0] if table == HEATON else arguments.splits
        for split in splits[:1] if n > arguments.once_above else splits:
            for name in arguments.contenders:
                most = contender(name).most_rows
                if most is None or n <= most:
                    cell = {"table": table, "split": split, "contender": name, "rows": arguments.rows}
                    yield {**cell, "where": where}


def run_all(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run what is not there yet, one process at a time; gives all that was asked for."""
    cells, where = Cells(arguments.json), described(PACKAGES)
    out = []
    print(f"{where}\n", flush=True)
    for cell in asked(arguments, where):
        found = cells.found.get(key(cell))
        if found is None or (arguments.retry and found["failure"]):
            gib = arguments.limit_gib or available_gib() - 1.0
            found = run_cell(cell, Limits(gib, arguments.limit_seconds, arguments.limit_cpu_seconds))
            cells.add(found)
            told = found["failure"] or f"{found['seconds']:.1f} s, CRPS {found['crps']:.4f}"
            if not found["failure"] and found["nll"] is not None:
                told += f", NLL {found['nll']:.4f}"
            print(f"{cell['table']}, split {cell['split']}, {cell['contender']}: {told}", flush=True)
        out.append(found)
    print()
    return out


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--tables", nargs="+", choices=CHOICES, default=list(TABLES), metavar="TABLE", help=", ".join(CHOICES)
    )
    add("--contenders", nargs="+", metavar="NAME", help=f"{', '.join(CONTENDERS)}, GPRegressor(...)")
    add("--splits", nargs="+", type=int, default=[0, 1, 2], choices=range(10), metavar="SPLIT")
    add("--rows", type=int, help="training and test rows to keep (a dry run)")
    add("--limit-seconds", type=float, default=900.0, help="after which a contender is stopped")
    add("--limit-cpu-seconds", type=int, help="the same of the processor, for machines that are shared")
    add("--limit-gib", type=float, help="memory a contender may take; default what is free less 1")
    add("--once-above", type=int, default=10**9, help="larger tables have their first split only")
    add("--json", type=Path, help="file of cells, added to")
    add("--retry", action="store_true", help="run those again that failed in this file")
    add("--report", type=Path, nargs="+", help="print the tables of such files, run nothing")
    arguments = parser.parse_args()
    try:
        for name in arguments.contenders or ():
            contender(name)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def main() -> None:
    arguments = parsed()
    print("# Predictive densities from raw rows, nothing tuned\n")
    if arguments.report is not None:
        cells = {key(cell): cell for path in arguments.report for cell in Cells(path).found.values()}
        report(
            cell
            for cell in cells.values()
            if arguments.contenders is None or cell["contender"] in arguments.contenders
        )
        return
    arguments.contenders = arguments.contenders or list(CONTENDERS)
    report(run_all(arguments))
    end()


if __name__ == "__main__":
    main()
