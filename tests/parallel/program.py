"""Starts ranks as torchrun does and saves what each of them computes: `program.py FOLDER`."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

import sggp
from sggp.kernels import sharing
from sggp.parallel import Workers
from sggp.parallel import roll_call as roll_calls
from sggp.random import as_generator
from sggp.solvers import StochasticDualDescent
from sggp.solvers.core import checkpoint
from tests.parallel import work

Target = Callable[[Path], dict[str, Any]]
CG = sggp.ConjugateGradients(None)
KILLED = 6
"""The iteration at which a rank dies."""


def ranks(size: int, target: Target, folder: Path) -> None:
    """Run `target` on so many ranks; what they return goes into `folder`, rank by rank."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=one_rank, args=(rank, size, port, target, folder)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def one_rank(rank: int, size: int, port: int, target: Target, folder: Path) -> None:
    named = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {name: str(value) for name, value in (named | {"MASTER_PORT": port}).items()}
    torch.set_num_threads(1)
    np.random.seed(rank)  # noqa: NPY002 (what a model without a seed draws from; a fork would have its parent's)
    sharing.LEAST_ENTRIES = 1
    torch.save(target(folder), folder / f"{rank}.pt")


def alike(folder: Path) -> dict[str, Any]:
    with sggp.distributed(timeout=60) as workers:
        found = {
            "everything": work.everything(),
            "chance": work.by_chance(),
            "size": workers.size,
            "cpu": time.process_time(),
        }
        return found if workers.size == 2 else found | {"resumed": resumed(workers, folder)}


def wrong(folder: Path) -> dict[str, Any]:
    """Every way to go wrong, in a process group of the program's own."""
    dist.init_process_group("gloo")
    roll_calls.SECONDS = 0.3
    said = {}
    for mistake in (another_seed, another_table, another_kernel, another_lengthscale, another_place, alone):
        try:
            with sggp.distributed() as workers:
                mistake(workers)
        except sggp.SggpError as error:
            said[mistake.__name__] = f"{type(error).__name__}: {error}"
    with sggp.distributed() as workers:
        operator = sggp.KernelOperator(work.matern(), work.rows(), 0.1)
        said["map"] = refused(lambda: workers.map(len, [1]), TypeError)
        said["map error"] = refused(lambda: workers.map(fails_unpickled, [0, 1]), RuntimeError)
        said["map result"] = refused(lambda: workers.map(gives_unpickled, [0, 1]), sggp.SggpError)
        said["shared result"] = refused(lambda: workers.shared(lambda: gives_unpickled(1)), sggp.SggpError)
        said["inner block"] = refused(lambda: sggp.distributed().__enter__(), sggp.SggpError)
    said["outside"] = refused(lambda: operator.matmul(work.numbers(work.N, 1)), sggp.SggpError)
    return said


class OfTwo(Exception):
    """Is pickled, and cannot be made from what was pickled."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"{name} number {number}")


def fails_unpickled(item: int) -> int:
    if item:
        raise OfTwo("reactor", item)
    return item


def gives_unpickled(item: int) -> Any:
    return (lambda: item) if item else item


def refused(call: Callable[[], Any], kind: type[Exception]) -> str:
    try:
        call()
    except kind as error:
        return str(error)
    return ""


def another_seed(workers: Workers) -> None:
    operator = sggp.KernelOperator(work.matern(), work.rows(), 0.1)
    operator.matmul(torch.randn(work.N, 2, generator=as_generator(workers.rank)).double())


def another_table(workers: Workers) -> None:
    sggp.condition(work.matern(), work.rows(), work.targets() + workers.rank, noise_variance=0.1, generator=0)


def another_kernel(workers: Workers) -> None:
    """Without samples no right-hand side hangs on the kernel."""
    kernel = work.matern()
    kernel.outputscale = 1.0 + workers.rank
    sggp.condition(kernel, work.rows(), work.targets(), noise_variance=0.1, solver=CG, num_samples=0)


def another_lengthscale(workers: Workers) -> None:
    """Of a matrix that is kept, by rows."""
    kernel = work.polynomial()
    kernel.base_kernel.lengthscale = 1.0 + workers.rank
    CG.solve(sggp.KernelOperator(kernel, work.rows(), 0.1), work.targets())


def another_place(workers: Workers) -> None:
    x, v = work.rows(), work.numbers(work.N, 2)
    operator = sggp.KernelOperator(work.matern(), x, 0.1)
    if workers.first:
        operator.matmul(v)
    operator.matmul(v[:, :1])


def alone(workers: Workers) -> None:
    if workers.first:
        sggp.KernelOperator(work.matern(), work.rows(), 0.1).matmul(work.numbers(work.N, 2))


def solved(folder: Path, callback: Any = None) -> Any:
    """A solve that writes its checkpoint after every step."""
    checkpoint._INTERVAL, checkpoint._WORK_PER_WRITE = 0.0, 0.0
    return StochasticDualDescent().solve(
        sggp.KernelOperator(work.matern(), work.rows(), 0.1),
        work.numbers(work.N, 2, seed=4),
        tolerance=5e-2,  # some iterations, each with a write
        generator=5,
        callback=callback,
        checkpoint=folder / "solve.ckpt",
    )


def killed(folder: Path) -> dict[str, Any]:
    """Rank 1 dies on its way."""

    def dies(progress: Any) -> None:
        if progress.iterations == KILLED and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)

    roll_calls.SECONDS = 0.3
    try:
        with sggp.distributed():
            solved(folder, dies)
    except sggp.SggpError as error:
        return {"said": f"{type(error).__name__}: {error}"}
    return {"said": ""}


def fails(folder: Path) -> dict[str, Any]:
    """Rank 1 ends with an error of its own."""
    try:
        with sggp.distributed() as workers:
            if workers.rank == 1:
                raise ValueError("the disk is full")
            solved(folder)
    except (sggp.SggpError, ValueError) as error:
        return {"said": f"{type(error).__name__}: {error}"}
    return {"said": ""}


def resumed(workers: Workers, folder: Path) -> dict[str, Any]:
    """The solve of the rank that died goes on, on another number of them, from a copy of its file."""
    if workers.first:
        shutil.copy(folder.parent / "killed" / "solve.ckpt", folder)
    solution = solved(folder)
    return {"x": solution.x, "notes": solution.notes}


def main(folder: Path) -> None:
    sharing.LEAST_ENTRIES = 1
    torch.set_num_threads(1)
    torch.save({"everything": work.everything(), "x": solved(folder).x}, folder / "one.pt")
    ranks(2, killed, folder / "killed")
    for size in (1, 2, 4):
        ranks(size, alike, folder / f"alike-{size}")
    ranks(2, wrong, folder / "wrong")
    ranks(2, fails, folder / "fails")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
