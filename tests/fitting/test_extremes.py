"""Numbers at the ends of float64: the right answer, or a refusal that names them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sggp import GPRegressor
from sggp.bayesopt import fit_surrogate
from sggp.errors import InputError
from tests.fitting.tables import QUERIES, RNG, SEARCHED, TRUTH, X, Y


@pytest.mark.parametrize("kernel", [None, "rbf", "matern12"])
def test_columns_in_other_units(kernel: str | None) -> None:
    def answers(c: float) -> list[np.ndarray]:
        model = GPRegressor(kernel, random_state=0, num_samples=2, num_features=64).fit(X * [c, 1], Y)
        return [*model.predict(QUERIES * [c, 1], return_std=True), model.sample_y(QUERIES * [c, 1], 2)]

    expected = answers(1.0)
    for found, own in zip(answers(2.0**60), expected, strict=True):
        assert np.array_equal(found, own)
    for c in (1e150, 1e-310, 1.7e308):
        for found, own in zip(answers(c), expected, strict=True):
            assert np.abs(found - own).max() <= SEARCHED * np.abs(own).max()


def test_columns_and_targets_that_span_all_of_float64() -> None:
    top = 1.7e308
    expected = GPRegressor(num_samples=0).fit(2 * X - 1, 2 * Y - 1)
    x, q = (2 * X - 1) * [top, 1], (2 * QUERIES - 1) * [top, 1]
    size = 0.6 * top / np.abs(2 * Y - 1).max()
    with np.errstate(invalid="ignore"):  # scikit-learn sums the column to see whether it is finite
        model = GPRegressor(num_samples=0).fit(x, size * (2 * Y - 1))
        found = model.predict(q, return_std=True)
    for one, own in zip(found, expected.predict(2 * QUERIES - 1, return_std=True), strict=True):
        assert np.abs(one / size - own).max() <= SEARCHED * np.abs(own).max()


def test_rows_far_from_all_others() -> None:
    x = X.copy()
    x[3, 0] = 1e30
    model = GPRegressor(num_samples=0).fit(x, Y)
    mean, std = model.predict(np.vstack([QUERIES, [[1e300, 0.5], [1e30, X[3, 1]]]]), return_std=True)
    assert np.abs(mean[:25] - TRUTH).max() < 0.1
    assert abs(mean[26] - Y[3]) < 0.1
    # there nothing is known but the constant mean, and that to a part of its prior
    own, prior = float(model.fit_result_.mean), float(model.kernel_.outputscale.detach())
    assert mean[25] == pytest.approx(own * model.y_scale_[0] + model.y_offset_[0])
    assert prior < (std[25] / model.y_scale_[0]) ** 2 < (1 + 4) * prior
    x[3, 0] = 1e300
    with pytest.raises(InputError, match=r"1e\+300 in row 3, column 0"):
        GPRegressor().fit(x, Y)


@pytest.mark.parametrize("normalize_y", [True, False])
def test_one_target_that_drowns_the_others(normalize_y: bool) -> None:
    """The others say nothing in its units, and the standard deviations admit it."""
    y = Y.copy()
    y[3] = 1e30
    mean, std = (
        GPRegressor(num_samples=0, normalize_y=normalize_y).fit(X, y).predict(QUERIES, return_std=True)
    )
    assert bool(np.isfinite(mean).all() & (std > 1e27).all() & (std < 1e30).all())
    assert bool((np.abs(mean) < 1e30).all())


@pytest.mark.parametrize("value", [1e200, 1e-170, 3.0, -3.0, 0.0])
def test_targets_that_are_one_number(value: float) -> None:
    for n, least in ((40, 0.0), (1, 0.1)):
        mean, std = GPRegressor(num_samples=0).fit(X[:n], np.full(n, value)).predict(QUERIES, return_std=True)
        size = abs(value) or 1.0
        np.testing.assert_allclose(mean, value, rtol=1e-9)
        assert bool((std > least * size).all() & (std < (2e-6 if n > 1 else 2.0) * size).all())
        model = fit_surrogate(
            torch.from_numpy(X[:n]), torch.full((n,), value, dtype=torch.float64), num_samples=1
        )
        mean, std = (v.numpy() for v in model.predict(torch.from_numpy(QUERIES)))
        np.testing.assert_allclose(mean, value, rtol=1e-9)
        assert bool(((std > 0) & (std < 3 * size)).all())


def test_a_constant_with_rounding_is_a_constant_and_a_tiny_spread_is_none() -> None:
    rounding = 5 + 1e-15 * RNG.integers(-1, 2, 40)
    assert GPRegressor(num_samples=0).fit(X, rounding).fit_result_.method == "constant target"
    for c in (1e-13, 1e-170, 1e-300):
        model = GPRegressor(num_samples=0).fit(X, c * Y)
        assert model.fit_result_.method == "exact"
        assert model.score(QUERIES * 1.0, c * TRUTH) > 0.99 if c > 1e-150 else True


def test_several_targets_each_in_its_own_units() -> None:
    units = np.array([1e200, 1e-170, 1.0])
    model = GPRegressor(random_state=0, num_samples=2).fit(X, Y[:, None] * units)
    same = GPRegressor(random_state=0, num_samples=2).fit(X, Y[:, None] * np.ones(3))
    for found, own in zip(model.predict(QUERIES, True), same.predict(QUERIES, True), strict=True):
        assert np.abs(found / units - own).max() <= SEARCHED * np.abs(own).max()
    assert np.abs(model.sample_y(QUERIES, 2) / units[:, None] - same.sample_y(QUERIES, 2)).max() <= SEARCHED


def test_times_in_nanoseconds_are_times_in_seconds() -> None:
    """64-bit integers of 1e18, whose differences are what matters."""
    start, seconds = 1_700_000_000_000_000_000, np.sort(RNG.integers(0, 3600, 40))
    y = np.sin(seconds / 600)
    found, expected = (
        GPRegressor(num_samples=0).fit(times[:, None], y).predict(times[:, None], return_std=True)
        for times in (start + 1_000_000_000 * seconds, seconds.astype(float))
    )
    # a time is a multiple of 256 ns in float64, and the function moves by 1/600 in a second
    for one, own in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, own, rtol=SEARCHED, atol=SEARCHED)


def test_surrogates_and_botorch_on_columns_of_any_size() -> None:
    pytest.importorskip("botorch", reason="the extra botorch is not installed")
    from sggp.botorch import PathwiseGPModel

    x, y, q = torch.from_numpy(X), torch.from_numpy(Y), torch.from_numpy(QUERIES)

    def answers(c: float) -> list[torch.Tensor]:
        unit = torch.tensor([c, 1.0], dtype=torch.float64)
        posterior = PathwiseGPModel(x * unit, y[:, None], num_samples=2, generator=0).posterior(q * unit)
        surrogate = fit_surrogate(x * unit, y, num_samples=1, generator=0)
        return [posterior.mean, posterior.rsample(), *surrogate.predict(q * unit)]

    expected = answers(1.0)
    for c in (1e150, 1e-150, 1e200, 1e-200):
        for found, own in zip(answers(c), expected, strict=True):
            assert float((found - own).abs().max()) <= SEARCHED * float(own.abs().max())


def test_noise_per_row_over_all_of_float64() -> None:
    """Rows with a noise of 1e300 say nothing; those with 1e-300 are met."""
    noise = np.where(np.arange(40) % 4 == 0, 1e300, 1e-300)
    mean, std = GPRegressor(noise_variance=noise, num_samples=0).fit(X, Y).predict(X, return_std=True)
    known = noise < 1
    assert np.abs(mean - Y)[known].max() < 1e-6
    assert std[known].max() < 1e-3 * std[~known].max()
