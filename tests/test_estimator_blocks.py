"""Predictions for tables larger than memory: a block of rows at a time, from files that are mapped."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import gpytorch
import numpy as np
import pytest
import torch

from sggp import GPRegressor
from sggp.estimator import tables
from tests.memory import peak_bytes


@pytest.fixture(scope="module")
def model() -> GPRegressor:
    X = np.random.default_rng(0).random((60, 2))
    targets = np.stack([np.sin(5 * X[:, 0]), X[:, 1]], axis=1)
    return GPRegressor("rbf", optimizer=None, noise_variance=0.01, num_samples=3, random_state=0).fit(
        X, targets
    )


@pytest.fixture
def rows(tmp_path: Path) -> np.ndarray:
    np.save(tmp_path / "q.npy", np.random.default_rng(1).random((50, 2), dtype=np.float32))
    return np.load(tmp_path / "q.npy", mmap_mode="r")


def test_blocks_change_no_prediction_and_are_all_that_is_copied(
    model: GPRegressor, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.linspace(0.1, 1.0, 50)
    whole = (
        *(model.predict(rows), *model.predict(rows, return_std=True, include_noise=True)),
        *(*model.predict_interval(rows, 0.8), model.predict_dist(rows, noise).std()),
    )
    seen: list[int] = []
    copied = GPRegressor._tensor

    def watched(self: GPRegressor, X: np.ndarray) -> torch.Tensor:
        seen.append(len(X))
        return copied(self, X)

    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 16)
    monkeypatch.setattr(GPRegressor, "_tensor", watched)
    parts = (
        *(model.predict(rows), *model.predict(rows, return_std=True, include_noise=True)),
        *(*model.predict_interval(rows, 0.8), model.predict_dist(rows, noise).std()),
    )
    assert seen == [16, 16, 16, 2] * 4
    for found, expected in zip(parts, whole, strict=True):
        assert found.shape == (50, 2)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    mean, cov = model.predict(rows, return_cov=True)
    assert cov.shape == (50, 50, 2)
    np.testing.assert_allclose(mean, whole[0], rtol=1e-10)


def test_memory_does_not_grow_with_the_rows(model: GPRegressor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 500)
    few, many = (np.random.default_rng(2).random((q, 2)) for q in (1000, 8000))
    peaks = [peak_bytes(lambda X=X: model.predict(X, return_std=True)) for X in (few, many)]  # type: ignore[misc]
    assert peaks[1] < 1.2 * peaks[0]


def test_a_missing_cell_is_named_by_its_row_in_the_table(
    model: GPRegressor, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 16)
    gaps = np.array(rows)
    gaps[41, 1] = np.nan
    with pytest.raises(ValueError, match=r"rows? 41"):
        model.predict(gaps)
    huge = np.full((40, 2), 1e308)  # whose sum is no number, and all of whose cells are
    assert np.isfinite(model.predict(huge)).all()


def test_a_fit_keeps_one_copy_of_the_rows() -> None:
    """Which the posterior of a kernel object sees as well; nobody can change it under the posterior's feet."""
    X = np.random.default_rng(0).random((1000, 300))
    model = GPRegressor(gpytorch.kernels.RBFKernel(), optimizer=None, noise_variance=0.1, num_samples=0)
    tracemalloc.start()  # of NumPy
    model.fit(X, X[:, 0])
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < 1.6 * X.nbytes
    assert np.shares_memory(model.X_train_, model.posterior_.x.numpy())
    assert not np.shares_memory(model.X_train_, X)
    with pytest.raises(ValueError, match="read-only"):
        model.X_train_[0, 0] = 1.0
    X[:] = 0.0
    assert model.predict(model.X_train_[:1]) == pytest.approx(model.X_train_[0, 0], abs=0.2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_table_that_is_mapped_from_a_file_is_fitted_as_it_is(dtype: type, tmp_path: Path) -> None:
    table = np.random.default_rng(3).random((40, 3)).astype(dtype)
    np.save(tmp_path / "t.npy", table)
    mapped = np.load(tmp_path / "t.npy", mmap_mode="r")
    means = []
    for rows in (table, mapped):
        model = GPRegressor("rbf", optimizer=None, noise_variance=0.01, num_samples=0)
        model.fit(rows[:, :-1], rows[:, -1])
        assert type(model.X_train_) is np.ndarray
        means.append(model.predict(rows[:5, :-1]))
    np.testing.assert_array_equal(*means)
