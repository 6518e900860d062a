"""The float32 factor with float64 refinement gives the float64 answer for half the memory."""

from __future__ import annotations

import pytest
import torch

from sggp.errors import InputError, SolverFailure
from sggp.operators import InducingOperator, KernelOperator
from sggp.solvers import Cholesky, Status
from sggp.solvers.cholesky import factorise
from tests.memory import peak_bytes
from tests.solvers.dense import DenseOperator, matern, residual_rounding, with_spectrum

NARROW = Cholesky(factor_dtype=torch.float32)


def make_system(generator, noise, n=400, dtype=torch.float64):
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return KernelOperator(matern(2), x, noise, dtype=dtype), torch.randn(n, 3, generator=generator).double()


@pytest.mark.parametrize("noise", [0.05, 1e-6], ids=["noise", "low-noise"])
def test_a_float32_factor_gives_the_float64_answer(noise, generator, dtype):
    operator, rhs = make_system(generator, noise, dtype=dtype)
    dense = operator.dense()
    values, exact = torch.linalg.eigvalsh(dense), torch.linalg.solve(dense, rhs)
    # no float64 solve comes below ε‖A‖‖x‖, and ten times that is a safe distance from it
    floor = torch.finfo(torch.float64).eps * values[-1] * exact.norm(dim=0) / rhs.norm(dim=0)
    tolerance = (10 * floor).clamp_min(1e-11)
    solution = NARROW.solve(operator, rhs, tolerance=tolerance)
    assert solution.converged
    reached = tolerance + residual_rounding(dense, solution.x, rhs)
    assert bool(((rhs - dense @ solution.x).norm(dim=0) / rhs.norm(dim=0) <= reached).all())
    assert bool(((solution.x - exact).norm(dim=0) <= 2 * reached * rhs.norm(dim=0) / values[0]).all())
    assert solution.method == "Cholesky(factor_dtype=torch.float32)"
    assert solution.iterations < 60


def test_it_says_when_its_factor_took_a_jitter(generator):
    x = torch.randn(300, 1, generator=generator, dtype=torch.float64)
    operator, rhs = KernelOperator(matern(1), x, 1e-7), torch.randn(300, 2, generator=generator).double()
    solution = NARROW.solve(operator, rhs, tolerance=1e-6)  # twenty times ε‖A‖‖x‖
    assert solution.converged
    assert "jitter" in solution.notes[0]
    dense = operator.dense()
    reached = 1e-6 + residual_rounding(dense, solution.x, rhs)
    assert bool(((rhs - dense @ solution.x).norm(dim=0) / rhs.norm(dim=0) <= reached).all())
    calm, rhs = make_system(generator, 0.5)
    assert NARROW.solve(calm, rhs, tolerance=1e-8).notes == ()


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_the_factor_takes_the_place_of_the_matrix(precision, generator):
    matrix, _ = with_spectrum(torch.linspace(1, 9, 500, dtype=torch.float64), generator)
    operator = DenseOperator(matrix)
    # the operator's own copy in another dtype is one block more; the solve adds a few columns
    one = 500**2 * torch.finfo(precision).bits // 8
    copies = 2 if precision == torch.float32 else 1
    assert peak_bytes(lambda: factorise(operator, precision)) < 1.05 * copies * one
    rhs = torch.randn(500, 2, generator=generator, dtype=torch.float64)
    solver = Cholesky(factor_dtype=precision)
    assert peak_bytes(lambda: solver.solve(operator, rhs)) < 1.05 * copies * one + 40 * rhs.nbytes


def test_failures_are_told_as_by_other_solvers(generator):
    operator, rhs = make_system(generator, 1e-6)
    short = NARROW.solve(operator, rhs, tolerance=1e-14, max_epochs=3, on_failure="return")
    assert Status.BUDGET_SPENT in short.status
    rhs[0, 1] = float("nan")
    rhs[:, 2] = 0
    solution = NARROW.solve(operator, rhs, tolerance=1e-8, on_failure="return")
    assert solution.status == (Status.CONVERGED, Status.NONFINITE_INPUT, Status.CONVERGED)
    indefinite = DenseOperator(with_spectrum(torch.linspace(-1, 9, 50, dtype=torch.float64), generator)[0])
    with pytest.raises(SolverFailure, match="positive semi-definite"):
        NARROW.solve(indefinite, torch.ones(50, dtype=torch.float64))
    with pytest.raises(InputError, match="factor_dtype"):
        Cholesky(factor_dtype=torch.float16)


def test_epochs_are_those_of_the_operator(generator):
    """On inducing points one epoch is a product of the normal equation, which has far more entries than m²."""
    x = torch.randn(400, 2, generator=generator, dtype=torch.float64)
    operator = InducingOperator(matern(2), x, x[:40], 0.1)
    rhs = operator.normal_rhs(torch.randn(400, 2, generator=generator, dtype=torch.float64))
    for solver in (Cholesky(), NARROW):
        before = operator.entries_evaluated
        solution = solver.solve(operator, rhs, tolerance=1e-3, generator=0)
        assert solution.epochs == pytest.approx((operator.entries_evaluated - before) / (40 * 440))
        assert 1 <= solution.epochs <= 12
    assert Cholesky().solve(operator, rhs).history[-1].epochs == pytest.approx(2.0)
