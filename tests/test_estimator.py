"""GPRegressor: scikit-learn's own checks, agreement with its Gaussian processes, and bad input."""

import logging
import pickle
import warnings

import gpytorch
import numpy as np
import pytest
import torch
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as sk
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sggp.errors import (
    DtypeError,
    InputError,
    MemoryBudgetError,
    NoRandomFeatures,
    NotConverged,
    UnsupportedKernel,
)
from sggp.estimator import GPRegressor
from sggp.fitting.scikit_kernels import ScikitLearnKernel, from_scikit_learn
from sggp.solvers import ConjugateGradients

NO_COUNTS = {
    f"check_sample_weight_equivalence_on_{kind}_data": "weights divide the noise variance: they are no numbers of rows"
    for kind in ("dense", "sparse")
}
SMALL = {"num_samples": 4, "num_features": 64}


@pytest.mark.usefixtures("short_searches")  # of a fit the checks ask whether there is one, and twice the same
@parametrize_with_checks([GPRegressor(**SMALL)], expected_failed_checks=lambda estimator: NO_COUNTS)
def test_scikit_learn_checks_raise_nothing(estimator, check):
    assert check(estimator) is None


def _data(n=60, d=2, seed=0, noise=0.1):
    rng = np.random.default_rng(seed)
    X = rng.uniform(0, 3, (n, d))
    y = np.sin(2 * X[:, 0]) + 0.5 * X[:, -1] + noise * rng.standard_normal(n)
    return X, 4.0 + 3.0 * y


FIXED = [
    1.7 * sk.Matern([0.7, 1.9], nu=1.5),
    0.6 * sk.Matern(0.8, nu=0.5),
    2.0 * sk.RBF(0.9) + sk.ConstantKernel(0.3),
    sk.RationalQuadratic(0.8, alpha=1.3) + 0.5 * sk.Matern(2.0, nu=np.inf),
    sk.RBF([1.0, 2.0]) * sk.Matern(3.0, nu=2.5),
    0.7 * sk.DotProduct(0.5) + sk.RBF(1.0) ** 2,
    sk.Matern(0.8, nu=1.2),
]


@pytest.mark.parametrize("kernel", FIXED, ids=str)
@pytest.mark.parametrize("normalize_y", [True, False])
def test_agrees_with_scikit_learn_at_fixed_hyperparameters(kernel, normalize_y):
    X, y = _data()
    Q, _ = _data(15, seed=1)
    theirs = GaussianProcessRegressor(kernel, alpha=0.05, optimizer=None, normalize_y=normalize_y).fit(X, y)
    # scikit-learn's alpha is relative to the normalised targets, our noise variance is in units of y
    noise = 0.05 * (y.var() if normalize_y else 1.0)
    ours = GPRegressor(
        kernel, noise_variance=noise, optimizer=None, normalize_y=normalize_y, num_samples=2, num_features=32
    ).fit(X, y)
    assert ours.log_marginal_likelihood_value_ == pytest.approx(
        theirs.log_marginal_likelihood_value_, abs=1e-6
    )
    mean, std = theirs.predict(Q, return_std=True)
    _, cov = theirs.predict(Q, return_cov=True)
    np.testing.assert_allclose(ours.predict(Q), mean, atol=1e-6)
    np.testing.assert_allclose(ours.predict(Q, return_std=True)[1], std, atol=1e-6)
    np.testing.assert_allclose(ours.predict(Q, return_cov=True)[1], cov, atol=1e-6)
    noisy = ours.predict(Q, return_std=True, include_noise=True)[1]
    np.testing.assert_allclose(noisy, np.sqrt(std**2 + noise), atol=1e-6)
    noisy_cov = ours.predict(Q, return_cov=True, include_noise=True)[1]
    np.testing.assert_allclose(noisy_cov, cov + noise * np.eye(15), atol=1e-6)


