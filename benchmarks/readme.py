"""The table of speed in the README, in Markdown, from one run: from raw rows to predictions, nothing tuned.

UCI tables, split 0, seed 0. Everyone gets the same standardised rows in a process of its own, learns its
hyperparameters itself (Matérn-3/2 or, ours, the kernel and the noise that left-out rows ask for; one length scale per
input, noise, constant mean) and predicts mean and variance of all test rows. A cell is seconds and the mean
negative log density of the standardised test targets, noise included. GPyTorch's models train by Adam for
`--adam-seconds`, or twice our seconds where that is longer, but for no more than four fifths of the limit. "—": not
installed, or not made for so many rows; "> N s": stopped. It takes about 15 minutes on two cores. `fit.py` has more
tables, peers, scores and repeats.

    python benchmarks/readme.py [--sets concrete pol] [--limit-seconds 180]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from lib.common import Apart, available_gib, described, end, print_table, run_apart
from lib.fitters import (
    INDUCING,
    Scores,
    Task,
    gpboost_run,
    gpytorch_exact_run,
    gpytorch_svgp_run,
    ours_run,
    scikit_learn_run,
)

SETS = ("concrete", "wine", "pol", "protein")
COLUMNS = [
    "table (rows × inputs)",
    "`GPRegressor()`",
    "scikit-learn",
    "gpboost, Vecchia",
    "GPyTorch SVGP, 1,024 points",
    "GPyTorch exact",
]
SCIKIT_ROWS, SEED, NONE = 1600, 0, "—"
_TRAINED = 0.8  # of the limit: training of a length that is given ends before it
PACKAGES = ("torch", "gpytorch", "scikit-learn", "gpboost")


def shown(apart: Apart, limit: float) -> str:
    """Seconds and NLL, or why there are none."""
    if isinstance(apart.value, Scores):
        return f"{apart.value.seconds:.1f} s, {apart.value.nll:.3f}".replace("-", "−")
    if apart.value is not None:
        return NONE  # a sentence: not installed
    if apart.failure.startswith("stopped"):
        return f"> {limit:.0f} s"
    return "out of memory" if "memory" in apart.failure else apart.failure


def row(name: str, arguments: argparse.Namespace) -> list[str]:
    """A table's cells: ours first, whose seconds bound the training of others."""
    task = Task(name, arguments.rows)
    n, d = task.arrays()[0].shape
    limit, memory = arguments.limit_seconds, available_gib() - 1.0
    ours = run_apart(ours_run, task, "auto", SEED, limit_seconds=limit)
    seconds = ours.value.seconds if isinstance(ours.value, Scores) else 0.0
    adam = min(max(arguments.adam_seconds, 2.0 * seconds), _TRAINED * limit)
    peers: list[tuple[bool, Callable[..., Scores | str], tuple[Any, ...]]] = [
        (n <= SCIKIT_ROWS, scikit_learn_run, ()),
        (True, gpboost_run, ()),
        (n > INDUCING, gpytorch_svgp_run, (adam,)),
        (True, gpytorch_exact_run, (adam,)),
    ]
    label = name.upper() if n > SCIKIT_ROWS else name
    cells = [f"{label} ({n:,} × {d})", shown(ours, limit)]
    for suits, call, further in peers:
        if suits:
            apart = run_apart(call, task, *further, SEED, limit_gib=memory, limit_seconds=limit)
        cells.append(shown(apart, limit) if suits else NONE)
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sets", nargs="+", choices=SETS, default=list(SETS))
    add("--rows", type=int, default=None, help="training and test rows to keep (a dry run)")
    add("--limit-seconds", type=float, default=180.0, help="after which anyone is stopped")
    add("--adam-seconds", type=float, default=60.0, help="training of GPyTorch's models, at least")
    arguments = parser.parse_args()
    print_table(COLUMNS, [row(name, arguments) for name in arguments.sets])
    print(f"{described(PACKAGES)}; split 0, seed {SEED}.")
    end()


if __name__ == "__main__":
    main()
