"""GPRegressor's predictive densities: intervals, quantiles, left-out rows, and the noise behind them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import cross_val_predict

from sggp import GPRegressor
from sggp.errors import InputError, ShapeError
from sggp.evidence.spread import leave_out_with
from sggp.hyperparameters import learn_hyperparameters


def table(n=400, seed=0, outliers=0.0):
    """A noise ten times as large where the second input is positive."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, 2))
    sigma = np.where(x[:, 1] > 0, 0.3, 0.03)
    y = 5 + 20 * (np.sin(3 * x[:, 0]) + sigma * rng.standard_normal(n))
    wild = rng.random(n) < outliers
    y[wild] += 20 * 0.3 * 20 * rng.choice([-1, 1], wild.sum())
    return x, y


@pytest.fixture(scope="module")
def model():
    return GPRegressor(random_state=0, num_samples=16).fit(*table())


@pytest.fixture(scope="module")
def plain():
    return GPRegressor(noise="constant", random_state=0, num_samples=16).fit(*table())


def test_the_noise_that_depends_on_the_input_is_found(model):
    assert model.noise_model_.surface is not None
    x = np.array([[0.2, 0.6], [0.2, -0.6], [-0.5, 0.5], [-0.5, -0.5]])
    _, std = model.predict(x, return_std=True, include_noise=True)
    np.testing.assert_allclose(std[[0, 2]], 6.0, rtol=0.35)
    assert (std[[1, 3]] < 2.0).all()


def test_new_rows_score_better_and_are_covered(model, plain):
    x, y = table(1000, seed=1)
    ours, constant = model.predict_dist(x), plain.predict_dist(x)
    gain = ours.logpdf(y) - constant.logpdf(y)
    assert gain.mean() > 5 * gain.std() / 1000**0.5
    assert ours.crps(y).mean() < constant.crps(y).mean()
    for noisy in (True, False):  # each half by itself
        low, high = ours[(x[:, 1] > 0) == noisy].interval(0.9)
        inside = np.mean((y[(x[:, 1] > 0) == noisy] >= low) & (y[(x[:, 1] > 0) == noisy] <= high))
        assert inside == pytest.approx(0.9, abs=0.06)


def test_distribution_std_and_samples_agree(model):
    x = table(60, seed=2)[0]
    distribution = model.predict_dist(x)
    mean, std = model.predict(x, return_std=True, include_noise=True)
    np.testing.assert_allclose(distribution.mean(), mean)
    np.testing.assert_allclose(distribution.std(), std)
    _, cov = model.predict(x, return_cov=True, include_noise=True)
    np.testing.assert_allclose(np.sqrt(np.diag(cov)), std)
    _, latent = model.predict(x, return_std=True)
    values = model.sample_y(x, 3000)
    np.testing.assert_allclose(values.std(axis=1), latent, rtol=0.15)


def test_without_it_the_distribution_is_normal_with_the_predicted_std(plain):
    x = table(30, seed=3)[0]
    mean, std = plain.predict(x, return_std=True, include_noise=True)
    distribution = plain.predict_dist(x)
    assert np.isinf(distribution.df)
    np.testing.assert_allclose(distribution.loc, mean)
    np.testing.assert_allclose(distribution.scale, std)
    assert not plain.noise_model_.changes


def test_quantiles_and_intervals(model):
    x = table(20, seed=4)[0]
    distribution = model.predict_dist(x)
    quantiles = model.predict_quantiles(x, [0.05, 0.5, 0.95])
    assert quantiles.shape == (20, 3)
    np.testing.assert_allclose(quantiles, distribution.ppf([0.05, 0.5, 0.95]).T)
    np.testing.assert_allclose(model.predict_interval(x, 0.9), distribution.interval(0.9))
    assert model.predict_quantiles(x, 0.3).shape == (20, 1)


@pytest.mark.parametrize("noise", ["constant", "auto"])
def test_left_out_predictions_are_those_of_the_model_without_the_row(noise):
    x, y = table(130, seed=5)
    model = GPRegressor(noise=noise, random_state=0, num_samples=2).fit(x, y)
    left = model.loo_predict()
    assert left.error == 0
    assert np.array_equal(left.rows, np.arange(130))
    np.testing.assert_allclose(left.y, y)
    posterior = model.posterior_
    every, targets = posterior.data.x, posterior.data.y
    for row in (0, 64, 129):
        keep = torch.arange(130) != row
        matrix = posterior.kernel(every[keep]).to_dense() + posterior.data.noise_variance[keep].diag()
        cross = posterior.kernel(every[keep], every[row : row + 1]).to_dense()[:, 0]
        centre = posterior.prior_mean + cross @ torch.linalg.solve(
            matrix, targets[keep] - posterior.prior_mean
        )
        expected = float(centre) * model.y_scale_[0] + model.y_offset_[0]
        assert left.mean[row] == pytest.approx(expected, rel=1e-7)
    np.testing.assert_allclose(left.log_density, left.distribution.logpdf(y))


