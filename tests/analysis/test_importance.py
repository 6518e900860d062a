"""Importance of columns: permutation against Gaussian processes refitted without each row, and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from sggp.analysis import FeatureImportance, LeaveOneOut, permutation_importance, prior_importance
from sggp.analysis.columns import grouped, named_columns
from sggp.analysis.importance import covariance_slope, function_slope
from sggp.errors import InputError, ShapeError


class Dense:
    """A textbook Gaussian process of zero mean with an RBF kernel and given length scales."""

    def __init__(self, X: np.ndarray, y: np.ndarray, scales: np.ndarray, noise: float = 0.05) -> None:
        self.X, self.scales = X, scales
        self.H = self.kernel(X, X) + noise * np.eye(len(X))
        self.weights = np.linalg.solve(self.H, y)

    def kernel(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        difference = (a[:, None] - b[None]) / self.scales
        return np.exp(-0.5 * (difference**2).sum(axis=-1))

    def mean(self, q: np.ndarray) -> np.ndarray:
        return self.kernel(q, self.X) @ self.weights

    def covariance(self, q: np.ndarray) -> np.ndarray:
        cross = self.kernel(q, self.X)
        return self.kernel(q, q) - cross @ np.linalg.solve(self.H, cross.T)

    def functions(self, q: np.ndarray, draws: int = 4000) -> np.ndarray:
        rng = np.random.default_rng(5)
        values, vectors = np.linalg.eigh(self.covariance(q))
        return vectors @ (np.sqrt(np.maximum(values, 0))[:, None] * rng.normal(size=(len(q), draws)))


@pytest.fixture
def table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, values and length scales: a strong column, a weak one, and one that neither y nor the kernel knows."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(40, 3))
    y = np.sin(3 * X[:, 0]) + 0.3 * X[:, 1] + 0.1 * rng.normal(size=40)
    return X, y, np.array([0.5, 2.0, 1e9])


def without_each(table: tuple[np.ndarray, np.ndarray, np.ndarray], at: np.ndarray) -> np.ndarray:
    """Means at rows `at`, the i-th by a process without row i."""
    X, y, scales = table
    rest = [np.delete(np.arange(len(y)), i) for i in range(len(y))]
    return np.array([Dense(X[r], y[r], scales).mean(at[i : i + 1])[0] for i, r in enumerate(rest)])


def test_shuffled_rows_are_predicted_without_themselves(table):
    X, y, scales = table
    model = Dense(X, y, scales)
    left_out = without_each(table, X)
    seen = []

    def predict(q: np.ndarray) -> np.ndarray:
        seen.append(q)
        return model.mean(q)

    found, spread = permutation_importance(
        predict,
        X,
        y,
        left_out=LeaveOneOut(left_out, covariance_slope(model.covariance, X, block=16)),
        repeats=3,
    )
    error = np.mean((y - left_out) ** 2)
    growth = [np.mean((y - without_each(table, moved)) ** 2) - error for moved in seen[1:]]
    expected = np.reshape(growth, (3, 3)) / y.var()
    np.testing.assert_allclose(found, expected.mean(axis=1), atol=1e-9)
    np.testing.assert_allclose(spread, expected.std(axis=1, ddof=1) / np.sqrt(3), atol=1e-9)
    assert abs(found[2]) < 1e-9  # the shuffle changes no covariance: no row profits from knowing itself
    assert found[0] > 1 > found[1] > 0


def test_slopes_from_functions_are_those_from_covariances():
    rng = np.random.default_rng(1)
    X = rng.uniform(-1, 1, size=(30, 2))
    model = Dense(X, X[:, 0], np.array([0.7, 1.0]))
    moved = X[rng.permutation(30)]

    def functions(q: np.ndarray) -> np.ndarray:  # the same draws wherever they are asked for
        both = model.mean(np.concatenate([moved, X]))[:, None] + model.functions(np.concatenate([moved, X]))
        return both[:30] if np.array_equal(q, moved) else both[30:]

    exact = covariance_slope(model.covariance, X)(moved)
    variance = np.diagonal(model.covariance(np.concatenate([moved, X])))
    error = np.sqrt(variance[:30] / variance[30:] / 4000)
    assert (np.abs(function_slope(functions, X)(moved) - exact) < 4.5 * error).all()


def test_held_out_rows_of_a_linear_function():
    """Shuffling column j of independent rows adds 2 aⱼ² Var(xⱼ) to the squared error of the true function."""
    rng = np.random.default_rng(2)
    X = rng.normal(size=(4000, 3))
    weights = np.array([2.0, 1.0, 0.0])
    found, spread = permutation_importance(lambda q: q @ weights, X, X @ weights, repeats=10)
    expected = 2 * weights**2 * X.var(axis=0) / (X @ weights).var()
    assert (np.abs(found - expected) <= 4 * spread + 1e-12).all()
    assert found[2] == 0


def test_importance_of_length_scales_has_a_closed_form():
    """For z = x − x' normal of variance 2: E exp(−z²/2ℓ²) = (1 + 2/ℓ²)^−½."""
    X = np.random.default_rng(3).normal(size=(3000, 3))
    scales = np.array([1.0, 4.0, 1e9])
    found = prior_importance(Dense(X[:2], X[:2, 0], scales).kernel, X, rows=1500)
    change = 1 - (1 + 2 / scales**2) ** -0.5
    np.testing.assert_allclose(found, change / change.sum(), atol=0.02)
    assert found.sum() == pytest.approx(1)
    np.testing.assert_array_equal(prior_importance(lambda a, b: np.ones((len(a), len(b))), X), np.zeros(3))


