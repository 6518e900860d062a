"""Fits with noise variances that came with the rows: as they are, or scaled and added to where left-out rows say so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sggp.evidence.aside import inputs_aside, repeated_inputs
from sggp.evidence.given_noise import Adjustment, learn_adjustment, rows_to_judge, scored
from sggp.evidence.judging import KernelSelection
from sggp.evidence.spread import NoiseModel
from sggp.fitting.selection import observed
from sggp.fitting.smoothness import with_all_steps
from sggp.hyperparameters import FitResult
from sggp.running import time_is_up

AGAIN: dict[str, Any] = {"max_steps": 150, "learning_rate": 0.05}
"""Settings of nearest-neighbour fits that start from a kernel that was learnt with another noise."""
_ROUNDS = 4
_SETTLED = 0.02  # relative change of the noise variances of a round
Learnt = tuple[FitResult, KernelSelection | None]


def fit_given_noise(
    learn: Callable[[Tensor | None, Any], Learnt],
    given: Tensor,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator,
) -> tuple[Learnt, Adjustment]:
    """The fit with the noise as given; or that with a·given + b where left-out rows are predicted better by that.

    Hyperparameters are learnt with one noise for all rows first: noise that is given too small would make a function
    of it. Then a and b of that function, the hyperparameters again, and so on, at most four times. From there they are
    learnt once more with the noise as given, so that noise is compared and not where two searches ended.

    Args:
        learn: (noise variances (n,) or None to learn one, a kernel to start from or None to choose one) -> the fit.
        given: (n,) noise variances in squared units of y. x: (n, d). y: (n, 1).

    Returns:
        The fit with its kernels compared, and the adjustment: 1 and 0 with its gain below two standard errors where
        the noise stays as given.

    Cost: two fits, up to five from where another one ended, and that of `learn_adjustment`.
    """
    plain = learn(given, None)
    if plain[0].method in ("fixed", "constant target") or not bool((given > 0).any()) or time_is_up():
        return plain, Adjustment()
    fit, selection = learn(None, None)
    fits, noise = [plain[0], fit], torch.as_tensor(fit.noise_variance, dtype=torch.float64).expand(len(x))
    adjustment: Adjustment | None = None
    for _ in range(_ROUNDS):
        adjustment = learn_adjustment(observed(fit, x, y, noise), given.cpu(), generator, adjustment)
        before, noise = noise, adjustment.of(given)
        fit = learn(noise, fit.kernel)[0]
        fits.append(fit)
        if bool(((noise - before).abs() <= _SETTLED * before).all()) or time_is_up():
            break
    again = learn(given, fit.kernel)[0]
    fits.append(again)
    rows = rows_to_judge(len(x), generator)
    groups = repeated_inputs(x)
    aside = [] if groups is None else inputs_aside(groups, generator)
    ends = [scored(observed(end, x, y, given), rows, aside) for end in (plain[0], again)]
    better = int(ends[1].level > ends[0].level)
    found = (adjustment or Adjustment()).beside(ends[better], scored(observed(fit, x, y, noise), rows, aside))
    if found.wins:
        return (with_all_steps(fit, fits, fit.message), selection), found
    kept = (with_all_steps(again, fits, again.message), selection) if better else plain
    return kept, replace(found, factor=1.0, added=0.0)


def noise_of(variance: Any, adjustment: Adjustment | None, unit: float) -> NoiseModel:
    """The noise where nothing more is learnt of it: one for all rows, or those given, as adjusted if that was tried.

    Args:
        variance: a number, (n,) or None. unit: of y, in which one of the model's is measured.
    """
    if adjustment is not None:
        return adjustment.noise_model(unit)
    if variance is None or np.ndim(variance) == 0:
        return NoiseModel()
    return NoiseModel(reason="the noise of each row as it was given")
