"""What a `Solution` says is true of the x it returns, in the precision in which it returns it."""

from __future__ import annotations

import gpytorch
import pytest
import torch

from sggp.operators import KernelOperator
from sggp.solvers import (
    AlternatingProjections,
    Auto,
    Cholesky,
    ConjugateGradients,
    SketchAndProject,
    Status,
    StochasticDualDescent,
    StochasticGradientDescent,
)
from sggp.solvers.core import checkpoint
from tests.solvers.dense import DenseOperator, with_spectrum

EPS = torch.finfo(torch.float64).eps
EXACT = {
    "cholesky": Cholesky(),
    "cholesky-float32": Cholesky(torch.float32),
    "cg": ConjugateGradients(),
    "cg-float64-products": ConjugateGradients(float64_products=True),
    "auto": Auto(),
    "auto-iterative": Auto(direct_rows=0),
}
OTHERS = {
    "sdd": StochasticDualDescent(),
    "sgd": StochasticGradientDescent(),
    "ap": AlternatingProjections(block_size=60),
    "sap": SketchAndProject(block_size=60),
}


def low_noise(generator, n=400, *, noise=1e-6, kernel="matern", dtype=torch.float64) -> KernelOperator:
    """Standardised columns with near-duplicates: kin to any table without noise."""
    x = torch.randn(n, 8, generator=generator, dtype=torch.float64)
    x[-50:] = x[:50] + 1e-4 * torch.randn(50, 8, generator=generator, dtype=torch.float64)
    x = (x - x.mean(0)) / x.std(0)
    base = gpytorch.kernels.RBFKernel() if kernel == "rbf" else gpytorch.kernels.MaternKernel(nu=1.5)
    scaled = gpytorch.kernels.ScaleKernel(base).double()
    scaled.outputscale, scaled.base_kernel.lengthscale = 1.0, 1.5
    return KernelOperator(scaled, x, noise, dtype=dtype)


def smallest(matrix: torch.Tensor) -> torch.Tensor:  # -> (n, 1)
    """The right-hand side that rounding hurts most: A⁻¹b is as long as it can be."""
    return torch.linalg.eigh(matrix)[1][:, :1].float()


def assert_true(solution, matrix, rhs):
    """Residuals and statuses against a dense float64 product with x as it is; the slack is the rounding of both."""
    block, x = rhs.double().reshape(len(rhs), -1), solution.x.double().reshape(len(rhs), -1)
    norms = block.norm(dim=0)
    work = norms > 0
    assert bool((x[:, ~work] == 0).all())
    block, x, norms = block[:, work], x[:, work], norms[work]
    scale = block.abs().amax(0)  # so that no square of a norm overflows
    rounding = 50 * EPS * torch.linalg.matrix_norm(matrix) * (x / scale).norm(dim=0) / (norms / scale)
    true = (block / scale - matrix @ (x / scale)).norm(dim=0) / (norms / scale)
    said, limits = solution.residual[work], solution.tolerance[work]
    if solution.residual_kind == "true":
        assert bool(((said - true).abs() <= 1e-3 * true + rounding).all()), (said, true)
    statuses = [solution.status[i] for i in work.nonzero()[:, 0].tolist()]
    for status, value, limit, slack in zip(statuses, true, limits, rounding, strict=True):
        assert status is not Status.CONVERGED or value <= 1.001 * limit + slack


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("which", ["random", "eigenvector", "vector"])
def test_a_float32_right_hand_side(name, which, generator, dtype):
    operator = low_noise(generator, dtype=dtype)
    matrix = operator.dense(torch.float64)
    rhs = torch.randn(400, 2, generator=generator) if which == "random" else smallest(matrix)
    rhs = rhs[:, 0] if which == "vector" else rhs
    solution = EXACT[name].solve(operator, rhs, tolerance=1e-5, generator=0, on_failure="return")
    assert_true(solution, matrix, rhs)
    assert solution.converged
    assert solution.x.dtype == torch.float64  # the tolerance is out of reach of float32
    assert any("x is in float64" in note for note in solution.notes)
    narrow = (rhs.double() - matrix @ solution.x.float().double()).norm(dim=0) / rhs.double().norm(dim=0)
    assert bool((narrow > 1e-3).any())


