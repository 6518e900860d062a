"""The exact marginal likelihood, against scikit-learn, GPyTorch and finite differences."""

import gpytorch
import numpy as np
import pytest
import torch
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel
from gpytorch.priors import GammaPrior, LogNormalPrior
from scipy.optimize import approx_fprime
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as sk

from sggp.errors import DtypeError, InputError, MemoryBudgetError, ShapeError, UnsupportedKernel
from sggp.hyperparameters import exact_log_marginal_likelihood, fit_exact, learn_hyperparameters, named_kernel
from sggp.hyperparameters.coordinates import Coordinates, copy_kernel
from sggp.hyperparameters.exact.objective import Objective
from sggp.hyperparameters.gram import gram_function
from sggp.hyperparameters.problem import FitProblem


def _data(n=60, d=2, seed=0, noise=0.1):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, d, generator=g, dtype=torch.float64) * 3
    y = torch.sin(2 * x[:, 0]) + 0.5 * x[:, -1] + noise * torch.randn(n, generator=g, dtype=torch.float64)
    return x, y


def _scaled(base, lengthscale, outputscale):
    kernel = ScaleKernel(base).double()
    kernel.base_kernel.lengthscale = torch.as_tensor(lengthscale, dtype=torch.float64)
    kernel.outputscale = torch.tensor(outputscale, dtype=torch.float64)
    return kernel


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            _scaled(MaternKernel(nu=1.5, ard_num_dims=2), [0.7, 1.9], 1.7),
            1.7 * sk.Matern([0.7, 1.9], nu=1.5),
        ),
        (_scaled(MaternKernel(nu=0.5), 0.8, 0.6), 0.6 * sk.Matern(0.8, nu=0.5)),
        (_scaled(MaternKernel(nu=2.5), 0.8, 0.6), 0.6 * sk.Matern(0.8, nu=2.5)),
        (_scaled(RBFKernel(), 0.9, 2.0), 2.0 * sk.RBF(0.9)),
    ],
)
@pytest.mark.parametrize("apart", [0.0, 1e5])
def test_value_agrees_with_scikit_learn(ours, theirs, apart):
    """Also of two crowds far from each other, within which rows are near."""
    x, y = _data()
    x[:30] += apart
    reference = GaussianProcessRegressor(theirs, alpha=0.03, optimizer=None).fit(x.numpy(), y.numpy())
    value = exact_log_marginal_likelihood(ours, x, y, noise_variance=0.03)
    assert value == pytest.approx(reference.log_marginal_likelihood_value_, abs=1e-8)


def test_profiled_mean_maximises_the_likelihood():
    x, y = _data()
    x[:50] *= 0.02  # most rows say the same, so the best mean is not the average
    y = torch.sin(2 * x[:, 0]) + 3.0

    def value(mean):
        return exact_log_marginal_likelihood(named_kernel("rbf", 2), x, y, noise_variance=0.1, mean=mean)

    best, grid = value(None), [value(m) for m in np.linspace(2, 5, 301)]
    assert max(grid) <= best + 1e-10
    assert max(grid) == pytest.approx(best, abs=1e-3)
    assert value(float(y.mean())) < best - 0.01


@pytest.mark.parametrize("name", ["matern12", "matern32", "matern52", "rbf"])
@pytest.mark.parametrize("targets", [1, 2])
def test_gradient_agrees_with_finite_differences(name, targets):
    x, y = _data(30, 3)
    y = torch.stack([y, torch.cos(3 * x[:, 1])][:targets], dim=1)
    kernel = copy_kernel(named_kernel(name, 3))
    coordinates = Coordinates(kernel, initial_noise=0.05, noise_floor=1e-6)
    problem = FitProblem.checked(kernel, x, y)
    objective = Objective(coordinates, problem, problem.trace())
    u = coordinates.vector().numpy() + np.array([0.3, -0.2, 0.1, 0.4, -0.3])
    _, gradient = objective(u)
    numeric = approx_fprime(u, lambda v: objective(v)[0], 1e-6)
    np.testing.assert_allclose(gradient, numeric, atol=2e-6)


def test_closed_form_gram_matches_the_kernel_itself():
    x, _ = _data(20, 3)
    for base in (
        RBFKernel(ard_num_dims=3),
        MaternKernel(nu=1.5, ard_num_dims=3),
        gpytorch.kernels.RQKernel(),
    ):
        kernel = ScaleKernel(base).double()
        kernel.outputscale = 1.3
        dense = kernel(x).to_dense()
        torch.testing.assert_close(gram_function(kernel)(x), dense, rtol=0, atol=1e-12)
        torch.testing.assert_close(
            gram_function(kernel)(x.reshape(4, 5, 3))[2], dense[10:15, 10:15], rtol=0, atol=1e-12
        )


