"""GPRegressor with noise and weights of its rows, sparse tables and further rows."""

from __future__ import annotations

import gpytorch
import joblib
import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.stats import multivariate_normal
from sklearn import config_context
from sklearn.gaussian_process import kernels as sk
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    check_sample_weight_equivalence_on_dense_data,
    check_sample_weight_equivalence_on_sparse_data,
)

from sggp import GPRegressor, TanimotoMinMax
from sggp.errors import DtypeError, InputError, MemoryBudgetError, ShapeError


def table(n=60, d=2, seed=0, noise=0.2, weights=None):
    rng = np.random.default_rng(seed)
    X = rng.uniform(0, 3, (n, d))
    spread = noise if weights is None else noise / np.sqrt(weights)
    return X, 5.0 + 2.0 * (np.sin(2 * X[:, 0]) + 0.5 * X[:, -1] + spread * rng.standard_normal(n))


def small(**settings):
    return GPRegressor(**{"random_state": 0, "num_samples": 4, "num_features": 64, **settings})


# noise and weights


def test_noise_of_rows_given_to_fit_is_that_of_the_constructor():
    X, y = table()
    noise = np.linspace(0.05, 0.5, len(y))
    given, made = small().fit(X, y, noise_variance=noise), small(noise_variance=noise).fit(X, y)
    np.testing.assert_array_equal(given.predict(X, return_std=True), made.predict(X, return_std=True))
    assert given.noise_variance is None
    np.testing.assert_array_equal(given.noise_variance_, noise)


def test_cross_validation_splits_noise_and_weights():
    X, y = table()
    noise, weights = np.linspace(0.05, 0.5, len(y)), np.tile([1.0, 4.0], 30)
    with config_context(enable_metadata_routing=True):
        model = small().set_fit_request(noise_variance=True, sample_weight=True)
        model.set_score_request(sample_weight=False)
        found = cross_validate(
            model, X, y, cv=3, params={"noise_variance": noise, "sample_weight": weights}, error_score="raise"
        )
        piped = make_pipeline(
            StandardScaler().set_fit_request(sample_weight=False),
            small().set_fit_request(noise_variance=True),
        )
        search = GridSearchCV(piped, {"gpregressor__kernel": ["rbf", "matern32"]}, cv=2).fit(
            X, y, noise_variance=noise
        )
    assert found["test_score"].shape == (3,)
    fold = np.arange(len(y)) >= 20
    by_hand = small(noise_variance=(noise / weights)[fold]).fit(X[fold], y[fold])
    assert found["test_score"][0] == pytest.approx(by_hand.score(X[~fold], y[~fold]), abs=1e-9)
    assert search.best_score_ > 0.5


def test_a_weight_divides_the_noise_variance():
    X, y = table()
    weights = np.tile([1.0, 4.0, 0.5], 20)
    weighted = small(noise_variance=0.3).fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(
        weighted.predict(X, return_std=True),
        small(noise_variance=0.3 / weights).fit(X, y).predict(X, return_std=True),
    )
    _, std = weighted.predict(X, return_std=True)
    _, both = weighted.predict(X, return_std=True, include_noise=True)
    np.testing.assert_allclose(both**2 - std**2, 0.3, rtol=1e-6)  # of a measurement of weight one


@pytest.mark.parametrize(
    "check",
    [check_sample_weight_equivalence_on_dense_data, check_sample_weight_equivalence_on_sparse_data],
    ids=["dense", "sparse"],
)
def test_where_nothing_is_learnt_a_weight_is_a_number_of_rows(check):
    """scikit-learn's own checks, which fail where a noise is learnt: docs/scikit_learn.md says why."""
    known = {"kernel": gpytorch.kernels.RBFKernel(), "noise_variance": 0.1, "normalize_y": False}
    assert check("GPRegressor", small(optimizer=None, **known)) is None
    with pytest.raises(AssertionError, match="not equivalent"):
        check("GPRegressor", small())


def test_learnt_noise_is_that_of_weight_one_and_the_likeliest():
    weights = np.tile([1.0, 25.0], 60)
    X, y = table(120, noise=0.5, weights=weights)
    model = small().fit(X, y, sample_weight=weights)
    assert model.noise_variance_ == pytest.approx(1.0, rel=0.35)  # (2 · .5)²
    best = model.log_marginal_likelihood_value_
    for factor in (0.7, 1.4):
        other = small(noise="constant").fit(X, y, noise_variance=factor * model.noise_variance_ / weights)
        assert other.log_marginal_likelihood_value_ < best
    scaled = small().fit(X, y, sample_weight=10 * weights)
    assert scaled.noise_variance_ == pytest.approx(10 * model.noise_variance_, rel=0.02)
    np.testing.assert_allclose(scaled.predict(X), model.predict(X), atol=2e-3)