def test_learns_as_well_as_scikit_learn_from_its_kernels():
    X, y = _data(80)
    kernel = 1.0 * sk.RBF([1.0, 1.0]) + sk.WhiteKernel(0.1)
    theirs = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=2, random_state=0).fit(
        X, y
    )
    ours = GPRegressor(kernel, random_state=0).fit(X, y)
    # ours also fits the mean, so it may only be better
    assert ours.log_marginal_likelihood_value_ >= theirs.log_marginal_likelihood_value_ - 1e-3
    white = theirs.kernel_.k2.noise_level * y.var()
    assert ours.noise_variance_ == pytest.approx(white, rel=0.1)


def test_white_kernel_is_the_noise():
    X, y = _data()
    fixed = GPRegressor(1.0 * sk.RBF(1.0) + sk.WhiteKernel(0.2, "fixed"), num_samples=2).fit(X, y)
    assert fixed.noise_variance_ == pytest.approx(0.2 * y.var())
    given = GPRegressor(1.0 * sk.RBF(1.0) + sk.WhiteKernel(0.2), optimizer=None, num_samples=2).fit(X, y)
    assert given.noise_variance_ == pytest.approx(0.2 * y.var())


def test_scikit_learn_bounds_and_fixed_values_are_kept():
    X, y = _data()
    kernel = sk.ConstantKernel(1.5, "fixed") * sk.RBF(0.3, (0.2, 0.4))
    learnt = GPRegressor(kernel, num_samples=2).fit(X, y).hyperparameters_
    assert learnt["outputscale"] == pytest.approx(1.5)
    assert 0.2 <= learnt["base_kernel.lengthscale"] <= 0.4
    assert kernel.k2.length_scale == 0.3


def test_unknown_scikit_learn_kernels_are_evaluated_by_themselves():
    converted = from_scikit_learn(sk.ExpSineSquared(1.0, 2.0), 2)
    assert isinstance(converted.kernel, ScikitLearnKernel)
    X, _ = _data(9)
    x = torch.from_numpy(X)
    expected = torch.from_numpy(sk.ExpSineSquared(1.0, 2.0)(X, X[:4]))
    torch.testing.assert_close(converted.kernel(x, x[:4]).to_dense(), expected)
    torch.testing.assert_close(
        converted.kernel(x.reshape(3, 3, 2)).to_dense()[1],
        torch.from_numpy(sk.ExpSineSquared(1.0, 2.0)(X[3:6])),
    )
    torch.testing.assert_close(
        converted.kernel(x[:4], x[4:8], diag=True),
        torch.diagonal(torch.from_numpy(sk.ExpSineSquared(1.0, 2.0)(X[:4], X[4:8]))),
    )
    with pytest.raises(UnsupportedKernel, match="WhiteKernel"):
        from_scikit_learn(2.0 * (sk.RBF() + sk.WhiteKernel()))
    with pytest.raises(UnsupportedKernel, match="white noise only"):
        from_scikit_learn(sk.WhiteKernel())


@pytest.mark.parametrize("name", [None, "rbf", "matern12", "matern32", "matern52"])
def test_named_kernels_do_not_mind_units(name):
    X, y = _data(50)
    model = GPRegressor(name, num_samples=2, num_features=32).fit(X, y)
    scaled = GPRegressor(name, num_samples=2, num_features=32).fit(X * [1e4, 1e-4] + [7, -3], 1e3 * y)
    np.testing.assert_allclose(scaled.predict(X * [1e4, 1e-4] + [7, -3]), 1e3 * model.predict(X), rtol=1e-4)
    assert scaled.noise_variance_ == pytest.approx(1e6 * model.noise_variance_, rel=1e-2)
    assert model.score(X, y) > 0.9


