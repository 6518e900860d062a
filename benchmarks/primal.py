"""Primal stochastic gradient descent from its defaults, beside the published figures, dual descent and direct solves.

1. Two systems of 2,000 rows: the relative error of the predictions and the epochs, beside dual descent.
2. UCI tables, split 0, published hyperparameters: test RMSE on standardised targets, beside the published one of primal
   SGD and of the best solver (Lin et al. 2024, table 1). The papers allow 100,000 steps of 512 rows.
3. 2,000 centres on POL: test RMSE, beside a dense factor of the same normal equation.

    python benchmarks/primal.py [--parts small uci centres] [--sets pol bike] [--dtype float32] [--max-seconds T]
"""

from __future__ import annotations

import argparse
from typing import Any

import gpytorch
import torch
from torch import Tensor

from lib.common import header, print_table, seeded
from lib.systems import System, uci_system
from sggp.operators import InducingOperator, KernelOperator, select_centres
from sggp.solvers import Cholesky, Solution, Solver, StochasticDualDescent, StochasticGradientDescent

PARTS = ("small", "uci", "centres")
PUBLISHED = {  # RMSE of primal SGD, and the best one of the same table
    "pol": (0.13, 0.08),
    "elevators": (0.38, 0.35),
    "bike": (0.11, 0.04),
    "protein": (0.51, 0.50),
    "keggdirected": (0.12, 0.08),
}
SMALL = {"32 columns": (32, 6.0, 0.3), "8 columns": (8, 1.5, 3e-3)}  # columns, length scale, noise variance
ROWS, TEST_ROWS, CENTRES = 2000, 500, 2000
CENTRES_TOLERANCE = 1e-4
COLUMNS = ["system", "rows", "method", "status", "residual", "steps", "epochs", "seconds"]


def small_system(name: str) -> System:
    """Standard normal columns, a wavy target with noise, Matérn-3/2 of signal variance 1."""
    columns, lengthscale, noise = SMALL[name]
    draw = seeded(0)
    x = torch.randn(ROWS + TEST_ROWS, columns, generator=draw, dtype=torch.float64)
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5)).double()
    kernel.base_kernel.lengthscale, kernel.outputscale = lengthscale, 1.0
    y = torch.sin(x[:, 0]) + 0.5 * x[:, 1] * x[:, 2]
    y = y + noise**0.5 * torch.randn(len(x), generator=draw, dtype=torch.float64)
    y = (y - y.mean()) / y.std()
    return System(name, kernel.requires_grad_(False), noise, x[:ROWS], y[:ROWS], x[ROWS:], y[ROWS:])


def predicted(operator: Any, points: Tensor, system: System, weights: Tensor) -> Tensor:  # -> (m,)
    return operator.covariance.matmul(system.xs, points, weights.double())[:, 0]


def rmse(mean: Tensor, system: System) -> float:
    return float((mean - system.ys).square().mean().sqrt())


def cells(name: str, rows: int, solver: Solver, solution: Solution) -> list[str]:
    return [
        name,
        str(rows),
        type(solver).__name__,
        str(solution.status[0]),
        f"{float(solution.residual[0]):.1e}",
        str(solution.iterations),
        f"{solution.epochs:.1f}",
        f"{solution.seconds:.1f}",
    ]


def solve(solver: Solver, operator: Any, rhs: Tensor, tolerance: float, max_seconds: float) -> Solution:
    return solver.solve(
        operator,
        rhs,
        tolerance=tolerance,
        max_seconds=max_seconds,
        generator=seeded(0),
        on_failure="return",
    )


def small(arguments: argparse.Namespace) -> None:
    rows = []
    for name in SMALL:
        system = small_system(name)
        operator = KernelOperator(system.kernel, system.x, system.noise, dtype=torch.float64)
        exact = torch.linalg.solve(operator.dense(), system.y[:, None])
        truth = predicted(operator, system.x, system, exact)
        for solver in (StochasticGradientDescent(), StochasticDualDescent()):
            found = solve(solver, operator, system.y[:, None], arguments.tolerance, arguments.max_seconds)
            error = predicted(operator, system.x, system, found.x) - truth
            rows.append([*cells(name, system.n, solver, found), f"{float(error.norm() / truth.norm()):.1e}"])
    print_table([*COLUMNS, "error of predictions"], rows)


def uci(arguments: argparse.Namespace) -> None:
    rows = []
    for name in arguments.sets:
        raw = uci_system(name, arguments.rows)
        system, _ = raw.merged(raw.y[:, None])
        dtype = getattr(torch, arguments.dtype)
        operator = KernelOperator(system.kernel, system.x, system.noise_vector, dtype=dtype)
        solver = StochasticGradientDescent()
        found = solve(solver, operator, system.y[:, None], arguments.tolerance, arguments.max_seconds)
        score = rmse(predicted(operator, system.x, system, found.x), system)
        published = (f"{value:.2f}" for value in PUBLISHED[name])
        rows.append([*cells(name, system.n, solver, found), f"{score:.4f}", *published])
        print("  ".join(rows[-1]), flush=True)
    print()
    print_table([*COLUMNS, "RMSE", "published, SGD", "published, best"], rows)


def centres(arguments: argparse.Namespace) -> None:
    system = uci_system("pol", arguments.rows)
    z = select_centres(system.kernel, system.x, min(CENTRES, system.n // 2), generator=seeded(0))
    operator = InducingOperator(
        system.kernel, system.x, z, system.noise, dtype=getattr(torch, arguments.dtype)
    )
    rhs = operator.normal_rhs(system.y[:, None])
    rows = []
    for solver in (StochasticGradientDescent(), Cholesky()):
        found = solve(solver, operator, rhs, CENTRES_TOLERANCE, arguments.max_seconds)
        score = rmse(predicted(operator, z, system, found.x), system)
        rows.append([*cells(f"pol, {len(z)} centres", system.n, solver, found), f"{score:.4f}"])
    print_table([*COLUMNS, "RMSE"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add("--sets", nargs="+", choices=list(PUBLISHED), default=list(PUBLISHED))
    add("--rows", type=int, default=None, help="training and test rows to keep (a dry run)")
    add("--tolerance", type=float, default=1e-2)
    add("--max-seconds", type=float, default=540.0, help="for each solve")
    add(
        "--dtype",
        choices=["float32", "float64"],
        default="float32",
        help="of products, parts uci and centres",
    )
    arguments = parser.parse_args()
    header("primal stochastic gradient descent from its defaults")
    for part in arguments.parts:
        {"small": small, "uci": uci, "centres": centres}[part](arguments)


if __name__ == "__main__":
    main()