def test_weights_that_are_all_one_change_nothing_and_zero_leaves_rows_out():
    X, y = table()
    plain = small().fit(X, y)
    np.testing.assert_array_equal(small().fit(X, y, sample_weight=np.ones(60)).predict(X), plain.predict(X))
    weights = np.r_[np.zeros(20), np.full(40, 2.0)]
    part = small().fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(part.predict(X), small().fit(X[20:], y[20:]).predict(X), rtol=1e-9)
    assert part.X_train_.shape == (40, 2)
    fixed = small(kernel=1.0 * sk.RBF() + sk.WhiteKernel(0.1, "fixed")).fit(
        X, y, sample_weight=1.0 + np.arange(60) % 2
    )
    assert fixed.noise_variance_ == pytest.approx(0.1 * y.var())


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"sample_weight": np.ones(3)}, ShapeError, r"one weight per row, \(60,\)"),
        ({"sample_weight": -np.ones(60)}, InputError, "not negative"),
        ({"sample_weight": np.zeros(60)}, InputError, "every sample_weight is zero"),
        ({"noise_variance": np.ones(3)}, ShapeError, "noise_variance"),
        ({"noise_variance": -1.0}, InputError, "noise_variance"),
    ],
)
def test_bad_noise_and_weights_are_refused(given, error, match):
    with pytest.raises(error, match=match):
        small().fit(*table(), **given)


def test_weights_of_several_targets_need_a_known_noise():
    X, y = table()
    weights = np.tile([1.0, 4.0], 30)
    with pytest.raises(InputError, match="MultiOutputRegressor"):
        small().fit(X, np.c_[y, -y], sample_weight=weights)
    both = small().fit(X, np.c_[y, -y], sample_weight=weights, noise_variance=0.2)
    np.testing.assert_allclose(both.predict(X)[:, 0], -both.predict(X)[:, 1], atol=1e-8)


# sparse tables


def counts(n=40, d=50, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.poisson(0.4, (n, d))
    return X, X[:, :5].sum(1) + 0.1 * rng.standard_normal(n)


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_array, sparse.coo_array])
@pytest.mark.parametrize(
    "kernel",
    ["tanimoto", gpytorch.kernels.ScaleKernel(TanimotoMinMax()), None],
    ids=["name", "kernel", "None"],
)
def test_sparse_counts_are_the_dense_ones(form, kernel):
    X, y = counts()
    given = form(X.astype(np.int64))
    model, dense = small(kernel=kernel).fit(given, y), small(kernel=kernel).fit(X, y)
    np.testing.assert_allclose(model.predict(given), dense.predict(X), rtol=1e-6)
    np.testing.assert_allclose(model.predict(X), model.predict(given), rtol=1e-6)
    assert kernel is None or model.X_train_.dtype == np.uint8


def test_a_sparse_table_that_does_not_fit_is_refused_before_it_is_made():
    wide = sparse.csr_array((3, 2**31))
    with pytest.raises(MemoryBudgetError, match=r"6\.0 GiB once dense"):
        small(kernel="tanimoto").fit(wide, np.zeros(3))


def test_missing_cells_of_a_sparse_table_are_refused():
    X = sparse.csr_array(np.array([[1.0, np.nan], [0.0, 2.0], [1.0, 1.0]]))
    with pytest.raises(InputError, match=r"missing cells"):
        small().fit(X, np.arange(3.0))


# further rows


@pytest.mark.parametrize("targets", [1, 2])
def test_partial_fit_is_the_posterior_of_all_rows(targets):
    X, y = table(90)
    y = y if targets == 1 else np.c_[y, 3 - 2 * y]
    model = small().partial_fit(X[:60], y[:60])
    first = model.predict(X)
    kernel = model.kernel_
    model.partial_fit(X[60:80], y[60:80]).partial_fit(X[80:], y[80:])
    assert model.kernel_ is kernel
    assert len(model.X_train_) == len(model.y_train_) == 90
    mean, std = model.predict(X, return_std=True)
    one, one_std = (mean, std) if targets == 1 else (mean[:, 0], std[:, 0])
    posterior = model.posterior_ if targets == 1 else model.posterior_[0]
    assert len(posterior.x) == 90
    noise = float(posterior.data.noise_variance[0])
    H = posterior.kernel(posterior.x).to_dense() + noise * torch.eye(90).double()
    dense = posterior.prior_mean + posterior.kernel(posterior.x).to_dense() @ torch.linalg.solve(
        H, posterior.data.y - posterior.prior_mean
    )
    expected = dense.detach().numpy() * model.scaling_.y_scale[0] + model.scaling_.y_offset[0]
    np.testing.assert_allclose(one, expected, atol=1e-6)
    assert np.abs(first - mean).max() > 1e-3
    assert (one_std > 0).all()
    again = model.sample_y(X, 2)
    assert again.shape == ((90, 2) if targets == 1 else (90, 2, 2))


