"""Which kernel: candidates fitted to most rows, judged on the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.evidence.judging import KernelSelection, held_out, judge
from sggp.evidence.leave_one_out import Observed
from sggp.fitting.smoothness import climbing, learnt_noise, started, with_all_steps
from sggp.hyperparameters.result import FitResult

ROUGHEST_FIRST = ("matern12", "matern32", "matern52", "rbf")
"""The kernels that kernel=None chooses from where there are many rows."""
FIRST = "matern32"
_STRETCH = {"matern12": 2.0, "matern32": 1.0, "matern52": 0.8, "rbf": 0.6}
_FIRST: dict[str, Any] = {"max_steps": 150}
_TRIAL: dict[str, Any] = {"max_steps": 120}
_LAST: dict[str, Any] = {"max_steps": 350, "learning_rate": 0.05}
_ANEW: dict[str, Any] = {"max_steps": 300, "learning_rate": 0.2}  # where there is a long way to go


def fit_selected(
    candidates: Mapping[str, Kernel],
    x: Tensor,
    y: Tensor,
    fit: Callable[..., FitResult],
    generator: torch.Generator,
) -> tuple[FitResult, KernelSelection | None]:
    """Nearest-neighbour fits of some kernels without the judged rows, and the winner's with all rows.

    Matérn-3/2 gets 150 steps (anew, with steps twice as large, where it still climbs by 0.05 nats a row), each
    candidate 120 from there, and the winner up to 350 on all rows.

    Args:
        candidates: the kernels of `ROUGHEST_FIRST`, in that order, with their priors; copied, never changed.
        x: (n, d), y: (n, t) as the fit has them.
        fit: (kernel, rows=, max_steps=, learning_rate=, initial_noise_variance=) -> FitResult of these rows.

    Returns:
        FitResult of the winner, with the seconds, steps and trace of all fits and the reason in its message; and the
        scores, None where nothing was learnt.

    Cost: at most 980 steps of `fit_nearest_neighbour`, 1,280 where the first fit climbs; and that of `judge`.
    """
    judged, rest = held_out(len(x), generator)
    first = fit(candidates[FIRST], rows=rest, **_FIRST)
    if first.method != "nearest-neighbour":
        return fit(candidates[FIRST]), None
    fits = [first]
    if climbing(first):
        anew = fit(candidates[FIRST], rows=rest, **_ANEW)
        fits.append(anew)
        first = max(first, anew, key=lambda result: result.log_marginal_likelihood)
    trials = {}
    for name, kernel in candidates.items():
        start = first.kernel if name == FIRST else started(kernel, first.kernel, _STRETCH[name])
        trials[name] = fit(start, rows=rest, initial_noise_variance=learnt_noise(first), **_TRIAL)
    selection = judge({name: observed(trial, x, y) for name, trial in trials.items()}, judged, rest)
    best = trials[selection.chosen]
    winner = fit(best.kernel, initial_noise_variance=learnt_noise(best), **_LAST)
    message = f"{winner.message}; {selection.reason}"
    return with_all_steps(winner, [*fits, *trials.values(), winner], message), selection


def observed(fit: FitResult, x: Tensor, y: Tensor) -> Observed:
    """The whole table as a fit has it: x (n, d), y (n, t)."""
    noise = torch.as_tensor(fit.noise_variance, dtype=torch.float64).reshape(-1).expand(len(x))
    return Observed(fit.kernel, x, y.double() - torch.as_tensor(fit.mean, dtype=torch.float64), noise)
