"""GPRegressor in files, in child processes, and with other hyperparameters."""

from __future__ import annotations

import os
import pickle
from unittest.mock import Mock

import gpytorch
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as sk
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sggp import GPRegressor
from sggp.errors import DataFileError, InputError, NotSaved, ShapeError
from sggp.estimator import regressor
from sggp.persistence import read_content, write_content
from sggp.posterior import Posterior
from tests.scripts import Scripts

pytestmark = pytest.mark.usefixtures("short_searches")


def table(n=60, d=2, seed=0, noise=0.2, weights=None):
    rng = np.random.default_rng(seed)
    X = rng.uniform(0, 3, (n, d))
    spread = noise if weights is None else noise / np.sqrt(weights)
    return X, 5.0 + 2.0 * (np.sin(2 * X[:, 0]) + 0.5 * X[:, -1] + spread * rng.standard_normal(n))


def small(**settings):
    return GPRegressor(**{"random_state": 0, "num_samples": 4, "num_features": 64, **settings})


def counts(n=40, d=50, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.poisson(0.4, (n, d))
    return X, X[:, :5].sum(1) + 0.1 * rng.standard_normal(n)


@pytest.mark.parametrize("optimizer", ["exact", "nearest-neighbour", "iterative"])
def test_gradients_that_the_caller_switched_off(optimizer):
    X, y = table()
    model = small(kernel="matern32", optimizer=optimizer)
    expected = model.fit(X, y).predict(X[:3])
    modes = (torch.no_grad, torch.inference_mode)  # the second forbids more
    for off in modes if optimizer == "exact" else modes[1:]:
        with off():
            assert np.array_equal(clone(model).fit(X, y).predict(X[:3]), expected)
            value, slope = model.log_marginal_likelihood(model.theta_, eval_gradient=True)
    assert value == pytest.approx(model.log_marginal_likelihood(model.theta_))
    assert np.isfinite(slope).all()


# values in a GPyTorch kernel


def _kernel(**settings):
    return gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel(**settings))


def test_values_in_a_kernel_are_parameters_of_the_estimator():
    kernel = _kernel(ard_num_dims=2)
    model = small(kernel=kernel)
    assert {"kernel__outputscale", "kernel__base_kernel__lengthscale"} < set(model.get_params())
    model.set_params(kernel__base_kernel__lengthscale=[0.5, 2.0], kernel__outputscale=3.0, num_samples=7)
    assert model.get_params()["kernel__base_kernel__lengthscale"] == pytest.approx([0.5, 2.0])
    assert model.num_samples == 7
    assert kernel.outputscale.item() == pytest.approx(np.log(2), rel=1e-6)  # the user's own stays
    assert clone(model).get_params()["kernel__outputscale"] == pytest.approx(3.0)
    assert set(model.get_params(deep=False)) == set(small().get_params())


def test_a_grid_over_values_of_a_kernel_finds_the_best():
    X, y = table(80, noise=0.1)
    grid = {"kernel__base_kernel__lengthscale": [0.01, 0.7, 50.0]}
    model = small(kernel=_kernel(), optimizer=None, noise_variance=0.05)
    search = GridSearchCV(model, grid, cv=3, error_score="raise").fit(X, y)
    assert search.best_params_ == {"kernel__base_kernel__lengthscale": 0.7}
    assert search.best_estimator_.hyperparameters_["base_kernel.lengthscale"] == pytest.approx(0.7)
    piped = make_pipeline(StandardScaler(), clone(model))
    again = GridSearchCV(piped, {f"gpregressor__{name}": values for name, values in grid.items()}, cv=3)
    assert again.fit(X, y).best_params_ == {"gpregressor__kernel__base_kernel__lengthscale": 0.7}


def test_the_values_are_where_learning_starts():
    X, y = table()
    kernel = _kernel()
    kernel.base_kernel.raw_lengthscale.requires_grad_(False)
    fixed = small(kernel=kernel).set_params(kernel__base_kernel__lengthscale=0.3).fit(X, y)
    assert fixed.hyperparameters_["base_kernel.lengthscale"] == pytest.approx(0.3)
    learnt = small(kernel=_kernel()).set_params(kernel__base_kernel__lengthscale=0.3).fit(X, y)
    assert learnt.hyperparameters_["base_kernel.lengthscale"] > 0.4


@pytest.mark.parametrize(
    ("kernel", "values", "match"),
    [
        ("rbf", {"kernel__lengthscale": 1.0}, "kernel is 'rbf', which has no values"),
        (None, {"kernel__lengthscale": 1.0}, "kernel is None"),
        (
            _kernel(),
            {"kernel__lengthscale": 1.0},
            "no 'lengthscale'; it has outputscale, base_kernel__lengthscale",
        ),
        (_kernel(), {"kernel__outputscale": -1.0}, "within its constraint"),
        (_kernel(), {"kernel__outputscale": np.nan}, "finite"),
        (_kernel(), {"kernel__outputscale": [1.0, 2.0]}, "must be a number"),
        (_kernel(), {"kernel__outputscale": "large"}, "must be a number"),
    ],
)
def test_values_that_a_kernel_cannot_have_are_refused(kernel, values, match):
    with pytest.raises(InputError, match=match):
        small(kernel=kernel).set_params(**values)


