"""Derivatives of means, variances and paths, first and second: those of dense algebra, or an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gpytorch.kernels as gk
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.functional import hessian
from torch.func import jacrev, vmap

from sggp import Posterior, condition
from sggp.errors import InputError
from sggp.kernels import as_covariance
from sggp.solvers import ConjugateGradients

NOISE = 0.05


def table() -> tuple[Tensor, Tensor]:
    x = torch.rand(25, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return x, torch.sin(5 * x[:, 0]) * x[:, 1]


def posterior(kernel: gk.Kernel, **options: Any) -> Posterior:
    x, y = table()
    return condition(kernel, x, y, noise_variance=NOISE, generator=0, **{"num_samples": 4, **options})


def dense(kernel: gk.Kernel) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Mean and variance as functions of one point (d,), by plain autograd."""
    x, y = table()
    gram = kernel(x).to_dense().detach() + NOISE * torch.eye(len(x), dtype=x.dtype)

    def mean(point: Tensor) -> Tensor:
        return (kernel(point[None], x).to_dense() @ torch.linalg.solve(gram, y)).sum()

    def variance(point: Tensor) -> Tensor:
        cross = kernel(point[None], x).to_dense()
        own = kernel(point[None], torch.stack([point, point + 1])).to_dense()[0, 0]
        return own - (cross @ torch.linalg.solve(gram, cross.mT)).sum()

    return mean, variance


