"""Sampled variances with a local posterior as control, against dense algebra and against their own error bars."""

from __future__ import annotations

import gpytorch
import pytest
import torch

from sggp.kernels import TanimotoDotProduct, TanimotoMinMax, as_covariance
from sggp.native.engines import TORCH
from sggp.posterior import PathwiseSamples, condition
from sggp.posterior.variance import combine, combined_error, local_control, sampled, shared_control
from sggp.solvers import Cholesky, ConjugateGradients

NOISE = 0.01


def matern() -> gpytorch.kernels.Kernel:
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=2)).double()
    kernel.outputscale = 0.7
    kernel.base_kernel.lengthscale = torch.tensor([0.5, 0.9], dtype=torch.float64)
    return kernel


def dense(kernel, a, b) -> torch.Tensor:
    with gpytorch.settings.lazily_evaluate_kernels(False):
        return kernel(a, b).to_dense().detach().double()


@pytest.fixture
def data(generator):
    x = torch.rand(400, 2, generator=generator, dtype=torch.float64) * 4
    q = torch.rand(30, 2, generator=generator, dtype=torch.float64) * 4.4 - 0.2
    return x, torch.sin(x).sum(1), q


def exact_variance(kernel, x, q) -> torch.Tensor:
    cross = dense(kernel, x, q)
    h = dense(kernel, x, x) + NOISE * torch.eye(len(x), dtype=torch.float64)
    return dense(kernel, q, q).diagonal() - (cross * torch.linalg.solve(h, cross)).sum(0)


def solved(data, generator=0, num_samples=64, **settings):
    settings.setdefault("solver", Cholesky())
    return condition(
        matern(), *data[:2], noise_variance=NOISE, num_samples=num_samples, num_features=4096, generator=generator,
        **settings,
    )  # fmt: skip


def molecules(generator, n):
    present = torch.rand(n, 256, generator=generator) < 0.08
    return (present * torch.randint(1, 4, (n, 256), generator=generator)).to(torch.uint8)


def test_combination_is_the_likeliest(generator):
    """Against the likelihood on a grid."""
    total = torch.rand(50, generator=generator, dtype=torch.float64) + 0.1
    share = torch.rand(50, generator=generator, dtype=torch.float64) * 0.9 + 0.05
    chi = (torch.randn(2, 64, 50, generator=generator, dtype=torch.float64)).square().mean(1)
    plain, difference = chi[0] * share * total, chi[1] * (1 - share) * total
    grid = torch.linspace(1e-4, 1 - 1e-4, 20001, dtype=torch.float64)[:, None] * total
    rest = total - grid
    log_likelihood = -(grid.log() + plain / grid + rest.log() + difference / rest)
    likeliest = grid.gather(0, log_likelihood.argmax(0, keepdim=True))[0]
    assert bool(((combine(plain, difference, total) - likeliest).abs() < 1.1e-4 * total).all())


