"""Smooth kernels and little noise: conjugate gradients choose a preconditioner that takes few iterations."""

from __future__ import annotations

import gpytorch
import pytest
import torch

from sggp.operators import KernelOperator
from sggp.preconditioners import NearestNeighbour, Nystrom
from sggp.solvers import ConjugateGradients

N, COLUMNS = 3000, 17
BASES = {"rbf": gpytorch.kernels.RBFKernel, "matern32": lambda: gpytorch.kernels.MaternKernel(nu=1.5)}


def arm(
    kind: str, noise: float, generator: torch.Generator, n: int = N
) -> tuple[KernelOperator, torch.Tensor]:
    """The distance of a robot arm's hand from a point by its eight angles, and normal columns beside it."""
    x = 2 * torch.rand(n, 8, generator=generator, dtype=torch.float64) - 1
    turned = (0.5 * torch.pi * x).cumsum(1)
    y = ((turned.cos().sum(1) - 0.5).square() + (turned.sin().sum(1) - 0.5).square() + 0.1).sqrt()
    kernel = gpytorch.kernels.ScaleKernel(BASES[kind]()).double()
    kernel.base_kernel.lengthscale = {"rbf": 1.1, "matern32": 1.6}[kind]
    kernel.outputscale = 1.0
    normal = torch.randn(n, COLUMNS - 1, generator=generator, dtype=torch.float64)
    operator = KernelOperator(kernel.requires_grad_(False), x, noise)
    return operator, torch.cat([((y - y.mean()) / y.std())[:, None], normal], 1)


@pytest.mark.parametrize(
    ("kind", "noise", "bad"),
    [
        pytest.param("rbf", 0.0028, NearestNeighbour(100), marks=pytest.mark.slow),
        ("matern32", 4e-5, Nystrom(300)),
    ],
    ids=["rbf", "matern32"],
)
def test_few_iterations_where_a_fixed_choice_takes_many(kind, noise, bad, generator):
    operator, rhs = arm(kind, noise, generator)

    def solve(preconditioner):
        return ConjugateGradients(preconditioner).solve(
            operator, rhs, tolerance=1e-2, max_epochs=200, generator=0, on_failure="return"
        )

    found, other = solve("auto"), solve(bad)
    assert found.converged
    assert found.iterations <= 24  # 20, and a fifth for other draws
    assert other.iterations >= 2 * found.iterations


@pytest.mark.parametrize(("kind", "noise"), [("rbf", 0.0028), ("matern32", 4e-5)])
def test_the_solution_is_that_of_a_dense_factor(kind, noise, generator):
    operator, rhs = arm(kind, noise, generator, n=1000)
    solution = ConjugateGradients("auto").solve(operator, rhs, tolerance=1e-9, generator=0)
    exact = torch.linalg.solve(operator.dense(), rhs)
    assert float((solution.x - exact).norm() / exact.norm()) < 1e-6