def test_read_only_and_reversed_arrays_are_taken_without_a_word(tmp_path):
    X, y = table(70)
    held = y[60:].copy()
    held.flags.writeable = False  # as pandas has them
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # torch tells a process but once
    try:
        model = small().fit(X[:60], y[:60]).partial_fit(X[60:], held)
        turned = small().fit(X[:60], y[:60]).partial_fit(X[:59:-1], y[:59:-1])
        joblib.dump(model, tmp_path / "model")
        mapped = joblib.load(tmp_path / "model", mmap_mode="r")
        means = [each.predict(X) for each in (turned, mapped)]
        likelihood = mapped.log_marginal_likelihood(mapped.theta_)
    finally:
        torch.set_warn_always(always)
    np.testing.assert_allclose(means, [model.predict(X)] * 2, rtol=1e-8)
    np.testing.assert_allclose(likelihood, model.log_marginal_likelihood(model.theta_), rtol=1e-12)


def test_partial_fit_takes_noise_and_weights_and_refuses_bad_rows():
    X, y = table(70)
    noise = np.full(60, 0.2)
    model = small().fit(X[:60], y[:60], noise_variance=noise)
    with pytest.raises(InputError, match="one noise variance per training row"):
        model.partial_fit(X[60:], y[60:])
    model.partial_fit(X[60:], y[60:], noise_variance=0.2, sample_weight=np.full(10, 4.0))
    found = model.posterior_.data.noise_variance * float(model.y_scale_[0]) ** 2
    np.testing.assert_allclose(found.numpy(), np.r_[noise, np.full(10, 0.05)], rtol=1e-9)
    with pytest.raises(ShapeError, match="10 rows and 1 targets"):
        model.partial_fit(X[60:], np.c_[y, y][60:])
    with pytest.raises(InputError, match="NaN"):
        model.partial_fit(X[60:], np.full(10, np.nan), noise_variance=0.2)
    with pytest.raises(ValueError, match="features"):
        model.partial_fit(X[60:, :1], y[60:])
    assert len(model.X_train_) == 70


def test_one_weight_beyond_all_bounds_is_a_row_without_noise():
    X, y = table(100)
    weights = np.ones(100)
    large, beyond = (small().fit(X, y, np.r_[w, weights[1:]]) for w in (1e6, 1e300))
    assert beyond.noise_variance_ == pytest.approx(large.noise_variance_, rel=1e-2)
    np.testing.assert_allclose(beyond.predict(X), large.predict(X), atol=1e-2)


def test_a_given_noise_beyond_all_bounds_is_a_row_without_a_say():
    X, y = table(120)
    noise = np.full(120, 0.16)
    large, beyond = (small().fit(X, y, noise_variance=np.r_[v, noise[1:]]) for v in (1e12, 1e307))
    np.testing.assert_allclose(beyond.predict(X), large.predict(X), atol=1e-3)


def test_noise_and_weights_may_stand_in_a_column_of_pandas():
    pd = pytest.importorskip("pandas")
    X, y = table()
    columns = [pd.Series(np.full(60, 0.1)), pd.Series(np.full(60, 2.0))]
    model = small().fit(X, y, sample_weight=columns[1], noise_variance=columns[0])
    assert model.predict_dist(X, noise_variance=columns[0]).scale.shape == (60,)
    with pytest.raises(DtypeError, match="sample_weight must be"):
        small().fit(X, y, sample_weight=["a"] * 60)


# what further rows say of their noise, and what is asked of a grown table


def _grown(**more):
    X, y = table(40)
    further = table(10, seed=1)
    model = small(kernel="matern52").fit(X, y)
    before = model.noise_std(X[:3])
    return model, before, model.partial_fit(*further, **more)


