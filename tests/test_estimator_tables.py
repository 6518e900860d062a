"""GPRegressor on raw tables as they come: constant and copied columns, repeats, outliers, units, few rows."""

import datetime

import numpy as np
import pytest
import torch
from scipy import sparse

from sggp.errors import DtypeError, InputError, UnidentifiedColumns
from sggp.estimator import GPRegressor
from sggp.fitting import with_unknown_constant
from sggp.fitting.scaling import location_and_scale
from sggp.hyperparameters import learn_hyperparameters
from sggp.hyperparameters.defaults import noise_floor


def _data(n=80, d=2, seed=0, noise=0.1):
    rng = np.random.default_rng(seed)
    X = rng.uniform(0, 3, (n, d))
    y = np.sin(2 * X[:, 0]) + 0.5 * X[:, 1] + noise * rng.standard_normal(n)
    return X, 4.0 + 3.0 * y


def _model(**settings):
    return GPRegressor(num_samples=4, num_features=64, random_state=0, **settings)


def test_unidentified_columns_are_named_once_and_do_no_harm():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    X, y = _data()
    Q, truth = _data(40, seed=1, noise=0.0)

    def widened(X):
        columns = {"speed": X[:, 0], "load": X[:, 1], "plant": np.full(len(X), 3.3), "knots": -2 * X[:, 0]}
        return pandas.DataFrame(columns)

    with pytest.warns(UnidentifiedColumns, match=r"plant \(constant\), knots \(copy of column 0\)") as caught:
        wide = _model().fit(widened(X), y)
    assert len(caught) == 1
    assert wide.hyperparameters_["unidentified"] == {2: "constant", 3: "copy of column 0"}
    scales = wide.hyperparameters_["base_kernel.lengthscale"]
    assert scales[3] == pytest.approx(scales[0])
    assert scales[2] == pytest.approx(np.prod([scales[0], scales[1], scales[3]]) ** (1 / 3))
    plain = _model().fit(X, y)
    np.testing.assert_allclose(wide.predict(widened(Q)), plain.predict(Q), atol=0.1)
    assert wide.score(widened(Q), truth) > 0.97


def test_columns_without_influence_are_constant_and_rows_become_repeats(monkeypatch):
    """A kernel whose second length scale is endless sees rows that differ in that column alone as one."""

    def endless(kernel, x, y, **settings):
        found = learn_hyperparameters(kernel, x, y, **settings)
        found.kernel.base_kernel.lengthscale = torch.tensor([0.5, 1e7])
        return found

    monkeypatch.setattr("sggp.fitting.model.learn_hyperparameters", endless)
    X, y = _data(60)
    X[30:, 0] = X[:30, 0]
    model = _model().fit(X, y)
    assert model.hyperparameters_["without_influence"] == [1]
    assert len(model.posterior_.x) == 30
    moved = X + np.array([0.0, 0.3])
    np.testing.assert_array_equal(model.predict(moved), model.predict(X))
    monkeypatch.undo()
    kernel = with_unknown_constant(model.kernel_, 30)
    plain = _model(kernel=kernel, optimizer=None, noise_variance=1.0, normalize_y=False)
    scaled = (X - model.x_offset_) / np.where(np.isinf(model.x_scale_), 1.0, model.x_scale_)
    plain.noise_variance = model.noise_variance_ / float(model.y_scale_[0]) ** 2
    mean = float(model.fit_result_.mean)
    plain.fit(scaled, (y - model.y_offset_) / model.y_scale_ - mean)  # all rows, all columns
    expected = (plain.predict(scaled) + mean) * model.y_scale_ + model.y_offset_
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-6)


@pytest.mark.slow  # 3,100 rows; the floors themselves are below
def test_a_noise_learnt_from_many_rows_may_all_but_vanish():
    X = np.linspace(0, 12, 3100)[:, None]
    model = GPRegressor("matern52", noise="constant", num_samples=0, random_state=0).fit(X, np.sin(X[:, 0]))
    assert 1e-10 <= model.noise_variance_ / np.var(model.y_train_) < 1e-7
    assert np.abs(model.predict(X + 0.001) - np.sin(X[:, 0] + 0.001)).max() < 1e-4


