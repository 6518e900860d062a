"""Variances by the Cholesky factor: against dense algebra, with derivatives, in tiles, and when they are chosen."""

from __future__ import annotations

import math
import warnings

import gpytorch
import pytest
import torch
from torch import Tensor

from sggp.errors import InputError, SlowVariance
from sggp.posterior import Posterior, condition, query_weights
from sggp.posterior import posterior as posterior_module
from sggp.solvers import Cholesky, ConjugateGradients
from sggp.solvers.triangle import LowerTriangle

MATERN, RBF = gpytorch.kernels.MaternKernel, gpytorch.kernels.RBFKernel


def kernel(base: gpytorch.kernels.Kernel, lengthscale: float) -> gpytorch.kernels.Kernel:
    out = gpytorch.kernels.ScaleKernel(base).double()
    out.outputscale, out.base_kernel.lengthscale = 1.3, lengthscale
    return out


def matern32(x: Tensor, z: Tensor, lengthscale: float) -> Tensor:
    """1.3 times Matérn-3/2 from its formula; its derivative is 0 where points meet, and never NaN."""
    r = math.sqrt(3) * ((x[:, None] - z[None]).square().sum(-1) + 1e-300).sqrt() / lengthscale
    return 1.3 * (1 + r) * torch.exp(-r)


def rbf(x: Tensor, z: Tensor, lengthscale: float) -> Tensor:
    return 1.3 * torch.exp(-0.5 * (x[:, None] - z[None]).square().sum(-1) / lengthscale**2)


def dense(function, x: Tensor, q: Tensor, noise: float, lengthscale: float) -> Tensor:
    """The posterior covariance at q."""
    h = function(x, x, lengthscale) + noise * torch.eye(len(x), dtype=x.dtype)
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(h), function(x, q, lengthscale), upper=False)
    return function(q, q, lengthscale) - half.T @ half


def line() -> tuple[Tensor, Tensor, Tensor]:
    x = torch.linspace(0, 1, 30, dtype=torch.float64)[:, None]
    midway = 0.5 * (x[1:] + x[:-1])
    return x, torch.sin(6 * x[:, 0]), torch.cat([x, midway, x - 0.3, x + 0.5])


def square(n: int = 20) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(n, 2, generator=generator, dtype=torch.float64)
    midway = 0.5 * (x[1:] + x[:-1])
    return x, torch.sin(5 * x).sum(1), torch.cat([x, midway, x * 1.5 - 0.25])


CASES = {
    "line": (line(), MATERN(nu=1.5), matern32, 1e-6, 0.3),
    "square": (square(), MATERN(nu=1.5), matern32, 1e-6, 0.5),
    "more rows than a local posterior has": (square(100), MATERN(nu=1.5), matern32, 1e-4, 0.5),
    "smooth": (square(), RBF(), rbf, 1e-4, 0.3),
}


def solved(case: str, **settings) -> tuple[Posterior, Tensor, Tensor]:
    """Posterior, queries and their exact covariance."""
    (x, y, q), base, function, noise, lengthscale = CASES[case]
    settings = {"num_samples": 8, "num_features": 64, "generator": 0} | settings
    posterior = condition(kernel(base, lengthscale), x, y, noise_variance=noise, **settings)
    return posterior, q, dense(function, x, q, noise, lengthscale)


@pytest.mark.parametrize("case", CASES)
def test_the_default_is_exact_at_the_data_between_and_outside(case):
    posterior, q, exact = solved(case)
    torch.testing.assert_close(posterior.variance(q), exact.diagonal(), rtol=1e-6, atol=0)
    noisy = posterior.variance(q, observation_noise=True)
    torch.testing.assert_close(noisy, exact.diagonal() + CASES[case][3], rtol=1e-6, atol=0)


