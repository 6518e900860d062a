"""Every solver from its defaults on unkind systems: whatever it misses, it says so for each column."""

from __future__ import annotations

import gpytorch
import pytest
import torch

from sggp.datasets import uci, uci_hyperparameters
from sggp.kernels import TanimotoDotProduct, TanimotoMinMax
from sggp.operators import InducingOperator, KernelOperator
from sggp.solvers import AlternatingProjections, Status, StochasticGradientDescent
from tests.catalogue import SOLVERS, SolverRow, count_rows
from tests.oracles import kernel_matrix
from tests.solvers.dense import matern, residual_rounding

TOLERANCE, EPOCHS = 1e-2, 25
MANAGE = {"cholesky", "cholesky-float32", "cg-both", "auto"}
"""Rows that are meant to converge on all of these within that budget."""
FAILED = {Status.DIVERGED, Status.BREAKDOWN, Status.NONFINITE_INPUT}


def scaled(base) -> gpytorch.kernels.Kernel:
    return gpytorch.kernels.ScaleKernel(base).double()


def clustered(generator, n=200, clusters=12):
    """Clusters of near-duplicates, a ten-thousandth of a length scale wide."""
    centres = 3 * torch.rand(clusters, 3, generator=generator, dtype=torch.float64)
    spread = 1e-4 * torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return matern(3), centres[torch.arange(n) % clusters] + spread


def line(generator, n=200):
    return scaled(gpytorch.kernels.RBFKernel()), 10 * torch.rand(n, 1, generator=generator).double()


def five(generator):
    return matern(2), torch.rand(5, 2, generator=generator, dtype=torch.float64)


def molecules(kernel):
    return lambda generator: (scaled(kernel), count_rows(150, 40, torch.uint8, generator))


SYSTEMS = {
    "clustered": (clustered, 1e-2),
    "clustered-low-noise": (clustered, 1e-6),
    "line": (line, 1e-2),
    "line-low-noise": (line, 1e-6),
    "five": (five, 1e-2),
    "five-low-noise": (five, 1e-6),
    "minmax": (molecules(TanimotoMinMax()), 1e-2),
    "dot-product": (molecules(TanimotoDotProduct()), 1e-2),
}


def columns(dense, generator):
    """Rough and smooth right-hand sides, one of them tiny."""
    rough = torch.randn(len(dense), 3, generator=generator, dtype=torch.float64)
    return torch.cat([rough * torch.tensor([1.0, 1e-9, 1e6], dtype=torch.float64), dense @ rough[:, :1]], 1)


def check_told(solver, operator, rhs, dense):
    """The status and the residual of each column against dense float64 algebra; returns the statuses."""
    solution = solver.solve(
        operator, rhs, tolerance=TOLERANCE, max_epochs=EPOCHS, generator=0, on_failure="return"
    )
    assert bool(torch.isfinite(solution.x).all())
    true = (rhs - dense @ solution.x.double()).norm(dim=0) / rhs.norm(dim=0)
    # entries are within a few ε of the scale, however small they are
    rounding = residual_rounding(dense.abs() + dense.diagonal().max(), solution.x.double(), rhs)
    assert solution.residual_kind == "true"
    for status, claimed, actual, unsure in zip(
        solution.status, solution.residual.tolist(), true.tolist(), rounding.tolist(), strict=True
    ):
        assert (status is Status.CONVERGED) == (claimed <= TOLERANCE)
        assert actual <= 1.01 * claimed + unsure
        # no answer is worse than none, unless it says that it is no answer
        assert actual <= 1.01 or status in FAILED
    return solution.status


def make_dense(kernel, x, noise):
    return torch.from_numpy(kernel_matrix(kernel, x, x)) + noise * torch.eye(len(x), dtype=torch.float64)


@pytest.mark.parametrize("row", SOLVERS, ids=str)
@pytest.mark.parametrize("name", SYSTEMS)
def test_what_is_missed_is_told(name, row: SolverRow, generator):
    make, noise = SYSTEMS[name]
    kernel, x = make(generator)
    dense = make_dense(kernel, x, noise)
    operator = KernelOperator(kernel, x, noise, dtype=torch.float64)
    told = check_told(row.solver, operator, columns(dense, generator), dense)
    if row.name in MANAGE:
        assert set(told) == {Status.CONVERGED}


@pytest.mark.parametrize("name", [name for name, (make, _) in SYSTEMS.items() if make is not five])
def test_inducing_points_tell_what_they_miss(name, generator):
    make, noise = SYSTEMS[name]
    kernel, x = make(generator)
    operator = InducingOperator(kernel, x, x[:50], noise, dtype=torch.float64)
    dense = make_dense(kernel, x, 0.0)[:, :50]
    normal = dense.T @ dense / noise + dense[:50]
    rhs = operator.normal_rhs(torch.randn(len(x), 2, generator=generator, dtype=torch.float64))
    check_told(StochasticGradientDescent(), operator, rhs, normal)


@pytest.mark.parametrize(
    ("name", "noise"),
    [("pol", None), ("elevators", 1e-6), ("bike", None), ("protein", 1e-6), ("keggdirected", 1e-6)],
)
def test_data_sets(name, noise, data_dir, generator):
    data, published = uci(name, 0), uci_hyperparameters(name, 0)
    kernel = published.kernel().requires_grad_(False)
    noise = published.noise_variance if noise is None else noise
    x = torch.unique(torch.as_tensor(data.x_train)[:120], dim=0)
    dense = make_dense(kernel, x, noise)
    operator = KernelOperator(kernel, x, noise)
    rhs = columns(dense, generator)
    for row in SOLVERS:
        told = check_told(row.solver, operator, rhs, dense)
        if row.name in MANAGE:
            assert set(told) == {Status.CONVERGED}, row.name


def test_projections_notice_rounding(generator):
    """Float32 blocks at little noise, where the kept residual grows beyond all bounds for some of the columns."""
    kernel, x = clustered(generator, 1000, 40)
    dense = make_dense(kernel, x, 1e-6)
    operator = KernelOperator(kernel, x, 1e-6, dtype=torch.float32)
    rhs = torch.linalg.cholesky(dense) @ torch.randn(1000, 40, generator=generator, dtype=torch.float64)
    solution = AlternatingProjections(block_size=666).solve(
        operator, rhs, tolerance=1e-3, max_epochs=40, generator=0, on_failure="return"
    )
    true = (rhs - dense @ solution.x).norm(dim=0) / rhs.norm(dim=0)
    torch.testing.assert_close(solution.residual, true, rtol=1e-2, atol=1e-6)
    assert bool((true < 1e-2).all())
    assert any("rounding" in note for note in solution.notes)
