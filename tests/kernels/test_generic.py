"""Kernels of GPyTorch that have no engine: their copies."""

from __future__ import annotations

import gpytorch.kernels as gk
import numpy as np
import pytest
import torch
from gpytorch.priors import GammaPrior

from sggp.errors import ShapeError
from sggp.kernels import as_covariance
from sggp.kernels.generic import copied, dense_tile
from tests import oracles


def test_a_copy_shares_nothing_that_can_be_changed():
    prior = GammaPrior(2.0, 1.0)
    base = gk.MaternKernel(ard_num_dims=2, lengthscale_prior=prior, active_dims=(0, 2))
    kernel = gk.ScaleKernel(base) + gk.ScaleKernel(gk.PeriodicKernel())
    kernel.register_module("none", None)
    twin = copied(kernel)
    for one, other in zip(kernel.modules(), twin.modules(), strict=True):
        assert type(one) is type(other)
        for name, value in vars(one).items():
            mine = vars(other)[name]
            assert type(mine) is type(value)
            if isinstance(value, (dict, set, list, torch.Tensor, torch.nn.Module)):
                assert mine is not value, name
            elif not callable(value):
                assert mine == value, name
    twin.kernels[0].outputscale = 7.0
    twin.register_forward_hook(lambda *_: None)
    twin.kernels[1].register_buffer("more", torch.zeros(1), persistent=False)
    assert float(kernel.kernels[0].outputscale.detach()) != 7.0
    assert not kernel._forward_hooks
    assert "more" not in dict(kernel.named_buffers())
    x = torch.rand(4, 3, dtype=torch.float32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dense_tile(copied(kernel), x), dense_tile(kernel, x))


@pytest.mark.parametrize(
    "kernel",
    [
        gk.LinearKernel(ard_num_dims=2),
        gk.ScaleKernel(gk.LinearKernel(ard_num_dims=2)),
        gk.PeriodicKernel(ard_num_dims=2),
        gk.SpectralMixtureKernel(num_mixtures=2, ard_num_dims=2),
    ],
    ids=lambda k: type(k).__name__,
)
def test_values_for_other_columns_than_there_are_is_an_error_that_says_so(kernel):
    with pytest.raises(ShapeError, match="set ard_num_dims=3"):
        as_covariance(kernel).block(torch.ones(4, 3))


@pytest.mark.parametrize(
    "kernel",
    [
        gk.RBFKernel() + gk.LinearKernel(),
        gk.ScaleKernel(gk.RBFKernel() + gk.LinearKernel()),
        gk.PeriodicKernel() + gk.ScaleKernel(gk.LinearKernel()),
    ],
    ids=["sum", "scaled sum", "scaled term"],
)
def test_a_term_of_low_rank_adds_no_jitter_to_the_others(kernel):
    """GPyTorch's own matrix comes with a warning of one, or not at all."""
    x = torch.linspace(0, 1, 60, dtype=torch.float64)[:, None]
    expected = oracles.kernel_matrix(kernel.double(), x, x)
    found = dense_tile(kernel, x).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * expected.max())
