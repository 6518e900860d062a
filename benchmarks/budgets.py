"""What a solve is worth when its budget ends: `Auto` beside conjugate gradients alone, by epochs allowed.

Of a table, or of a known function of ten columns with noise, some rows; a kernel with given length scales; the residual
that is reported and the relative error of Kx against a dense solve in float64. Memory is plenty, or 5,000 bytes a row,
about what a million rows have of the default budget. Tables need `SGGP_DATA_DIR`, and are left out without.

    python benchmarks/budgets.py [--rows 12000] [--epochs 6 12 24 48] [--systems function house protein]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from gpytorch.kernels import MaternKernel, ScaleKernel
from torch import Tensor

from lib.common import header, print_table, seeded
from sggp.datasets import large, uci
from sggp.errors import DataFileError
from sggp.operators import KernelOperator
from sggp.solvers import Auto, ConjugateGradients, Solution, Solver

BYTES_A_ROW = 5000
Table = tuple[np.ndarray, np.ndarray]


def function(n: int) -> Table:
    x = torch.rand(n, 10, generator=seeded(0), dtype=torch.float64)
    y = torch.sin(6 * x[:, 0]) + torch.cos(9 * x[:, -1]) * x[:, 0] + 0.5 * torch.sin(20 * x.mean(1))
    return x.numpy(), (y + 0.1 * torch.randn(n, generator=seeded(1), dtype=torch.float64)).numpy()


def of_uci(name: str) -> Callable[[int], Table]:
    def read(n: int) -> Table:
        split = uci(name)
        return split.x_train, split.y_train

    return read


def of_large(name: str) -> Callable[[int], Table]:
    def read(n: int) -> Table:
        read = large(name)
        return read.x, read.y

    return read


SYSTEMS: dict[str, tuple[Callable[[int], Table], float, float]] = {
    "function": (function, 3.0, 0.01),
    "house": (of_large("houseelectric_2007h1"), 2.0, 1e-3),
    "beijing": (of_large("beijing_pm25"), 2.0, 0.02),
    "protein": (of_uci("protein"), 1.5, 0.1),
    "protein, smooth": (of_uci("protein"), 4.0, 0.01),
    "keggdirected": (of_uci("keggdirected"), 3.0, 0.01),
    "elevators": (of_uci("elevators"), 6.0, 0.1),
}
"""Rows and targets; length scale in standard deviations of a column; noise variance in squared ones of the target."""


def standardised(values: np.ndarray) -> Tensor:
    return torch.as_tensor((values - values.mean(0)) / np.maximum(values.std(0), 1e-12), dtype=torch.float64)


def cell(solution: Solution, error: float) -> str:
    taken = ", dual descent" if "StochasticDualDescent" in solution.method else ""
    return f"{float(solution.residual):.3f}, {error:.3f}{taken}"


def race(name: str, rows: int, epochs: list[float]) -> list[list[str]]:
    """A line for each memory: residual and error of both solvers by epochs."""
    read, lengthscale, noise = SYSTEMS[name]
    x, y = read(rows)
    some = np.random.default_rng(0).permutation(len(x))[:rows]
    inputs, target = standardised(x[some]), standardised(np.asarray(y, dtype=float)[some])
    kernel = ScaleKernel(MaternKernel(nu=1.5)).double()
    kernel.outputscale, kernel.base_kernel.lengthscale = 1.0, lengthscale
    dense = KernelOperator(kernel, inputs, noise).dense()
    wanted = target - noise * torch.linalg.solve(dense, target)
    lines = []
    for label, memory in (("plenty", 4.0 * 2**30), ("little", BYTES_A_ROW * len(inputs))):
        operator = KernelOperator(
            kernel, inputs, noise, dtype=torch.float32, memory_budget=max(2.0**25, memory)
        )

        def solved(solver: Solver, most: float, operator: KernelOperator = operator) -> str:
            found = solver.solve(
                operator, target, tolerance=1e-3, max_epochs=most, generator=0, on_failure="return"
            )
            error = dense @ found.x - noise * found.x - wanted
            return cell(found, float(error.norm() / wanted.norm()))

        for solver in (ConjugateGradients(), Auto(direct_rows=0)):
            found = [solved(solver, most) for most in epochs]
            lines.append(
                [f"{name} ({len(inputs):,} x {inputs.shape[1]})", label, type(solver).__name__, *found]
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--epochs", type=float, nargs="+", default=[6, 12, 24, 48])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    arguments = parser.parse_args()
    header("Budgets: residual, error of Kx")
    table = []
    for name in arguments.systems:
        try:
            table += race(name, arguments.rows, arguments.epochs)
        except DataFileError as missing:
            print(f"{name} left out: {missing}")
    print_table(["system", "memory", "solver", *(f"{most:g} epochs" for most in arguments.epochs)], table)


if __name__ == "__main__":
    main()