@pytest.mark.parametrize("name", [*EXACT, "sdd", "ap", "sap"])
def test_float32_stays_float32_where_that_is_enough(name, generator, dtype):
    """And then a solve costs what it costs for float64, but for one product where a first claim is denied."""
    operator = low_noise(generator, 200, noise=0.5, dtype=dtype)
    rhs = torch.randn(200, 2, generator=generator)
    solver = (EXACT | OTHERS)[name]
    solution, wide = (
        solver.solve(operator, b, tolerance=1e-2, generator=0, on_failure="return")
        for b in (rhs, rhs.double())
    )
    assert_true(solution, operator.dense(torch.float64), rhs)
    assert solution.converged
    assert solution.x.dtype == torch.float32
    assert wide.epochs <= solution.epochs <= wide.epochs + (name == "sdd")
    assert solution.notes == wide.notes


@pytest.mark.parametrize("name", OTHERS)
def test_methods_that_run_out_of_budget_are_true_too(name, generator, dtype):
    operator = low_noise(generator, 200, dtype=dtype)
    matrix = operator.dense(torch.float64)
    for rhs in (torch.randn(200, 2, generator=generator), smallest(matrix)):
        solution = OTHERS[name].solve(
            operator, rhs, tolerance=1e-2, max_epochs=60, generator=0, on_failure="return"
        )
        assert_true(solution, matrix, rhs)


@pytest.mark.parametrize("name", ["ap", "sap"])
def test_tight_tolerances_of_other_methods(name, generator):
    operator = low_noise(generator, 120, noise=0.5)
    matrix = operator.dense(torch.float64)
    solution = OTHERS[name].solve(operator, smallest(matrix), tolerance=1e-8, generator=0)
    assert solution.converged
    assert solution.x.dtype == torch.float64
    assert_true(solution, matrix, smallest(matrix))


def test_a_solution_fed_back_costs_one_product_in_any_precision(generator):
    operator = low_noise(generator)
    rhs = torch.randn(400, 2, generator=generator)
    found = ConjugateGradients().solve(operator, rhs, tolerance=1e-6, generator=0)
    again = ConjugateGradients().solve(operator, rhs, found.x, tolerance=1.01e-6, generator=0)
    assert again.converged
    assert again.epochs == 1
    assert torch.equal(again.x, found.x)
    narrow = ConjugateGradients().solve(operator, rhs, found.x.float(), tolerance=1e-6, generator=0)
    assert narrow.converged
    assert_true(narrow, operator.dense(), rhs)


@pytest.mark.parametrize("name", ["cholesky", "cg", "auto"])
def test_zero_columns_beside_others(name, generator):
    operator = low_noise(generator)
    rhs = torch.randn(400, 6, generator=generator)
    rhs[:, ::2] = 0
    solution = EXACT[name].solve(operator, rhs, tolerance=1e-6, generator=0)
    assert solution.converged
    assert_true(solution, operator.dense(), rhs)


def test_a_spent_budget_is_told_of_what_is_returned(generator):
    operator = low_noise(generator)
    rhs = torch.randn(400, 2, generator=generator)
    for epochs in (
        8,
        25,
    ):  # sizing the preconditioner looks at 400 rows: six epochs of a system as small as that
        solution = ConjugateGradients().solve(
            operator, rhs, tolerance=1e-9, max_epochs=epochs, generator=0, on_failure="return"
        )
        assert set(solution.status) == {Status.BUDGET_SPENT}
        assert solution.epochs <= epochs + 2  # a step and a measurement
        assert_true(solution, operator.dense(), rhs)


class _Killed(Exception):
    pass


