"""Each solver against a dense reference, and each way of failing told as it is."""

from __future__ import annotations

import pytest
import torch

from sggp.errors import InputError, NotConverged, SolverFailure, UnsupportedOperator
from sggp.operators import KernelOperator
from sggp.preconditioners import LowRankPlusNeighbour, NearestNeighbour, Nystrom, PivotedCholesky
from sggp.solvers import (
    AlternatingProjections,
    Auto,
    Cholesky,
    ConjugateGradients,
    SketchAndProject,
    Status,
    StochasticDualDescent,
)
from sggp.solvers.stochastic_dual_descent import stable_step
from tests.solvers.dense import DenseOperator, matern, residual_rounding, with_spectrum

SOLVERS = {
    "cholesky": Cholesky(),
    "cg": ConjugateGradients(preconditioner=None),
    "cg-auto": ConjugateGradients(),
    "cg-nystrom": ConjugateGradients(Nystrom(60)),
    "cg-uniform": ConjugateGradients(Nystrom(60, landmarks="uniform")),
    "cg-pivoted": ConjugateGradients(PivotedCholesky(60)),
    "cg-neighbour": ConjugateGradients(NearestNeighbour(15)),
    "cg-both": ConjugateGradients(LowRankPlusNeighbour(40, 15)),
    "sdd": StochasticDualDescent(),
    "ap": AlternatingProjections(block_size=70),
    "sap": SketchAndProject(),
    "sap-small": SketchAndProject(block_size=60, rank=20),
    "auto": Auto(),
    "auto-iterative": Auto(direct_rows=0),
}


def make_operator(generator, n=300, d=3, noise=0.05, dtype=torch.float64):
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return KernelOperator(matern(d), x, noise, dtype=dtype)


@pytest.mark.parametrize("name", SOLVERS)
def test_agrees_with_a_dense_solve(name, generator):
    """Of products in float32; of those in float64 `check_solver` tells."""
    operator = make_operator(generator, n=200, dtype=torch.float32)
    rhs = torch.randn(200, 4, generator=generator, dtype=torch.float64)
    solution = SOLVERS[name].solve(operator, rhs, tolerance=1e-3, generator=3)
    assert solution.converged, solution
    exact = torch.linalg.solve(operator.dense(), rhs)
    true = (rhs - operator.dense() @ solution.x.double()).norm(dim=0) / rhs.norm(dim=0)
    torch.testing.assert_close(solution.residual, true, rtol=2e-2, atol=1e-5)
    assert float((solution.x - exact).norm() / exact.norm()) < 1e-2
    assert solution.x.dtype == rhs.dtype


def test_new_seed_new_minibatches(generator):
    operator = make_operator(generator, n=280)
    rhs = torch.randn(280, 2, generator=generator, dtype=torch.float64)
    one, two = (StochasticDualDescent().solve(operator, rhs, generator=seed) for seed in (5, 6))
    assert not torch.equal(one.x, two.x)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_tiny_systems(name, n, generator):
    operator = make_operator(generator, n=n)
    rhs = torch.randn(n, generator=generator, dtype=torch.float64)
    solution = SOLVERS[name].solve(operator, rhs, tolerance=1e-4, generator=0)
    torch.testing.assert_close(solution.x, torch.linalg.solve(operator.dense(), rhs), rtol=1e-2, atol=1e-3)


def test_preconditioner_settles_a_low_noise_system_in_few_passes(generator):
    operator = make_operator(generator, n=900, d=2, noise=1e-6)
    rhs = torch.randn(900, 2, generator=generator, dtype=torch.float64)
    good = ConjugateGradients().solve(operator, rhs, tolerance=1e-4, generator=0)
    plain = ConjugateGradients(None).solve(operator, rhs, tolerance=1e-4, max_epochs=60, on_failure="return")
    assert good.converged
    assert good.iterations <= 15
    assert not plain.converged


def test_single_precision_products_give_double_precision_answers(generator):
    """Float32 work, gaps measured in float64: a residual that float32 alone cannot reach, and the solve says how."""
    x = torch.randn(
        300, 2, generator=generator
    ).double()  # whole in float32, so that products alone are narrowed
    operator = KernelOperator(matern(2), x, 1e-7, dtype=torch.float32)
    rhs = torch.randn(300, 2, generator=generator, dtype=torch.float64)
    solution = ConjugateGradients().solve(operator, rhs, tolerance=1e-9, generator=0)
    assert solution.converged
    assert any("refined" in note for note in solution.notes)
    exact = operator.dense()
    true = (rhs - exact @ solution.x).norm(dim=0) / rhs.norm(dim=0)
    assert bool((true <= 1e-9 + residual_rounding(exact, solution.x, rhs)).all())
    rounded = (rhs - exact @ solution.x.float().double()).norm(dim=0) / rhs.norm(dim=0)
    assert bool((rounded > 1e-5).all())  # a float32 solution, however found, is not that good


