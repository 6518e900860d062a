"""Smooth and rough systems: iterations, set-up and seconds of `ConjugateGradients` by preconditioner.

The smooth ones are a robot arm of eight joints, almost without noise (`arm_rows` in lib/systems.py), under RBF with
noise variance .0028 (10,000 rows, 17 columns) and under Matérn-3/2 with 4e-5 (36,000 rows, 65 columns), with fixed
hyperparameters; and the UCI tables sml, parkinsons and airfoil under RBF learnt on them. POL, PROTEIN and ELEVATORS
with their published Matérn-3/2 stand for the rough ones. A right-hand side is the target and normal columns.
Entries of K are counted in products, n² each; the first line of each system is what `ConjugateGradients("auto")` takes.

    python benchmarks/systems.py [--sets arm-rbf sml] [--rows N] [--columns S] [--with-fixed] [--tolerance 1e-2]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from lib.common import header, print_table, seeded
from lib.systems import System, arm_system, plain_system, uci_system
from sggp.errors import DataFileError
from sggp.operators import KernelOperator
from sggp.preconditioners import (
    Balanced,
    Given,
    LowRankPlusNeighbour,
    NearestNeighbour,
    Nystrom,
    Preconditioner,
)
from sggp.solvers import ConjugateGradients

MEMORY_GIB = 4.0


@dataclass(frozen=True)
class Row:
    """How a system is made from a number of rows, how many it has, and its columns."""

    load: Callable[[int], System]
    rows: int
    columns: int


def arm(kind: str, noise_variance: float, rows: int) -> System:
    return arm_system(kind, rows, noise_variance)


def learnt(name: str, rows: int) -> System:
    return plain_system(name, "rbf", rows)


ROWS = {
    "arm-rbf": Row(partial(arm, "rbf", 0.0028), 10_000, 17),
    "arm-matern32": Row(partial(arm, "matern32", 4e-5), 36_000, 65),
    **{name: Row(partial(learnt, name), 10_000, 17) for name in ("sml", "parkinsons", "airfoil")},
    **{name: Row(partial(uci_system, name), 10_000, 17) for name in ("pol", "protein", "elevators")},
}


def fixed(n: int) -> list[Preconditioner]:
    """Preconditioners of given size, cut to n/4 on few rows."""
    cut = n // 4
    return [
        NearestNeighbour(min(100, cut)),
        Nystrom(min(1000, cut)),
        Nystrom(min(2500, cut)),
        LowRankPlusNeighbour(min(500, cut), min(100, cut)),
    ]


def line(
    name: str, operator: KernelOperator, rhs: torch.Tensor, kind: Preconditioner, tolerance: float
) -> list[str]:
    n, before = operator.shape[0], operator.entries_evaluated
    begin, label = time.perf_counter(), repr(kind).replace(", landmarks='rpcholesky'", "")
    if isinstance(kind, Balanced):
        sizes, _, _ = kind.sizes(operator, seeded(0))
        label = f"auto: rank {sizes[0]}, {sizes[1]} neighbours"
        before, begin = operator.entries_evaluated, time.perf_counter()
    built = kind.build(operator, seeded(0))
    setup, entries = time.perf_counter() - begin, (operator.entries_evaluated - before) / n**2
    solution = ConjugateGradients(Given(built)).solve(
        operator, rhs, tolerance=tolerance, max_epochs=300, generator=seeded(0), on_failure="return"
    )
    steps = f"{solution.iterations}" if solution.converged else f"> {solution.iterations}"
    products = (operator.entries_evaluated - before) / n**2 - entries
    cells = [
        name,
        label,
        steps,
        f"{entries:.2f}",
        f"{products:.1f}",
        f"{setup:.1f}",
        f"{solution.seconds:.1f}",
    ]
    print("  ".join(cells), flush=True)
    return cells


def show(name: str, arguments: argparse.Namespace) -> list[list[str]]:
    row = ROWS[name]
    wanted = row.rows if arguments.rows is None else min(row.rows, arguments.rows)
    try:
        raw = row.load(wanted)
    except DataFileError as error:
        print(f"{name}: left out: {error}", flush=True)
        return []
    columns = row.columns if arguments.columns is None else arguments.columns
    noise = torch.randn(raw.n, columns - 1, generator=seeded(7), dtype=torch.float64)
    system, rhs = raw.merged(torch.cat([raw.y[:, None], noise], 1))
    operator = KernelOperator(
        system.kernel,
        system.x,
        system.noise_vector,
        dtype=torch.float32,
        memory_budget=MEMORY_GIB * 2**30,
    )
    ratio = float(system.noise_vector.mean() / operator.kernel_diagonal().mean())
    label = f"{name} ({system.n} rows, {columns} columns, noise/signal {ratio:.1e})"
    kinds: list[Preconditioner] = [Balanced(columns=columns, memory_budget=MEMORY_GIB * 2**29)]
    kinds += fixed(system.n) if arguments.with_fixed else []
    return [line(label, operator, rhs, kind, arguments.tolerance) for kind in kinds]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sets", nargs="+", choices=list(ROWS), default=list(ROWS))
    add("--rows", type=int, default=None, help="rows to keep of every system (a dry run)")
    add("--columns", type=int, default=None, help="right-hand sides; default those of each system")
    add("--with-fixed", action="store_true", help="also preconditioners of given size")
    add("--tolerance", type=float, default=1e-2)
    arguments = parser.parse_args()
    header("iterations and set-up by preconditioner")
    rows = [cells for name in arguments.sets for cells in show(name, arguments)]
    columns = [
        "system",
        "preconditioner",
        "iterations",
        "set-up: products' entries",
        "solve: products' entries",
    ]
    print_table([*columns, "set-up s", "solve s"], rows)


if __name__ == "__main__":
    main()
