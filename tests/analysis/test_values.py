"""Functions that do not give one finite number a row, and values that differ by rounding alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sggp.analysis import CalibrationReport, permutation_importance, sobol_indices
from sggp.errors import DtypeError, InputError, ShapeError
from sggp.predictive import PredictiveDistribution

X = np.random.default_rng(0).uniform(-1, 1, size=(60, 2))
Y = X[:, 0] + X[:, 1] ** 2
WRONG: list[tuple[Callable[[np.ndarray], Any], type[Exception], str]] = [
    (lambda x: x[:, :1], ShapeError, "one number for each row"),
    (lambda x: x, ShapeError, "one number for each row"),
    (lambda x: 1.0, ShapeError, "one number for each row"),
    (lambda x: x[:3, 0], ShapeError, "one number for each row"),
    (lambda x: np.where(x[:, 0] > 0, np.nan, 1.0), InputError, "nan"),
    (lambda x: torch.as_tensor(x).requires_grad_()[:, 0], InputError, "numbers"),
    (lambda x: ["a"] * len(x), InputError, "numbers"),
]


@pytest.mark.parametrize(("predict", "error", "match"), WRONG)
def test_a_function_must_give_one_number_a_row(
    predict: Callable[[np.ndarray], Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        sobol_indices(predict, X, n=32)
    with pytest.raises(error, match=match):
        permutation_importance(predict, X, Y)


def test_a_column_of_values_at_shuffled_rows_is_not_spread_over_all_rows() -> None:
    """(m, 1) beside (m,) made m × m errors: importances of 2 for columns without influence."""

    def later(x: np.ndarray) -> np.ndarray:
        return x[:, 0] if np.array_equal(x, X) else x[:, :1]

    with pytest.raises(ShapeError, match="one number for each row"):
        permutation_importance(later, X, Y)


def test_rounding_is_no_spread() -> None:
    equal = np.full(20, 0.1)
    assert np.var(equal) > 0  # 1.9e-34
    with pytest.raises(InputError, match="spread"):
        permutation_importance(lambda x: x[:, 0], X[:20], equal)
    report = CalibrationReport.of(equal, PredictiveDistribution(np.zeros(20), np.ones(20)))
    assert np.isnan(report.r2)
    found = sobol_indices(lambda x: (x[:, 0] + 5) - x[:, 0], X, n=64)
    assert found.total.tolist() == found.first.tolist() == [0, 0]
    assert found.variance == 0


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_indices_have_no_unit(unit: float) -> None:
    expected = sobol_indices(lambda x: x[:, 0] + x[:, 1] ** 2, X, n=64)
    found = sobol_indices(lambda x: unit * (x[:, 0] + x[:, 1] ** 2), X, n=64)
    np.testing.assert_allclose(found.total, expected.total)
    np.testing.assert_allclose(found.first_error, expected.first_error)


def test_other_arguments_that_cannot_be_used() -> None:
    for seed in (None, "a", -1):
        with pytest.raises(InputError, match="seed"):
            sobol_indices(lambda x: x[:, 0], X, n=8, seed=seed)
    with pytest.raises(ShapeError, match="groups"):
        sobol_indices(lambda x: x[:, 0], X, n=8, groups=[0, 1])
    mixed = np.array([["a", 1.0], [2.0, 3.0]] * 5, dtype=object)
    with pytest.raises(InputError, match="no order"):
        sobol_indices(lambda x: np.ones(len(x)), mixed, n=8)
    with pytest.raises(DtypeError, match="PredictiveDistribution"):
        CalibrationReport.of(Y, Y)
    with pytest.raises(InputError, match="df"):
        PredictiveDistribution(Y, np.ones(60), df=np.full(60, 4.0))
