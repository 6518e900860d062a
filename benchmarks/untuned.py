"""Every method from its defaults on every kind of system: what it reports, and what is true.

Right-hand sides: the target and sample-like columns (a prior function and noise), repeats merged. Each run has the same
tolerance and time. What a solve reports is held against residuals that a float64 operator of its own measures:

    ok      every column converged, and is as good as reported
    missed  some columns missed the tolerance and say so; "worse than zero" where the answer is no better than none,
            "estimate off" where an estimated residual is wrong by more than five of its standard errors
    SILENT  a column is reported as converged but is not converged, has another residual than the measured one it
            reports, or holds NaN or infinity without saying so
    raised  an error says that there is no answer

Exits with code 1 if anything was SILENT.

    python benchmarks/untuned.py [--sets pol n=5] [--methods Auto] [--rows N] [--max-seconds T] [--tolerance T]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gpytorch
import torch

from lib.common import header, print_table, seeded
from lib.systems import System, docking_system, uci_system
from sggp.errors import DataFileError, MissingExtra, SggpError
from sggp.kernels import TanimotoDotProduct, draw_features
from sggp.operators import InducingOperator, KernelOperator, select_centres
from sggp.solvers import (
    AlternatingProjections,
    Auto,
    Cholesky,
    ConjugateGradients,
    SketchAndProject,
    Solution,
    Solver,
    Status,
    StochasticDualDescent,
    StochasticGradientDescent,
)

SAMPLES, FEATURES, CENTRES = 4, 1000, 500
LOW_NOISE = 1e-6
DOCKING_NOISE = 0.21
SLACK = 1.01
"""By how much a measured residual may exceed what is reported."""
ERRORS = 5
"""Standard errors by which an estimated residual may be wrong: few rows of a skewed distribution."""
ROUNDING = 1e-8
"""A residual that rounding alone moves is no lie."""
CENTRED = "StochasticGradientDescent, centres"

METHODS: dict[str, Solver] = {
    "Cholesky": Cholesky(),
    "Cholesky, float32 factor": Cholesky(factor_dtype=torch.float32),
    "ConjugateGradients": ConjugateGradients(),
    "StochasticDualDescent": StochasticDualDescent(),
    "StochasticGradientDescent": StochasticGradientDescent(),
    CENTRED: StochasticGradientDescent(),
    "AlternatingProjections": AlternatingProjections(),
    "SketchAndProject": SketchAndProject(),
    "Auto": Auto(),
}


def synthetic(
    name: str, base: Any, x: torch.Tensor, noise_variance: float, lengthscale: float = 1.0
) -> System:
    """A smooth target with noise on given rows, signal variance 1."""
    kernel = gpytorch.kernels.ScaleKernel(base).double()
    base.lengthscale, kernel.outputscale = lengthscale, 1.0
    wave = torch.sin(3 * x).sum(1)
    noise = torch.randn(len(x), generator=seeded(1), dtype=torch.float64)
    y = wave + noise_variance**0.5 * noise
    return System(name, kernel.requires_grad_(False), noise_variance, x, y, x[:0], y[:0])


def clustered(noise_variance: float, rows: int) -> System:
    """Rows in forty clusters of a ten-thousandth of a length scale."""
    centres = 3 * torch.rand(40, 3, generator=seeded(2), dtype=torch.float64)
    spread = 1e-4 * torch.randn(rows, 3, generator=seeded(3), dtype=torch.float64)
    x = centres[torch.arange(rows) % 40] + spread
    return synthetic("clustered", gpytorch.kernels.MaternKernel(nu=1.5), x, noise_variance)


def line(noise_variance: float, rows: int) -> System:
    """Rows on a line, under the smoothest kernel: eigenvalues fall faster than anywhere else."""
    x = 10 * torch.rand(rows, 1, generator=seeded(4), dtype=torch.float64)
    return synthetic("d=1", gpytorch.kernels.RBFKernel(), x, noise_variance)


def five(rows: int) -> System:
    x = torch.rand(5, 2, generator=seeded(5), dtype=torch.float64)
    return synthetic("n=5", gpytorch.kernels.MaternKernel(nu=1.5), x, 1e-2)


def table(name: str, noise_variance: float | None, rows: int) -> System:
    return uci_system(name, rows, noise_variance)


def docking(dot_product: bool, rows: int) -> System:
    system = docking_system(rows, DOCKING_NOISE)
    if not dot_product:
        return system
    kernel = gpytorch.kernels.ScaleKernel(TanimotoDotProduct()).double()
    kernel.outputscale = 1.0
    return replace(system, kernel=kernel.requires_grad_(False))


TABLES = ("pol", "elevators", "bike", "protein", "keggdirected")
SETS: dict[str, Callable[[int], System]] = {
    **{name: partial(table, name, None) for name in TABLES},
    **{f"{name}-1e-6": partial(table, name, LOW_NOISE) for name in TABLES},
    "clustered": partial(clustered, 1e-2),
    "clustered-1e-6": partial(clustered, LOW_NOISE),
    "docking-minmax": partial(docking, False),
    "docking-dot-product": partial(docking, True),
    "d=1": partial(line, 1e-2),
    "d=1-1e-6": partial(line, LOW_NOISE),
    "n=5": five,
}


def columns_of(system: System) -> torch.Tensor:  # -> (n, 1 + SAMPLES)
    """The target, and what the solves of samples are made of."""
    features = draw_features(system.kernel, FEATURES, input_dim=system.x.shape[1], generator=seeded(6))
    weights = torch.randn(features.num_features, SAMPLES, generator=seeded(7), dtype=torch.float64)
    noise = torch.randn(system.n, SAMPLES, generator=seeded(8), dtype=torch.float64)
    samples = features.apply(system.x, weights).double() + system.noise_vector.sqrt()[:, None] * noise
    return torch.cat([system.y[:, None], samples], 1)


def centres_of(system: System) -> torch.Tensor:
    if system.n <= CENTRES:
        return system.x
    if system.x.is_floating_point():
        return select_centres(system.kernel, system.x, CENTRES, generator=seeded(9))
    return system.x[torch.randperm(system.n, generator=seeded(9))[:CENTRES]]


@dataclass(frozen=True)
class Equation:
    """What is solved, and an operator that has nothing to do with the solve to measure it with."""

    operator: Any
    judge: Any
    rhs: torch.Tensor


def equation(system: System, rhs: torch.Tensor, dtype: torch.dtype, centred: bool) -> Equation:
    noise = system.noise_vector
    if not centred:
        operators = [KernelOperator(system.kernel, system.x, noise, dtype=t) for t in (dtype, torch.float64)]
        return Equation(*operators, rhs)
    z = centres_of(system)
    normal = [InducingOperator(system.kernel, system.x, z, noise, dtype=t) for t in (dtype, torch.float64)]
    return Equation(*normal, normal[1].normal_rhs(rhs))


def judged(solution: Solution, true: torch.Tensor) -> str:
    """The verdict of a solve whose columns truly have the residuals `true`, infinite where x is not finite."""
    silent = off = False
    for i, status in enumerate(solution.status):
        actual, error = float(true[i]), float(solution.residual_error[i])
        reported = float(solution.residual[i]) + ERRORS * error
        if status is Status.CONVERGED:
            silent |= not actual <= SLACK * float(solution.tolerance[i])
        elif status not in (Status.DIVERGED, Status.BREAKDOWN, Status.NONFINITE_INPUT):
            wrong = not actual <= SLACK * reported + ROUNDING
            silent |= wrong and (error == 0 or actual == float("inf"))
            off |= wrong
    if silent:
        return "SILENT"
    if solution.converged:
        return "ok"
    if not float(true.max()) <= SLACK:
        return "missed, worse than zero"
    return "missed, estimate off" if off else "missed"


def shown(solution: Solution) -> list[str]:
    counts = {str(status): solution.status.count(status) for status in solution.status}
    return [
        ", ".join(f"{count} {status}" for status, count in counts.items()),
        f"{float(solution.residual.max()):.1e} ({solution.residual_kind})",
    ]


def tried(
    solver: Solver, system: System, rhs: torch.Tensor, centred: bool, arguments: argparse.Namespace
) -> list[str]:
    """The cells of one run from its status on."""
    made = equation(system, rhs, getattr(torch, arguments.dtype), centred)
    try:
        solution = solver.solve(
            made.operator,
            made.rhs,
            tolerance=arguments.tolerance,
            max_seconds=arguments.max_seconds,
            generator=seeded(0),
            on_failure="return",
        )
    except SggpError as error:
        return [type(error).__name__, "–", "–", str(error)[:60], "–", "–", "raised"]
    residual = made.rhs - made.judge.matmul_wide(solution.x.double())
    true = torch.nan_to_num(residual.norm(dim=0) / made.rhs.norm(dim=0), nan=float("inf"))
    notes = "; ".join(note.split(":")[0].rstrip(".")[:40] for note in solution.notes[:3])
    notes += f" (+{len(solution.notes) - 3})" if len(solution.notes) > 3 else ""
    cost = [f"{solution.epochs:.1f}", f"{solution.seconds:.2f}"]
    return [*shown(solution), f"{float(true.max()):.1e}", notes, *cost, judged(solution, true)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sets", nargs="*", choices=SETS, default=list(SETS), metavar="SET", help=", ".join(SETS))
    add("--methods", nargs="*", choices=METHODS, default=list(METHODS), metavar="METHOD")
    add("--rows", type=int, default=3000, help="rows of every system, before repeats are merged")
    add("--max-seconds", type=float, default=10.0)
    add("--tolerance", type=float, default=1e-2)
    add("--dtype", choices=["float32", "float64"], default="float64", help="working precision of products")
    arguments = parser.parse_args()
    header("every method from its defaults: what it reports and what is true")
    rows: list[list[str]] = []
    for name in arguments.sets:
        try:
            raw = SETS[name](arguments.rows)
        except (MissingExtra, DataFileError) as error:
            print(f"{name}: left out: {error}", flush=True)
            continue
        system, rhs = raw.merged(columns_of(raw))
        for method in arguments.methods:
            cells = tried(METHODS[method], system, rhs, method == CENTRED, arguments)
            rows.append([f"{name} ({system.n})", method, *cells])
            print("  ".join(rows[-1]), flush=True)
    print()
    columns = ["system (distinct rows)", "method", "columns", "worst residual", "true", "notes"]
    print_table([*columns, "epochs", "seconds", "verdict"], rows)
    verdicts = [row[-1] for row in rows]
    print("; ".join(f"{verdicts.count(kind)} {kind}" for kind in sorted(set(verdicts))), flush=True)
    if "SILENT" in verdicts:
        sys.exit("a solve reports what is not true: see SILENT above.")


if __name__ == "__main__":
    main()
