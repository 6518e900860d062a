"""The stochastic nearest-neighbour (Vecchia) likelihood: hyperparameters from minibatches of conditionals."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.errors import InputError
from sggp.hyperparameters.coordinates import Coordinates, copy_kernel
from sggp.hyperparameters.gram import frozen_base
from sggp.hyperparameters.merged import MergedData
from sggp.hyperparameters.nearest_neighbour.fixed_correlation import FixedBase, FixedBaseAscent, total
from sggp.hyperparameters.nearest_neighbour.minibatches import RowQueue, window_sizes, z_square
from sggp.hyperparameters.nearest_neighbour.neighbourhoods import Neighbourhoods
from sggp.hyperparameters.problem import (
    check_data,
    check_mean,
    check_noise,
    public_mean,
    public_noise,
    target_scale,
    unidentified_columns,
)
from sggp.hyperparameters.result import FitResult
from sggp.random import as_generator, streams
from sggp.typing import Seed

BETAS = (0.9, 0.99)
_log = logging.getLogger(__name__)
_STATIONARY = 1.2  # mean squared z-score of the mean gradient below which the descent counts as stationary
_JUDGED = 100  # steps whose gradients are judged together
_COOLDOWN = 40  # steps from the moment the rule is met to the end, with the step size decaying
_AVERAGED = 20  # last iterates that are averaged


@dataclass(frozen=True)
class _Settings:
    batch_size: int
    max_steps: int
    learning_rate: float
    final_learning_rate: float
    evaluation_rows: int


class _Problem:
    """Rows in a random order, and the minibatch objective on them."""

    def __init__(
        self,
        coordinates: Coordinates,
        neighbourhoods: Neighbourhoods,
        y: Tensor,
        noise: Tensor | None,
        mean: Tensor | None,
        merged: MergedData | None = None,
    ) -> None:
        self.coordinates, self.neighbourhoods = coordinates, neighbourhoods
        self.y, self.noise, self.mean, self.merged = y, noise, mean, merged

    def shared_noise(self) -> Tensor:  # (), or (n,) where it was given per point
        return self.coordinates.noise() if self.noise is None else self.noise

    def terms(self, selection: Tensor) -> Tensor:  # (b,) of the current window -> (b,)
        """Log conditionals of some rows of the present window, differentiable in the raw parameters."""
        index, _ = self.neighbourhoods.members(selection)
        mean = self.mean if self.coordinates.raw_mean is None else self.coordinates.raw_mean
        residuals = self.y[index] if mean is None else self.y[index] - mean
        noise = self.shared_noise()
        if self.merged is not None:
            noise = noise / self.merged.counts
        noise = noise[index] if noise.dim() else noise
        return self.neighbourhoods.log_conditionals(selection, residuals, noise)

    @property
    def targets(self) -> int:
        """Observed numbers, before merging."""
        return self.y.numel() if self.merged is None else self.merged.y.numel()

    def step(self, u: Tensor, selection: Tensor) -> tuple[float, Tensor]:
        """Unbiased value (per row and target, priors included) and its gradient in the coordinates."""
        self.coordinates.assign(u)
        with torch.enable_grad():
            value = self.terms(selection).mean() * len(self.y) + self.coordinates.log_prior()
            if self.merged is not None:
                value = value + self.merged.within_shared(self.shared_noise())
            value = value / self.targets
            value.backward()
        return float(value.detach()), self.coordinates.gradient(u)


class _Descent:
    """Adam on the coordinates with cosine decay, windows of kept neighbours, and the stopping rule."""

    def __init__(self, problem: _Problem, settings: _Settings, rows: RowQueue, callback: Any) -> None:
        self.problem, self.settings, self.rows, self.callback = problem, settings, rows, callback
        self.trace: list[dict[str, Any]] = []
        self.started = time.perf_counter()
        self.u = problem.coordinates.vector()
        self.optimizer = torch.optim.Adam([self.u], lr=settings.learning_rate, betas=BETAS)
        self.iterates: list[Tensor] = []
        self.step_count, self.cooling = 0, 0
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
        value, gradient = self.problem.step(self.u, selection)
        if not bool(torch.isfinite(gradient).all()):
            gradient = torch.zeros_like(gradient)
            _log.warning("a minibatch gave a non-finite gradient; it was skipped")
        self.optimizer.param_groups[0]["lr"] = self._rate()
        self.u.grad = -gradient
        self.optimizer.step()
        with torch.no_grad():
            lower, upper = self.problem.coordinates.bounds()
            self.u.copy_(self.u.clamp(lower, upper))
        self.iterates = [*self.iterates[-(_AVERAGED - 1) :], self.u.clone()]
        self.step_count += 1
        return value, gradient

    def _record(self, values: list[float], gradients: list[Tensor]) -> None:
        record = {
            "step": self.step_count,
            "value": sum(values) / len(values),
            "gradient_norm": float(torch.stack(gradients).mean(dim=0).abs().max()),
            "seconds": time.perf_counter() - self.started,
            "values": self.problem.coordinates.values(),
        }
        self.trace.append(record)
        if self.callback is not None:
            self.callback(record)

    def run(self) -> None:
        """All windows, until the budget or the stopping rule ends them."""
        batch = self.settings.batch_size
        for size in window_sizes(self.settings.max_steps):
            if self.cooling == 1:
                break
            steps = min(size, self.cooling - 1) if self.cooling else size
            drawn = self.rows.draw(steps * batch)
            distinct, selection = torch.unique(drawn, return_inverse=True)
            self.problem.neighbourhoods.open(distinct)
            values, gradients = [], []
            for part in selection.split(batch):
                value, gradient = self._advance(part)
                values.append(value)
                gradients.append(gradient)
                self.cooling -= 1 if self.cooling else 0
            self._record(values, gradients)
            self._judge(gradients, len(values))

    def _judge(self, gradients: list[Tensor], steps: int) -> None:
        if steps < 20 or self.cooling:
            return
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

    def finish(self) -> None:
        """Leave the average of the last iterates in the kernel."""
        self.problem.coordinates.assign(torch.stack(self.iterates).mean(dim=0))


def _evaluate(problem: _Problem, rows: Tensor) -> tuple[float, float]:
    """Estimated log likelihood over all rows and its standard error, from some rows."""
    problem.neighbourhoods.open(rows.sort().values)
    with torch.no_grad():
        parts = [problem.terms(part) for part in torch.arange(len(rows)).split(512)]
        value, error = total(torch.cat(parts), len(problem.y))
        if problem.merged is not None:
            value += float(problem.merged.within_shared(problem.shared_noise()))
    return value, error


def fit_nearest_neighbour(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    *,
    noise_variance: float | Tensor | None = None,
    mean: float | Tensor | None = None,
    initial_noise_variance: float | None = None,
    noise_floor: float | None = None,
    noise_prior: Any = None,
    neighbours: int | None = None,
    batch_size: int = 512,
    max_steps: int = 500,
    learning_rate: float = 0.1,
    final_learning_rate: float = 0.005,
    evaluation_rows: int = 16384,
    generator: Seed = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
) -> FitResult:
    """Maximise Vecchia's likelihood plus log priors by stochastic gradients; the cost per step hardly grows with n.

    sum_i log N(y_i | y_N(i)), where N(i) are the `neighbours` nearest rows *before* i in a random order. A
    minibatch of rows gives an unbiased estimate of its gradient: every row is one small Cholesky factor in
    float64. Neighbours are found in the kernel's own metric for the rows of the coming window of steps (5
    at first, 25 later), so they follow the length scales as these move. Adam in log coordinates, the step
    size on a cosine; when the mean gradient of the last 100 steps cannot be told from zero (mean squared
    z-score below 1.2) the step size is run down over 40 more steps. The result is the average of the last
    20 iterates.

    Rows with equal inputs are one row, with their mean and their share of the noise (`MergedData`): a neighbour that
    repeats another tells nothing new. Not so where the noise is given per point, or nothing but scales is learnt.

    Kernels without a metric (Tanimoto, sums, unknown ones) take the earlier rows of largest correlation; minibatches
    are then of 2,048 rows drawn at random. If only scales, noise and mean are learnt (Tanimoto), neighbours and their
    covariances are found once, for 4,096 rows, and L-BFGS maximises the likelihood of all of these at once
    (`nearest_neighbour.fixed_correlation`; unless the noise is per point): batch size and learning rates play no part.

    Args:
        kernel: any GPyTorch kernel; its present values are the start. It is copied, never changed.
        x: (n, d) rows; integer fingerprints stay integer. y: (n,) targets or (n, t) sharing the
            hyperparameters.
        noise_variance: a known noise variance, a number or (n,); None learns one.
        mean: a known constant mean; None learns it.
        initial_noise_variance: where the search starts; default a tenth of the variance of y.
        noise_floor: the learnt noise stays above it; default 1e-6 of the variance of y.
        noise_prior: a GPyTorch prior on the noise variance.
        neighbours: more follow the exact likelihood closer, at cubic cost per row; default 30, and 40 where
            the blocks are found once.
        batch_size: rows per step.
        max_steps: budget of steps, or of L-BFGS iterations.
        learning_rate, final_learning_rate: Adam's step in log coordinates at the start and at the end.
        evaluation_rows: rows used to estimate the final value and its standard error.
        generator: order of the rows and minibatches.
        callback: called once per window with its record of the trace.

    Returns:
        FitResult; `converged` says whether the stopping rule was met within the budget.

    Cost: b·m^3/3 flops and a search of b·n/2 distances per step; memory n·d.

    Source: Vecchia 1988; stochastic gradients over conditionals as in Cao et al. 2023 (without the
        variational part).
    """
    x, y = check_data(x, y)
    if (neighbours is not None and neighbours < 1) or min(batch_size, max_steps) < 1:
        raise InputError(
            f"neighbours, batch_size and max_steps must be positive, got {neighbours}, {batch_size}, {max_steps}."
        )
    order_stream, row_stream, last_stream = streams(as_generator(generator), "order", "rows", "evaluation")
    start = {
        "initial_noise": initial_noise_variance,
        "noise_floor": noise_floor,
        "noise_prior": noise_prior,
        "neighbours": neighbours,
    }
    duplicate, problem, given = _set_up(
        kernel, x, y, check_noise(noise_variance, len(x)), mean, start, order_stream
    )
    pool = problem.neighbourhoods.pool(row_stream)
    settings = _Settings(
        min(batch_size, len(pool)), max_steps, learning_rate, final_learning_rate, evaluation_rows
    )
    if problem.neighbourhoods.fixed and (problem.noise is None or problem.noise.dim() == 0):
        return _fit_fixed(problem, pool, duplicate, x, given, max_steps, callback)
    descent = _Descent(problem, settings, RowQueue(pool, row_stream), callback)
    if problem.coordinates.size:
        descent.run()
        descent.finish()
    rows = pool[torch.randperm(len(pool), generator=last_stream)[:evaluation_rows]]
    evaluated = _evaluate(problem, rows)
    return _result(descent, problem.coordinates, duplicate, x, given, evaluated)


def _fit_fixed(
    problem: _Problem,
    pool: Tensor,
    kernel: Kernel,
    x: Tensor,
    given: tuple[Tensor | None, Tensor | None],
    max_steps: int,
    callback: Callable[[dict[str, Any]], None] | None,
) -> FitResult:
    """All rows of the pool at once, where nothing but scales, noise and mean is learnt."""
    started = time.perf_counter()
    neighbourhoods = problem.neighbourhoods
    neighbourhoods.open(pool)
    scales, _ = frozen_base(neighbourhoods.kernel) or ([], None)
    conditionals = FixedBase(neighbourhoods, pool, problem.y)
    ascent = FixedBaseAscent(problem.coordinates, conditionals, scales, problem.noise, problem.mean, started)
    if problem.coordinates.size:
        ascent.run(len(x), max_steps, callback)
    with torch.no_grad():
        return _result(ascent, problem.coordinates, kernel, x, given, total(ascent.terms(), len(x)))


def _set_up(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    noise: Tensor | None,
    mean: float | Tensor | None,
    start: dict[str, Any],
    order_stream: torch.Generator,
) -> tuple[Kernel, _Problem, tuple[Tensor | None, Tensor | None]]:
    """A copy of the kernel to learn, the problem on rows in a random order, and the noise and mean that were given."""
    order = torch.randperm(len(x), generator=order_stream)
    given_mean = check_mean(mean, y.shape[1])
    scale = max(target_scale(y, given_mean), 1e-300)
    duplicate = copy_kernel(kernel, x.device)
    coordinates = Coordinates(
        duplicate,
        initial_noise=None if noise is not None else (start["initial_noise"] or 0.1 * scale),
        noise_floor=1e-6 * scale if start["noise_floor"] is None else start["noise_floor"],
        noise_prior=start["noise_prior"],
        initial_mean=None if given_mean is not None else y.mean(dim=0),
        mean_scale=math.sqrt(scale),
    )
    ordered_noise = noise[order] if noise is not None and noise.dim() else noise
    x, y, merged = x[order.to(x.device)], y[order.to(y.device)], None
    if frozen_base(duplicate) is None and (noise is None or (noise.dim() == 0 and float(noise) > 0)):
        merged = MergedData(x, y)
        x, y = merged.rows, merged.means(y, torch.ones_like(y[:, 0]))
    problem = _Problem(
        coordinates,
        Neighbourhoods(duplicate, x, start["neighbours"]),
        y,
        None if ordered_noise is None else ordered_noise.to(x.device),
        None if given_mean is None else given_mean.to(x.device),
        None if merged is None or merged.groups.trivial else merged,
    )
    return duplicate, problem, (noise, given_mean)


def _result(
    descent: _Descent | FixedBaseAscent,
    coordinates: Coordinates,
    kernel: Kernel,
    x: Tensor,
    given: tuple[Tensor | None, Tensor | None],
    evaluated: tuple[float, float],
) -> FitResult:
    """What was learnt, with its value and how the descent ended."""
    noise, given_mean = given
    learnt_mean = coordinates.raw_mean.detach() if coordinates.raw_mean is not None else given_mean
    if learnt_mean is None:
        raise InputError("the mean was neither given nor learnt.")
    return FitResult(
        kernel=kernel.requires_grad_(False),
        noise_variance=public_noise(coordinates.noise().detach() if noise is None else noise),
        mean=public_mean(learnt_mean.cpu()),
        trace=descent.trace,
        log_marginal_likelihood=evaluated[0],
        method="nearest-neighbour",
        seconds=time.perf_counter() - descent.started,
        converged=coordinates.size == 0 or descent.settled,
        gradient_norm=descent.trace[-1]["gradient_norm"] if descent.trace else 0.0,
        log_marginal_likelihood_error=evaluated[1],
        message=descent.message,
        unidentified=unidentified_columns(kernel, x),
        steps=descent.step_count,
    )
