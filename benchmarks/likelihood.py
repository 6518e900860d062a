"""The log marginal likelihood by stochastic Lanczos quadrature, held against a dense float64 factor.

Split 0 of UCI tables with published hyperparameters, all training rows, exact repeats merged. The first line of a table
is the dense factor; each further line is `sggp.hyperparameters.log_marginal_likelihood` with one working precision and
one seed: its value, how far that is from the factor's (as a share of it, and in standard errors), the standard error it
reports, what its data term leaves open at most, passes over K and seconds. The aim is 0.1 % and three standard errors.

    python benchmarks/likelihood.py [--sets pol] [--rows N] [--seeds S] [--probes P] [--dtypes float32 float64]
"""

from __future__ import annotations

import argparse
import math
import time

import torch

from lib.common import header, print_table, seeded
from lib.systems import System, uci_system
from sggp.hyperparameters import log_marginal_likelihood
from sggp.operators import KernelOperator
from sggp.solvers.cholesky import factorise

DTYPES = {"float32": torch.float32, "float64": torch.float64}
MEMORY_BUDGET = 8 * 2**30
SHARE, ERRORS = 1e-3, 3.0


def by_factor(system: System) -> float:
    """−½ yᵀH⁻¹y − ½ log|H| − ½ n log 2π of all rows, repeats and all."""
    operator = KernelOperator(
        system.kernel, system.x, system.noise_vector, dtype=torch.float64, memory_budget=MEMORY_BUDGET
    )
    lower, jitter = factorise(operator)
    assert jitter == 0.0
    y = system.y[:, None].double()
    quadratic = float((y * lower.solve(y)).sum())
    log_det = 2 * float(lower.diagonal().log().sum())
    return -0.5 * (quadratic + log_det + system.n * math.log(2 * math.pi))


def measured(system: System, arguments: argparse.Namespace) -> list[list[str]]:
    begin = time.perf_counter()
    exact = by_factor(system)
    seconds = time.perf_counter() - begin
    label = f"{system.name} ({system.n} rows)"
    rows = [[label, "dense factor", f"{exact:.2f}", "–", "–", "–", "–", "–", f"{seconds:.1f}", ""]]
    for name in arguments.dtypes:
        for seed in range(arguments.seeds):
            begin = time.perf_counter()
            found = log_marginal_likelihood(
                system.kernel,
                system.x,
                system.y,
                noise_variance=system.noise,
                num_probes=arguments.probes,
                generator=seeded(seed),
                dtype=DTYPES[name],
                memory_budget=MEMORY_BUDGET,
            )
            seconds = time.perf_counter() - begin
            away = found.value - exact
            met = abs(away) <= SHARE * abs(exact) and abs(away) <= ERRORS * found.standard_error
            rows.append(
                [
                    label,
                    f"Lanczos, {found.num_probes} probes, {name}, seed {seed}",
                    f"{found.value:.2f}",
                    f"{100 * away / abs(exact):+.4f} %",
                    f"{away / found.standard_error:+.2f}",
                    f"{found.standard_error:.2f}",
                    f"{0.5 * found.quadratic_bound:.2f}",
                    f"{found.passes:.1f}",
                    f"{seconds:.1f}",
                    "met" if met else "MISSED",
                ]
            )
            print(f"{label}: {found!r}, {found.steps} steps", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sets", nargs="*", choices=["pol", "elevators", "bike"], default=["pol"])
    add("--rows", type=int, default=None, help="rows to keep of every table (a dry run)")
    add("--seeds", type=int, default=3, help="independent runs")
    add("--probes", type=int, default=16, help="random probes of a run")
    add("--dtypes", nargs="*", choices=DTYPES, default=["float32", "float64"], help="working precisions")
    arguments = parser.parse_args()
    header("log marginal likelihood: dense float64 factor and stochastic Lanczos quadrature")
    table = [row for name in arguments.sets for row in measured(uci_system(name, arguments.rows), arguments)]
    print()
    columns = ["table", "by", "value", "away", "in s.e.", "s.e.", "left open", "passes", "seconds", "aim"]
    print_table(columns, table)


if __name__ == "__main__":
    main()
