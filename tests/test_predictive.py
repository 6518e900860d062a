"""Predictive distributions against SciPy and against integrals."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate, stats

from sggp.errors import InputError, ShapeError
from sggp.predictive import PredictiveDistribution

LOC, SCALE, Y = np.array([-1.0, 0.0, 2.5]), np.array([0.3, 1.0, 4.0]), np.array([-1.2, 2.0, 0.0])


def reference(df: float):
    return stats.norm(LOC, SCALE) if math.isinf(df) else stats.t(df, LOC, SCALE)


@pytest.mark.parametrize("df", [1.5, 2.5, 4.0, 30.0, math.inf])
class TestAgainstScipy:
    def test_density_and_probability(self, df):
        ours, other = PredictiveDistribution(LOC, SCALE, df), reference(df)
        np.testing.assert_allclose(ours.logpdf(Y), other.logpdf(Y), rtol=1e-12)
        np.testing.assert_allclose(ours.cdf(Y), other.cdf(Y), rtol=1e-12)
        np.testing.assert_allclose(ours.pdf(Y), other.pdf(Y), rtol=1e-12)

    def test_quantiles_and_intervals(self, df):
        ours, other = PredictiveDistribution(LOC, SCALE, df), reference(df)
        np.testing.assert_allclose(ours.ppf([0.1, 0.7]), [other.ppf(0.1), other.ppf(0.7)], rtol=1e-10)
        np.testing.assert_allclose(ours.ppf(0.2), other.ppf(0.2), rtol=1e-10)
        np.testing.assert_allclose(ours.interval(0.9), other.interval(0.9), rtol=1e-10)

    def test_std(self, df):
        expected = reference(df).std() if df > 2 else np.full(3, np.inf)
        np.testing.assert_allclose(PredictiveDistribution(LOC, SCALE, df).std(), expected)

    def test_crps_is_the_integral_of_the_squared_step(self, df):
        ours = PredictiveDistribution(LOC, SCALE, df)
        for j, y in enumerate(Y):
            below = integrate.quad(lambda v, j=j: float(ours.cdf(v)[j]) ** 2, -np.inf, y, epsabs=1e-9)[0]
            above = integrate.quad(lambda v, j=j: (1 - float(ours.cdf(v)[j])) ** 2, y, np.inf, epsabs=1e-9)[0]
            assert ours.crps(Y)[j] == pytest.approx(below + above, rel=1e-6)


def test_draws_have_the_distribution():
    draws = PredictiveDistribution(LOC, SCALE, 5.0).rvs(4000, random_state=0)
    assert draws.shape == (4000, 3)
    for j in range(3):
        assert stats.kstest(draws[:, j], stats.t(5.0, LOC[j], SCALE[j]).cdf).pvalue > 1e-4


def test_some_rows():
    some = PredictiveDistribution(LOC, SCALE, 3.0)[1:]
    assert len(some) == 2
    assert some.df == 3.0


@pytest.mark.parametrize("df", [2.5, 6.0, math.inf])
@pytest.mark.parametrize("power", [0.4, 1.0, 3.0, 40.0])
class TestGeneralizedT:
    """Against integrals of the density, which is written here anew."""

    @staticmethod
    def shape(z, df, power):
        log_size = power * np.log(np.abs(z))
        if math.isinf(df):
            return np.exp(-np.exp(np.minimum(log_size, 700.0)) / power)
        return np.exp(-(df + 1) / power * np.logaddexp(0.0, log_size - math.log(df)))

    def integral(self, of, low, df, power):
        """∫ of(z)·shape(z) dz from low ≥ 0 on, by pieces of the logarithm of z."""
        ends = np.log(max(low, 1e-12)) + np.arange(0, 140, 2.0) if low else np.arange(-60, 120, 2.0)

        def inner(t):
            return of(math.exp(t)) * float(self.shape(math.exp(t), df, power)) * math.exp(t)

        pieces = pairwise(ends)
        return sum(integrate.quad(inner, a, b, epsabs=1e-14, limit=200)[0] for a, b in pieces)

    def test_density_probability_moments_and_score(self, df, power):
        law, total = (
            PredictiveDistribution([1.0], [0.5], df, power=power),
            self.integral(lambda z: 1.0, 0.0, df, power),
        )
        second = self.integral(lambda z: z * z, 0.0, df, power) / total
        assert float(law.std()[0]) == pytest.approx(0.5 * math.sqrt(second), rel=1e-6)
        for z in (0.02, 0.9, 1.3, 7.0):
            expected = float(self.shape(z, df, power)) / (2 * total) / 0.5
            assert float(law.pdf(1 - 0.5 * z)[0]) == pytest.approx(expected, rel=1e-8, abs=1e-300)
            beyond = self.integral(lambda v: 1.0, z, df, power) / (2 * total)
            assert float(law.cdf(1 - 0.5 * z)[0]) == pytest.approx(beyond, rel=1e-7, abs=1e-14)
            assert float(law.cdf(1 + 0.5 * z)[0]) == pytest.approx(1 - beyond, rel=1e-7)

    @pytest.mark.parametrize("z", [-0.3, 1.6])
    def test_score(self, df, power, z):
        """∫ (F(v) − 1[v > z])² dv, on each side of z in the logarithm of the distance."""
        law = PredictiveDistribution([0.0], [1.0], df, power=power)

        def squared(t, sign):
            return (float(law.cdf(z + sign * math.exp(t))[0]) - (sign > 0)) ** 2 * math.exp(t)

        sides = [
            integrate.quad(squared, -40, 60, (sign,), limit=2000, epsabs=1e-10)[0] for sign in (1.0, -1.0)
        ]
        assert float(law.crps(z)[0]) == pytest.approx(sum(sides), rel=1e-5)

    def test_quantiles_invert_the_probability(self, df, power):
        law = PredictiveDistribution([0.0], [1.0], df, power=power)
        p = np.array([1e-9, 0.02, 0.3, 0.4999, 0.5, 0.7, 0.975])
        np.testing.assert_allclose(law.cdf(law.ppf(p)[:, 0]), p, rtol=1e-8)
        assert float(law.ppf(0.5)[0]) == 0.0
        assert law[:1].power == power

    def test_draws(self, df, power):
        law = PredictiveDistribution([2.0], [3.0], df, power=power)
        draws = law.rvs(3000, random_state=0)[:, 0]
        assert stats.kstest(draws, law.cdf).pvalue > 1e-3


def test_the_exponential_power_law_is_scipys():
    ours = PredictiveDistribution(LOC, SCALE, power=1.3)
    other = stats.gennorm(1.3, LOC, SCALE * 1.3 ** (1 / 1.3))
    np.testing.assert_allclose(ours.logpdf(Y), other.logpdf(Y), rtol=1e-12)
    np.testing.assert_allclose(ours.cdf(Y), other.cdf(Y), rtol=1e-12)
    np.testing.assert_allclose(ours.std(), other.std(), rtol=1e-12)


@pytest.mark.parametrize(
    "arguments",
    [
        ([0.0], [0.0]),
        ([0.0], [np.nan]),
        ([0.0], [1.0], 1.0),
        ([0.0], [1.0], math.nan),
        ([0.0], [1.0], 4.0, None, 0.0),
        ([0.0], [1.0], 4.0, None, math.inf),
    ],
)
def test_refused(arguments):
    with pytest.raises(InputError):
        PredictiveDistribution(*arguments)


def test_refused_probabilities():
    some = PredictiveDistribution([0.0], [1.0])
    with pytest.raises(InputError, match="between 0 and 1"):
        some.ppf(1.0)
    with pytest.raises(InputError, match="between 0 and 1"):
        some.interval(0.0)
    with pytest.raises(ShapeError):
        PredictiveDistribution([0.0, 1.0], [1.0])


class TestOutliers:
    """A share of measurements with a larger scale, against integrals."""

    law = PredictiveDistribution([1.0], [0.5], outliers=(0.05, 12.0))

    def density(self, y):
        return 0.95 * stats.norm.pdf(y, 1.0, 0.5) + 0.05 * stats.norm.pdf(y, 1.0, 6.0)

    @pytest.mark.parametrize("y", [-9.0, 0.7, 1.0, 3.0, 40.0])
    def test_density_probability_and_score(self, y):
        assert float(self.law.pdf(y)[0]) == pytest.approx(self.density(y), rel=1e-10)
        below = integrate.quad(self.density, -np.inf, y, points=None, epsabs=1e-12)[0]
        assert float(self.law.cdf(y)[0]) == pytest.approx(below, abs=1e-7)
        left = integrate.quad(lambda v: float(self.law.cdf(v)[0]) ** 2, -80, y, limit=200, epsabs=1e-9)[0]
        right = integrate.quad(lambda v: (1 - float(self.law.cdf(v)[0])) ** 2, y, 80, limit=200, epsabs=1e-9)[
            0
        ]
        assert float(self.law.crps(y)[0]) == pytest.approx(left + right, rel=1e-5)

    def test_quantiles_invert_the_probability(self):
        p = np.array([0.001, 0.02, 0.3, 0.5, 0.975, 0.9999])
        np.testing.assert_allclose(self.law.cdf(self.law.ppf(p)[:, 0]), p, rtol=1e-8)
        assert float(self.law.ppf(0.5)[0]) == pytest.approx(1.0)

    def test_draws_and_std(self):
        draws = self.law.rvs(20_000, random_state=0)[:, 0]
        assert stats.kstest(draws, lambda v: np.array([float(self.law.cdf(x)[0]) for x in v])).pvalue > 1e-4
        variance = 0.95 * 0.25 + 0.05 * 36
        assert float(self.law.std()[0]) == pytest.approx(math.sqrt(variance))
        assert self.law[:1].outliers == (0.05, 12.0)

    @pytest.mark.parametrize(
        "arguments", [{"outliers": (0.0, 2.0)}, {"outliers": (0.1, 0.5)}, {"outliers": (0.1, 2.0), "df": 4.0}]
    )
    def test_refused(self, arguments):
        with pytest.raises(InputError, match="outliers"):
            PredictiveDistribution([0.0], [1.0], **arguments)


def test_contaminated_variables_take_a_generator_as_scipys_do():
    law = PredictiveDistribution(LOC, SCALE, outliers=(0.1, 5.0))
    first, again = (law.rvs(3, random_state=np.random.default_rng(0)) for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("coverage", ["a", [0.5, 0.9], None])
def test_what_is_no_coverage(coverage):
    with pytest.raises(InputError, match="coverage must be a finite number"):
        PredictiveDistribution(LOC, SCALE).interval(coverage)


def test_text_is_no_probability():
    with pytest.raises(InputError, match="probability must be a number between 0 and 1"):
        PredictiveDistribution(LOC, SCALE).ppf("half")
