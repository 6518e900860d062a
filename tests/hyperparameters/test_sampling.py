"""Hyperparameters drawn by NUTS, against posteriors on a grid; mixtures, against direct sums."""

import random
import sys

import gpytorch
import numpy as np
import pytest
import torch
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel
from gpytorch.priors import GammaPrior, LogNormalPrior, NormalPrior
from scipy import stats
from scipy.optimize import approx_fprime

from sggp.errors import InputError, MemoryBudgetError, MissingExtra, ShapeError, UnsupportedKernel
from sggp.hyperparameters.problem import CommonOptions, FitProblem
from sggp.hyperparameters.sampling.density import LogDensity
from sggp.hyperparameters.sampling.mixture import MixturePosterior, condition_mixture
from sggp.hyperparameters.sampling.sample import sample_hyperparameters
from sggp.kernels import TanimotoMinMax
from sggp.posterior import condition

pytest.importorskip("pyro")


def _data(n=8, d=1, seed=0, noise=0.3):
    g = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(n, d, generator=g, dtype=torch.float64)
    return x, torch.sin(2 * x[:, 0]) + noise * torch.randn(n, generator=g, dtype=torch.float64)


def _kernel(prior=None):
    kernel = ScaleKernel(RBFKernel(lengthscale_prior=prior)).double()
    kernel.raw_outputscale.requires_grad_(False)
    kernel.outputscale = 1.0
    return kernel


def _covariance(x, lengthscale, noise):
    gap = x.numpy()[:, None, 0] - x.numpy()[None, :, 0]
    return np.exp(-0.5 * gap**2 / lengthscale**2) + noise * np.eye(len(x))


def _log_likelihood(x, y, lengthscale, noise, mean=0.0):
    factor = np.linalg.cholesky(_covariance(x, lengthscale, noise))
    white = np.linalg.solve(factor, y.numpy() - mean)
    return -0.5 * white @ white - np.log(np.diag(factor)).sum() - 0.5 * len(y) * np.log(2 * np.pi)


def _grid_moments(grid, log_density):
    """Mean and standard deviation of a density on an even grid."""
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    mean = (weight * grid).sum()
    return mean, ((weight * (grid - mean) ** 2).sum()) ** 0.5


def _check_moments(values, size, mean, deviation):
    """Sample mean and second moment within four standard errors of the truth, by effective sample size.

    A trajectory of NUTS makes other draws of other last bits, so the size differs between machines; 30 is enough for
    the errors to mean something.
    """
    assert size > 30
    values = values.numpy()
    assert abs(values.mean() - mean) < 4 * deviation / size**0.5
    square = (values - mean) ** 2
    assert abs(square.mean() - deviation**2) < 4 * square.std() / (0.5 * size) ** 0.5


def test_length_scale_draws_follow_the_posterior_on_a_grid():
    x, y = _data()
    prior = GammaPrior(2.0, 1.5)
    draws = sample_hyperparameters(
        _kernel(prior),
        x,
        y,
        noise_variance=0.1,
        mean=0.0,
        num_samples=240,
        thinning=1,
        warmup=80,
        generator=0,
    )
    grid = np.linspace(1e-2, 12, 400)
    log_density = np.array([_log_likelihood(x, y, value, 0.1) for value in grid])
    log_density += stats.gamma.logpdf(grid, 2.0, scale=1 / 1.5)
    size = draws.effective_sample_size["base_kernel.lengthscale"]
    _check_moments(draws.values["base_kernel.lengthscale"], size, *_grid_moments(grid, log_density))
    assert draws.converged
    assert draws.r_hat["base_kernel.lengthscale"] < 1.05
    assert set(draws.values) == {"base_kernel.lengthscale", "outputscale", "mean"}


