"""`GPRegressor` with a noise variance per row: as given, or scaled and added to where left-out rows say so."""

from __future__ import annotations

import numpy as np
import pytest

from sggp import GPRegressor
from sggp.errors import InputError


def table(factor, added, n=300, seed=0):
    """y = sin + noise; the variances that are told, those that are, and the function."""
    r = np.random.default_rng(seed)
    x = r.uniform(-1, 1, (n, 2))
    told = np.exp(r.normal(-3, 1, n))
    true = factor * told + added
    f = np.sin(3 * x[:, 0])
    return x, f + np.sqrt(true) * r.standard_normal(n), told, true, f


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_noise_that_is_right_stays_as_given(seed) -> None:
    x, y, told, _, _ = table(1.0, 0.0, seed=seed)
    model = GPRegressor(noise_variance=told, num_samples=2).fit(x, y)
    plain = GPRegressor(noise_variance=told, noise="given", num_samples=2).fit(x, y)
    assert model.noise_adjustment_ == (1.0, 0.0)
    assert model.noise_model_.reason.startswith("the noise as given: nothing else gains enough")
    np.testing.assert_array_equal(model.noise_variance_, told)
    np.testing.assert_array_equal(model.predict(x[:20]), plain.predict(x[:20]))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("factor", "added"), [(4.0, 0.0), (1.0, 0.3), (2.0, 0.2)])
def test_noise_that_is_too_small_is_raised(factor, added, seed) -> None:
    """Sizes and means of the noise within four errors of the best estimate, the function known, times √2 for it."""
    x, y, told, true, f = table(factor, added, seed=seed)
    model = GPRegressor(noise_variance=told, num_samples=2).fit(x, y)
    plain = GPRegressor(noise_variance=told, noise="given", num_samples=2).fit(x, y)
    a, b = model.noise_adjustment_
    parts = [told / true, 1 / true]
    errors = np.sqrt(2 * np.linalg.inv([[0.5 * np.sum(p * q) for q in parts] for p in parts]).diagonal())
    assert abs(a - factor) < 4 * errors[0]
    assert abs(b - added) < 4 * errors[1]
    np.testing.assert_allclose(model.noise_variance_, a * told + b)
    assert np.mean((model.predict(x) - f) ** 2) < np.mean((plain.predict(x) - f) ** 2)
    low, high = model.predict_dist(x, noise_variance=told).interval(0.95)
    new = f + np.sqrt(true) * np.random.default_rng(seed + 50).standard_normal(len(f))
    covered = np.mean((new >= low) & (new <= high))
    assert abs(covered - 0.95) < 4 * (0.05 * 0.95 / len(new)) ** 0.5


def test_the_units_of_y_are_those_of_what_is_added() -> None:
    x, y, told, _, _ = table(2.0, 0.2)
    small = GPRegressor(noise_variance=told, num_samples=2).fit(x, y)
    large = GPRegressor(noise_variance=told * 2.0**20, num_samples=2).fit(x, 2.0**10 * y)
    assert large.noise_adjustment_[0] == pytest.approx(small.noise_adjustment_[0], rel=1e-6)
    assert large.noise_adjustment_[1] == pytest.approx(2.0**20 * small.noise_adjustment_[1], rel=1e-6)


@pytest.mark.parametrize("noise", ["given", "constant"])
def test_one_word_keeps_it_as_given(noise) -> None:
    x, y, told, _, _ = table(4.0, 0.0)
    model = GPRegressor(noise_variance=told, noise=noise, num_samples=2).fit(x, y)
    assert model.noise_adjustment_ == (1.0, 0.0)
    np.testing.assert_allclose(model.posterior_.data.noise_variance.numpy() * y.var(), told, rtol=1e-12)


def test_given_noise_that_is_not_given_is_refused() -> None:
    with pytest.raises(InputError, match="none was given: pass one, or 'auto'"):
        GPRegressor(noise="given").fit(np.ones((3, 1)), np.arange(3.0))


def test_rows_of_no_noise_and_of_infinite_ratio() -> None:
    """Variances over twelve decades, zeros among them, are a table like another."""
    x, y, told, _, f = table(4.0, 0.0)
    told[:20], told[20:40] = 0.0, 1e-12
    y[:40] = f[:40]
    model = GPRegressor(noise_variance=told, num_samples=2).fit(x, y)
    assert model.noise_adjustment_[0] > 1.0
    assert np.mean((model.predict(x) - f) ** 2) < 0.1 * np.var(f)
