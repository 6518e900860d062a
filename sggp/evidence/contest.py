"""Models of the noise against each other, by their scores on rows set aside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from sggp.evidence.aside import mean_and_error
from sggp.evidence.leave_one_out import LeftOut, Observed
from sggp.evidence.tails import Tail, fit_tail
from sggp.predictive import PredictiveDistribution

ONE_NOISE, RESCALED = "one normal noise", "rescaled, with tails"
DEPENDING, IN_THE_SOLVE = "depending on the input", "depending on the input, in the solve as well"
SHAPED = ", of a shape of its own"
_TWO_ERRORS = 2.0
_REFUTED = 8.0  # standard deviations at which no row of a normal distribution lies


@dataclass(frozen=True)
class Scores:
    """Of each row set aside, (m,)."""

    rows: np.ndarray
    log_density: np.ndarray
    crps: np.ndarray
    squared_error: np.ndarray
    refuted: bool


Trials = dict[str, tuple[Tail, Scores]]


@dataclass(frozen=True)
class Residuals:
    """Of rows of one target that were left out."""

    rows: Tensor  # (m,)
    mean: Tensor  # (m,)
    variance: Tensor  # (m,) of the measurement
    residual: Tensor  # (m,)

    @classmethod
    def of(cls, observed: Observed, rows: Tensor, left: LeftOut, noise_variance: float) -> Residuals:
        """Whatever the noise of the solve, measurements have the one noise of all rows before any surface."""
        mean = left.mean[:, 0]
        return cls(rows, mean, left.latent + noise_variance, observed.residual[rows, 0] - mean)

    @classmethod
    def joined(cls, parts: list[Residuals]) -> Residuals:
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def split(self, count: int) -> tuple[Residuals, Residuals]:
        """The first rows, and the rest."""
        columns = [getattr(self, f.name) for f in fields(self)]
        return Residuals(*(c[:count] for c in columns)), Residuals(*(c[count:] for c in columns))

    @property
    def z_square(self) -> np.ndarray:  # (m,)
        return (self.residual.square() / self.variance).numpy()


@dataclass(frozen=True)
class Judged:
    """What one model of the noise says of rows set aside: residuals, and a surface of log scales (m,) or None."""

    residuals: Residuals
    surface: np.ndarray | None = None

    def fitted(self, outliers: tuple[float, float] | None = None, shaped: Tail | None = None) -> Tail:
        """See `fit_tail`."""
        return fit_tail(self.residuals.z_square, self.surface, outliers, shaped)

    def scores(self, tail: Tail) -> Scores:
        rows = self.residuals
        h = np.zeros(len(rows.rows)) if self.surface is None else self.surface
        variance = rows.variance.numpy()
        density = tail.log_density(rows.z_square, h) - 0.5 * np.log(variance)
        scale = np.sqrt(variance * np.exp(tail.log_scale + tail.gain * h))
        law = PredictiveDistribution(np.zeros(len(scale)), np.maximum(scale, 1e-300), **tail.law)
        residual = rows.residual.numpy()
        normal = bool(np.isinf(tail.df)) and tail.outliers is None and tail.power == 2
        far = normal and bool(np.abs(law.z(residual)).max() > _REFUTED)
        return Scores(rows.rows.numpy(), density, law.crps(residual), residual**2, far)


@dataclass(frozen=True)
class NoiseScore:
    """One model of the noise on rows set aside: log density, nats a row, CRPS in units of the model.

    `gain` is that in log density over the best simpler model, `error` its standard error.
    """

    name: str
    log_density: float
    crps: float
    gain: float
    error: float

    def __str__(self) -> str:
        gain = f"{self.gain:+.4f} ± {self.error:.4f} nats a row"
        return f"log density {self.log_density:.4f} ({gain}), CRPS {self.crps:.4g}"


@dataclass(frozen=True)
class Verdict:
    """Which model of the noise won, by the name it was judged under, and whether with a shape of its own."""

    name: str
    tail: Tail
    scores: tuple[NoiseScore, ...]
    reason: str


def decide(
    judged: Mapping[str, Judged],
    beside: Mapping[str, Judged] | None = None,
    outliers: tuple[float, float] | None = None,
    member: Tensor | None = None,
) -> Verdict:
    """The model of the noise that rows set aside ask for, as a normal or a Student-t variable or else a generalised t.

    Args:
        judged: models, simplest first. beside: the same on other rows set aside; both under the tails learnt on the
            first. outliers: (share, factor), which keep everything normal. member: see `best_of`.
    """
    plain = Tail(outliers=outliers)
    tails = {name: plain if name == ONE_NOISE else model.fitted(outliers) for name, model in judged.items()}

    def trials(of: Mapping[str, Judged], tails: Mapping[str, Tail]) -> Trials:
        return {name: (tail, of[name.removesuffix(SHAPED)].scores(tail)) for name, tail in tails.items()}

    def best(tails: Mapping[str, Tail]) -> tuple[str, tuple[NoiseScore, ...]]:
        return best_of(trials(judged, tails), None if beside is None else trials(beside, tails), member)

    name, told = best(tails)
    score = told[list(tails).index(name)]
    base = RESCALED if name == ONE_NOISE else name
    if outliers is None and base in judged:
        shaped = base + SHAPED
        tails = {name: tails[name], shaped: judged[base].fitted(shaped=tails[base])}
        name, last = best(tails)
        told = (*told, last[1])
        score = last[1] if name == shaped else score
    tail, said = tails[name], ""
    if tail.power != 2:
        said = f" ({'flat' if tail.power > 2 else 'peaked'}, power {tail.power:.3g})"
    return Verdict(name.removesuffix(SHAPED), tail, told, f"{name}{said}: {score}")


def best_of(
    trials: Trials, beside: Trials | None = None, member: Tensor | None = None
) -> tuple[str, tuple[NoiseScore, ...]]:
    """The simplest that no later one beats by two standard errors of the log density at no cost in CRPS.

    A few far rows make that error as large as the gain; a normal distribution that cannot have made them is out. Noise
    in the solve changes the mean: it must lower the CRPS by two standard errors as well, and not raise the squared
    error by one.

    Args:
        beside: the same models on other rows set aside, where they must gain as well, at no cost in CRPS.
        member: (n,) which rows of the table share an input, and thus errors; None for none.
    """
    best, told = "", []
    for name, (_, scores) in trials.items():
        kept = trials[best][1] if best else scores
        alike = None if member is None else member.numpy()[scores.rows]
        gain, error = mean_and_error(scores.log_density - kept.log_density, alike)
        told.append(
            NoiseScore(name, float(scores.log_density.mean()), float(scores.crps.mean()), gain, error)
        )
        wins = _wins(name, scores, kept, alike)
        if wins and beside is not None:
            wins = name in beside and _gains(beside[name][1], beside[best][1])
        if not best or wins:
            best = name
    return best, tuple(told)


def _wins(name: str, scores: Scores, kept: Scores, alike: np.ndarray | None = None) -> bool:
    gain, error = mean_and_error(scores.log_density - kept.log_density, alike)
    worse, crps_error = mean_and_error(scores.crps - kept.crps, alike)
    further, squared_error = mean_and_error(scores.squared_error - kept.squared_error, alike)
    wins = gain > _TWO_ERRORS * error and worse < crps_error
    if name == IN_THE_SOLVE:
        wins = wins and worse < -_TWO_ERRORS * crps_error and further < squared_error
    return wins or (gain > 0 and kept.refuted)


def _gains(scores: Scores, kept: Scores) -> bool:
    """Whether it has the higher log density, at no cost in CRPS."""
    worse, error = mean_and_error(scores.crps - kept.crps)
    return float(scores.log_density.mean()) > float(kept.log_density.mean()) and worse < error
