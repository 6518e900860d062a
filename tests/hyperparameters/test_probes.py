"""Probes of the iterative fits: their duals, and how they move with the hyperparameters."""

from __future__ import annotations

import itertools

import pytest
import torch
from gpytorch.kernels import MaternKernel, PeriodicKernel, PolynomialKernel, RBFKernel, RQKernel, ScaleKernel

from sggp.errors import NoRandomFeatures
from sggp.hyperparameters.coordinates import copy_kernel
from sggp.hyperparameters.iterative.probes import Probes
from sggp.hyperparameters.merged import MergedData
from sggp.kernels import TanimotoMinMax


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def table(n=60, repeats=0):
    x = torch.rand(n, 2, generator=seeded(0), dtype=torch.float64) * 3
    x = torch.cat([x, x[:repeats]])
    return x, torch.sin(2 * x[:, 0]) + 0.5 * x[:, 1]


def scaled(base, lengthscale=None):
    kernel = ScaleKernel(base).double()
    if lengthscale is not None:
        kernel.base_kernel.lengthscale = torch.tensor(lengthscale, dtype=torch.float64)
    kernel.outputscale = 1.5
    return kernel


@pytest.mark.parametrize("features", [40, 200])
@pytest.mark.parametrize("repeats", [0, 20])
def test_duals_invert_the_covariance_of_the_probes(features, repeats):
    """More rows than features, and fewer."""
    x, y = table(repeats=repeats)
    kernel = copy_kernel(scaled(MaternKernel(nu=1.5, ard_num_dims=2), [[0.5, 1.0]]))
    data = MergedData(x, y[:, None])
    draws = Probes(kernel, data, 5, features, seeded(0))
    rows = torch.full((len(x),), 0.1, dtype=torch.float64)
    z = draws.at(kernel, rows)
    phi = draws.prior(kernel).features.phi(data.rows)
    covariance = phi @ phi.T + torch.diag(0.1 / data.counts)
    torch.testing.assert_close(covariance @ draws.duals(kernel, rows, z), z, rtol=1e-8, atol=1e-8)
    assert draws.duals(kernel, 0 * rows, z) is None


MOVING = {
    "rbf": (scaled(RBFKernel(ard_num_dims=2), [[0.5, 2.0]]), "base_kernel.lengthscale"),
    "matern": (scaled(MaternKernel(nu=1.5), 0.8), "base_kernel.lengthscale"),
    "rq": (scaled(RQKernel(), 0.8), "base_kernel.alpha"),
    "periodic": (scaled(PeriodicKernel(), 0.8), "base_kernel.period_length"),
    "tanimoto": (scaled(TanimotoMinMax()), "outputscale"),
}


@pytest.mark.parametrize("name", MOVING)
def test_probes_move_smoothly_with_the_hyperparameters(name):
    """Halving a small change halves what it does to the probes: the draws behind them stay the same."""
    kernel, what = copy_kernel(MOVING[name][0]), MOVING[name][1]
    x, y = table(40)
    if name == "tanimoto":
        x = torch.randint(0, 3, (40, 30), generator=seeded(1), dtype=torch.uint8)
    draws = Probes(kernel, MergedData(x, y[:, None]), 4, 256, seeded(0))
    module, _, attribute = what.rpartition(".")
    owner = kernel.get_submodule(module)
    value = getattr(owner, attribute).detach().clone()
    before = draws.at(kernel, torch.full((40,), 0.1, dtype=torch.float64))
    moves = []
    for step in (1e-4, 5e-5):
        setattr(owner, attribute, value * (1 + step))
        moves.append(float((draws.at(kernel, torch.full((40,), 0.1, dtype=torch.float64)) - before).norm()))
    assert moves[0] > 0
    assert moves[1] == pytest.approx(0.5 * moves[0], rel=0.05)
    assert moves[0] < 0.01 * float(before.norm())


def test_rational_quadratic_features_do_not_jump_on_a_long_way():
    x, y = table(40)
    kernel = copy_kernel(scaled(RQKernel(), 0.8))
    draws, noise = (
        Probes(kernel, MergedData(x, y[:, None]), 4, 256, seeded(0)),
        torch.full((40,), 0.1).double(),
    )
    path = []
    for alpha in torch.linspace(0.7, 1.4, 60, dtype=torch.float64):
        kernel.base_kernel.alpha = alpha
        path.append(draws.at(kernel, noise))
    moves = torch.stack([(b - a).norm() for a, b in itertools.pairwise(path)])
    assert float(moves.max()) < 3 * float(moves.median())


def test_kernels_without_features_have_plain_probes_or_are_refused():
    x, y = table()
    kernel, data = scaled(PolynomialKernel(power=2)), MergedData(x, y[:, None])
    plain, noise = Probes(kernel, data, 3, 64, seeded(0)), torch.full((60,), 0.1, dtype=torch.float64)
    z = plain.at(kernel, noise)
    assert not plain.pathwise
    assert plain.duals(kernel, noise, z) is z
    with pytest.raises(NoRandomFeatures):
        Probes(kernel, data, 3, 64, seeded(0), need_features=True)
