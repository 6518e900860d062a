"""Whether a rougher kernel explains the data better: the one choice of family that the default kernel makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.errors import InputError
from sggp.hyperparameters.coordinates import copy_kernel
from sggp.hyperparameters.gram import stationary_parts
from sggp.hyperparameters.result import FitResult

__all__ = ["prefer_rougher"]

GAIN = 0.003  # nats per row by which the rougher kernel must win
_TRIAL_STEPS, _FULL_STEPS = 120, 300
_TRIAL_RATE, _FULL_RATE = 0.1, 0.05
_STRETCH = 2.0  # of the length scales: near the origin a rougher kernel decays faster


def _shared(noise: float | Tensor) -> float | None:
    """Where a learnt noise starts; None where it was given per point."""
    return None if isinstance(noise, Tensor) else noise


def prefer_rougher(smooth: FitResult, rougher: Kernel, rows: int, fit: Callable[..., FitResult]) -> FitResult:
    """The better of a nearest-neighbour fit and of one with a rougher kernel, by their likelihoods.

    The rougher kernel starts from what the smooth one learnt and gets 120 steps; if it then wins by 0.003 nats a row
    it is fitted to the end. Both likelihoods are of the same rows. Only rougher kernels are tried: given a few
    neighbours a smooth kernel looks better than it is to all rows at once (ELEVATORS: Matérn-5/2 wins .008 nats a row
    over Matérn-3/2 and loses .016 on the test rows), a rough one whose conditionals are local does not.

    Args:
        smooth: a fit of a scaled stationary kernel. rougher: another one, with priors, to take its place.
        rows: n. fit: `fit_nearest_neighbour` but for the kernel and the settings of the descent; called twice with the
            same generator state, so that it sees the rows in the same order.

    Returns:
        FitResult; the message says which kernel lost. Time and trace count all steps from the first.

    Cost: 120 steps of `fit_nearest_neighbour`, and up to 300 more where the rougher kernel wins.
    """
    kernel = copy_kernel(rougher)
    ours, theirs = stationary_parts(kernel), stationary_parts(smooth.kernel)
    if ours is None or theirs is None or len(ours[0]) != 1 or len(theirs[0]) != 1:
        raise InputError("both kernels must be ScaleKernel(stationary kernel).")
    ours[1].lengthscale = _STRETCH * theirs[1].lengthscale.detach()
    ours[0][0].outputscale = theirs[0][0].outputscale.detach()
    trial = fit(
        kernel,
        max_steps=_TRIAL_STEPS,
        learning_rate=_TRIAL_RATE,
        initial_noise_variance=_shared(smooth.noise_variance),
    )
    gain = (trial.log_marginal_likelihood - smooth.log_marginal_likelihood) / rows
    names = [f"Matérn-{int(2 * parts[1].nu)}/2" for parts in (theirs, ours)]
    if gain < GAIN:
        message = f"{smooth.message}; {names[1]} is {-gain:.4f} nats a row worse"
        return replace(smooth, seconds=smooth.seconds + trial.seconds, message=message)
    final = fit(
        trial.kernel,
        max_steps=_FULL_STEPS,
        learning_rate=_FULL_RATE,
        initial_noise_variance=_shared(trial.noise_variance),
    )
    gain = (final.log_marginal_likelihood - smooth.log_marginal_likelihood) / rows
    trace, seconds, steps = [*smooth.trace], smooth.seconds, smooth.steps
    for part in (trial, final):
        trace += [
            {**record, "step": steps + record["step"], "seconds": seconds + record["seconds"]}
            for record in part.trace
        ]
        seconds, steps = seconds + part.seconds, steps + part.steps
    message = f"{final.message}; {names[0]} is {gain:.4f} nats a row worse"
    return replace(final, trace=trace, seconds=seconds, steps=steps, message=message)
