"""Mean and variance at the same points, of one evaluation of the covariance between points and data."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from gpytorch.kernels import MaternKernel, ScaleKernel

from sggp.bayesopt.surrogate import Surrogate
from sggp.errors import InputError
from sggp.estimator import GPRegressor
from sggp.kernels import TanimotoMinMax
from sggp.kernels.tanimoto_covariance import MinMaxCovariance
from sggp.posterior import condition, query_weights
from sggp.solvers import ConjugateGradients

N, Q = 60, 25


def conditioned(kernel, x, **options):
    y = torch.sin(x.double()[:, :3].sum(1))
    settings = {"noise_variance": 0.05, "mean": 0.4, "num_samples": 9, "generator": 0, "tolerance": 1e-10}
    return condition(ScaleKernel(kernel).double(), x, y, **settings | options)


@pytest.fixture
def rows(generator):
    return torch.rand(N + Q, 3, generator=generator, dtype=torch.float64).split([N, Q])


@pytest.fixture
def bits(generator):
    return torch.randint(0, 2, (N + Q, 40), generator=generator, dtype=torch.uint8).split([N, Q])


@pytest.mark.parametrize("tile", [None, 7])
@pytest.mark.parametrize(
    ("options", "method"),
    [
        ({}, "auto"),
        ({}, "samples"),
        ({"solver": ConjugateGradients()}, "solve"),
        ({"centres": 20, "noise_variance": 0.1}, "samples"),
        ({"num_samples": 0}, "auto"),
    ],
    ids=["factor", "samples", "iterations", "centres", "no samples"],
)
def test_they_are_those_of_mean_and_of_variance(rows, options, method, tile, monkeypatch):
    x, q = rows
    if tile is not None:
        monkeypatch.setattr(query_weights, "_TILE_BYTES", 64 * N * tile)
    posterior = conditioned(MaternKernel(nu=1.5), x, **options)
    for points in (q, q.reshape(5, 5, 3), q.float(), q[:0]):
        if not len(points) and method == "samples":
            continue
        mean, variance = posterior.mean_and_variance(points, 0.3, method)
        close = (
            {"rtol": 1e-6, "atol": 1e-7} if points.dtype == torch.float32 else {"rtol": 1e-11, "atol": 1e-12}
        )
        torch.testing.assert_close(mean, posterior.mean(points), **close)
        torch.testing.assert_close(variance, posterior.variance(points, 0.3, method), **close)


@pytest.mark.parametrize("tile", [None, 7])
@pytest.mark.parametrize("method", ["solve", "samples"])
def test_gradients_are_those_of_mean_and_of_variance(rows, method, tile, monkeypatch):
    x, q = rows
    if tile is not None:
        monkeypatch.setattr(query_weights, "_TILE_BYTES", 64 * N * tile)
    posterior = conditioned(MaternKernel(nu=2.5), x)
    together, apart = (q.clone().requires_grad_() for _ in range(2))
    mean, variance = posterior.mean_and_variance(together, method=method)
    (mean.sum() + 3 * variance.sum()).backward()
    (posterior.mean(apart).sum() + 3 * posterior.variance(apart, method=method).sum()).backward()
    torch.testing.assert_close(together.grad, apart.grad, rtol=1e-9, atol=1e-10)


def test_misuse_is_told_as_by_variance(rows):
    posterior = conditioned(MaternKernel(nu=1.5), rows[0], num_samples=0)
    with pytest.raises(InputError, match="method"):
        posterior.mean_and_variance(rows[1], method="guess")
    with pytest.raises(InputError, match="no samples"):
        posterior.mean_and_variance(rows[1], method="samples")


@pytest.fixture
def entries(monkeypatch):
    """Entries of K between all data and points that blocks and products evaluated."""
    seen: Counter[str] = Counter()
    block, product = MinMaxCovariance._block, MinMaxCovariance._matmul

    def counted(function):
        def evaluate(self, x, z, *rest):
            seen["entries"] += len(x) * len(z) * (N in (len(x), len(z)))
            return function(self, x, z, *rest)

        return evaluate

    monkeypatch.setattr(MinMaxCovariance, "_block", counted(block))
    monkeypatch.setattr(MinMaxCovariance, "_matmul", counted(product))
    return seen


@pytest.mark.parametrize("method", ["solve", "samples"])
def test_each_entry_is_evaluated_once(bits, entries, method):
    x, q = bits
    posterior = conditioned(TanimotoMinMax(), x)
    for call, times in [
        (lambda: (posterior.mean(q), posterior.variance(q, method=method)), 2),
        (lambda: posterior.mean_and_variance(q, method=method), 1),
        (lambda: Surrogate(posterior, 0.0, 1.0, True).predict(q, method=method), 1),
    ]:
        posterior.variance(q, method=method)  # what is kept from the first call on
        entries.clear()
        call()
        # the search for the nearest rows, of a local posterior, is one more look at K
        assert entries["entries"] == (times + (method == "samples")) * N * Q


def test_predictions_with_deviations_look_once(bits, entries):
    x, q = (part.numpy() for part in bits)
    model = GPRegressor(ScaleKernel(TanimotoMinMax()), noise_variance=0.05, optimizer=None).fit(x, x[:, 0])
    expected, _ = model.predict(q), model.predict(q, return_std=True)
    entries.clear()
    mean, _ = model.predict(q, return_std=True)
    assert entries["entries"] == N * Q
    np.testing.assert_allclose(mean, expected, rtol=1e-11)
