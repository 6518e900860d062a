"""The gradient from solves against dense float64 algebra, and what a fit by it ends with."""

from __future__ import annotations

import gpytorch
import pytest
import torch
from gpytorch.kernels import MaternKernel, PolynomialKernel, RBFKernel, ScaleKernel
from gpytorch.priors import LogNormalPrior

from sggp.errors import InputError
from sggp.hyperparameters import exact_log_marginal_likelihood, fit_exact, fit_iterative
from sggp.hyperparameters.coordinates import Coordinates, copy_kernel
from sggp.hyperparameters.iterative.gradient import PathwiseGradient
from sggp.hyperparameters.iterative.probes import Probes
from sggp.hyperparameters.iterative.warm_start import WarmSolves
from sggp.hyperparameters.merged import MergedData
from sggp.kernels import TanimotoMinMax
from sggp.posterior import condition
from sggp.preconditioners import NearestNeighbour
from sggp.solvers import (
    AlternatingProjections,
    Cholesky,
    ConjugateGradients,
    StochasticDualDescent,
)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def table(n=60, seed=0, noise=0.2, repeats=0):
    g = seeded(seed)
    x = torch.rand(n, 2, generator=g, dtype=torch.float64) * 3
    if repeats:
        x = torch.cat([x, x[:repeats], x[: repeats // 2]])
    eps = noise * torch.randn(len(x), generator=g, dtype=torch.float64)
    return x, torch.sin(2 * x[:, 0]) + 0.5 * x[:, 1] + eps


def drawn(n, repeats=0, seed=0):
    """Targets drawn from a Gaussian process, so that the likelihood has an optimum that the data tell well."""
    g = seeded(seed)
    x = torch.rand(n, 2, generator=g, dtype=torch.float64) * 4
    root = torch.linalg.cholesky(TRUTH(x).to_dense().detach() + 1e-8 * torch.eye(n, dtype=torch.float64))
    f = root @ torch.randn(n, generator=g, dtype=torch.float64)
    x, f = torch.cat([x, x[:repeats]]), torch.cat([f, f[:repeats]])
    return x, 0.7 + f + 0.2 * torch.randn(len(x), generator=g, dtype=torch.float64)


def scaled(base, lengthscale=None, outputscale=1.5):
    kernel = ScaleKernel(base).double()
    if lengthscale is not None:
        kernel.base_kernel.lengthscale = torch.tensor(lengthscale, dtype=torch.float64)
    kernel.outputscale = outputscale
    return kernel


TRUTH = scaled(MaternKernel(nu=1.5, ard_num_dims=2), [[0.5, 1.0]])


def problem(
    kernel, x, y, seed, *, noise=None, mean=None, probes=32, features=512, start=0.08, solver=None, **more
):
    """A `PathwiseGradient` and its starting coordinates."""
    duplicate = copy_kernel(kernel)
    data = MergedData(x, y[:, None])
    coordinates = Coordinates(duplicate, initial_noise=start if noise is None else None, noise_floor=1e-6)
    solves = WarmSolves(
        solver or Cholesky(),
        data.rows,
        probes + 2,
        dtype=torch.float64,
        memory_budget=2**30,
        max_epochs=more.pop("max_epochs", None),
        generator=seeded(seed),
    )
    draws = Probes(duplicate, data, probes, features, seeded(seed))
    given = None if noise is None else torch.as_tensor(noise, dtype=torch.float64)
    known = None if mean is None else torch.tensor([mean], dtype=torch.float64)
    gradient = PathwiseGradient(coordinates, data, draws, solves, noise=given, mean=known, **more)
    return gradient, coordinates.vector()


def dense_gradient(kernel, x, y, u, *, noise, mean, start=0.08):
    """Autograd through the log density of all rows, as they are, by torch.distributions."""
    duplicate = copy_kernel(kernel)
    coordinates = Coordinates(duplicate, initial_noise=start if noise is None else None, noise_floor=1e-6)
    coordinates.assign(u)
    with gpytorch.settings.lazily_evaluate_kernels(False):
        gram = duplicate(x).to_dense()
    rows = coordinates.noise() if noise is None else torch.as_tensor(noise, dtype=torch.float64)
    h = gram + torch.diag_embed(rows.expand(len(x)))
    if mean is None:  # generalised least squares
        solved = torch.linalg.solve(h, torch.stack([torch.ones_like(y), y], 1))
        mean = solved[:, 1].sum() / solved[:, 0].sum()
    density = torch.distributions.MultivariateNormal(torch.zeros_like(y) + mean, h).log_prob(y)
    priors = [prior.log_prob(value(part)).sum() for _, part, prior, value, _ in duplicate.named_priors()]
    (density + sum(priors)).backward()
    return coordinates.gradient(u)


PRIOR = LogNormalPrior(0.0, 0.3)
PER_POINT = (torch.rand(60, generator=seeded(5), dtype=torch.float64) * 0.2 + 0.02).tolist()
PER_REPEATED = (torch.rand(90, generator=seeded(6), dtype=torch.float64) * 0.2 + 0.02).tolist()
CASES = {
    "matern, noise and mean learnt": (
        scaled(MaternKernel(nu=1.5, ard_num_dims=2), [[0.5, 2.0]]),
        0,
        None,
        None,
    ),
    "rbf, per-point noise": (scaled(RBFKernel(ard_num_dims=2), [[0.4, 0.9]]), 0, PER_POINT, 0.3),
    "repeats": (scaled(MaternKernel(nu=2.5, ard_num_dims=2), [[0.5, 1.0]]), 20, None, None),
    "repeats, per-point noise": (scaled(RBFKernel(), 0.6), 20, PER_REPEATED, None),
    "priors": (scaled(MaternKernel(nu=0.5, lengthscale_prior=PRIOR), 0.7), 0, None, 0.0),
    "sum": (scaled(RBFKernel(active_dims=[0]), 0.6) + scaled(MaternKernel(nu=0.5), 0.8), 20, None, None),
    "no features": (scaled(PolynomialKernel(power=2), outputscale=0.5), 20, None, None),
}


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_unbiased(name):
    """z-scores of the mean over replicates against the dense gradient; the spread is small beside the gradient."""
    kernel, repeats, noise, mean = CASES[name]
    x, y = table(repeats=repeats)
    found = []
    for seed in range(20):
        gradient, u = problem(kernel, x, y, seed, noise=noise, mean=mean, probes=64)
        assert gradient.probes.pathwise is (name != "no features")
        found.append(gradient.estimate(u).gradient)
    stack = torch.stack(found)
    exact = dense_gradient(kernel, x, y, u, noise=noise, mean=mean)
    error = stack.std(dim=0) / len(stack) ** 0.5
    assert float(((stack.mean(dim=0) - exact) / error).abs().max()) < 4
    assert float(error.max()) < 0.05 * float(exact.abs().max())


def test_reported_error_is_that_of_everything_drawn():
    """Against the spread over fresh features, noise and weights, with few features."""
    kernel, *_ = CASES["matern, noise and mean learnt"]
    x, y = table()
    runs = [problem(kernel, x, y, seed, features=100) for seed in range(60)]
    found = [gradient.estimate(u, parts=8) for gradient, u in runs]
    spread = torch.stack([f.gradient for f in found]).std(dim=0)
    reported = torch.stack([f.error for f in found]).square().mean(dim=0).sqrt()
    assert bool(((reported / spread) > 0.75).all())
    assert bool(((reported / spread) < 1.35).all())
    plain = runs[0][0].estimate(runs[0][1])
    torch.testing.assert_close(plain.gradient, found[0].gradient, rtol=1e-8, atol=1e-8)
    assert bool(plain.error.isnan().all())


def test_only_the_scale_learnt_takes_one_product():
    """The shortcut for a frozen base kernel agrees with the general form."""
    x, y = table(repeats=10)
    kernel = scaled(RBFKernel(), 0.6)
    general, u = problem(kernel, x, y, 0)
    kernel.base_kernel.raw_lengthscale.requires_grad_(False)
    short, v = problem(kernel, x, y, 0)
    assert len(v) == len(u) - 1
    torch.testing.assert_close(
        short.estimate(v).gradient, general.estimate(u).gradient[[0, 2]], rtol=1e-9, atol=1e-9
    )


def test_warm_starts_and_kept_preconditioners_save_work():
    x, y = table(400)
    kernel = scaled(MaternKernel(nu=1.5, ard_num_dims=2), [[0.5, 2.0]])
    solver = ConjugateGradients(NearestNeighbour(2))  # some fifty steps, where a better start shows
    warm, u = problem(kernel, x, y, 0, solver=solver, start=0.01)
    first = warm.estimate(u).solved.solution.iterations
    again = warm.estimate(u + 0.02).solved.solution.iterations
    assert warm.solves.builds == 1
    cold, _ = problem(kernel, x, y, 0, solver=solver, start=0.01)
    assert again < cold.estimate(u + 0.02).solved.solution.iterations
    assert again < first
    warm.estimate(u + 0.5)
    assert warm.solves.builds == 2


@pytest.mark.parametrize(
    "solver", [ConjugateGradients(), StochasticDualDescent(), AlternatingProjections(64)], ids=repr
)
def test_any_solver(solver):
    x, y = table(200, repeats=20)
    kernel = scaled(MaternKernel(nu=1.5), 0.5)
    exact, u = problem(kernel, x, y, 0)
    other, _ = problem(kernel, x, y, 0, solver=solver, tolerance=1e-4)
    found, reference = other.estimate(u), exact.estimate(u)
    assert max(found.solved.residuals) < 2e-4
    torch.testing.assert_close(found.gradient, reference.gradient, rtol=1e-3, atol=0.02)


def test_a_budget_is_kept_and_its_residuals_are_told():
    x, y = table(400)
    kernel = scaled(MaternKernel(nu=1.5, ard_num_dims=2), [[0.5, 2.0]])
    gradient, u = problem(kernel, x, y, 0, solver=ConjugateGradients(None), start=0.05, max_epochs=12)
    found = gradient.estimate(u)
    assert found.solved.solution.epochs <= 13
    operator = gradient.solves.operator(gradient.coordinates.kernel, torch.full((400,), 0.05))
    z = gradient.probes.at(gradient.coordinates.kernel, found.row_noise)
    gaps = (z - operator.dense() @ found.solved.probes).norm(dim=0) / z.norm(dim=0)
    assert found.solved.residuals[1] == pytest.approx(float(gaps.mean()), rel=1e-2)
    assert found.solved.residuals[2] == pytest.approx(float(gaps.max()), rel=1e-2)
    assert found.solved.residuals[2] > 1e-3  # the budget was too small to get there
    later = found
    for _ in range(6):
        later = gradient.estimate(u)
    assert later.solved.residuals[1] < 0.75 * found.solved.residuals[1]  # but steps add up


def gap(fit, x, y, best):
    """How far the exact value at a fit is below the optimum, in nats."""
    return best.log_marginal_likelihood - exact_log_marginal_likelihood(
        fit.kernel, x, y, noise_variance=fit.noise_variance, mean=fit.mean
    )


@pytest.fixture(scope="module")
def fitted():
    """A fit of 300 rows from a start far off in every value, and the exact optimum."""
    x, y = drawn(300)
    kernel = scaled(MaternKernel(nu=1.5, ard_num_dims=2), [[3.0, 0.3]], outputscale=0.2)
    best = fit_exact(kernel, x, y, restarts=1, generator=0)
    records = []
    fit = fit_iterative(
        kernel,
        x,
        y,
        initial_noise_variance=0.5,
        num_features=512,
        generator=0,
        callback=lambda r: records.append(dict(r)),
    )
    return x, y, kernel, best, fit, records


def test_fit_reaches_the_exact_optimum(fitted):
    x, y, kernel, best, fit, _ = fitted
    assert fit.converged
    assert fit.method == "iterative"
    assert 0 <= gap(fit, x, y, best) + 1e-6 < 0.25
    assert gap(fit, x, y, best) < 1e-2 * (
        best.log_marginal_likelihood
        - exact_log_marginal_likelihood(kernel, x, y, noise_variance=0.5, mean=None)
    )
    assert float(kernel.outputscale.detach()) == pytest.approx(0.2)  # the caller's kernel is as it was


def test_trace_is_anchored_at_the_value_and_integrated_back_to_the_start(fitted):
    x, y, kernel, _, fit, records = fitted
    start = exact_log_marginal_likelihood(kernel, x, y, noise_variance=0.5, mean=None)
    gain = fit.log_marginal_likelihood - start
    assert fit.trace[-1]["value"] * 300 == pytest.approx(fit.log_marginal_likelihood)
    assert fit.trace[0]["value"] * 300 == pytest.approx(start, abs=0.05 * gain)
    assert records[0]["value"] == 0.0
    assert len(records) == fit.steps
    assert fit.trace[-1]["z_square"] < 1.0
    assert fit.trace[-1]["gradient_error"] > 0
    assert {"target", "probe", "worst_probe"} == set(fit.trace[-1]["residual"])


def test_posterior_is_that_of_condition(fitted):
    x, y, _, _, fit, _ = fitted
    queries = torch.rand(50, 2, generator=seeded(9), dtype=torch.float64) * 3
    other = condition(
        fit.kernel, x, y, noise_variance=fit.noise_variance, mean=fit.mean, generator=1, num_samples=64
    )
    torch.testing.assert_close(fit.posterior.mean(queries), other.mean(queries), rtol=0, atol=1e-5)
    assert fit.posterior.num_samples == 64
    exact = other.variance(queries, method="solve")
    spread = fit.posterior.samples(queries) - fit.posterior.mean(queries)
    ratio = float((spread.square().mean(dim=0) / exact).mean())
    assert ratio == pytest.approx(1.0, abs=0.15)


def test_last_solves_are_the_posterior():
    """The posterior only measures what the last step solved for."""
    x, y = table(500)
    kernel = scaled(MaternKernel(nu=1.5, ard_num_dims=2), [[0.8, 2.0]])
    fit = fit_iterative(
        kernel,
        x,
        y,
        solver=ConjugateGradients(),
        solve_tolerance=(1e-4, 1e-3),
        max_steps=3,
        evaluate=False,
        generator=0,
    )
    assert fit.posterior.solution.converged
    assert fit.posterior.solution.iterations == 0
    assert (
        fit.posterior.options.solver == ConjugateGradients()
    )  # for later solves, as the caller asked for it
    assert fit.log_marginal_likelihood != fit.log_marginal_likelihood  # NaN: it was not asked for
    assert not fit.converged


def test_repeats_and_nearest_neighbour_start():
    x, y = drawn(200, repeats=100)
    kernel = scaled(MaternKernel(nu=1.5, ard_num_dims=2), [[1.0, 1.0]])
    best = fit_exact(kernel, x, y)
    fit = fit_iterative(kernel, x, y, start="nearest-neighbour", num_features=512, generator=0)
    assert fit.steps <= 30
    assert gap(fit, x, y, best) < 0.3
    assert len(fit.posterior.x) == 200


def test_a_kernel_without_features_is_fitted_without_a_posterior():
    x, y = table(80)
    kernel = scaled(PolynomialKernel(power=2), outputscale=0.5)
    fit = fit_iterative(kernel, x, y, generator=0)
    assert fit.posterior is None
    assert gap(fit, x, y, fit_exact(kernel, x, y)) < 0.3


@pytest.mark.slow  # a scale alone, repeats and iterative solvers are above
def test_fingerprints():
    """Integer rows, a kernel with nothing but a scale to learn, an iterative solver in float32."""
    x = torch.randint(0, 3, (150, 30), generator=seeded(2), dtype=torch.uint8)
    kernel = scaled(TanimotoMinMax())
    covariance = kernel(x).to_dense().detach().double() + 0.3 * torch.eye(150, dtype=torch.float64)
    y = torch.linalg.cholesky(covariance) @ torch.randn(150, generator=seeded(3), dtype=torch.float64) - 6
    kernel.outputscale = 0.2
    fit = fit_iterative(kernel, x, y, solver=ConjugateGradients(), num_features=256, generator=0)
    assert fit.converged
    assert gap(fit, x, y, fit_exact(kernel, x, y)) < 0.15
    assert fit.posterior.samples(x[:5]).shape == (64, 5)


def test_several_targets_and_known_values():
    x, y = drawn(100)
    both = torch.stack([y, torch.cos(3 * x[:, 0]) + 0.1 * y], dim=1)
    kernel = scaled(RBFKernel(), 0.6)
    fit = fit_iterative(kernel, x, both, generator=0)
    assert fit.posterior is None
    assert fit.mean.shape == (2,)
    assert gap(fit, x, both, fit_exact(kernel, x, both)) < 0.3
    kernel.requires_grad_(False)
    still = fit_iterative(kernel, x, y, noise_variance=0.04, mean=0.0, generator=0)
    assert still.converged
    assert still.steps == 1
    assert still.noise_variance == 0.04
    torch.testing.assert_close(
        still.posterior.mean(x), condition(kernel, x, y, noise_variance=0.04, num_samples=0).mean(x)
    )


def test_same_seed_same_fit():
    x, y = table(60)
    kernel = scaled(RBFKernel(), 0.6)
    first, second = (fit_iterative(kernel, x, y, max_steps=4, generator=3).hyperparameters for _ in range(2))
    assert first == second


def test_misuse():
    x, y = table(20)
    kernel = scaled(RBFKernel(), 0.6)
    with pytest.raises(InputError, match="num_probes"):
        fit_iterative(kernel, x, y, num_probes=1)
    with pytest.raises(InputError, match="start"):
        fit_iterative(kernel, x, y, start="vecchia")
    twice = torch.cat([x, x[:1]]), torch.cat([y, y[:1]])
    with pytest.raises(InputError, match="more than once"):
        fit_iterative(kernel, *twice, noise_variance=torch.zeros(21), generator=0)