@pytest.mark.slow  # the length scale alone is drawn below
def test_noise_and_length_scale_draws_follow_the_joint_posterior():
    """The noise under its own prior, the length scale under the documented default."""
    x, y = _data(10)
    draws = sample_hyperparameters(
        _kernel(),
        x,
        y,
        mean=0.0,
        noise_prior=LogNormalPrior(-2.0, 1.0),
        noise_floor=0.0,
        num_samples=200,
        thinning=1,
        warmup=80,
        generator=1,
    )
    u = np.linspace(np.log(1e-3), np.log(200), 45)  # log length scale
    v = np.linspace(np.log(1e-3), np.log(5), 40)  # log noise
    prior = stats.norm.logpdf(u, 0.5 * np.log(x.numpy().var()), 2.0)[:, None]
    prior = prior + stats.lognorm.logpdf(np.exp(v), 1.0, scale=np.exp(-2.0)) + v
    log_density = prior + [[_log_likelihood(x, y, np.exp(a), np.exp(b)) for b in v] for a in u]
    shift = log_density.max()
    for name, grid, axis in (("base_kernel.lengthscale", u, 1), ("noise_variance", v, 0)):
        marginal = np.log(np.exp(log_density - shift).sum(axis=axis))
        size = draws.effective_sample_size[name]
        _check_moments(draws.values[name].log(), size, *_grid_moments(grid, marginal))
    assert torch.equal(draws.values["noise_variance"], draws.noise_variance)


def _density(kernel, x, y, **given):
    return LogDensity(FitProblem.checked(kernel, x, y, CommonOptions(**given)))


KERNELS = [
    ScaleKernel(MaternKernel(nu=1.5, ard_num_dims=2, lengthscale_prior=GammaPrior(3.0, 2.0))),
    ScaleKernel(RBFKernel(), outputscale_prior=LogNormalPrior(0.0, 1.0)) + gpytorch.kernels.LinearKernel(),
    ScaleKernel(RBFKernel(lengthscale_constraint=gpytorch.constraints.Interval(0.1, 9.0))),
]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("known", [True, False])
def test_gradient_agrees_with_finite_differences(kernel, known):
    x, y = _data(12, 2)
    density = _density(
        kernel,
        x,
        y,
        noise_variance=0.1 if known else None,
        mean=0.0 if known else None,
        noise_prior=GammaPrior(1.1, 2.0),
    )
    u = density.coordinates.vector() + 0.2
    _, gradient = density(u)
    numeric = approx_fprime(u.numpy(), lambda v: density(torch.as_tensor(v))[0], 1e-6)
    np.testing.assert_allclose(gradient.numpy(), numeric, atol=2e-5)


def test_density_is_likelihood_times_prior_times_jacobian():
    x, y = _data()
    density = _density(_kernel(GammaPrior(2.0, 1.5)), x, y, noise_variance=0.1, mean=0.0)
    for lengthscale in (0.3, 1.7):
        expected = _log_likelihood(x, y, lengthscale, 0.1) + stats.gamma.logpdf(
            lengthscale, 2.0, scale=1 / 1.5
        )
        value, _ = density(torch.tensor([np.log(lengthscale)], dtype=torch.float64))
        assert value == pytest.approx(expected + np.log(lengthscale), abs=1e-9)


def test_an_unknown_mean_is_integrated_out():
    x, y = _data()
    density = _density(_kernel(), x, y, noise_variance=0.1)
    means = np.linspace(-20, 20, 2001)
    for u in (-0.7, 0.4):
        likelihood = [_log_likelihood(x, y, np.exp(u), 0.1, m) for m in means]
        integral = np.log(np.exp(likelihood).sum() * (means[1] - means[0]))
        prior = -0.5 * ((u - 0.5 * np.log(x.numpy().var())) / 2.0) ** 2
        point = torch.tensor([u], dtype=torch.float64)
        assert density(point)[0] == pytest.approx(integral + prior, abs=1e-6)
        centre, deviation = _grid_moments(means, np.array(likelihood))
        moments = density.moments(point)
        assert (moments.centre, moments.variance**0.5) == pytest.approx((centre, deviation), rel=1e-6)


def test_default_priors_follow_the_units_of_the_data():
    x, y = _data(50, 2)
    x[:, 1] *= 100.0
    kernel = ScaleKernel(RBFKernel(ard_num_dims=2))
    density = _density(kernel, x, 10 * y)
    variance, scale = x.numpy().var(axis=0), 100 * y.numpy().var()
    expected = [np.log(scale), *(0.5 * np.log(2 * variance)), np.log(0.02 * scale)]
    np.testing.assert_allclose(density.centre.numpy(), expected)
    assert density.spread.tolist() == [2.0, 2.0, 2.0, 3.0]
    shared = _density(ScaleKernel(RBFKernel()), x, y, noise_variance=0.1)
    assert float(shared.centre[1]) == pytest.approx(0.5 * np.log(variance.sum()))


