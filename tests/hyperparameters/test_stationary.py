"""Correlations within blocks with their closed-form gradient, against GPyTorch and finite differences."""

import gpytorch
import pytest
import torch
from gpytorch.kernels import MaternKernel, RBFKernel

from sggp.hyperparameters.gram import correlations, profile

CORES = [RBFKernel(), MaternKernel(nu=0.5), MaternKernel(nu=1.5), MaternKernel(nu=2.5)]


def _rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("core", CORES, ids=str)
@pytest.mark.parametrize("shape", [(7, 3), (4, 5, 3)])
def test_values_are_gpytorchs(core, shape):
    core = core.double()
    lengthscale = torch.tensor([0.4, 1.3, 2.0], dtype=torch.float64)
    x = _rows(*shape)
    core.lengthscale = 1.0
    expected = core(x / lengthscale).to_dense()
    torch.testing.assert_close(correlations(x, lengthscale, profile(core)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("core", CORES, ids=str)
@pytest.mark.parametrize("lengthscale", [[0.4, 1.3, 2.0], [0.9]])
def test_gradient_agrees_with_finite_differences(core, lengthscale):
    x, phi = _rows(2, 4, 3), profile(core)
    scales = torch.tensor(lengthscale, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: correlations(x, s, phi), (scales,))


@pytest.mark.parametrize("core", CORES, ids=str)
def test_repeated_rows_have_no_part_in_the_gradient(core):
    x = _rows(5, 3) * 1e3
    x = torch.cat([x, x])
    scales = torch.ones(3, dtype=torch.float64, requires_grad=True)
    correlations(x, scales, profile(core)).sum().backward()
    assert float(scales.grad.abs().max()) < 1e-6  # all other rows are a thousand length scales away


def test_other_kernels_have_no_profile():
    assert profile(gpytorch.kernels.RQKernel()) is None
    assert profile(gpytorch.kernels.PeriodicKernel()) is None