def test_gpytorch_kernel_is_not_changed_and_sees_raw_columns():
    X, y = _data()
    kernel = ScaleKernel(RBFKernel(lengthscale_prior=gpytorch.priors.NormalPrior(20.0, 1e-3)))
    before = {k: v.clone() for k, v in kernel.state_dict().items()}
    model = GPRegressor(kernel, num_samples=2, num_features=32).fit(10 * X, y)
    assert all(torch.equal(v, before[k]) for k, v in kernel.state_dict().items())
    assert model.kernel is kernel
    assert float(model.kernel_.base_kernel.lengthscale) == pytest.approx(20.0, abs=0.1)
    assert not model.standardise_


@pytest.mark.parametrize("dtype", [np.uint8, float])
def test_tanimoto_on_counts(dtype):
    rng = np.random.default_rng(0)
    X = rng.poisson(0.7, (80, 40)).astype(dtype)
    y = X[:, :5].sum(1) + 0.1 * rng.standard_normal(80)
    model = GPRegressor("tanimoto", random_state=0).fit(X[:60], y[:60])
    assert model.score(X[60:], y[60:]) > 0.1
    mean, std = model.predict(X[60:], return_std=True)
    assert (std > 0).all()
    assert model.sample_y(X[60:], 3).shape == (20, 3)
    assert model.posterior_.x.dtype == (torch.uint8 if dtype is np.uint8 else torch.float64)
    if dtype is float:
        bytes_ = GPRegressor("tanimoto", random_state=0).fit(X[:60].astype(np.uint8), y[:60])
        np.testing.assert_allclose(bytes_.predict(X[60:].astype(np.uint8)), mean, atol=1e-3)


def test_several_targets():
    X, y = _data()
    Y = np.stack([y, -100 * y, np.cos(X[:, 0])], axis=1)
    model = GPRegressor(random_state=0, num_samples=8).fit(X, Y)
    mean, std = model.predict(X[:5], return_std=True)
    _, cov = model.predict(X[:5], return_cov=True)
    assert (mean.shape, std.shape, cov.shape) == ((5, 3), (5, 3), (5, 5, 3))
    np.testing.assert_allclose(mean[:, 1], -100 * mean[:, 0], rtol=1e-6)
    np.testing.assert_allclose(std[:, 1], 100 * std[:, 0], rtol=1e-6)
    np.testing.assert_allclose(std**2, np.diagonal(cov).T, rtol=1e-6)
    assert model.noise_variance_.shape == (3,)
    assert model.sample_y(X[:5], 2).shape == (5, 3, 2)
    assert model.predict(X[:5], return_std=True, include_noise=True)[1].shape == (5, 3)
    assert len(model.posterior_) == 3
    known = GPRegressor(noise_variance=0.01, random_state=0, num_samples=8).fit(X, Y)
    noises = [float(p.noise_variance[0]) for p in known.posterior_]
    np.testing.assert_allclose(noises, 0.01 / Y.var(axis=0), rtol=1e-9)
    column = GPRegressor(random_state=0, num_samples=2).fit(X, Y[:, :1])
    assert column.predict(X).shape == (60,)


def test_samples_are_functions_of_the_seed():
    X, y = _data()
    model = GPRegressor(random_state=0).fit(X, y)
    whole = model.sample_y(X, 5, random_state=1)
    parts = np.concatenate(
        [model.sample_y(X[:20], 5, random_state=1), model.sample_y(X[20:], 5, random_state=1)]
    )
    np.testing.assert_allclose(whole, parts, atol=1e-9)
    assert np.abs(whole - model.sample_y(X, 5, random_state=2)).max() > 1e-6
    many = model.sample_y(X[:3], 500, random_state=1)
    np.testing.assert_allclose(many, model.sample_y(X[:3], 500, random_state=1))
    mean, std = model.predict(X[:3], return_std=True)
    np.testing.assert_allclose(many.mean(1), mean, atol=5 * std.max() / np.sqrt(500))
    np.testing.assert_allclose(many.std(1), std, rtol=0.25)