def test_columns_of_a_group_move_together():
    """The codes of a category: one row's codes are another's, so that a function of valid codes stays one."""
    rng = np.random.default_rng(4)
    X = np.column_stack([np.eye(3)[rng.integers(0, 3, 3000)], rng.normal(size=3000)])
    value = np.array([0.0, 2.0, 5.0])
    y = X[:, :3] @ value + X[:, 3]

    def predict(q: np.ndarray) -> np.ndarray:
        assert (q[:, :3].sum(axis=1) == 1).all()
        return q[:, :3] @ value + q[:, 3]

    found, spread = permutation_importance(predict, X, y, groups=[(0, 1, 2), (3,)])
    expected = 2 * np.array([np.var(X[:, :3] @ value), X[:, 3].var()]) / y.var()
    assert (np.abs(found - expected) < 4.5 * spread).all()

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        assert (b[:, :3].sum(axis=1) == 1).all()
        return 1.0 * (a[:, :3] @ b[:, :3].T > 0.5)

    assert prior_importance(kernel, X, groups=[(0, 1, 2), (3,)]).tolist() == [1, 0]


def test_the_result_is_sorted_printed_and_drawn():
    result = FeatureImportance(
        ("a", "long name", "c"),
        np.array([0.1, 1.5, 0.0]),
        np.array([0.01, 0.1, 0.0]),
        np.array([0.3, 0.6, 0.1]),
    )
    assert result.order.tolist() == [1, 0, 2]
    assert list(result.to_dict()) == ["long name", "a", "c"]
    assert result.to_dict()["a"] == {"permutation": 0.1, "permutation_error": 0.01, "prior": 0.3}
    lines = str(result).splitlines()
    assert [line.split()[0] for line in lines] == ["column", "long", "a", "c"]
    assert "1.500 ± 0.100" in lines[1]
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    axes = result.plot()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["long name", "a", "c"]
    assert [bar.get_width() for bar in axes.patches] == [1.5, 0.1, 0.0, 0.6, 0.3, 0.1]


def test_refused(table):
    X, y, _ = table
    with pytest.raises(InputError, match="spread"):
        permutation_importance(lambda q: q[:, 0], X, np.ones(40))
    with pytest.raises(InputError, match="repeats"):
        permutation_importance(lambda q: q[:, 0], X, y, repeats=1)
    with pytest.raises(ShapeError, match="rows"):
        permutation_importance(lambda q: q[:, 0], X, y[:-1])
    with pytest.raises(ShapeError, match="one number for each row"):
        permutation_importance(lambda q: q, X, y)
    with pytest.raises(ShapeError, match="names"):
        named_columns(["a"], 2)
    assert named_columns(None, 2) == ("x0", "x1")
    for groups in ([[0], []], [[0], [0, 1]], [[0, 3]]):
        with pytest.raises(ShapeError, match="groups"):
            grouped(groups, 3)
