"""GPRegressor on tables of numbers, categories, truth values and missing cells."""

import json
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sggp.errors import DtypeError, InputError, UnidentifiedColumns
from sggp.estimator import GPRegressor
from sggp.estimator.columns import TableEncoder, too_many_levels
from sggp.hyperparameters.coordinates import Coordinates
from sggp.hyperparameters.defaults import named_kernel, noise_floor
from tests.oracles import distances, matern12, matern32, matern52

LEVELS = ("oak", "pine", "elm", "ash")
EFFECT = dict(zip(LEVELS, (0.0, 1.5, -1.5, 0.4), strict=True))


def _model(**settings):
    return GPRegressor(num_samples=4, num_features=64, random_state=0, **settings)


def _cells(n=90, seed=0, noise=0.1):
    """An object array of a number, a wood and whether it is wet, and a target that depends on all three."""
    rng = np.random.default_rng(seed)
    width, wood, wet = rng.uniform(0, 3, n), rng.choice(LEVELS, n), rng.random(n) < 0.3
    y = np.sin(2 * width) + np.array([EFFECT[w] for w in wood]) + 0.7 * wet + noise * rng.standard_normal(n)
    X = np.empty((n, 3), dtype=object)
    X[:, 0], X[:, 1], X[:, 2] = width, wood, wet
    return X, 4 + 3 * y


def _frame(X):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    return pandas.DataFrame(
        {
            "width": X[:, 0].astype(float),
            "wood": pandas.Categorical(X[:, 1]),
            "wet": X[:, 2].astype(bool),
        }
    )


def _by_hand(X):
    """The same as numbers, written out: width, ash, elm, oak, pine (in their order), wet."""
    codes = [(X[:, 1] == level).astype(float) for level in sorted(LEVELS)]
    return np.stack([X[:, 0].astype(float), *codes, X[:, 2].astype(float)], axis=1)


NO_COUNTS = {
    f"check_sample_weight_equivalence_on_{kind}_data": "weights divide the noise variance: they are no numbers of rows"
    for kind in ("dense", "sparse")
}


@parametrize_with_checks(
    [GPRegressor(num_samples=4, num_features=64, optimizer=None, noise_variance=0.1, missing="median")],
    expected_failed_checks=lambda estimator: NO_COUNTS,
)
def test_scikit_learn_checks_raise_nothing_where_missing_cells_are_filled_in(estimator, check):
    assert check(estimator) is None


def _dense_mean(model, Z, X, y):
    """The posterior mean from what the model learnt, by formulae: Rasmussen & Williams 2006, equation 2.25."""
    values = model.hyperparameters_
    shrink = np.array([np.std(X[:, 0]), 1, 1, 1, 1, np.sqrt(0.5)]) * values["base_kernel.lengthscale"]
    matern = {0.5: matern12, 1.5: matern32, 2.5: matern52}[model.kernel_.base_kernel.nu]

    def k(A, B):
        return values["outputscale"] * matern(distances(A, B, shrink))

    def with_constant(A, B):
        return k(A, B) + 4.0 * values["outputscale"]

    offset, scale = np.mean(y), np.std(y)
    noise = values["noise_variance"] * np.eye(len(y))
    factor = cho_factor(with_constant(X, X) + noise)
    weights = cho_solve(factor, (y - offset) / scale - values["mean"])
    return (with_constant(Z, X) @ weights + values["mean"]) * scale + offset


def test_a_table_is_the_codes_written_by_hand():
    X, y = _cells()
    Z, _ = _cells(20, seed=1)
    model = _model().fit(X, y)
    np.testing.assert_array_equal(model.X_train_, _by_hand(X))
    np.testing.assert_allclose(model.predict(Z), _dense_mean(model, _by_hand(Z), _by_hand(X), y), rtol=1e-6)
    assert model.n_features_in_ == 3
    assert model.columns_.names == [0, "1=ash", "1=elm", "1=oak", "1=pine", "2=True"]


def _log_density(logs, codes, y, nu, floor):
    """Log likelihood with the best mean, plus log priors: length scales of width, wood and wet, scale, noise."""
    width, wood, wet, outputscale, noise = np.exp(logs)
    matern = {1.5: matern32, 2.5: matern52}[nu]
    shrink = np.array([np.std(codes[:, 0]) * width, wood, wood, wood, wood, np.sqrt(0.5) * wet])
    covariance = outputscale * matern(distances(codes, codes, shrink)) + (floor + noise) * np.eye(len(y))
    factor, ones = cho_factor(covariance.astype(float)), np.ones(len(y))
    mean = ones @ cho_solve(factor, y) / (ones @ cho_solve(factor, ones))
    value = stats.multivariate_normal(np.full(len(y), mean), covariance.astype(float)).logpdf(y)
    scales = stats.lognorm(1.0, scale=0.6 * np.sqrt(3) * np.e)  # of three columns, their mode at .6 sqrt(3)
    value += scales.logpdf([width, wood, wet]).sum()
    value += stats.lognorm(1.0, scale=2.0 * np.e).logpdf(outputscale)
    return value + stats.lognorm(2.0, scale=2.5e-3 * np.exp(4)).logpdf(floor + noise)


