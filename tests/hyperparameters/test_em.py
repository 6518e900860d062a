"""Expectation maximisation of scale and noise, against dense algebra."""

from __future__ import annotations

import gpytorch
import pytest
import torch
from gpytorch.kernels import LinearKernel, MaternKernel, RBFKernel, ScaleKernel

from sggp.errors import InputError, NoRandomFeatures, UnsupportedKernel
from sggp.hyperparameters import exact_log_marginal_likelihood, fit_em
from sggp.hyperparameters.iterative.em import PosteriorMoments, updated
from sggp.kernels import TanimotoMinMax
from sggp.posterior import condition
from sggp.solvers import ConjugateGradients


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def table(n=60, repeats=0, noise=0.3):
    g = seeded(0)
    x = torch.rand(n, 2, generator=g, dtype=torch.float64) * 3
    if repeats:
        x = torch.cat([x, x[:repeats]])
    return x, torch.sin(2 * x[:, 0]) + 0.5 * x[:, 1] + noise * torch.randn(
        len(x), generator=g, dtype=torch.float64
    )


def matern(outputscale=0.3):
    kernel = ScaleKernel(MaternKernel(nu=1.5)).double()
    kernel.base_kernel.lengthscale, kernel.outputscale = 0.8, outputscale
    return kernel


def slopes(kernel, x, y, scale, noise, mean):
    """Derivatives of the exact log marginal likelihood in log scale and log noise, and their Fisher information."""
    correlation = (kernel(x).to_dense() / kernel.outputscale).detach().double()
    logs = torch.tensor([scale, noise], dtype=torch.float64).log().requires_grad_(True)
    identity = torch.eye(len(x), dtype=torch.float64)
    h = logs[0].exp() * correlation + logs[1].exp() * identity
    density = torch.distributions.MultivariateNormal(torch.full_like(y, mean), h).log_prob(y)
    (gradient,) = torch.autograd.grad(density, logs)
    inverse = torch.linalg.inv(h.detach())
    moves = [inverse @ (scale * correlation), inverse @ (noise * identity)]
    fisher = torch.tensor([[0.5 * float((a @ b).trace()) for b in moves] for a in moves], dtype=torch.float64)
    return gradient, fisher


def exact_moments(kernel, x, y, scale, noise):
    correlation = (kernel(x).to_dense() / kernel.outputscale).detach().double()
    k = scale * correlation
    h = k + noise * torch.eye(len(x), dtype=torch.float64)
    alpha = torch.linalg.solve(h, y)
    gamma = float(torch.linalg.solve(h, k).trace())
    return PosteriorMoments(gamma, float(alpha @ k @ alpha), float((y - k @ alpha).square().sum()))


def test_update_with_exact_moments_ends_at_a_stationary_point():
    x, y = table()
    scale, noise = 0.3, 0.5
    for _ in range(400):
        scale, noise = updated(scale, noise, exact_moments(matern(), x, y, scale, noise), len(x))
    gradient, _ = slopes(matern(), x, y, scale, noise, 0.0)
    assert float(gradient.abs().max()) < 1e-6
    start, _ = slopes(matern(), x, y, 0.3, 0.5, 0.0)
    assert float(start.abs().max()) > 1


@pytest.mark.parametrize("repeats", [0, 40])
def test_moments_by_samples_are_those_of_dense_algebra(repeats):
    x, y = table(60, repeats)
    kernel = matern(1.2)
    fit = fit_em(
        kernel,
        x,
        y,
        initial_noise_variance=0.1,
        mean=0.0,
        num_samples=2000,
        num_features=64,
        max_steps=2,
        generator=0,
    )
    first, second = fit.trace
    exact = exact_moments(kernel, x, y, 1.2, 0.1)
    error = first["effective_dimension_error"]
    assert first["effective_dimension"] == pytest.approx(exact.effective_dimension, abs=4 * error)
    assert error < 0.02 * exact.effective_dimension
    # the rest of the update has no sampling error: put γ in and compare
    known = PosteriorMoments(first["effective_dimension"], exact.fit_norm, exact.misfit)
    scale, noise = updated(1.2, 0.1, known, len(x))
    assert second["values"]["outputscale"] == pytest.approx(scale, rel=1e-6)
    assert second["values"]["noise_variance"] == pytest.approx(noise, rel=1e-6)