@pytest.mark.parametrize("at", [5, 12])
def test_a_resumed_solve_ends_in_the_same_precision(at, generator, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_INTERVAL", 0.0)
    monkeypatch.setattr(checkpoint, "_WORK_PER_WRITE", 0.0)
    operator = low_noise(generator)
    rhs = torch.randn(400, 2, generator=generator)
    whole = ConjugateGradients().solve(operator, rhs, tolerance=1e-9, generator=0, on_failure="return")

    def kill(progress):
        if progress.iterations == at:
            raise _Killed

    with pytest.raises(_Killed):
        ConjugateGradients().solve(
            operator, rhs, tolerance=1e-9, generator=0, checkpoint=tmp_path / "c", callback=kill
        )
    for _ in range(2):  # gone on with, and then read as it ended
        resumed = ConjugateGradients().solve(
            operator, rhs, tolerance=1e-9, generator=0, checkpoint=tmp_path / "c", on_failure="return"
        )
        assert torch.equal(resumed.x, whole.x)
        assert resumed.x.dtype == whole.x.dtype
        assert resumed.status == whole.status
        assert torch.equal(resumed.residual, whole.residual)


def test_columns_taken_over_keep_the_precision_in_which_they_were_measured(generator):
    """Conjugate gradients end the first column in float32 and lose the second, which the factor solves in float64."""
    values = torch.logspace(-11, 0, 200, dtype=torch.float64)
    operator = DenseOperator(with_spectrum(values, generator)[0])
    top = torch.linalg.eigh(operator.matrix)[1][:, -1:]
    rhs = torch.cat([top, torch.randn(200, 1, generator=generator, dtype=torch.float64)], 1).float()
    solution = Auto(direct_rows=0).solve(
        operator, rhs, tolerance=torch.tensor([1e-2, 1e-5]), generator=0, on_failure="return"
    )
    assert "then Cholesky()" in solution.method
    assert_true(solution, operator.matrix, rhs)


@pytest.mark.parametrize("name", ["cholesky", "cholesky-float32", "cg", "auto-iterative"])
@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e-42])
def test_large_and_small_float32(name, scale, generator):
    """x overflows float32, or underflows, where the right-hand side does not."""
    operator = low_noise(generator)
    rhs = torch.randn(400, 2, generator=generator) * scale
    solution = EXACT[name].solve(operator, rhs, tolerance=1e-4, generator=0)
    assert solution.converged
    assert bool(solution.x.isfinite().all())
    assert_true(solution, operator.dense(), rhs)
    large = EXACT[name].solve(operator, torch.full((400,), 3e38), tolerance=1e-4, generator=0)
    assert large.converged
    assert_true(large, operator.dense(), torch.full((400,), 3e38))


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e200, 1e300])
def test_norms_whose_squares_leave_float64(scale, generator):
    """They were taken for zero columns, and for infinite ones."""
    operator = low_noise(generator, noise=0.5)
    rhs = torch.randn(400, 2, generator=generator, dtype=torch.float64)
    for solver in (Cholesky(), ConjugateGradients()):
        one, other = (solver.solve(operator, b, tolerance=1e-6, generator=0) for b in (rhs, rhs * scale))
        assert other.status == (Status.CONVERGED,) * 2
        torch.testing.assert_close(other.x / scale, one.x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["cholesky", "cholesky-float32", "cg", "auto"])
def test_ill_conditioned_kernels_and_equal_rows(name, generator):
    for operator in (low_noise(generator, 200, noise=1e-8, kernel="rbf"), _repeated(generator)):
        rhs = torch.randn(200, 2, generator=generator)
        solution = EXACT[name].solve(operator, rhs, tolerance=1e-3, generator=0, on_failure="return")
        assert_true(solution, operator.dense(), rhs)


def _repeated(generator) -> KernelOperator:
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5)).double()
    x = torch.randn(100, 2, generator=generator, dtype=torch.float64)
    return KernelOperator(kernel, torch.cat([x, x]), 1e-7)
