"""`sggp plan`: what a fit will take, before it is begun."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from sggp.cli.console import stdout
from sggp.defaults import NUM_SAMPLES
from sggp.planning import NAMED, plan_fit

_DEVICES = ", ".join(("here", *NAMED))


def plan(
    n: Annotated[float, typer.Option("--n", help="Distinct rows, as in 1e6.")],
    d: Annotated[int, typer.Option("--d", help="Input columns.")],
    samples: Annotated[int, typer.Option(help="Posterior samples.")] = NUM_SAMPLES,
    device: Annotated[
        str,
        typer.Option(
            help=f"One of {_DEVICES}; four as in h200:4, with bytes a second between them as in h200:4@5e10. "
            "here is measured: a second or two."
        ),
    ] = "here",
    kernel: Annotated[str, typer.Option(help="auto, matern12, matern32, matern52 or rbf.")] = "auto",
    passes: Annotated[
        float | None, typer.Option(help="Steps of the solve; default: what is typical.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Forecast seconds, memory and solver of a fit, by counted operations and what the device does of them."""
    found = plan_fit(n, d, samples=samples, device=device, kernel=kernel, passes=passes)
    stdout().print(json.dumps(found.to_dict(), indent=1) if as_json else str(found))
