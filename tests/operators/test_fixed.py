"""Products with one set of weights: when far fields are made, and that values are those without."""

from __future__ import annotations

import pickle

import gpytorch
import pytest
import torch
from torch import Tensor

from sggp.kernels import as_covariance
from sggp.operators import far, fixed
from sggp.operators.fixed import FixedProduct


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far fields from few rows on."""
    monkeypatch.setattr(far, "FAR_ROWS", 100)
    monkeypatch.setattr(far, "TOLERANCES", (1e-4, 1e-8))
    monkeypatch.setattr(fixed, "_LOOK", 1000.0)
    monkeypatch.setattr(fixed, "_CAPACITIES", (30, 15))
    monkeypatch.setattr(fixed, "_ROWS", 300)


def kernel() -> gpytorch.kernels.Kernel:
    found = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5))
    found.base_kernel.lengthscale = 0.4
    return found + gpytorch.kernels.MaternKernel(nu=2.5, active_dims=(0,))


def rows(n: int, d: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(error: float, z: Tensor | None = None) -> FixedProduct:
    covariance = as_covariance(kernel())
    points = covariance.prepare(rows(500) if z is None else z)
    v = torch.randn(len(points), 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return FixedProduct(covariance, points, v, error)


@pytest.mark.parametrize("error", [1e-2, 1e-9])
def test_it_is_made_when_it_pays_and_measured(error: float) -> None:
    product, x = made(error), rows(700, seed=2)
    dense = product.covariance.matmul(x, product.z, product.v)
    assert torch.equal(product(x[:10]), product.covariance.matmul(x[:10], product.z, product.v))
    assert not product.ready()
    assert product.ready(10**7)
    found = product(x)
    wrong = (found - dense).square().mean(0).sqrt()
    assert bool((wrong <= 2 * max(error, far.PRODUCT_TOLERANCE * float(dense.square().mean().sqrt()))).all())
    assert float(wrong.max()) > 0
    again = product(x[:5])  # from now on few points are as good
    assert float((again - dense[:5]).abs().max()) <= 10 * float(wrong.max())
    assert not pickle.loads(pickle.dumps(product)).ready()


def test_points_outside_are_dense() -> None:
    z = torch.cat([rows(500), torch.full((500, 1), 3.0)], 1)
    product = made(1e-2, z)
    assert product.ready(10**7)
    x = z[:4].clone()
    x[0, 0], x[1, 2] = 9.0, 3.5  # far away, and where the rows z do not differ
    dense = product.covariance.matmul(x, product.z, product.v)
    wrong = (product(x) - dense).abs().amax(1)
    # but for the order of a sum over 500 rows, which depends on how many are asked for
    rounding = 500 * 2**-52 * float(product.v.abs().sum())
    assert float(wrong[:2].max()) <= rounding < float(wrong[2:].max()) <= 1e-2


def test_what_it_is_not_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not made(1e-2, rows(500, 4)).ready(10**7)
    assert not made(1e-2).ready(1)
    x = rows(4, seed=3).requires_grad_()
    product = made(1e-2)
    assert product.ready(10**7)
    assert torch.autograd.grad(product(x).sum(), x)[0].shape == x.shape
    monkeypatch.setattr(far, "TOLERANCES", (1e-2,))
    assert not made(0.0).ready(10**7)  # no tolerance is small enough
    monkeypatch.setenv("SGGP_FAR_FIELD", "0")
    assert not made(1e-2).ready(10**7)


def test_columns_are_of_the_far_field_of_all() -> None:
    """Which short-lived selections pay for together, and which none of them makes again."""
    product, x = made(1e-2), rows(700, seed=2)
    chosen = torch.tensor([1])
    for _ in range(200):
        first = product.columns(chosen)
        found = first(x)
        if first.ready():
            break
    assert first.ready()
    assert product.ready()
    # in float32, but for the order of a sum over 500 rows
    rounding = 500 * 2**-24 * float(product.v.abs().max())
    torch.testing.assert_close(found, product(x)[:, 1:], rtol=0, atol=rounding)
    torch.testing.assert_close(product.columns(chosen)(x[:5]), product(x[:5])[:, 1:], rtol=0, atol=rounding)
    apart = pickle.loads(pickle.dumps(first))
    assert not apart.ready()
    dense = product.covariance.matmul(x[:5], product.z, product.v)
    torch.testing.assert_close(apart(x[:5]), dense[:, 1:])