def test_no_density_where_the_matrix_has_no_factor_or_out_of_bounds():
    x, y = _data(30)
    density = _density(_kernel(), x, y, noise_variance=0.0)
    assert density(torch.tensor([5.0], dtype=torch.float64)) == (-np.inf, torch.zeros(1).double())
    assert density(torch.tensor([50.0], dtype=torch.float64))[0] == -np.inf


def test_draws_are_reproducible_and_global_states_untouched():
    import pyro

    x, y = _data()
    kernel = ScaleKernel(RBFKernel())
    before = {k: v.clone() for k, v in kernel.state_dict().items()}
    torch.manual_seed(7)
    states = torch.get_rng_state(), random.getstate()
    validation = torch.distributions.Distribution._validate_args
    settings = {"num_samples": 8, "thinning": 1, "warmup": 4}
    first = sample_hyperparameters(kernel, x, y, generator=3, **settings)
    torch.rand(5)
    second = sample_hyperparameters(kernel, x, y, generator=3, **settings)
    torch.manual_seed(7)
    other = sample_hyperparameters(kernel, x, y, generator=4, **settings)
    assert torch.equal(first.coordinates, second.coordinates)
    assert torch.equal(first.mean, second.mean)
    assert not torch.equal(first.coordinates, other.coordinates)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert torch.distributions.Distribution._validate_args == validation
    assert not list(pyro.get_param_store().keys())
    assert all(torch.equal(v, before[k]) for k, v in kernel.state_dict().items())


def test_thinning_keeps_every_kth_of_every_chain_and_reports_progress():
    x, y = _data()
    settings = {"warmup": 10, "generator": 0, "noise_variance": 0.1}
    every = sample_hyperparameters(_kernel(), x, y, num_samples=24, thinning=1, **settings)
    seen = []
    some = sample_hyperparameters(
        _kernel(), x, y, num_samples=7, thinning=3, callback=seen.append, **settings
    )
    assert len(every) == every.transitions == 24
    assert (len(some), some.transitions) == (8, 24)
    assert torch.equal(some.coordinates, every.coordinates[2::3])
    assert some.effective_sample_size == every.effective_sample_size
    assert [record["step"] for record in seen] == list(range(1, 45))
    assert set(seen[-1]["values"]) == {"outputscale", "base_kernel.lengthscale"}


def test_known_noise_and_fingerprints():
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 3, (15, 20), generator=g, dtype=torch.uint8)
    y = x.sum(1).double() + 0.1 * torch.randn(15, generator=g, dtype=torch.float64)
    noise = torch.linspace(0.1, 1.0, 15, dtype=torch.float64)
    draws = sample_hyperparameters(
        ScaleKernel(TanimotoMinMax()), x, y, noise_variance=noise, num_samples=4, warmup=5, generator=0
    )
    assert set(draws.values) == {"outputscale", "mean"}
    assert torch.equal(draws.noise_variance, noise)
    mixture = condition_mixture(draws, x, y, generator=0, dtype=torch.float64)
    assert mixture.mean(x).shape == (15,)
    with pytest.raises(InputError, match="differs between observations"):
        mixture.variance(x, observation_noise=True)


def _two_posteriors(x, y, **settings):
    out = []
    for lengthscale, noise, mean in ((0.5, 0.1, 0.0), (2.0, 0.4, 1.0)):
        kernel = _kernel().requires_grad_(False)
        kernel.base_kernel.lengthscale = lengthscale
        out.append(condition(kernel, x, y, noise_variance=noise, mean=mean, generator=0, **settings))
    return out


def _dense(x, y, z, lengthscale, noise, mean):
    cross = np.exp(-0.5 * (z.numpy()[:, None, 0] - x.numpy()[None, :, 0]) ** 2 / lengthscale**2)
    solved = np.linalg.solve(_covariance(x, lengthscale, noise), cross.T)
    return mean + solved.T @ (y.numpy() - mean), 1.0 - (cross.T * solved).sum(0)


