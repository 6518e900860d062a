"""What a fitted regressor says about itself, and that scikit-learn's and MAPIE's tools take it as it is."""

from __future__ import annotations

import gpytorch
import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import RFE, SelectFromModel
from sklearn.inspection import PartialDependenceDisplay
from sklearn.inspection import permutation_importance as scikit_importance
from sklearn.model_selection import KFold, cross_val_predict

from sggp import GPRegressor
from sggp.analysis import permutation_importance
from sggp.errors import InputError
from sggp.estimator import insight


def data(n: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A strong column, a weak one and an idle one; noise of standard deviation 0.2."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, size=(n, 3))
    return X, 2 * X[:, 0] + 0.5 * np.sin(3 * X[:, 1]) + 0.2 * rng.normal(size=n)


@pytest.fixture(scope="module")
def fitted() -> GPRegressor:
    X, y = data()
    return GPRegressor(random_state=0).fit(X, y + 50)


def known(**settings: object) -> GPRegressor:
    """A process with given hyperparameters."""
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=2.5, ard_num_dims=3)).double()
    kernel.base_kernel.lengthscale = torch.tensor([[1.0, 0.7, 1e6]], dtype=torch.float64)
    return GPRegressor(
        kernel, optimizer=None, noise_variance=0.04, normalize_y=False, random_state=0, **settings
    )


def test_importance_is_that_of_processes_refitted_without_each_row():
    X, y = data(18)

    refitted = [known(num_samples=0).fit(X[k], y[k]) for k in ~np.eye(len(y), dtype=bool)]

    def without_each(q: np.ndarray) -> np.ndarray:
        return np.array([model.predict(row[None])[0] for model, row in zip(refitted, q, strict=True)])

    expected, error = permutation_importance(without_each, X, y)
    found = known(num_samples=0).fit(X, y).feature_importance_
    np.testing.assert_allclose(found.permutation, expected, atol=1e-6)
    np.testing.assert_allclose(found.permutation_error, error, atol=1e-6)
    assert found.prior[2] < 1e-9
    assert found.prior[1] > found.prior[0]


def test_many_rows_take_the_slopes_of_their_functions(monkeypatch):
    exact = known(num_samples=256).fit(*data()).feature_importance_
    monkeypatch.setattr(insight, "DIRECT_ROWS", 50)
    sampled = known(num_samples=256).fit(*data()).feature_importance_
    np.testing.assert_allclose(sampled.permutation, exact.permutation, atol=0.03)
    assert (sampled.permutation[:2] != exact.permutation[:2]).all()
    with pytest.raises(InputError, match="num_samples"):
        _ = known(num_samples=0).fit(*data()).feature_importance_


def test_what_drives_a_learnt_model(fitted):
    importance, sobol = fitted.feature_importance_, fitted.sobol_indices(n=512)
    assert importance.order.tolist()[:2] == [0, 1]
    share = 4 / 3 / (4 / 3 + 0.25 * (0.5 - np.sin(6) / 12))
    assert importance.permutation[0] == pytest.approx(2 * share, abs=0.25)
    assert sobol.first[0] == pytest.approx(share, abs=0.08)
    assert sobol.total[2] < 0.03
    assert sobol.evaluations == 5 * 512
    assert fitted.feature_importance_ is importance  # computed once
    refitted = known().fit(*data())
    first = refitted.feature_importance_
    assert refitted.fit(*data(seed=1)).feature_importance_ is not first


def test_columns_are_selected_by_what_drives_the_model(fitted):
    """`importance_getter` needs no word: `feature_importances_` is what scikit-learn looks for."""
    shares, permutation = fitted.feature_importances_, fitted.feature_importance_.permutation
    np.testing.assert_allclose(shares, permutation.clip(0) / permutation.clip(0).sum())
    kept = SelectFromModel(fitted, prefit=True, threshold=0.02).get_support()
    assert kept.tolist() == [True, True, False]
    X, y = data(60)
    plain = GPRegressor("matern52", noise="constant", num_samples=0, random_state=0)
    assert RFE(plain, n_features_to_select=1).fit(X, y).ranking_.tolist() == [1, 2, 3]


