"""How far measurements lie from predictions, learnt from rows that were left out.

A Gaussian process with one noise for all rows predicts row i, left out, with mean mᵢ and variance vᵢ. Where the model
is true zᵢ² = (yᵢ − mᵢ)²/vᵢ is χ² of one degree everywhere. A second process, of log zᵢ² over the inputs, mᵢ and log vᵢ,
learns where it is not: yᵢ ~ mᵢ + √vᵢ · exp((b + a·h(xᵢ))/2)·t(df), or a generalised t variable.

The residual of a row saw its neighbours' targets, and theirs saw its own. So a, b, the degrees of freedom and whether
any of it is worth having are decided on rows that were set aside: predicted, mean and spread alike, from the others
alone. Nothing is taken that does not raise their log density by two standard errors, or that makes their CRPS worse.

Source: a process for the log noise as in Goldberg, Williams & Bishop 1998 and Kersting et al. 2007, but on left-out
residuals, so that it holds the errors of the mean as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sggp.evidence.aside import (
    EXACT_ROWS,
    Split,
    inputs_aside,
    repeated_inputs,
    rows_aside,
)
from sggp.evidence.contest import (
    DEPENDING,
    IN_THE_SOLVE,
    ONE_NOISE,
    RESCALED,
    Judged,
    NoiseScore,
    Residuals,
    decide,
)
from sggp.evidence.leave_one_out import NEIGHBOURS, LeftOut, Observed, Seen, leave_out, predict
from sggp.evidence.tails import Tail, fit_tail
from sggp.hyperparameters import choose_optimizer, learn_hyperparameters, named_kernel
from sggp.hyperparameters.defaults import noise_prior
from sggp.kernels import TanimotoDotProduct, TanimotoMinMax
from sggp.posterior.merge import group_rows
from sggp.random import draw_seed, streams

LEAST_ROWS = 100
"""Fewer rows say too little about their own spread."""
_TINY = 1e-6  # beside z²: the logarithm of a residual of zero
_LOG_CHI_SQUARE = -1.27  # mean of log χ² of one degree
_ROUGHLY: dict[str, Any] = {"tolerance": 1e-3}
_IN_STEPS: dict[str, Any] = {"max_steps": 100}
_MOST_NOISE = 1e300
_ROWS_PER_FEATURE = 5  # with fewer, length scales fit the residuals of the very rows that judge them
_LEARNT_FROM = 10_000  # rows whose residuals the surface of the rows set aside is made of


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
        found, _ = predict(self.observed, (features - self.location) / self.scale)
        return self.offset + self.unit * found[:, 0]

    def left_out(self, places: Tensor | None = None) -> Tensor:  # (k,) -> (k,)
        """h at some of its own rows, by their places among them (default all), each from its nearest others."""
        places = torch.arange(len(self.rows)) if places is None else places
        return self.offset + self.unit * leave_out(self.observed, places).mean[:, 0]


@dataclass(frozen=True)
class NoiseModel:
    """How measurements spread about the predictions of a process with one noise variance.

    Attributes:
        tail: scale and degrees of freedom. surface: where the spread is larger, or None.
        row_noise: (n,) noise variances to condition with, or None for the same everywhere. noise_variance: that of a
            measurement before the surface. apart: rows that have no say, or None.
        scores: the models compared. reason: which won, in one sentence.
        factor, added: what variances given for each row are multiplied by, and what is added (in units of the model).
    """

    tail: Tail = field(default_factory=Tail)
    surface: SpreadSurface | None = field(default=None, repr=False)
    row_noise: Tensor | None = field(default=None, repr=False)
    noise_variance: float = 0.0
    apart: Tensor | None = field(default=None, repr=False)
    scores: tuple[NoiseScore, ...] = ()
    reason: str = "one normal noise for all rows"
    factor: float = 1.0
    added: float = 0.0

    def __str__(self) -> str:
        width = max((len(s.name) for s in self.scores), default=0)
        head = [f"{'noise':<{width}}{'log density':>14}{'gain':>18}{'CRPS':>10}"]
        lines = [
            f"{s.name:<{width}}{s.log_density:>14.4f}{f'{s.gain:.4f} ± {s.error:.4f}':>18}{s.crps:>10.4g}"
            for s in self.scores
        ]
        return "\n".join([*(head if lines else []), *lines, self.reason])

    @property
    def changes(self) -> bool:
        """Whether anything but one normal noise is in it."""
        return self.surface is not None or self.tail != Tail()

    def adjusted(self, given: Tensor) -> Tensor:
        """factor · given + added, and 1e300 where that is beyond float64: such a row has no say."""
        return (self.factor * given + self.added).clamp_max(_MOST_NOISE)

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


def learn_noise_model(
    observed: Observed,
    noise_variance: float,
    generator: torch.Generator,
    apart: Tensor | None = None,
    seen: Seen | None = None,
) -> NoiseModel:
    """The model of the noise that rows set aside ask for.

    Up to 3,000 rows each is set aside once, in five parts or three; of more, 2,000 are. Where most rows repeat an
    input, inputs are set aside, and what wins there must gain on rows set aside as well: their repeats tell of neither
    copies nor few inputs.

    Args:
        observed: one target, (n, 1), with the noise of the solve.
        noise_variance: of a measurement, that was learnt for all rows.
        apart: rows whose noise was raised so that they have no say, see `sggp.evidence.outliers`.
        seen: the table's rows, left out, where that was done before.

    Cost: left-out predictions of at most 50,000 rows, and again where their noise enters the solve; those of the rows
    set aside with 10,000 others, once or twice; and one fit of hyperparameters, of at most 100 steps.
    """
    pick, learn, parts = streams(generator, "rows", "surface", "parts")
    n, surface = len(observed.x), None
    seen = Seen.of(observed, pick) if seen is None else seen
    rows = seen.rows
    fingerprints = any(isinstance(k, TanimotoMinMax | TanimotoDotProduct) for k in observed.kernel.modules())
    if not fingerprints and observed.x.is_floating_point():  # those have no columns to learn a surface over
        plain = Residuals.of(observed, rows, seen.left, noise_variance)
        surface = learn_surface(observed.x, plain, draw_seed(learn))
    groups = repeated_inputs(observed.x)
    aside = rows_aside(n, parts) if groups is None else inputs_aside(groups, parts)
    judged = _on_rows_set_aside(observed, noise_variance, surface, aside)
    found = decide(
        judged,
        None
        if groups is None
        else _on_rows_set_aside(observed, noise_variance, surface, rows_aside(n, parts)),
        None if apart is None else _outliers(judged[ONE_NOISE].residuals, apart),
        None if groups is None else groups.member,
    )
    tail, reason = found.tail, found.reason
    if apart is not None:
        reason += f"; {len(apart)} outlying rows have no say"
    kept = None if apart is None else observed.noise
    model = NoiseModel(tail, None, kept, noise_variance, apart, found.scores, reason)
    if found.name in (ONE_NOISE, RESCALED) or surface is None:
        return model
    if found.name == DEPENDING:
        return replace(model, surface=surface)
    noise = _row_noise(observed, surface, rows, tail)
    left = leave_out(replace(observed, noise=noise), rows)
    again = learn_surface(observed.x, Residuals.of(observed, rows, left, noise_variance), 0, surface)
    return replace(model, surface=again, row_noise=noise)


def _on_rows_set_aside(
    observed: Observed, noise_variance: float, known: SpreadSurface | None, parts: list[Split]
) -> dict[str, Judged]:
    """What the models say of the rows set aside, simplest first; none of those rows helped to predict itself.

    Args:
        known: a surface whose hyperparameters are taken; None for models without one.
    """
    plain, weighted, surfaces, again = [], [], [], []
    for aside, others in parts:
        rows = others[: 0 if known is None else _LEARNT_FROM]
        both = torch.cat([aside, rows])
        outer = leave_out(observed, both, given=others)
        found, left = Residuals.of(observed, both, outer, noise_variance).split(len(aside))
        plain.append(found)
        if known is None:
            continue
        surface = learn_surface(observed.x, left, 0, known)
        surfaces.append(surface.at(observed.x[aside], found.mean, found.variance))
        if len(rows) < len(others):
            continue
        # once more with the surface's noise in the solve
        noise = _row_noise(observed, surface, rows, fit_tail(left.z_square, surface.left_out().numpy()))
        inner = leave_out(replace(observed, noise=noise), both, given=others)
        found, left = Residuals.of(observed, both, inner, noise_variance).split(len(aside))
        surface = learn_surface(observed.x, left, 0, known)
        weighted.append(found)
        again.append(surface.at(observed.x[aside], found.mean, found.variance))
    every = Residuals.joined(plain)
    models = {ONE_NOISE: Judged(every), RESCALED: Judged(every)}
    if surfaces:
        models[DEPENDING] = Judged(every, torch.cat(surfaces).numpy())
    if weighted and len(weighted) == len(plain):
        models[IN_THE_SOLVE] = Judged(Residuals.joined(weighted), torch.cat(again).numpy())
    return models


def _outliers(evidence: Residuals, apart: Tensor) -> tuple[float, float]:
    """Share of the rows that were set apart, and how many times as far as the others they lie."""
    found = np.isin(evidence.rows.numpy(), apart.numpy())
    found[np.argmax(evidence.z_square)] = True  # one at least, where none of those apart were set aside
    others = np.median(evidence.z_square[~found]) / 0.455
    factor = float(np.sqrt(evidence.z_square[found].mean() / max(others, 1e-300)))
    return float(found.mean()), max(factor, 2.0)


def _row_noise(observed: Observed, surface: SpreadSurface, rows: Tensor, tail: Tail) -> Tensor:  # (n,)
    """Noise variances by the surface at some rows, half-way on the log scale, so that each row keeps some say."""
    log_factor = 0.5 * (tail.log_scale + tail.gain * surface.left_out())
    noise = observed.noise.clone()
    noise[rows] = noise[rows] * log_factor.clamp(-7.0, 7.0).exp()
    return noise


def learn_surface(
    x: Tensor, evidence: Residuals, seed: int, known: SpreadSurface | None = None
) -> SpreadSurface:
    """A process for log z² over inputs, means and log variances; with the hyperparameters of one that is known.

    Over means and variances alone where there are too few rows to learn a length scale for each input.

    Args:
        x: (n, d) inputs of the whole table.
    """
    columns = (x.std(dim=0) > 0).nonzero()[:, 0]
    if _ROWS_PER_FEATURE * (len(columns) + 2) > len(x):
        columns = columns[:0]
    rows = x[evidence.rows]
    groups = group_rows(rows)
    # among repeats a left-out mean would tell the row's own target: they share one
    moments = torch.stack([evidence.mean, evidence.variance.log()], dim=1)
    mean, log_variance = groups.mean(moments, torch.ones_like(evidence.mean))[groups.member].unbind(dim=1)
    features = _features(rows, mean, log_variance.exp(), columns)
    location, scale = features.mean(dim=0), features.std(dim=0).clamp_min(1e-12)
    features = (features - location) / scale
    values = torch.from_numpy(np.log(evidence.z_square + _TINY)) - _LOG_CHI_SQUARE
    offset, unit = float(values.mean()), max(float(values.std()), 1e-12)
    values = (values - offset) / unit
    if known is not None:
        kernel, noise, prior = known.observed.kernel, known.observed.noise[:1], 0.0
    else:
        many = choose_optimizer(len(values)) != "exact"
        # an exact likelihood is one of some rows
        some = slice(None) if many else slice(None, None, -(-len(values) // EXACT_ROWS))
        fit = learn_hyperparameters(
            named_kernel("matern32", features.shape[1], many_rows=many),
            features[some],
            values[some],
            noise_prior=noise_prior(),
            initial_noise_variance=0.8,
            scale_free=False,
            generator=seed,
            **(_IN_STEPS if many else _ROUGHLY),
        )
        kernel, noise, prior = (
            fit.kernel,
            torch.as_tensor(fit.noise_variance, dtype=torch.float64).reshape(1),
            float(fit.mean),
        )
    observed = Observed(kernel, features, (values - prior)[:, None], noise.double().expand(len(values)))
    return SpreadSurface(observed, evidence.rows, columns, location, scale, offset + unit * prior, unit)


def _features(x: Tensor, mean: Tensor, variance: Tensor, columns: Tensor) -> Tensor:  # -> (q, p)
    return torch.cat([x[:, columns].double(), mean.double()[:, None], variance.double().log()[:, None]], 1)