def gradient(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    at = point.clone().requires_grad_()
    return torch.autograd.grad(function(at), at)[0]


def differences(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """The Hessian by differences of gradients."""
    steps = 1e-5 * torch.eye(len(point), dtype=point.dtype)
    return torch.stack(
        [(gradient(function, point + e) - gradient(function, point - e)) / 2e-5 for e in steps]
    )


POINT = torch.tensor([0.3, 0.8], dtype=torch.float64)
KERNELS = {
    "linear": gk.LinearKernel,
    "polynomial": lambda: gk.ScaleKernel(gk.PolynomialKernel(power=2)),
    "trend": lambda: gk.ScaleKernel(gk.RBFKernel()) + gk.ScaleKernel(gk.LinearKernel()),
    "product": lambda: gk.MaternKernel(nu=2.5) * gk.LinearKernel(active_dims=[1]),
}


@pytest.mark.parametrize("name", KERNELS)
def test_the_variance_of_a_kernel_that_grows_has_the_slope_of_the_prior_variance(name: str) -> None:
    kernel = KERNELS[name]().double()
    found = posterior(kernel, num_samples=0)
    expected = gradient(dense(kernel)[1], POINT)
    torch.testing.assert_close(
        gradient(lambda p: found.variance(p[None]).sum(), POINT), expected, rtol=1e-8, atol=1e-9
    )


def test_so_has_the_sampled_one() -> None:
    found = posterior(KERNELS["trend"]().double(), num_samples=8, num_features=64)

    def variance(point: Tensor) -> Tensor:
        return found.variance(point[None], method="samples").sum()

    steps = 1e-6 * torch.eye(2, dtype=torch.float64)
    slopes = torch.stack([(variance(POINT + e) - variance(POINT - e)) / 2e-6 for e in steps])
    torch.testing.assert_close(gradient(variance, POINT), slopes, rtol=1e-5, atol=1e-5)


FORMULAS: dict[str, tuple[Callable[[], gk.Kernel], Callable[[Tensor], Tensor]]] = {
    "rbf": (gk.RBFKernel, lambda r: torch.exp(-r.square() / 2)),
    "matern52": (
        lambda: gk.MaternKernel(nu=2.5),
        lambda r: (1 + 5**0.5 * r + 5 * r.square() / 3) * torch.exp(-(5**0.5) * r),
    ),
    "matern32": (
        lambda: gk.MaternKernel(nu=1.5),
        lambda r: (1 + 3**0.5 * r) * torch.exp(-(3**0.5) * r),
    ),
    "rq": (gk.RQKernel, lambda r: 1 / (1 + r.square() / 2)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_second_derivatives(name: str) -> None:
    x, y = table()
    make, formula = FORMULAS[name]
    kernel = make().double().initialize(lengthscale=0.5)
    if name == "rq":
        kernel.initialize(alpha=1.0)
    found = posterior(kernel)
    apart = (x[:, None] - x).square().sum(2).sqrt()
    gram = formula(2 * apart) + NOISE * torch.eye(len(x), dtype=x.dtype)

    def cross(point: Tensor) -> Tensor:
        return formula(2 * (point - x).square().sum(1).sqrt())

    def mean(point: Tensor) -> Tensor:
        return cross(point) @ torch.linalg.solve(gram, y)

    def variance(point: Tensor) -> Tensor:
        return 1 - cross(point) @ torch.linalg.solve(gram, cross(point))

    for ours, exact in ((found.mean, mean), (found.variance, variance)):
        torch.testing.assert_close(
            hessian(lambda p, f=ours: f(p[None]).sum(), POINT), hessian(exact, POINT), rtol=1e-6, atol=1e-8
        )


@pytest.mark.parametrize("paired", [False, True])
def test_second_derivatives_of_paths(paired: bool) -> None:
    samples = posterior(gk.RBFKernel().double()).samples

    def path(point: Tensor) -> Tensor:
        return (samples.paired(point.expand(4, 1, 2)) if paired else samples(point[None]))[1].sum()

    torch.testing.assert_close(hessian(path, POINT), differences(path, POINT), rtol=1e-5, atol=1e-5)


def test_paths_at_points_of_their_own_go_by_parts_and_so_do_their_derivatives(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    samples = posterior(gk.MaternKernel(nu=2.5).double(), num_features=40).samples
    own = torch.rand(4, 3, 2, generator=generator, dtype=torch.float64).requires_grad_()
    alone = derivatives(torch.stack([samples(own[i])[i] for i in range(4)]), own)
    sizes, block = [], type(samples.covariance).block
    monkeypatch.setattr(
        type(samples.covariance), "block", lambda self, x, z: (sizes.append(len(x)), block(self, x, z))[1]
    )
    monkeypatch.setattr("sggp.posterior.paths._AT_ONCE", 7 * (40 + 25))  # seven points, those of two paths
    torch.testing.assert_close(derivatives(samples.paired(own), own), alone, rtol=1e-9, atol=1e-9)
    assert set(sizes) == {6}


def derivatives(values: Tensor, own: Tensor) -> list[Tensor]:
    """Values, their slopes, and what depends on all second derivatives."""
    (slopes,) = torch.autograd.grad(values.square().sum(), own, create_graph=True)
    return [values, slopes, torch.autograd.grad(slopes.square().sum(), own, retain_graph=True)[0]]


def test_second_derivatives_at_a_row_of_the_data() -> None:
    found, at = posterior(gk.MaternKernel(nu=2.5).double()), table()[0][4]

    def mean(point: Tensor) -> Tensor:
        return found.mean(point[None]).sum()

    torch.testing.assert_close(hessian(mean, at), differences(mean, at), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5])
def test_gradients_of_gradients_of_a_product_in_all_its_parts(nu: float, generator: torch.Generator) -> None:
    covariance = as_covariance(gk.ScaleKernel(gk.MaternKernel(nu=nu, ard_num_dims=2)).double())
    x, z, v = (torch.rand(3, 2, generator=generator, dtype=torch.float64) + i for i in range(3))
    given = [part.requires_grad_() for part in (x, z, v)]
    assert torch.autograd.gradgradcheck(covariance.matmul, given, atol=1e-5)
    if nu == 2.5:
        assert torch.autograd.gradgradcheck(lambda a: covariance.matmul(a, None, v.detach()), x, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda p, found: found.variance(p, method="samples"), "sampled variances"),
        (lambda p, found: found.variance(p, method="solve"), "Cholesky factor without jitter"),
        (lambda p, found: third(found.mean, p), "third derivatives"),
    ],
    ids=["sampled", "iterated", "third"],
)
def test_what_cannot_be_differentiated_again_says_so(function: Callable[..., Tensor], why: str) -> None:
    found = posterior(gk.RBFKernel().double(), solver=ConjugateGradients())
    at = POINT[None].clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(at, found).sum(), at, create_graph=True)
    with pytest.raises(InputError, match=why):
        torch.autograd.grad(slope.sum(), at)


def third(mean: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    return torch.autograd.grad(mean(at).sum(), at, create_graph=True)[0]


def test_transforms_that_products_do_not_follow_are_refused() -> None:
    found = posterior(gk.RBFKernel().double())
    points = POINT.expand(3, 1, 2)
    for call in (found.mean, found.samples, found.covariance.block):
        with pytest.raises(InputError, match=r"torch\.func"):
            vmap(call)(points)
    with pytest.raises(InputError, match=r"torch\.autograd\.functional"):
        jacrev(found.samples)(POINT[None])
    with forward_ad.dual_level(), pytest.raises(InputError, match="forward-mode"):
        found.mean(forward_ad.make_dual(POINT[None], torch.ones(1, 2, dtype=torch.float64)))
