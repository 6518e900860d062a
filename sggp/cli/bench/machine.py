"""`sggp bench`: what this machine can do at best, and how fast the engine multiplies on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import gpytorch
import torch
import typer

from sggp.cli.bench import engines
from sggp.cli.console import print_table
from sggp.kernels import TanimotoMinMax, as_covariance
from sggp.native import ceilings

app = typer.Typer(help="Speed of this machine and of the engine.", no_args_is_help=False)
app.command("engines")(engines.engines)

_ROWS = 4096
_INPUTS = 16
_COLUMNS = 16
_WIDTH = 2048
_FINGERPRINTS = 1024
_SET_BITS = 0.02


@app.callback(invoke_without_command=True)
def bench(context: typer.Context) -> None:
    """Print the machine's ceilings and the engine's product rates."""
    if context.invoked_subcommand is not None:
        return
    works = ceilings.works()
    seconds = {name: [_best_time(work.call)] for name, work in works.items()}
    rows = [*engines.ceiling_rows(ceilings.rates(works, seconds)), *products()]
    title = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    print_table(title, ["what", "rate", "unit"], rows)


def products() -> list[tuple[str, float, str]]:
    """Kernel entries per second in K(x, x) v, float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_ROWS, _INPUTS, generator=generator)
    v = torch.randn(_ROWS, _COLUMNS, generator=generator)
    counts = (torch.rand(_FINGERPRINTS, _WIDTH, generator=generator) < _SET_BITS).to(torch.uint8)
    shape = f"{_INPUTS} inputs, {_COLUMNS} columns"
    out = []
    for name, kernel, rows in (
        (f"RBF, {shape}", gpytorch.kernels.RBFKernel(ard_num_dims=_INPUTS), x),
        (f"Matern-3/2, {shape}", gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=_INPUTS), x),
        (f"Tanimoto min-max, {_WIDTH} positions", TanimotoMinMax(), counts),
    ):
        covariance = as_covariance(gpytorch.kernels.ScaleKernel(kernel))
        seconds = _best_time(partial(covariance.matmul, rows, rows, v[: len(rows)]))
        out.append((name, len(rows) ** 2 / seconds / 1e9, "G entries/s"))
    return out


def _best_time(call: Callable[[], object]) -> float:
    """Shortest of a few timings after one call that is not timed, in seconds."""
    return min(ceilings.alternate({"": call}, repeats=3)[""])
