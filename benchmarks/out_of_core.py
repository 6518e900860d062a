"""A table larger than is wanted in memory: written as Parquet, mapped, and trained for a fraction of an epoch.

A known function of the columns plus noise. The kernel is given, Matérn-3/2 with one length scale: what is shown is the
memory of reading, of the right-hand sides and of stochastic dual descent, and how far the mean comes in so many steps.
The error is against the function itself, at points of their own; before the first step the mean is that of y.

    python benchmarks/out_of_core.py [--rows 200000] [--columns 8] [--samples 8] [--steps 50] [--batch 1024]
                                     [--through condition estimator]
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpytorch.kernels import MaternKernel, ScaleKernel

from lib.common import forget_peak, header, peak_gib, print_table
from sggp import GPRegressor
from sggp.datasets import read_matrix
from sggp.errors import NotConverged
from sggp.posterior import Posterior, condition
from sggp.solvers import Solution, StochasticDualDescent

NOISE = 0.1
BLOCK = 65_536


def truth(x: np.ndarray) -> np.ndarray:
    """A smooth function of all columns, (q, d) -> (q,)."""
    waves = np.sin(3.0 * x[:, 0]) * np.cos(2.0 * x[:, 1]) + x[:, 2] * x[:, -1]
    return np.asarray(waves + 0.3 * np.cos(2.0 * x).sum(axis=1))


@dataclass(frozen=True)
class Steps(StochasticDualDescent):
    """Dual descent that ends after a share of an epoch, for faces that know no such limit."""

    epochs: float = 1.0

    def solve(self, operator: Any, rhs: torch.Tensor, x0: Any = None, **options: Any) -> Solution:
        return super().solve(operator, rhs, x0, **options | {"max_epochs": self.epochs})


def kernel_for(columns: int) -> ScaleKernel:
    """Matérn-3/2 with one length scale."""
    kernel = ScaleKernel(MaternKernel(nu=1.5)).double()
    kernel.base_kernel.lengthscale, kernel.outputscale = 1.5, 1.0
    return kernel


def write_parquet(path: Path, rows: int, columns: int) -> None:
    """The table, a block of rows at a time."""
    import pyarrow
    from pyarrow import parquet

    names, rng = [f"x{j}" for j in range(columns)], np.random.default_rng(0)
    kinds = pyarrow.schema([(name, pyarrow.float64()) for name in [*names, "y"]])
    with parquet.ParquetWriter(path, kinds) as writer:
        for start in range(0, rows, BLOCK):
            x = rng.random((min(BLOCK, rows - start), columns))
            y = truth(x) + NOISE * rng.standard_normal(len(x))
            writer.write_table(pyarrow.table(dict(zip([*names, "y"], [*x.T, y], strict=True))))


@dataclass
class Stages:
    """What was done, in processor seconds, and the peak of memory meanwhile."""

    lines: list[list[str]] = field(default_factory=list)

    def run(self, name: str, call: Callable[[], Any], told: Callable[[Any], str] = lambda _: "") -> Any:
        """Do it, and keep a line about it."""
        forget_peak()
        before = time.process_time()
        found = call()
        self.lines.append(
            [name, f"{time.process_time() - before:.1f}", f"{peak_gib():.2f}", told(found)],
        )
        return found


def conditioned(mapped: np.ndarray, options: argparse.Namespace) -> Posterior:
    """The posterior of mean and samples after so many steps of dual descent on rows that are mapped from a file."""
    table = torch.from_numpy(mapped)
    rows = len(table)
    return condition(
        kernel_for(options.columns),
        table[:, :-1],
        table[:, -1],
        noise_variance=NOISE**2,
        mean=float(mapped[:, -1].mean()),
        solver=StochasticDualDescent(batch_size=options.batch),
        num_samples=options.samples,
        num_features=options.features,
        max_epochs=options.steps * min(options.batch, rows) / rows,
        on_failure="return",
        generator=0,
    )


def fitted(mapped: np.ndarray, options: argparse.Namespace) -> GPRegressor:
    """The same through the estimator."""
    steps = Steps(
        batch_size=options.batch, epochs=options.steps * min(options.batch, len(mapped)) / len(mapped)
    )
    model = GPRegressor(
        kernel_for(options.columns),
        noise_variance=NOISE**2,
        optimizer=None,
        solver=steps,
        num_samples=options.samples,
        num_features=options.features,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)
        return model.fit(mapped[:, :-1], mapped[:, -1])


def told(solution: Solution, rows: int) -> str:
    """What was done in a solve."""
    return (
        f"{solution.iterations} steps, {solution.epochs:.4f} epochs, {solution.epochs * rows**2:.3g} entries"
    )


def run(
    way: str, mapped: np.ndarray, points: np.ndarray, options: argparse.Namespace, stages: Stages
) -> None:
    """Train by `condition` or the estimator, and predict at some points."""
    name, wanted = f"{way}, mean and {options.samples} samples", truth(points)
    if way == "condition":
        posterior = stages.run(
            name, lambda: conditioned(mapped, options), lambda p: told(p.solution, options.rows)
        )
        predict = partial(posterior.mean, torch.from_numpy(points))
    else:
        model = stages.run(name, lambda: fitted(mapped, options), lambda m: told(m.solution_, options.rows))
        predict = partial(model.predict, points)
    offset = float(mapped[:, -1].mean())
    stages.run(
        f"{way}, mean at {options.test} points",
        lambda: np.asarray(predict()),
        lambda mean: (
            f"RMSE {np.sqrt(np.mean((offset - wanted) ** 2)):.3f} before, "
            f"{np.sqrt(np.mean((mean - wanted) ** 2)):.3f} after"
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in {"rows": 200_000, "columns": 8, "samples": 8, "steps": 50, "batch": 1024}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--test", type=int, default=500)
    ways = ["condition", "estimator"]
    parser.add_argument("--through", nargs="+", choices=ways, default=ways)
    options = parser.parse_args()
    header(f"{options.rows:,} x {options.columns} out of core", ("torch", "numpy", "pyarrow"))
    points = np.random.default_rng(1).random((options.test, options.columns))
    stages = Stages()
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "t.parquet", Path(folder) / "t.npy"
        stages.run("write Parquet", lambda: write_parquet(file, options.rows, options.columns))
        table = stages.run(
            "Parquet to .npy, mapped",
            lambda: read_matrix(file, out=out),
            lambda table: f"{table.values.nbytes / 2**20:.0f} MiB on disk",
        )
        for way in options.through:
            run(way, table.values, points, options, stages)
    print_table(["stage", "processor s", "peak GiB", ""], stages.lines)


if __name__ == "__main__":
    main()