def test_values_of_scikit_learn_kernels_go_by_its_own_names():
    model = small(kernel=1.0 * sk.RBF()).set_params(kernel__k2__length_scale=0.3)
    assert model.kernel.k2.length_scale == 0.3
    with pytest.raises(ValueError, match="lengthscale"):
        model.set_params(kernel__lengthscale=1.0)


# files


def _fitted(kind):
    X, y = table(130, noise=0.3)
    if kind == "targets":
        return small(kernel="rbf", solver=None).fit(X, np.c_[y, -y]), X
    if kind == "frame":
        pandas = pytest.importorskip("pandas", reason="pandas is not installed")
        frame = pandas.DataFrame({"a": X[:, 0], "kind": np.where(X[:, 1] > 1, "high", "low")})
        return small().fit(frame, y), frame
    if kind == "counts":
        X, y = counts(60)
        return small(kernel="tanimoto").fit(X.astype(np.uint8), y), X.astype(np.uint8)
    if kind == "given":
        return small(noise="constant", normalize_y=False).fit(X, y, noise_variance=np.full(130, 0.3)), X
    return small().fit(X, y), X


def test_a_file_knows_columns_whose_names_are_no_text(tmp_path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    X, y = table(60, noise=0.3)
    frame = pandas.DataFrame(X)
    small().fit(frame, y).save(tmp_path / "model.gp")
    with pytest.raises(InputError, match="fit had 0, 1"):
        GPRegressor.load(tmp_path / "model.gp").predict(frame[frame.columns[::-1]])


@pytest.mark.parametrize("kind", ["plain", "targets", "frame", "counts", "given"])
def test_a_file_gives_back_the_estimator(tmp_path, kind):
    model, X = _fitted(kind)
    model.save(tmp_path / "model.gp")
    again = GPRegressor.load(tmp_path / "model.gp")
    for found, expected in zip(
        again.predict(X, return_std=True), model.predict(X, return_std=True), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(again.sample_y(X, 3), model.sample_y(X, 3))
    assert again.get_params()["kernel"] == model.get_params()["kernel"]
    assert (again.hyperparameters_, again.trace_) == (model.hyperparameters_, model.trace_)
    assert again.kernel_selection_ == model.kernel_selection_
    assert again.log_marginal_likelihood_value_ == model.log_marginal_likelihood_value_
    np.testing.assert_array_equal(again.X_train_, model.X_train_)
    np.testing.assert_array_equal(again.y_train_, model.y_train_)
    np.testing.assert_array_equal(again.noise_variance_, model.noise_variance_)
    assert set(vars(model)) - set(vars(again)) <= {"_importance", "_left_out_all"}
    if kind in ("plain", "counts"):
        np.testing.assert_array_equal(again.loo_predict().mean, model.loo_predict().mean)
        y = model.y_train_
        np.testing.assert_allclose(clone(again).fit(X, y).predict(X), model.predict(X), rtol=1e-6)
    if kind == "frame":
        assert list(again.feature_names_in_) == ["a", "kind"]


def test_what_no_file_holds_is_said(tmp_path):
    X, y = table()
    model = small(kernel=1.0 * sk.RBF() + sk.WhiteKernel(), random_state=np.random.RandomState(0)).fit(X, y)
    with pytest.warns(NotSaved, match="kernel, random_state"):
        model.save(tmp_path / "model.gp")
    np.testing.assert_allclose(
        GPRegressor.load(tmp_path / "model.gp").predict(X), model.predict(X), rtol=1e-12
    )
    odd = small(kernel=sk.RBF() ** 1.5 + sk.WhiteKernel()).fit(X, y)
    with pytest.raises(InputError, match="joblib"):
        odd.save(tmp_path / "odd.gp")
    assert not (tmp_path / "odd.gp").exists()


def test_no_damage_of_a_file_is_silent(tmp_path):
    model, _ = _fitted("plain")
    path, generator = tmp_path / "model.gp", np.random.default_rng(0)
    model.save(path)
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    places = [*generator.integers(0, 8 + header, 40), *generator.integers(8 + header, len(whole), 40)]
    for place in places:
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << int(generator.integers(0, 8))
        path.write_bytes(spoilt)
        with pytest.raises(DataFileError):
            GPRegressor.load(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataFileError, match="is damaged"):
        GPRegressor.load(path)


def test_other_files_are_told_from_estimators(tmp_path):
    model, X = _fitted("plain")
    model.posterior_.save(tmp_path / "posterior")
    with pytest.raises(
        DataFileError, match=r"holds a posterior, not an estimator: open it with .*Posterior\.load"
    ):
        GPRegressor.load(tmp_path / "posterior")
    model.save(tmp_path / "model.gp")
    with pytest.raises(
        DataFileError, match=r"holds an estimator, not a posterior: open it with .*GPRegressor\.load"
    ):
        Posterior.load(tmp_path / "model.gp")
    with pytest.raises(DataFileError, match="no file"):
        GPRegressor.load(tmp_path / "none.gp")
    content = read_content(tmp_path / "model.gp", "estimator")
    wrong = {
        "no posterior": {"posteriors": []},
        "another encoder": {"columns": {"missing": "refuse", "columns": []}},
        "another table": {"n_features": 3},
        "units of other columns": {"scaling": content["scaling"] | {"x_offset": np.zeros(3)}},
        "units of other targets": {"scaling": content["scaling"] | {"y_scale": np.ones(2)}},
        "no kernel": {"kernel": None},
        "another setting": {"parameters": content["parameters"] | {"mine": 1}},
    }
    for name, change in wrong.items():
        write_content(tmp_path / name, "estimator", content | change)
        with pytest.raises(DataFileError, match="not a whole estimator"):
            GPRegressor.load(tmp_path / name)


def test_the_kernel_given_comes_back_with_bounds_priors_and_what_is_fixed(tmp_path):
    X, y = table()
    prior, bounds = gpytorch.priors.GammaPrior(2.0, 1.0), gpytorch.constraints.Interval(0.05, 3.0)
    kernel = _kernel(lengthscale_prior=prior, lengthscale_constraint=bounds).double()
    kernel.raw_outputscale.requires_grad_(False)
    model = small(kernel=kernel, noise="constant").fit(X, y)
    model.save(tmp_path / "model.gp")
    again = clone(GPRegressor.load(tmp_path / "model.gp")).fit(X, y)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert again.hyperparameters_ == model.hyperparameters_
    pickle.dumps(again)


# other hyperparameters


@pytest.mark.parametrize("normalize_y", [True, False])
def test_the_likelihood_at_other_hyperparameters_is_that_of_scikit_learn(normalize_y):
    X, y = table()
    kernel = 1.5 * sk.Matern([0.7, 1.9], nu=1.5) + sk.WhiteKernel(0.2)
    theirs = GaussianProcessRegressor(kernel, normalize_y=normalize_y, optimizer=None).fit(X, y)
    ours = small(kernel=kernel, normalize_y=normalize_y, optimizer=None).fit(X, y)
    assert ours.theta_names_ == [
        "outputscale",
        "base_kernel.lengthscale[0]",
        "base_kernel.lengthscale[1]",
        "noise_variance",
    ]
    np.testing.assert_allclose(ours.theta_, theirs.kernel_.theta, atol=1e-9)
    for shift in (np.zeros(4), np.array([0.3, -0.2, 0.5, 0.1])):
        value, gradient = ours.log_marginal_likelihood(ours.theta_ + shift, eval_gradient=True)
        expected = theirs.log_marginal_likelihood(theirs.kernel_.theta + shift, eval_gradient=True)
        assert value == pytest.approx(expected[0], abs=1e-6)
        np.testing.assert_allclose(gradient, expected[1], atol=1e-4)


def test_the_likelihood_without_theta_is_the_value_of_the_fit():
    X, y = table()
    model = small(kernel="rbf", noise="constant").fit(X, y)
    assert model.log_marginal_likelihood() == model.log_marginal_likelihood_value_
    assert model.log_marginal_likelihood(model.theta_) == pytest.approx(
        model.log_marginal_likelihood_value_, abs=1e-6
    )
    with pytest.raises(ShapeError, match="4 entries"):
        model.log_marginal_likelihood([0.0])
    with pytest.raises(InputError, match="positive definite"):
        model.log_marginal_likelihood(np.full(4, np.nan))


# child processes

FORKED = """
import os, sys, time
import numpy as np, torch
torch.set_num_threads(1)
from sggp import GPRegressor
X = np.random.default_rng(0).uniform(0, 3, (300, 2))
model = GPRegressor("rbf", random_state=0, num_samples=4, num_features=64).fit(X, np.sin(2 * X[:, 0]))
torch.set_num_threads(2)
expected = model.predict(X, return_std=True)
child = os.fork()
if child == 0:
    found = model.predict(X, return_std=True)
    os._exit(0 if np.allclose(found, expected, rtol=1e-9) and torch.get_num_threads() == 1 else 3)
end = time.monotonic() + 60
while time.monotonic() < end:
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid:
        sys.exit(os.waitstatus_to_exitcode(status) or 10 * (torch.get_num_threads() != 2))
    time.sleep(0.05)
os.kill(child, 9)
sys.exit("the child hangs")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_predicts(scripts: Scripts):
    """torch's second thread stays with the parent, and the child waited for it for ever."""
    found = scripts.run("-c", FORKED)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_fit_that_is_interrupted_leaves_the_earlier_one(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """The posterior of the one table was read in the units of the other."""
    X, y = table(40)
    model = small(kernel="matern52").fit(X, y)
    mean, names = model.predict(X), set(vars(model))
    monkeypatch.setattr(regressor, "condition_measured", Mock(side_effect=error))
    with pytest.raises(error):
        model.fit(100 * X + 5, 1000 * y)
    np.testing.assert_array_equal(model.predict(X), mean)
    assert set(vars(model)) == names
    new = small(kernel="matern52")
    with pytest.raises(error):
        new.fit(X, y)
    assert not [name for name in vars(new) if name.endswith("_")]
