"""What a budget buys: a final pass within it, or an estimate with its standard error."""

from __future__ import annotations

import pytest
import torch

from sggp.operators import KernelOperator
from sggp.solvers import ConjugateGradients, Status, StochasticDualDescent
from sggp.solvers.core import run
from sggp.solvers.core.problem import check_system
from tests.solvers.dense import DenseOperator, matern, with_spectrum

PLAIN = ConjugateGradients(preconditioner=None)


@pytest.fixture
def large(generator):
    """Enough rows for a twentieth of them to be a sample."""
    x = torch.randn(1500, 2, generator=generator, dtype=torch.float64)
    return KernelOperator(matern(2), x, 0.01), torch.randn(1500, 3, generator=generator, dtype=torch.float64)


def true_residual(operator, rhs, solution):
    return (rhs - operator.dense() @ solution.x).norm(dim=0) / rhs.norm(dim=0)


def test_a_small_budget_ends_with_an_estimate(large):
    operator, rhs = large
    solution = PLAIN.solve(operator, rhs, tolerance=1e-9, max_epochs=6, generator=0, on_failure="return")
    assert solution.residual_kind == "estimated" == solution.history[-1].kind
    assert solution.epochs <= 6.05
    assert set(solution.status) == {Status.BUDGET_SPENT}
    assert bool((solution.residual_error > 0).all())
    error = (solution.residual - true_residual(operator, rhs, solution)).abs()
    assert bool((error < 4 * solution.residual_error).all())
    assert "±" in repr(solution)
    assert "estimated" in repr(solution)


@pytest.mark.parametrize("budget", [20, 37.5])
def test_a_larger_budget_keeps_a_pass_for_the_truth(large, budget):
    operator, rhs = large
    solution = PLAIN.solve(operator, rhs, tolerance=1e-12, max_epochs=budget, on_failure="return")
    assert solution.residual_kind == "true"
    assert budget - 1.001 < solution.epochs <= budget
    assert bool((solution.residual_error == 0).all())
    torch.testing.assert_close(solution.residual, true_residual(operator, rhs, solution), rtol=1e-6, atol=0)
    assert "±" not in repr(solution)


def test_few_rows_are_measured_whatever_the_budget(generator):
    matrix, _ = with_spectrum(torch.linspace(0.5, 20, 60, dtype=torch.float64), generator)
    rhs = torch.randn(60, 2, generator=generator, dtype=torch.float64)
    solution = PLAIN.solve(DenseOperator(matrix), rhs, tolerance=1e-12, max_epochs=3, on_failure="return")
    assert solution.residual_kind == "true"
    torch.testing.assert_close(solution.residual, (rhs - matrix @ solution.x).norm(dim=0) / rhs.norm(dim=0))


def test_nothing_done_is_known_without_a_product(large):
    operator, rhs = large
    solution = PLAIN.solve(operator, rhs, max_epochs=0, on_failure="return")
    assert solution.epochs == 0
    assert solution.residual.tolist() == [1.0] * 3
    assert solution.residual_kind == "true"


def test_an_estimate_converges_only_two_errors_below_the_tolerance(large, monkeypatch):
    operator, rhs = large

    def sample(self, columns):
        self.residual[columns] = 5e3
        self.error[columns] = torch.tensor([2.6e3, 2.4e3, 0.0], dtype=torch.float64)
        return True

    monkeypatch.setattr(run.Run, "sample", sample)
    limits = torch.tensor([1e4, 1e4, 4e3], dtype=torch.float64)
    solution = PLAIN.solve(operator, rhs, tolerance=limits, max_epochs=1, on_failure="return")
    assert solution.status == (Status.BUDGET_SPENT, Status.CONVERGED, Status.BUDGET_SPENT)


def test_an_estimate_alone_does_not_converge(large, monkeypatch):
    """A residual in few rows is missed by a sample of rows: the solver, which has seen all of them, must agree."""
    operator, rhs = large

    def sample(self, columns):
        self.residual[columns], self.error[columns] = 1e-4, 1e-6
        return True

    monkeypatch.setattr(run.Run, "sample", sample)
    solution = PLAIN.solve(operator, rhs, tolerance=1e-3, max_epochs=1, on_failure="return")
    assert set(solution.status) == {Status.BUDGET_SPENT}


def test_the_estimate_is_unbiased_and_its_error_is_right(large, monkeypatch):
    """Over many samples of rows: mean square equals the true one, spread equals the stated error."""
    operator, rhs = large
    system = check_system(operator, rhs, None, 1e-3, 5)
    bookkeeping = run.begin(system)
    bookkeeping.x = torch.randn(1500, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    truth = (system.rhs.take() - operator.dense() @ bookkeeping.x).norm(dim=0) / system.norms
    found, errors = [], []
    for _ in range(400):
        assert bookkeeping.sample(torch.arange(3))
        found.append(bookkeeping.residual.clone())
        errors.append(bookkeeping.error.clone())
    found, errors = torch.stack(found), torch.stack(errors)
    spread = found.square().std(0) / 400**0.5
    assert bool(((found.square().mean(0) - truth.square()).abs() < 4 * spread).all())
    torch.testing.assert_close(found.std(0), errors.square().mean(0).sqrt(), rtol=0.15, atol=0)


def test_a_refined_solve_is_estimated_in_float64(generator):
    """Float32 rows would put the estimate at the floor of float32."""
    x = torch.randn(1500, 2, generator=generator, dtype=torch.float64)
    operator = KernelOperator(matern(2), x, 0.1, dtype=torch.float32)
    rhs = torch.randn(1500, 2, generator=generator, dtype=torch.float64)
    exact = torch.linalg.solve(operator.dense(), rhs)
    bookkeeping = run.begin(check_system(operator, rhs, exact, 1e-3, 5))
    assert bookkeeping.wide
    bookkeeping.sample(torch.arange(2))
    assert bool((bookkeeping.residual < 1e-12).all())
    bookkeeping.wide = False
    bookkeeping.sample(torch.arange(2))
    assert bool((bookkeeping.residual > 1e-8).all())


def test_seconds_keep_a_pass_where_it_is_cheap(large, monkeypatch):
    """A clock on which a product takes a second: 100 s end within 100, 10 s with an estimate."""
    operator, rhs = large
    now, product = [0.0], operator.matmul

    def slow(v):
        now[0] += 1.0
        return product(v)

    monkeypatch.setattr(run.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(operator, "matmul", slow)
    rich = PLAIN.solve(operator, rhs, tolerance=1e-13, max_seconds=40, on_failure="return")
    assert rich.residual_kind == "true"
    assert 39 <= rich.seconds <= 40
    poor = PLAIN.solve(operator, rhs, tolerance=1e-13, max_seconds=10, on_failure="return")
    assert poor.residual_kind == "estimated"
    assert poor.iterations == 10
    assert poor.seconds == 10


def test_a_claim_that_cannot_be_afforded_is_estimated(large):
    """Dual descent claims early in a budget of one and a half passes."""
    operator, rhs = large
    solution = StochasticDualDescent().solve(
        operator, rhs, tolerance=0.95, max_epochs=1.5, generator=1, on_failure="return"
    )
    assert solution.epochs < 1.5 + 0.2
    assert solution.residual_kind == "estimated"
