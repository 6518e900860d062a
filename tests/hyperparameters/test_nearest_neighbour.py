"""The stochastic nearest-neighbour likelihood, against the exact one and against brute force."""

import os
from pathlib import Path

import gpytorch
import numpy as np
import pytest
import torch
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel

from sggp.errors import InputError
from sggp.hyperparameters import (
    choose_optimizer,
    exact_log_marginal_likelihood,
    fit_exact,
    fit_nearest_neighbour,
    learn_hyperparameters,
    named_kernel,
)
from sggp.hyperparameters.coordinates import Coordinates, copy_kernel
from sggp.hyperparameters.merged import MergedData
from sggp.hyperparameters.nearest_neighbour.conditionals import log_conditionals
from sggp.hyperparameters.nearest_neighbour.minibatches import MinibatchLikelihood, search_intervals
from sggp.hyperparameters.nearest_neighbour.neighbourhoods import Neighbourhoods
from sggp.neighbours import earlier_rows


def _data(n=60, d=2, seed=0, noise=0.1):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, d, generator=g, dtype=torch.float64) * 3
    y = torch.sin(2 * x[:, 0]) + 0.5 * x[:, -1] + noise * torch.randn(n, generator=g, dtype=torch.float64)
    return x, y


def _problem(kernel, x, y, count, noise=0.05, mean=0.2):
    duplicate = copy_kernel(kernel)
    coordinates = Coordinates(duplicate, initial_noise=noise, initial_mean=torch.full((y.shape[1],), mean))
    return MinibatchLikelihood(coordinates, Neighbourhoods(duplicate, x, count), y, None, None)


def _brute_force_earlier(score, k):
    """score (n, n), larger is nearer; sets of the k best earlier positions."""
    return [set(np.argsort(-score[i, :i], kind="stable")[:k].tolist()) for i in range(len(score))]


KERNELS = [
    named_kernel("matern32", 2),
    named_kernel("rbf", 2),
    ScaleKernel(RBFKernel(active_dims=[1])) + ScaleKernel(MaternKernel(nu=0.5)),
    ScaleKernel(gpytorch.kernels.PeriodicKernel()),
]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("targets", [1, 2])
def test_all_earlier_rows_as_neighbours_give_the_exact_likelihood(kernel, targets):
    x, y = _data(40)
    y = torch.stack([y, torch.cos(x[:, 0])][:targets], dim=1)
    problem = _problem(kernel, x, y, count=39)
    rows = torch.arange(40)
    problem.neighbourhoods.open(rows)
    total = problem.terms(rows).sum()
    exact = exact_log_marginal_likelihood(kernel, x, y, noise_variance=0.05, mean=0.2)
    assert float(total.detach()) == pytest.approx(exact, abs=1e-7)


def test_merged_repeats_change_neither_the_likelihood_nor_its_gradient():
    x, y = _data(24)
    x = torch.cat([x, x[:10], x[:4]])
    y = torch.stack([torch.cat([y, y[:10] + 0.3, y[:4] - 0.2]), torch.cos(3 * x[:, 0])], dim=1)
    merged = MergedData(x, y)
    kernel = copy_kernel(ScaleKernel(MaternKernel(nu=1.5)))
    coordinates = Coordinates(kernel, initial_noise=0.05, initial_mean=torch.tensor([0.2, 0.1]))
    means = merged.means(y, torch.ones(len(y), dtype=torch.float64))
    problem = MinibatchLikelihood(
        coordinates, Neighbourhoods(kernel, merged.rows, 23), means, None, None, merged
    )
    problem.neighbourhoods.open(torch.arange(24))
    u = coordinates.vector()

    def exact(u):
        coordinates.assign(u)
        with torch.no_grad():
            noise, mean = float(coordinates.noise()), coordinates.raw_mean.clone()
        return exact_log_marginal_likelihood(kernel, x, y, noise_variance=noise, mean=mean) / y.numel()

    steps = 1e-5 * torch.eye(len(u), dtype=torch.float64)
    differences = torch.tensor([(exact(u + e) - exact(u - e)) / 2e-5 for e in steps])
    value, gradient = problem.step(u, torch.arange(24))
    assert value == pytest.approx(exact(u), abs=1e-9)
    torch.testing.assert_close(gradient, differences.to(gradient), rtol=1e-5, atol=1e-8)