def test_optimum_is_at_least_scikit_learns():
    x, y = _data(80, 2, noise=0.2)
    y = (y - y.mean()) / y.std(correction=0)
    reference = GaussianProcessRegressor(
        sk.ConstantKernel(1.0) * sk.RBF([1.0, 1.0]) + sk.WhiteKernel(0.1),
        n_restarts_optimizer=2,
        random_state=0,
    ).fit(x.numpy(), y.numpy())
    kernel = ScaleKernel(RBFKernel(ard_num_dims=2))
    fit = fit_exact(kernel, x, y, mean=0.0, restarts=2, generator=0)
    assert fit.converged
    assert fit.gradient_norm < 1e-4
    assert fit.log_marginal_likelihood >= reference.log_marginal_likelihood_value_ - 1e-3
    again = exact_log_marginal_likelihood(fit.kernel, x, y, noise_variance=fit.noise_variance)
    assert fit.log_marginal_likelihood == pytest.approx(again, abs=1e-8)


def test_caller_kernel_is_untouched_and_trace_is_kept():
    x, y = _data()
    kernel = ScaleKernel(RBFKernel())
    before = {k: v.clone() for k, v in kernel.state_dict().items()}
    fit = fit_exact(kernel, x, y)
    assert all(torch.equal(v, before[k]) for k, v in kernel.state_dict().items())
    assert fit.kernel is not kernel
    assert fit.trace[-1]["value"] >= fit.trace[0]["value"]
    assert {"outputscale", "base_kernel.lengthscale", "noise_variance", "mean"} == set(fit.hyperparameters)


def test_priors_and_constraints_are_honoured():
    x, y = _data()
    free = fit_exact(ScaleKernel(RBFKernel()), x, y).hyperparameters["base_kernel.lengthscale"]
    tight = ScaleKernel(RBFKernel(lengthscale_prior=gpytorch.priors.NormalPrior(5.0, 1e-3)))
    assert fit_exact(tight, x, y).hyperparameters["base_kernel.lengthscale"] == pytest.approx(5.0, abs=0.05)
    bounded = ScaleKernel(RBFKernel(lengthscale_constraint=gpytorch.constraints.Interval(0.01, 0.5 * free)))
    assert fit_exact(bounded, x, y).hyperparameters["base_kernel.lengthscale"] == pytest.approx(
        0.5 * free, rel=1e-3
    )
    above = ScaleKernel(RBFKernel(lengthscale_constraint=gpytorch.constraints.GreaterThan(2 * free)))
    assert fit_exact(above, x, y).hyperparameters["base_kernel.lengthscale"] >= 2 * free * (
        1 - 1e-6
    )  # rounded
    frozen = ScaleKernel(RBFKernel())
    frozen.base_kernel.lengthscale = 0.123
    frozen.base_kernel.raw_lengthscale.requires_grad_(False)
    assert fit_exact(frozen, x, y).hyperparameters["base_kernel.lengthscale"] == pytest.approx(
        0.123, rel=1e-6
    )


@pytest.mark.parametrize(
    "lengthscale",
    [GammaPrior(3.0, 6.0), LogNormalPrior(0.4, 0.7), LogNormalPrior(0.4, 0.7, transform=torch.square)],
    ids=["gamma", "log-normal", "log-normal of the square"],
)
def test_map_objective_is_gpytorchs(lengthscale):
    x, y = _data(40)
    kernel = ScaleKernel(RBFKernel(lengthscale_prior=lengthscale), outputscale_prior=GammaPrior(2.0, 0.15))
    fit = fit_exact(kernel, x, y, noise_variance=0.02, mean=0.0)

    class Model(gpytorch.models.ExactGP):
        def __init__(self, likelihood):
            super().__init__(x, y, likelihood)
            self.mean_module, self.covar_module = gpytorch.means.ZeroMean(), fit.kernel

        def forward(self, z):
            return gpytorch.distributions.MultivariateNormal(self.mean_module(z), self.covar_module(z))

    likelihood = gpytorch.likelihoods.FixedNoiseGaussianLikelihood(
        torch.full((40,), 0.02, dtype=torch.float64)
    )
    model = Model(likelihood).train()
    with gpytorch.settings.fast_computations(False, False, False):
        value = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)(model(x), y)
    assert fit.trace[-1]["value"] == pytest.approx(float(value), abs=1e-7)


def test_any_kernel_is_learnt():
    x, y = _data(40)
    kernel = ScaleKernel(gpytorch.kernels.PeriodicKernel()) + gpytorch.kernels.LinearKernel()
    fit = fit_exact(kernel, x, y)
    assert fit.converged
    assert fit.log_marginal_likelihood > exact_log_marginal_likelihood(kernel, x, y, noise_variance=0.1)


