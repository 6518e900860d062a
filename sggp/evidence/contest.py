"""Models of the noise against each other, by their scores on rows set aside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sggp.evidence.aside import mean_and_error
from sggp.evidence.tails import Tail

ONE_NOISE, RESCALED = "one normal noise", "rescaled, with tails"
DEPENDING, IN_THE_SOLVE = "depending on the input", "depending on the input, in the solve as well"
_TWO_ERRORS = 2.0


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
