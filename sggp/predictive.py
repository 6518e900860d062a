"""Predictive distributions of measurements, normal or Student-t, and the scores that judge them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from sggp.checks import as_numbers, finite_number
from sggp.errors import InputError, ShapeError
from sggp.random import numpy_state

Array = np.ndarray[Any, np.dtype[np.float64]]


def checked_coverage(coverage: Any) -> float:
    """A number strictly between 0 and 1.

    Raises:
        InputError: anything else.
    """
    if not 0 < (level := finite_number(coverage, "coverage")) < 1:
        raise InputError(f"coverage must lie strictly between 0 and 1, got {coverage!r}; for 95 % give 0.95.")
    return level


@dataclass(frozen=True)
class PredictiveDistribution:
    """Independent location-scale variables: normal, or Student-t where the tails are heavier.

    Attributes:
        loc: (...) centres, in units of y. scale: (...) positive scales; the standard deviation for normal ones.
        df: degrees of freedom, above 1; infinite for the normal distribution.
        outliers: (share, factor) of measurements whose scale is so many times as large; of normal ones only.

    Example:
        >>> from sggp.predictive import PredictiveDistribution
        >>> low, high = PredictiveDistribution([0.0], [2.0]).interval(0.95)
        >>> round(float(high[0]), 2)
        3.92
    """

    loc: Any
    scale: Any
    df: float = math.inf
    outliers: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        loc, scale = np.asarray(self.loc, dtype=float), np.asarray(self.scale, dtype=float)
        if loc.shape != scale.shape:
            raise ShapeError(f"loc and scale must have one shape, got {loc.shape} and {scale.shape}.")
        if not (scale > 0).all():
            raise InputError(f"scale must be positive, got {float(np.min(scale)):.3g}.")
        if not finite_number(self.df, "df", infinite=True) > 1:
            raise InputError(f"df must be above 1, so that there is a mean, got {self.df}.")
        if self.outliers is not None:
            share, factor = self.outliers
            if not (0 < share < 1 and factor > 1 and math.isinf(self.df)):
                raise InputError(
                    f"outliers must be a share within (0, 1) and a factor above 1 of normal variables, got "
                    f"{self.outliers} with df={self.df}."
                )
        object.__setattr__(self, "loc", loc)
        object.__setattr__(self, "scale", scale)

    @property
    def _standard(self) -> Any:
        if self.outliers is not None:
            return _Contaminated(*self.outliers)
        return scipy.stats.norm if math.isinf(self.df) else scipy.stats.t(self.df)

    def mean(self) -> Array:
        """The means, which are the centres."""
        return np.array(self.loc)

    def std(self) -> Array:
        """The standard deviations; infinite where df ≤ 2."""
        if self.outliers is not None:
            share, factor = self.outliers
            return self.scale * math.sqrt(1 - share + share * factor**2)
        if math.isinf(self.df):
            return np.array(self.scale)
        return self.scale * (math.sqrt(self.df / (self.df - 2)) if self.df > 2 else math.inf)

    def z(self, y: Any) -> Array:
        """(y − loc)/scale."""
        return (np.asarray(y, dtype=float) - self.loc) / self.scale

    def logpdf(self, y: Any) -> Array:
        """Log densities at y, which broadcasts against loc."""
        return self._standard.logpdf(self.z(y)) - np.log(self.scale)

    def pdf(self, y: Any) -> Array:
        """Densities at y."""
        return np.exp(self.logpdf(y))

    def cdf(self, y: Any) -> Array:
        """Probabilities of values up to y: uniform over measured rows where the distribution is true."""
        return self._standard.cdf(self.z(y))

    def ppf(self, probability: Any) -> Array:
        """Quantiles: probabilities (k,) give (k, *loc.shape), a single one loc.shape.

        Raises:
            InputError: a probability outside (0, 1).
        """
        p = as_numbers(probability, "probability", "a number between 0 and 1, or several").numpy()
        if not ((p > 0) & (p < 1)).all():
            raise InputError(f"probabilities must lie strictly between 0 and 1, got {probability!r}.")
        quantile = np.asarray(self._standard.ppf(p)).reshape(p.shape + (1,) * self.loc.ndim)
        return self.loc + self.scale * quantile

    def interval(self, coverage: float = 0.95) -> tuple[Array, Array]:
        """The central interval that holds this share of the probability: lower and upper ends.

        Raises:
            InputError: a coverage outside (0, 1).
        """
        level = checked_coverage(coverage)
        low, high = self.ppf([0.5 - 0.5 * level, 0.5 + 0.5 * level])
        return low, high

    def crps(self, y: Any) -> Array:
        """Continuous ranked probability scores at y, in units of y, the lower the better (Gneiting & Raftery 2007).

        For Student-t variables the closed form of Jordan, Krüger & Lerch 2019.
        """
        z, nu = self.z(y), self.df
        if self.outliers is not None:
            return self.scale * self._standard.crps(z)
        inner = 2 * self._standard.cdf(z) - 1
        density = self._standard.pdf(z)
        if math.isinf(nu):
            return self.scale * (z * inner + 2 * density - 1 / math.sqrt(math.pi))
        ratio = math.exp(float(scipy.special.betaln(0.5, nu - 0.5) - 2 * scipy.special.betaln(0.5, 0.5 * nu)))
        body = 2 * density * (nu + z * z) / (nu - 1)
        return self.scale * (z * inner + body - 2 * math.sqrt(nu) / (nu - 1) * ratio)

    def rvs(self, size: int = 1, random_state: Any = None) -> Array:
        """(size, *loc.shape) independent draws."""
        draws = self._standard.rvs(size=(size, *self.loc.shape), random_state=random_state)
        return self.loc + self.scale * draws

    def __getitem__(self, rows: Any) -> PredictiveDistribution:
        """The distributions of some rows."""
        return PredictiveDistribution(self.loc[rows], self.scale[rows], self.df, self.outliers)

    def __len__(self) -> int:
        return len(self.loc)


class _Contaminated:
    """(1 − ε)·N(0, 1) + ε·N(0, c²): Tukey's contaminated normal distribution."""

    def __init__(self, share: float, factor: float) -> None:
        self.weights, self.scales = np.array([1 - share, share]), np.array([1.0, factor])

    def _parts(self, z: Any, of: Any) -> Any:  # (...) -> (..., 2)
        return of(np.asarray(z, dtype=float)[..., None] / self.scales)

    def logpdf(self, z: Any) -> Any:
        inner = self._parts(z, scipy.stats.norm.logpdf) + np.log(self.weights / self.scales)
        return scipy.special.logsumexp(inner, axis=-1)

    def pdf(self, z: Any) -> Any:
        return np.exp(self.logpdf(z))

    def cdf(self, z: Any) -> Any:
        return self._parts(z, scipy.stats.norm.cdf) @ self.weights

    def ppf(self, p: Any) -> Any:
        p = np.asarray(p, dtype=float)
        ends = scipy.stats.norm.ppf(p.reshape(-1))[:, None] * self.scales
        roots = [
            low
            if high - low < 1e-12
            else scipy.optimize.brentq(lambda z, q=q: float(self.cdf(z)) - q, low, high)
            for q, (low, high) in zip(p.reshape(-1), np.sort(ends, axis=1), strict=True)
        ]
        return np.array(roots).reshape(p.shape)

    def rvs(self, size: Any, random_state: Any = None) -> Any:
        given = isinstance(random_state, np.random.Generator)  # which SciPy takes, too
        generator = random_state if given else numpy_state(random_state)
        return generator.standard_normal(size) * generator.choice(self.scales, size=size, p=self.weights)

    def crps(self, z: Any) -> Any:
        """E|X − z| − E|X − X'|/2, each of normal variables."""
        u = np.asarray(z, dtype=float)[..., None] / self.scales
        away = (
            self.scales * (u * (2 * scipy.stats.norm.cdf(u) - 1) + 2 * scipy.stats.norm.pdf(u))
        ) @ self.weights
        pairs = np.sqrt(self.scales[:, None] ** 2 + self.scales[None] ** 2) * math.sqrt(2 / math.pi)
        return away - 0.5 * float(self.weights @ pairs @ self.weights)
