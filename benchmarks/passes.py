"""Passes over K until the true relative residual is below 1e-1 … 1e-4, by preconditioner.

Published hyperparameters, split 0, repeats merged, one right-hand side (the target), float32 products, float64
recurrence scalars. One pass is one product with K; the set-up of the preconditioner is counted in seconds.

    python benchmarks/passes.py [--sets pol elevators bike] [--rows N] [--noise-variance V]
"""

from __future__ import annotations

import argparse

import gpytorch
import torch
from common import header, print_table, seeded

from sggp.datasets import uci, uci_hyperparameters
from sggp.operators import KernelOperator
from sggp.posterior.merge import group_rows
from sggp.preconditioners import LowRankPlusNeighbour, NearestNeighbour, Nystrom, Preconditioner
from sggp.solvers import ConjugateGradients

LEVELS = (1e-1, 1e-2, 1e-3, 1e-4)


def system(
    name: str, rows: int | None, noise_variance: float | None
) -> tuple[KernelOperator, torch.Tensor, int]:
    """The operator of a set with its repeats merged, the merged target and the number of rows before merging."""
    data, published = uci(name, 0), uci_hyperparameters(name, 0)
    x, y = torch.as_tensor(data.x_train)[:rows], torch.as_tensor(data.y_train)[:rows]
    base = gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=x.shape[1])
    kernel = gpytorch.kernels.ScaleKernel(base).double()
    kernel.outputscale = torch.tensor(published.outputscale, dtype=torch.float64)
    base.lengthscale = torch.as_tensor(published.lengthscale, dtype=torch.float64)
    noise = torch.full((len(x),), noise_variance or published.noise_variance, dtype=torch.float64)
    groups = group_rows(x)
    target = groups.mean(y[:, None], noise)[:, 0]
    merged = groups.noise(noise)
    operator = KernelOperator(kernel, x[groups.first], merged, dtype=torch.float32, memory_budget=8 * 2**30)
    return operator, target, len(x)


def passes(
    operator: KernelOperator, target: torch.Tensor, preconditioner: Preconditioner | None
) -> list[str]:
    """Passes to each level, the true residual at the end, and seconds in all."""
    first: dict[float, int] = {}

    def watch(progress) -> None:
        for level in LEVELS:
            if level not in first and float(progress.residual[0]) < level:
                first[level] = progress.iterations

    solution = ConjugateGradients(preconditioner).solve(
        operator,
        target,
        tolerance=LEVELS[-1],
        max_epochs=400,
        generator=seeded(0),
        callback=watch,
        on_failure="return",
    )
    cells = [str(first.get(level, f"> {solution.iterations}")) for level in LEVELS]
    return [*cells, f"{float(solution.residual[0]):.1e}", f"{solution.seconds:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", default=["pol", "elevators", "bike"])
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--noise-variance", type=float, default=None)
    arguments = parser.parse_args()
    header("passes over K to a true relative residual, split 0, published hyperparameters, repeats merged")
    kinds: list[Preconditioner | None] = [
        Nystrom(500, landmarks="uniform"),
        Nystrom(500),
        NearestNeighbour(60),
        LowRankPlusNeighbour(500, 40),
    ]
    table = []
    for name in arguments.sets:
        operator, target, given = system(name, arguments.rows, arguments.noise_variance)
        operator.matmul(target[:, None].float())  # K is in memory from here on where it fits
        for kind in kinds:
            label = "none" if kind is None else repr(kind)
            table.append(
                [f"{name} ({given} rows, {len(target)} distinct)", label, *passes(operator, target, kind)]
            )
            print("  ".join(table[-1]), flush=True)
    print()
    columns = ["set", "preconditioner", *[f"{level:g}" for level in LEVELS], "true residual", "seconds"]
    print_table(columns, table)


if __name__ == "__main__":
    main()