def test_combination_has_the_right_gradient(generator):
    arguments = [
        torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([0.3, 0.5], [0.8, 0.1], [1.0, 0.7])
    ]
    assert torch.autograd.gradcheck(combine, arguments, eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("kind", ["matern", "tanimoto"])
def test_local_control_is_the_posterior_given_the_nearest_rows(kind, generator):
    if kind == "matern":
        kernel, x = matern(), torch.rand(200, 2, generator=generator, dtype=torch.float64)
        q = torch.rand(5, 2, generator=generator, dtype=torch.float64)
        closeness = -((q[:, None] - x[None]) / kernel.base_kernel.lengthscale.detach()).norm(dim=2)
    else:
        kernel, x, q = TanimotoMinMax(), molecules(generator, 200), molecules(generator, 5)
        closeness = dense(kernel, q.double(), x.double())
    covariance = as_covariance(kernel, dtype=torch.float64)
    noise = torch.rand(200, generator=generator, dtype=torch.float64) * 0.1 + 0.01
    targets, prior = (
        torch.randn(200, 3, generator=generator).double(),
        torch.randn(5, 3, generator=generator).double(),
    )
    total, deviations = local_control(covariance, covariance.prepare(x), noise, targets, q, prior, 12)
    for i in range(5):
        rows = closeness[i].topk(12).indices
        near = x[rows].double()
        h = dense(kernel, near, near) + torch.diag(noise[rows])
        cross = dense(kernel, near, q[i : i + 1].double())[:, 0]
        weights = torch.linalg.solve(h, cross)
        own = dense(kernel, q[i : i + 1].double(), q[i : i + 1].double())[0, 0]
        assert float(total[i]) == pytest.approx(float(own - cross @ weights), abs=1e-10)
        torch.testing.assert_close(deviations[i], prior[i] - weights @ targets[rows], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", [TanimotoMinMax, TanimotoDotProduct])
def test_fingerprints_in_floats_are_gathered_as_the_bytes_they_are(kind, generator, monkeypatch):
    """As counts where both sides are counts, in float64 where one side has fractions; the posterior is the same."""
    covariance = as_covariance(gpytorch.kernels.ScaleKernel(kind()), dtype=torch.float64)
    x, q = molecules(generator, 60), molecules(generator, 4)
    noise = torch.full((60,), NOISE, dtype=torch.float64)
    targets = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    prior = torch.zeros(4, 3, dtype=torch.float64)
    seen, small_blocks = [], type(covariance).small_blocks

    def watched(self, rows):
        seen.append(rows.dtype)
        return small_blocks(self, rows)

    monkeypatch.setattr(type(covariance), "small_blocks", watched)

    def local(rows, queries):
        return local_control(covariance, covariance.prepare(rows), noise, targets, queries, prior, 60)

    expected = local(x, q)
    halves = local(x.double() / 2, q.double() / 2)
    for found in (local(x.double(), q), local(x, q.float()), local(x.float(), q.double()), halves):
        torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-7)
    assert seen == [torch.uint8, torch.float64, *[torch.uint8] * 3]
    mixed = torch.cat([q[:2].double() / 2, q[2:].double()])
    alone = torch.cat([local(x, mixed[i : i + 1].expand(4, -1))[0][:1] for i in range(4)])
    torch.testing.assert_close(local(x, mixed)[0], alone, rtol=0, atol=1e-9)
    cross, own = covariance.block(x.double(), mixed).double(), covariance.block(x).double()
    solved_for = torch.linalg.solve(own + NOISE * torch.eye(60), cross)
    torch.testing.assert_close(alone, own[0, 0] - (cross * solved_for).sum(0), rtol=0, atol=1e-6)


def test_sixty_four_samples_are_as_good_as_a_thousand_plain_ones(data):
    """The error over independent posteriors is what is reported, and below √(2/1000), that of a thousand plain ones."""
    x, _, q = data
    exact = exact_variance(matern(), x, q)
    posteriors = [solved(data, generator=seed) for seed in range(25)]
    ratios = torch.stack([p.variance(q, method="samples") / exact - 1 for p in posteriors])
    claimed = torch.stack([p.variance_error(q) / exact for p in posteriors])
    spread = float(ratios.square().mean().sqrt())
    assert spread < (2 / 1000) ** 0.5
    assert spread / float(claimed.square().mean().sqrt()) == pytest.approx(1.0, abs=0.35)
    assert bool((ratios.mean(0).abs() < 0.03).all())


def test_error_never_exceeds_the_plain_one(generator):
    value, total = (torch.tensor(v, dtype=torch.float64) for v in ([0.5, 1e-3, 0.2], [0.5, 1.0, 0.3]))
    error = combined_error(value, total, 64)
    assert float(error[0]) == 0
    assert bool((error <= (2 / 64) ** 0.5 * value).all())
    assert float(error[1]) == pytest.approx((2 / 64) ** 0.5 * 1e-3, rel=1e-5)


def test_sampled_variance_is_differentiable(data):
    posterior = solved(data, num_samples=16)
    q = data[2][:3].clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(posterior.variance(q, method="samples").sum(), q)
    for i, j in ((0, 0), (2, 1)):
        step = torch.zeros_like(q)
        step[i, j] = 1e-6
        with torch.no_grad():
            above, below = (posterior.variance(q + sign * step, method="samples").sum() for sign in (1, -1))
            change = (above - below) / 2e-6
        assert float(slope[i, j]) == pytest.approx(float(change), rel=1e-4)


def test_solved_variance_does_not_hang_on_the_tolerance(data):
    """An iterative solver at a loose tolerance: within 5 % of the exact variance and never below it."""
    x, _, q = data
    exact = exact_variance(matern(), x, q)
    loose = solved(data, num_samples=0, solver=ConjugateGradients(None), tolerance=1e-1)
    found = loose.variance(q, method="solve")
    assert bool((found >= exact * (1 - 1e-9)).all())
    assert bool((found <= 1.05 * exact).all())
    joint = loose.covariance_matrix(q)
    torch.testing.assert_close(joint.diagonal(), found, rtol=1e-6, atol=0)


def test_the_engine_and_torch_find_the_same(data, generator, monkeypatch):
    x, _, q = data
    covariance = as_covariance(matern())
    targets = torch.randn(len(x), 8, generator=generator, dtype=torch.float64)
    prior = torch.randn(len(q), 8, generator=generator, dtype=torch.float64)
    noise = torch.full((len(x),), NOISE, dtype=torch.float64)
    arguments = (covariance, covariance.prepare(x), noise, targets, q, prior, 16)
    fused = local_control(*arguments)
    monkeypatch.setattr("sggp.posterior.variance.local.engine", lambda *_: TORCH)
    for found, expected in zip(fused, local_control(*arguments), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_values_of_samples_are_held_for_a_block_of_points(data, monkeypatch):
    posterior = solved(data, num_samples=16)
    q = data[2]
    value, error = posterior.variance(q, method="samples"), posterior.variance_error(q)
    seen, prior = [], PathwiseSamples.prior

    def watched(samples, points):
        seen.append(len(points))
        return prior(samples, points)

    monkeypatch.setattr("sggp.posterior.variance.sampled._SAMPLED_BYTES", 7 * 16 * 8)
    monkeypatch.setattr(PathwiseSamples, "prior", watched)
    torch.testing.assert_close(posterior.variance(q, method="samples"), value, rtol=1e-9, atol=0)
    assert seen == [7, 7, 7, 7, 2]
    torch.testing.assert_close(posterior.variance_error(q), error, rtol=1e-9, atol=0)
    assert posterior.variance(q[:0], method="samples").shape == (0,)


class _WithoutFactor:
    """A covariance whose small block of the second query is indefinite, as a wrong kernel's is."""

    def __init__(self, inner) -> None:
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def small_blocks(self, rows):
        blocks = self.inner.small_blocks(rows)
        blocks[1, :-1, :-1] -= 3
        return blocks


@pytest.mark.parametrize("gradient", [False, True])
def test_rows_without_a_factor_leave_the_prior(data, generator, gradient):
    x, _, q = data
    covariance = as_covariance(matern())
    targets = torch.randn(len(x), 8, generator=generator, dtype=torch.float64)
    prior = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    noise = torch.full((len(x),), NOISE, dtype=torch.float64)
    queries = q[:3].clone().requires_grad_(gradient)
    arguments = (covariance.prepare(x), noise, targets, queries, prior, 16)
    found, deviations = local_control(_WithoutFactor(covariance), *arguments)
    right, expected = local_control(covariance, *arguments)
    assert float(found[1].detach()) == pytest.approx(0.7)
    assert torch.equal(deviations[1], prior[1])
    others = [0, 2]
    torch.testing.assert_close(found[others], right[others])
    torch.testing.assert_close(deviations[others], expected[others])
    if gradient:
        (slope,) = torch.autograd.grad(found.sum() + deviations.sum(), queries)
        assert bool(torch.isfinite(slope).all())


def test_shared_control_is_the_posterior_given_the_rows_of_the_cell(generator):
    """Against `local_control` with the same rows for every point, and what it says beside all rows."""
    kernel, x = matern(), torch.rand(200, 2, generator=generator, dtype=torch.float64)
    covariance = as_covariance(kernel, dtype=torch.float64)
    noise = torch.rand(200, generator=generator, dtype=torch.float64) * 0.1 + 0.01
    targets = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    groups, learnt = (torch.rand(4, 5, k, generator=generator, dtype=torch.float64) for k in (2, 3))
    near = torch.stack([torch.randperm(200, generator=generator)[:12] for _ in range(4)])
    given = covariance, covariance.prepare(x), noise, targets
    total, rest = shared_control(*given, groups, learnt, near)
    flat, zero = groups.flatten(0, 1), torch.zeros(20, 3, dtype=torch.float64)
    expected, h = local_control(*given, flat, zero, near.repeat_interleave(5, 0))
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(rest, (h + learnt.flatten(0, 1)).square().mean(1))


@pytest.mark.parametrize("density", [0.7, 5.0])
def test_cells_leave_what_they_cannot_say_to_single_points(density, generator, monkeypatch):
    """Errors are as stated, at most a quarter of the plain one where points have no samples of their own."""
    x = torch.rand(700, 2, generator=generator, dtype=torch.float64) * 4
    y = torch.randn(700, generator=generator, dtype=torch.float64)
    x[600:] += 30.0  # a second cluster, so that some cells hold points of both
    posterior = solved((x, y))
    q = x[torch.randint(700, (int(density * 700),), generator=generator)]
    q = q + 0.1 * torch.randn(q.shape, generator=generator, dtype=torch.float64)
    monkeypatch.setattr(sampled, "_SORTED_ROWS", 64)
    single: list[int] = []
    one_by_one = sampled.SampledVariance._one_by_one

    def watched(self, block, weights):
        single.append(len(block))
        return one_by_one(self, block, weights)

    monkeypatch.setattr(sampled.SampledVariance, "_one_by_one", watched)
    found, error = posterior.variance(q, method="samples"), posterior.variance_error(q)
    assert 0 < sum(single) < len(q)  # of both calls
    exact = exact_variance(matern(), x, q)
    allowed = error.maximum(1e-3 * exact)  # it is next to nothing where a cell takes all rows that matter
    assert float(((found - exact) / allowed).square().mean().sqrt()) < 1.5
    assert float((error / exact).max()) <= 1.2 * (2 / 64) ** 0.5
    mean, again = posterior.mean_and_variance(q, method="samples")
    torch.testing.assert_close(mean, posterior.mean(q))
    assert torch.equal(again, found)
