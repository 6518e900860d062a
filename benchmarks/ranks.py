"""Products and a solve on several ranks of this host: entries a processor second, and what travels between ranks.

Each number of ranks runs the same products K(x, x) V and the same solve by conjugate gradients, started as torchrun
starts them (gloo, one thread each). Times are processor seconds, so they say what the ranks have to do, not how long
they wait for each other on a host with fewer cores: "busiest" is that of the slowest rank, which a host with a core
for each would take, and "entries a processor second" counts the seconds of all ranks.

    python benchmarks/ranks.py [--ranks 1 2] [--rows 20000] [--columns 1 65] [--repeats 3]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import time
from multiprocessing.queues import SimpleQueue
from typing import Any, NamedTuple

import gpytorch
import torch

import sggp
from lib.common import header, print_table, seeded

DIMENSION = 3
NOISE = 0.01


class Work(NamedTuple):
    """What every rank runs: n rows, s columns of each product, and how often."""

    rows: int
    columns: int
    repeats: int


class Seen(NamedTuple):
    """By one rank: processor seconds and bytes received of a product, and of a solve with its passes."""

    product_seconds: float
    product_bytes: int
    solve_seconds: float
    solve_bytes: int
    passes: float
    residual: float


def run(work: Work) -> Seen:
    """The products and the solve of one rank."""
    x = torch.randn(work.rows, DIMENSION, generator=seeded(0))
    v = torch.randn(work.rows, work.columns, generator=seeded(1))
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=DIMENSION))
    with sggp.distributed() as workers:
        operator = sggp.KernelOperator(kernel, x, NOISE)
        operator.matmul(v)
        begin, before = time.process_time(), received(workers)
        for _ in range(work.repeats):
            operator.matmul(v)
        middle, between = time.process_time(), received(workers)
        solution = sggp.ConjugateGradients().solve(
            operator, v, tolerance=1e-2, generator=0, on_failure="return"
        )
        end, after = time.process_time(), received(workers)
    return Seen(
        (middle - begin) / work.repeats,
        (between - before) // work.repeats,
        end - middle,
        after - between,
        solution.epochs,
        float(solution.residual.max()),
    )


def received(workers: Any) -> int:
    return getattr(workers, "bytes_received", 0)


def one_rank(rank: int, size: int, port: int, work: Work, out: SimpleQueue[Seen]) -> None:
    named = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {name: str(value) for name, value in (named | {"MASTER_PORT": port}).items()}
    torch.set_num_threads(1)
    out.put(run(work))


def on_ranks(size: int, work: Work) -> list[Seen]:
    """What each of so many ranks saw."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    out: SimpleQueue[Seen] = spawn.SimpleQueue()
    processes = [spawn.Process(target=one_rank, args=(rank, size, port, work, out)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [out.get() for _ in range(size)]


def row(size: int, work: Work, seen: list[Seen], alone: float) -> list[str]:
    busiest, total = max(one.product_seconds for one in seen), sum(one.product_seconds for one in seen)
    return [
        *(str(size), str(work.columns), f"{work.rows**2 / total / 1e9:.3g}", f"{busiest:.3g}"),
        *(f"{alone / busiest:.2f}", f"{max(one.product_bytes for one in seen) / 1e6:.3g}"),
        *(f"{max(one.solve_seconds for one in seen):.3g}", f"{seen[0].passes:.3g}"),
        *(f"{max(one.solve_bytes for one in seen) / 1e6:.3g}", f"{seen[0].residual:.1e}"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--columns", type=int, nargs="+", default=[1, 65])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    header("products and a solve on several ranks")
    rows = []
    for columns in args.columns:
        work, alone = Work(args.rows, columns, args.repeats), None
        for size in args.ranks:
            seen = on_ranks(size, work)
            alone = alone or max(one.product_seconds for one in seen)
            rows.append(row(size, work, seen, alone))
    names = ["ranks", "columns", "10⁹ entries / CPU s", "product, busiest [CPU s]", "times the first row's"]
    names += ["received a product [MB]", "solve, busiest [CPU s]", "passes", "received [MB]", "residual"]
    print_table(names, rows)


if __name__ == "__main__":
    main()
