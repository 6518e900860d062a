"""Tanimoto kernels: scale, noise and mean from few and from many fingerprints, within bounded memory."""

import numpy as np
import pytest
import torch
from gpytorch.kernels import LinearKernel, MaternKernel, RBFKernel, ScaleKernel

from sggp.hyperparameters import (
    exact_log_marginal_likelihood,
    fit_exact,
    fit_nearest_neighbour,
    learn_hyperparameters,
)
from sggp.hyperparameters.coordinates import Coordinates, copy_kernel
from sggp.hyperparameters.gram import gram_function
from sggp.hyperparameters.nearest_neighbour import neighbourhoods as neighbourhoods_module
from sggp.hyperparameters.nearest_neighbour.minibatches import MinibatchLikelihood
from sggp.hyperparameters.nearest_neighbour.neighbourhoods import Neighbourhoods
from sggp.kernels import TanimotoDotProduct, TanimotoMinMax, as_covariance
from sggp.neighbours import earlier_by_similarity
from sggp.random import as_generator, streams


def _fingerprints(n, d=64, seed=0):
    """Counts in clusters, as molecules of a few series have."""
    g = torch.Generator().manual_seed(seed)
    centres = (torch.rand(12, d, generator=g) < 0.3).to(torch.uint8)
    flips = (torch.rand(n, d, generator=g) < 0.08).to(torch.uint8)
    counts = torch.randint(1, 4, (n, d), generator=g).to(torch.uint8)
    return (centres[torch.randint(12, (n,), generator=g)] ^ flips) * counts


def _minmax(x):
    a = x.numpy().astype(float)
    return np.minimum(a[:, None], a[None]).sum(-1) / np.maximum(a[:, None], a[None]).sum(-1)


def _targets(x, *, outputscale, noise, mean, seed=1):
    n = len(x)
    root = np.linalg.cholesky(outputscale * _minmax(x) + noise * np.eye(n))
    return torch.from_numpy(mean + root @ np.random.default_rng(seed).standard_normal(n))


def _similarities_of(found, similarity):
    """Similarities of what was found, in descending order (ties may be broken either way)."""
    return [sorted((similarity[i, j] for j in near if j >= 0), reverse=True) for i, near in enumerate(found)]


def _expected(similarity, k):
    return [sorted(similarity[i, :i], reverse=True)[:k] for i in range(len(similarity))]


@pytest.mark.parametrize("budget", [1, 4000, 2**26])
@pytest.mark.parametrize("rows", ["all", "some"])
def test_similar_earlier_rows_whatever_the_tiles(budget, rows):
    x = _fingerprints(150)
    similarity = _minmax(x)
    chosen = torch.arange(150) if rows == "all" else torch.tensor([0, 3, 70, 71, 149])
    found = earlier_by_similarity(as_covariance(TanimotoMinMax()), x, chosen, 7, budget=budget)
    expected = [_expected(similarity, 7)[i] for i in chosen.tolist()]
    got = [
        sorted((similarity[i, j] for j in near if j >= 0), reverse=True)
        for i, near in zip(chosen.tolist(), found.tolist(), strict=True)
    ]
    for near, best in zip(got, expected, strict=True):
        np.testing.assert_allclose(near, best, atol=1e-6)
    assert all(j < i for i, near in zip(chosen.tolist(), found.tolist(), strict=True) for j in near)


def test_similar_earlier_rows_of_any_kernel_are_those_of_largest_correlation():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(80, 2, generator=g, dtype=torch.float64)
    covariance = as_covariance(
        LinearKernel() + ScaleKernel(RBFKernel(active_dims=[1])) + MaternKernel(nu=0.5, active_dims=[0])
    )
    dense = covariance.block(x, x).numpy()
    deviation = np.sqrt(np.diag(dense))
    correlation = np.abs(dense) / deviation[:, None] / deviation[None]
    found = earlier_by_similarity(covariance, x, torch.arange(80), 5, budget=8000).tolist()
    for got, best in zip(_similarities_of(found, correlation), _expected(correlation, 5), strict=True):
        np.testing.assert_allclose(got, best, atol=1e-12)


