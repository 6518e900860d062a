"""How far measurements lie from predictions, learnt from rows that were left out.

A Gaussian process with one noise for all rows predicts row i, left out, with mean mᵢ and variance vᵢ. Where the model
is true zᵢ² = (yᵢ − mᵢ)²/vᵢ is χ² of one degree everywhere. A second process, of log zᵢ² over the inputs, mᵢ and log vᵢ,
learns where it is not; its own left-out predictions hᵢ are what the measurements are judged by: yᵢ ~ mᵢ + √vᵢ ·
exp((b + a·hᵢ)/2)·t(df), with a, b and the degrees of freedom by maximum likelihood. Nothing is taken that does not
raise the left-out log density by two standard errors.

Source: a process for the log noise as in Goldberg, Williams & Bishop 1998 and Kersting et al. 2007, but on left-out
residuals, so that it holds the errors of the mean as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sggp.evidence.leave_one_out import (
    NEIGHBOURS,
    LeftOut,
    Observed,
    leave_out,
    leave_rows_out,
    predict_from_nearest,
)
from sggp.evidence.tails import Tail, fit_tail, log_density
from sggp.hyperparameters import choose_optimizer, learn_hyperparameters, named_kernel
from sggp.hyperparameters.defaults import noise_prior
from sggp.random import draw_seed, streams

LEAST_ROWS = 100
"""Fewer rows say too little about their own spread."""
MOST_ROWS = 50_000
"""Rows whose residuals are looked at."""
_TINY = 1e-6  # beside z²: the logarithm of a residual of zero
_LOG_CHI_SQUARE = -1.27  # mean of log χ² of one degree
_STEPS = 200
_TWO_ERRORS = 2.0


@dataclass(frozen=True)
class SpreadSurface:
    """A process for the logarithm of squared z-scores.

    Attributes:
        observed: features and values, standardised. rows: (m,) of the table that they are of. columns: the inputs among
            the features. location, scale: (p,) of the features. offset, unit: of the values.
    """

    observed: Observed
    rows: Tensor
    columns: Tensor
    location: Tensor
    scale: Tensor
    offset: float
    unit: float

    def at(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:  # (q, d), (q,), (q,) -> (q,)
        """h at new rows, from their nearest ones."""
        features = _features(x, mean, variance, self.columns)
        found, _ = predict_from_nearest(self.observed, (features - self.location) / self.scale)
        return self.offset + self.unit * found[:, 0]

    def left_out(self, places: Tensor | None = None) -> Tensor:  # (k,) -> (k,)
        """h at some of its own rows, by their places among them (default all), each from its nearest others."""
        places = torch.arange(len(self.rows)) if places is None else places
        return self.offset + self.unit * leave_rows_out(self.observed, places).mean[:, 0]


@dataclass(frozen=True)
class NoiseScore:
    """Left-out log density of one model of the noise, nats a row, and its gain over the one before it, with errors."""

    name: str
    log_density: float
    gain: float
    error: float


@dataclass(frozen=True)
class NoiseModel:
    """How measurements spread about the predictions of a process with one noise variance.

    Attributes:
        tail: scale and degrees of freedom. surface: where the spread is larger, or None.
        row_noise: (n,) noise variances to condition with, or None for the same everywhere. noise_variance: that of a
            measurement before the surface, where there are row noises.
        scores: the models compared. reason: which won, in one sentence.
    """

    tail: Tail = field(default_factory=Tail)
    surface: SpreadSurface | None = None
    row_noise: Tensor | None = None
    noise_variance: float = 0.0
    scores: tuple[NoiseScore, ...] = ()
    reason: str = "one normal noise for all rows"

    @property
    def changes(self) -> bool:
        """Whether anything but one normal noise is in it."""
        return self.surface is not None or self.tail != Tail()

    def log_scale(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:  # (q,)
        """Logarithm of what the predicted variance of a measurement is multiplied by: the squared scale of t(df)."""
        if self.surface is None:
            return torch.full_like(variance, self.tail.log_scale)
        return self.tail.log_scale + self.tail.gain * self.surface.at(x, mean, variance)


def leave_out_with(
    model: NoiseModel, observed: Observed, rows: Tensor, neighbours: int = NEIGHBOURS
) -> tuple[LeftOut, Tensor]:
    """Left-out predictions of some rows, and the logarithm of what each one's variance is multiplied by, (m,).

    Args:
        observed: the table with one noise variance for all rows, as `learn_noise_model` had it.
    """
    inner = observed if model.row_noise is None else replace(observed, noise=model.row_noise)
    left = leave_out(inner, rows, neighbours)
    left = LeftOut(left.mean, left.latent, observed.noise.expand(len(observed.x))[rows])
    surface = model.surface
    if surface is None:
        return left, torch.full_like(left.latent, model.tail.log_scale)
    h = surface.at(observed.x[rows], left.mean[:, 0], left.variance)
    place = torch.full((len(observed.x),), -1)
    place[surface.rows] = torch.arange(len(surface.rows))
    inside = place[rows] >= 0
    if bool(inside.any()):
        h[inside] = surface.left_out(place[rows][inside])
    return left, model.tail.log_scale + model.tail.gain * h


def learn_noise_model(observed: Observed, generator: torch.Generator) -> NoiseModel:
    """The model of the noise that left-out rows ask for.

    Args:
        observed: one target, (n, 1), with the noise variance that was learnt for all rows.

    Cost: `leave_out` of at most 50,000 rows two to four times, and one fit of hyperparameters.
    """
    pick, learn = streams(generator, "rows", "surface")
    n = len(observed.x)
    rows = torch.arange(n) if n <= MOST_ROWS else torch.randperm(n, generator=pick)[:MOST_ROWS].sort().values
    plain = _Evidence.of(observed, rows, leave_out(observed, rows))
    trials = [("one normal noise", NoiseModel(), plain.log_density(Tail()))]
    tail = fit_tail(plain.z_square)
    trials.append(("rescaled, with tails", NoiseModel(tail), plain.log_density(tail)))
    surface = learn_surface(observed.x, plain, draw_seed(learn))
    h = surface.left_out().numpy()
    tail = fit_tail(plain.z_square, h)
    trials.append(("depending on the input", NoiseModel(tail, surface), plain.log_density(tail, h)))
    best, told = _best(trials)
    if best.surface is None or len(rows) < n:
        return replace(best, scores=told)
    weighted, density, error = _with_row_noise(observed, plain, surface, h, tail)
    gain = _gain(density, trials[-1][2])
    told = (*told, NoiseScore("also in the solve", float(density.mean()), *gain))
    if gain[0] > _TWO_ERRORS * gain[1] and error[0] < error[1]:
        best = replace(weighted, reason="the noise depends on the input, in the solve as well")
    return replace(best, scores=told)


@dataclass(frozen=True)
class _Evidence:
    """Left-out residuals of one target."""

    rows: Tensor  # (m,)
    mean: Tensor  # (m,)
    variance: Tensor  # (m,) of the measurement
    residual: Tensor  # (m,)

    @classmethod
    def of(cls, observed: Observed, rows: Tensor, left: LeftOut) -> _Evidence:
        mean, variance = left.mean[:, 0], left.variance
        return cls(rows, mean, variance, observed.residual[rows, 0] - mean)

    @property
    def z_square(self) -> np.ndarray:  # (m,)
        return (self.residual.square() / self.variance).numpy()

    def log_density(self, tail: Tail, h: np.ndarray | float = 0.0) -> np.ndarray:  # (m,)
        inner = log_density(self.z_square, tail.log_scale + tail.gain * np.asarray(h), tail.df)
        return np.asarray(inner - 0.5 * self.variance.log().numpy())


def learn_surface(
    x: Tensor, evidence: _Evidence, seed: int, known: SpreadSurface | None = None
) -> SpreadSurface:
    """A process for log z² over inputs, means and log variances; with the hyperparameters of one that is known.

    Args:
        x: (n, d) inputs of the whole table.
    """
    columns = (x.std(dim=0) > 0).nonzero()[:, 0]
    features = _features(x[evidence.rows], evidence.mean, evidence.variance, columns)
    location, scale = features.mean(dim=0), features.std(dim=0).clamp_min(1e-12)
    features = (features - location) / scale
    values = torch.from_numpy(np.log(evidence.z_square + _TINY)) - _LOG_CHI_SQUARE
    offset, unit = float(values.mean()), max(float(values.std()), 1e-12)
    values = (values - offset) / unit
    if known is not None:
        kernel, noise, mean = known.observed.kernel, known.observed.noise[:1], 0.0
    else:
        many = choose_optimizer(len(values)) != "exact"
        more: dict[str, Any] = {"max_steps": _STEPS} if many else {}
        fit = learn_hyperparameters(
            named_kernel("matern32", features.shape[1], many_rows=many),
            features,
            values,
            noise_prior=noise_prior(),
            initial_noise_variance=0.8,
            scale_free=False,
            generator=seed,
            **more,
        )
        kernel, noise, mean = fit.kernel, torch.as_tensor(fit.noise_variance).reshape(1), float(fit.mean)
    observed = Observed(kernel, features, (values - mean)[:, None], noise.double().expand(len(values)))
    return SpreadSurface(observed, evidence.rows, columns, location, scale, offset + unit * mean, unit)


def _features(x: Tensor, mean: Tensor, variance: Tensor, columns: Tensor) -> Tensor:  # -> (q, p)
    return torch.cat([x[:, columns].double(), mean.double()[:, None], variance.double().log()[:, None]], 1)


def _with_row_noise(
    observed: Observed, plain: _Evidence, surface: SpreadSurface, h: np.ndarray, tail: Tail
) -> tuple[NoiseModel, np.ndarray, tuple[float, float]]:
    """The same with the surface's noise in the solve, half-way on the log scale, so that rows keep some say each.

    Returns:
        The model, its left-out log densities (m,), and how much its squared errors are above those of the plain noise,
        with the standard error of that.
    """
    rows = torch.arange(len(h))
    factor = np.exp(np.clip(0.5 * (tail.log_scale + tail.gain * h), -7.0, 7.0))
    row_noise = observed.noise * torch.from_numpy(factor)
    left = leave_out(replace(observed, noise=row_noise), rows)
    evidence = _Evidence.of(observed, rows, LeftOut(left.mean, left.latent, observed.noise))
    surface = learn_surface(observed.x, evidence, 0, surface)
    h = surface.left_out().numpy()
    tail = fit_tail(evidence.z_square, h)
    worse = (evidence.residual.square() - plain.residual.square()).numpy()
    error = (float(worse.mean()), float(worse.std() / len(worse) ** 0.5))
    return (
        NoiseModel(tail, surface, row_noise, float(observed.noise[0])),
        evidence.log_density(tail, h),
        error,
    )


def _best(
    trials: list[tuple[str, NoiseModel, np.ndarray]],
) -> tuple[NoiseModel, tuple[NoiseScore, ...]]:
    """The simplest that no later one beats by two standard errors."""
    best, density = trials[0][1], trials[0][2]
    scores = [NoiseScore(trials[0][0], float(density.mean()), 0.0, 0.0)]
    for name, model, later in trials[1:]:
        gain, error = _gain(later, density)
        scores.append(NoiseScore(name, float(later.mean()), gain, error))
        if gain > _TWO_ERRORS * error:
            best, density = replace(model, reason=f"{name}: {gain:.4f} ± {error:.4f} nats a row"), later
    return best, tuple(scores)


def _gain(later: np.ndarray, before: np.ndarray) -> tuple[float, float]:
    difference = later - before
    return float(difference.mean()), float(difference.std() / len(difference) ** 0.5)