def test_a_fit_of_repeated_rows_reports_the_likelihood_of_all_of_them():
    x, y = _data(40)
    x, y = torch.cat([x, x[:20]]), torch.cat([y, y[:20] + 0.2])
    fit = fit_nearest_neighbour(named_kernel("rbf", 2), x, y, neighbours=39, max_steps=10, generator=0)
    known = {"noise_variance": fit.noise_variance, "mean": fit.mean}
    exact = exact_log_marginal_likelihood(fit.kernel, x, y, **known)
    assert fit.log_marginal_likelihood == pytest.approx(exact, abs=1e-6)


def test_per_point_noise_and_a_known_mean_give_the_exact_likelihood_too():
    x, y = _data(30)
    noise, order = torch.linspace(0.02, 0.4, 30, dtype=torch.float64), torch.arange(30)
    kernel = copy_kernel(named_kernel("matern32", 2))
    neighbourhoods = Neighbourhoods(kernel, x, 29)
    mean = torch.tensor([0.4], dtype=torch.float64)
    problem = MinibatchLikelihood(Coordinates(kernel), neighbourhoods, y[:, None], noise, mean)
    neighbourhoods.open(order)
    exact = exact_log_marginal_likelihood(kernel, x, y, noise_variance=noise, mean=0.4)
    assert float(problem.terms(order).sum().detach()) == pytest.approx(exact, abs=1e-8)


def test_per_point_noise_follows_its_rows():
    """A fit reorders the rows; the noise of a row has to move with it."""
    x, y = _data(400, noise=0.0)
    g = torch.Generator().manual_seed(5)
    noise = torch.where(torch.rand(400, generator=g) < 0.5, 4.0, 1e-4).double()
    y = y + noise.sqrt() * torch.randn(400, generator=g, dtype=torch.float64)
    kernel = named_kernel("rbf", 2)
    fit = fit_nearest_neighbour(
        kernel, x, y, noise_variance=noise, generator=0, batch_size=128, max_steps=150
    )
    assert torch.equal(fit.noise_variance, noise)
    exact = fit_exact(kernel, x, y, noise_variance=noise)
    value = exact_log_marginal_likelihood(fit.kernel, x, y, noise_variance=noise, mean=fit.mean)
    assert value > exact.log_marginal_likelihood - 4.0  # rows with another's noise: some hundreds less


def test_gradient_of_the_conditionals():
    g = torch.Generator().manual_seed(1)
    root = torch.randn(3, 5, 5, generator=g, dtype=torch.float64)
    gram = (root @ root.transpose(1, 2)).requires_grad_(True)
    residuals = torch.randn(3, 5, 2, generator=g, dtype=torch.float64).requires_grad_(True)
    noise = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    valid = torch.ones(3, 5, dtype=torch.bool)
    valid[0, :2] = False

    def value(k, r, s):
        return log_conditionals(0.5 * (k + k.transpose(1, 2)), r, s, valid)

    assert torch.autograd.gradcheck(value, (gram, residuals, noise))


def test_minibatch_gradient_is_unbiased():
    """The mean over a partition of the rows is the full gradient, whatever the partition."""
    x, y = _data(60)
    problem = _problem(named_kernel("matern32", 2), x, y[:, None], count=8)
    u = problem.coordinates.vector()
    problem.neighbourhoods.open(torch.arange(60))
    _, full = problem.step(u, torch.arange(60))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    parts = torch.stack([problem.step(u, part)[1] for part in order.split(10)])
    torch.testing.assert_close(parts.mean(dim=0), full, rtol=0, atol=1e-12)
    assert float((parts - full).abs().max()) > 1e-3


