"""The scale and the tails that squared z-scores of left-out rows ask for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize
from scipy.special import gammaln

Array = np.ndarray[Any, np.dtype[np.float64]]

LEAST_DF = 2.1
"""Degrees of freedom of a Student-t are kept above this, so that there is a variance."""
_MOST_LOG = 600.0  # beyond it squared numbers overflow
MOST_DF = 100.0
"""Above this a Student-t variable counts as normal."""


@dataclass(frozen=True)
class Tail:
    """A model of z = (y − mean)/std: z ~ exp(log_scale/2) · t(df).

    Attributes:
        log_scale: (…) logarithm of the squared scale. df: degrees of freedom, infinite for the normal distribution.
        gain: what a log-scale surface was multiplied by, 1 where there is none.
        outliers: (share, factor): so many are normal with a scale so many times as large; None without.
    """

    log_scale: float = 0.0
    df: float = math.inf
    gain: float = 1.0
    outliers: tuple[float, float] | None = None


def log_density(
    z_square: Array, log_scale: Array | float, df: float, outliers: tuple[float, float] | None = None
) -> Array:
    """Log density of z at so many squares under exp(log_scale/2)·t(df)."""
    if outliers is not None:
        share, factor = outliers
        inner = log_density(z_square, log_scale, df) + math.log1p(-share)
        outer = log_density(z_square, log_scale + 2 * math.log(factor), df) + math.log(share)
        return np.logaddexp(inner, outer)
    u = z_square * np.exp(np.minimum(-np.asarray(log_scale), _MOST_LOG))
    if math.isinf(df):
        return -0.5 * (math.log(2 * math.pi) + log_scale + u)
    constant = gammaln(0.5 * (df + 1)) - gammaln(0.5 * df) - 0.5 * math.log(df * math.pi)
    return constant - 0.5 * log_scale - 0.5 * (df + 1) * np.log1p(u / df)


def fit_tail(
    z_square: Array, surface: Array | None = None, outliers: tuple[float, float] | None = None
) -> Tail:
    """The most likely scale and degrees of freedom; with a surface (m,) of log scales, also its gain.

    With (share, factor) of outliers, variables are normal but for these.

    Cost: some hundred passes over at most 20,000 of the squares.
    """
    step = max(1, len(z_square) // 20_000)
    z_square = np.ascontiguousarray(z_square[::step])
    h = None if surface is None else np.ascontiguousarray(surface[::step])

    def loss(p: Array) -> float:
        log_scale = p[0] if h is None else p[0] + p[2] * h
        df = math.inf if outliers is not None else _df(p[1])
        return -float(np.mean(log_density(z_square, log_scale, df, outliers)))

    # χ² of one degree has the median .455, whatever the tails
    centre = math.log(max(float(np.median(z_square)), 1e-300) / 0.455)
    starts = [[centre, 1.0]] if h is None else [[centre, 1.0, 1.0], [centre, 1.0, 0.4]]
    best = min((_minimised(loss, np.array(s)) for s in starts), key=lambda result: float(result.fun))
    df = _df(best.x[1])
    if df > MOST_DF or outliers is not None:
        df = math.inf
    return Tail(float(best.x[0]), df, 1.0 if h is None else float(best.x[2]), outliers)


def _minimised(loss: Callable[[Array], float], start: Array) -> Any:
    simplex = np.vstack([start, start + np.diag(np.array([1.0, 1.0, 0.3])[: len(start)])])
    options = {"initial_simplex": simplex, "maxiter": 600, "xatol": 1e-3, "fatol": 1e-7}
    return optimize.minimize(loss, start, method="Nelder-Mead", options=options)


def _df(p: float) -> float:
    return LEAST_DF + math.exp(min(float(p), 20.0))
