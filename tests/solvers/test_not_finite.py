"""A kernel, or a product, that gives NaN: an error that says so or a status, in a bounded number of calls."""

from __future__ import annotations

import gpytorch
import pytest
import torch

from sggp.errors import InputError, SolverFailure
from sggp.operators import KernelOperator
from sggp.preconditioners import (
    Balanced,
    LowRankPlusNeighbour,
    NearestNeighbour,
    Nystrom,
    PivotedCholesky,
)
from sggp.preconditioners.low_rank import pivoted_cholesky, random_pivoted_cholesky, uniform_nystrom
from sggp.solvers import (
    AlternatingProjections,
    Auto,
    Cholesky,
    ConjugateGradients,
    IterativeSolver,
    SketchAndProject,
    State,
    Status,
    StochasticDualDescent,
    StochasticGradientDescent,
)
from tests.solvers.dense import DenseOperator, matern, with_spectrum

MOST_CALLS = 3000
PRECONDITIONERS = [
    Nystrom(30),
    Nystrom(30, landmarks="uniform"),
    PivotedCholesky(30),
    NearestNeighbour(8),
    LowRankPlusNeighbour(30, 8),
    Balanced(),
]


class Broken(KernelOperator):
    """A kernel operator whose answers are NaN, in part or altogether; it counts what it is asked."""

    PARTS = ("matmul", "rows_matmul", "columns_matmul", "block", "dense", "data_gradient", "anchored_target",
             "small_blocks", "cross_block", "kernel_diagonal", "diagonal", "sparse_columns")  # fmt: skip

    def __init__(self, x, broken=PARTS, value=float("nan")) -> None:
        super().__init__(matern(2), x, 0.1)
        self.calls = 0
        for name in self.PARTS:
            setattr(self, name, self._spoilt(getattr(self, name), value if name in broken else None))

    def _spoilt(self, method, value):
        def answer(*arguments, **options):
            self.calls += 1
            if self.calls > MOST_CALLS:
                raise RuntimeError("it does not end")
            found = method(*arguments, **options)
            if value is None or found is None:
                return found
            if isinstance(found, tuple):
                return tuple(None if part is None else torch.full_like(part, value) for part in found)
            return torch.full_like(found, value)

        return answer


