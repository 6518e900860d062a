"""`matmul` keeps to its memory budget: measured, in every allocation torch makes."""

from __future__ import annotations

import gpytorch.kernels as gk
import pytest
import torch

from sggp.kernels import as_covariance, stationary, tanimoto_covariance
from sggp.native import reference
from tests.catalogue import KERNELS
from tests.memory import peak_bytes

BUDGET = 2**18
N, D, S = 315, 9, 3


def test_the_meter_sees_the_peak_and_not_the_end():
    def call() -> torch.Tensor:
        first = torch.zeros(1000, 100, dtype=torch.float64)
        second = first * 2 + 1  # two temporaries of the same size alive at once with `first`
        del first
        return second.sum()

    assert 3 * 800_000 <= peak_bytes(call) < 3 * 800_000 + 10_000


# The profiler writes several lines per operation, so not every kernel in every precision.
NAMES = (
    "rbf",
    "sum",
    "product",
    "tanimoto-minmax",
    "tanimoto-dot-product",
    "tanimoto-minmax-float",
    "periodic",
)
CASES = [(name, torch.float64, 1) for name in NAMES]
CASES += [("matern52", torch.float64, 35), ("matern52", torch.float32, 1), ("rq", torch.float32, 35)]


@pytest.mark.parametrize(("name", "dtype", "repeats"), CASES, ids=str)
def test_matmul_stays_within_its_budget(name, dtype, repeats, generator, monkeypatch):
    row = next(row for row in KERNELS if row.name == name)
    for module in (stationary, tanimoto_covariance):  # what the C++ engine takes by itself is not seen here
        monkeypatch.setattr(module, "engine", lambda device, dtype: reference)
    x = row.rows(N // repeats, D, dtype, generator).repeat(repeats, 1)
    v = torch.randn(N, S, dtype=dtype, generator=generator)
    covariance = as_covariance(row.make(D), dtype=dtype)
    covariance.matmul(x[:20], None, v[:20])  # a generic kernel is checked and copied once
    points = covariance.prepare(x)
    peak = peak_bytes(lambda: covariance.matmul(points, None, v, memory_budget=BUDGET))
    result = N * S * v.element_size()
    assert peak <= BUDGET + 2 * result
    assert N * N * v.element_size() > BUDGET + 2 * result  # holding the matrix would show


def test_backward_of_matmul_stays_within_its_budget(generator):
    n = 700
    x = torch.randn(n, D, dtype=torch.float64, generator=generator, requires_grad=True)
    v = torch.randn(n, S, dtype=torch.float64, generator=generator, requires_grad=True)
    covariance = as_covariance(gk.MaternKernel(1.5))
    peak = peak_bytes(lambda: covariance.matmul(x, None, v, memory_budget=2**20).sum().backward())
    rows = 8 * n * (D + S)
    assert peak <= 2**20 + 12 * rows
    assert 2**20 + 12 * rows < 8 * n * n
