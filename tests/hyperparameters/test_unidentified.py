"""Length scales of constant and copied columns: settled, said, and of no effect on the training covariance."""

import gpytorch
import numpy as np
import pytest
import torch
from gpytorch.constraints import Interval
from gpytorch.kernels import RBFKernel, ScaleKernel

from sggp.hyperparameters import learn_hyperparameters, named_kernel
from sggp.hyperparameters.unidentified import (
    columns_without_influence,
    settle_unidentified,
    unidentified_columns,
)
from tests.oracles import kernel_matrix


def _data(n=60, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 2, generator=g, dtype=torch.float64) * 3
    y = torch.sin(2 * x[:, 0]) + 0.5 * x[:, 1] + 0.1 * torch.randn(n, generator=g, dtype=torch.float64)
    x = torch.cat([x, torch.full((n, 1), 4.0, dtype=torch.float64), 1 - 5 * x[:, :1], 2 * x[:, :1]], dim=1)
    return x, y


UNIDENTIFIED = {2: "constant", 3: "copy of column 0", 4: "copy of column 0"}


def test_copies_share_and_constants_are_typical():
    x, _ = _data()
    kernel = named_kernel("matern32", 5)
    given = torch.tensor([[0.5, 3.0, 1e-4, 2.0, 70.0]], dtype=torch.float64)
    kernel.base_kernel.lengthscale = given
    before = kernel(x).to_dense().detach()
    found = unidentified_columns(kernel, x)
    assert [(record.column, record.kind, record.of) for record in found] == [
        (2, "constant", None),
        (3, "copy", 0),
        (4, "copy", 0),
    ]
    settle_unidentified(named_kernel("matern32", 5), kernel, x, found)
    torch.testing.assert_close(kernel(x).to_dense().detach(), before, rtol=0, atol=1e-10)
    scales = kernel.base_kernel.lengthscale.detach().flatten()
    # each of the three copies carries the same share of 1/0.5² + 5²/2² + 2²/70²
    share = (3 / (4 + 25 / 4 + 4 / 4900)) ** 0.5
    expected = [share, 3.0, (share * 3.0 * 5 * share * 2 * share) ** 0.25, 5 * share, 2 * share]
    torch.testing.assert_close(scales, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("optimizer", ["exact", "nearest-neighbour"])
def test_a_fit_settles_them_wherever_it_started(optimizer):
    x, y = _data()
    ends = []
    for start in (0.5, 5.0):
        kernel = ScaleKernel(RBFKernel(ard_num_dims=5))
        kernel.base_kernel.lengthscale = start
        settings = {"max_steps": 20} if optimizer == "nearest-neighbour" else {}
        fit = learn_hyperparameters(kernel, x, y, optimizer=optimizer, generator=0, **settings)
        assert fit.unidentified == UNIDENTIFIED
        scales = np.array(fit.hyperparameters["base_kernel.lengthscale"])
        assert scales[3] / scales[0] == pytest.approx(5.0)
        assert scales[4] / scales[0] == pytest.approx(2.0)
        assert scales[2] == pytest.approx(np.exp(np.log(scales[[0, 1, 3, 4]]).mean()))
        ends.append(scales)
    if optimizer == "exact":
        np.testing.assert_allclose(ends[0][[0, 1]], ends[1][[0, 1]], rtol=0.02)


def test_what_was_not_to_be_learnt_stays():
    x, y = _data()
    fixed = ScaleKernel(RBFKernel(ard_num_dims=5))
    fixed.base_kernel.raw_lengthscale.requires_grad_(False)
    fit = learn_hyperparameters(fixed, x, y)
    assert fit.hyperparameters["base_kernel.lengthscale"] == pytest.approx([float(np.log(2))] * 5, rel=1e-6)
    bounded = ScaleKernel(RBFKernel(ard_num_dims=5, lengthscale_constraint=Interval(0.1, 2.0)))
    fit = learn_hyperparameters(bounded, x, y)
    assert fit.unidentified == UNIDENTIFIED
    assert max(fit.hyperparameters["base_kernel.lengthscale"]) <= 2.0


@pytest.mark.parametrize("name", ["matern12", "matern32", "matern52", "rbf"])
def test_columns_without_influence_move_no_entry(name, generator):
    x = torch.randn(200, 5, generator=generator, dtype=torch.float64)
    x[:, 4] = 2.0  # constant: said elsewhere
    x[1], x[1, 1:4] = x[0], x[0, 1:4] + 3.0  # they differ in these columns only, which is where most is moved
    kernel = named_kernel(name, 5).base_kernel
    longest = 1e11 if name == "matern12" else 1e6
    kernel.lengthscale = torch.tensor([1.0, longest, 3 * longest, longest / 1e3, 1e12])
    assert columns_without_influence(kernel, x) == [1, 2]

    def moved(columns):
        without = x.clone()
        without[:, columns] = 0.0
        return np.abs(kernel_matrix(kernel, x, x) - kernel_matrix(kernel, without, without)).max()

    assert (
        moved([1, 2]) < 1.6e-9
    )  # |φ(r² + δ) − φ(r²)| ≤ 1.5 δ for smooth kernels, √δ for Matérn-1/2, and rounding
    assert moved([1, 2, 3]) > 1e-8  # by far: (3e3/longest)², or its root, is at least 3e-8


def test_columns_count_together(generator):
    x = torch.rand(50, 30, generator=generator, dtype=torch.float64)
    x[0], x[1] = 0.0, 1.0
    kernel = named_kernel("matern32", 30)
    kernel.base_kernel.lengthscale = 1.2e-9**-0.5 * 30**0.5
    assert len(columns_without_influence(kernel, x)) == 25  # of thirty that make 1.2e-9 together


def test_other_kernels_have_none(generator):
    x = torch.rand(5, 2, generator=generator, dtype=torch.float64)
    assert columns_without_influence(gpytorch.kernels.CosineKernel(), x) == []