def test_left_out_predictions_of_many_rows_say_their_error(monkeypatch):
    x, y = table(500, seed=6)
    model = GPRegressor(noise="constant", random_state=0, num_samples=2).fit(x, y)
    exact = model.loo_predict()
    for module in ("sggp.evidence.leave_one_out", "sggp.estimator.densities"):
        monkeypatch.setattr(f"{module}.DIRECT_ROWS", 100)
    near = model.loo_predict(max_rows=200)
    assert len(near.rows) == 200
    here = exact.distribution[near.rows]
    true = np.sqrt(np.mean(((near.mean - here.loc) / here.scale) ** 2))
    assert 0 < near.error < 0.2
    assert true < 3 * near.error + 1e-6
    assert len(model.loo_predict(max_rows=1000).rows) == 500


def test_outliers_move_neither_the_mean_nor_the_intervals_of_the_others():
    """One row in a hundred, twenty standard deviations off."""
    x, y = table(400, seed=7, outliers=0.01)
    clean = table(400, seed=7)[1]
    assert (y != clean).sum() >= 3
    model = GPRegressor(random_state=0, num_samples=2).fit(x, y)
    queries = table(500, seed=8)
    error = model.predict(queries[0]) - (5 + 20 * np.sin(3 * queries[0][:, 0]))
    reference = GPRegressor(random_state=0, num_samples=2).fit(x, clean)
    other = reference.predict(queries[0]) - (5 + 20 * np.sin(3 * queries[0][:, 0]))
    assert np.median(np.abs(error)) < 1.5 * np.median(np.abs(other)) + 0.2
    low, high = model.predict_interval(queries[0], 0.9)
    inside = np.mean((queries[1] >= low) & (queries[1] <= high))
    assert inside == pytest.approx(0.9, abs=0.07)


def test_columns_without_influence_are_those_of_the_last_fit(monkeypatch):
    """One that only the fit with the outlying rows took for idle is not constant in the model."""
    x, y = table(150, seed=7, outliers=0.02)

    def idle_at_first(kernel, rows, targets, **settings):
        found = learn_hyperparameters(kernel, rows, targets, **settings)
        if len(rows) == 150:
            scales = found.kernel.base_kernel.lengthscale.detach().clone()
            scales[0, 1] = 1e7
            found.kernel.base_kernel.lengthscale = scales
        return found

    monkeypatch.setattr("sggp.fitting.model.learn_hyperparameters", idle_at_first)
    model = GPRegressor("matern32", random_state=0, num_samples=2).fit(x, y)
    assert len(model.outliers_) > 0
    assert model.hyperparameters_["without_influence"] == []
    assert np.isfinite(model.x_scale_).all()


