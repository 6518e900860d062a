"""A solve killed with SIGKILL and resumed: that it ends where an uninterrupted one ends, and what that costs.

Mean and sample columns of a UCI table (split 0, published hyperparameters), float32 products, `checkpoint=path`. The
first process solves without a break; the second is killed halfway through the seconds that took; the third resumes
from the file the second left. A row says how many steps each made and how far apart the weights are.

    python benchmarks/resume.py [--sets bike] [--rows N] [--methods Auto StochasticDualDescent]
"""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import sggp.solvers
from lib.common import end, header, print_table, run_apart, seeded
from lib.contenders import right_hand_sides
from lib.systems import uci_system
from sggp.operators import KernelOperator


def solve(
    name: str, rows: int | None, method: str, arguments: Any, path: str, mark: str = ""
) -> dict[str, Any]:
    """One solve to the end, from the checkpoint if there is one; `mark` is touched when the solve begins."""
    raw = uci_system(name, rows)
    system, columns = raw.merged(right_hand_sides(raw, arguments.samples))
    operator = KernelOperator(system.kernel, system.x, system.noise_vector, dtype=torch.float32)
    solver = getattr(sggp.solvers, method)()
    if mark:
        Path(mark).touch()
    begin = time.perf_counter()
    solution = solver.solve(
        operator,
        columns,
        tolerance=arguments.tolerance,
        max_epochs=arguments.max_epochs,
        generator=seeded(0),
        checkpoint=path,
        on_failure="return",
    )
    return {
        "x": solution.x.numpy(),
        "iterations": solution.iterations,
        "residual": float(solution.residual.max()),
        "seconds": time.perf_counter() - begin,
        "status": ", ".join(sorted({str(status) for status in solution.status})),
    }


def killed(call: tuple[Any, ...], path: Path, mark: Path, seconds: float) -> str:
    """Start a solve, kill it so many seconds after it began, and say what it left."""
    process = multiprocessing.get_context("spawn").Process(target=solve, args=(*call, str(path), str(mark)))
    process.start()
    while not mark.exists():
        time.sleep(0.01)
    time.sleep(seconds)
    assert process.pid is not None
    process.kill()
    process.join()
    how = signal.Signals(-process.exitcode).name if process.exitcode else "ENDED BEFORE THE KILL"
    left = f"{path.stat().st_size / 2**20:.1f} MiB" if path.exists() else "NO CHECKPOINT YET"
    return f"{how} after {seconds:.1f} s, {left}"


def show(name: str, method: str, arguments: Any, folder: Path) -> list[str]:
    call = (name, arguments.rows, method, arguments)
    whole = run_apart(solve, *call, str(folder / f"{name}-{method}-whole")).value
    path = folder / f"{name}-{method}"
    left = killed(call, path, folder / f"{name}-{method}-mark", arguments.share * whole["seconds"])
    again = run_apart(solve, *call, str(path)).value
    difference = torch.as_tensor(again["x"]) - torch.as_tensor(whole["x"])
    distance = float(difference.norm() / torch.as_tensor(whole["x"]).norm())
    cells = [
        name,
        method,
        f"{whole['seconds']:.1f}",
        f"{whole['iterations']}",
        left,
        f"{again['seconds']:.1f}",
    ]
    return [*cells, f"{again['iterations']}", f"{again['residual']:.1e}", again["status"], f"{distance:.1e}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sets", nargs="+", default=["bike"])
    add("--methods", nargs="+", default=["Auto", "StochasticDualDescent"])
    add("--rows", type=int, default=None, help="rows to keep (a dry run)")
    add("--samples", type=int, default=64)
    add("--tolerance", type=float, default=1e-4)
    add("--max-epochs", type=float, default=200.0)
    add(
        "--share",
        type=float,
        default=0.5,
        help="of the uninterrupted solve's seconds, after which the kill comes",
    )
    arguments = parser.parse_args()
    header("a solve killed and resumed")
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            show(name, method, arguments, Path(folder))
            for name in arguments.sets
            for method in arguments.methods
        ]
    columns = [
        "set",
        "method",
        "uninterrupted, s",
        "steps",
        "killed",
        "resumed, s",
        "steps",
        "residual",
        "status",
    ]
    print_table([*columns, "distance to uninterrupted"], rows)
    end()


if __name__ == "__main__":
    main()
