"""A predictive distribution from quantiles, for regressors that give nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["LEAST_WIDTH", "LEVELS", "QuantileDistribution"]

LEVELS = np.arange(0.025, 1.0, 0.05)
"""Twenty levels, .025 to .975: midpoints of twenty equal parts, so that a mean over them is the midpoint rule, and the
outermost two are the ends of the central 95 %."""
LEAST_WIDTH = 1e-3
"""Neighbouring quantiles count as this far apart at least, in units of the target: a density knows no atoms."""
_INNER = 4
"""Steps from the outermost level to the one that says how fast a tail falls."""


@dataclass(frozen=True)
class QuantileDistribution:
    """Distributions whose quantiles at `LEVELS` are known.

    The density is constant between neighbouring quantiles, which hold .05 each, and exponential beyond the outermost
    ones, which leave .025 each; a tail falls as fast as an exponential one with the quantiles at .025 and .225 (.775
    and .975) does. Quantiles that cross are sorted (Chernozhukov, Fernández-Val & Galichon 2010). Where two are closer
    than `LEAST_WIDTH` the density is that of this width and the rest of the mass is lost: it integrates to less than
    one there, and the log density is on the low side, never on the high one.

    Args:
        quantiles: (20, m), in any order along the first axis.
    """

    quantiles: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "quantiles", np.sort(self.quantiles, axis=0))

    def _widths(self, y: np.ndarray) -> np.ndarray:  # (m,)
        """Mass over density at y's nearer end: widths of steps over .05, scales of tails over .025."""
        q = self.quantiles
        part = (y >= q).sum(axis=0)  # 0 below all quantiles, 20 above all
        decay = math.log(LEVELS[_INNER] / LEVELS[0])
        low, high = (q[_INNER] - q[0]) / decay, (q[-1] - q[-1 - _INNER]) / decay
        return np.vstack([low, np.diff(q, axis=0), high])[part, np.arange(len(y))]

    def logpdf(self, y: np.ndarray) -> np.ndarray:
        """Log densities at y, (m,)."""
        beyond = np.maximum(self.quantiles[0] - y, 0.0) + np.maximum(y - self.quantiles[-1], 0.0)
        inside = (self.quantiles[0] <= y) & (y < self.quantiles[-1])
        widths = np.maximum(self._widths(y), LEAST_WIDTH)
        return np.log(np.where(inside, 0.05, 0.025) / widths) - beyond / widths

    def capped(self, y: np.ndarray) -> float:
        """The share of rows whose density is that of `LEAST_WIDTH`."""
        return float(np.mean(self._widths(y) < LEAST_WIDTH))

    def crps(self, y: np.ndarray) -> np.ndarray:
        """Twice the mean pinball loss over the levels, (m,): the midpoint rule for the CRPS."""
        above = y - self.quantiles
        levels = LEVELS[:, None]
        return 2 * np.mean(np.maximum(levels * above, (levels - 1) * above), axis=0)

    def interval(self, coverage: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """The outermost quantiles, which hold 95 %; there is no other interval."""
        assert coverage == 0.95
        return self.quantiles[0], self.quantiles[-1]
