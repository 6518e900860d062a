"""Left-out predictions against dense conditioning without the row."""

from __future__ import annotations

import gpytorch
import pytest
import torch

from sggp.evidence.leave_one_out import (
    Observed,
    leave_each_out,
    leave_out,
    leave_rows_out,
    predict,
)


def kernel(d: int = 2) -> gpytorch.kernels.Kernel:
    out = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=d)).double()
    out.base_kernel.lengthscale = 0.7
    out.outputscale = 1.7
    return out.requires_grad_(False)


def table(generator: torch.Generator, n: int = 60, repeats: int = 15, targets: int = 2) -> Observed:
    x = torch.rand(n, 2, generator=generator, dtype=torch.float64)
    x = torch.cat([x, x[:repeats], x[: repeats // 3]])
    y = torch.sin(4 * x[:, :1]) + 0.1 * torch.randn(len(x), targets, generator=generator, dtype=torch.float64)
    noise = 0.01 + 0.05 * torch.rand(len(x), generator=generator, dtype=torch.float64)
    return Observed(kernel(), x, y, noise)


def without(observed: Observed, row: int, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and latent variance of one row given some others, by a dense solve."""
    given = given[given != row]
    every = observed.kernel(observed.x).to_dense()
    matrix = every[given][:, given] + observed.noise[given].diag()
    weights = torch.linalg.solve(matrix, every[given, row])
    return weights @ observed.residual[given], every[row, row] - weights @ every[given, row]


@pytest.fixture
def observed(generator):
    return table(generator)


def test_each_row_is_predicted_from_all_others(observed):
    left, everything = leave_each_out(observed), torch.arange(len(observed.x))
    for row in range(0, len(observed.x), 7):
        mean, latent = without(observed, row, everything)
        torch.testing.assert_close(left.mean[row], mean, rtol=1e-9, atol=1e-10)
        assert float(left.latent[row]) == pytest.approx(float(latent), rel=1e-8)
    torch.testing.assert_close(left.variance, left.latent + observed.noise)


def test_all_neighbours_are_all_rows(observed):
    rows = torch.arange(len(observed.x))
    near, exact = leave_rows_out(observed, rows, len(rows)), leave_each_out(observed)
    torch.testing.assert_close(near.mean, exact.mean, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(near.latent, exact.latent, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("direct", [0, 3000])
def test_only_given_rows_are_conditioned_on(observed, direct, monkeypatch):
    """Judged rows are among the given ones or not, with and without repeats that stay."""
    monkeypatch.setattr("sggp.evidence.leave_one_out.DIRECT_ROWS", direct)
    given = torch.arange(0, len(observed.x), 2)
    rows = torch.tensor([0, 1, 2, 33, 60, 61, 77])
    left = leave_out(observed, rows, len(given), given)
    for place, row in enumerate(rows.tolist()):
        mean, latent = without(observed, row, given)
        torch.testing.assert_close(left.mean[place], mean, rtol=1e-9, atol=1e-10)
        assert float(left.latent[place]) == pytest.approx(float(latent), rel=1e-8)


def test_few_neighbours_are_the_nearest(observed):
    rows, k = torch.tensor([3, 20, 40]), 5
    left = leave_rows_out(observed, rows, k)
    distinct = torch.arange(60)
    for place, row in enumerate(rows.tolist()):
        distance = (observed.x[distinct] - observed.x[row]).norm(dim=1)
        distance[row] = torch.inf
        repeats = (observed.x == observed.x[row]).all(dim=1).nonzero()[:, 0]
        nearest = distance.argsort()[: k if len(repeats) > 1 else k + 1][:k]
        given = [other for other in range(len(observed.x)) if other % 60 in nearest and other < 60]
        given += [
            j for j in range(60, len(observed.x)) if bool((observed.x[nearest] == observed.x[j]).all(1).any())
        ]
        given += [int(j) for j in repeats if j != row]
        mean, _ = without(observed, row, torch.tensor(sorted(set(given))))
        torch.testing.assert_close(left.mean[place], mean, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("dense", [0, 1000])
def test_new_rows_are_predicted_as_by_the_whole_table(observed, generator, dense, monkeypatch):
    monkeypatch.setattr("sggp.evidence.leave_one_out._DENSE_ROWS", dense)
    queries = torch.rand(9, 2, generator=generator, dtype=torch.float64)
    mean, latent = predict(observed, queries, len(observed.x))
    matrix = observed.kernel(observed.x).to_dense() + observed.noise.diag()
    cross = observed.kernel(queries, observed.x).to_dense()
    torch.testing.assert_close(
        mean, cross @ torch.linalg.solve(matrix, observed.residual), rtol=1e-9, atol=1e-10
    )
    expected = observed.kernel.outputscale - (cross * torch.linalg.solve(matrix, cross.T).T).sum(1)
    torch.testing.assert_close(latent, expected, rtol=1e-8, atol=1e-12)


def test_kernels_without_a_metric(generator):
    """A sum of kernels: nearest by correlation."""
    base = table(generator)
    both = gpytorch.kernels.AdditiveKernel(kernel(), kernel()).requires_grad_(False)
    observed = Observed(both, base.x, base.residual, base.noise)
    rows = torch.tensor([1, 30, 65])
    near, exact = leave_rows_out(observed, rows, len(base.x)), leave_each_out(observed)
    torch.testing.assert_close(near.mean, exact.mean[rows], rtol=1e-9, atol=1e-10)


def test_exact_up_to_the_direct_rows(observed, monkeypatch):
    rows = torch.tensor([5, 6])
    torch.testing.assert_close(leave_out(observed, rows, 2).mean, leave_each_out(observed).mean[rows])
    monkeypatch.setattr("sggp.evidence.leave_one_out.DIRECT_ROWS", 10)
    torch.testing.assert_close(leave_out(observed, rows, 2).mean, leave_rows_out(observed, rows, 2).mean)


def test_rows_without_noise_stay_finite(generator):
    """Repeats with equal targets and no noise: the others say what the row is."""
    base = table(generator, targets=1)
    y = torch.sin(4 * base.x[:, :1])
    left = leave_rows_out(Observed(base.kernel, base.x, y, torch.zeros(len(y))), torch.arange(len(y)), 40)
    assert bool(torch.isfinite(left.mean).all())
    repeated = torch.arange(60, len(y))
    torch.testing.assert_close(left.mean[repeated], y[repeated], rtol=0, atol=1e-6)
