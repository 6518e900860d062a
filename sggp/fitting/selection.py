"""Which kernel: candidates fitted to most rows, judged on the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.arrays import check_rows, check_targets, real_numbers
from sggp.errors import DtypeError, InputError
from sggp.evidence.aside import inputs_aside, repeated_inputs
from sggp.evidence.judging import Contest, KernelSelection, held_out, judge
from sggp.evidence.leave_one_out import Observed
from sggp.fitting.scaling import scaling_of
from sggp.fitting.smoothness import climbing, learnt_noise, started, with_all_steps
from sggp.hyperparameters import FitResult, choose_optimizer, learn_hyperparameters, named_kernel
from sggp.hyperparameters.coordinates import copy_kernel
from sggp.hyperparameters.defaults import KERNEL_NAMES, noise_floor, noise_prior
from sggp.random import draw_seed, numpy_state, streams
from sggp.running import time_is_up

ROUGHEST_FIRST = ("matern12", "matern32", "matern52", "rbf")
"""The kernels that kernel=None chooses from where there are many rows."""
FIRST, _SECOND = "matern32", "matern52"
_BEYOND = {FIRST: "matern12", _SECOND: "rbf"}
"""What is tried next where the one is not excluded: a kernel beyond one that is behind would be further behind."""
LEAST_ROWS = 30
"""Fewer rows have fewer than ten to judge by."""
_NO_TIME = "no time was left to compare kernels"
_STRETCH = {"matern12": 2.0, "matern32": 1.0, "matern52": 0.8, "rbf": 0.6}
_FIRST: dict[str, Any] = {"max_steps": 100}
_TRIAL: dict[str, Any] = {"max_steps": 60}
_LAST: dict[str, Any] = {"max_steps": 350, "learning_rate": 0.05}
_ANEW: dict[str, Any] = {"max_steps": 300}  # where there is a long way to go


def fit_selected(
    candidates: Mapping[str, Kernel],
    x: Tensor,
    y: Tensor,
    fit: Callable[..., FitResult],
    generator: torch.Generator,
    noise: Tensor | None = None,
) -> tuple[FitResult, KernelSelection | None]:
    """Nearest-neighbour fits of some kernels without the judged rows, and the winner's with all rows.

    Matérn-3/2 gets 100 steps (300 anew where it still climbs by 0.05 nats a row), each candidate 60 from there:
    Matérn-3/2 and 5/2 first, then Matérn-1/2 unless 3/2 is excluded, and an RBF unless 5/2 is. The winner is fitted
    anew to all rows. Where the first fit climbed and that ends less likely a row than the trial, it also gets up to 350
    steps from where the trial stands, and the more likely result is kept.

    Args:
        candidates: the kernels of `ROUGHEST_FIRST`, in that order, with their priors; copied, never changed.
        x: (n, d), y: (n, t) as the fit has them.
        fit: (kernel, rows=, max_steps=, learning_rate=, initial_noise_variance=) -> FitResult of these rows.
        noise: a noise variance that is known for all rows, or one for each; None where it is learnt.

    Returns:
        FitResult of the winner, with the seconds, steps and trace of all fits and the reason in its message; and the
        scores, None where nothing was learnt.

    Cost: at most 690 steps of `fit_nearest_neighbour`, 1,340 where the first fit climbs; and scores as in `judge`.
    """
    judged, rest = _held_out(x, generator)
    first = fit(candidates[FIRST], rows=rest, **_FIRST)
    if first.method != "nearest-neighbour":
        return fit(candidates[FIRST]), None
    fits = [first]
    if time_is_up():
        return replace(first, message=f"{first.message}; {_NO_TIME}"), None
    if climbing(first):
        anew = fit(candidates[FIRST], rows=rest, **_ANEW)
        fits.append(anew)
        first = max(first, anew, key=lambda result: result.log_marginal_likelihood)
    trials: dict[str, FitResult] = {}
    contest, waiting = Contest(judged, rest), [FIRST, _SECOND]
    while waiting:
        name = waiting.pop(0)
        start = first.kernel if name == FIRST else started(candidates[name], first.kernel, _STRETCH[name])
        trials[name] = fit(start, rows=rest, initial_noise_variance=learnt_noise(first), **_TRIAL)
        if time_is_up():
            tried = [*fits, *trials.values()]
            return with_all_steps(first, tried, f"{first.message}; {_NO_TIME}"), None
        contest.add(name, observed(trials[name], x, y, noise))
        if name == _SECOND:
            waiting = [_BEYOND[other] for other in contest.left()]
    selection = _told(contest.selection([name for name in candidates if name in trials]), candidates)
    best = trials[selection.chosen]
    # fewer rows may have led to another optimum than all rows have, so the winner is fitted anew
    last = [fit(candidates[selection.chosen])]
    reached = replace(best, log_marginal_likelihood=best.log_marginal_likelihood * len(x) / len(rest))
    if len(fits) > 1 and last[0].log_marginal_likelihood < reached.log_marginal_likelihood:
        last.append(fit(best.kernel, initial_noise_variance=learnt_noise(best), **_LAST))
    if time_is_up():  # the last fits may have gone less far than the trial, which is of fewer rows
        last.append(reached)
    winner = max(last, key=lambda result: result.log_marginal_likelihood)
    message = f"{winner.message}; {selection.reason}"
    return with_all_steps(winner, [*fits, *trials.values(), *last], message), selection


def _told(selection: KernelSelection, candidates: Mapping[str, Kernel]) -> KernelSelection:
    """The same, whose reason names the candidates that were not tried."""
    tried = {score.name for score in selection.scores}
    left_out = ", ".join(name for name in candidates if name not in tried)
    if not left_out:
        return selection
    return replace(selection, reason=f"{selection.reason}; {left_out} not tried, being beyond one excluded")


def observed(fit: FitResult, x: Tensor, y: Tensor, noise: Tensor | None = None) -> Observed:
    """The whole table as a fit has it, on the CPU: x (n, d), y (n, t); noise where it is known."""
    noise = torch.as_tensor(fit.noise_variance if noise is None else noise, dtype=torch.float64).cpu()
    residual = y.double().cpu() - torch.as_tensor(fit.mean, dtype=torch.float64).cpu()
    kernel = copy_kernel(fit.kernel, torch.device("cpu")).requires_grad_(False)
    return Observed(kernel, x.cpu(), residual, noise.reshape(-1).expand(len(x)))


def select_kernel(
    X: Any,
    y: Any,
    candidates: Sequence[str] | Mapping[str, Kernel] = ROUGHEST_FIRST,
    random_state: Any = None,
) -> KernelSelection:
    """Compare kernels by how well they predict rows that their fits have not seen.

    A quarter of the rows, at most 2,000, is set aside; where most rows repeat an input, up to a third of the inputs
    with all their rows. Each candidate's hyperparameters are learnt from the others as `sggp.GPRegressor` learns them
    (columns standardised, targets normalised), and it predicts the rows set aside: from all others and, where there are
    many, also from random subsets of 3,000, 1,000 and 250. Candidates more than two standard errors behind the best
    are out, by CRPS, then squared error, then log density; of those that nothing tells apart the first is
    chosen: list the roughest first.

    Args:
        X: (n, d) finite numbers; 30 rows or more.
        y: (n,) targets, in any unit.
        candidates: names ("matern12", "matern32", "matern52", "rbf"), or a mapping from names of your own to GPyTorch
            kernels for standardised inputs, whose values are where learning starts; they are copied, never changed.
        random_state: seed, NumPy RandomState or None.

    Returns:
        `sggp.evidence.judging.KernelSelection`: `chosen`, `reason`, and `scores`, for each candidate its log density
        (nats a row, of normalised targets), CRPS and squared error, how far each is behind the best one, and the
        standard error of that. Printed it is a table.

    Raises:
        ShapeError, DtypeError, InputError: X and y are no such table, have fewer than 30 rows or equal targets;
            candidates that are neither names nor kernels; none; one twice.
        UnsupportedKernel: a kernel that cannot be learnt.

    Cost: one fit of hyperparameters per candidate, and predictions of the rows set aside, each from its 128 nearest
        others or from up to 3,000.

    Example:
        >>> import numpy as np
        >>> from sggp import select_kernel
        >>> X = np.random.default_rng(0).random((300, 2))
        >>> selection = select_kernel(X, np.sin(9 * X[:, 0]) * np.cos(4 * X[:, 1]), random_state=0)
        >>> ", ".join(score.name for score in selection.scores)
        'matern12, matern32, matern52, rbf'
        >>> selection.chosen
        'rbf'
    """
    rows = check_rows(real_numbers(X, "X", "(n, d) numbers"), "X")
    targets = check_targets(real_numbers(y, "y", "(n,) numbers"), len(rows))[:, None]
    if len(rows) < LEAST_ROWS:
        raise InputError(f"{len(rows)} rows are too few to tell kernels apart: {LEAST_ROWS} are needed.")
    seed = int(numpy_state(random_state).randint(2**31 - 1))
    choose, learn = streams(torch.Generator().manual_seed(seed), "judged", "learn")
    judged, rest = _held_out(rows, choose)
    kernels = _kernels(candidates, rows.shape[1], choose_optimizer(len(rest)) != "exact")
    scaling = scaling_of(rows, targets, standardise=True, normalise=True)
    x, values, start = scaling.inputs(rows), scaling.targets(targets), draw_seed(learn)
    fits = {}
    for name, kernel in kernels.items():
        fits[name] = learn_hyperparameters(
            kernel,
            x[rest],
            values[rest],
            scale_free=False,
            noise_prior=noise_prior(),
            noise_floor=noise_floor(x[rest]),
            generator=start,
        )
        if fits[name].method == "constant target":
            raise InputError(
                "y is the same number in every row that is learnt from: no kernel is any better."
            )
    return judge({name: observed(fit, x, values) for name, fit in fits.items()}, judged, rest)


def _held_out(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`held_out` of a table (n, d): of whole inputs where most rows repeat one, if there are enough of them."""
    groups = repeated_inputs(x)
    if groups is None or len(groups.first) < LEAST_ROWS:
        return held_out(len(x), generator)
    return inputs_aside(groups, generator)[0]


def _kernels(candidates: Any, input_dim: int, many_rows: bool) -> dict[str, Kernel]:
    """The candidates of `select_kernel` by name, checked."""
    names = [name for name in KERNEL_NAMES if name != "tanimoto"]
    expected = f"names of {', '.join(map(repr, names))}, or a mapping from names to GPyTorch kernels"
    if isinstance(candidates, str) or not isinstance(candidates, Sequence | Mapping):
        raise DtypeError(f"candidates must be {expected}, got {candidates!r}.")
    if not candidates or len(set(candidates)) < len(candidates):
        raise InputError(f"candidates must be {expected}, at least one and each once, got {candidates!r}.")
    if isinstance(candidates, Mapping):
        wrong = [
            name for name, k in candidates.items() if not (isinstance(name, str) and isinstance(k, Kernel))
        ]
        if wrong:
            kind = type(candidates[wrong[0]]).__name__
            raise DtypeError(f"candidates must be {expected}; {wrong[0]!r} is of type {kind}.")
        return dict(candidates)
    for name in candidates:
        if name not in names:
            raise InputError(f"candidates must be {expected}, got {name!r}.")
    return {name: named_kernel(name, input_dim, many_rows=many_rows) for name in candidates}
