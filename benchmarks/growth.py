"""Time and memory against n: one right-hand side at a fixed tolerance, and the exponents they grow with.

britain_magnetic (d = 3) and houseelectric_2007h1 (d = 11), hyperparameters learnt here on 160,000 and 24,000 rows,
printed, and kept for all n. Each size is `sggp.condition` without samples in a process of its own: neighbour search,
preconditioner, conjugate gradients to a relative residual of 1e-2. The memory budget is fixed at 256 MiB, so that K is
kept up to about 7,000 rows and evaluated by tiles above: the exponents are fitted to n ≥ 8,000, where every row of
the table does the same. Memory is the peak above what the process holds before the solve.

    python benchmarks/growth.py [--largest 64000] [--sets britain_magnetic] [--plot growth.png]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from lib.common import end, forget_peak, header, peak_gib, print_table, run_apart, seeded
from lib.systems import LEARNING_ROWS, Learnt, large_system, learn
from sggp.plotting import new_figure, to_png
from sggp.posterior import condition
from sggp.solvers import ConjugateGradients

SIZES = tuple(1000 * 2**k for k in range(1, 9))  # 2,000 … 256,000
SETS = ("britain_magnetic", "houseelectric_2007h1")
TOLERANCE, BUDGET, FIT_FROM = 1e-2, 256 * 2**20, 8000
ALLOWED = {"seconds": 2.1, "memory": 1.1}


def solve(name: str, rows: int, learnt: Learnt) -> dict[str, float | str]:
    """Seconds, GiB above the start, passes, iterations and status of one size."""
    system = large_system(name, rows, learnt)

    def once(n: int) -> object:
        return condition(
            system.kernel,
            system.x[:n],
            system.y[:n],
            noise_variance=system.noise,
            solver=ConjugateGradients(),
            num_samples=0,
            tolerance=TOLERANCE,
            generator=seeded(0),
            dtype=torch.float32,
            memory_budget=BUDGET,
            on_failure="return",
        ).solution

    once(500)
    before = forget_peak()
    begin = time.perf_counter()
    solution = once(rows)
    seconds = time.perf_counter() - begin
    return {
        "seconds": seconds,
        "memory": peak_gib() - before,
        "passes": solution.epochs,
        "steps": float(solution.iterations),
        "status": str(solution.status[0]),
    }


def exponent(sizes: list[int], values: list[float], start: int) -> float | None:
    """Least-squares slope of log value against log n over n ≥ start; None with fewer than two sizes."""
    kept = [(n, value) for n, value in zip(sizes, values, strict=True) if n >= start and value > 0]
    if len(kept) < 2:
        return None
    n, value = np.log(np.array(kept, dtype=float)).T
    return float(np.polyfit(n, value, 1)[0])


def measure(name: str, arguments: argparse.Namespace) -> dict[str, list[float]]:
    # a dry run learns on what it has
    learnt = learn(name, LEARNING_ROWS[name] if arguments.largest >= FIT_FROM else arguments.largest)
    print(f"## {name}: {learnt}", flush=True)
    series: dict[str, list[float]] = {"n": [], "seconds": [], "memory": []}
    table = []
    sizes = [n for n in SIZES if n <= arguments.largest] or [arguments.largest]
    for n in sizes:
        runs = [run_apart(solve, name, n, learnt) for _ in range(arguments.repeats)]
        failed = next((run.failure for run in runs if run.value is None), None)
        if failed is not None:
            table.append([str(n), failed, *[""] * 5])
            break
        found = sorted((run.value for run in runs), key=lambda value: value["seconds"])[len(runs) // 2]
        series["n"].append(n)
        for key in ("seconds", "memory"):
            series[key].append(found[key])
        cells = [f"{found['seconds']:.2f}", f"{found['memory']:.3f}", f"{max(r.peak_gib for r in runs):.2f}"]
        table.append([str(n), *cells, f"{found['steps']:.0f}", f"{found['passes']:.1f}", found["status"]])
        print("  ".join(table[-1]), flush=True)
    print_table(["n", "seconds", "GiB of the solve", "peak GiB in all", "steps", "passes", "status"], table)
    for key, allowed in ALLOWED.items():
        slope = exponent(series["n"], series[key], arguments.fit_from)
        if slope is None:
            print(f"{name}: {key}: too few sizes from n = {arguments.fit_from} on to fit an exponent")
        else:
            verdict = "met" if slope <= allowed else "MISSED"
            print(
                f"{name}: {key} grows as n^{slope:.2f} over n ≥ {arguments.fit_from} (≤ {allowed}: {verdict})"
            )
    print(flush=True)
    return series


def draw(found: dict[str, dict[str, list[float]]], path: Path) -> None:
    figure = new_figure(9.0, 3.6)
    panels = figure.subplots(1, 2)
    for axes, key, label in zip(panels, ("seconds", "memory"), ("seconds", "GiB of the solve"), strict=True):
        for name, series in found.items():
            axes.loglog(series["n"], series[key], marker="o", markersize=4, label=name)
        axes.set_xlabel("rows")
        axes.set_ylabel(label)
        axes.grid(alpha=0.25, which="both")
        axes.legend(frameon=False, fontsize="small")
    path.write_bytes(to_png(figure))
    print(f"plot: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sets", nargs="+", choices=SETS, default=list(SETS))
    add("--largest", type=int, default=64_000, help="most rows; sizes double from 2,000 to 256,000")
    add("--repeats", type=int, default=1, help="runs of every size; the one of median time counts")
    add("--fit-from", type=int, default=FIT_FROM, help="least n of the fit")
    add("--plot", type=Path, default=None, help="PNG of both curves")
    arguments = parser.parse_args()
    header(
        f"growth: one right-hand side to {TOLERANCE:g}, float32, memory budget {BUDGET // 2**20} MiB (K by tiles)"
    )
    found = {name: measure(name, arguments) for name in arguments.sets}
    if arguments.plot is not None:
        draw(found, arguments.plot)
    end()


if __name__ == "__main__":
    main()
