"""How smooth a kernel `GPRegressor()` chooses from few rows, and what that is worth on new ones.

Four functions with noise, two of them smooth (friedman: Friedman 1991, five of eight columns matter; waves: eight
columns) and two not (steps, kinks), and UCI tables of up to 1,500 rows; up to there Matérn-3/2, 5/2 and RBF are what
is chosen from. Every kernel is fitted with one noise to the same rows, and predicts 1,000 others or a table's test
rows. RMSE and NLL (nats a row) are means over the seeds or splits; the gain is that in NLL of the default over
Matérn-5/2, with its standard error.

    python benchmarks/smoothness.py [--functions friedman ...] [--rows 200 500 1200] [--seeds 5] [--tables autompg ...]
        [--splits 0 1 2]
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable
from statistics import mean, stdev

import numpy as np

from lib.common import end, header, print_table
from lib.density_tables import CHOICES, Table, load
from sggp import GPRegressor
from sggp.errors import SggpError

TABLES = ("yacht", "autompg", "housing", "stock", "pendulum", "energy", "concrete", "airfoil", "wine")
KERNELS = (None, "matern32", "matern52", "rbf")
Row = list[str]


def friedman(x: np.ndarray) -> np.ndarray:
    return 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]


def waves(x: np.ndarray) -> np.ndarray:
    x = 2 * x - 1
    return np.sin(2 * x[:, 0]) * np.cos(2 * x[:, 1]) + np.sin(x[:, 2] + x[:, 3]) + 0.3 * x[:, 4] ** 2


def steps(x: np.ndarray) -> np.ndarray:
    x = 2 * x - 1
    return np.sign(x[:, 0]) + np.abs(x[:, 1]) + (x[:, 2] > 0.3)


def kinks(x: np.ndarray) -> np.ndarray:
    x = 2 * x - 1
    return np.abs(np.sin(6 * x[:, 0])) + np.abs(x[:, 1] - 0.2) ** 0.5


FUNCTIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int, float]] = {
    "friedman": (friedman, 8, 1.0),
    "waves": (waves, 8, 0.05),
    "steps": (steps, 4, 0.05),
    "kinks": (kinks, 2, 0.02),
}


def drawn(name: str, n: int, seed: int) -> Table:
    """n rows of a function and 1,000 others, with noise; targets in units of the spread of the first."""
    function, d, noise = FUNCTIONS[name]
    rng = np.random.default_rng(seed)
    x = rng.random((n + 1000, d))
    y = function(x) + noise * rng.standard_normal(len(x))
    y = (y - y[:n].mean()) / y[:n].std()
    return Table(x[:n], y[:n], x[n:], y[n:])


def compared(name: str, tables: Iterable[Table]) -> Row | None:
    """The row of one function or table; None where there is none."""
    chosen: Counter[str] = Counter()
    scores: dict[str | None, list[tuple[float, float]]] = {kernel: [] for kernel in KERNELS}
    sizes = []
    for table in tables:
        sizes.append(len(table.x_train))
        for kernel in KERNELS:
            model = GPRegressor(kernel, noise="constant", num_samples=2, random_state=0)
            found = model.fit(table.x_train, table.y_train).predict_dist(table.x_test)
            error = float(np.sqrt(np.mean((found.mean() - table.y_test) ** 2)))
            scores[kernel].append((error, float(-np.mean(found.logpdf(table.y_test)))))
            if kernel is None:
                base = model.kernel_.base_kernel
                chosen[f"{base.nu:g}" if hasattr(base, "nu") else "RBF"] += 1
    if not sizes:
        return None
    gains = [other[1] - ours[1] for ours, other in zip(scores[None], scores["matern52"], strict=True)]
    told = f"{mean(gains):+.3f}" + (f" ± {stdev(gains) / len(gains) ** 0.5:.3f}" if len(gains) > 1 else "")
    each = [f"{mean(e for e, _ in s):.4f} / {mean(n for _, n in s):.3f}" for s in scores.values()]
    listed = ", ".join(f"{kernel} {count}" for kernel, count in sorted(chosen.items()))
    print(name, sizes[0], *each, listed, told, flush=True)
    return [name, f"{sizes[0]:,}", *each, listed, told]


def splits_of(name: str, splits: list[int]) -> Iterable[Table]:
    for split in splits:
        try:
            yield load(name, split)
        except SggpError as error:
            print(f"{name}, split {split} is left out: {error}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--functions", nargs="*", choices=list(FUNCTIONS), default=list(FUNCTIONS))
    add("--rows", type=int, nargs="*", default=[200, 500, 1200], help="of the functions")
    add("--seeds", type=int, default=5, help="of the functions")
    add(
        "--tables", nargs="*", choices=CHOICES, default=list(TABLES), metavar="TABLE", help=", ".join(CHOICES)
    )
    add("--splits", type=int, nargs="*", default=[0, 1, 2])
    arguments = parser.parse_args()
    header("how smooth a kernel few rows choose")
    rows = [
        compared(name, (drawn(name, n, seed) for seed in range(arguments.seeds)))
        for name in arguments.functions
        for n in arguments.rows
    ]
    rows += [compared(name, splits_of(name, arguments.splits)) for name in arguments.tables]
    columns = ["rows of", "n", *(f"{k or 'default'}: RMSE / NLL" for k in KERNELS), "chosen", "gain over 5/2"]
    print()
    print_table(columns, [row for row in rows if row is not None])
    end()


if __name__ == "__main__":
    main()
