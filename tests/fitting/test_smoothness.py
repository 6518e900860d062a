"""Rough or smooth: what rows left out choose where the likelihood is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gpytorch.kernels import RBFKernel

from sggp import GPRegressor
from sggp.evidence import judging
from sggp.evidence.leave_one_out import Observed
from sggp.hyperparameters import named_kernel
from sggp.kernels import as_covariance


def drawn(parts, n=260, seed=0, d=1):
    """Measurements of a function that is a sum of processes: (name, length scale, amplitude) each."""
    g = torch.Generator().manual_seed(seed)
    x = 4 * torch.rand(n, d, generator=g, dtype=torch.float64)
    matrix = 1e-4 * torch.eye(n, dtype=torch.float64)
    for name, size, amplitude in parts:
        kernel = named_kernel(name, d)
        kernel.base_kernel.lengthscale, kernel.outputscale = size, amplitude**2
        matrix += as_covariance(kernel, dtype=torch.float64).block(x).detach().double()
    y = torch.linalg.cholesky(matrix) @ torch.randn(n, generator=g, dtype=torch.float64)
    return x.numpy(), y.numpy()


def fitted(x, y):
    return GPRegressor(noise="constant", num_samples=2).fit(x, y)


def test_a_smooth_function_takes_the_smoothest_kernel() -> None:
    """Of four inputs, with rows so far apart that the kernel matters."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (300, 4))
    y = (
        np.sin(2 * x[:, 0]) * np.cos(2 * x[:, 1])
        + np.sin(x[:, 2] + x[:, 3])
        + 0.05 * rng.standard_normal(300)
    )
    model = fitted(x, y)
    assert isinstance(model.kernel_.base_kernel, RBFKernel)
    assert "by rows left out Matérn-5/2 chosen" in model.fit_result_.message
    assert "by rows left out RBF chosen: CRPS excludes Matérn-5/2" in model.fit_result_.message
    assert model.fit_result_.steps == len(model.fit_result_.trace)  # of all three fits


@pytest.mark.parametrize("seed", [0, 1])
def test_a_function_with_two_derivatives_does_not_take_the_smoothest(seed) -> None:
    model = fitted(*drawn([("matern52", 2.0, 1.0)], seed=seed, d=2))
    assert model.kernel_.base_kernel.nu == 2.5
    assert "by rows left out Matérn-5/2 chosen" in model.fit_result_.message.rsplit(";", 2)[-2]


@pytest.mark.parametrize(("gain", "chosen"), [(0.0, "one"), (0.01, "one"), (0.5, "other")])
def test_the_smoothest_must_win_by_crps(monkeypatch, gain, chosen) -> None:
    """A log density that is better beyond its errors is not enough."""
    noise = torch.randn(200, generator=torch.Generator().manual_seed(0)).double().numpy()
    shared = 5 + noise.cumsum() / 20
    scores = [
        judging._Rows(np.zeros(200), shared, np.ones(200)),
        judging._Rows(np.full(200, 0.5), shared - gain + 0.3 * noise, np.ones(200)),
    ]
    monkeypatch.setattr(judging, "leave_each_out", lambda observed: None)
    monkeypatch.setattr(judging, "_scored", lambda residual, left: scores[int(residual)])
    candidates = {
        name: Observed(None, torch.empty(0), torch.tensor(i), torch.empty(0))  # type: ignore[arg-type]
        for i, name in enumerate(("one", "other"))
    }
    assert judging.judge_left_out(candidates)[0] == "other"
    found, reason = judging.judge_left_out(candidates, by_crps=True)
    assert found == chosen
    assert ("two standard errors better in CRPS" in reason) == (chosen == "one")


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
