"""Whether a rougher kernel explains the data better: the choice of family that the default kernel makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.errors import InputError
from sggp.hyperparameters.coordinates import copy_kernel
from sggp.hyperparameters.gram import stationary_parts
from sggp.hyperparameters.result import FitResult

GAIN = 0.003  # nats per row by which the rougher kernel must win
EVIDENCE = 1.0  # nats in all by which it must win an exact marginal likelihood
_FIRST: dict[str, Any] = {"max_steps": 150}
_TRIAL: dict[str, Any] = {"max_steps": 120}
_LAST: dict[str, Any] = {"max_steps": 350, "learning_rate": 0.05}
_ANEW: dict[str, Any] = {"max_steps": 300, "learning_rate": 0.2}  # where there is a long way to go
_CLIMB = 0.05  # nats per row between the last record and the one before the last two
_STRETCH = 2.0  # of the length scales: near the origin a rougher kernel decays faster


def fit_smoother_or_rougher(
    smoother: Kernel, rougher: Kernel, rows: int, fit: Callable[..., FitResult]
) -> FitResult:
    """A nearest-neighbour fit of the one of two kernels that explains the data better.

    The smoother kernel gets 150 steps, the rougher one 120 from there. If the rougher one then wins by 0.003 nats a row
    it is fitted to the end, if not the other. A smoother one that still climbs by 0.05 nats a row over its last two
    records has far to go (a function without noise, say): it is fitted anew first, with steps twice as large, or the
    trial would win by its further steps alone. Both likelihoods are of the same rows. Only a rougher kernel is tried:
    given a few neighbours a smooth kernel looks better than it is to all rows at once (ELEVATORS: Matérn-5/2 wins .008
    nats a row over Matérn-3/2 and loses .016 on the test rows); a rough one, whose conditionals are local, does not.

    Args:
        smoother, rougher: scaled stationary kernels with their priors; copied, never changed.
        rows: the number of targets that a likelihood is of.
        fit: (kernel, max_steps=, learning_rate=, initial_noise_variance=) -> FitResult, of the same rows in the same
            order at every call.

    Returns:
        FitResult of the winner; the message says by how much their likelihoods differ. Seconds, steps and trace count
        all steps, in their order.

    Raises:
        InputError: a kernel is not ScaleKernel(stationary kernel).

    Cost: at most 620 steps of `fit_nearest_neighbour`, 920 where the smoother one climbs and yet loses.
    """
    first = fit(smoother, **_FIRST)
    if first.method != "nearest-neighbour":
        return first
    fits = [first]
    finished = False
    if _climbing(first):
        anew = fit(smoother, **_ANEW)
        fits.append(anew)
        finished = anew.log_marginal_likelihood >= first.log_marginal_likelihood
        first = anew if finished else first
    trial = fit(_started(rougher, first.kernel), **_TRIAL, initial_noise_variance=_learnt(first))
    gain = (trial.log_marginal_likelihood - first.log_marginal_likelihood) / rows
    fits.append(trial)
    winner = trial if gain >= GAIN else first
    if winner is trial or not finished:
        winner = fit(winner.kernel, **_LAST, initial_noise_variance=_learnt(winner))
        fits.append(winner)
    message = f"{winner.message}; {_name(rougher)} {gain:+.4f} nats a row beside {_name(smoother)}"
    return _with_all_steps(winner, fits, message)


def fit_rougher_where_evident(
    smoother: Kernel, rougher: Kernel, noise: float | None, fit: Callable[..., FitResult]
) -> FitResult:
    """An exact fit of the one of two kernels that explains the data better.

    The rougher kernel starts from what the smoother one learnt, and must win by a nat of marginal likelihood: with few
    rows the difference is noise, and a smooth posterior finds optima faster.

    Args:
        smoother, rougher: scaled stationary kernels with their priors; copied, never changed.
        noise: the noise variance that the first search starts from; None takes its default.
        fit: (kernel, initial_noise_variance=) -> FitResult.

    Returns:
        FitResult of the winner; the message says by how much their likelihoods differ.
    """
    first = fit(smoother, initial_noise_variance=noise)
    if first.method != "exact":
        return first
    trial = fit(_started(rougher, first.kernel), initial_noise_variance=_learnt(first))
    gain = trial.log_marginal_likelihood - first.log_marginal_likelihood
    winner = trial if gain >= EVIDENCE else first
    message = f"{winner.message}; {_name(rougher)} {gain:+.2f} nats beside {_name(smoother)}"
    return _with_all_steps(winner, [first, trial], message)


def _started(kernel: Kernel, learnt: Kernel) -> Kernel:
    """A copy of `kernel` with the output scale and, stretched, the length scales of another."""
    kernel = copy_kernel(kernel)
    ours, theirs = stationary_parts(kernel), stationary_parts(learnt)
    if ours is None or theirs is None or len(ours[0]) != 1 or len(theirs[0]) != 1:
        raise InputError("both kernels must be ScaleKernel(stationary kernel).")
    ours[1].lengthscale = _STRETCH * theirs[1].lengthscale.detach()
    ours[0][0].outputscale = theirs[0][0].outputscale.detach()
    return kernel


def _climbing(fit: FitResult) -> bool:
    values = [record["value"] for record in fit.trace[-3:]]
    return len(values) == 3 and values[-1] - values[0] > _CLIMB


def _learnt(fit: FitResult) -> float | None:
    """The noise that a search starts from; None where it was given per point."""
    return None if isinstance(fit.noise_variance, Tensor) else fit.noise_variance


def _name(kernel: Kernel) -> str:
    parts = stationary_parts(kernel)
    nu = getattr(parts[1], "nu", None) if parts is not None else None
    return type(kernel).__name__ if nu is None else f"Matérn-{int(2 * nu)}/2"


def _with_all_steps(winner: FitResult, fits: list[FitResult], message: str) -> FitResult:
    """One of some fits, with the time, steps and records of all."""
    trace: list[dict[str, Any]] = []
    seconds, steps = 0.0, 0
    for fit in fits:
        for record in fit.trace:
            trace.append({**record, "step": steps + record["step"], "seconds": seconds + record["seconds"]})
        seconds, steps = seconds + fit.seconds, steps + fit.steps
    return replace(winner, trace=trace, seconds=seconds, steps=steps, message=message)
