"""Seconds and memory of predictions in bulk: means and standard deviations, Thompson picks, float fingerprints.

Everything is drawn here, and every posterior but that of `estimator` has a fixed kernel: nothing is downloaded and no
fit is timed:

    means, std       `Posterior.mean` and `.variance` at many points, given rows in 8 columns, 64 samples; a Matérn
                     kernel of other columns, smoothness and length scale by `--columns`, `--nu`, `--lengthscale`
    estimator        `GPRegressor().predict(X, return_std=True)` at as many points, fitted to the same rows before
    picks            100 picks of a pool by Thompson sampling, given 2,000 rows: 8 float columns; 2,048 bits as a matrix
                     of bytes, and packed in a `FingerprintTable`; and by BoTorch's `MaxPosteriorSampling` from bytes,
                     with a `PathwiseGPModel` of its default 64 paths
    fingerprints     `Covariance.prepare` of 2,048 columns, beside one copy of the same numbers

Memory is what a step takes at its peak beside what was there before it: rows, candidates and posterior are not in it.

    python benchmarks/predict.py [--rows N] [--points Q ...] [--candidates N] [--fingerprints N] [--repeats R]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import gpytorch
import torch
from torch import Tensor

from lib.common import forget_peak, header, peak_gib, print_table, seeded
from sggp import GPRegressor
from sggp.bayesopt import Pool, ThompsonSampling
from sggp.kernels import TanimotoDotProduct, TanimotoMinMax, as_covariance
from sggp.molecules import FingerprintTable
from sggp.posterior import Posterior, condition

BITS, ON, MEASURED, PICKS = 2048, 45, 2000, 100
Row = list[str]


def measured(name: str, call: Callable[[], Any], repeats: int) -> Row:
    seconds, before, work = [], forget_peak(), time.process_time()
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    work = (time.process_time() - work) / repeats
    print(f"{name}: {statistics.median(seconds):.3g} s", flush=True)
    spread = f"{min(seconds):.3g} … {max(seconds):.3g}"
    return [name, f"{statistics.median(seconds):.3g}", spread, f"{work:.3g}", f"{peak_gib() - before:.2f}"]


def points(n: int, seed: int, columns: int = 8) -> Tensor:
    return torch.rand(n, columns, generator=seeded(seed), dtype=torch.float64)


def molecules(n: int, seed: int) -> Tensor:
    """Bits of which a few are frequent and most are rare, some 45 to a row."""
    frequency = 1 / torch.arange(1.0, BITS + 1) ** 0.7
    frequency, generator = (frequency * ON / frequency.sum()).clamp(max=0.9), seeded(seed)
    sizes = [len(part) for part in torch.arange(n).split(4096)]
    return torch.cat([(torch.rand(k, BITS, generator=generator) < frequency).to(torch.uint8) for k in sizes])


def targets(x: Tensor) -> Tensor:
    """A smooth function of the first eight columns plus noise, standardised: (n,)."""
    noise = torch.randn(len(x), generator=seeded(1), dtype=torch.float64)
    y = torch.sin(3 * x[:, :8].double()).sum(1) + 0.1 * noise
    return (y - y.mean()) / y.std()


def posterior(x: Tensor, kernel: gpytorch.kernels.Kernel, num_samples: int) -> Posterior:
    scaled = gpytorch.kernels.ScaleKernel(kernel).double()
    scaled.outputscale = 1.0
    return condition(scaled, x, targets(x), noise_variance=0.01, num_samples=num_samples, generator=seeded(2))


def matern(nu: float, columns: int = 8, lengthscale: float = 1.0) -> gpytorch.kernels.Kernel:
    kernel = gpytorch.kernels.MaternKernel(nu, ard_num_dims=columns).double()
    kernel.lengthscale = lengthscale
    return kernel


def deviations(arguments: argparse.Namespace) -> list[Row]:
    d, rows = arguments.columns, []
    given = posterior(points(arguments.rows, 0, d), matern(arguments.nu, d, arguments.lengthscale), 64)
    given.variance(points(10, 3, d))
    for number in arguments.points:
        at = points(number, 4, d)
        name = f"{number:,} points, {arguments.rows:,} rows"
        rows.append(measured(f"means of {name}", lambda at=at: given.mean(at), arguments.repeats))
        rows.append(measured(f"std of {name}", lambda at=at: given.variance(at).sqrt(), arguments.repeats))
    return rows


def estimator(arguments: argparse.Namespace) -> list[Row]:
    x, rows = points(arguments.rows, 0, arguments.columns), []
    model = GPRegressor(random_state=0).fit(x.numpy(), targets(x).numpy())
    for number in arguments.points:
        at = points(number, 4, arguments.columns).numpy()
        name = f"GPRegressor, means and std of {number:,} points, {arguments.rows:,} rows"
        rows.append(measured(name, lambda at=at: model.predict(at, return_std=True), arguments.repeats))
    return rows


def picks(arguments: argparse.Namespace) -> list[Row]:
    rows = []
    for kind in ("floats", "bits", "packed bits"):
        table: Any = (
            points(arguments.candidates, 5) if kind == "floats" else molecules(arguments.candidates, 5)
        )
        known = min(MEASURED, arguments.candidates // 2)
        given = posterior(table[:known].clone(), matern(2.5) if kind == "floats" else TanimotoMinMax(), PICKS)
        if kind == "packed bits":
            table = FingerprintTable.from_counts(table)
        rule = ThompsonSampling(Pool(table), PICKS)
        name = f"{PICKS} picks of {arguments.candidates:,} candidates, {kind}, {known:,} rows"
        rows.append(
            measured(name, lambda r=rule, g=given, k=known: r.suggest(g, exclude=range(k)), arguments.repeats)
        )
    return rows


def botorch_picks(arguments: argparse.Namespace) -> list[Row]:
    from botorch.generation import MaxPosteriorSampling

    from sggp.botorch import PathwiseGPModel

    table, known = molecules(arguments.candidates, 5), min(MEASURED, arguments.candidates // 2)
    x = table[:known].double()
    kernel = gpytorch.kernels.ScaleKernel(TanimotoMinMax()).double()
    kernel.outputscale = 1.0
    options = {"covar_module": kernel, "noise_variance": 0.01, "optimizer": None, "generator": 2}
    strategy = MaxPosteriorSampling(
        PathwiseGPModel(x, torch.sin(3 * x[:, :8]).sum(1, keepdim=True), **options)
    )
    strategy(table[:10], num_samples=PICKS)  # draws what is missing and solves for it
    name = f"{PICKS} picks of {arguments.candidates:,} candidates, bits, MaxPosteriorSampling, {known:,} rows"
    return [measured(name, lambda: strategy(table, num_samples=PICKS), arguments.repeats)]


def fingerprints(arguments: argparse.Namespace) -> list[Row]:
    bits, rows = molecules(arguments.fingerprints, 6), []
    counts = bits * torch.randint(1, 5, bits.shape, generator=seeded(7), dtype=torch.uint8)
    single = bits.float()
    rows.append(measured("copy of float32 bits", single.clone, arguments.repeats))
    for kernel in (TanimotoMinMax(), TanimotoDotProduct()):
        covariance = as_covariance(kernel)
        for name, x in (("uint8", bits), ("float32 bits", single), ("float32 counts", counts.float())):
            label = f"preparing {len(x):,} × {BITS:,} {name}, {type(kernel).__name__}"
            rows.append(measured(label, lambda x=x, c=covariance: c.prepare(x), arguments.repeats))
    return rows


PARTS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "std": deviations,
    "estimator": estimator,
    "picks": picks,
    "botorch": botorch_picks,
    "fingerprints": fingerprints,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--parts",
        nargs="*",
        choices=list(PARTS),
        default=list(PARTS),
    )
    add("--rows", type=int, default=10_000, help="rows that means and deviations are given")
    add("--columns", type=int, default=8, help="columns of these rows")
    add("--nu", type=float, default=1.5, help="smoothness of the kernel")
    add("--lengthscale", type=float, default=1.0, help="of the kernel, in units of a cube's side")
    add("--points", type=int, nargs="*", default=[60_000], help="points of means and deviations")
    add("--candidates", type=int, default=260_000, help="rows of the pool")
    add("--fingerprints", type=int, default=20_000, help="rows to prepare")
    add("--repeats", type=int, default=3, help="runs of everything, of which the median counts")
    arguments = parser.parse_args()
    header("seconds and memory of predictions in bulk")
    table: list[Row] = []
    for part in arguments.parts:
        table += PARTS[part](arguments)
    print()
    print_table(["what", "seconds", "least … most", "of all cores", "GiB more"], table)


if __name__ == "__main__":
    main()
