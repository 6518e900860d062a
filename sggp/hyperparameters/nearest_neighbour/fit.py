"""The stochastic nearest-neighbour (Vecchia) likelihood: hyperparameters from minibatches of conditionals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.autograd import with_gradients
from sggp.errors import InputError, Stopped
from sggp.hyperparameters.adam import Adam
from sggp.hyperparameters.coordinates import Coordinates
from sggp.hyperparameters.gram import frozen_base
from sggp.hyperparameters.merged import MergedData
from sggp.hyperparameters.nearest_neighbour.fixed_correlation import FixedBase, FixedBaseAscent, total
from sggp.hyperparameters.nearest_neighbour.minibatches import (
    MinibatchLikelihood,
    RowQueue,
    search_intervals,
    z_square,
)
from sggp.hyperparameters.nearest_neighbour.neighbourhoods import Neighbourhoods
from sggp.hyperparameters.problem import FitProblem, Options, at_least
from sggp.hyperparameters.result import FitResult, Trace
from sggp.random import streams
from sggp.running import stop_asked, time_is_up

BETAS = (0.9, 0.99)
_STATIONARY = 1.2  # mean squared z-score of the mean gradient below which the descent counts as stationary
_JUDGED = 100  # steps whose gradients are judged together
_COOLDOWN = 40  # steps from the moment the rule is met to the end, with the step size decaying
_AVERAGED = 20  # last iterates that are averaged
_IN_HASTE = 1024  # rows that the last value is estimated from where the time is up


@dataclass(frozen=True)
class NearestNeighbourSettings:
    """Settings of `fit_nearest_neighbour`, where they are explained."""

    neighbours: int | None = None
    batch_size: int = 512
    max_steps: int = 350
    learning_rate: float = 0.2
    final_learning_rate: float = 0.005
    evaluation_rows: int = 16384

    def __post_init__(self) -> None:
        at_least(self, neighbours=1, batch_size=1, max_steps=1, evaluation_rows=1)
        at_least(self, learning_rate=0, final_learning_rate=0)


OPTIONS = Options("fit_nearest_neighbour", NearestNeighbourSettings)


class _Descent:
    """Adam on the coordinates with cosine decay, a search for neighbours from time to time, and the stopping rule."""

    def __init__(
        self,
        likelihood: MinibatchLikelihood,
        settings: NearestNeighbourSettings,
        rows: RowQueue,
        trace: Trace,
    ) -> None:
        self.likelihood, self.settings, self.rows, self.trace = likelihood, settings, rows, trace
        self.u = likelihood.coordinates.vector()
        self.optimizer = Adam(BETAS)
        self.iterates: list[Tensor] = []
        self.step_count, self.cooling, trace.steps = 0, 0, settings.max_steps
        self.recent: list[Tensor] = []
        self.last_z = math.inf

    def _rate(self) -> float:
        settings = self.settings
        progress = self.step_count / settings.max_steps
        low, high = settings.final_learning_rate, settings.learning_rate
        rate = low + 0.5 * (high - low) * (1 + math.cos(math.pi * min(progress, 1.0)))
        if self.cooling:
            rate = low + (rate - low) * self.cooling / _COOLDOWN
        return rate

    def _advance(self, selection: Tensor) -> tuple[float, Tensor]:
        value, gradient = self.likelihood.step(self.u, selection)
        gradient = self.likelihood.coordinates.climb(self.u, gradient, self.optimizer, self._rate())
        self.iterates = [*self.iterates[-(_AVERAGED - 1) :], self.u.clone()]
        self.step_count += 1
        return value, gradient

    def run(self) -> None:
        """All steps, until the budget or the stopping rule ends them; the average of the last iterates stays."""
        batch = min(self.settings.batch_size, len(self.rows.pool))
        for size in search_intervals(self.settings.max_steps):
            if self.cooling == 1 or time_is_up():
                break
            if stop_asked() is not None:
                raise Stopped(
                    f"stopped by {stop_asked()} while hyperparameters were learnt: nothing was solved yet."
                )
            steps = min(size, self.cooling - 1) if self.cooling else size
            drawn = self.rows.draw(steps * batch)
            distinct, selection = torch.unique(drawn, return_inverse=True)
            self.likelihood.neighbourhoods.open(distinct)
            values, gradients = [], []
            for part in selection.split(batch):
                value, gradient = self._advance(part)
                values.append(value)
                gradients.append(gradient)
                self.cooling -= 1 if self.cooling else 0
                if time_is_up():
                    break
            slope = float(torch.stack(gradients).mean(dim=0).abs().max())
            learnt = self.likelihood.coordinates.values()
            self.trace.add(self.step_count, sum(values) / len(values), slope, learnt)
            self.trace.report()
            if len(gradients) >= 20 and not self.cooling:
                self._judge(gradients)
        if self.iterates:
            self.likelihood.coordinates.assign(torch.stack(self.iterates).mean(dim=0))

    def _judge(self, gradients: list[Tensor]) -> None:
        self.recent = [*self.recent, *gradients][-_JUDGED:]
        self.last_z = z_square(self.recent)
        if len(self.recent) == _JUDGED and self.last_z < _STATIONARY:
            self.cooling = _COOLDOWN

    @property
    def settled(self) -> bool:
        """Whether the stopping rule was met, or nearly."""
        return self.cooling > 0 or self.last_z < 2 * _STATIONARY

    @property
    def message(self) -> str:
        """Why it ended."""
        return f"{self.step_count} steps; mean squared z-score of the gradient {self.last_z:.2f}"


def _evaluate(likelihood: MinibatchLikelihood, rows: Tensor) -> tuple[float, float]:
    """Estimated log likelihood over all rows and its standard error, from some rows."""
    likelihood.neighbourhoods.open(rows.sort().values)
    with torch.no_grad():
        parts = [likelihood.terms(part) for part in torch.arange(len(rows)).split(512)]
        value, error = total(torch.cat(parts), len(likelihood.y))
        if likelihood.merged is not None:
            value += float(likelihood.merged.within(likelihood.shared_noise()))
    return value, error


@OPTIONS.shown
@with_gradients()
def fit_nearest_neighbour(kernel: Kernel, x: Tensor, y: Tensor, **options: Any) -> FitResult:
    """Maximise Vecchia's likelihood plus log priors by stochastic gradients; the cost per step hardly grows with n.

    sum_i log N(y_i | y_N(i)), where N(i) are the `neighbours` nearest rows *before* i in a random order. A
    minibatch of rows gives an unbiased estimate of its gradient: every row is one small Cholesky factor in
    float64. Neighbours are found in the kernel's own metric for the rows of the coming minibatches (of 5 steps
    at first, of 25 later), so they follow the length scales as these move. Adam in log coordinates, the step
    size on a cosine; when the mean gradient of the last 100 steps cannot be distinguished from zero (mean squared
    z-score below 1.2) the step size is run down over 40 more steps. The result is the average of the last
    20 iterates.

    Rows with equal inputs are one row, with their mean and their share of the noise (`MergedData`): a neighbour that
    repeats another adds nothing. Not so where the noise is given per point, or nothing but scales is learnt.

    Kernels without a metric (Tanimoto, sums, unknown ones) take the earlier rows of largest correlation; minibatches
    are then of 2,048 rows drawn at random. If only scales, noise and mean are learnt (Tanimoto), neighbours and their
    covariances are found once, for 4,096 rows, and L-BFGS maximises the likelihood of all of these at once
    (`nearest_neighbour.fixed_correlation`; unless the noise is per point): batch size and learning rates play no part.

    Args:
        kernel: any GPyTorch kernel; its present values are the start. It is copied, never changed.
        x: (n, d) rows; integer fingerprints stay integer. y: (n,) targets or (n, t) sharing the
            hyperparameters.
        noise_variance, mean, initial_noise_variance, noise_floor, noise_prior: as in `learn_hyperparameters`.
        neighbours: more follow the exact likelihood closer, at cubic cost per row; default 30, and 40 where
            the blocks are found once.
        batch_size: rows per step.
        max_steps: budget of steps, or of L-BFGS iterations.
        learning_rate, final_learning_rate: Adam's step in log coordinates at the start and at the end.
        evaluation_rows: rows used to estimate the final value and its standard error.
        generator: order of the rows and minibatches.
        callback: called once per neighbour search with its record of the trace.

    Returns:
        FitResult; `converged` says whether the stopping rule was met within the budget.

    Cost: b·m^3/3 flops and a search of b·n/2 distances per step; memory n·d.

    Source: Vecchia 1988; stochastic gradients over conditionals as in Cao et al. 2023 (without the
        variational part).
    """
    return maximise_nearest_neighbour(*OPTIONS.read(kernel, x, y, options))


def maximise_nearest_neighbour(problem: FitProblem, settings: NearestNeighbourSettings) -> FitResult:
    """`fit_nearest_neighbour` of a checked problem."""
    order_stream, row_stream, last_stream = streams(problem.generator, "order", "rows", "evaluation")
    likelihood, trace = _set_up(problem, settings, order_stream), problem.trace()
    neighbourhoods = likelihood.neighbourhoods
    pool = neighbourhoods.pool(row_stream)
    fit: _Descent | FixedBaseAscent
    if neighbourhoods.fixed and (problem.noise is None or problem.noise.dim() == 0):
        # nothing but scales, noise and mean is learnt: all rows of the pool at once
        neighbourhoods.open(pool)
        fit = FixedBaseAscent(likelihood, FixedBase(neighbourhoods, pool, likelihood.y), trace)
        if likelihood.coordinates.size:
            fit.run(len(problem.x), settings.max_steps)
        with torch.no_grad():
            value, error = total(fit.terms(), len(problem.x))
    else:
        fit = _Descent(likelihood, settings, RowQueue(pool, row_stream), trace)
        if likelihood.coordinates.size:
            fit.run()
        most = settings.evaluation_rows if not time_is_up() else min(_IN_HASTE, settings.evaluation_rows)
        rows = pool[torch.randperm(len(pool), generator=last_stream)[:most]]
        value, error = _evaluate(likelihood, rows)
    return _result(problem, likelihood.coordinates, fit, value, error)


def _set_up(
    problem: FitProblem, settings: NearestNeighbourSettings, order_stream: torch.Generator
) -> MinibatchLikelihood:
    """The likelihood of the rows in a random order, repeats merged, at the values to start from."""
    coordinates = problem.coordinates(learns_mean=True)
    kernel, ordered = coordinates.kernel, problem.part(torch.randperm(len(problem.x), generator=order_stream))
    x, y, noise, merged = ordered.x, ordered.y, ordered.noise, None
    if frozen_base(kernel) is None and (noise is None or (noise.dim() == 0 and float(noise) > 0)):
        merged = MergedData(x, y)
        x, y = merged.rows, merged.means(y, torch.ones_like(y[:, 0]))
    return MinibatchLikelihood(
        coordinates,
        Neighbourhoods(kernel, x, settings.neighbours),
        y,
        noise,
        problem.mean,
        None if merged is None or merged.groups.trivial else merged,
    )


def _result(
    problem: FitProblem,
    coordinates: Coordinates,
    fit: _Descent | FixedBaseAscent,
    value: float,
    error: float,
) -> FitResult:
    """What was learnt, with its value and how the fit ended."""
    mean = coordinates.raw_mean.detach() if coordinates.raw_mean is not None else problem.mean
    if mean is None:
        raise InputError("the mean was neither given nor learnt.")
    records = fit.trace.records
    return problem.result(
        "nearest-neighbour",
        coordinates.kernel,
        coordinates.noise().detach() if problem.noise is None else problem.noise,
        mean,
        trace=records,
        log_marginal_likelihood=value,
        log_marginal_likelihood_error=error,
        converged=coordinates.size == 0 or fit.settled,
        gradient_norm=records[-1]["gradient_norm"] if records else 0.0,
        message=fit.message,
        steps=fit.step_count,
    )