@pytest.fixture
def x(generator):
    return torch.randn(300, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("preconditioner", PRECONDITIONERS, ids=repr)
@pytest.mark.parametrize("broken", [Broken.PARTS, ("cross_block", "small_blocks", "sparse_columns")])
def test_preconditioners_refuse_what_is_not_finite(preconditioner, broken, value, x, generator):
    operator = Broken(x, broken, value)
    with pytest.raises(InputError, match=r"NaN.*kernel|kernel returned NaN"):
        preconditioner.build(operator, generator)
    assert operator.calls <= MOST_CALLS


@pytest.mark.parametrize("factor", [pivoted_cholesky, random_pivoted_cholesky, uniform_nystrom])
def test_low_rank_factors_refuse_what_is_not_finite(factor, x, generator):
    draws = () if factor is pivoted_cholesky else (generator,)
    for broken in (("cross_block",), ("kernel_diagonal",)):
        with pytest.raises(InputError, match="NaN or infinity"):
            factor(Broken(x, broken), 30, *draws)


def test_low_rank_factors_refuse_an_indefinite_kernel(x, generator):
    operator = Broken(x, ())
    operator.cross_block = lambda rows, cols: -torch.ones(len(rows), len(cols), dtype=torch.float64)
    with pytest.raises(InputError, match="not positive"):
        uniform_nystrom(operator, 30, generator)


ITERATIVE = {
    "cg": ConjugateGradients(None),
    "sdd": StochasticDualDescent(),
    "sgd": StochasticGradientDescent(batch_size=100, preconditioner=None),
    "ap": AlternatingProjections(block_size=70),
    "sap": SketchAndProject(block_size=60, rank=20),
    "sap-plain": SketchAndProject(block_size=60, rank=0),
}
UNTOUCHED = ("matmul",)


@pytest.mark.parametrize("name", ITERATIVE)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("broken", [Broken.PARTS, UNTOUCHED], ids=["everything", "products"])
@pytest.mark.parametrize("start", [False, True], ids=["zero", "x0"])
def test_solvers_end_with_a_status(name, value, broken, start, x, generator):
    operator = Broken(x, broken, value)
    rhs = torch.randn(300, 2, generator=generator, dtype=torch.float64)
    solution = ITERATIVE[name].solve(
        operator, rhs, rhs if start else None, tolerance=0.5, max_epochs=30, generator=0, on_failure="return"
    )
    assert set(solution.status) <= {Status.BREAKDOWN, Status.DIVERGED}
    assert any("not finite" in note for note in solution.notes)


def test_a_factor_of_nan_is_a_failure_and_a_product_of_nan_a_status(x, generator):
    rhs = torch.randn(300, 2, generator=generator, dtype=torch.float64)
    for solver in (Cholesky(), Cholesky(torch.float32), Auto()):
        operator = Broken(x)
        with pytest.raises(SolverFailure, match="no Cholesky factor"):
            solver.solve(operator, rhs)
        assert operator.calls < 10
        solution = solver.solve(Broken(x, UNTOUCHED), rhs, on_failure="return")
        assert set(solution.status) == {Status.BREAKDOWN}


def test_auto_keeps_what_was_found_where_the_next_solver_gives_nan(generator, monkeypatch):
    values = torch.logspace(-11, 0, 200, dtype=torch.float64)
    operator = DenseOperator(with_spectrum(values, generator)[0])
    rhs = torch.randn(200, generator=generator, dtype=torch.float64)
    arguments = {"tolerance": 1e-9, "on_failure": "return", "generator": 0}
    first = ConjugateGradients(None).solve(operator, rhs, **arguments)
    monkeypatch.setattr(DenseOperator, "dense", lambda self, dtype=None: self.matrix.clone().fill_(torch.nan))
    solution = Auto(direct_rows=0).solve(operator, rhs, **arguments)
    assert torch.equal(solution.x, first.x)
    assert any("no Cholesky factor" in note for note in solution.notes)


class _Plain(State):
    pass


class Naive(IterativeSolver):
    """An author's solver that looks at nothing: x grows until it is infinite."""

    steps = 0

    def start(self, problem):
        state = _Plain(problem)
        state.x = problem.rhs.clone()
        return state

    def step(self, state):
        self.steps += 1
        state.x = state.x * 1e200

    def iterate(self, state):
        return state.x

    def residual(self, state):
        return state.x.norm(dim=0), "recursive"

    def describe(self):
        return "Naive()"


def test_the_driver_ends_what_an_author_s_solver_does_not(generator):
    matrix, _ = with_spectrum(torch.linspace(1, 9, 50, dtype=torch.float64), generator)
    solver = Naive()
    solution = solver.solve(DenseOperator(matrix), torch.ones(50).double(), on_failure="return")
    assert solver.steps < 10
    assert solution.status == (Status.BREAKDOWN,)


def test_a_kernel_that_returns_nan(generator):
    """The real thing, through the front door."""
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.PeriodicKernel()).double()
    kernel.base_kernel.raw_period_length.data.fill_(float("nan"))
    x = torch.randn(300, 1, generator=generator, dtype=torch.float64)
    operator = KernelOperator(kernel, x, 0.1)
    rhs = torch.randn(300, generator=generator, dtype=torch.float64)
    for preconditioned in (ConjugateGradients(), StochasticGradientDescent()):
        with pytest.raises(InputError, match="NaN or infinity"):
            preconditioned.solve(operator, rhs)
    solution = ConjugateGradients(None).solve(operator, rhs, on_failure="return")
    assert solution.status == (Status.BREAKDOWN,)