def test_the_floor_of_a_learnt_noise():
    x = torch.linspace(0, 1, 3001)[:, None]
    assert noise_floor(x[:10], "iterative") == 1e-5
    assert noise_floor(x[:-1]) == noise_floor(x[:500]) == 1e-7
    assert noise_floor(x[:499]) == 1e-8
    assert noise_floor(x) == noise_floor(x, "subset") == 1e-10
    assert noise_floor(x, "iterative") == 1e-6  # whose float32 solves break down below


@pytest.mark.parametrize(
    "settings", [{"optimizer": None, "noise_variance": 0.1}, {}], ids=["given", "constant y"]
)
def test_no_warning_is_raised_about_columns_where_nothing_was_learnt(settings, recwarn):
    X, y = _data(20)
    X[:, 1] = 7.0
    model = _model(**settings).fit(X, y if settings else np.ones(20))
    assert [str(warning.message) for warning in recwarn] == []
    assert model.fit_result_.method in ("fixed", "constant target")


@pytest.mark.parametrize("optimizer", ["exact", "nearest-neighbour"])
def test_repeated_rows(optimizer):
    X, y = _data(60)
    again = np.repeat(X, 4, axis=0), np.repeat(y, 4) + np.tile([0.2, -0.2, 0.1, -0.1], len(y))
    model = _model(optimizer=optimizer).fit(*again)
    assert model.fit_result_.method == optimizer
    assert len(model.trace_) > 3
    mean, std = model.predict(X, return_std=True)
    assert np.isfinite(std).all()
    assert np.sqrt(np.mean((mean - y) ** 2)) < 0.35
    assert 0.005 < model.noise_variance_ < 0.2  # of the repeats alone it is 0.025


def test_copied_rows_do_not_take_the_noise_to_nothing():
    X, y = _data(60, noise=3.0)
    model = _model().fit(np.tile(X, (8, 1)), np.tile(y, 8))
    assert model.noise_variance_ == pytest.approx(1e-5 * y.var(), rel=0.1)


@pytest.mark.parametrize(("optimizer", "size"), [("exact", 1e6), ("nearest-neighbour", 1e3)])
def test_outliers_in_the_inputs(optimizer, size):
    X, y = _data(120)
    X[0, 0], X[1, 1], X[2] = size, -size, 3 * size
    Q, truth = _data(60, seed=1, noise=0.0)
    model = _model(optimizer=optimizer).fit(X, y)
    mean, std = model.predict(Q, return_std=True, include_noise=True)
    assert 1 - np.mean((mean - truth) ** 2) / truth.var() > 0.97
    assert np.mean(np.abs(mean - truth) < 2 * std) > 0.9
    assert np.isfinite(model.predict(X, return_std=True)).all()


@pytest.mark.parametrize("size", [30.0, 1e3, 1e6])
def test_outliers_in_the_target(size):
    """Gaussian noise takes a few wild targets for noise: predictions fall back to the mean.

    What is left is the error of a smooth function of some ten degrees of freedom, fitted to the noise of 200 rows.
    Small outliers leave more than half of the signal.
    """
    X, y = _data(200)
    y[:3] += np.array([size, -size, size])
    Q, truth = _data(60, seed=1, noise=0.0)
    mean, std = _model().fit(X, y).predict(Q, return_std=True)
    assert np.isfinite(std).all()
    signal = 0.5 * truth.var() if size == 30 else np.inf
    assert np.mean((mean - truth) ** 2) < min(signal, 10 / 200 * y.var() + (y.mean() - truth.mean()) ** 2)


def test_wildly_different_units():
    X, y = _data()
    Q, truth = _data(40, seed=1, noise=0.0)
    units, offsets = np.array([1e9, 1e-9]), np.array([1e10, -1e-8])
    model = _model().fit(units * X + offsets, 1e-7 * y - 5.0)
    mean = model.predict(units * Q + offsets)
    assert np.corrcoef(mean, truth)[0, 1] > 0.99