def test_a_learnt_model_is_calibrated(fitted):
    report = fitted.calibration_report()
    assert report.n == 120
    for check in report.intervals:
        assert abs(check.coverage - check.level) < 4 * check.error
    assert report.rmse < 0.3
    assert "each predicted from all others" in str(report)


def test_names_are_those_of_a_data_frame():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    X, y = data(40)
    model = known().fit(pandas.DataFrame(X, columns=["a", "b", "c"]), y)  # warnings are errors here
    assert model.feature_importance_.names == model.sobol_indices(n=16).names == ("a", "b", "c")


def test_a_category_is_one_column():
    X, y = data(60)
    levels = np.array(["low", "middle", "high"])[np.arange(60) % 3]
    table = np.column_stack([X[:, :1].astype(object), levels.astype(object)])
    model = GPRegressor(random_state=0).fit(table, y + 3 * (levels == "high"))
    importance, sobol = model.feature_importance_, model.sobol_indices(n=128)
    assert importance.names == sobol.names == ("x0", "x1")
    assert importance.permutation.shape == importance.prior.shape == sobol.total.shape == (2,)
    share = 2 / (2 + 4 / 3)  # of the variance: 9 · 1/3 · 2/3 for the category, 4/3 for the number
    assert sobol.total[1] == pytest.approx(share, abs=0.1)
    assert sobol.evaluations == 4 * 128


def test_refused():
    X, y = data(30)
    with pytest.raises(NotFittedError):
        GPRegressor().calibration_report()
    assert not hasattr(GPRegressor(), "feature_importance_")
    model = GPRegressor(random_state=0).fit(X, np.column_stack([y, -y]))
    for call in (model.calibration_report, model.sobol_indices, lambda: model.feature_importance_):
        with pytest.raises(InputError, match="one target"):
            call()


def test_partial_dependence_displays(fitted):
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    from matplotlib.figure import Figure

    display = PartialDependenceDisplay.from_estimator(
        fitted, data()[0], [0, (0, 1)], ax=Figure().subplots(1, 2), grid_resolution=8
    )
    curve = display.pd_results[0]
    slope = np.polyfit(curve["grid_values"][0], curve["average"][0], 1)[0]
    assert slope == pytest.approx(2, abs=0.2)


def test_scikit_learn_permutes_and_validates(fitted):
    X, y = data(seed=1)
    found = scikit_importance(fitted, X, y + 50, n_repeats=3, random_state=0).importances_mean
    assert np.argsort(-found).tolist()[:2] == [0, 1]
    ours = permutation_importance(fitted.predict, X, y + 50)[0]
    np.testing.assert_allclose(ours, found, atol=0.25)
    predicted = cross_val_predict(GPRegressor(random_state=0), X, y, cv=KFold(3))
    assert 1 - np.mean((predicted - y) ** 2) / y.var() > 0.9


def test_mapie_takes_the_estimator():
    regression = pytest.importorskip("mapie.regression", reason="MAPIE is not installed")
    X, y = data(240)
    split = regression.SplitConformalRegressor(
        GPRegressor(random_state=0), confidence_level=0.8, prefit=False
    )
    split.fit(X[:80], y[:80]).conformalize(X[80:160], y[80:160])
    _, ends = split.predict_interval(X[160:])
    inside = np.mean((ends[:, 0, 0] <= y[160:]) & (y[160:] <= ends[:, 1, 0]))
    assert abs(inside - 0.8) < 4 * np.sqrt(0.16 * 2 / 80)
    cross = regression.CrossConformalRegressor(GPRegressor(random_state=0), confidence_level=0.8, cv=3)
    _, ends = cross.fit_conformalize(X[:160], y[:160]).predict_interval(X[160:])
    inside = np.mean((ends[:, 0, 0] <= y[160:]) & (y[160:] <= ends[:, 1, 0]))
    assert abs(inside - 0.8) < 4 * np.sqrt(0.16 * 2 / 80)