def test_mixture_moments_density_and_distribution_are_direct_sums():
    x, y = _data()
    z = torch.linspace(-1, 3, 7, dtype=torch.float64)[:, None]
    values = torch.linspace(-1, 1, 7, dtype=torch.float64)
    mixture = MixturePosterior(tuple(_two_posteriors(x, y, num_samples=0)), (0.1, 0.4))
    (m1, v1), (m2, v2) = _dense(x, y, z, 0.5, 0.1, 0.0), _dense(x, y, z, 2.0, 0.4, 1.0)
    np.testing.assert_allclose(mixture.mean(z), (m1 + m2) / 2, atol=1e-8)
    second_moment = (v1 + m1**2 + v2 + m2**2) / 2
    np.testing.assert_allclose(mixture.variance(z), second_moment - ((m1 + m2) / 2) ** 2, atol=1e-7)
    np.testing.assert_allclose(
        mixture.variance(z, observation_noise=True), mixture.variance(z) + 0.25, atol=1e-10
    )
    for noisy, extra in ((True, (0.1, 0.4)), (False, (0.0, 0.0))):
        a, b = (stats.norm(m, np.sqrt(v + e)) for m, v, e in zip((m1, m2), (v1, v2), extra, strict=True))
        density = np.log((a.pdf(values) + b.pdf(values)) / 2)
        np.testing.assert_allclose(mixture.log_density(z, values, noisy), density, atol=1e-5)
        np.testing.assert_allclose(
            mixture.cdf(z, values, noisy), (a.cdf(values) + b.cdf(values)) / 2, atol=1e-6
        )


def test_mixture_samples_have_the_moments_of_the_mixture():
    x, y = _data()
    z = torch.linspace(0, 2, 4, dtype=torch.float64)[:, None]
    mixture = MixturePosterior(tuple(_two_posteriors(x, y, num_samples=800)), (0.1, 0.4))
    paths = mixture.samples(z)
    assert paths.shape == (1600, 4)
    assert mixture.samples.num_samples == 1600
    deviation = mixture.variance(z).sqrt()
    assert bool(((paths.mean(0) - mixture.mean(z)).abs() < 4 * deviation / 1600**0.5).all())
    torch.testing.assert_close(paths.var(0), mixture.variance(z), rtol=0.25, atol=0)


def test_mixture_of_draws_uses_each_draw():
    x, y = _data()
    draws = sample_hyperparameters(ScaleKernel(RBFKernel()), x, y, num_samples=6, warmup=10, generator=0)
    mixture = condition_mixture(draws, x, y, num_samples=2, generator=0)
    assert (len(mixture), mixture.samples.num_samples) == (6, 12)
    for i, kernel in enumerate(draws.kernels()):
        assert float(kernel.outputscale) == pytest.approx(float(draws.values["outputscale"][i]))
        single = condition(
            kernel,
            x,
            y,
            noise_variance=float(draws.noise_variance[i]),
            mean=float(draws.mean[i]),
            num_samples=0,
        )
        torch.testing.assert_close(mixture.moments(x)[0][i], single.mean(x))
    assert mixture.noises == tuple(draws.noise_variance.tolist())


def test_what_cannot_be_used_is_refused(monkeypatch):
    x, y = _data()
    with pytest.raises(ShapeError, match="one target"):
        sample_hyperparameters(_kernel(), x, torch.stack([y, y], 1))
    with pytest.raises(InputError, match="four transitions"):
        sample_hyperparameters(_kernel(), x, y, num_samples=2, thinning=1)
    with pytest.raises(InputError, match="all targets are equal"):
        sample_hyperparameters(_kernel(), x, torch.ones(8))
    with pytest.raises(MemoryBudgetError):
        sample_hyperparameters(_kernel(), x, y, memory_budget=10)
    with pytest.raises(InputError, match="nothing to learn"):
        sample_hyperparameters(_kernel().requires_grad_(False), x, y, noise_variance=0.1)
    signed = ScaleKernel(RBFKernel()) + gpytorch.kernels.ConstantKernel(
        constant_constraint=gpytorch.constraints.Interval(-1.0, 1.0), constant_prior=NormalPrior(0.0, 1.0)
    )
    with pytest.raises(UnsupportedKernel, match="raw_constant"):
        sample_hyperparameters(signed, x, y)
    with pytest.raises(InputError, match="at least one"):
        MixturePosterior(())
    with pytest.raises(ShapeError, match="noise"):
        MixturePosterior(tuple(_two_posteriors(x, y, num_samples=0)), (0.1,))
    monkeypatch.setitem(sys.modules, "pyro.infer", None)
    with pytest.raises(MissingExtra, match="mcmc"):
        sample_hyperparameters(_kernel(), x, y)
