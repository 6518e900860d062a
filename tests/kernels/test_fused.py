"""Sums stay fused: each term multiplies with its own engine, and no tile of K is ever made in torch."""

from __future__ import annotations

from dataclasses import replace

import gpytorch.kernels as gk
import numpy as np
import pytest
import torch

from sggp.kernels import TanimotoMinMax, as_covariance
from sggp.native import cpu, engines
from tests import oracles
from tests.memory import peak_bytes

pytestmark = pytest.mark.skipif(not cpu.available(), reason=f"no C++ engine: {cpu.unavailable_reason()}")


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """The names of the engine's functions in the order they were called."""
    made: list[str] = []

    def spy(name):
        original = getattr(engines.CPP, name)
        return lambda *a, **k: (made.append(name), original(*a, **k))[1]

    names = ("stationary_block", "stationary_matmul", "tanimoto_block", "tanimoto_matmul")
    monkeypatch.setattr(engines, "CPP", replace(engines.CPP, **{name: spy(name) for name in names}))
    return made


def scaled(kernel: gk.Kernel, outputscale: float) -> gk.Kernel:
    out = gk.ScaleKernel(kernel)
    out.outputscale = outputscale
    return out


def test_a_sum_of_stationary_kernels(calls, generator, dtype):
    first, second = gk.RBFKernel(ard_num_dims=3), gk.MaternKernel(0.5, active_dims=(1,))
    first.lengthscale, second.lengthscale = torch.tensor([0.5, 1.0, 2.0]), 0.75  # exact in float32
    kernel = scaled(first, 1.5) + scaled(second, 0.25)
    x, z = (torch.randn(n, 3, generator=generator, dtype=dtype) for n in (40, 350))
    v = torch.randn(350, 5, generator=generator, dtype=dtype)
    found = as_covariance(kernel).matmul(x, z, v)
    assert calls == ["stationary_matmul", "stationary_matmul"]
    k = 1.5 * oracles.rbf(oracles.distances(x.numpy(), z.numpy(), np.array([0.5, 1.0, 2.0])))
    k += 0.25 * oracles.matern12(oracles.distances(x.numpy()[:, 1:2], z.numpy()[:, 1:2], np.array([0.75])))
    unit = 1e-6 if dtype == torch.float32 else 1e-14
    assert (np.abs(found.numpy() - k @ v.numpy()) <= 5 * unit * (k @ np.abs(v.numpy()))).all()


@pytest.mark.parametrize(
    "make", [gk.RBFKernel, lambda: gk.MaternKernel(1.5), lambda: gk.MaternKernel(2.5), gk.RQKernel]
)
def test_slopes_are_a_block_of_the_engine_too(make, calls, generator, dtype):
    kernel = scaled(make(), 1.5).double()
    kernel.base_kernel.lengthscale = 0.5
    x, z = (torch.randn(n, 3, generator=generator, dtype=dtype) for n in (40, 350))
    weights = torch.randn(40, 350, generator=generator, dtype=dtype)

    def gradient(block, x, z):
        x = x.requires_grad_()
        return torch.autograd.grad((block(x, z) * weights.to(x)).sum(), x)[0]

    found = gradient(as_covariance(kernel).block, x, z)
    assert calls == ["stationary_block", "stationary_block"]
    dense = gradient(lambda x, z: kernel(x, z).to_dense(), x.detach().double(), z.double())
    unit = 1e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found.double(), dense, rtol=0, atol=20 * unit)


def test_a_sum_with_fingerprints(calls, generator):
    kernel = scaled(TanimotoMinMax(), 2.0) + scaled(gk.RBFKernel(), 0.5)
    x = (torch.rand(300, 40, generator=generator) < 0.2).to(torch.uint8)
    v = torch.randn(300, 2, generator=generator)
    found = as_covariance(kernel).matmul(x, x, v)
    assert calls == ["tanimoto_matmul", "stationary_matmul"]
    rows = x.numpy()
    k = 2 * oracles.tanimoto_minmax(rows, rows)
    lengthscale = kernel.kernels[1].base_kernel.lengthscale.detach().numpy()
    k = k + 0.5 * oracles.rbf(oracles.distances(rows, rows, lengthscale))
    np.testing.assert_allclose(found.numpy(), (k @ v.numpy()).astype(float), atol=1e-4)


def test_no_tile_of_a_sum_is_made_in_torch(generator):
    covariance = as_covariance(gk.RBFKernel() + gk.MaternKernel(2.5))
    x, v = torch.randn(1500, 2, generator=generator), torch.randn(1500, 1, generator=generator)
    points = covariance.prepare(x)
    assert peak_bytes(lambda: covariance.matmul(points, points, v)) < 1500 * 100
    product = as_covariance(gk.RBFKernel() * gk.MaternKernel(2.5))
    points = product.prepare(x)
    assert peak_bytes(lambda: product.matmul(points, points, v)) > 1500 * 1000
