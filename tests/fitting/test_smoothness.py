"""Rough or smooth: what rows left out choose where the likelihood is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sggp import GPRegressor
from sggp.hyperparameters import named_kernel
from sggp.kernels import as_covariance


def drawn(parts, n=260, seed=0):
    """Measurements of a function that is a sum of processes: (name, length scale, amplitude) each."""
    g = torch.Generator().manual_seed(seed)
    x = 4 * torch.rand(n, 1, generator=g, dtype=torch.float64)
    matrix = 1e-4 * torch.eye(n, dtype=torch.float64)
    for name, size, amplitude in parts:
        kernel = named_kernel(name, 1)
        kernel.base_kernel.lengthscale, kernel.outputscale = size, amplitude**2
        matrix += as_covariance(kernel, dtype=torch.float64).block(x).detach().double()
    y = torch.linalg.cholesky(matrix) @ torch.randn(n, generator=g, dtype=torch.float64)
    return x.numpy(), y.numpy()


def fitted(x, y):
    return GPRegressor(noise="constant", num_samples=2).fit(x, y)


def test_a_smooth_function_takes_the_smooth_kernel() -> None:
    """Of three inputs, with rows so far apart that the kernel matters."""
    x = np.random.default_rng(0).uniform(-2, 2, (250, 3))
    model = fitted(x, np.sin(2 * x[:, 0]) * np.cos(x[:, 1]) + x[:, 1] * x[:, 2])
    assert model.kernel_.base_kernel.nu == 2.5
    assert "by rows left out Matérn-5/2 chosen" in model.fit_result_.message


@pytest.mark.parametrize("seed", [0, 1])
def test_a_rough_function_takes_the_rough_kernel(seed) -> None:
    model = fitted(*drawn([("matern12", 0.5, 1.0)], seed=seed))
    assert model.kernel_.base_kernel.nu == 1.5
    assert "by rows left out Matérn-3/2 chosen" in model.fit_result_.message


def test_fewer_than_two_hundred_rows_are_judged_by_likelihood() -> None:
    x, y = drawn([("rbf", 1.5, 3.0), ("matern32", 0.1, 0.1)], n=199)
    model = fitted(x, y)
    assert "rows left out" not in model.fit_result_.message
    assert model.kernel_.base_kernel.nu in (1.5, 2.5)
