"""The subset heuristic, against its definition carried out by hand."""

import gpytorch
import numpy as np
import pytest
import torch
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel

from sggp.errors import InputError, MemoryBudgetError
from sggp.hyperparameters import exact_log_marginal_likelihood, fit_exact, named_kernel
from sggp.hyperparameters.coordinates import lengthscale_columns
from sggp.hyperparameters.exact.subset import _subsets, fit_subset
from sggp.kernels import TanimotoMinMax
from sggp.random import as_generator, streams


def _data(n=120, d=2, seed=0, noise=0.2):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, d, generator=g, dtype=torch.float64) * 3
    x[:, -1] *= 50.0  # a column in other units
    y = torch.sin(2 * x[:, 0]) + 0.01 * x[:, -1] + noise * torch.randn(n, generator=g, dtype=torch.float64)
    return x, y


def _kernel():
    return ScaleKernel(MaternKernel(nu=1.5, ard_num_dims=2))


def _centroids(n, count, seed):
    (stream,) = streams(as_generator(seed), "centroids")
    return torch.randperm(n, generator=stream)[:count].tolist()


def test_values_are_geometric_means_of_exact_fits_on_the_nearest_rows():
    x, y = _data()
    found = fit_subset(_kernel(), x, y, subsets=3, subset_rows=40, generator=5)
    z = x.numpy() / x.numpy().std(axis=0)
    fits, rates = [], []
    # ascending, as there: another order of the same rows rounds otherwise, and may take another number of steps
    rows_of = [np.sort(np.argsort(np.square(z - z[c]).sum(1))[:40]) for c in _centroids(120, 3, 5)]
    for rows in rows_of:
        fits.append(fit_exact(_kernel(), x[rows], y[rows], noise_floor=1e-6 * float(y.var(correction=0))))
    for name in ("outputscale", "base_kernel.lengthscale", "noise_variance"):
        values = np.array([fit.hyperparameters[name] for fit in fits])
        expected = np.exp(np.log(values).mean(axis=0))
        np.testing.assert_allclose(found.hyperparameters[name], expected, rtol=1e-4)
        assert np.ptp(np.log(values), axis=0).max() > 0.05  # the subsets do not agree, so an average is made
    assert found.mean == pytest.approx(np.mean([fit.mean for fit in fits]), rel=1e-4)
    for rows in rows_of:
        value = exact_log_marginal_likelihood(
            found.kernel, x[rows], y[rows], noise_variance=found.noise_variance, mean=found.mean
        )
        rates.append(value / 40)
    assert found.log_marginal_likelihood == pytest.approx(120 * np.mean(rates), rel=1e-6)
    assert found.log_marginal_likelihood_error == pytest.approx(
        120 * np.std(rates, ddof=1) / 3**0.5, rel=1e-6
    )
    assert (found.method, found.steps) == ("subset", sum(fit.steps for fit in fits))
    assert [record["step"] for record in found.trace] == [1, 2, 3]
    last = found.trace[-1]["values"]
    assert last["outputscale"] == pytest.approx(fits[-1].hyperparameters["outputscale"], rel=1e-4)
    assert set(last) == set(found.hyperparameters)


def test_a_subset_of_all_rows_is_the_exact_fit():
    x, y = _data(50)
    found, seen = fit_subset(_kernel(), x, y, subset_rows=50, callback=None), []
    exact = fit_exact(_kernel(), x, y)
    fit_subset(_kernel(), x, y, subset_rows=80, callback=seen.append)
    assert len(found.trace) == len(seen) == 1
    assert found.log_marginal_likelihood == pytest.approx(exact.log_marginal_likelihood, abs=1e-6)
    assert found.converged


def test_columns_constant_in_a_subset_have_no_say_there():
    """Two far groups, of which the second alone shows the second column."""
    g = torch.Generator().manual_seed(1)
    x = torch.rand(80, 3, generator=g, dtype=torch.float64)
    x[:, 1:] = 0.0
    x[40:, 0] += 100.0
    x[40:, 1] = torch.rand(40, generator=g, dtype=torch.float64)
    y = (
        torch.sin(6 * x[:, 0])
        + torch.sin(5 * x[:, 1])
        + 0.1 * torch.randn(80, generator=g, dtype=torch.float64)
    )
    kernel = named_kernel("rbf", 3)
    seed = next(s for s in range(50) if len({c < 40 for c in _centroids(80, 2, s)}) == 2)
    found = fit_subset(kernel, x, y, subsets=2, subset_rows=40, generator=seed)
    scales = {
        group: fit_exact(
            kernel, x[rows], y[rows], noise_floor=1e-6 * float(y.var(correction=0))
        ).hyperparameters["base_kernel.lengthscale"]
        for group, rows in (("first", slice(0, 40)), ("second", slice(40, 80)))
    }
    learnt = found.hyperparameters["base_kernel.lengthscale"]
    assert learnt[0] == pytest.approx((scales["first"][0] * scales["second"][0]) ** 0.5, rel=1e-3)
    assert learnt[1] == pytest.approx(scales["second"][1], rel=1e-3)
    assert scales["first"][1] != pytest.approx(scales["second"][1], rel=0.1)
    assert found.unidentified == {2: "constant"}


