"""Where searches of the exact likelihood end: nowhere that another search from there leaves."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from gpytorch.kernels import ArcKernel, Kernel, MaternKernel, PeriodicKernel, ScaleKernel
from torch import Tensor

from sggp.hyperparameters import fit_exact


def arc() -> tuple[Kernel, Tensor, Tensor]:
    """Angles have a bound, and only their ratio to the length scales is known: a narrow valley that ends at a wall."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(40, 3, generator=generator, dtype=torch.float64)
    y = torch.sin(4 * x[:, 0]) + x[:, 1] + 0.1 * torch.randn(40, generator=generator, dtype=torch.float64)
    kernel = ScaleKernel(ArcKernel(MaternKernel(nu=2.5), ard_num_dims=3))
    generator.manual_seed(3)
    with torch.no_grad():
        for parameter in kernel.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return kernel, x, y


def periodic() -> tuple[Kernel, Tensor, Tensor]:
    """Hardly any noise: a line search is said to be abnormal where the slope is large."""
    rng = np.random.default_rng(33)
    rng.choice([8, 20, 60, 120]), rng.choice([1, 2, 5]), rng.choice([0, 1e-3, 0.1, 1.0])
    x = torch.as_tensor(rng.uniform(size=(120, 2)))
    y = torch.sin(5 * x[:, 0]) + x[:, 1] ** 2 + 1e-3 * torch.as_tensor(rng.normal(size=120))
    return ScaleKernel(PeriodicKernel()), x, (y - y.mean()) / y.std()


@pytest.mark.parametrize("problem", [arc, periodic])
def test_another_search_from_the_end_wins_nothing(problem) -> None:
    """They ended where a line search won nothing: .07 nats below, said to be converged, and 18 nats below."""
    kernel, x, y = problem()
    fit = fit_exact(kernel, x, y)
    learnt = copy.deepcopy(fit.kernel)
    for own, given in zip(learnt.parameters(), kernel.parameters(), strict=True):
        own.requires_grad_(given.requires_grad)
    again = fit_exact(learnt, x, y, initial_noise_variance=fit.noise_variance)
    assert again.log_marginal_likelihood < fit.log_marginal_likelihood + 0.01


def test_the_slope_is_that_of_a_dense_likelihood_and_small() -> None:
    kernel, x, y = arc()
    fit = fit_exact(kernel, x, y)
    assert fit.converged
    learnt = copy.deepcopy(fit.kernel).requires_grad_(True)
    covariance = learnt(x).to_dense() + fit.noise_variance * torch.eye(40)
    factor = torch.linalg.cholesky(covariance)
    residual = torch.linalg.solve_triangular(factor, (y - fit.mean)[:, None], upper=False)
    value = -0.5 * residual.square().sum() - factor.diagonal().log().sum() - 20 * math.log(2 * math.pi)
    assert value.item() == pytest.approx(fit.log_marginal_likelihood, abs=1e-6)
    value.backward()
    for (name, parameter), given in zip(learnt.named_parameters(), kernel.parameters(), strict=True):
        if given.requires_grad:
            assert float(parameter.grad.abs().max()) < 0.01, name
