"""How good a variance is, and what it costs: samples as they are, samples with a control, and solving for it.

Published hyperparameters, split 0. A row is the relative error of the variance at test rows against a dense float64
factor, root mean square over the rows and over independent posteriors (their least and largest in brackets):

    64 plain samples        the mean square of zero-mean samples
    1,000 plain samples     the same of more
    64 samples              `Posterior.variance(points, method="samples")`: the nearest rows are the control
    by solving              `Posterior.variance(points, method="solve")`: one more column per point

Beside it the standard error that is known beforehand (√(2/s) for plain samples, were they exact), and the seconds of
the median posterior: its solve, and the variances at the points. Samples are solved to the default tolerance of
`condition`, and their prior functions are made of random features that they share, so that plain ones are worse than
√(2/s). The aim is to be as good as 1,000 are, and would be if they were exact.

    python benchmarks/variance.py [--sets pol elevators bike] [--rows N] [--points Q] [--seeds S]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lib.common import header, peak_gib, print_table, seeded
from lib.systems import System, uci_system
from sggp.kernels import as_covariance
from sggp.posterior import Posterior, condition

FEW, MANY = 64, 1000
MEMORY_BUDGET = 8 * 2**30
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def exact_variance(system: System, points: Tensor) -> Tensor:  # (q, d) -> (q,)
    """k(q, q) − k(q, X)(K + Σ)⁻¹k(X, q) by a dense float64 factor of the distinct rows."""
    merged, _ = system.merged(system.y[:, None])
    covariance = as_covariance(merged.kernel, dtype=torch.float64)
    rows = covariance.prepare(merged.x)
    matrix = covariance.block(rows).double()
    matrix.diagonal().add_(merged.noise_vector)
    # by columns, so that the factor can take the place of the matrix
    factor, info = matrix.mT, torch.empty((), dtype=torch.int32)
    torch.linalg.cholesky_ex(factor, out=(factor, info))
    assert int(info) == 0
    cross = covariance.block(rows, covariance.prepare(points, rows.centre)).double()
    half = torch.linalg.solve_triangular(factor.tril_(), cross, upper=False)
    return covariance.diagonal(points).double() - half.square().sum(0)


@dataclass
class Line:
    """One way to a variance, over independent posteriors."""

    name: str
    errors: list[float] = field(default_factory=list)
    reported: list[float] = field(default_factory=list)
    solve_seconds: list[float] = field(default_factory=list)
    point_seconds: list[float] = field(default_factory=list)

    def add(self, found: Tensor, exact: Tensor, reported: float, seconds: tuple[float, float]) -> None:
        self.errors.append(rms(found / exact - 1))
        self.reported.append(reported)
        self.solve_seconds.append(seconds[0])
        self.point_seconds.append(seconds[1])

    @property
    def error(self) -> float:
        return rms(torch.tensor(self.errors))

    def cells(self) -> list[str]:
        reported = rms(torch.tensor(self.reported))
        return [
            self.name,
            percent(self.error),
            f"{percent(min(self.errors))} … {percent(max(self.errors))}",
            percent(reported) if reported else "–",
            f"{statistics.median(self.solve_seconds):.1f}",
            f"{statistics.median(self.point_seconds):.1f}",
        ]


def rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def timed(call: Callable[[], Tensor | Posterior]) -> tuple[float, Tensor | Posterior]:
    begin = time.perf_counter()
    found = call()
    return time.perf_counter() - begin, found


def plain(posterior: Posterior, points: Tensor) -> Tensor:  # (q, d) -> (q,)
    """The mean square of the zero-mean samples."""
    return (posterior.samples(points) - posterior.mean(points)).double().square().mean(0)


def measured(system: System, points: Tensor, arguments: argparse.Namespace) -> list[Line]:
    exact = exact_variance(system, points)
    dtype = DTYPES[arguments.dtype]
    few, many = Line(f"{FEW} plain samples"), Line(f"{arguments.many:,} plain samples")
    control, solved = Line(f"{FEW} samples"), Line("by solving")

    def conditioned(num_samples: int, seed: int) -> tuple[float, Posterior]:
        seconds, posterior = timed(
            lambda: condition(
                system.kernel,
                system.x,
                system.y,
                noise_variance=system.noise,
                num_samples=num_samples,
                num_features=arguments.features,
                generator=seeded(seed),
                dtype=dtype,
                memory_budget=MEMORY_BUDGET,
            )
        )
        assert isinstance(posterior, Posterior)
        return seconds, posterior

    def add(line: Line, made: tuple[float, Posterior], call: Callable[[], Tensor], reported: float) -> None:
        seconds, found = timed(call)
        assert isinstance(found, Tensor)
        line.add(found, exact, reported, (made[0], seconds))
        print(f"{system.name}: {line.name}: {percent(line.errors[-1])}", flush=True)

    for seed in range(arguments.seeds):
        made = conditioned(FEW, seed)
        posterior = made[1]
        add(few, made, lambda p=posterior: plain(p, points), (2 / FEW) ** 0.5)
        expected = rms(posterior.variance_error(points).double() / exact)
        add(control, made, lambda p=posterior: p.variance(points, method="samples"), expected)
        if seed == 0:
            none = conditioned(0, seed)
            add(solved, none, lambda p=none[1]: p.variance(points, method="solve"), 0.0)
        made = conditioned(arguments.many, seed)
        add(many, made, lambda p=made[1]: plain(p, points), (2 / arguments.many) ** 0.5)
    return [few, many, control, solved]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sets", nargs="*", choices=["pol", "elevators", "bike"], default=["pol"])
    add("--rows", type=int, default=None, help="rows to keep of every table (a dry run)")
    add("--points", type=int, default=300, help="test rows")
    add("--seeds", type=int, default=5, help="independent posteriors")
    add("--many", type=int, default=MANY, help="plain samples to hold against")
    add("--features", type=int, default=2048, help="random features of the prior functions")
    add("--dtype", choices=DTYPES, default="float32", help="working precision of the solves")
    arguments = parser.parse_args()
    header("relative error of the posterior variance at test rows, and seconds")
    table: list[list[str]] = []
    for name in arguments.sets:
        system = uci_system(name, arguments.rows)
        lines = measured(system, system.xs[: arguments.points], arguments)
        _, many, control, _ = lines
        for line in lines:
            verdict = ""
            if line is control:
                aim = min(many.error, (2 / arguments.many) ** 0.5)
                verdict = f"{'met' if control.error <= aim else 'MISSED'} (aim {percent(aim)})"
            table.append([f"{name} ({system.n} rows)", *line.cells(), verdict])
    print()
    wanted = f"as good as {arguments.many:,}"
    columns = [
        "table",
        "variance from",
        "error",
        "least … largest",
        "reported",
        "solve s",
        "points s",
        wanted,
    ]
    print_table(columns, table)
    print(f"peak memory of this process: {peak_gib():.1f} GiB")


if __name__ == "__main__":
    main()