def test_one_value_that_is_endlessly_far_off_changes_nothing_for_the_others():
    """In units of a standard deviation that it decides, the others would all be one number."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (150, 2))
    y = np.sin(3 * x[:, 0]) + x[:, 1] + 0.1 * rng.standard_normal(150)
    clean = GPRegressor(random_state=0, num_samples=2).fit(np.delete(x, 17, 0), np.delete(y, 17))
    new = rng.uniform(-1, 1, (50, 2))
    other, least = clean.predict(new, return_std=True, include_noise=True)
    for far in (40.0, 1e6, -1e12):
        moved = y + far * (np.arange(150) == 17)
        model = GPRegressor(random_state=0, num_samples=2).fit(x, moved)
        assert model.outliers_.tolist() == [17]
        mean, std = model.predict(new, return_std=True, include_noise=True)
        assert np.abs(mean - other).max() < 0.01 * least.min()
        np.testing.assert_allclose(std, least, rtol=0.05)


def test_left_out_rows_of_a_fit_are_predicted_once(monkeypatch):
    x, y = table(130, seed=4)
    model = GPRegressor("matern32", random_state=0, num_samples=2).fit(x, y)
    before = model.calibration_report(), model.loo_predict(50)
    calls = []

    def counted(*given):
        calls.append(given)
        return leave_out_with(*given)

    monkeypatch.setattr("sggp.estimator.densities.leave_out_with", counted)
    every = model.loo_predict()
    assert model.calibration_report().nll == before[0].nll
    assert model.feature_importance_.permutation.shape == (2,)
    assert len(calls) == 1
    np.testing.assert_array_equal(every.drawn(50).rows, before[1].rows)
    np.testing.assert_allclose(every.drawn(50).std, before[1].std)
    model.fit(x[:120], y[:120])
    assert model.calibration_report().n == 120


def test_errors_smaller_than_told_are_of_the_function_first():
    """Noise and function each get what may be theirs of a variance; where errors are larger, their shares."""
    x, y = table(300, seed=3)
    model = GPRegressor("matern32", random_state=0, num_samples=2).fit(x, y)
    both, latent = (model.predict(x, return_std=True, include_noise=noise)[1] for noise in (True, False))
    shared, plain = model.noise_std(x) ** 2 + latent**2, model.posterior_.variance(model._inputs(x))
    plain = plain.numpy() * model.scaling_.y_scale[0] ** 2
    larger = latent**2 > plain * (1 + 1e-9)
    assert 20 < larger.sum() < 280
    np.testing.assert_allclose(shared[larger], both[larger] ** 2, rtol=1e-6)
    np.testing.assert_allclose(latent[~larger] ** 2, np.minimum(plain, both**2)[~larger], rtol=1e-6)


def test_the_deviation_of_a_function_without_noise_is_its_error():
    """It had the share of the latent variance before errors were looked at: 30 % of 200 rows of it held 95 %."""
    generator = np.random.default_rng(2)
    x, queries = generator.random((200, 2)), generator.random((400, 2))
    truth, y = (np.sin(9 * v[:, 0]) * np.cos(4 * v[:, 1]) + v[:, 0] ** 3 for v in (queries, x))
    model = GPRegressor(random_state=0).fit(x, y)
    assert model.noise_model_.changes
    assert len(repr(model.noise_model_)) < 1500  # and no tensors of the surface
    said = str(model.noise_model_).splitlines()
    assert [line.split("  ")[0] for line in said[1:-1]] == [s.name for s in model.noise_model_.scores]
    assert said[-1] == model.noise_model_.reason
    mean, std = model.predict(queries, return_std=True)
    assert np.mean(np.abs(truth - mean) < 1.96 * std) > 0.85


def test_few_rows_several_targets_and_known_noise_stay_as_they_are():
    x, y = table(150, seed=9)
    assert not GPRegressor(num_samples=2).fit(x[:60], y[:60]).noise_model_.changes
    several = GPRegressor(num_samples=2).fit(x, np.c_[y, y])
    assert not several.noise_model_.changes
    assert several.predict_dist(x[:5]).loc.shape == (5, 2)
    known = GPRegressor(noise_variance=9.0, num_samples=2).fit(x, y)
    assert not known.noise_model_.changes
    with pytest.raises(InputError, match="2: fit each"):
        several.loo_predict()


def test_noise_per_row_needs_that_of_new_rows():
    x, y = table(150, seed=10)
    model = GPRegressor(noise_variance=np.where(x[:, 1] > 0, 36.0, 0.36), num_samples=2).fit(x, y)
    with pytest.raises(InputError, match="per training row"):
        model.predict_dist(x[:3])
    wide, narrow = (
        model.predict_dist(x[:3], noise_variance=36.0),
        model.predict_dist(x[:3], noise_variance=0.36),
    )
    np.testing.assert_allclose(wide.scale**2 - narrow.scale**2, 36 - 0.36, rtol=1e-6)
    with pytest.raises(ShapeError, match="one per row"):
        model.predict_dist(x[:3], noise_variance=[1.0, 2.0])
    assert np.isfinite(model.loo_predict().log_density).all()


def test_settings_and_hosts(short_searches):
    with pytest.raises(InputError, match="noise"):
        GPRegressor(noise="student").fit(*table(20))
    model = clone(GPRegressor(random_state=0, num_samples=2)).fit(*table(200, seed=11))
    x = table(5, seed=12)[0]
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_quantiles(x), model.predict_quantiles(x))
    assert cross_val_predict(GPRegressor(num_samples=2), *table(120, seed=13), cv=3).shape == (120,)


def test_fingerprints_get_tails_but_no_surface():
    rng = np.random.default_rng(0)
    bits = (rng.random((240, 64)) < 0.3).astype(np.uint8)
    y = bits[:, :5].sum(1) + 0.3 * rng.standard_t(2.5, 240)
    model = GPRegressor(kernel="tanimoto", random_state=0, num_samples=2).fit(bits, y)
    assert model.noise_model_.surface is None
    assert np.isfinite(model.predict_dist(bits[:7]).logpdf(y[:7])).all()


def test_what_no_random_state_is_and_what_no_quantiles_are():
    """Each was NumPy's or scikit-learn's own error, which sggp called one to report."""
    X, y = np.arange(12.0)[:, None], np.arange(12.0) % 3
    model = GPRegressor("rbf", num_samples=2, random_state=0).fit(X, y)
    for wrong in (-1, "a", np.random.default_rng(0)):
        with pytest.raises(InputError, match="random_state must be an integer from 0"):
            GPRegressor("rbf", random_state=wrong).fit(X, y)
        with pytest.raises(InputError, match="random_state must be an integer from 0"):
            model.sample_y(X, random_state=wrong)
    with pytest.raises(InputError, match="quantiles must be probabilities"):
        model.predict_quantiles(X, "median")


def test_the_noise_of_each_row_is_not_told_as_one():
    X = np.arange(12.0)[:, None]
    model = GPRegressor("rbf", num_samples=2, random_state=0)
    model.fit(X, np.sin(X[:, 0]), noise_variance=np.linspace(0.01, 0.1, 12))
    assert model.noise_model_.reason == "the noise of each row as it was given"