def test_the_levels_of_a_category_share_one_length_scale():
    """Learnt values are where the density of one length scale per column of the table is highest."""
    X, y = _cells()
    model = _model().fit(X, y)
    values, floor = model.hyperparameters_, noise_floor(torch.as_tensor(_by_hand(X)))
    scales = np.array(values["base_kernel.lengthscale"])
    np.testing.assert_allclose(scales[1:5], scales[1], rtol=1e-12)
    at = np.log([*scales[[0, 1, 5]], values["outputscale"], values["noise_variance"] - floor])
    nu, targets = model.kernel_.base_kernel.nu, (y - y.mean()) / y.std()

    def slope(step):
        ahead, behind = (_log_density(at + s * step, _by_hand(X), targets, nu, floor) for s in (1, -1))
        return (ahead - behind) / (2 * np.abs(step).max())

    assert np.abs([slope(step) for step in 1e-4 * np.eye(5)]).max() < 0.02  # nats, of 90 rows


def test_a_frame_is_the_same_table():
    X, y = _cells()
    Z, _ = _cells(20, seed=1)
    frame = _frame(X)
    model = _model().fit(frame, y)
    assert list(model.feature_names_in_) == ["width", "wood", "wet"]
    assert model.columns_.names[1:3] == ["wood=ash", "wood=elm"]
    np.testing.assert_array_equal(model.predict(_frame(Z)), _model().fit(X, y).predict(Z))
    text = frame.assign(wood=frame["wood"].astype(str), wet=frame["wet"].astype("boolean"))
    np.testing.assert_array_equal(_model().fit(text, y).predict(_frame(Z)), model.predict(_frame(Z)))
    with pytest.raises(ValueError, match="same order"):
        model.predict(frame[["wood", "width", "wet"]])
    with pytest.raises(ValueError, match=r"2 features|feature names"):
        model.predict(frame[["width", "wood"]])


def test_rows_of_a_list_are_read_as_they_are():
    X, y = _cells()
    np.testing.assert_array_equal(
        _model().fit(X.tolist(), y).predict(X.tolist()), _model().fit(X, y).predict(X)
    )


def test_a_category_that_matters():
    X, y = _cells()
    Z, truth = _cells(200, seed=1, noise=0.0)

    def error(columns):
        model = _model().fit(X[:, columns], y)
        return np.sqrt(np.mean((model.predict(Z[:, columns]) - truth) ** 2))

    assert error([0, 1, 2]) < 0.2 * error([0, 2])


def test_levels_are_equally_far_apart_however_rare():
    X, y = _cells()
    X[:, 1] = np.where(np.arange(len(X)) == 0, "elm", np.where(X[:, 1] == "pine", "pine", "oak"))
    model = _model().fit(X, y)
    Z = np.array([[1.0, level, False] for level in ("elm", "oak", "pine")], dtype=object)
    inputs = model._inputs(model.columns_.transform(Z)).numpy()
    np.testing.assert_allclose(cdist(inputs, inputs, "sqeuclidean"), 2 * (1 - np.eye(3)), atol=1e-12)
    wet = model._inputs(
        model.columns_.transform(np.array([[1.0, "elm", w] for w in (True, False)], dtype=object))
    )
    assert float((wet[0] - wet[1]).square().sum()) == pytest.approx(2)


def test_unknown_levels_are_named():
    X, y = _cells()
    model = _model().fit(X, y)
    Z = X[:6].copy()
    Z[4, 1] = "yew"
    with pytest.raises(
        InputError, match=r"column 1 holds levels .* 'yew' \(row 4\)\. Known are 'ash', 'elm'"
    ):
        model.predict(Z)
    Z[4, 1] = None
    with pytest.raises(InputError, match=r"column 1 \(row 4\)"):
        model.sample_y(Z)
    Z[4] = "3.1", "oak", True
    with pytest.raises(InputError, match=r"column 0 held numbers in training; row 4 holds '3.1'"):
        model.predict(Z)


