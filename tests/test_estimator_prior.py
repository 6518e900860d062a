"""`GPRegressor` before any fit: the prior, as scikit-learn's `GaussianProcessRegressor` has it."""

from __future__ import annotations

import gpytorch
import numpy as np
import pytest
import sklearn.gaussian_process.kernels as sk
import torch
from sklearn.exceptions import NotFittedError
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.utils import get_tags

from sggp import GPRegressor
from sggp.errors import InputError, MemoryBudgetError

X = np.random.default_rng(0).uniform(-2, 2, (12, 2))


@pytest.mark.parametrize(
    "kernel",
    [2.5 * sk.RBF([0.7, 1.2]), sk.Matern(0.8, nu=1.5) + 0.4 * sk.DotProduct(0.3), sk.ConstantKernel(3.0)],
    ids=str,
)
def test_the_prior_is_that_of_scikit_learn(kernel):
    theirs, ours = GaussianProcessRegressor(kernel), GPRegressor(kernel)
    for wanted in ({"return_std": True}, {"return_cov": True}):
        mean, spread = ours.predict(X, **wanted)
        expected_mean, expected = theirs.predict(X, **wanted)
        np.testing.assert_array_equal(mean, expected_mean)
        np.testing.assert_allclose(spread, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(ours.predict(X), np.zeros(12))
    assert not hasattr(ours, "n_features_in_")


@pytest.mark.parametrize(
    ("name", "equal"),
    [(None, sk.Matern(1.0, nu=1.5)), ("rbf", sk.RBF(1.0)), ("matern12", sk.Matern(1.0, nu=0.5))],
)
def test_kernels_by_name_have_unit_scales(name, equal):
    _, covariance = GPRegressor(name).predict(X, return_cov=True)
    np.testing.assert_allclose(covariance, equal(X), rtol=1e-10)


def test_samples_of_few_rows_and_of_many_have_the_covariance_of_the_kernel():
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel()).double()
    kernel.outputscale, kernel.base_kernel.lengthscale = 4.0, 0.9
    model, expected = GPRegressor(kernel), 4.0 * sk.RBF(0.9)(X[:3])
    few = model.sample_y(X[:3], 4000, random_state=1)
    assert few.shape == (3, 4000)
    np.testing.assert_array_equal(few, model.sample_y(X[:3], 4000, random_state=1))
    assert np.abs(few - model.sample_y(X[:3], 4000, random_state=2)).max() > 1
    np.testing.assert_allclose(few @ few.T / 4000, expected, atol=0.4)
    many = model.sample_y(np.resize(X, (1002, 2)), 4000, random_state=1)
    np.testing.assert_array_equal(many[:12], many[12:24])
    np.testing.assert_allclose(many[:3] @ many[:3].T / 4000, expected, atol=0.6)


def test_the_noise_of_measurements_is_added_where_it_is_known():
    white = GPRegressor(sk.RBF() + sk.WhiteKernel(0.25)).predict(X, return_std=True, include_noise=True)[1]
    given = GPRegressor("rbf", noise_variance=0.25).predict(X, return_cov=True, include_noise=True)[1]
    np.testing.assert_allclose(white, np.sqrt(1.25))
    np.testing.assert_allclose(np.diag(given), 1.25)
    with pytest.raises(InputError, match="noise_variance as one number"):
        GPRegressor().predict(X, return_std=True, include_noise=True)


def test_fingerprints_keep_their_bytes():
    counts = np.random.default_rng(1).integers(0, 3, (5, 40), dtype=np.uint8)
    _, covariance = GPRegressor("tanimoto").predict(counts, return_cov=True)
    low = np.minimum(counts[0], counts[1]).sum() / np.maximum(counts[0], counts[1]).sum()
    assert covariance[0, 1] == pytest.approx(low, abs=1e-6)


def test_a_covariance_that_is_too_large_is_refused():
    with pytest.raises(MemoryBudgetError, match="sample_y"):
        GPRegressor("rbf").predict(np.zeros((12_000, 1)), return_cov=True)


def test_the_kernel_given_is_not_changed():
    kernel = gpytorch.kernels.RBFKernel()  # float32
    GPRegressor(kernel).predict(X, return_std=True)
    assert kernel.lengthscale.dtype == torch.float32
    assert kernel.raw_lengthscale.requires_grad


def test_what_has_no_meaning_without_a_fit_is_refused(tmp_path):
    model, y = GPRegressor(), X[:, 0]
    assert get_tags(model).requires_fit is get_tags(GaussianProcessRegressor()).requires_fit is False
    for call in (
        lambda: model.score(X, y),
        model.loo_predict,
        model.calibration_report,
        model.sobol_indices,
        lambda: model.feature_importance_,
        lambda: model.predict_dist(X),
        lambda: model.predict_quantiles(X),
        lambda: model.predict_interval(X),
        lambda: model.noise_std(X),
        model.log_marginal_likelihood,
        lambda: model.theta_,
        lambda: model.save(tmp_path / "model"),
        lambda: GPRegressor("precomputed").predict(np.eye(3)),
    ):
        with pytest.raises(NotFittedError):
            call()