@pytest.mark.parametrize("base", [TanimotoMinMax, TanimotoDotProduct])
def test_the_matrix_below_the_scale_is_evaluated_once(base, monkeypatch):
    x = _fingerprints(40)
    kernel = ScaleKernel(base()).double()
    gram, expected = gram_function(kernel), kernel.base_kernel(x).to_dense().double()
    calls = []
    original = type(as_covariance(base())).block
    monkeypatch.setattr(
        type(as_covariance(base())), "block", lambda self, *a: calls.append(1) or original(self, *a)
    )
    for scale in (0.5, 3.0):
        kernel.outputscale = scale
        torch.testing.assert_close(gram(x), scale * expected)
    assert len(calls) == 1
    gram(x).sum().backward()
    (slope,) = torch.autograd.grad(kernel.outputscale, kernel.raw_outputscale)
    assert float(kernel.raw_outputscale.grad) == pytest.approx(float(expected.sum() * slope))
    torch.testing.assert_close(
        gram(x[:7]), 3.0 * expected[:7, :7]
    )  # other rows are not mistaken for the first
    torch.testing.assert_close(gram(x[None, :7])[0], 3.0 * expected[:7, :7])


def test_one_call_learns_from_few_and_from_many_alike():
    """The same data by the exact and by the stochastic likelihood, through the one public call."""
    x = _fingerprints(700)
    y = _targets(x, outputscale=2.0, noise=0.2, mean=-6.0)
    kernel = ScaleKernel(TanimotoMinMax())
    few = learn_hyperparameters(kernel, x, y)
    many = learn_hyperparameters(kernel, x, y, optimizer="nearest-neighbour", generator=0)
    assert (few.method, many.method) == ("exact", "nearest-neighbour")
    assert few.converged
    assert many.converged
    value = exact_log_marginal_likelihood(
        many.kernel, x, y, noise_variance=many.noise_variance, mean=many.mean
    )
    assert few.log_marginal_likelihood - 3 < value < few.log_marginal_likelihood  # of about 1,260 nats
    assert many.hyperparameters["outputscale"] == pytest.approx(few.hyperparameters["outputscale"], rel=0.2)
    assert many.hyperparameters["noise_variance"] == pytest.approx(few.noise_variance, rel=0.5)


def test_rows_are_conditioned_on_a_common_sample_and_on_their_neighbours_each_once():
    x = _fingerprints(150)
    similarity = _minmax(x)
    neighbourhoods = Neighbourhoods(ScaleKernel(TanimotoMinMax()), x, 7)
    rows = torch.tensor([0, 30, 100, 149])
    neighbourhoods.open(rows)
    index, valid = neighbourhoods.members(torch.arange(4))
    for i, own, there in zip(rows.tolist(), index.tolist(), valid.tolist(), strict=True):
        members = [j for j, known in zip(own, there, strict=True) if known]
        assert len(members) == len(set(members))
        assert members[-1] == i
        near = sorted(similarity[i, :i], reverse=True)[:7]
        assert set(range(min(i, 64))) <= set(members)
        late = [j for j in members[:-1] if j >= 64]
        assert all(similarity[i, j] >= near[-1] - 1e-6 for j in late)


@pytest.mark.parametrize("noise", [None, 0.3])
@pytest.mark.parametrize("targets", [1, 2])
def test_the_optimum_is_that_of_the_conditionals(noise, targets):
    """Value and gradient by eigendecompositions are those of a Cholesky factor per row, at every evaluation."""
    x = _fingerprints(60)
    x[7] = x[3]  # repeats
    y = torch.stack([_targets(x, outputscale=2.0, noise=0.2, mean=-6.0, seed=s) for s in range(targets)], 1)
    kernel = ScaleKernel(TanimotoMinMax())
    fit = fit_nearest_neighbour(kernel, x, y, generator=0, neighbours=8, noise_variance=noise)
    assert fit.converged
    order = torch.randperm(60, generator=streams(as_generator(0), "order", "rows")[0])
    duplicate = copy_kernel(kernel)
    learnt = None if noise is not None else 0.1
    coordinates = Coordinates(duplicate, initial_noise=learnt, initial_mean=torch.zeros(targets).double())
    known = None if noise is None else torch.tensor(noise, dtype=torch.float64)
    problem = MinibatchLikelihood(coordinates, Neighbourhoods(duplicate, x[order], 8), y[order], known, None)
    rows = torch.arange(60)
    problem.neighbourhoods.open(rows)
    for record in (fit.trace[0], fit.trace[-1]):
        values = record["values"]
        parts = [np.log([values["outputscale"]]), np.atleast_1d(values["mean"])]
        if noise is None:
            parts.insert(1, np.log([values["noise_variance"]]))
        value, gradient = problem.step(torch.from_numpy(np.concatenate(parts)), rows)
        assert value == pytest.approx(record["value"], abs=1e-8)
        slope = float(gradient[:-targets].abs().max())
        assert slope <= record["gradient_norm"] + 1e-5
    assert slope < 1e-4
    assert abs(fit.trace[0]["value"] - value) > 0.01
    assert fit.log_marginal_likelihood == pytest.approx(60 * targets * value, abs=1e-6)


