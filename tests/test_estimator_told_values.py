"""Values that a table does not hold as plain numbers: what is told of them is what was measured, or a clear error."""

from __future__ import annotations

import decimal

import numpy as np
import pytest

from sggp import GPRegressor, select_kernel
from sggp.errors import DtypeError, InputError

pd = pytest.importorskip("pandas", reason="pandas is not installed")
pa = pytest.importorskip("pyarrow", reason="the extra files is not installed")

rng = np.random.default_rng(0)
X = rng.uniform(-2, 2, (20, 2))
Y = np.sin(X[:, 0]) + X[:, 1] + 0.1 * rng.standard_normal(20)


@pytest.fixture(scope="module")
def model():
    return fitted()


def fitted(x=X, y=Y, **settings):
    return GPRegressor(random_state=0, num_samples=4, num_features=64, **settings).fit(x, y)


@pytest.mark.parametrize(
    "y",
    [
        np.datetime64("2024-01-01") + np.arange(20),
        np.arange(20).astype("timedelta64[h]"),
        pd.Series(pd.date_range("2024-01-01", periods=20)),
        pd.Series(pd.date_range("2024-01-01", periods=20, tz="UTC")),
        pd.Series(pd.date_range("2024-01-01", periods=20)).where(np.arange(20) != 3),
    ],
    ids=["datetime64", "timedelta64", "series", "zone", "NaT"],
)
def test_times_are_no_targets(y, model):
    with pytest.raises(DtypeError, match="y holds"):
        fitted(y=y)
    with pytest.raises(DtypeError, match="y holds"):
        model.partial_fit(X, y)


@pytest.mark.parametrize("kind", ["datetime64[s]", "timedelta64[s]"])
def test_times_are_no_inputs_whatever_holds_them(kind, model):
    times = (1e6 * X).astype("int64").astype(kind)
    for x in (times, pd.DataFrame(times)):
        with pytest.raises(DtypeError, match="times"):
            fitted(x)
        with pytest.raises(DtypeError, match="times"):
            model.predict(x)


@pytest.mark.parametrize(
    "gap", [None, np.nan, pd.NA, decimal.Decimal("nan")], ids=["None", "nan", "NA", "Decimal"]
)
def test_a_missing_target_is_refused_whatever_says_so(gap, model):
    y = Y.astype(object)
    y[3] = gap
    with pytest.raises(ValueError, match="NaN"):
        fitted(y=y)
    with pytest.raises(ValueError, match="NaN"):
        fitted(y=pd.Series(y))
    with pytest.raises(ValueError, match="NaN"):
        model.partial_fit(X, y)


def test_a_null_of_arrow_is_missing():
    with pytest.raises(ValueError, match="NaN"):
        fitted(y=pa.chunked_array([pa.array([None, *Y[1:]])]))


def test_what_lies_under_a_mask_is_no_value():
    wild = np.where(np.arange(20) == 3, 1e6, Y)
    with pytest.raises(ValueError, match="NaN"):
        fitted(y=np.ma.masked_greater(wild, 1e5))
    cells = X.copy()
    cells[5, 1] = 1e6
    with pytest.raises(InputError, match=r"column 1 \(row 5\)"):
        fitted(np.ma.masked_greater(cells, 1e5))
    filled = fitted(np.ma.masked_greater(cells, 1e5), missing="median")
    assert np.abs(filled.X_train_).max() < 10
    np.testing.assert_array_equal(fitted(np.ma.masked_greater(X, 1e5)).X_train_, X)


def test_a_mask_is_refused_where_arrays_are_numbers():
    with pytest.raises(DtypeError, match="y must be"):
        select_kernel(np.tile(X, (2, 1)), np.ma.masked_greater(np.tile(Y, 2), 1.0))


def test_text_is_a_target_where_it_is_a_number(model):
    np.testing.assert_array_equal(fitted(y=Y.astype(str)).y_train_, Y)
    np.testing.assert_array_equal(fitted(y=[decimal.Decimal(repr(float(v))) for v in Y]).y_train_, Y)
    for y in ([*Y.astype(str)[:-1], "1,5"], np.array([*Y[:-1], "n. d."], dtype=object)):
        with pytest.raises(InputError, match="row 19, which is no number"):
            fitted(y=y)
        with pytest.raises(InputError, match="row 19, which is no number"):
            model.partial_fit(X, y)


def test_further_rows_are_kept_as_they_were_measured():
    """Of whole numbers first: what comes later is not cut down to them."""
    model = fitted((10 * X).astype(int), (10 * Y).astype(int))
    model.partial_fit(10 * X, 10 * Y)
    np.testing.assert_array_equal(model.X_train_[20:], 10 * X)
    np.testing.assert_array_equal(model.y_train_[20:], 10 * Y)
    np.testing.assert_array_equal(model.loo_predict().y[20:], 10 * Y)
    counts = GPRegressor("tanimoto", num_samples=0).fit(np.eye(20, dtype=np.uint8), Y)
    assert counts.partial_fit(np.eye(20, dtype=np.uint8), Y).X_train_.dtype == np.uint8


@pytest.mark.parametrize("names", [[0, 1], [("a", 1), ("a", 2)], [2020, 2021]])
def test_columns_are_told_apart_by_names_that_are_no_text(names):
    frame = pd.DataFrame(X)
    frame.columns = names if isinstance(names[0], int) else pd.MultiIndex.from_tuples(names)
    model = fitted(frame)
    np.testing.assert_allclose(model.predict(frame), model.predict(X), rtol=1e-9)
    with pytest.raises(InputError, match="Bring them into that order"):
        model.predict(frame.iloc[:, ::-1])
    with pytest.raises(InputError, match="Bring them into that order"):
        model.partial_fit(frame.iloc[:, ::-1], Y)
