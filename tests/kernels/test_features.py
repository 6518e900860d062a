"""Random features against the dense formulas: unbiased with scale ≠ 1 in one and five dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gpytorch.kernels as gk
import numpy as np
import pytest
import torch
from torch import Tensor

from sggp.kernels import FeatureMap, TanimotoDotProduct, TanimotoMinMax, draw_features
from sggp.kernels.features import FourierMap
from sggp.kernels.features.stationary import PhaseTerm
from sggp.testing.features import check_features
from tests.catalogue import KERNELS, KernelRow
from tests.oracles import kernel_matrix

ROWS = [row for row in KERNELS if row.has_features]


def scaled(base: Any, outputscale: float) -> Any:
    kernel = gk.ScaleKernel(base)
    kernel.outputscale = outputscale
    return kernel


def z_scores(draw: Callable[[], FeatureMap], target: np.ndarray, x: Tensor, num_maps: int) -> Tensor:
    """(mean of φφᵀ over independent maps − target) in standard errors; where maps agree, in units of 1e-9."""
    products = torch.stack([(phi := draw().phi(x)) @ phi.mT for _ in range(num_maps)])
    error = products.mean(0) - torch.from_numpy(target)
    return error / (products.std(0) / num_maps**0.5 + 1e-9 * float(np.abs(target).max()))


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_features_are_unbiased_with_the_scale_included(row: KernelRow, generator: torch.Generator) -> None:
    """In one dimension and in five by turns; in three `check_features` tells."""
    d = 5 if ROWS.index(row) % 2 else 1
    x = row.rows(5, d, torch.float64, generator).to(torch.float64)
    x[1] = x[0] + (0.05 if row.smooth else 0.0)
    kernel = row.make(d)
    draw = lambda: draw_features(kernel, 256, input_dim=d, generator=generator)  # noqa: E731
    # 700 entries over all rows and dimensions: one right library in 5,000 has one beyond six of the standard errors
    # that 50 maps tell (Student's t); of maps of 256 features they are as wide as five of 150 maps of 64
    assert z_scores(draw, kernel_matrix(kernel, x, x), x, 50).abs().max() < 6


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5])
def test_a_student_t_per_coordinate_is_caught(nu: float, generator: torch.Generator) -> None:
    """The wrong spectral law of published code: right in one dimension, a product of 1-D kernels in more."""
    degrees = round(2 * nu)

    def wrong(d: int) -> FeatureMap:
        z = torch.randn(d, 32, generator=generator, dtype=torch.float64)
        chi_square = torch.randn(degrees, d, 32, generator=generator, dtype=torch.float64).square().sum(0)
        lengthscale = kernel.base_kernel.lengthscale.item()
        return FourierMap((PhaseTerm(z * (degrees / chi_square).sqrt() / lengthscale),), d, scale=2.0)

    kernel = scaled(gk.MaternKernel(nu), 2.0)
    for d, lowest, highest in ((1, 0.0, 4.0), (5, 6.0, 1e9)):
        x = torch.linspace(-1, 1, 4 * d, dtype=torch.float64).reshape(d, 4).T.contiguous()
        worst = z_scores(lambda d=d: wrong(d), kernel_matrix(kernel, x, x), x, 300).abs().max()
        assert lowest <= worst <= highest


@pytest.mark.parametrize("frequencies", [4, 64, 1024])
def test_the_diagonal_is_the_scale_to_one_in_f(frequencies: int, generator: torch.Generator) -> None:
    """Weights rise from 0 to 3 with the radius and fall once: F strata know their mean to (3 + 3)/F."""
    x = 100 * torch.randn(20, 3, generator=generator, dtype=torch.float64)
    for base in (gk.RBFKernel(), gk.MaternKernel(1.5), gk.MaternKernel(0.5), gk.PeriodicKernel()):
        phi = draw_features(scaled(base, 2.5), 2 * frequencies, input_dim=3, generator=generator).phi(x)
        diagonal = phi.square().sum(-1) / 2.5
        assert float((diagonal - diagonal[0]).abs().max()) < 1e-12
        assert float((diagonal - 1).abs().max()) < 6 / frequencies


@pytest.mark.parametrize(
    "kernel", [gk.RBFKernel(), gk.MaternKernel(1.5), gk.RQKernel()], ids=["rbf", "matern", "rq"]
)
def test_variance_is_at_most_that_of_independent_draws(kernel: Any, generator: torch.Generator) -> None:
    """E w² cos² <= 3 E w cos² = 3 (1 + k(2δ))/2, since no weight exceeds 3: (3 (1 + k(2δ))/2 − k(δ)²)/F."""
    x = torch.tensor([[0.0, 0.0], [0.8, 0.3], [1.6, 0.6]], dtype=torch.float64)
    kernel.lengthscale = 1.0
    phi = [draw_features(kernel, 20, input_dim=2, generator=generator).phi(x) for _ in range(400)]
    found = torch.stack([(p[0] * p[1]).sum() for p in phi]).var()
    near, far = kernel_matrix(kernel, x, x)[0, 1:]
    assert float(found) < 1.12 * (1.5 * (1 + far) - near**2) / 10


def test_periodic_features_repeat(generator: torch.Generator) -> None:
    kernel = gk.PeriodicKernel(ard_num_dims=2)
    kernel.period_length = torch.tensor([[1.5, 0.25]])
    features = draw_features(kernel, 32, input_dim=2, generator=generator)
    x = torch.rand(6, 2, generator=generator, dtype=torch.float64)
    moved = x + torch.tensor([3.0, -0.75], dtype=torch.float64)
    torch.testing.assert_close(features.phi(moved), features.phi(x), atol=1e-6, rtol=0)


def test_linear_and_constant_are_exact(generator: torch.Generator) -> None:
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    kernel = scaled(gk.LinearKernel(ard_num_dims=3), 0.7) + scaled(gk.ConstantKernel(), 2.0)
    kernel.kernels[0].base_kernel.variance = torch.tensor([[0.5, 1.0, 2.0]])
    kernel.kernels[1].base_kernel.constant = torch.tensor(0.3)
    features = draw_features(kernel, 1, input_dim=3, generator=generator)
    assert features.exact
    assert features.num_features == 4
    expected = 0.7 * (x * torch.tensor([0.5, 1.0, 2.0])) @ x.T + 0.6
    torch.testing.assert_close(features.phi(x) @ features.phi(x).T, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: gk.LinearKernel() * scaled(gk.RBFKernel(), 1.7),
        lambda: (
            (scaled(gk.LinearKernel(), 0.4) + gk.RBFKernel())
            * scaled(gk.MaternKernel(1.5, active_dims=[1]), 2.0)
        ),
        lambda: scaled(gk.RBFKernel() * scaled(gk.PeriodicKernel(), 1.5) * gk.MaternKernel(0.5), 0.8),
    ],
    ids=["linear-rbf", "sum-matern", "rbf-periodic-matern"],
)
def test_products_are_unbiased(make: Callable[[], Any], generator: torch.Generator) -> None:
    x = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    kernel = make()
    draw = lambda: draw_features(kernel, 256, input_dim=2, generator=generator)  # noqa: E731
    assert z_scores(draw, kernel_matrix(kernel, x, x), x, 80).abs().max() < 4


def test_products_of_molecules_and_numbers_are_unbiased(generator: torch.Generator) -> None:
    counts = torch.tensor([[0, 0, 0], [1, 3, 0], [2, 1, 2], [2, 1, 2], [1, 0, 5]], dtype=torch.float64)
    x = torch.cat((counts, torch.randn(5, 1, generator=generator, dtype=torch.float64)), 1)
    molecules, number = (0, 1, 2), gk.RBFKernel(active_dims=(3,))
    for base in (TanimotoMinMax(active_dims=molecules), TanimotoDotProduct(active_dims=molecules)):
        kernel = scaled(base, 1.6) * number * gk.ConstantKernel()
        kernel.kernels[-1].constant = torch.tensor(0.5)
        expected = 0.5 * kernel_matrix(kernel.kernels[0], x, x) * kernel_matrix(number, x, x)
        draw = lambda k=kernel: draw_features(k, 256, input_dim=4, generator=generator)  # noqa: E731
        assert draw().num_features == 256
        assert z_scores(draw, expected, x, 80).abs().max() < 4


def test_the_terms_of_a_sum_share_the_features(generator: torch.Generator) -> None:
    kernel = scaled(gk.RBFKernel(), 3.0) + scaled(gk.MaternKernel(0.5), 1.0) + gk.LinearKernel()
    features = draw_features(kernel, 202, input_dim=2, generator=generator)
    assert [term.num_features for term in features.terms] == [100, 100, 2]


def test_centred_maps_keep_digits_far_from_the_origin(generator: torch.Generator) -> None:
    near = torch.randn(8, 2, generator=generator, dtype=torch.float64)
    far = near + 2.0**14
    kernel = scaled(gk.RBFKernel(), 2.0) + scaled(
        gk.MaternKernel(1.5, active_dims=[0]) * gk.LinearKernel(), 0.1
    )
    features = draw_features(kernel, 64, input_dim=2, generator=generator).terms[0]
    moved = features.centred(torch.full((2,), 2.0**14))
    torch.testing.assert_close(moved.phi(far), features.phi(near))
    assert (moved.phi(far.float()).double() - moved.phi(far.float().double())).abs().max() < 1e-5
    assert (features.phi(far.float()).double() - features.phi(far.float().double())).abs().max() > 1e-4
    whole = draw_features(kernel, 64, input_dim=2, generator=generator).centred(torch.zeros(2))
    assert whole.phi(near).shape == (8, whole.num_features)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_every_kernel_of_the_catalogue_passes_the_check(row: KernelRow, generator: torch.Generator) -> None:
    x = row.rows(4, 3, torch.float64, generator).to(torch.float64)
    assert check_features(row.make(3), x, generator=generator, num_features=32, num_maps=60) == []


@pytest.mark.parametrize("row", [row for row in ROWS if row.smooth], ids=str)
def test_gradients_are_those_of_finite_differences(row: KernelRow, generator: torch.Generator) -> None:
    features = draw_features(row.make(2), 8, input_dim=2, generator=generator)
    x = torch.randn(3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert features.differentiable
    assert torch.autograd.gradcheck(features.phi, (x,))
