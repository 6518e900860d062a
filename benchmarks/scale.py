"""How far rows go on one machine: products, means and samples over up to millions of rows, beside the dense engine.

Rows are uniform in a cube, targets a known function plus noise, and the kernel a scaled Matérn-3/2 with given length
scales, so that what is timed is conditioning alone. `--parts fit` takes raw rows through `GPRegressor()`, which chooses
and learns its kernel, and `--parts britain` a real table (`SGGP_DATA_DIR`); with
`--seconds` that is `max_seconds`, and samples are as given. Seconds are processor seconds but in those
two, which tell both. The error of a product is measured on exact rows at random places; "dense" is the same with
`SGGP_FAR_FIELD=0`, at the sizes up to `--dense`. RMSE is of the mean against the function, without noise; of britain
against values set aside, in units of their spread. The peak is that of the process so far.

    python benchmarks/scale.py [--parts products posterior fit britain] [--rows 100000 1000000] [--columns 3]
        [--samples 64] [--dense 100000] [--seconds 600]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import gpytorch
import numpy as np
import torch
from torch import Tensor

from lib.common import header, peak_gib, print_table, seeded
from sggp import GPRegressor, condition
from sggp.datasets import large
from sggp.operators import KernelOperator

NOISE, LENGTHSCALE, QUERIES, CHECKED, ASIDE = 0.01, 0.3, 20_000, 64, 10_000


def function(x: Tensor) -> Tensor:  # (n, d) -> (n,)
    """What is to be found: smooth, with a ridge that takes many rows to see."""
    return torch.sin(6 * x[:, 0]) + torch.cos(9 * x[:, -1]) * x[:, 0] + 0.5 * torch.sin(20 * x.mean(1))


def rows(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Inputs (n, d) and noisy targets (n,)."""
    generator = seeded(0)
    x = torch.rand(n, d, generator=generator, dtype=torch.float64)
    return x, function(x) + NOISE**0.5 * torch.randn(n, generator=generator, dtype=torch.float64)


def kernel(d: int) -> gpytorch.kernels.Kernel:
    made = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=d))
    made.outputscale, made.base_kernel.lengthscale = 1.0, LENGTHSCALE
    return made


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.process_time()
    found = call()
    return time.process_time() - begin, found


def engines(n: int, dense: int) -> list[str]:
    return ["far field", "dense"] if n <= dense else ["far field"]


def use(engine: str) -> None:
    os.environ["SGGP_FAR_FIELD"] = "0" if engine == "dense" else "1"


def products(sizes: list[int], d: int, samples: int, dense: int) -> None:
    """One product of 1 and of 1 + s columns, and its error."""
    table = []
    for n in sizes:
        x, _ = rows(n, d)
        for engine in engines(n, dense):
            use(engine)
            operator = KernelOperator(kernel(d), x, NOISE, dtype=torch.float32)
            first, _ = timed(lambda operator=operator: operator.approximates)
            for s in (1, 1 + samples):
                v = torch.randn(n, s, generator=seeded(1))
                seconds, found = timed(lambda operator=operator, v=v: operator.matmul(v))
                some = torch.randperm(n, generator=seeded(2))[:CHECKED]
                exact = operator.cross_block(some, torch.arange(n)) @ v.double() + NOISE * v[some].double()
                error = float((found[some].double() - exact).norm() / exact.norm())
                entries = operator.entries_per_epoch
                cells = [f"{n:,}", str(d), engine, str(s), f"{first:.1f}", f"{seconds:.2f}", f"{entries:.1e}"]
                table.append([*cells, f"{error:.0e}", f"{peak_gib():.2f}"])
    names = ["n", "d", "engine", "columns", "set-up s", "product s", "entries", "error", "peak GiB"]
    print_table(names, table)


