"""Scales and degrees of freedom by maximum likelihood."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sggp.evidence.tails import fit_tail, log_density


@pytest.mark.parametrize("df", [2.5, 6.0, math.inf])
def test_densities_are_scipys(df):
    z = np.linspace(-4, 4, 9)
    law = stats.norm(scale=1.5) if math.isinf(df) else stats.t(df, scale=1.5)
    np.testing.assert_allclose(log_density(z**2, 2 * math.log(1.5), df), law.logpdf(z), rtol=1e-12)


def test_heavy_tails_are_found_and_normal_ones_left_normal():
    """Within three standard errors of the information of 20,000 draws: .1 for df = 4, .02 for the log scale."""
    heavy = fit_tail((2.0 * stats.t(4).rvs(20_000, random_state=0)) ** 2)
    assert heavy.df == pytest.approx(4, abs=0.4)
    assert heavy.log_scale == pytest.approx(2 * math.log(2), abs=0.06)
    normal = fit_tail(stats.norm.rvs(size=20_000, random_state=1) ** 2)
    assert normal.df > 50
    assert normal.log_scale == pytest.approx(0, abs=0.04)


def test_a_surface_gets_its_gain():
    rng = np.random.default_rng(0)
    h = rng.normal(size=20_000)
    z_square = rng.normal(size=20_000) ** 2 * np.exp(0.5 + 0.7 * h)
    tail = fit_tail(z_square, h)
    assert tail.gain == pytest.approx(0.7, abs=0.04)
    assert tail.log_scale == pytest.approx(0.5, abs=0.05)
    assert fit_tail(z_square).df < 10  # what is not explained looks like tails


@pytest.mark.parametrize(
    ("law", "least", "most"),
    [(stats.uniform(-1.7, 3.4), 20, 50), (stats.laplace(), 1, 1.1), (stats.gennorm(4.0), 4, 6)],
)
def test_shapes_are_found(law, least, most):
    """Any large power for uniform variables, and more than 4 for one of 4, whose tails are as steep as none may be.

    Of a flat law 1/31 lies beyond its top, at 30 degrees of freedom: .033 nats; the rest is the error of 20,000 draws.
    """
    z = law.rvs(20_000, random_state=0)
    plain = fit_tail(z**2)
    found = fit_tail(z**2, shaped=plain)
    assert least <= found.power <= most
    gain = found.log_density(z**2).mean() - plain.log_density(z**2).mean()
    assert gain > 0.005
    assert found.log_density(z**2).mean() == pytest.approx(
        law.logpdf(z).mean(), abs=0.043 if least > 2 else 0.01
    )


def test_a_shape_that_says_nothing_is_two():
    z_square = stats.t(5).rvs(20_000, random_state=2) ** 2
    plain = fit_tail(z_square)
    found = fit_tail(z_square, shaped=plain)
    assert found.power == pytest.approx(
        2.0, abs=0.3
    )  # three standard errors: power and df say nearly the same
    assert found.log_density(z_square).mean() >= plain.log_density(z_square).mean() - 1e-6


def test_a_flat_law_has_tails():
    """A measurement at twice the end of uniform noise is improbable, and no more: a normal one's 9 deviations off."""
    z = stats.uniform(-1, 2).rvs(2000, random_state=3)
    found = fit_tail(z**2, shaped=fit_tail(z**2))
    assert found.df <= 30
    assert float(found.log_density(np.array([4.0]))[0]) > -40
