"""Noise variances that came with the rows, scaled and added to: what the likelihood of planted ones says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sggp.evidence.given_noise import Adjustment, Scores, _Likelihood, learn_adjustment
from sggp.evidence.leave_one_out import Observed
from sggp.hyperparameters import named_kernel
from sggp.kernels import as_covariance

PLANTED = [(1.0, 0.0), (3.0, 0.05), (0.3, 0.02), (0.0, 0.1)]


def drawn(factor, added, n, seed):
    """A function of the kernel's own process with noise variances factor·given + added."""
    g = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(n, 2, generator=g, dtype=torch.float64) - 1
    kernel = named_kernel("matern52", 2).requires_grad_(False)
    kernel.base_kernel.lengthscale = 0.8
    given = torch.exp(torch.randn(n, generator=g, dtype=torch.float64) - 3)
    matrix = as_covariance(kernel, dtype=torch.float64).block(x).double()
    noise = factor * given + added
    covariance = matrix + noise.diag()
    y = torch.linalg.cholesky(covariance) @ torch.randn(n, generator=g, dtype=torch.float64)
    wrong = torch.full((n,), float(noise.mean()), dtype=torch.float64)
    return Observed(kernel, x, y[:, None], wrong), given, covariance


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("factor", "added"), PLANTED)
def test_planted_values_are_found_to_four_errors_of_the_best_estimate(factor, added, seed) -> None:
    """By the Fisher information ½ tr(H⁻¹ ∂H H⁻¹ ∂H), which no unbiased estimate beats."""
    observed, given, covariance = drawn(factor, added, 400, seed)
    found = learn_adjustment(observed, given, torch.Generator().manual_seed(0))
    inverse = covariance.inverse()
    parts = [inverse * given, inverse]  # H⁻¹ diag(given), H⁻¹
    information = torch.tensor([[0.5 * float((p * q.T).sum()) for q in parts] for p in parts])
    errors = information.inverse().diagonal().sqrt()
    assert abs(found.factor - factor) < 4 * float(errors[0])
    assert abs(found.added - added) < 4 * float(errors[1])


def test_neighbourhoods_of_many_rows_find_them_too() -> None:
    """To four errors of as many rows with the function known, times √4 for what the function and the overlap cost."""
    observed, given, _ = drawn(3.0, 0.05, 1500, 0)
    found = learn_adjustment(observed, given, torch.Generator().manual_seed(0))
    noise = 3.0 * given + 0.05
    parts = [given / noise, 1 / noise]
    information = torch.tensor([[0.5 * float((p * q).sum()) for q in parts] for p in parts])
    errors = 2 * information.inverse().diagonal().sqrt()
    assert abs(found.factor - 3.0) < 4 * float(errors[0])
    assert abs(found.added - 0.05) < 4 * float(errors[1])


def test_the_gradient_is_that_of_the_value() -> None:
    observed, given, _ = drawn(2.0, 0.02, 60, 3)
    loss = _Likelihood.of(observed, given, torch.Generator()).loss(np.array([1.5, 0.03, 1.0]))
    at = np.array([0.2, -0.4, 0.1])
    step = 1e-5
    differences = [(loss(at + step * e)[0] - loss(at - step * e)[0]) / (2 * step) for e in np.eye(3)]
    np.testing.assert_allclose(loss(at)[1], differences, rtol=1e-6)


def test_the_value_is_the_log_density_of_the_targets() -> None:
    observed, given, covariance = drawn(2.0, 0.02, 60, 3)
    loss = _Likelihood.of(observed, given, torch.Generator()).loss(np.array([2.0, 0.02, 1.0]))
    normal = torch.distributions.MultivariateNormal(torch.zeros(60).double(), covariance)
    expected = -float(normal.log_prob(observed.residual[:, 0])) / 60 - 0.5 * np.log(2 * np.pi)
    assert loss(np.zeros(3))[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("density", "crps", "wins"),
    [(0.1, 0.0, True), (0.01, 0.0, False), (-0.1, 0.0, False), (0.1, 0.1, False), (0.1, -0.1, True)],
)
def test_density_must_gain_by_two_errors_at_no_cost_in_crps(density, crps, wins) -> None:
    noise = np.tile([-0.3, 0.3], 100)  # of standard error 0.021
    before = Scores(np.zeros(200), np.ones(200))
    after = Scores(density + noise, 1 + crps + noise)
    found = Adjustment(2.0, 0.1).beside(before, after)
    assert (found.factor, found.added) == (2.0, 0.1)
    assert found.error == pytest.approx(0.3 / 200**0.5)
    assert found.wins is wins
