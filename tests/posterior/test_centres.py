"""A posterior on inducing points against dense algebra, and its samples within their Monte Carlo error."""

from __future__ import annotations

import gpytorch
import pytest
import torch

from sggp.errors import DtypeError, InputError, ShapeError
from sggp.kernels import TanimotoMinMax
from sggp.operators import select_centres
from sggp.posterior import Posterior, condition
from sggp.solvers import ConjugateGradients, StochasticGradientDescent
from tests.oracles import kernel_matrix

NOISE, MEAN = 0.05, 0.3


def matern() -> gpytorch.kernels.Kernel:
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=2)).double()
    kernel.outputscale = 0.7
    kernel.base_kernel.lengthscale = torch.tensor([0.8, 1.6], dtype=torch.float64)
    return kernel


def dense(kernel, a, b) -> torch.Tensor:
    return torch.from_numpy(kernel_matrix(kernel, a, b))


class Oracle:
    """Weights on Z for targets on x, repeats and all: (K_ZX Σ⁻¹ K_XZ + K_ZZ)⁻¹ K_ZX Σ⁻¹, from the textbook."""

    def __init__(self, kernel, x, z, noise) -> None:
        self.kernel, self.x, self.z = kernel, x, z
        self.noise = torch.as_tensor(noise, dtype=torch.float64).expand(len(x))
        cross = dense(kernel, z, x) / self.noise
        self.reach = torch.linalg.solve(cross @ dense(kernel, x, z) + dense(kernel, z, z), cross)

    def mean(self, q, y):
        return MEAN + dense(self.kernel, q, self.z) @ (self.reach @ (y - MEAN))

    def covariance(self, q):
        """Of f⁰(q) − K_qZ·reach·(f⁰(x) + ε), all prior terms Gaussian."""
        w = dense(self.kernel, q, self.z) @ self.reach
        cross = w @ dense(self.kernel, self.x, q)
        data = dense(self.kernel, self.x, self.x) + torch.diag(self.noise)
        return dense(self.kernel, q, q) - cross - cross.T + w @ data @ w.T


@pytest.fixture
def data(generator):
    """x with repeats, y, and test points."""
    x = torch.rand(120, 2, generator=generator, dtype=torch.float64) * 4
    x = torch.cat([x, x[:15]])
    y = torch.sin(2 * x[:, 0]) + 0.2 * torch.randn(135, generator=generator, dtype=torch.float64)
    q = torch.rand(7, 2, generator=generator, dtype=torch.float64) * 4
    return x, y, q


def solved(data, centres, **options) -> Posterior:
    settings = {"noise_variance": NOISE, "mean": MEAN, "generator": 0, "num_samples": 16, "tolerance": 1e-8}
    return condition(matern(), *data[:2], centres=centres, **(settings | options))


@pytest.mark.parametrize("per_point", [False, True])
def test_mean_is_the_dense_one(data, per_point, generator):
    x, y, q = data
    noise = torch.rand(135, generator=generator, dtype=torch.float64) + 0.05 if per_point else NOISE
    z = x[:40] + 0.05
    posterior = solved(data, z, noise_variance=noise)
    torch.testing.assert_close(posterior.mean(q), Oracle(matern(), x, z, noise).mean(q, y), atol=1e-7, rtol=0)
    assert torch.equal(posterior.centres, z)
    assert posterior.x.shape == (120, 2)
    assert "Auto" in posterior.solution.method
    assert "centres=40" in repr(posterior)


def test_every_distinct_input_as_centre_is_the_exact_posterior(data):
    x, y, q = data
    exact = condition(
        matern(), x, y, noise_variance=NOISE, mean=MEAN, generator=0, num_samples=16, tolerance=1e-9
    )
    for centres in (120, x[:120]):
        posterior = solved(data, centres)
        torch.testing.assert_close(posterior.mean(q), exact.mean(q), atol=1e-6, rtol=0)
        torch.testing.assert_close(posterior.samples(q), exact.samples(q), atol=1e-5, rtol=0)


def test_repeated_centres_count_once(data):
    """A repeat adds no function to the span, only a singular matrix."""
    z = data[0][:40]
    once, twice = solved(data, z), solved(data, torch.cat([z, z[:10]]))
    assert torch.equal(twice.centres, z)
    assert twice.solution.notes == ()
    torch.testing.assert_close(once.mean(data[2]), twice.mean(data[2]), rtol=0, atol=1e-7)


def test_samples_have_the_dense_moments(data):
    x, y, q = data
    z = x[:30] + 0.05
    oracle = Oracle(matern(), x, z, NOISE)
    draws, variances = [], []
    for seed in range(40):
        posterior = solved(data, z, generator=seed, num_samples=32, num_features=256)
        draws.append(posterior.samples(q))
        variances.append(posterior.variance(q))
    means = torch.stack([d.mean(0) for d in draws])
    error = means.std(0) / 40**0.5
    assert float(((means.mean(0) - oracle.mean(q, y)) / error).abs().max()) < 5
    wanted = oracle.covariance(q)
    each = torch.stack([(d - posterior.mean(q)).T @ (d - posterior.mean(q)) / 32 for d in draws])
    assert float(((each.mean(0) - wanted) / (each.std(0) / 40**0.5)).abs().max()) < 5
    spread = torch.stack(variances)
    assert float(((spread.mean(0) - wanted.diagonal()) / (spread.std(0) / 40**0.5)).abs().max()) < 5