def posterior(sizes: list[int], d: int, samples: int, dense: int) -> None:
    """The mean alone, and with samples: seconds of the solve and of predictions, residuals, RMSE."""
    table = []
    for n in sizes:
        x, y = rows(n, d)
        q = torch.rand(QUERIES, d, generator=seeded(3), dtype=torch.float64)
        for engine in engines(n, dense):
            use(engine)
            for s in sorted({0, samples}):
                seconds, found = timed(
                    lambda x=x, y=y, s=s: condition(
                        kernel(d), x, y, noise_variance=NOISE, num_samples=s, generator=0
                    )
                )
                asked, mean = timed(lambda found=found, q=q: found.mean(q))
                rmse = float((mean - function(q)).square().mean().sqrt())
                residual, steps = float(found.solution.residual.max()), found.solution.iterations
                cells = [f"{n:,}", str(d), engine, str(s), f"{seconds:.0f}", str(steps), f"{residual:.0e}"]
                table.append([*cells, f"{QUERIES / asked:,.0f}", f"{rmse:.4f}", f"{peak_gib():.2f}"])
    names = ["n", "d", "engine", "samples", "seconds", "steps", "residual", "rows/s", "RMSE", "peak GiB"]
    print_table(names, table)


def fit(sizes: list[int], d: int, samples: int, dense: int, limit: float | None = None) -> None:
    """`GPRegressor` from raw rows, its kernel chosen: hyperparameters, mean and samples, within so many seconds."""
    table = []
    for n in sizes:
        x, y = rows(n, d)
        q = torch.rand(QUERIES, d, generator=seeded(3), dtype=torch.float64)
        for engine in engines(n, dense):
            use(engine)
            for s in sorted({0, samples}) if limit is None else [samples]:
                cells, mean = fitted(x.numpy(), y.numpy(), q.numpy(), s, limit)
                rmse = float((torch.from_numpy(mean) - function(q)).square().mean().sqrt())
                table.append([f"{n:,}", str(d), engine, *cells, f"{rmse:.4f}", f"{peak_gib():.2f}"])
    print_table(FITTED, table)


FITTED = [
    "n",
    "d",
    "engine",
    "samples",
    "kernel",
    "seconds",
    "CPU s",
    "steps",
    "residual",
    "RMSE",
    "peak GiB",
]


def fitted(
    x: np.ndarray, y: np.ndarray, q: np.ndarray, samples: int, limit: float | None = None
) -> tuple[list[str], np.ndarray]:
    """What a fit of all rows took, and its mean at q."""
    model = GPRegressor(num_samples=samples, max_seconds=limit, random_state=0)
    begin = time.perf_counter()
    seconds, _ = timed(lambda: model.fit(x, y))
    took, solution = time.perf_counter() - begin, model.solution_
    chosen = "default" if model.kernel_selection_ is None else model.kernel_selection_.chosen
    cells = [str(samples), chosen, f"{took:.0f}", f"{seconds:.0f}", str(solution.iterations)]
    return [*cells, f"{float(solution.residual.max()):.0e}"], model.predict(q)


def britain(sizes: list[int], d: int, samples: int, dense: int) -> None:
    """`GPRegressor` on the whole of britain_magnetic, or its first rows of a random order; 10,000 are set aside."""
    read = large("britain_magnetic")
    x, y = read.x, read.y
    test, train = np.split(np.random.default_rng(0).permutation(len(x)), [ASIDE])
    table = []
    for n in sorted({min(n, len(train)) for n in sizes}):
        some = train[:n]
        for s in sorted({0, samples}):
            cells, mean = fitted(x[some], y[some], x[test], s)
            rmse = float(np.sqrt(np.mean((mean - y[test]) ** 2)) / y[some].std())
            table.append([f"{n:,}", str(x.shape[1]), "far field", *cells, f"{rmse:.4f}", f"{peak_gib():.2f}"])
    print_table(FITTED, table)


PARTS: dict[str, Callable[..., None]] = {
    "products": products,
    "posterior": posterior,
    "fit": fit,
    "britain": britain,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["products", "posterior"])
    parser.add_argument("--rows", nargs="+", type=int, default=[100_000, 1_000_000])
    parser.add_argument("--columns", type=int, default=3, help="d")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument(
        "--dense", type=int, default=100_000, help="rows up to which the dense engine runs too"
    )
    parser.add_argument("--seconds", type=float, help="max_seconds of the fits of part fit")
    arguments = parser.parse_args()
    header("Rows on one machine")
    for part in arguments.parts:
        print(f"\n{part}\n")
        sizes = (arguments.rows, arguments.columns, arguments.samples, arguments.dense)
        if part == "fit":
            fit(*sizes, arguments.seconds)
        else:
            PARTS[part](*sizes)


if __name__ == "__main__":
    main()