def test_single_precision_floor_is_told(generator):
    """An operator that cannot measure in float64: the floor is reached and named."""
    values = torch.logspace(-3, 0, 80, dtype=torch.float64)
    operator = DenseOperator(with_spectrum(values, generator)[0].float())
    rhs = torch.randn(80, 2, generator=generator, dtype=torch.float64)
    with pytest.warns(NotConverged, match="float64"):
        solution = ConjugateGradients(None).solve(operator, rhs, tolerance=1e-9, max_epochs=3000)
    assert set(solution.status) == {Status.STAGNATED}
    assert bool((solution.residual > 1e-9).all())


def test_indefinite_operator_breaks_down(generator):
    values = torch.linspace(-1, 10, 50, dtype=torch.float64)
    operator = DenseOperator(with_spectrum(values, generator)[0])
    rhs = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    solution = ConjugateGradients(None).solve(operator, rhs, tolerance=1e-10, on_failure="return")
    assert set(solution.status) == {Status.BREAKDOWN}
    projections = AlternatingProjections().solve(operator, rhs, tolerance=1e-10, on_failure="return")
    assert set(projections.status) == {Status.BREAKDOWN}
    assert bool(projections.x.isfinite().all())
    with pytest.raises(SolverFailure, match="positive semi-definite"):
        Cholesky().solve(operator, rhs)


def test_cholesky_reports_its_jitter(generator):
    """Two equal rows without noise: singular, and solvable only for a consistent right-hand side."""
    x = torch.randn(30, 2, generator=generator, dtype=torch.float64)
    x = torch.cat([x, x[:5]])
    operator = KernelOperator(matern(2), x, 0.0)
    rhs = operator.matmul(torch.randn(35, 2, generator=generator, dtype=torch.float64))
    solution = Cholesky().solve(operator, rhs, tolerance=1e-6)
    assert any("jitter" in note for note in solution.notes)
    assert bool(solution.x.isfinite().all())
    clean = Cholesky().solve(KernelOperator(matern(2), x, 0.1), rhs)
    assert clean.notes == ()


def test_dual_descent_finds_a_step_and_says_so(generator):
    operator = make_operator(generator, n=600)
    rhs = torch.randn(600, 2, generator=generator, dtype=torch.float64)
    solution = StochasticDualDescent().solve(operator, rhs, generator=1)
    assert solution.converged
    assert any("step size" in note for note in solution.notes)


def test_step_bound_covers_the_top_eigenvalue(generator):
    operator = make_operator(generator, n=400)
    exact = float(torch.linalg.eigvalsh(operator.dense())[-1]) / 400
    top, largest = stable_step(operator, generator)
    assert top == pytest.approx(exact, rel=1e-3)  # all rows are in the sample here
    assert largest == pytest.approx(0.75)


def test_dual_descent_backs_off_from_a_step_that_diverges(generator):
    operator = make_operator(generator, n=600)
    rhs = torch.randn(600, 2, generator=generator, dtype=torch.float64)
    found = StochasticDualDescent().solve(operator, rhs, generator=1).notes[0]
    wild = StochasticDualDescent(step_size=2000.0, batch_size=100).solve(operator, rhs, generator=1)
    assert wild.converged
    assert sum("halved" in note for note in wild.notes) >= 2
    assert "step size" in found


def test_dual_descent_gives_up_in_the_open(generator):
    operator = make_operator(generator, n=300)
    rhs = torch.randn(300, 2, generator=generator, dtype=torch.float64)
    with pytest.warns(NotConverged, match="diverged"):
        solution = StochasticDualDescent(step_size=1e12, batch_size=50).solve(operator, rhs, generator=1)
    assert set(solution.status) == {Status.DIVERGED}
    assert bool(solution.x.isfinite().all())


def test_published_setting_is_kept():
    paper = StochasticDualDescent.paper()
    assert (paper.step_size, paper.batch_size, paper.momentum, paper.averaging) == (50.0, 512, 0.9, 1e-3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: StochasticDualDescent(step_size=-1.0),
        lambda: StochasticDualDescent(momentum=1.0),
        lambda: StochasticDualDescent(batch_size=0),
        lambda: StochasticDualDescent(averaging=0.0),
        lambda: ConjugateGradients(preconditioner="magic"),
        lambda: ConjugateGradients(replace_every=0),
        lambda: Nystrom(0),
        lambda: Nystrom(10, landmarks="best"),
        lambda: NearestNeighbour(0),
        lambda: LowRankPlusNeighbour(0),
    ],
)
def test_bad_settings(make):
    with pytest.raises(InputError):
        make()


def test_operators_that_lack_a_product_are_refused(generator):
    class ProductsOnly:
        entries_evaluated = 0
        shape = (4, 4)
        dtype = torch.float64
        device = torch.device("cpu")

        def matmul(self, v):
            return v

        def diagonal(self):
            return torch.ones(4, dtype=torch.float64)

    rhs = torch.ones(4, dtype=torch.float64)
    assert ConjugateGradients().solve(ProductsOnly(), rhs).converged
    for solver in (StochasticDualDescent(), Cholesky(), ConjugateGradients(Nystrom(2))):
        with pytest.raises(UnsupportedOperator):
            solver.solve(ProductsOnly(), rhs)
