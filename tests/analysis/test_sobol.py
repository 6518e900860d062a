"""Sobol indices: closed forms, scipy's estimators on the same evaluations, and independence as it is said."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sggp.analysis import sobol_indices
from sggp.errors import InputError, ShapeError

GRID = np.tile(np.linspace(-np.pi, np.pi, 20001)[:, None], (1, 3))  # each column uniform, all three the same


def ishigami(x: np.ndarray) -> np.ndarray:
    return np.sin(x[:, 0]) + 7 * np.sin(x[:, 1]) ** 2 + 0.1 * x[:, 2] ** 4 * np.sin(x[:, 0])


def test_the_ishigami_function():
    """Ishigami & Homma 1990, a = 7, b = 0.1; columns that are copies in the table count as independent."""
    a, b = 7.0, 0.1
    variance = a**2 / 8 + b * np.pi**4 / 5 + b**2 * np.pi**8 / 18 + 0.5
    alone = np.array([0.5 * (1 + b * np.pi**4 / 5) ** 2, a**2 / 8, 0]) / variance
    both = b**2 * np.pi**8 * (1 / 18 - 1 / 50) / variance
    result = sobol_indices(ishigami, GRID, n=2048)
    assert (np.abs(result.first - alone) < 4 * result.first_error).all()
    assert (np.abs(result.total - alone - [both, 0, both]) < 4 * result.total_error).all()
    assert result.variance == pytest.approx(variance, rel=0.03)
    assert result.evaluations == 5 * 2048
    assert max(result.first_error.max(), result.total_error.max()) < 0.05


def test_a_linear_function_of_columns_of_any_distribution():
    rng = np.random.default_rng(0)
    X = np.column_stack(
        [rng.normal(size=700), rng.exponential(size=700), rng.integers(0, 2, 700), np.ones(700)]
    )
    weights = np.array([1.0, -2.0, 3.0, 5.0])
    result = sobol_indices(lambda x: 1e6 + x @ weights, X, n=1024)
    share = weights**2 * X.var(axis=0) / (weights**2 * X.var(axis=0)).sum()
    for found, error in ((result.first, result.first_error), (result.total, result.total_error)):
        assert (np.abs(found - share) <= 4 * error + 1e-12).all()
    assert result.total[3] == 0
    assert result.order.tolist() == np.argsort(-share, kind="stable").tolist()


def test_columns_of_a_group_are_drawn_from_one_row():
    """Two columns that are copies make more together than drawn apart, where they count as independent."""
    x = np.random.default_rng(1).normal(size=500)
    X = np.column_stack([x, x, np.random.default_rng(2).normal(size=500)])
    weights = np.array([1.0, 1.0, 1.0])
    result = sobol_indices(lambda q: q @ weights, X, groups=[[0, 1], [2]], names=["pair", "c"])
    share = 4 * x.var() / (4 * x.var() + X[:, 2].var())
    assert np.abs(result.total - [share, 1 - share]).max() < 4 * result.total_error.max()
    assert result.evaluations == 4 * 1024
    apart = sobol_indices(lambda q: q @ weights, X)
    assert np.abs(apart.total[:2] - apart.total[0]).max() < 4 * apart.total_error[0]
    assert apart.total[0] < 0.5 < result.total[0]


def test_the_estimators_are_those_of_scipy():
    calls: list[np.ndarray] = []

    def recorded(x: np.ndarray) -> np.ndarray:
        calls.append(ishigami(x))
        return calls[-1]

    result = sobol_indices(recorded, GRID, n=256, seed=4)
    f_a, f_b, *mixed = (values[None] for values in calls)
    expected = stats.sobol_indices(func={"f_A": f_a, "f_B": f_b, "f_AB": np.stack(mixed)}, n=256)
    np.testing.assert_allclose(result.first, expected.first_order)
    np.testing.assert_allclose(result.total, expected.total_order)


def test_standard_errors_are_not_below_the_spread_over_seeds():
    results = [sobol_indices(ishigami, GRID, n=256, seed=seed) for seed in range(30)]
    for name in ("first", "total"):
        spread = np.std([getattr(result, name) for result in results], axis=0)
        said = np.mean([getattr(result, f"{name}_error") for result in results], axis=0)
        assert (spread < 1.4 * said).all()  # a spread of 30 seeds is itself known to 13 %


def test_a_constant_function_has_no_indices():
    result = sobol_indices(lambda x: np.full(len(x), 0.1), GRID, n=64, names=["a", "b", "c"])
    assert result.first.tolist() == result.total.tolist() == [0, 0, 0]
    assert result.first_error.tolist() == [0, 0, 0]
    assert list(result.to_dict()) == ["a", "b", "c"]
    assert "0.000 ± 0.000" in str(result)


def test_the_result_is_drawn():
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    axes = sobol_indices(ishigami, GRID, n=64, names=["a", "b", "c"]).plot()
    assert sorted(label.get_text() for label in axes.get_yticklabels()) == ["a", "b", "c"]
    assert len(axes.patches) == 6


def test_refused():
    with pytest.raises(InputError, match="power of two"):
        sobol_indices(ishigami, GRID, n=1000)
    with pytest.raises(ShapeError, match="columns"):
        sobol_indices(ishigami, np.zeros((4, 0)))
    with pytest.raises(ShapeError, match="names"):
        sobol_indices(ishigami, GRID, n=8, names=["a"])