def test_known_noise_per_point_and_known_mean_stay():
    x, y = _data()
    noise = torch.linspace(0.01, 0.3, len(x), dtype=torch.float64)
    fit = fit_exact(named_kernel("matern32", 2), x, y, noise_variance=noise, mean=0.25)
    assert torch.equal(fit.noise_variance, noise)
    assert fit.mean == 0.25
    assert "noise_variance" not in fit.trace[-1]["values"]


def test_unidentified_columns_are_named():
    x, y = _data(50, 2)
    x = torch.cat([x, torch.full((50, 1), 4.0, dtype=torch.float64), 2 * x[:, :1] - 1], dim=1)
    fit = learn_hyperparameters(named_kernel("matern32", 4), x, y)
    assert fit.unidentified == {2: "constant", 3: "copy of column 0"}
    assert all(np.isfinite(fit.hyperparameters["base_kernel.lengthscale"]))


def test_constant_target_and_single_row():
    x, _ = _data(10)
    fit = learn_hyperparameters(named_kernel("rbf", 2), x, torch.full((10,), 7.0, dtype=torch.float64))
    assert (fit.method, fit.mean) == ("constant target", 7.0)
    assert learn_hyperparameters(named_kernel("rbf", 2), x[:1], torch.ones(1)).mean == 1.0


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda x, y: (x.index_fill(0, torch.tensor([3]), torch.nan), y), InputError),
        (lambda x, y: (x, y.index_fill(0, torch.tensor([3]), torch.inf)), InputError),
        (lambda x, y: (x, y[:-1]), ShapeError),
        (lambda x, y: (x[:, 0], y), ShapeError),
        (lambda x, y: (x[:0], y[:0]), ShapeError),
        (lambda x, y: (x.numpy(), y), DtypeError),
    ],
)
def test_bad_data(change, error):
    with pytest.raises(error):
        learn_hyperparameters(named_kernel("rbf", 2), *change(*_data(20)))


def test_bad_settings():
    x, y = _data(20)
    kernel = named_kernel("rbf", 2)
    with pytest.raises(InputError, match="unknown optimizer"):
        learn_hyperparameters(kernel, x, y, optimizer="adam")
    with pytest.raises(InputError, match="noise_variance is needed"):
        learn_hyperparameters(kernel, x, y, optimizer=None)
    with pytest.raises(InputError, match="not negative"):
        fit_exact(kernel, x, y, noise_variance=-1.0)
    with pytest.raises(ShapeError, match="noise_variance"):
        fit_exact(kernel, x, y, noise_variance=torch.ones(3))
    with pytest.raises(MemoryBudgetError, match="fit_nearest_neighbour"):
        fit_exact(kernel, x, y, memory_budget=100)
    with pytest.raises(UnsupportedKernel, match="batch_shape"):
        fit_exact(RBFKernel(batch_shape=torch.Size([2])), x, y)
    with pytest.raises(DtypeError, match="Kernel"):
        fit_exact("rbf", x, y)
    with pytest.raises(InputError, match="unknown kernel"):
        named_kernel("cubic", 2)


def test_as_given_reports_the_exact_value():
    x, y = _data(30)
    kernel = named_kernel("rbf", 2)
    fit = learn_hyperparameters(kernel, x, y, optimizer=None, noise_variance=0.1)
    assert (fit.method, fit.mean, fit.noise_variance) == ("fixed", 0.0, 0.1)
    assert fit.log_marginal_likelihood == pytest.approx(
        exact_log_marginal_likelihood(kernel, x, y, noise_variance=0.1)
    )


def test_a_trial_step_without_a_factor_is_cut(monkeypatch):
    from sggp.hyperparameters.exact import objective

    x, y = _data(40)
    tight = {"tolerance": 1e-7}  # of the slope: at the end the value is off by its square over the curvature
    plain = fit_exact(named_kernel("rbf", 2), x, y, **tight)
    original, calls = objective.cholesky, []

    def sometimes(gram, what, out=None):
        calls.append(1)
        if len(calls) == 3:
            raise InputError("no factor")
        return original(gram, what, out=out)

    monkeypatch.setattr(objective, "cholesky", sometimes)
    fit = fit_exact(named_kernel("rbf", 2), x, y, **tight)
    assert fit.converged
    assert fit.log_marginal_likelihood == pytest.approx(plain.log_marginal_likelihood, abs=1e-4)
    calls[:] = [1, 1]
    with pytest.raises(InputError, match="no factor"):  # the start itself has to have one
        fit_exact(named_kernel("rbf", 2), x, y)