@pytest.mark.parametrize("case", CASES)
def test_joint_covariances_come_in_batches(case):
    posterior, q, exact = solved(case)
    q = q[: len(q) // 6 * 6]
    found = posterior.covariance_matrix(q.reshape(2, -1, 3, q.shape[1]))
    blocks = exact[: len(q), : len(q)].reshape(len(q) // 3, 3, len(q) // 3, 3)
    expected = torch.stack([blocks[i, :, i] for i in range(len(q) // 3)]).reshape(found.shape)
    deviations = expected.diagonal(dim1=-2, dim2=-1).sqrt()
    assert bool(((found - expected).abs() <= 1e-6 * deviations[..., None] * deviations[..., None, :]).all())
    torch.testing.assert_close(found, found.mT, rtol=0, atol=0)
    assert posterior.covariance_matrix(q[:0]).shape == (0, 0)


@pytest.mark.parametrize("tile", [None, 7])
@pytest.mark.parametrize("case", CASES)
def test_gradient_is_that_of_the_dense_formula(case, tile, monkeypatch):
    posterior, q, _ = solved(case)
    (x, _, _), _, function, noise, lengthscale = CASES[case]
    if tile:
        monkeypatch.setattr(query_weights, "_TILE_BYTES", 64 * len(x) * tile)
    q = (
        q[len(x) :].clone().requires_grad_()
    )  # not at the data, where dense autograd of a distance is no oracle
    weights = torch.linspace(0.5, 2, len(q), dtype=q.dtype)
    (found,) = torch.autograd.grad((weights * posterior.variance(q)).sum(), q)
    exact = (weights * dense(function, x, q, noise, lengthscale).diagonal()).sum()
    (expected,) = torch.autograd.grad(exact, q)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
    pairs = q[: len(q) // 2 * 2].reshape(-1, 2, q.shape[1])
    (slope,) = torch.autograd.grad(posterior.covariance_matrix(pairs)[:, 0, 1].sum(), q)
    joint = dense(function, x, q, noise, lengthscale)
    (expected,) = torch.autograd.grad(sum(joint[i, i + 1] for i in range(0, len(pairs) * 2, 2)), q)
    torch.testing.assert_close(slope, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def test_no_block_grows_with_the_number_of_points(monkeypatch):
    """Tiles bound every block; with derivatives each is evaluated twice and none is kept."""
    posterior, _, _ = solved("square")
    q = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = posterior.variance(q)
    monkeypatch.setattr(query_weights, "_TILE_BYTES", 64 * 20 * 50)
    shapes: list[tuple[int, int]] = []
    kind = type(posterior.covariance)
    block = kind._block

    def counted(self, x, z):
        shapes.append((len(x), len(z)))
        return block(self, x, z)

    monkeypatch.setattr(kind, "_block", counted)
    torch.testing.assert_close(posterior.variance(q), whole, rtol=1e-12, atol=0)
    assert shapes == [(20, 20)] + [(50, 20)] * 20 or shapes == [(50, 20)] * 20
    shapes.clear()
    asked = q.clone().requires_grad_()
    value = posterior.variance(asked)
    assert shapes == [(50, 20)] * 20
    value.sum().backward()
    assert shapes == [(50, 20)] * 40


def test_the_factor_is_made_once(monkeypatch):
    posterior, q, _ = solved("square")
    made: list[int] = []
    factorise = query_weights.factorise
    monkeypatch.setattr(query_weights, "factorise", lambda operator: made.append(1) or factorise(operator))
    entries = []
    for _ in range(3):
        posterior.variance(q)
        posterior.covariance_matrix(q)
        entries.append(len(made))
    assert entries == [1, 1, 1]


def test_a_jitter_is_corrected(monkeypatch):
    """A factor of H + jI gives the variance an excess u ≥ 0; measured with H, what is left is at most u·j/(σ² + j).

    With δ = w − H⁻¹k = −jH⁻¹(H + j)⁻¹k, δᵀHδ = j²kᵀ(H + j)⁻¹H⁻¹(H + j)⁻¹k, and u = jkᵀH⁻¹(H + j)⁻¹k.
    """
    posterior, q, joint = solved("smooth")
    exact, jitter = joint.diagonal(), 1e-6

    def jittered(operator):
        raised = operator.dense() + jitter * torch.eye(20, dtype=torch.float64)
        return LowerTriangle((torch.linalg.cholesky(raised),)), jitter

    monkeypatch.setattr(query_weights, "factorise", jittered)
    lower, _ = jittered(posterior.process.operator(posterior.data))
    half = lower.half(posterior.covariance.block(posterior.points, q))
    excess = posterior.covariance.diagonal(q) - half.square().sum(0) - exact
    left = posterior.variance(q) - exact
    assert float(excess.max()) > 1e-5 * float(exact.max())
    assert bool((left <= excess * jitter / (1e-4 + jitter) + 1e-6 * exact).all())
    assert bool((left >= -1e-6 * exact).all())


@pytest.mark.parametrize(
    ("settings", "how"),
    [
        ({}, "solve"),
        ({"solver": Cholesky()}, "solve"),
        ({"solver": ConjugateGradients()}, "samples"),
        ({"solver": ConjugateGradients(), "num_samples": 0}, "solve"),
        ({"centres": 10}, "samples"),
    ],
)
def test_what_auto_takes(settings, how):
    posterior, q, _ = solved("smooth", **settings)
    assert torch.equal(posterior.variance(q), posterior.variance(q, method=how))
    other = {"solve": "samples", "samples": "solve"}[how]
    try:
        assert not torch.equal(posterior.variance(q), posterior.variance(q, method=other))
    except InputError:  # no samples, or centres
        assert settings.get("num_samples") == 0 or "centres" in settings


def test_auto_takes_samples_beyond_the_direct_rows(monkeypatch):
    posterior, q, _ = solved("smooth")
    monkeypatch.setattr(query_weights, "DIRECT_ROWS", 19)
    assert torch.equal(posterior.variance(q), posterior.variance(q, method="samples"))


def test_float32_points_and_rows_get_float64_variances():
    """The system is float64 whatever the rows are; only the result is rounded."""
    (x, y, q), base, function, noise, lengthscale = CASES["line"]
    low = x.float()
    posterior = condition(
        kernel(base, lengthscale).float(), low, y.float(), noise_variance=noise, num_samples=0, generator=0
    )
    found = posterior.variance(q.float())
    assert found.dtype == torch.float32
    scale = float(posterior.kernel.outputscale.detach()) / 1.3
    length = float(posterior.kernel.base_kernel.lengthscale.detach())
    exact = scale * dense(function, low.double(), q.float().double(), noise / scale, length)
    torch.testing.assert_close(found.double(), exact.diagonal(), rtol=1e-5, atol=0)


def test_long_exact_variances_are_told_of(generator, monkeypatch):
    monkeypatch.setattr(posterior_module, "_SLOW_ENTRIES", 5 * 40**2)
    x = torch.rand(40, 2, generator=generator, dtype=torch.float64)
    arguments = {"noise_variance": 0.1, "generator": 0, "solver": ConjugateGradients()}
    alone = condition(RBF().double(), x, x[:, 0], num_samples=0, **arguments)
    sampled = condition(RBF().double(), x, x[:, 0], num_samples=2, **arguments)
    with pytest.warns(SlowVariance, match=r"5 exact variances of 40 rows .*num_samples=64") as told:
        alone.variance(x[:5])
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone.variance(x[:4])
        alone.variance(x[:5], method="solve")
        sampled.variance(x[:5])