@pytest.mark.parametrize("name", ["matern", "linear", pytest.param("tanimoto", marks=pytest.mark.slow)])
def test_fit_ends_where_the_likelihood_is_stationary(name):
    """Within what the Monte Carlo error of γ moves the optimum; a linear kernel has exact features."""
    x, y = table(120)
    kernel = matern()
    if name == "linear":
        kernel = ScaleKernel(LinearKernel()).double()
        kernel.base_kernel.raw_variance.requires_grad_(False)
    if name == "tanimoto":
        x = torch.randint(0, 3, (120, 20), generator=seeded(2), dtype=torch.uint8)
        kernel = ScaleKernel(TanimotoMinMax()).double()
        covariance = kernel(x).to_dense().detach().double() + 0.2 * torch.eye(120, dtype=torch.float64)
        root = torch.linalg.cholesky(covariance)
        y = root @ torch.randn(120, generator=seeded(3), dtype=torch.float64)
        kernel.outputscale = 0.1
    fit = fit_em(kernel, x, y, num_samples=256, num_features=256, max_steps=300, tolerance=1e-4, generator=0)
    assert fit.converged
    scale = float(fit.kernel.outputscale.detach())
    gradient, fisher = slopes(fit.kernel, x, y, scale, fit.noise_variance, fit.mean)
    decrement = 0.5 * float(gradient @ torch.linalg.solve(fisher, gradient))  # nats below the optimum
    assert decrement < 0.1
    before = exact_log_marginal_likelihood(kernel, x, y, noise_variance=0.1 * float(y.var()), mean=None)
    after = exact_log_marginal_likelihood(fit.kernel, x, y, noise_variance=fit.noise_variance, mean=fit.mean)
    assert after > before + 1


def test_known_noise_or_scale_stays_and_the_posterior_comes_along():
    x, y = table()
    fit = fit_em(matern(), x, y, noise_variance=0.09, generator=0)
    assert fit.noise_variance == 0.09
    assert float(fit.kernel.outputscale) != pytest.approx(0.3, rel=0.05)
    frozen = matern()
    frozen.raw_outputscale.requires_grad_(False)
    other = fit_em(frozen, x, y, generator=0)
    assert float(other.kernel.outputscale) == pytest.approx(0.3)
    expected = condition(
        other.kernel, x, y, noise_variance=other.noise_variance, mean=other.mean, num_samples=0
    )
    torch.testing.assert_close(other.posterior.mean(x), expected.mean(x), rtol=0, atol=1e-6)
    assert other.posterior.num_samples == 64


def test_warm_starts_of_an_iterative_solver():
    x, y = table(400)
    fit = fit_em(matern(), x, y, solver=ConjugateGradients(None), max_steps=6, tolerance=1e-6, generator=0)
    work = [
        fit.trace[0]["epochs"],
        *(b["epochs"] - a["epochs"] for a, b in zip(fit.trace, fit.trace[1:], strict=False)),
    ]
    assert work[-1] < work[0]
    dense = fit_em(matern(), x, y, max_steps=6, tolerance=1e-6, generator=0)
    assert fit.noise_variance == pytest.approx(dense.noise_variance, rel=1e-2)
    assert max(fit.trace[-1]["residual"].values()) < 1e-2


def test_scale_stays_within_its_constraint():
    x, y = table()
    kernel = ScaleKernel(RBFKernel(), outputscale_constraint=gpytorch.constraints.Interval(0.1, 0.4)).double()
    kernel.outputscale = 0.2
    fit = fit_em(kernel, x, 10 * y, generator=0)
    assert 0.1 < float(fit.kernel.outputscale) < 0.4 + 1e-6


def test_noise_stays_above_its_floor():
    """Targets that the kernel interpolates: the likelihood has no optimum at positive noise."""
    x = torch.linspace(0, 3, 30, dtype=torch.float64)[:, None]
    fit = fit_em(ScaleKernel(RBFKernel()).double(), x, 0.3 * x[:, 0], max_steps=60, generator=0)
    floor = 1e-6 * float((0.3 * x[:, 0]).var(correction=0))
    assert fit.noise_variance >= floor * (1 - 1e-9)  # where it ends: rounding alone is between them


def test_misuse():
    x, y = table(20)
    with pytest.raises(InputError, match="one positive noise"):
        fit_em(matern(), x, y, noise_variance=torch.full((20,), 0.1))
    with pytest.raises(InputError, match="one target"):
        fit_em(matern(), x, torch.stack([y, y], 1))
    with pytest.raises(UnsupportedKernel, match="ScaleKernel"):
        fit_em(MaternKernel(), x, y)
    with pytest.raises(NoRandomFeatures):
        fit_em(ScaleKernel(gpytorch.kernels.PolynomialKernel(power=2)), x, y)