@pytest.mark.parametrize(
    "more",
    [{"noise_variance": 3.0}, {"noise_variance": np.full(10, 3.0)}, {"sample_weight": np.full(10, 0.1)}],
)
def test_the_noise_of_further_rows_is_not_that_of_a_new_measurement(more):
    """The largest noise of any row became that of every prediction."""
    model, before, grown = _grown(**more)
    X, _ = table(40)
    assert np.allclose(grown.noise_std(X[:3]), before, rtol=1e-12)
    std, noisy = (model.predict(X[:3], return_std=True, include_noise=noise)[1] for noise in (False, True))
    assert np.allclose(noisy**2 - std**2, model.noise_variance_, rtol=1e-6)
    assert np.allclose(model.predict_dist(X[:3]).std(), noisy, rtol=1e-12)


def test_the_likelihood_knows_the_noise_of_further_rows():
    model, _, grown = _grown(noise_variance=np.linspace(0.1, 3.0, 10))
    X, y = (np.concatenate(parts) for parts in zip(table(40), table(10, seed=1), strict=True))
    x, scale = model.scaling_.inputs(torch.from_numpy(X)), float(model.y_scale_[0])
    noise = np.r_[np.full(40, model.noise_variance_), np.linspace(0.1, 3.0, 10)] / scale**2
    matrix = model.kernel_(x).to_dense().detach().numpy() + np.diag(noise)
    mean = float(model.fit_result_.mean) * np.ones(50)
    expected = multivariate_normal(mean, matrix).logpdf((y - model.y_offset_[0]) / scale)
    value, slope = grown.log_marginal_likelihood(grown.theta_, eval_gradient=True)
    assert value == pytest.approx(expected, rel=1e-9)
    step = np.eye(len(slope))[-1] * 1e-4
    ends = [grown.log_marginal_likelihood(grown.theta_ + sign * step) for sign in (1, -1)]
    assert (ends[0] - ends[1]) / 2e-4 == pytest.approx(slope[-1], rel=1e-4)


def test_the_likelihood_of_several_targets_has_the_noise_of_each():
    X, y = table(40)
    Y = np.stack([y, 100 * np.cos(X[:, 1])], axis=1)
    model = small(kernel="rbf", noise_variance=0.5).fit(X, Y)
    x, expected = model.scaling_.inputs(torch.from_numpy(X)), 0.0
    for j in range(2):
        scale = float(model.y_scale_[j])
        matrix = model.kernel_(x).to_dense().detach().numpy() + 0.5 / scale**2 * np.eye(40)
        mean = float(model.fit_result_.mean.reshape(-1)[j]) * np.ones(40)
        expected += multivariate_normal(mean, matrix).logpdf((Y[:, j] - model.y_offset_[j]) / scale)
    assert model.log_marginal_likelihood(model.theta_) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("kind", ["spread", "outliers"])
def test_a_table_with_a_noise_model_is_judged_after_further_rows(kind):
    """Left-out rows ended in an error of torch: the noise model knew the rows of the fit alone."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, (200, 2))
    spread = np.where(X[:, 0] > 0, 0.5, 0.02) if kind == "spread" else 0.05
    y = np.sin(2 * X[:, 0]) + spread * rng.standard_normal(200)
    if kind == "outliers":
        y[:3] += 50
    model = small(kernel="rbf").fit(X[:180], y[:180])
    noise = model.noise_model_
    assert noise.surface is not None if kind == "spread" else len(model.outliers_) == 3
    base = (
        noise.noise_variance
        if noise.row_noise is not None
        else float(model.posterior_.data.noise_variance[0])
    )
    model.partial_fit(X[180:], y[180:])
    found, data = model.loo_predict(), model.posterior_.data
    matrix = model.posterior_.covariance.block(data.x).double().numpy() + np.diag(data.noise_variance.numpy())
    precision = torch.from_numpy(np.linalg.inv(matrix))
    residual = data.y - model.posterior_.prior_mean
    mean = residual - precision @ residual / precision.diagonal()
    unit = float(model.y_scale_[0])
    expected = (mean + model.posterior_.prior_mean).numpy() * unit + model.y_offset_[0]
    assert np.allclose(found.mean, expected, atol=1e-8)
    variance = precision.diagonal().reciprocal() - data.noise_variance + base
    squared = variance * noise.log_scale(data.x, mean, variance).exp()
    further = slice(180, 200)  # at rows of the fit the surface is judged without them, too
    assert np.allclose(found.distribution.scale[further], squared.sqrt()[further] * unit, rtol=1e-8)
    assert np.isfinite(model.predict_interval(X[:3], conformal=True)).all()
