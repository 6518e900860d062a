"""Predictive distributions of measurements, normal, Student-t or generalised t, and the scores that judge them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import scipy
from scipy import special

from sggp.checks import as_numbers, finite_number
from sggp.errors import InputError, ShapeError
from sggp.random import numpy_state

Array = np.ndarray[Any, np.dtype[np.float64]]

_MOST_LOG = 600.0  # beyond it the exponential overflows


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
    """Independent location-scale variables: normal, Student-t, or generalised t (McDonald & Newey 1988).

    z = (y − loc)/scale has a density in proportion to (1 + |z|ᵖ/df)^(−(df+1)/p), and to exp(−|z|ᵖ/p) where df is
    infinite.

    Attributes:
        loc: (...) centres, in units of y. scale: (...) positive scales; the standard deviation for normal ones.
        df: degrees of freedom, above 1: tails fall as |z|^−(df+1); infinite for the normal distribution.
        outliers: (share, factor) of measurements whose scale is so many times as large; of normal ones only.
        power: p, positive: 2 for Student-t and normal variables, 1 for a peak (Laplace's), large for a flat top.

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
    power: float = 2.0

    def __post_init__(self) -> None:
        loc, scale = np.asarray(self.loc, dtype=float), np.asarray(self.scale, dtype=float)
        if loc.shape != scale.shape:
            raise ShapeError(f"loc and scale must have one shape, got {loc.shape} and {scale.shape}.")
        if not (scale > 0).all():
            raise InputError(f"scale must be positive, got {float(np.min(scale)):.3g}.")
        if not finite_number(self.df, "df", infinite=True) > 1:
            raise InputError(f"df must be above 1, so that there is a mean, got {self.df}.")
        if not finite_number(self.power, "power") > 0:
            raise InputError(
                f"power must be positive, got {self.power}; Student-t and normal variables have 2."
            )
        if self.outliers is not None:
            share, factor = self.outliers
            if not (0 < share < 1 and factor > 1 and math.isinf(self.df) and self.power == 2):
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
        return generalized_t(float(self.df), float(self.power))

    def mean(self) -> Array:
        """The means, which are the centres."""
        return np.array(self.loc)

    def std(self) -> Array:
        """The standard deviations; infinite where df ≤ 2."""
        return self.scale * self._standard.std()

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
        """Continuous ranked probability scores at y, in units of y, the lower the better (Gneiting & Raftery 2007)."""
        return self.scale * self._standard.crps(self.z(y))

    def rvs(self, size: int = 1, random_state: Any = None) -> Array:
        """(size, *loc.shape) independent draws."""
        draws = self._standard.rvs(size=(size, *self.loc.shape), random_state=random_state)
        return self.loc + self.scale * draws

    def __getitem__(self, rows: Any) -> PredictiveDistribution:
        """The distributions of some rows."""
        return PredictiveDistribution(self.loc[rows], self.scale[rows], self.df, self.outliers, self.power)

    def __len__(self) -> int:
        return len(self.loc)


@lru_cache(maxsize=64)
def generalized_t(df: float, power: float = 2.0) -> GeneralizedT:
    """The law of z, kept for the next call."""
    return GeneralizedT(df, power)


class GeneralizedT:
    """z with density C·(1 + |z|ᵖ/ν)^(−(ν+1)/p), and C·exp(−|z|ᵖ/p) for infinite ν.

    |z|ᵖ/ν is a beta-prime variable of 1/p and ν/p, |z|ᵖ/p a gamma variable of 1/p where ν is infinite: probabilities,
    quantiles and partial moments are incomplete beta and gamma functions.
    """

    def __init__(self, df: float, power: float) -> None:
        self.df, self.power = df, power
        self.log_constant = self._log_constant()

    def _log_constant(self) -> float:
        p, nu = self.power, self.df
        if math.isinf(nu):
            return math.log(p / 2) - math.log(p) / p - math.lgamma(1 / p)
        return math.log(p / 2) - math.log(nu) / p - float(special.betaln(1 / p, nu / p))

    def _moment(self, k: int) -> float:
        """E|z|ᵏ."""
        p, nu = self.power, self.df
        if nu <= k:
            return math.inf
        if math.isinf(nu):
            return math.exp(k / p * math.log(p) + math.lgamma((k + 1) / p) - math.lgamma(1 / p))
        ratio = special.betaln((k + 1) / p, (nu - k) / p) - special.betaln(1 / p, nu / p)
        return math.exp(k / p * math.log(nu) + float(ratio))

    def _beyond(self, size: Any, k: int = 0) -> Any:
        """E[|z|ᵏ; |z| > size] as a share of E|z|ᵏ."""
        p, nu = self.power, self.df
        with np.errstate(divide="ignore", over="ignore"):
            if math.isinf(nu):
                return special.gammaincc((k + 1) / p, np.exp(p * np.log(size)) / p)
            log_u = p * np.log(size) - math.log(nu)
        # of the beta variable u/(1 + u) or of 1/(1 + u), whichever is below a half and has its digits
        small = special.betaincc((k + 1) / p, (nu - k) / p, special.expit(np.minimum(log_u, 0.0)))
        return np.where(log_u < 0, small, special.betainc((nu - k) / p, (k + 1) / p, special.expit(-log_u)))

    def _size(self, beyond: Any) -> Any:
        """|z| with this probability of more."""
        p, nu = self.power, self.df
        if math.isinf(nu):
            return (p * special.gammainccinv(1 / p, beyond)) ** (1 / p)
        outer = special.betaincinv(nu / p, 1 / p, beyond)  # 1/(1 + u)
        inner = special.betaincinv(1 / p, nu / p, 1 - beyond)  # u/(1 + u)
        with np.errstate(divide="ignore", over="ignore"):
            u = np.where(inner < 0.5, inner / (1 - inner), (1 - outer) / outer)
        return (nu * u) ** (1 / p)

    def std(self) -> float:
        return math.sqrt(self._moment(2))

    def logpdf(self, z: Any) -> Any:
        with np.errstate(divide="ignore"):
            return self.log_density(np.log(np.abs(z)))

    def log_density(self, log_size: Any) -> Any:
        """Log density at so large a log |z|."""
        log_power = self.power * log_size
        if math.isinf(self.df):
            return self.log_constant - np.exp(np.minimum(log_power, _MOST_LOG)) / self.power
        return self.log_constant - (self.df + 1) / self.power * np.logaddexp(
            0.0, log_power - math.log(self.df)
        )

    def pdf(self, z: Any) -> Any:
        return np.exp(self.logpdf(z))

    def cdf(self, z: Any) -> Any:
        tail = 0.5 * self._beyond(np.abs(z))
        return np.where(np.asarray(z) < 0, tail, 1.0 - tail)

    def ppf(self, p: Any) -> Any:
        p = np.asarray(p, dtype=float)
        return np.sign(p - 0.5) * self._size(2 * np.minimum(p, 1 - p))

    def rvs(self, size: Any, random_state: Any = None) -> Any:
        generator = _generator(random_state)
        sizes = self.power * generator.gamma(1 / self.power, size=size)
        if math.isfinite(self.df):
            sizes = sizes * (self.df / self.power) / generator.gamma(self.df / self.power, size=size)
        return generator.choice([-1.0, 1.0], size=size) * sizes ** (1 / self.power)

    def crps(self, z: Any) -> Any:
        """E|X − z| − E|X − X'|/2 by partial moments, and a quadrature for the constant."""
        size = np.abs(z)
        away = size * (1 - self._beyond(size)) + self._moment(1) * self._beyond(size, 1)
        return away - self._half_difference

    @cached_property
    def _half_difference(self) -> float:
        """E|X − X'|/2 = ∫ (1 − w)·|z|(w) dw, |z| falling from its largest at w = 0 to zero at w = 1."""

        def weighted(s: float) -> float:  # w = s², so that the end at zero is smooth
            return 2 * s * s * s * float(self._size(s * s))

        return self._moment(1) - float(
            scipy.integrate.quad(weighted, 0.0, 1.0, epsabs=1e-12, epsrel=1e-10)[0]
        )


def _generator(random_state: Any) -> Any:
    """A NumPy generator as it is, which SciPy takes, too; else a RandomState."""
    return random_state if isinstance(random_state, np.random.Generator) else numpy_state(random_state)


class _Contaminated:
    """(1 − ε)·N(0, 1) + ε·N(0, c²): Tukey's contaminated normal distribution."""

    def __init__(self, share: float, factor: float) -> None:
        self.weights, self.scales = np.array([1 - share, share]), np.array([1.0, factor])

    def std(self) -> float:
        return math.sqrt(float(self.weights @ self.scales**2))

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
        generator = _generator(random_state)
        return generator.standard_normal(size) * generator.choice(self.scales, size=size, p=self.weights)

    def crps(self, z: Any) -> Any:
        """E|X − z| − E|X − X'|/2, each of normal variables."""
        u = np.asarray(z, dtype=float)[..., None] / self.scales
        away = (
            self.scales * (u * (2 * scipy.stats.norm.cdf(u) - 1) + 2 * scipy.stats.norm.pdf(u))
        ) @ self.weights
        pairs = np.sqrt(self.scales[:, None] ** 2 + self.scales[None] ** 2) * math.sqrt(2 / math.pi)
        return away - 0.5 * float(self.weights @ pairs @ self.weights)