def test_gradient_agrees_with_finite_differences():
    x, y = _data(50)
    for kernel in (named_kernel("matern12", 2), KERNELS[2]):
        problem = _problem(kernel, x, y[:, None], count=6)
        rows = torch.arange(50)
        problem.neighbourhoods.open(rows)
        u = problem.coordinates.vector()
        _, gradient = problem.step(u, rows)
        for j in range(len(u)):
            up, down = u.clone(), u.clone()
            up[j] += 1e-5
            down[j] -= 1e-5
            numeric = (problem.step(up, rows)[0] - problem.step(down, rows)[0]) / 2e-5
            assert float(gradient[j]) == pytest.approx(numeric, abs=1e-7)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("step", [1, 7])
def test_earlier_rows_are_the_nearest_earlier_ones(step, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr("sggp.native.library.available", lambda: False)
    g = torch.Generator().manual_seed(0)
    points = torch.randn(500, 3, generator=g, dtype=torch.float64)
    rows = torch.arange(0, 500, step)
    found = earlier_rows(points, rows, 6)
    expected = _brute_force_earlier(-torch.cdist(points, points).numpy(), 6)
    for row, near in zip(rows.tolist(), found.tolist(), strict=True):
        assert set(near) - {-1} == expected[row]
        assert len(set(near) - {-1}) == min(6, row)


def test_fit_comes_close_to_the_exact_optimum():
    x, y = _data(700, 2, noise=0.2)
    kernel = named_kernel("matern32", 2, many_rows=True)
    exact = fit_exact(kernel, x, y)
    fit = fit_nearest_neighbour(kernel, x, y, generator=0, batch_size=128, neighbours=30)
    assert fit.method == "nearest-neighbour"
    value = exact_log_marginal_likelihood(fit.kernel, x, y, noise_variance=fit.noise_variance, mean=fit.mean)
    start = exact_log_marginal_likelihood(
        kernel, x, y, noise_variance=0.1 * float(y.var()), mean=float(y.mean())
    )
    assert start < exact.log_marginal_likelihood - 100
    assert value / 700 == pytest.approx(exact.log_marginal_likelihood / 700, abs=0.015)
    assert fit.noise_variance == pytest.approx(exact.noise_variance, rel=0.1)
    assert fit.log_marginal_likelihood / 700 == pytest.approx(value / 700, abs=0.015)


def test_same_seed_same_fit_and_caller_kernel_untouched():
    x, y = _data(300)
    kernel = named_kernel("rbf", 2)
    before = {k: v.clone() for k, v in kernel.state_dict().items()}
    first = fit_nearest_neighbour(kernel, x, y, generator=3, max_steps=12, batch_size=64)
    second = fit_nearest_neighbour(kernel, x, y, generator=3, max_steps=12, batch_size=64)
    other = fit_nearest_neighbour(kernel, x, y, generator=4, max_steps=12, batch_size=64)
    assert first.hyperparameters == second.hyperparameters
    assert first.hyperparameters != other.hyperparameters
    assert all(torch.equal(v, before[k]) for k, v in kernel.state_dict().items())
    assert first.steps == 12
    assert not first.converged
    assert [record["step"] for record in first.trace] == [5, 10, 12]


def test_priors_and_fixed_parameters_are_honoured():
    x, y = _data(200)
    kernel = ScaleKernel(RBFKernel(lengthscale_prior=gpytorch.priors.NormalPrior(2.0, 1e-3)))
    kernel.base_kernel.lengthscale = 1.9
    kernel.raw_outputscale.requires_grad_(False)
    fit = fit_nearest_neighbour(
        kernel, x, y, generator=0, max_steps=80, batch_size=64, noise_variance=0.01, mean=0.0
    )
    assert fit.hyperparameters["base_kernel.lengthscale"] == pytest.approx(2.0, abs=0.05)
    assert fit.hyperparameters["outputscale"] == pytest.approx(float(kernel.outputscale), rel=1e-6)
    assert (fit.noise_variance, fit.mean) == (0.01, 0.0)


def test_stops_early_when_nothing_moves():
    x, y = _data(400, noise=0.3)
    start = fit_nearest_neighbour(named_kernel("rbf", 2), x, y, generator=0, batch_size=128)
    again = fit_nearest_neighbour(
        start.kernel.requires_grad_(True),
        x,
        y,
        generator=1,
        batch_size=128,
        max_steps=2000,
        learning_rate=0.01,
        initial_noise_variance=start.noise_variance,
    )
    assert again.converged
    assert again.steps < 1000


@pytest.mark.parametrize("counts", [False, True])
def test_tanimoto_learns_scale_noise_and_mean(counts):
    from sggp.kernels import TanimotoMinMax

    g = torch.Generator().manual_seed(0)
    centres = (torch.rand(12, 64, generator=g) < 0.3).to(torch.uint8)
    flips = (torch.rand(500, 64, generator=g) < 0.08).to(torch.uint8)
    x = centres[torch.randint(12, (500,), generator=g)] ^ flips
    if counts:
        x = x * 3
    base = TanimotoMinMax()
    with torch.no_grad():
        gram = base(x.double()).to_dense().double()
        root = torch.linalg.cholesky(2.0 * gram + 0.1 * torch.eye(500, dtype=torch.float64))
    y = 1.5 + root @ torch.randn(500, generator=g, dtype=torch.float64)
    kernel = ScaleKernel(base)
    fit = fit_nearest_neighbour(kernel, x, y, generator=0, batch_size=128)
    exact = fit_exact(kernel, x.double(), y)
    value = exact_log_marginal_likelihood(
        fit.kernel, x.double(), y, noise_variance=fit.noise_variance, mean=fit.mean
    )
    assert value == pytest.approx(exact.log_marginal_likelihood, abs=2.0)  # of about 560 nats
    assert fit.hyperparameters["outputscale"] == pytest.approx(exact.hyperparameters["outputscale"], rel=0.3)
    assert set(fit.hyperparameters) == {"outputscale", "noise_variance", "mean"}


def test_repeats_constant_columns_and_few_rows_are_harmless():
    x, y = _data(100)
    x = torch.cat([x, torch.ones(100, 1, dtype=torch.float64)], dim=1)
    x, y = torch.cat([x, x, x]), torch.cat([y, y, y])
    fit = fit_nearest_neighbour(named_kernel("matern32", 3), x, y, generator=0, max_steps=60, batch_size=64)
    assert fit.unidentified == {2: "constant"}
    assert np.isfinite(fit.log_marginal_likelihood)
    assert all(np.isfinite(fit.hyperparameters["base_kernel.lengthscale"]))
    small = fit_nearest_neighbour(named_kernel("matern32", 3), x[:2], y[:2], generator=0, max_steps=3)
    assert np.isfinite(small.log_marginal_likelihood)


def test_steps_between_searches_add_up():
    for steps in (1, 5, 7, 49, 50, 51, 300):
        sizes = search_intervals(steps)
        assert sum(sizes) == steps
        assert min(sizes) > 0


def test_recipe_is_a_function_of_n():
    assert choose_optimizer(1500) == "exact"
    assert choose_optimizer(1501) == "nearest-neighbour"
    x, y = _data(50)
    forced = learn_hyperparameters(
        named_kernel("rbf", 2), x, y, optimizer="nearest-neighbour", generator=0, max_steps=5
    )
    assert forced.method == "nearest-neighbour"
    with pytest.raises(InputError, match="must be positive"):
        fit_nearest_neighbour(named_kernel("rbf", 2), x, y, neighbours=0)


@pytest.mark.slow
def test_learnt_hyperparameters_beat_the_published_ones_on_pol():
    folder = os.environ.get("SGGP_DATA_DIR")
    if folder is None or not (Path(folder) / "uci" / "pol").exists():
        pytest.skip("SGGP_DATA_DIR does not point at the UCI tables")
    table = np.loadtxt(Path(folder) / "uci" / "pol" / "data.csv.gz", delimiter=",")
    rows = np.random.default_rng(0).permutation(len(table))[:3000]
    x, y = table[rows, :-1], table[rows, -1]
    x = torch.from_numpy((x - x.mean(0)) / np.where(x.std(0) == 0, 1, x.std(0)))
    y = torch.from_numpy((y - y.mean()) / y.std())
    fit = fit_nearest_neighbour(named_kernel("matern32", 26), x, y, generator=0)
    value = exact_log_marginal_likelihood(fit.kernel, x, y, noise_variance=fit.noise_variance, mean=fit.mean)
    assert value / 3000 > 0.6005  # the published hyperparameters, on 3,000 rows