def test_noise_per_point_is_learnt_around():
    x = _fingerprints(80)
    noise = torch.linspace(0.05, 0.6, 80, dtype=torch.float64)
    y = _targets(x, outputscale=2.0, noise=0.2, mean=-6.0)
    fit = fit_nearest_neighbour(
        ScaleKernel(TanimotoMinMax()), x, y, noise_variance=noise, generator=0, max_steps=20
    )
    assert "steps; mean squared z-score" in fit.message
    assert torch.equal(fit.noise_variance, noise)


def test_a_pool_stands_for_all_rows(monkeypatch):
    """With fewer rows in the pool than in the table the values stay near those of all rows."""
    x = _fingerprints(700)
    y = _targets(x, outputscale=2.0, noise=0.2, mean=-6.0)
    kernel = ScaleKernel(TanimotoMinMax())
    everything = fit_nearest_neighbour(kernel, x, y, generator=0, max_steps=150)
    monkeypatch.setattr(neighbourhoods_module, "_POOL_FROZEN", 350)
    pool = Neighbourhoods(kernel, x).pool(torch.Generator().manual_seed(0))
    assert len(pool) == len(set(pool.tolist())) == 350
    assert pool.tolist() == sorted(pool.tolist())
    part = fit_nearest_neighbour(kernel, x, y, generator=0, max_steps=150)
    values = [
        exact_log_marginal_likelihood(fit.kernel, x, y, noise_variance=fit.noise_variance, mean=fit.mean)
        for fit in (part, everything)
    ]
    assert values[0] == pytest.approx(values[1], abs=4)  # of about 980 nats
    assert part.noise_variance != everything.noise_variance
    assert part.log_marginal_likelihood == pytest.approx(
        everything.log_marginal_likelihood,
        abs=4 * (part.log_marginal_likelihood_error + everything.log_marginal_likelihood_error),
    )


@pytest.mark.parametrize("per_point", [False, True])
def test_the_scale_of_the_targets_does_not_matter(per_point):
    """Neither to L-BFGS nor to Adam, which per-point noise needs and which moves the mean in units of the targets."""
    x = _fingerprints(100)
    y = _targets(x, outputscale=2.0, noise=0.2, mean=-6.0)
    noise = torch.linspace(0.1, 0.4, 100, dtype=torch.float64) if per_point else None
    fits = []
    for unit in (1.0, 1000.0):
        kernel = ScaleKernel(TanimotoMinMax())
        kernel.outputscale = unit**2
        known = None if noise is None else noise * unit**2
        fits.append(
            fit_nearest_neighbour(kernel, x, unit * y, generator=0, noise_variance=known, max_steps=40)
        )
    plain, scaled = fits
    assert abs(plain.mean - float(y.mean())) > 0.02  # the mean has moved
    assert scaled.mean == pytest.approx(1000 * plain.mean, rel=1e-3)
    assert scaled.hyperparameters["outputscale"] == pytest.approx(
        1e6 * plain.hyperparameters["outputscale"], rel=1e-3
    )
    if not per_point:
        assert scaled.noise_variance == pytest.approx(1e6 * plain.noise_variance, rel=1e-3)


def test_estimator_learns_from_fingerprints():
    from sggp import GPRegressor

    x = _fingerprints(200)
    y = _targets(x, outputscale=2.0, noise=0.2, mean=-6.0)
    model = GPRegressor(kernel="tanimoto", random_state=0).fit(x.numpy(), y.numpy())
    exact = fit_exact(ScaleKernel(TanimotoMinMax()), x, y)
    assert model.noise_variance_ == pytest.approx(exact.noise_variance, rel=0.5)  # priors apart
    assert set(model.hyperparameters_) == {
        *("outputscale", "noise_variance", "mean", "unidentified", "without_influence")
    }