@pytest.mark.parametrize(
    ("column", "error", "match"),
    [
        ([f"id{i}" for i in range(90)], InputError, r"column 1 holds 90 different .*ids.* Drop it"),
        ([f"id{i % 50}" for i in range(90)], InputError, r"50 different .*fewer than two rows"),
        ([1.5, "high"] * 45, InputError, r"mixes text \('high' in row 1\) with numbers \(1.5 in row 0\)"),
        ([None] * 90, InputError, "NaN"),
        ([{"a": 1}] * 90, DtypeError, "holds a dict in row 0"),
        (np.arange(90).astype("datetime64[D]").tolist(), DtypeError, "date"),
    ],
)
def test_columns_that_are_no_category(column, error, match):
    X, y = _cells()
    X[:, 1] = column
    with pytest.raises(error, match=match):
        _model().fit(X, y)


def test_how_many_levels_are_too_many():
    assert too_many_levels(2, 2) is None
    assert too_many_levels(3, 3) is not None
    assert too_many_levels(10, 11) is None
    assert too_many_levels(11, 21) is not None
    assert too_many_levels(11, 22) is None
    assert too_many_levels(100, 10000) is None
    assert too_many_levels(101, 10000) is not None


def test_times_are_to_be_converted():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    X, y = _cells()
    frame = _frame(X).assign(day=pandas.date_range("2020-01-01", periods=len(X)))
    with pytest.raises(DtypeError, match=r"'day' holds times: convert"):
        _model().fit(frame, y)
    frame["day"] = (frame["day"] - frame["day"].min()) / pandas.Timedelta("1D")
    assert _model().fit(frame, y).score(frame, y) > 0.9


def test_missing_cells_are_refused_by_row_and_column():
    X, y = _cells()
    X[[3, 17], 0], X[20, 1] = np.nan, None
    with pytest.raises(
        InputError, match=r'3 in all, in column 0 \(rows 3, 17\), 1 \(row 20\).*missing="median"'
    ):
        _model().fit(X, y)
    frame = _frame(X)
    with pytest.raises(InputError, match=r"column 'width' \(rows 3, 17\), 'wood' \(row 20\)"):
        _model().fit(frame, y)
    numbers = frame[["width"]].assign(depth=1.0 + np.arange(len(y)))
    with pytest.raises(InputError, match=r"NaN.*'width' \(rows 3, 17\)"):
        _model().fit(numbers, y)
    with pytest.raises(InputError, match="'refuse', 'median'"):
        _model(missing="mean").fit(X, y)


def test_missing_cells_are_filled_in():
    X, y = _cells()
    known = np.delete(X[:, 0], [3, 17]).astype(float)
    X[[3, 17], 0], X[20:30, 1] = np.nan, None
    model = _model(missing="median").fit(X, y)
    gone = np.isin(np.arange(90), [3, 17]).astype(float)
    expected = _by_hand(X)
    expected[[3, 17], 0] = np.median(known)
    wood = np.column_stack([expected[:, 1:5], np.isin(np.arange(90), range(20, 30))])
    np.testing.assert_array_equal(
        model.X_train_, np.column_stack([expected[:, 0], gone, wood, expected[:, 5]])
    )
    assert model.columns_.names[1:7] == ["0=missing", "1=ash", "1=elm", "1=oak", "1=pine", "1=missing"]
    Z = X[:5].copy()
    Z[:, 2] = None  # of which none was missing in training: the most frequent one
    np.testing.assert_array_equal(model.columns_.transform(Z)[:, -1], 0.0)


def test_columns_that_miss_the_same_rows_share_an_indicator():
    X, y = _cells()
    table = np.stack([X[:, 0].astype(float), np.arange(90.0), np.cos(np.arange(90.0))], axis=1)
    table[5:12, :2] = np.nan
    model = _model(missing="median").fit(table, y)  # without a warning that one is a copy
    assert model.columns_.names == [0, "0=missing", 1, 2]
    assert np.isfinite(model.predict(table)).all()


def test_whole_numbers_with_missing_cells_are_filled_in():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    X, y = _cells()
    frame = pandas.DataFrame({"count": pandas.array([1, 2, 4, None, 4, 4] * 15, dtype="Int64")})
    with pytest.raises(InputError, match=r"'count' \(rows 3, 9, 15, 21, 27, ... \(15 in all\)\)"):
        _model().fit(frame, y)
    model = _model(missing="median").fit(frame, y)
    np.testing.assert_array_equal(model.X_train_[:6], [[1, 0], [2, 0], [4, 0], [4, 1], [4, 0], [4, 0]])


def test_filling_in_numbers_that_are_all_there_changes_nothing():
    X, y = _cells()
    numbers = X[:, [0]].astype(float)
    np.testing.assert_array_equal(
        _model(missing="median").fit(numbers, y).predict(numbers), _model().fit(numbers, y).predict(numbers)
    )