def test_columns_constant_in_every_subset_are_named():
    x, y = _data(60)
    x = torch.cat([x, torch.zeros(60, 1, dtype=torch.float64)], dim=1)
    x[0, 2] = 1e6  # an outlier that no subset reaches
    y[0] = 0.0
    kernel = ScaleKernel(RBFKernel(ard_num_dims=3))
    seed = next(s for s in range(50) if 0 not in _centroids(60, 2, s))
    found = fit_subset(kernel, x, y, subsets=2, subset_rows=20, generator=seed)
    assert found.unidentified == {2: "constant in every subset"}
    assert fit_subset(kernel, x, y, subset_rows=60).unidentified == {}


def test_length_scales_know_their_columns():
    first = RBFKernel(ard_num_dims=2, active_dims=[3, 1])
    second = ScaleKernel(MaternKernel(active_dims=[2]))
    columns = lengthscale_columns(ScaleKernel(first + second), [0, 1, 2, 3])
    assert columns[id(first.raw_lengthscale)] == [[3], [1]]
    assert columns[id(second.base_kernel.raw_lengthscale)] == [[2]]
    shared = RBFKernel()
    assert lengthscale_columns(shared, [0, 1]) == {id(shared.raw_lengthscale): [[0, 1]]}


def test_fingerprints_gather_by_similarity():
    g = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 4, (50, 12), generator=g, dtype=torch.uint8)
    a = counts.numpy().astype(int)
    similarity = np.minimum(a[:, None], a[None]).sum(-1) / np.maximum(a[:, None], a[None]).sum(-1)
    (rows,) = _subsets(ScaleKernel(TanimotoMinMax()), counts, 1, 10, torch.Generator().manual_seed(2))
    centroid = int(torch.randperm(50, generator=torch.Generator().manual_seed(2))[0])
    inside = similarity[centroid][rows.numpy()]
    outside = np.delete(similarity[centroid], rows.numpy())
    assert centroid in rows.tolist()
    assert inside.min() >= outside.max()
    y = torch.from_numpy(a.sum(1) / 10.0) + 0.1 * torch.randn(50, generator=g, dtype=torch.float64)
    found = fit_subset(ScaleKernel(TanimotoMinMax()), counts, y, subsets=2, subset_rows=25, generator=0)
    assert set(found.hyperparameters) == {"outputscale", "noise_variance", "mean"}


def test_known_noise_per_point_and_mean_stay():
    x, y = _data(60)
    noise = torch.linspace(0.01, 0.1, 60, dtype=torch.float64)
    found = fit_subset(
        _kernel(), x, y, noise_variance=noise, mean=0.3, subsets=2, subset_rows=30, generator=0
    )
    assert torch.equal(found.noise_variance, noise)
    assert found.mean == pytest.approx(0.3)


def test_same_seed_same_values_and_caller_kernel_untouched():
    x, y = _data(60)
    kernel = _kernel()
    before = {k: v.clone() for k, v in kernel.state_dict().items()}
    first, second, other = (
        fit_subset(kernel, x, y, subsets=2, subset_rows=20, generator=seed).hyperparameters
        for seed in (1, 1, 2)
    )
    assert first == second != other
    assert all(torch.equal(v, before[k]) for k, v in kernel.state_dict().items())


def test_what_cannot_be_used_is_refused():
    x, y = _data(30)
    with pytest.raises(InputError, match="subset_rows"):
        fit_subset(_kernel(), x, y, subset_rows=1)
    with pytest.raises(MemoryBudgetError):
        fit_subset(_kernel(), x, y, memory_budget=1000)
    two_levels = torch.cat([torch.zeros(15), torch.ones(15)]).double()
    apart = torch.cat([x[:15], x[15:] + 1e4])
    with pytest.raises(InputError, match="one target value"):
        fit_subset(_kernel(), apart, two_levels, subsets=2, subset_rows=15, generator=0)
    fixed = ScaleKernel(gpytorch.kernels.RBFKernel()).requires_grad_(False)
    assert fit_subset(fixed, x, y, noise_variance=0.1, subset_rows=10, subsets=2, generator=0).converged
