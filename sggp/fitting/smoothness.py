"""Whether a rougher kernel explains the data better: the choice of family that the default kernel makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.errors import InputError
from sggp.evidence.aside import one_row_an_input, repeated_inputs
from sggp.evidence.drift import drifts, gain_ahead
from sggp.evidence.judging import judge_left_out
from sggp.evidence.leave_one_out import Observed
from sggp.hyperparameters.coordinates import copy_kernel
from sggp.hyperparameters.gram import stationary_parts
from sggp.hyperparameters.result import FitResult
from sggp.running import time_is_up

EVIDENCE = 1.0  # nats in all by which it must win an exact marginal likelihood
_JUDGED_ROWS = 200  # from which on left-out rows decide instead
_CLIMB = 0.05  # nats per row between the last record and the one before the last two
_STRETCH = 2.0  # of the length scales: near the origin a rougher kernel decays faster


def fit_smoothness(
    kernels: tuple[Kernel, Kernel],
    noise: float | None,
    fit: Callable[..., FitResult],
    table: Callable[[FitResult], Observed],
) -> FitResult:
    """Exact fits of two kernels, and the one that explains the data better.

    The rougher kernel starts from what the smoother one learnt. From 200 rows on every row is predicted from all
    others by both, and the smoother one must win beyond the standard errors of the differences, as in
    `sggp.evidence.judging.judge`; where most rows repeat an input, however few they are, every input by the mean of its
    targets, since copies of a row exaggerate any likelihood. Fewer rows tell too little: there the rougher one must win
    by a nat of marginal likelihood, for a smooth posterior finds optima faster. Where a column only grows or falls, the
    smoother one must win on rows ahead as well, see `sggp.evidence.drift`.

    Args:
        kernels: a smoother and a rougher one, scaled stationary kernels with their priors; copied, never changed.
        noise: the noise variance that the first search starts from; None takes its default.
        fit: (kernel, initial_noise_variance=) -> FitResult. table: the rows as such a result has them.

    Returns:
        FitResult of the winner; the message says what decided, and by how much their likelihoods differ.
    """
    smoother, rougher = kernels
    first = fit(smoother, initial_noise_variance=noise)
    if first.method != "exact" or time_is_up():
        return first
    trial = fit(started(rougher, first.kernel), initial_noise_variance=learnt_noise(first))
    gain = trial.log_marginal_likelihood - first.log_marginal_likelihood
    rough, smooth = _name(rougher), _name(smoother)
    rougher_wins, message = gain >= EVIDENCE, f"{rough} {gain:+.2f} nats beside {smooth}"
    observed = table(trial)
    groups = repeated_inputs(observed.x)
    if len(observed.x) >= _JUDGED_ROWS or groups is not None:
        both = {rough: observed, smooth: table(first)}
        if groups is not None:
            both = {name: one_row_an_input(each, groups) for name, each in both.items()}
        chosen, reason = judge_left_out(both)
        rougher_wins, message = chosen == rough, f"{message}; by rows left out {reason}"
    if not rougher_wins and drifts(observed.x):
        ahead = gain_ahead(table(first), observed)
        rougher_wins = not ahead.wins
        message = f"{message}; on rows ahead {smooth} {ahead} beside {rough}"
    winner = trial if rougher_wins else first
    return with_all_steps(winner, [first, trial], f"{winner.message}; {message}")


def started(kernel: Kernel, learnt: Kernel, stretch: float = _STRETCH) -> Kernel:
    """A copy of `kernel` with the output scale and, stretched, the length scales of another."""
    kernel = copy_kernel(kernel)
    ours, theirs = stationary_parts(kernel), stationary_parts(learnt)
    if ours is None or theirs is None or len(ours[0]) != 1 or len(theirs[0]) != 1:
        raise InputError("both kernels must be ScaleKernel(stationary kernel).")
    ours[1].lengthscale = stretch * theirs[1].lengthscale.detach()
    ours[0][0].outputscale = theirs[0][0].outputscale.detach()
    return kernel


def climbing(fit: FitResult) -> bool:
    """Whether the last records still rise by 0.05 nats a row."""
    values = [record["value"] for record in fit.trace[-3:]]
    return len(values) == 3 and values[-1] - values[0] > _CLIMB


def learnt_noise(fit: FitResult) -> float | None:
    """The noise that a search starts from; None where it was given per point."""
    return None if isinstance(fit.noise_variance, Tensor) else fit.noise_variance


def _name(kernel: Kernel) -> str:
    parts = stationary_parts(kernel)
    nu = getattr(parts[1], "nu", None) if parts is not None else None
    return type(kernel).__name__ if nu is None else f"Matérn-{int(2 * nu)}/2"


def with_all_steps(winner: FitResult, fits: list[FitResult], message: str) -> FitResult:
    """One of some fits, with the time, steps and records of all."""
    trace: list[dict[str, Any]] = []
    seconds, steps = 0.0, 0
    for fit in fits:
        for record in fit.trace:
            trace.append({**record, "step": steps + record["step"], "seconds": seconds + record["seconds"]})
        seconds, steps = seconds + fit.seconds, steps + fit.steps
    return replace(winner, trace=trace, seconds=seconds, steps=steps, message=message)
