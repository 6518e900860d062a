"""The scale, the tails and the shape that squared z-scores of left-out rows ask for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import optimize

from sggp.predictive import GeneralizedT

Array = np.ndarray[Any, np.dtype[np.float64]]

LEAST_DF = 2.1
"""Degrees of freedom of a Student-t are kept above this, so that there is a variance."""
MOST_DF = 100.0
"""Above this a Student-t variable counts as normal."""
LEAST_POWER, MOST_POWER = 1.0, 50.0
"""Of a generalised t variable."""
FLAT_DF = 30.0
"""Most degrees of freedom of one whose top is flatter than a normal one's: without them nothing could lie beyond it."""
_STEP = np.array([1.0, 1.0, 0.3, 0.5])


@dataclass(frozen=True)
class Tail:
    """A model of z = (y − mean)/std: z ~ exp(log_scale/2) · t(df, power).

    Attributes:
        log_scale: (…) logarithm of the squared scale. df: degrees of freedom, infinite for the normal distribution.
        gain: what a log-scale surface was multiplied by, 1 where there is none.
        outliers: (share, factor): so many are normal with a scale so many times as large; None without.
        power: 2 for Student-t and normal variables; of generalised ones see `sggp.predictive.PredictiveDistribution`.
    """

    log_scale: float = 0.0
    df: float = math.inf
    gain: float = 1.0
    outliers: tuple[float, float] | None = None
    power: float = 2.0

    @property
    def law(self) -> dict[str, Any]:
        """What a `PredictiveDistribution` takes beside centres and scales."""
        return {"df": self.df, "outliers": self.outliers, "power": self.power}

    def log_density(self, z_square: Array, surface: Array | float = 0.0) -> Array:
        """Log density of z at so many squares, with log scales (m,) of a surface."""
        return log_density(z_square, self.log_scale + self.gain * surface, self.df, self.outliers, self.power)


def log_density(
    z_square: Array,
    log_scale: Array | float,
    df: float,
    outliers: tuple[float, float] | None = None,
    power: float = 2.0,
) -> Array:
    """Log density of z at so many squares under exp(log_scale/2)·t(df, power)."""
    return _density_of_logs(_logs(z_square), log_scale, df, outliers, power)


def _logs(z_square: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.log(z_square)


def _density_of_logs(
    log_square: Array,
    log_scale: Array | float,
    df: float,
    outliers: tuple[float, float] | None,
    power: float,
) -> Array:
    """`log_density` at logarithms of squares, which a search takes once."""
    if outliers is not None:
        share, factor = outliers
        inner = _density_of_logs(log_square, log_scale, df, None, 2.0) + math.log1p(-share)
        moved = log_scale + 2 * math.log(factor)
        outer = _density_of_logs(log_square, moved, df, None, 2.0) + math.log(share)
        return np.logaddexp(inner, outer)
    return GeneralizedT(df, power).log_density(0.5 * (log_square - log_scale)) - 0.5 * log_scale


def fit_tail(
    z_square: Array,
    surface: Array | None = None,
    outliers: tuple[float, float] | None = None,
    shaped: Tail | None = None,
) -> Tail:
    """The most likely scale and degrees of freedom; with a surface (m,) of log scales, also its gain.

    With (share, factor) of outliers, variables are normal but for these. With what this found before as `shaped`, the
    power is free as well, and the search goes on from there.

    Cost: some hundred passes over at most 20,000 of the squares.
    """
    step = max(1, len(z_square) // 20_000)
    z_square = np.ascontiguousarray(z_square[::step])
    h = 0.0 if surface is None else np.ascontiguousarray(surface[::step])

    def tail(p: Array) -> Tail:
        df = math.inf if outliers is not None else _df(p[1])
        power = 2.0 if shaped is None else _power(p[3])
        df = min(df, FLAT_DF) if power > 2 else df
        return Tail(float(p[0]), df, 1.0 if surface is None else float(p[2]), outliers, power)

    # χ² of one degree has the median .455, whatever the tails
    centre = math.log(max(float(np.median(z_square)), 1e-300) / 0.455)
    free = [0, 1] if surface is None else [0, 1, 2]
    if shaped is not None:
        heavy = math.log(min(shaped.df, MOST_DF) - LEAST_DF + 1e-3)
        free, level = [*free, 3], shaped.log_scale
        starts = [[level, heavy, shaped.gain, math.log(p)] for p in (2.0, 0.7, 10.0)]
    else:
        starts = [[centre, 1.0, gain, 0.0] for gain in ([1.0] if surface is None else [1.0, 0.4])]
    logs = _logs(z_square)

    def loss(p: Array) -> float:
        at = tail(p)
        level = at.log_scale if surface is None else at.log_scale + at.gain * h
        return -float(np.add.reduce(_density_of_logs(logs, level, at.df, outliers, at.power))) / len(logs)

    results = [_minimised(loss, s, free) for s in starts]
    found = tail(min(results, key=lambda result: result[1])[0])
    return found if found.df <= MOST_DF or outliers is not None else replace(found, df=math.inf)


def _minimised(
    loss: Callable[[Array], float], start: Sequence[float], free: list[int]
) -> tuple[Array, float]:
    """Where the loss is least over the free parameters, and what it is there."""
    whole = np.array(start)

    def filled(part: Array) -> Array:
        whole[free] = part
        return whole

    begin = whole[free]
    simplex = np.vstack([begin, begin + np.diag(_STEP[free])])
    options = {"initial_simplex": simplex, "maxiter": 600, "xatol": 1e-3, "fatol": 1e-7}
    best = optimize.minimize(lambda part: loss(filled(part)), begin, method="Nelder-Mead", options=options)
    return filled(best.x).copy(), float(best.fun)


def _df(p: float) -> float:
    return LEAST_DF + math.exp(min(float(p), 20.0))


def _power(p: float) -> float:
    return min(max(math.exp(float(p)), LEAST_POWER), MOST_POWER)
