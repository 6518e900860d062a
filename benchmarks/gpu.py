"""One session on a GPU, fifteen minutes at most: is the Triton engine right, how fast is it, and how long fits take.

Parts, each in a process of its own with its own limit of seconds, so that none takes the time of the next:

    correct     products, gradients and blocks of the engine in both precisions beside torch's in float64, every family
    rates       entries, FLOP and bytes a second of K v, beside the bound of `sggp.native.ceilings`: sgemm as measured
                on this device (on a CPU exponentials, too) and its copying of memory; bytes are the least to be read
    n541508d3, n382168d17, britain, n1000000d3
                mean and 64 samples of a table: a known function of random columns, or britain_magnetic where
                SGGP_DATA_DIR is set; seconds, passes, residual, and the error on rows that were left out

Every result is a JSON line, printed (and added to --out) as soon as it is known. Without CUDA the same is done on the
CPU at tiny sizes, and says so.

    python benchmarks/gpu.py [--parts correct rates n541508d3 ...] [--out gpu.jsonl] [--dry-run]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpytorch.kernels import MaternKernel, ScaleKernel
from torch import Tensor

from lib.common import header, print_table, seeded
from sggp.datasets import large
from sggp.errors import NotConverged
from sggp.kernels import as_covariance
from sggp.native import ceilings, engine, reference
from sggp.native.families import FAMILIES, Profile
from sggp.posterior import condition

LIMITS = {"correct": 80, "rates": 60, "n541508d3": 150, "n382168d17": 180, "britain": 120, "n1000000d3": 270}
ALLOWED = {
    torch.float32: 5e-6,
    torch.float64: 1e-12,
}  # of the scale of entries, of products relative to |K||v|
SAMPLES, NOISE, TESTED = 64, 0.01, 2000
listeners: list[Callable[[str], Any]] = []


def tell(part: str, **values: Any) -> None:
    """One JSON line."""
    line = json.dumps({"part": part, **values})
    print(line, flush=True)
    for listener in listeners:
        listener(line)


def waited(call: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """What a call gives, and its seconds, the device's included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    found = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return found, time.perf_counter() - begin


def correct(device: torch.device, dry: bool) -> None:
    """The engine beside the reference in float64, on the same device."""
    n, m, s = (60, 70, 3) if dry else (3000, 3500, 17)
    for dtype, allowed in ALLOWED.items():
        own = engine(device, dtype)
        for family in FAMILIES:
            for d in (3, 17):
                profile = Profile(family, 1.7, 0.9 if FAMILIES[family].shaped else None)
                draw = seeded(d)
                a, b, v = (
                    torch.randn(shape, generator=draw, dtype=torch.float64).to(device, dtype)
                    for shape in ((n, d), (m, d), (m, s))
                )
                w = torch.randn(n, s, generator=draw, dtype=torch.float64).to(device, dtype)
                wide = [t.double() for t in (a, b, v, w)]
                exact = reference.stationary_block(*wide[:2], profile)
                block = float((own.stationary_block(a, b, profile).double() - exact).abs().max()) / 1.7
                size = exact.abs() @ wide[2].abs()
                product = own.stationary_matmul(a, b, v, profile).double() - exact @ wide[2]
                slopes = own.stationary_gradient(a, b, w, v, profile)
                right = reference.stationary_gradient(wide[0], wide[1], wide[3], wide[2], profile)
                errors = {
                    "block": block,
                    "product": float((product.abs() / size).max()),
                    "gradient": float((slopes[0] - right[0]).norm() / right[0].norm()),
                }
                good = max(errors["block"], errors["product"]) <= allowed
                told = {"engine": own.name, "dtype": str(dtype), "family": family, "d": d}
                tell("correct", **told, **errors, good=good)


def rates(device: torch.device, dry: bool) -> None:
    """Entries a second of K v, and what bounds them."""
    n, repeats = (300, 1) if dry else (65_536, 5)
    dtype = torch.float32
    works = ceilings.works(dtype, device=device, size=0.05 if dry else 1.0)
    limits = ceilings.rates(works, ceilings.alternate({k: w.call for k, w in works.items()}, repeats))
    tell("rates", ceilings=limits)
    for d, s in ((3, 1), (3, 65), (17, 65)):
        kernel = MaternKernel(nu=1.5)
        x = torch.randn(n, d, generator=seeded(d)).to(device)
        covariance, v = as_covariance(kernel), torch.randn(n, s, generator=seeded(s)).to(device)
        points = covariance.prepare(x)
        seconds = sorted(
            waited(lambda: covariance.matmul(points, points, v), device)[1]  # noqa: B023
            for _ in range(repeats + 1)
        )[0]
        entries = n * n / seconds
        bound, of_the_sum = ceilings.stationary_bound(limits, d, s)
        found = {
            "engine": engine(device, dtype).name,
            "n": n,
            "d": d,
            "s": s,
            "seconds": seconds,
            "entries_a_second": entries,
            "flops_a_second": entries * (3 * d + 2 * s),
            "least_bytes_a_second": 4 * n * (2 * d + 2 * s) / seconds,
            "share_of_bound": entries / bound,
            "share_of_the_sum": entries / of_the_sum,
        }
        tell("rates", **found)