def test_mean_only_never_computes_a_variance(monkeypatch):
    X, y = _data()
    model = GPRegressor(num_samples=2).fit(X, y)

    def fail(*_args, **_kwargs):
        raise RuntimeError("a variance was computed")

    monkeypatch.setattr(type(model.posterior_), "variance", fail)
    monkeypatch.setattr(type(model.posterior_), "mean_and_variance", fail)
    monkeypatch.setattr(type(model.posterior_), "covariance_matrix", fail)
    assert model.predict(X).shape == (60,)
    with pytest.raises(RuntimeError, match="variance"):
        model.predict(X, return_std=True)


def test_large_fits_take_std_from_samples(monkeypatch):
    X, y = _data(150)
    exact = GPRegressor(random_state=0, num_samples=256).fit(X, y)
    monkeypatch.setattr("sggp.estimator.densities.DIRECT_ROWS", 100)
    std = exact.predict(X, return_std=True)[1]
    monkeypatch.setattr("sggp.estimator.densities.DIRECT_ROWS", 3000)
    np.testing.assert_allclose(std, exact.predict(X, return_std=True)[1], rtol=0.35)
    assert np.abs(std / exact.predict(X, return_std=True)[1] - 1).max() > 1e-6


def test_working_precision(monkeypatch):
    X, y = _data(60)
    noise = 1e-4 * y.var()
    wide = GPRegressor("rbf", noise_variance=noise, num_samples=2, num_features=32, optimizer=None).fit(X, y)
    assert wide.posterior_.options.dtype == torch.float64
    monkeypatch.setattr("sggp.arrays.DIRECT_ROWS", 50)
    narrow = GPRegressor("rbf", noise_variance=noise, num_samples=2, num_features=32, optimizer=None).fit(
        X, y
    )
    assert narrow.posterior_.options.dtype == torch.float32
    assert narrow.predict(X).dtype == np.float64
    # what float32 leaves of the solve drowns in the noise
    assert np.abs(narrow.predict(X) - wide.predict(X)).max() < 0.2 * noise**0.5


def test_two_fits_agree():
    X, y = _data(80)
    Q, _ = _data(20, seed=3)
    first, second = GPRegressor().fit(X, y), GPRegressor().fit(X, y)
    np.testing.assert_allclose(first.predict(Q), second.predict(Q), rtol=1e-9)
    np.testing.assert_allclose(
        first.predict(Q, return_std=True)[1], second.predict(Q, return_std=True)[1], rtol=1e-9
    )
    seeded = [GPRegressor(random_state=5).fit(X, y).sample_y(Q, 3) for _ in range(2)]
    np.testing.assert_array_equal(seeded[0], seeded[1])


def test_clone_grid_search_pipeline_and_pickle():
    X, y = _data(40)
    kernel = ScaleKernel(MaternKernel(nu=2.5))
    model = GPRegressor(kernel, num_samples=2, num_features=32, random_state=0)
    assert clone(model).get_params()["num_samples"] == 2
    search = GridSearchCV(model, {"kernel": ["rbf", kernel], "normalize_y": [True, False]}, cv=2).fit(X, y)
    assert search.best_score_ > 0.5
    pipeline = make_pipeline(StandardScaler(), model).fit(X, y)
    again = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_allclose(again.predict(X), pipeline.predict(X), rtol=1e-12)
    clone(pipeline.fit(X, y))
    logarithmic = TransformedTargetRegressor(model, func=np.log, inverse_func=np.exp).fit(X, y)
    assert logarithmic.score(X, y) > 0.9


