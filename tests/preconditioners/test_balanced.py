"""How the automatic preconditioner is sized, and that what it builds works."""

from __future__ import annotations

import math

import gpytorch
import pytest
import torch

from sggp.errors import InputError, UnsupportedOperator
from sggp.operators import KernelOperator
from sggp.preconditioners import Balanced, LowRankPlusNeighbour, NearestNeighbour
from sggp.preconditioners.low_rank import random_pivoted_cholesky
from sggp.solvers import ConjugateGradients
from tests.solvers.dense import DenseOperator


class Spread:
    """n rows of unit variance and given noise, of which a pilot explains a given share."""

    def __init__(self, n: int, noise: float) -> None:
        self.shape = (n, n)
        self.noise_variance = torch.full((n,), noise, dtype=torch.float64)

    def kernel_diagonal(self) -> torch.Tensor:
        return torch.ones(self.shape[0], dtype=torch.float64)


def sizes(n, noise, left, **settings) -> tuple[int, int]:
    pilot = torch.full((n, 1), (1 - left) ** 0.5, dtype=torch.float64)
    return Balanced(**settings).sizes(Spread(n, noise), pilot)


def kernel(lengthscale: float) -> gpytorch.kernels.Kernel:
    base = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5)).double()
    base.base_kernel.lengthscale = lengthscale
    return base


@pytest.mark.parametrize(
    ("n", "noise", "left", "columns", "wanted"),
    [
        (14_000, 0.2, 0.2, 1, (200, 20)),  # noisy: rank
        (14_000, 0.2, 0.2, 65, (1000, 20)),
        (14_000, 1e-2, 0.9, 1, (0, 80)),  # rough: neighbours only
        (40_000, 1e-2, 0.9, 1, (0, 140)),
        (14_000, 0.2, 0.9, 1, (0, 80)),  # however much noise
        (40_000, 1e-2, 0.9, 65, (0, 200)),
        (14_000, 1e-2, 0.5, 1, (0, 80)),  # mixed
        (14_000, 1e-2, 0.5, 65, (0, 160)),
        (40_000, 1e-2, 0.5, 65, (100, 200)),
        (160_000, 1e-2, 0.5, 1, (0, 120)),  # as much as memory holds
        (300, 1e-2, 0.9, 1, (0, 20)),  # small: the least
        (300, 1e-2, 0.2, 1, (30, 20)),
    ],
)
def test_table(n, noise, left, columns, wanted):
    assert sizes(n, noise, left, columns=columns) == wanted


def test_memory_is_kept_to():
    for left, noise in ((0.2, 0.2), (0.5, 1e-2), (0.9, 1e-2)):
        rank, neighbours = sizes(100_000, noise, left, columns=65, memory_budget=4e8)
        assert 100_000 * (16 * rank + 48 * neighbours) <= 4e8
        assert (rank, neighbours) < sizes(100_000, noise, left, columns=65, memory_budget=1e12)


@pytest.mark.parametrize(("lengthscale", "kind"), [(3.0, LowRankPlusNeighbour), (0.05, NearestNeighbour)])
def test_builds_what_the_sizes_say(lengthscale, kind, generator):
    x = torch.rand(800, 2, generator=generator, dtype=torch.float64)
    operator = KernelOperator(kernel(lengthscale), x, 1e-2)
    rank, neighbours = Balanced().sizes(operator, random_pivoted_cholesky(operator, 80, generator))
    assert (rank > 0) == (kind is LowRankPlusNeighbour)
    rhs = torch.randn(800, 3, generator=generator, dtype=torch.float64)
    solution = ConjugateGradients(Balanced()).solve(operator, rhs, tolerance=1e-8, generator=0)
    assert solution.converged
    assert solution.iterations < 30
    torch.testing.assert_close(solution.x, torch.linalg.solve(operator.dense(), rhs), rtol=0, atol=1e-5)


def test_memory_without_a_bound_is_a_budget(generator):
    x = torch.rand(300, 2, generator=generator, dtype=torch.float64)
    operator = KernelOperator(kernel(0.5), x, 1e-2, memory_budget=math.inf)
    rhs = torch.randn(300, 1, generator=generator, dtype=torch.float64)
    assert ConjugateGradients("auto").solve(operator, rhs, tolerance=1e-6, generator=0).converged


def test_a_factor_is_gone_on_from(generator):
    """The first columns stay, and together they explain no less than a factor drawn at once."""
    x = torch.rand(500, 2, generator=generator, dtype=torch.float64)
    operator = KernelOperator(kernel(0.5), x, 1e-2)
    start = random_pivoted_cholesky(operator, 40, generator)
    longer = random_pivoted_cholesky(operator, 100, generator, start)
    assert longer.shape == (500, 100)
    assert torch.equal(longer[:, :40], start)
    gap = operator.dense() - 1e-2 * torch.eye(500, dtype=torch.float64) - longer @ longer.T
    assert float(torch.linalg.eigvalsh(gap).min()) > -1e-8
    once = random_pivoted_cholesky(operator, 100, generator)
    assert float(gap.trace()) < 1.5 * float(500 - once.square().sum())


def test_misuse(generator):
    for settings in ({"columns": 0}, {"passes": 0.0}, {"memory_budget": 0.0}):
        with pytest.raises(InputError, match=next(iter(settings))):
            Balanced(**settings)
    with pytest.raises(UnsupportedOperator, match="preconditioner=None"):
        Balanced().build(DenseOperator(torch.eye(3, dtype=torch.float64)), generator)