def test_far_from_the_centres_it_is_the_prior(data):
    posterior = solved(data, data[0][:20], num_samples=400)
    far = torch.tensor([[80.0, -50.0], [60.0, 90.0]], dtype=torch.float64)
    torch.testing.assert_close(posterior.mean(far), torch.full((2,), MEAN, dtype=torch.float64))
    variance, error = posterior.variance(far), posterior.variance_error(far)
    assert bool(((variance - 0.7).abs() < 5 * error).all())
    torch.testing.assert_close(error, variance * (2 / 400) ** 0.5)


@pytest.mark.parametrize(
    ("solver", "tolerance", "error"),
    [(ConjugateGradients(), None, 1e-4), (StochasticGradientDescent(), 1e-3, 5e-2)],
    ids=["cg", "sgd"],
)
def test_iterative_solvers_agree(data, solver, tolerance, error, dtype):
    """The default tolerance is one for the normal equation; primal descent does not get that far."""
    x, y, q = data
    z = x[:25] + 0.05
    settings = {"solver": solver, "tolerance": tolerance, "noise_variance": 1.0, "dtype": dtype}
    posterior = solved(data, z, **settings)
    assert posterior.solution.converged
    wanted = Oracle(matern(), x, z, 1.0).mean(q, y)
    torch.testing.assert_close(posterior.mean(q), wanted, atol=error, rtol=0)


@pytest.mark.parametrize("integer", [False, True])
def test_a_number_of_centres(data, integer, generator):
    x, y, _ = data
    if integer:
        counts = torch.poisson(torch.full((135, 20), 0.3), generator=generator).to(torch.uint8)
        posterior = condition(TanimotoMinMax(), counts, y, noise_variance=NOISE, centres=30, generator=1)
        rows = {tuple(row) for row in counts.tolist()}
        assert all(tuple(row) in rows for row in posterior.centres.tolist())
        assert len(torch.unique(posterior.centres, dim=0)) == 30
    else:
        posterior = solved(data, 30, generator=1)
        again = solved(data, 30, generator=1)
        assert torch.equal(posterior.centres, again.centres)
        assert not torch.equal(posterior.centres, solved(data, 30, generator=2).centres)
    assert posterior.centres.shape == (30, posterior.x.shape[1])
    assert posterior.solution.x.shape == (30, posterior.num_samples + 1)


def test_update_keeps_the_centres_and_starts_warm(data):
    x, y, q = data
    z = select_centres(matern(), x, 30, generator=0)
    solver = ConjugateGradients()
    first = solved((x[:130], y[:130], q), z, solver=solver)
    later = first.update(x[130:], y[130:])
    assert torch.equal(later.centres, z)
    torch.testing.assert_close(later.mean(q), Oracle(matern(), x, z, NOISE).mean(q, y), atol=1e-5, rtol=0)
    same = first.update(x[:1], first.mean(x[:1]), noise_variance=1e9)
    assert same.solution.epochs < first.solution.epochs
    torch.testing.assert_close(later.samples.prior(q), first.samples.prior(q))


def test_save_and_load(data, tmp_path):
    posterior = solved(data, 30)
    posterior.save(tmp_path / "posterior")
    loaded = Posterior.load(tmp_path / "posterior")
    assert torch.equal(loaded.centres, posterior.centres)
    same, q = {"rtol": 0, "atol": 1e-12}, data[2]
    torch.testing.assert_close(loaded.mean(q), posterior.mean(q), **same)
    torch.testing.assert_close(loaded.samples(q), posterior.samples(q), **same)
    torch.testing.assert_close(loaded.variance(q), posterior.variance(q), **same)


def test_more_samples_are_of_the_same_posterior(data):
    posterior = solved(data, 30, num_samples=0)
    more = posterior.more_samples(300, generator=3)
    values = more(data[2])
    error = values.std(0) / 300**0.5
    assert float(((values.mean(0) - posterior.mean(data[2])) / error).abs().max()) < 5


def test_what_would_not_be_exact_is_refused(data):
    posterior = solved(data, 30)
    with pytest.raises(InputError, match="30 centres"):
        posterior.variance(data[2], method="solve")
    with pytest.raises(InputError, match="30 centres"):
        posterior.covariance_matrix(data[2])


def test_misuse_is_told(data, generator):
    x, y, _ = data
    with pytest.raises(ShapeError, match="centres must be"):
        solved(data, x[:5, :1])
    with pytest.raises(InputError, match="NaN"):
        solved(data, x[:5] * float("nan"))
    for bad in (0, -3, 2.5, True, "many"):
        with pytest.raises(InputError, match="centres, unless a tensor"):
            solved(data, bad)
    with pytest.raises(InputError, match="at least one is zero"):
        solved(data, 10, noise_variance=0.0)
    counts = torch.poisson(torch.full((135, 20), 0.3), generator=generator).to(torch.uint8)
    with pytest.raises(DtypeError, match="integer like x"):
        condition(TanimotoMinMax(), counts, y, noise_variance=NOISE, centres=counts[:5].float())