def test_warnings_and_attributes_name_the_columns_of_the_table():
    X, y = _cells()
    frame = _frame(X).assign(tree=X[:, 1], hall="A")
    with pytest.warns(UnidentifiedColumns, match=r"tree=ash \(copy of wood=ash\).*hall=A \(constant\)"):
        model = _model().fit(frame, y)
    assert model.hyperparameters_["unidentified"]["tree=pine"] == "copy of wood=pine"
    assert model.hyperparameters_["unidentified"]["hall=A"] == "constant"


def test_hosts_of_scikit_learn():
    X, y = _cells()
    frame = _frame(X)
    assert cross_val_score(_model(), frame, y, cv=3).min() > 0.9
    assert cross_val_score(make_pipeline("passthrough", _model()), frame, y, cv=3).min() > 0.9
    scaled = make_column_transformer((StandardScaler(), ["width"]), remainder="passthrough")
    scaled.set_output(transform="pandas")
    host = make_pipeline(scaled, _model())
    assert cross_val_score(host, frame, y, cv=3).min() > 0.9
    model = clone(_model(missing="median"))
    assert model.missing == "median"
    again = pickle.loads(pickle.dumps(model.fit(frame, y)))
    np.testing.assert_array_equal(again.predict(frame), model.predict(frame))


def test_an_encoder_goes_through_json():
    X, _ = _cells()
    X[4, 1] = None
    encoder = TableEncoder("median")
    codes = encoder.fit_transform(X)
    again = TableEncoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
    np.testing.assert_array_equal(again.transform(X), codes)
    assert again.columns == encoder.columns


def test_tied_length_scales_move_together():
    kernel = named_kernel("matern52", 4, blocks=((1, 3),))
    coordinates = Coordinates(kernel)
    u = coordinates.vector() + torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4]).double()

    def value(u):
        coordinates.assign(u)
        return (kernel.base_kernel.lengthscale.reshape(-1) * torch.tensor([1.0, 2.0, 3.0, 5.0])).sum()

    value(u).backward()
    scales = kernel.base_kernel.lengthscale.detach().reshape(-1)
    assert scales[1] == scales[3] != scales[2]
    slopes = [
        (value(u + step) - value(u - step)).detach() / 2e-5
        for step in 1e-5 * torch.eye(5, dtype=torch.float64)
    ]
    value(u).backward()
    np.testing.assert_allclose(coordinates.gradient(u), slopes, rtol=1e-8)


def test_arrow_tables_are_tables_of_named_columns() -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra files is not installed")
    rng = np.random.default_rng(0)
    x, sort = rng.random(40), np.array(["a", "b", "c", "a"] * 10)
    table = pyarrow.table({"x": x, "sort": sort, "code": pyarrow.array([1, 2] * 20).dictionary_encode()})
    model = GPRegressor(random_state=0).fit(table, pyarrow.array(x + (sort == "b")))
    assert model.feature_names_in_.tolist() == ["x", "sort", "code"]
    assert model.columns_.names == ["x", "sort=a", "sort=b", "sort=c", "code=2"]
    mean = model.predict(table)
    np.testing.assert_allclose(mean[:3], x[:3] + np.array([0.0, 1.0, 0.0]), atol=0.2)
    numbers = GPRegressor(random_state=0).fit(table.select(["x"]), x)
    assert numbers.columns_ is None
    np.testing.assert_allclose(numbers.predict(pyarrow.table({"x": x})), x, atol=0.01)


@pytest.mark.parametrize("kind", ["numbers", "whole names", "categories", "arrow"])
def test_two_columns_of_one_name_are_refused(kind):
    """scikit-learn's own refusal was an error of a library that users never heard of."""
    X, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20.0)
    if kind == "arrow":
        arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        table = arrow.Table.from_arrays([arrow.array(column) for column in X.T], names=["a", "b", "a"])
    else:
        pandas = pytest.importorskip("pandas", reason="pandas is not installed")
        table = pandas.DataFrame(X, columns=[1, 2, 1] if kind == "whole names" else ["a", "b", "a"])
    if kind == "categories":
        table.insert(1, "c", ["u", "v"] * 10)
    fitted = GPRegressor(optimizer=None, noise_variance=0.1, num_samples=0).fit(X, y)
    for wrong in (
        lambda: GPRegressor().fit(table, y),
        lambda: GPRegressor().predict(table),
        lambda: fitted.predict(table),
    ):
        with pytest.raises(InputError, match="2 columns of X are named"):
            wrong()