def test_constant_target_and_one_row():
    X, _ = _data(20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = GPRegressor().fit(X, np.full(20, 7.25))
    mean, std = model.predict(X + 0.3, return_std=True, include_noise=True)
    np.testing.assert_array_equal(mean, 7.25)
    assert (std < 1e-4).all()
    single = GPRegressor(num_samples=2).fit(X[:1], [3.0])
    assert single.predict(X[:2]) == pytest.approx([3.0, 3.0])
    assert single.predict(X[1:2] + 100, return_std=True)[1] > 0.1


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"kernel": "cubic"}, InputError, "unknown kernel"),
        ({"kernel": 3}, DtypeError, "kernel must be"),
        ({"optimizer": "adam"}, InputError, "unknown optimizer"),
        ({"optimizer": None}, InputError, "noise_variance is needed"),
        ({"noise_variance": -1.0}, InputError, "not negative"),
        ({"noise_variance": [0.1, 0.2]}, InputError, "shape"),
        ({"num_samples": -1}, InputError, "num_samples"),
        ({"num_samples": 2.5}, InputError, "num_samples"),
        ({"num_features": 0}, InputError, "num_features"),
    ],
)
def test_bad_settings(settings, error, match):
    with pytest.raises(error, match=match):
        GPRegressor(**settings).fit(*_data(20))


def test_bad_data():
    X, y = _data(20)
    for bad in (np.nan, np.inf):
        broken = X.copy()
        broken[3, 1] = bad
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            GPRegressor().fit(broken, y)
        target = y.copy()
        target[3] = bad
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            GPRegressor().fit(X, target)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        GPRegressor().fit(X, y[:-1])
    model = GPRegressor(num_samples=2).fit(X, y)
    with pytest.raises(ValueError, match="features"):
        model.predict(X[:, :1])
    with pytest.raises(InputError, match="one at a time"):
        model.predict(X, return_std=True, return_cov=True)
    with pytest.raises(InputError, match="n_samples"):
        model.sample_y(X, 0)
    with pytest.raises(MemoryBudgetError, match="sample_y"):
        model.predict(np.zeros((20000, 2)), return_cov=True)


def test_noise_per_row():
    X, y = _data(40)
    noise = np.linspace(0.05, 2.0, 40)
    model = GPRegressor(noise_variance=noise, num_samples=2, num_features=32).fit(X, y)
    kernel = model.kernel_
    K = kernel(torch.from_numpy((X - X.mean(0)) / X.std(0))).to_dense().detach().numpy()
    centred = (y - model.y_offset_) / model.y_scale_ - model.fit_result_.mean
    expected = K @ np.linalg.solve(K + np.diag(noise / y.var()), centred) + model.fit_result_.mean
    np.testing.assert_allclose(model.predict(X), expected * y.std() + y.mean(), atol=1e-7)
    with pytest.raises(InputError, match="one noise variance per training row"):
        model.predict(X, return_std=True, include_noise=True)


class _Hasty(ConjugateGradients):
    """Gives up after two products."""

    default_max_epochs = 2.0


def test_a_solver_that_does_not_converge_says_so():
    X, y = _data(60)
    model = GPRegressor("rbf", noise_variance=1e-3, solver=_Hasty(preconditioner=None), num_samples=2)
    with pytest.warns(NotConverged):
        model.fit(X, y)
    assert not model.solution_.converged


def test_kernels_without_features_predict_but_do_not_sample():
    X, y = _data(30)
    model = GPRegressor(sk.RBF(1.0) ** 1.5 + sk.WhiteKernel(), random_state=0).fit(X, y)
    assert (model.predict(X, return_std=True)[1] >= 0).all()
    with pytest.raises(NoRandomFeatures):
        model.sample_y(X)


def test_progress_only_if_verbose(capfd):
    X, y = _data(20)
    GPRegressor(num_samples=2).fit(X, y)
    assert capfd.readouterr() == ("", "")
    handlers = list(logging.getLogger().handlers)
    GPRegressor(num_samples=2, verbose=1).fit(X, y)
    out, err = capfd.readouterr()
    assert out == ""
    assert "hyperparameters: exact: " in err
    assert "solve: Solution(Cholesky()" in err
    assert logging.getLogger().handlers == handlers
