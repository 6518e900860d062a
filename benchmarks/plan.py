"""What `sggp.planning.plan_fit` forecasts beside what a fit takes: hyperparameters, mean, 64 samples and predictions.

Each size is a known function of its columns plus noise of a tenth of its spread, fitted by `GPRegressor()` in a process
of its own; 1,000 rows are predicted, with standard deviations and functions. Times are processor seconds, of the
machine as well as of the fit, so that other work on it matters little; with one thread they are what a clock shows
on a quiet one. The last two sizes go by a far field. `--rough` takes a function with kinks, whose solves take more
passes than the plan's typical one.

    OMP_NUM_THREADS=1 python benchmarks/plan.py [--sizes 2000x3 5000x5 10000x10 20000x5 50000x3 100000x3] [--rough]
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np

from lib.common import end, header, peak_gib, print_table, run_apart
from sggp import GPRegressor, NotConverged
from sggp.planning import plan_fit, this_machine

SIZES = ("2000x3", "5000x5", "10000x10", "20000x5", "50000x3", "100000x3")
PREDICTED, WITHIN = 1000, 0.3


def table(n: int, d: int, rough: bool) -> tuple[np.ndarray, np.ndarray]:
    """Inputs in the unit cube, and a function of them plus noise."""
    generator = np.random.default_rng(7)
    x = generator.random((n, d))
    f = np.sin(6 * x[:, 0]) * np.cos(5 * x[:, 1]) + x[:, 2] ** 2
    if d > 3:
        f = f + x[:, 3:] @ np.linspace(1, 0.2, d - 3)
    if rough:
        f = f + np.abs(np.sin(20 * x[:, 0] + 9 * x[:, 1])) + np.abs(x[:, 2] - 0.5)
    return x, f / f.std() + 0.1 * generator.standard_normal(n)


def measured(n: int, d: int, rough: bool) -> dict[str, float | str]:
    """Processor seconds of a fit and predictions, beside the plan of the same machine in the same minute."""
    device = this_machine(time.process_time)
    x, y = table(n + PREDICTED, d, rough)
    begin = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)
        model = GPRegressor(random_state=0).fit(x[:n], y[:n])
    fitted = time.process_time()
    model.predict(x[n:])
    model.predict(x[n:], return_std=True)
    model.sample_y(x[n:], n_samples=64)
    predicted = time.process_time() - fitted
    plan = plan_fit(n, d, device=device, predictions=PREDICTED)
    return {
        "seconds": fitted - begin + predicted,
        "plan": plan.seconds,
        "learning": plan.parts[0].seconds,
        "passes": float(model.solution_.iterations),
        "planned": plan.parts[-2].what,
        "memory": peak_gib(),
        "room": plan.memory / 2**30,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--rough", action="store_true")
    arguments = parser.parse_args()
    header("plans beside fits, in processor seconds")
    rows, outside = [], 0
    for size in arguments.sizes:
        n, d = (int(part) for part in size.split("x"))
        apart = run_apart(measured, n, d, arguments.rough)
        if apart.failure:
            rows.append([size, apart.failure, *[""] * 6])
            continue
        found = apart.value
        ratio = found["plan"] / found["seconds"]
        outside += not 1 - WITHIN <= ratio <= 1 + WITHIN
        rows.append(
            [
                f"{n:,} x {d}",
                f"{found['plan']:.1f}",
                f"{found['seconds']:.1f}",
                f"{ratio:.2f}",
                f"{found['learning']:.1f}",
                found["planned"],
                f"{found['passes']:.0f}",
                f"{found['room']:.2f} / {found['memory']:.2f}",
            ]
        )
    columns = ["rows x columns", "plan", "real", "ratio", "plan of learning", "planned solve", "passes"]
    print_table([*columns, "GiB: plan / peak with Python"], rows)
    print(f"{len(rows) - outside} of {len(rows)} within {WITHIN:.0%}.")
    end()


if __name__ == "__main__":
    main()
