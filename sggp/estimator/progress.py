"""What a fit says of itself while it runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sggp.errors import Stopped
from sggp.fitting import FittedModel, ModelSettings
from sggp.planning import plan_fit
from sggp.posterior import Posterior
from sggp.running import ProgressLines, heard, listening, stop_asked, tell

_PLANNED_ROWS = 10_000  # fewer are soon done
_LONG = 30.0  # seconds


@contextmanager
def watching(verbose: int) -> Iterator[None]:
    """Progress of the block on standard error, where `verbose` asks for it."""
    if not verbose:
        yield
        return
    lines = ProgressLines(sys.stderr)
    try:
        with listening(lines):
            yield
    finally:
        lines.close()


def tell_plan(rows: int, columns: int, settings: ModelSettings) -> None:
    """What a long fit will take, where someone listens and the plan knows its kind."""
    kernel = "auto" if settings.kernel is None else settings.kernel
    known = isinstance(kernel, str) and kernel != "tanimoto" and settings.solver is None
    if (
        not heard()
        or rows < _PLANNED_ROWS
        or not known
        or settings.optimizer not in ("auto", "nearest-neighbour")
    ):
        return
    plan = plan_fit(rows, columns, samples=settings.num_samples, kernel=kernel)
    if plan.seconds > _LONG:
        tell("plan", note=str(plan))


def tell_learnt(model: FittedModel) -> None:
    """What was learnt, how long it took, and the noise model."""
    fit = model.fit
    tell("hyperparameters", note=f"{fit.method}: {fit.message}, {fit.seconds:.1f} s")
    tell("noise", note=model.noise_model.reason)


def tell_solved(posteriors: Sequence[Posterior]) -> None:
    """What the solves say of themselves.

    Raises:
        Stopped: a stop came before the first step of a solve, so that there is nothing to keep.
    """
    for posterior in posteriors:
        solution = posterior.solution
        tell("solve", note=repr(solution))
        if stop_asked() is not None and solution.iterations == 0 and not solution.converged:
            raise Stopped(
                f"stopped by {stop_asked()} before the first step of the solve: there is no posterior to keep."
            )