@pytest.mark.parametrize("n", [2, 3, 10])
def test_fewer_rows_than_columns(n):
    X, y = _data(n, d=30)
    Q, _ = _data(20, d=30, seed=1)
    mean, std = _model().fit(X, y).predict(Q, return_std=True, include_noise=True)
    assert (np.abs(mean - y.mean()) < 10 * y.std()).all()
    assert (std > 0).all()


def test_scales_ignore_a_few_outliers_only():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 4))
    X[:, 1] = 2.0
    X[0, 2] = 1e6
    X[:, 3] = np.arange(500) == 7  # nearly constant, but of one value otherwise: nothing to measure it by
    location, scale = location_and_scale(X, np.full(4, 5.0))
    assert location[[0, 1, 3]] == pytest.approx(X.mean(0)[[0, 1, 3]])
    assert scale[[0, 3]] == pytest.approx(X.std(0)[[0, 3]])
    assert scale[1] == 5.0
    assert location[2] == pytest.approx(np.median(X[:, 2]))
    assert scale[2] == pytest.approx(1.0, rel=0.1)


# tables of numbers, and rows of other types beside them


@pytest.mark.parametrize(
    ("cells", "error", "match"),
    [
        (["z", "0"] * 40, InputError, "'b' held numbers in training; row 0 holds 'z'"),
        (np.datetime64("2020-01-01") + np.arange(80), DtypeError, "'b' holds times: convert"),
        ([datetime.date(2020, 1, 1)] * 80, DtypeError, "'b' holds a date in row 0"),
    ],
    ids=["text", "times", "days"],
)
@pytest.mark.parametrize("kind", ["pandas", "pyarrow"])
def test_other_cells_than_the_numbers_of_training_are_named(kind, cells, error, match):
    library = pytest.importorskip(kind, reason=f"{kind} is not installed")
    made = library.DataFrame if kind == "pandas" else library.table
    X, y = _data()
    model = _model(optimizer=None, noise_variance=0.1).fit(made({"a": X[:, 0], "b": X[:, 1]}), y)
    if isinstance(cells[0], datetime.date) and kind == "pyarrow":
        match = "'b' holds times"
    with pytest.raises(error, match=match):
        model.predict(made({"a": X[:, 0], "b": cells}))


def test_missing_cells_beside_whole_numbers_without_are_filled_in():
    X, y = _data()
    whole = np.round(10 * X).astype(int)
    model = _model(missing="median", optimizer=None, noise_variance=0.1).fit(whole, y)
    row = np.array([[3.0, np.nan]])
    expected = model.predict(np.array([[3.0, np.median(whole[:, 1])]]))
    np.testing.assert_array_equal(model.predict(row), expected)
    counts = _model(kernel="tanimoto", missing="median", optimizer=None, noise_variance=0.1)
    with pytest.raises(InputError, match="bytes or truth values, which are not filled in"):
        counts.fit(whole.astype(np.uint8), y).predict(row)


def test_sparse_columns_of_a_frame_are_columns():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    X, y = _data()
    frame = pandas.DataFrame({"a": X[:, 0], "b": np.where(X[:, 1] > 1, X[:, 1], 0.0), "c": X[:, 1] > 1})
    thin = frame.copy()
    for name, fill in {"a": np.nan, "b": 0.0, "c": False}.items():
        thin[name] = pandas.arrays.SparseArray(frame[name].to_numpy(), fill_value=fill)
    settings = {"optimizer": None, "noise_variance": 0.1}
    for names in (["b"], ["a", "b"], ["a", "b", "c"]):
        dense = _model(**settings).fit(frame[names], y)
        np.testing.assert_array_equal(
            _model(**settings).fit(thin[names], y).predict(thin[names]), dense.predict(frame[names])
        )
    with pytest.raises(ValueError, match="2D"):
        _model().fit(sparse.coo_array(y), y)


def test_levels_that_a_file_cannot_hold_are_named(tmp_path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    X, y = _data()
    frame = pandas.DataFrame({"a": X[:, 0], "part": pandas.cut(X[:, 1], 3)})
    model = _model(optimizer=None, noise_variance=0.1).fit(frame, y)
    with pytest.raises(InputError, match=r"'part' has levels of type Interval.*make it text.*joblib\.dump"):
        model.save(tmp_path / "model")