def table(name: str, dry: bool) -> tuple[Tensor, Tensor, float]:
    """Rows, targets of unit spread, and the length scale."""
    if name == "britain":
        found = large("britain_magnetic")
        x, y = torch.from_numpy(found.x), torch.from_numpy(found.y)
        if dry:
            x, y = x[:3000:10], y[:3000:10]
        x, y = (x - x.mean(0)) / x.std(0).clamp_min(1e-9), (y - y.mean()) / y.std()
        return x, y, 0.05
    n, d = (int(part) for part in name.removeprefix("n").split("d"))
    n = 400 if dry else n
    x = torch.rand(n, d, generator=seeded(0), dtype=torch.float64)
    y = torch.sin(9 * x[:, 0]) * torch.cos(7 * x[:, 1]) + 0.5 * torch.cos(3 * x).mean(1)
    y = (y - y.mean()) / y.std() + NOISE**0.5 * torch.randn(n, generator=seeded(1), dtype=torch.float64)
    return x, y, 0.3 * (d / 3) ** 0.5


def fitted(device: torch.device, dry: bool, name: str) -> None:
    """Mean and samples of one table, and its error on rows left out."""
    x, y, lengthscale = table(name, dry)
    order = torch.randperm(len(x), generator=seeded(2))
    test, train = order[: min(TESTED, len(x) // 5)], order[min(TESTED, len(x) // 5) :]
    kernel = ScaleKernel(MaternKernel(nu=1.5)).double().to(device)
    kernel.base_kernel.lengthscale, kernel.outputscale = lengthscale, 1.0
    samples = 4 if dry else SAMPLES
    xs, ys = x[train].to(device), y[train].to(device)

    def solve() -> Any:
        limit = 0.8 * LIMITS[name]
        return condition(
            *(kernel, xs, ys), noise_variance=NOISE, num_samples=samples, max_seconds=limit, generator=0
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)
        posterior, seconds = waited(solve, device)
    asked = x[test].to(device)
    (mean, variance), predicting = waited(lambda: (posterior.mean(asked), posterior.variance(asked)), device)
    rmse = float((mean - y[test].to(device)).square().mean().sqrt())
    solution = posterior.solution
    found = {
        "n": len(train),
        "d": x.shape[1],
        "samples": samples,
        "seconds": seconds,
        "predicting_seconds": predicting,
        "converged": solution.converged,
        "passes": solution.epochs,
        "residual": float(solution.residual.max()),
        "rmse": rmse,
        "std": float(variance.mean().sqrt()),
        "solution": repr(solution),
        "peak_gib": torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None,
    }
    tell(name, **found)


def child(part: str, dry: bool, out: Path | None, count: Any) -> None:
    """One part, in this process; its lines are counted, and added to a file."""

    def listen(line: str) -> None:
        count.value += 1
        if out is not None:
            with out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    listeners.append(listen)
    if not dry:
        os.environ["SGGP_TRITON"] = "1"
    device = torch.device("cpu" if dry else "cuda")
    if part == "correct":
        correct(device, dry)
    elif part == "rates":
        rates(device, dry)
    else:
        fitted(device, dry, part)


def apart(part: str, dry: bool, out: Path | None) -> list[str]:
    """One part in a process of its own; its lines are shown as they come. How it ended, as a row."""
    begin = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    count = context.Value("i", 0)
    running = context.Process(target=child, args=(part, dry, out, count))
    running.start()
    running.join(LIMITS[part])
    ended = "done"
    if running.is_alive():
        running.kill()
        running.join()
        ended = "out of time"
    elif running.exitcode:
        ended = f"FAILED ({running.exitcode})"
    return [part, str(count.value), f"{time.perf_counter() - begin:.1f}", f"{LIMITS[part]}", ended]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=list(LIMITS), default=list(LIMITS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, at tiny sizes")
    options = parser.parse_args()
    dry = options.dry_run or not torch.cuda.is_available()
    header("one session on a GPU", ("torch", "gpytorch", "triton"))
    if not torch.cuda.is_available():
        print("no CUDA device here: a dry run on the CPU at tiny sizes, whose figures mean nothing\n")
    parts = [p for p in options.parts if p != "britain" or "SGGP_DATA_DIR" in os.environ]
    rows = [apart(part, dry, options.out) for part in parts]
    print()
    print_table(["part", "results", "seconds", "limit", ""], rows)
    if any(row[-1].startswith("FAILED") for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
