"""`GPRegressor(kernel="precomputed")`: matrices of covariances for X, as scikit-learn's estimators have it."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.gaussian_process.kernels import RBF
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator

from sggp import GPRegressor
from sggp.errors import DataFileError, InputError, ShapeError
from sggp.kernels.precomputed import PrecomputedKernel

SHAPE = RBF(1.0)


def _data(n=40, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.uniform(0, 3, (n, 2))
    return X, 4 + 3 * np.sin(2 * X[:, 0]) + 0.1 * rng.standard_normal(n)


X, Y = _data()
Q, TRUTH = _data(7, seed=1)
K, K_Q = 50.0 * SHAPE(X), 50.0 * SHAPE(Q, X)
OWN = np.full(7, 50.0)


@pytest.fixture(scope="module")
def model():
    return GPRegressor("precomputed").fit(K, Y)


def _by_hand(model, matrix, cross, own, noise, rows=slice(None)):
    """Mean and variance of f in units of y, by dense algebra, the constant mean unknown or 0."""
    posterior, unit = model.posterior_, float(model.scaling_.y_scale[0])
    a = float(model.kernel_.outputscale)
    constant = float(posterior.kernel(posterior.x[:1], posterior.x[:1]).to_dense() - a * matrix[0, 0])
    inverse = np.linalg.inv(a * matrix + constant + np.diag(np.broadcast_to(noise / unit**2, len(matrix))))
    centred = (Y[rows] - model.scaling_.y_offset[0]) / unit - float(posterior.prior_mean)
    left = (a * cross + constant) @ inverse
    mean = (left @ centred + float(posterior.prior_mean)) * unit + model.scaling_.y_offset[0]
    return mean, (a * own + constant - (left * (a * cross + constant)).sum(1)) * unit**2


def test_predictions_are_those_of_dense_algebra(model):
    mean, std = model.predict(K_Q, return_std=True, diagonal=OWN)
    expected, variance = _by_hand(model, K, K_Q, OWN, model.noise_variance_)
    np.testing.assert_allclose(mean, expected, rtol=1e-6)
    np.testing.assert_allclose(std**2, variance, rtol=1e-4)
    np.testing.assert_allclose(model.predict(K_Q), mean)
    assert 0.04 < np.sqrt(model.noise_variance_) < 0.25
    assert model.score(K_Q, TRUTH) > 0.98


def test_the_scale_of_the_matrix_does_not_matter(model):
    other = GPRegressor("precomputed").fit(K / 1e4, Y)
    np.testing.assert_allclose(other.predict(K_Q / 1e4), model.predict(K_Q), rtol=1e-3)


def test_densities_and_left_out_rows(model):
    density = model.predict_dist(K_Q, diagonal=OWN)
    std = model.predict(K_Q, return_std=True, include_noise=True, diagonal=OWN)[1]
    np.testing.assert_allclose(density.std(), std, rtol=1e-10)
    assert np.corrcoef(model.loo_predict().mean, Y)[0, 1] > 0.98


def test_likelihoods_at_other_hyperparameters(model):
    assert model.theta_names_ == ["outputscale", "noise_variance"]
    value, gradient = model.log_marginal_likelihood(model.theta_, eval_gradient=True)
    assert value == pytest.approx(model.log_marginal_likelihood_value_, rel=1e-8)
    step = np.array([1e-5, 0.0])
    up, down = (model.log_marginal_likelihood(model.theta_ + s) for s in (step, -step))
    assert (up - down) / 2e-5 == pytest.approx(gradient[0], abs=1e-4)


def test_noise_per_row_and_weights():
    noise = np.linspace(0.01, 0.5, 40)
    given = GPRegressor("precomputed").fit(K, Y, noise_variance=noise)
    np.testing.assert_allclose(given.predict(K_Q), _by_hand(given, K, K_Q, OWN, noise)[0], rtol=1e-6)
    weights = np.where(np.arange(40) < 30, 1.0, 0.0)
    left = GPRegressor("precomputed").fit(K, Y, sample_weight=weights)
    some = GPRegressor("precomputed").fit(K[:30, :30], Y[:30])
    np.testing.assert_allclose(left.predict(K_Q), some.predict(K_Q[:, :30]), rtol=1e-6)


def test_cross_validation_slices_rows_and_columns():
    assert get_tags(GPRegressor("precomputed")).input_tags.pairwise
    assert not get_tags(GPRegressor()).input_tags.pairwise
    estimator = GPRegressor("precomputed", noise_variance=0.01)
    found = cross_val_predict(estimator, K, Y, cv=4)
    for fold in range(4):
        rows = np.arange(fold * 10, fold * 10 + 10)
        others = np.setdiff1d(np.arange(40), rows)
        by_hand = clone(estimator).fit(K[np.ix_(others, others)], Y[others])
        np.testing.assert_allclose(found[rows], by_hand.predict(K[np.ix_(rows, others)]))
    search = GridSearchCV(GPRegressor("precomputed"), {"noise_variance": [0.01, 100.0]}, cv=2).fit(K, Y)
    assert search.best_params_ == {"noise_variance": 0.01}


def test_variances_of_queries_are_routed_through_a_pipeline():
    with sklearn.config_context(enable_metadata_routing=True):
        routed = GPRegressor("precomputed").set_predict_request(diagonal=True, return_std=True)
        line = make_pipeline(FunctionTransformer(), routed).fit(K, Y)
        _, std = line.predict(K_Q, return_std=True, diagonal=OWN)
    assert std.shape == (7,)


def test_several_targets():
    both = GPRegressor("precomputed", noise_variance=0.01).fit(K, np.column_stack([Y, -Y]))
    mean = both.predict(K_Q)
    np.testing.assert_allclose(mean[:, 0], -mean[:, 1], rtol=1e-6)


def test_saved_and_loaded(model, tmp_path):
    path = tmp_path / "model"
    model.save(path)
    again = GPRegressor.load(path)
    assert again.kernel == "precomputed"
    for one, other in zip(
        *(m.predict(K_Q, return_std=True, diagonal=OWN) for m in (model, again)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert again.log_marginal_likelihood(again.theta_) == model.log_marginal_likelihood(model.theta_)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataFileError, match="checksum"):
        GPRegressor.load(path)


@pytest.mark.parametrize(
    ("matrix", "error", "words"),
    [
        (K[:, :30], ShapeError, "square"),
        (K + np.triu(np.ones_like(K)), InputError, "not symmetric"),
        (-np.abs(X[:, :1] - X[:, 0]), InputError, "not positive semi-definite: its smallest eigenvalue"),
        (np.zeros((40, 40)), InputError, "not positive semi-definite"),
        (np.where(np.eye(40) > 0, np.nan, K), ValueError, "NaN"),
        (np.where(np.eye(40) > 0, np.inf, K), ValueError, "infinity"),
    ],
)
def test_matrices_that_are_none_of_covariances(matrix, error, words):
    with pytest.raises(error, match=words):
        GPRegressor("precomputed").fit(matrix, Y)


def test_a_matrix_of_too_many_rows(monkeypatch):
    monkeypatch.setattr("sggp.estimator.modes.precomputed.DIRECT_ROWS", 39)
    with pytest.raises(InputError, match="up to 39 rows, got 40"):
        GPRegressor("precomputed").fit(K, Y)


def test_gaps_are_not_filled_in():
    with pytest.raises(ValueError, match="NaN"):
        GPRegressor("precomputed", missing="median").fit(np.where(np.eye(40) > 0, np.nan, K), Y)


def test_what_needs_more_than_the_matrix_says_so(model):
    for call, words in (
        (lambda: model.predict(K_Q, return_std=True), r"return_std .* pass diagonal=, \(7,\) numbers"),
        (lambda: model.predict(K_Q, return_cov=True), "return_cov .* K_qq"),
        (lambda: model.sample_y(K_Q), "sample_y .* K_qq"),
        (lambda: model.predict_interval(K_Q), "predict_dist .* diagonal="),
        (lambda: model.feature_importance_, "of input columns"),
        (lambda: model.sobol_indices(), "of input columns"),  # noqa: PLW0108
        (lambda: GPRegressor("rbf").fit(X, Y).predict(Q, diagonal=OWN), "goes with kernel='precomputed'"),
    ):
        with pytest.raises(InputError, match=words):
            call()
    with pytest.raises(AttributeError, match="partial_fit") as caught:
        model.partial_fit(K_Q, TRUTH)
    assert "fit the larger matrix" in str(caught.value.__cause__)
    with pytest.raises(ShapeError, match="finite variances"):
        model.predict(K_Q, return_std=True, diagonal=-OWN)
    with pytest.raises(ValueError, match="expecting 40 features"):
        model.predict(K_Q[:, :30])


def test_pairs_of_points_of_the_kernel():
    train = torch.tensor([[0.0, 2.0, 2.0, 0.5], [1.0, 3.0, 0.5, 3.0]])
    new = torch.tensor([[-1.0, 7.0, 0.1, 0.2], [-1.0, 8.0, 0.3, 0.4]])
    kernel = PrecomputedKernel()
    assert torch.equal(kernel(train, new).to_dense(), new[:, 2:].T)
    assert torch.equal(kernel(new, train).to_dense(), new[:, 2:])
    assert torch.equal(kernel(new, diag=True), new[:, 1])
    assert torch.equal(kernel(train, new, diag=True), torch.tensor([0.1, 0.4]))
    assert torch.equal(kernel(new, train, diag=True), torch.tensor([0.1, 0.4]))
    with pytest.raises(InputError, match="among each other"):
        kernel(new, new).to_dense()


def test_scikit_learn_checks_of_pairwise_estimators(short_searches):
    others = {
        f"check_sample_weight_equivalence_on_{kind}_data": "weights divide the noise variance"
        for kind in ("dense", "sparse")
    }
    others["check_positive_only_tag_during_fit"] = (
        "takes a constant off the matrix, and it is no covariance then"
    )
    others["check_estimators_dtypes"] = "rounds the matrix to whole numbers, and it is no covariance then"
    results = check_estimator(
        GPRegressor("precomputed", noise="constant", num_samples=4),
        on_skip=None,
        on_fail=None,
        expected_failed_checks=others,
    )
    assert [(r["check_name"], r["exception"]) for r in results if r["status"] == "failed"] == []
