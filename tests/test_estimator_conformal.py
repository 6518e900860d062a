"""Conformal intervals of an estimator: their level holds where the shape of the noise is not the model's."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sggp import GPRegressor
from sggp.errors import InputError


def table(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth function with uniform noise, which no interval of a normal density fits."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, 2))
    return x, np.sin(3 * x[:, 0]) + x[:, 1] + rng.uniform(-1, 1, n)


@pytest.fixture(scope="module")
def model() -> GPRegressor:
    return GPRegressor(random_state=0, num_samples=2).fit(*table(400, 0))


def test_the_level_holds_where_the_noise_is_uniform(model: GPRegressor) -> None:
    """Normal intervals hold more than they say; conformal ones do not, nor those of a shape that was learnt."""
    x, y = table(4000, 1)
    normal = GPRegressor(noise="constant", random_state=0, num_samples=2).fit(*table(400, 0))
    error = math.sqrt(0.95 * 0.05 * (1 / 400 + 1 / 4000))
    covered = []
    for fit, conformal in ((normal, False), (normal, True), (model, False), (model, True)):
        low, high = fit.predict_interval(x, 0.95, conformal=conformal)
        covered.append(np.mean((low <= y) & (y <= high)))
    assert covered[0] > 0.95 + 3 * error
    assert all(abs(share - 0.95) < 3 * error for share in covered[1:])


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.95, 0.9975])
def test_the_ends_are_where_that_share_of_left_out_rows_lies(model: GPRegressor, coverage: float) -> None:
    x = table(20, 2)[0]
    left, distribution = model.loo_predict(), model.predict_dist(x)
    scores = np.sort(np.abs(left.y - left.mean) / left.distribution.scale)
    factor = scores[math.ceil(401 * coverage - 1e-9) - 1]
    low, high = model.predict_interval(x, coverage, conformal=True)
    np.testing.assert_allclose(low, distribution.loc - factor * distribution.scale, rtol=1e-12)
    np.testing.assert_allclose(high, distribution.loc + factor * distribution.scale, rtol=1e-12)


def test_a_new_fit_forgets_the_old_rows_and_a_file_keeps_them(model: GPRegressor, tmp_path) -> None:
    x = table(5, 3)[0]
    ends = model.predict_interval(x, conformal=True)
    model.save(tmp_path / "model")
    loaded = GPRegressor.load(tmp_path / "model")
    np.testing.assert_allclose(loaded.predict_interval(x, conformal=True), ends, rtol=1e-7)
    again = GPRegressor(random_state=0, num_samples=2).fit(*table(60, 4))
    again.predict_interval(x, conformal=True)
    again.fit(*table(80, 5))
    fresh = GPRegressor(random_state=0, num_samples=2).fit(*table(80, 5))
    np.testing.assert_allclose(
        again.predict_interval(x, conformal=True), fresh.predict_interval(x, conformal=True), rtol=1e-9
    )


def test_what_has_no_conformal_interval_is_told() -> None:
    x, y = table(18, 6)
    few = GPRegressor(random_state=0, num_samples=2).fit(x, y)
    with pytest.raises(InputError, match=r"0\.95 need 19 training rows or more, and the model has 18"):
        few.predict_interval(x, conformal=True)
    assert np.isfinite(few.predict_interval(x, 18 / 19, conformal=True)).all()
    two = GPRegressor(random_state=0, num_samples=2).fit(x, np.stack([y, -y], axis=1))
    with pytest.raises(InputError, match="one target, and this model has 2"):
        two.predict_interval(x, conformal=True)
    for coverage in (95, 0, 1, "0.9", None, math.nan):
        for conformal in (False, True):
            with pytest.raises(InputError, match="coverage must"):
                few.predict_interval(x, coverage, conformal=conformal)
    with pytest.raises(InputError, match="conformal"):
        few.predict_interval(x, conformal="yes")  # type: ignore[arg-type]
