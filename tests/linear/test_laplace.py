"""The linearised Laplace approximation of small networks against the dense Jacobian."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev

from sggp.errors import DtypeError, InputError, ShapeError
from sggp.linear import LaplacePosterior, LinearisedLaplace
from tests.linear.dense import Dense, block_diagonal, draw

N, OUT = 30, 3


def network(outputs: int = OUT) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, outputs)).double().eval()


def jacobian(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """J (n, o, D) and θ* (D,), dense."""
    weights = {name: p.detach() for name, p in net.named_parameters()}
    parts = jacrev(lambda w: functional_call(net, w, (x,)))(weights)
    flat = torch.cat([p.reshape(-1) for p in weights.values()])
    return torch.cat([parts[name].flatten(2) for name in weights], 2).detach(), flat


def softmax_blocks(logits: Tensor) -> Tensor:  # (n, o, o)
    """Second derivatives of the cross entropy in the logits, by autograd."""
    label = torch.zeros((), dtype=torch.long)
    loss = lambda f: nn.functional.cross_entropy(f[None], label[None])  # noqa: E731
    return torch.stack([hessian(loss)(f) for f in logits.detach()])


def regression(
    budget: float = 2**28, **settings: object
) -> tuple[nn.Module, Tensor, Tensor, LaplacePosterior]:
    net, x = network(), draw(N, 2, seed=1)
    y = net(x).detach() + 0.3 * draw(N, OUT, seed=2)
    given = {
        "prior_precision": 2.0,
        "noise_variance": 0.2,
        "g_prior": False,
        "tolerance": 1e-10,
        "columns": 2000,
        **settings,
    }
    return net, x, y, LinearisedLaplace(net, **given).fit(x, y, generator=0)


def classification(
    budget: float = 2**28, **settings: object
) -> tuple[nn.Module, Tensor, Tensor, LaplacePosterior]:
    net, x = network(), draw(N, 2, seed=1)
    y = net(x).detach().argmax(1)
    given = {
        "prior_precision": 0.5,
        "refine": False,
        "tolerance": 1e-10,
        "columns": 2000,
        "memory_budget": budget,
        **settings,
    }
    return net, x, y, LinearisedLaplace(net, likelihood="softmax", **given).fit(x, y, generator=0)


@pytest.mark.parametrize("budget", [0, 2**28])
def test_regression_has_the_exact_covariance_and_linear_mean(budget: float) -> None:
    net, x, y, found = regression(budget)
    j, theta = jacobian(net, x)
    d = j.shape[2]
    b = torch.eye(N * OUT, dtype=torch.float64) / 0.2
    dense = Dense(j.reshape(-1, d), b, torch.full((d,), 2.0, dtype=torch.float64))
    pseudo = y - net(x).detach() + j @ theta
    torch.testing.assert_close(found.linear.weights, dense.mean(pseudo), rtol=1e-6, atol=1e-7)
    new = draw(7, 2, seed=3)
    at, _ = jacobian(net, new)
    torch.testing.assert_close(found.mean(new), net(new).detach())
    torch.testing.assert_close(
        found.covariance(new, method="solve"), at @ dense.covariance @ at.mT, rtol=1e-5, atol=1e-8
    )
    noisy = found.variance(new, method="solve", observation_noise=True)
    exact = (at @ dense.covariance @ at.mT).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(noisy, exact + 0.2, rtol=1e-5, atol=1e-8)


def test_classification_has_the_exact_covariance_and_newton_step() -> None:
    net, x, y, found = classification()
    j, theta = jacobian(net, x)
    d = j.shape[2]
    blocks = softmax_blocks(net(x))
    dense = Dense(j.reshape(-1, d), block_diagonal(blocks), torch.full((d,), 0.5, dtype=torch.float64))
    new = draw(7, 2, seed=3)
    at, _ = jacobian(net, new)
    torch.testing.assert_close(
        found.covariance(new, method="solve"), at @ dense.covariance @ at.mT, rtol=1e-5, atol=1e-8
    )
    # one Newton step from θ* on the penalised cross entropy of the linearised network
    free = theta.clone().requires_grad_(True)
    loss = nn.functional.cross_entropy(net(x).detach() + j @ (free - theta), y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss + 0.25 * free.square().sum(), free)
    newton = theta - torch.linalg.solve(dense.hessian, gradient)
    torch.testing.assert_close(found.linear.weights, newton, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("g_prior", [False, True])
def test_refinement_ends_at_the_optimum_of_the_linear_model_with_the_hessian_there(g_prior: bool) -> None:
    settings = {"refine": True, "g_prior": g_prior, "prior_precision": 0.05, "step_tolerance": 1e-7}
    net, x, y, found = classification(**settings)
    assert found.converged
    j, theta = jacobian(net, x)
    free = found.linear.weights.clone().requires_grad_(True)
    logits = net(x).detach() + j @ (free - theta)
    penalty = 0.05 * (free / found.linear.prior_scale).square().sum() / 2
    loss = nn.functional.cross_entropy(logits, y, reduction="sum") + penalty
    (gradient,) = torch.autograd.grad(loss, free)
    assert float((gradient * found.linear.prior_scale).abs().max()) < 1e-5
    a = 0.05 / found.linear.prior_scale**2
    dense = Dense(j.reshape(-1, j.shape[2]), block_diagonal(softmax_blocks(logits)), a)
    new = draw(7, 2, seed=3)
    at, _ = jacobian(net, new)
    exact = at @ dense.covariance @ at.mT
    torch.testing.assert_close(found.covariance(new, method="solve"), exact, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.mean(new), net(new).detach())


def test_refinement_learns_the_prior_precision_at_the_optimum() -> None:
    settings = {
        "refine": True,
        "prior_precision": None,
        "num_samples": 500,
        "tolerance": 1e-5,
        "step_tolerance": 1e-3,
    }
    net, x, _, found = classification(**settings)
    assert found.converged
    j, theta = jacobian(net, x)
    logits = net(x).detach() + j @ (found.linear.weights - theta)
    a = torch.full_like(theta, found.prior_precision)
    gamma = Dense(j.reshape(-1, len(theta)), block_diagonal(softmax_blocks(logits)), a).effective_dimension
    slack = 4 * found.linear.effective_dimension_error / gamma + 3e-3
    assert found.prior_precision == pytest.approx(
        gamma / float(found.linear.weights.square().sum()), rel=slack
    )


@pytest.mark.parametrize("make", [regression, classification])
@pytest.mark.parametrize("g_prior", [False, True])
def test_sampled_covariances_are_within_monte_carlo_error(make: object, g_prior: bool) -> None:
    draws = 1500
    net, x, _, found = make(num_samples=draws, g_prior=g_prior, tolerance=1e-7)
    new = draw(4, 2, seed=3)
    exact = found.covariance(new, method="solve")
    spread = exact.diagonal(dim1=1, dim2=2)
    error = ((exact**2 + spread[:, :, None] * spread[:, None, :]) / draws).sqrt()
    assert float(((found.covariance(new) - exact) / error).abs().max()) < 4.5
    functions = found.samples(new)
    assert functions.shape == (draws, 4, OUT)
    torch.testing.assert_close((functions - net(new).detach()).square().mean(0), found.variance(new))


def test_probabilities_are_the_integrals_they_stand_for() -> None:
    net, x, _, found = classification(num_samples=1500, tolerance=1e-5)
    new = draw(5, 2, seed=3)
    exact = found.covariance(new, method="solve")
    factor = torch.linalg.cholesky(exact + 1e-12 * torch.eye(OUT, dtype=torch.float64))
    logits = net(new).detach() + torch.einsum("mop,smp->smo", factor, draw(20000, 5, OUT, seed=9))
    wanted = logits.softmax(-1).mean(0)
    torch.testing.assert_close(found.predict_proba(new), wanted, rtol=0, atol=0.03)
    probit = found.predict_proba(new, method="probit")
    torch.testing.assert_close(probit.sum(1), torch.ones(5, dtype=torch.float64))
    scaled = net(new).detach() / (1 + torch.pi / 8 * found.variance(new)).sqrt()
    torch.testing.assert_close(probit, scaled.softmax(1))
    map_confidence = net(new).detach().softmax(1).amax(1)
    assert bool((found.predict_proba(new).amax(1) < map_confidence).all())


@pytest.mark.parametrize("make", [regression, classification])
def test_what_is_learnt_is_a_fixed_point_of_the_exact_updates(make: object) -> None:
    draws = 500
    extra = {"noise_variance": None} if make is regression else {}
    net, x, y, found = make(
        prior_precision=None, num_samples=draws, step_tolerance=1e-3, tolerance=1e-5, max_steps=100, **extra
    )
    assert found.converged
    j, theta = jacobian(net, x)
    d = j.shape[2]
    alpha = torch.full((d,), found.prior_precision, dtype=torch.float64)
    if make is regression:
        b = torch.eye(N * OUT, dtype=torch.float64) / found.noise_variance
        pseudo = y - net(x).detach() + j @ theta
    else:
        b = block_diagonal(softmax_blocks(net(x)))
    dense = Dense(j.reshape(-1, d), b, alpha)
    gamma, mean = dense.effective_dimension, found.linear.weights
    slack = 4 * found.linear.effective_dimension_error / gamma + 3e-3
    assert found.effective_dimension == pytest.approx(gamma, rel=slack)
    assert found.prior_precision == pytest.approx(gamma / float(mean @ mean), rel=slack)
    if make is regression:
        misfit = float((pseudo - j @ mean).square().sum())
        assert found.noise_variance == pytest.approx(misfit / (N * OUT - gamma), rel=slack)


def test_the_last_layer_alone_is_bayesian_linear_regression() -> None:
    net, x = network(), draw(N, 2, seed=1)
    y = draw(N, OUT, seed=2)
    settings = {"prior_precision": 1.0, "noise_variance": 1.0, "tolerance": 1e-10}
    found = LinearisedLaplace(net, parameters=["2.weight"], **settings).fit(x, y, generator=0)
    h = torch.tanh(net[0](x)).detach()
    a = torch.eye(6, dtype=torch.float64) + h.T @ h
    mean = torch.linalg.solve(a, h.T @ (y - net[2].bias.detach()))
    torch.testing.assert_close(found.linear.weights.reshape(OUT, 6), mean.T, rtol=1e-6, atol=1e-7)
    exact = torch.einsum("mi,ij,mj->m", h, torch.linalg.inv(a), h)
    torch.testing.assert_close(found.variance(x, method="solve"), exact[:, None].expand(N, OUT))


def test_bad_arguments_are_refused() -> None:
    net, x = network(), draw(N, 2, seed=1)
    classes = torch.zeros(N, dtype=torch.long)
    soft = LinearisedLaplace(net, likelihood="softmax")
    with pytest.raises(InputError, match="likelihood"):
        LinearisedLaplace(net, likelihood="poisson")
    with pytest.raises(InputError, match="noise_variance"):
        LinearisedLaplace(net, likelihood="softmax", noise_variance=1.0)
    with pytest.raises(InputError, match="prior_precision"):
        LinearisedLaplace(net, prior_precision=-1.0)
    with pytest.raises(InputError, match=r"network\.eval"):
        LinearisedLaplace(network().train()).fit(x, draw(N, OUT, seed=2))
    with pytest.raises(DtypeError, match="integer classes"):
        soft.fit(x, draw(N, seed=2))
    with pytest.raises(ShapeError, match="y must be"):
        soft.fit(x, classes[:-1])
    with pytest.raises(InputError, match="classes must be"):
        soft.fit(x, classes + OUT)
    with pytest.raises(InputError, match="classes must be"):
        LinearisedLaplace(network(1), likelihood="softmax").fit(x, classes)
    with pytest.raises(ShapeError, match="network's output"):
        LinearisedLaplace(net).fit(x, draw(N, OUT + 1, seed=2))
    with pytest.raises(DtypeError, match="floating"):
        LinearisedLaplace(net).fit(x, classes)
    found = regression()[3]
    with pytest.raises(InputError, match="softmax"):
        found.predict_proba(x)
    with pytest.raises(InputError, match="observation noise"):
        classification()[3].variance(x, observation_noise=True)
