"""Derivatives by formulas: of raw parameters and values in the coordinates, and of priors; beside autograd."""

import math

import pytest
import torch
from gpytorch.constraints import GreaterThan, Interval, Positive
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel
from gpytorch.priors import GammaPrior, LogNormalPrior

from sggp.hyperparameters.coordinates import Coordinates, copy_kernel
from sggp.hyperparameters.values import Value, backward


def _log_normal(loc, scale, **more):
    return LogNormalPrior(*torch.tensor([loc, scale], dtype=torch.float64).clone(), **more)


EACH = _log_normal([[0.1, -0.4, 0.6]], [[0.5, 1.0, 2.0]])
SQUARED = _log_normal(0.4, 0.7, transform=torch.square)


def _kernel(constraint, prior):
    base = RBFKernel(ard_num_dims=3, lengthscale_constraint=constraint, lengthscale_prior=prior)
    return ScaleKernel(base, outputscale_prior=_log_normal(0.3, 0.9))


def _tied():
    base = MaternKernel(nu=1.5, ard_num_dims=3, lengthscale_prior=_log_normal(0.2, 0.8))
    base.lengthscale_groups = ((0, 2),)
    return ScaleKernel(base)


def _named_by_a_string():
    kernel = ScaleKernel(RBFKernel(ard_num_dims=3))
    kernel.base_kernel.register_prior("own", _log_normal(0.0, 0.5), "lengthscale")
    kernel.register_prior("both", GammaPrior(2.0, 1.0), lambda m: m.outputscale * m.base_kernel.lengthscale)
    return kernel


KERNELS = {
    "usual": _kernel(Positive(), _log_normal(0.2, 0.8)),
    "one prior a column": _kernel(GreaterThan(0.05), EACH),
    "another transform": _kernel(GreaterThan(0.05, torch.exp, torch.log), _log_normal(0.2, 0.8)),
    "interval": _kernel(Interval(0.01, 9.0), _log_normal(0.2, 0.8)),
    "other priors": _kernel(Positive(), GammaPrior(3.0, 6.0)) + ScaleKernel(_kernel(Positive(), SQUARED)),
    "own closures": _named_by_a_string(),
    "tied": _tied(),
}


@pytest.mark.parametrize(
    "noise_prior", [_log_normal(-3.0, 2.0), GammaPrior(1.1, 2.0)], ids=lambda p: p._get_name()
)
@pytest.mark.parametrize("name", KERNELS)
def test_priors_and_the_chain_rule_agree_with_autograd(name, noise_prior):
    kernel = copy_kernel(KERNELS[name])
    coordinates = Coordinates(kernel, initial_noise=0.3, noise_floor=1e-2, noise_prior=noise_prior.double())
    noise = torch.linspace(-0.3, 0.4, coordinates.size, dtype=torch.float64)
    u = coordinates.vector() + noise

    def expected(u):
        coordinates.assign(u)
        total = noise_prior.log_prob(coordinates.noise())
        for _, module, prior, value, _ in kernel.named_priors():
            density = prior.log_prob(value(module))
            pair = torch.tensor([2.0, 1.0, 2.0])  # two columns that stay equal are counted as one
            total = total + (density / pair if name == "tied" and density.numel() == 3 else density).sum()
        return total

    coordinates.assign(u)
    value, slope = coordinates.log_prior(u)
    assert value == pytest.approx(expected(u).item(), rel=1e-12)
    expected(u).backward()
    torch.testing.assert_close(slope, coordinates.gradient(u), rtol=1e-10, atol=1e-10)
    for j, step in enumerate(1e-6 * torch.eye(len(u), dtype=torch.float64)):
        numeric = (expected(u + step) - expected(u - step)) / 2e-6
        assert slope[j].item() == pytest.approx(numeric.item(), abs=1e-7)


@pytest.mark.parametrize(
    "constraint", [Positive(), GreaterThan(0.3), Interval(0.01, 9.0), GreaterThan(0.1, None)]
)
def test_a_derivative_in_a_value_is_one_in_its_raw_parameter(constraint):
    kernel = RBFKernel(ard_num_dims=3, lengthscale_constraint=constraint).double()
    kernel.raw_lengthscale.data = torch.tensor([[-9.0, 0.4, 25.0]], dtype=torch.float64)
    value, slope = Value(kernel, "lengthscale"), torch.tensor([[0.3, -2.0, 5.0]], dtype=torch.float64)
    assert torch.equal(value.now(), kernel.lengthscale.detach())
    for _ in range(2):
        backward([value.height(slope)])
    (found,) = torch.autograd.grad(kernel.lengthscale, kernel.raw_lengthscale, 2 * slope)
    torch.testing.assert_close(kernel.raw_lengthscale.grad, found, rtol=1e-8, atol=0)


def test_places_beyond_all_numbers_give_no_warning():
    """A line search may ask for them, and goes back from what is not finite."""
    coordinates = Coordinates(
        copy_kernel(KERNELS["usual"]), initial_noise=0.3, noise_prior=_log_normal(-3.0, 2.0)
    )
    for far in (-1e4, 1e4):
        u = torch.full((coordinates.size,), far, dtype=torch.float64)
        coordinates.assign(u)
        value, _ = coordinates.log_prior(u)
        assert not math.isfinite(value)
        assert len(coordinates.gradient(u)) == len(u)
