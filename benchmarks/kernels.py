"""Kernels that `GPRegressor` does not choose from by itself, beside those that it does: log density of held-out rows.

`sggp.select_kernel` on the training rows of splits of UCI tables: a quarter of them is judged, hyperparameters are
learnt from the others. A kernel's gain is its log density, nats a judged row, over the best of the four that
kernel=None chooses from (Matérn-1/2, 3/2, 5/2, RBF: best of these on the same rows, which favours them), with the
standard error of that paired difference; then over splits together, by the inverse squares of these errors.

    rational quadratic   one length scale per column, a learnt mixture of length scales
    matern32 + rbf       a rough and a smooth part, each with its output scale and length scales
    linear + matern32    a linear trend beside Matérn-3/2

    python benchmarks/kernels.py [--tables stock ...] [--splits 1 2] [--rows 1500]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from gpytorch.constraints import Positive
from gpytorch.kernels import AdditiveKernel, Kernel, LinearKernel, RQKernel, ScaleKernel

from lib.common import end, header, print_table
from lib.density_tables import CHOICES, load
from sggp import select_kernel
from sggp.fitting.selection import ROUGHEST_FIRST
from sggp.hyperparameters.defaults import log_normal, named_kernel

TABLES = ("stock", "housing", "autompg", "energy", "concrete", "airfoil", "pendulum")


def rational_quadratic(d: int) -> Kernel:
    """With the priors of the kernels by name, and one on α whose density is highest at 1."""
    size = 0.6 * d**0.5
    base = RQKernel(
        ard_num_dims=d, lengthscale_prior=log_normal(size, 1.0), lengthscale_constraint=Positive()
    )
    base.lengthscale = size
    base.register_prior("alpha_prior", log_normal(1.0, 1.0), lambda m: m.alpha, lambda m, v: m._set_alpha(v))
    base.alpha = 1.0
    kernel = ScaleKernel(base, outputscale_prior=log_normal(2.0, 1.0)).double()
    kernel.outputscale = 1.0
    return kernel


def rough_and_smooth(d: int) -> Kernel:
    return AdditiveKernel(named_kernel("matern32", d), named_kernel("rbf", d))


def linear_trend(d: int) -> Kernel:
    trend = LinearKernel(variance_prior=log_normal(0.1, 2.0)).double()
    trend.variance = 0.1
    return AdditiveKernel(named_kernel("matern32", d), trend)


TRIED = {
    "rational quadratic": rational_quadratic,
    "matern32 + rbf": rough_and_smooth,
    "linear + matern32": linear_trend,
}


@dataclass(frozen=True)
class Gain:
    """Log density over the best default candidate, nats a judged row, and its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} ± {self.error:.3f}"

    @classmethod
    def together(cls, gains: list[Gain]) -> Gain:
        weights = np.array([1 / max(g.error, 1e-6) ** 2 for g in gains])
        value = float((weights * [g.value for g in gains]).sum() / weights.sum())
        return cls(value, float(weights.sum() ** -0.5))


def compare(table: str, split: int, rows: int) -> tuple[str, dict[str, Gain]]:
    """The best default candidate on the judged rows, and the gain of each other kernel over it."""
    data = load(table, split, rows)
    d = data.x_train.shape[1]
    defaults: dict[str, Kernel] = {name: named_kernel(name, d) for name in ROUGHEST_FIRST}
    first = select_kernel(data.x_train, data.y_train, defaults, random_state=split)
    best = max(first.scores, key=lambda score: score.log_density).name
    gains = {}
    for name, make in TRIED.items():
        found = select_kernel(
            data.x_train, data.y_train, {best: defaults[best], name: make(d)}, random_state=split
        )
        ours, other = found.scores
        behind = (
            other.log_density_behind if ours.log_density >= other.log_density else ours.log_density_behind
        )
        gains[name] = Gain(other.log_density - ours.log_density, behind[1])
    return best, gains


def parsed() -> Any:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--tables", nargs="+", choices=CHOICES, default=list(TABLES), metavar="TABLE")
    add("--splits", nargs="+", type=int, default=[1, 2], choices=range(10), metavar="SPLIT")
    add(
        "--rows", type=int, default=1500, help="training rows to keep: fits are exact up to 1,500 learnt from"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    header("What further kernels are worth on held-out rows", ("torch", "gpytorch"))
    table = []
    for name in arguments.tables:
        started = time.perf_counter()
        found = [compare(name, split, arguments.rows) for split in arguments.splits]
        row = [name, ", ".join(best for best, _ in found)]
        row += [str(Gain.together([gains[tried] for _, gains in found])) for tried in TRIED]
        table.append(row)
        print(f"{row}, {time.perf_counter() - started:.0f} s", flush=True)
    print()
    print_table(["table", "best of the defaults", *TRIED], table)
    end()


if __name__ == "__main__":
    main()
