"""`prepare` makes what the operator alone decides once, and solves as `solve` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from sggp.errors import InputError, NotConverged, UnsupportedOperator
from sggp.operators import KernelOperator
from sggp.preconditioners import LowRankPlusNeighbour, Nystrom
from sggp.solvers import (
    AlternatingProjections,
    Auto,
    Cholesky,
    ConjugateGradients,
    IterativeSolver,
    Prepared,
    SketchAndProject,
    Solver,
    State,
    StochasticDualDescent,
    StochasticGradientDescent,
)
from sggp.solvers.core import checkpoint
from tests.solvers.dense import matern

SOLVERS = {
    "cholesky": Cholesky(),
    "cholesky-float32": Cholesky(torch.float32),
    "cg": ConjugateGradients(),
    "cg-both": ConjugateGradients(LowRankPlusNeighbour(40, 15)),
    "cg-plain": ConjugateGradients(None),
    "sdd": StochasticDualDescent(),
    "ap": AlternatingProjections(block_size=70),
    "sap": SketchAndProject(block_size=60, rank=20),
    "auto": Auto(),
    "auto-iterative": Auto(direct_rows=0),
}


def make(generator, noise=0.1, n=300):
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return KernelOperator(matern(2), x, noise)


@pytest.mark.parametrize("name", SOLVERS)
def test_same_result_as_solve(name, generator):
    operator = make(generator, n=150)
    many = [torch.randn(150, 3, generator=generator, dtype=torch.float64) for _ in range(2)]
    prepared = SOLVERS[name].prepare(operator)
    for rhs in many:
        one = SOLVERS[name].solve(operator, rhs, tolerance=1e-3, generator=7, on_failure="return")
        two = prepared.solve(rhs, tolerance=1e-3, generator=7, on_failure="return")
        assert torch.equal(one.x, two.x)
        assert (one.status, one.iterations, one.method) == (two.status, two.iterations, two.method)
        assert two.epochs <= one.epochs


@pytest.mark.parametrize("name", ["cholesky", "cholesky-float32", "cg", "cg-both", "sdd", "auto"])
def test_the_second_solve_has_the_set_up_for_nothing(name, generator):
    operator = make(generator)
    rhs = torch.randn(300, 2, generator=generator, dtype=torch.float64)
    prepared = SOLVERS[name].prepare(operator)
    assert "not set up yet" in repr(prepared)
    first, second = (prepared.solve(rhs, tolerance=1e-2, generator=0) for _ in range(2))
    assert "not set up" not in repr(prepared)
    assert second.epochs < first.epochs
    assert torch.equal(first.x, second.x)


def test_the_set_up_is_sized_for_the_columns_that_are_told(generator, monkeypatch):
    seen = []
    build = Nystrom.build

    def spy(self, operator, generator):
        seen.append(self)
        return build(self, operator, generator)

    monkeypatch.setattr(Nystrom, "build", spy)
    operator = make(generator)
    prepared = ConjugateGradients(Nystrom(30)).prepare(operator, columns=9)
    for s in (1, 4):
        prepared.solve(torch.randn(300, s, generator=generator, dtype=torch.float64), generator=0)
    assert len(seen) == 1
    assert prepared._setup.columns == 9


def test_another_matrix_nearby_is_solved_with_the_same_preconditioner(generator):
    operator = make(generator, noise=1e-3)
    rhs = torch.randn(300, 2, generator=generator, dtype=torch.float64)
    moved = KernelOperator(matern(2), operator.x, 1.1e-3)
    prepared = ConjugateGradients().prepare(operator)
    prepared.solve(rhs, tolerance=1e-6, generator=0)
    before = moved.entries_evaluated
    solution = prepared.moved_to(moved).solve(rhs, tolerance=1e-6, generator=0)
    assert solution.converged
    assert moved.entries_evaluated - before == (solution.iterations + 1) * 300**2  # nothing was built
    gap = rhs - moved.dense() @ solution.x
    assert bool((gap.norm(dim=0) / rhs.norm(dim=0) <= 1.001e-6).all())
    assert prepared.operator is operator


def test_failures_and_misuse_are_those_of_solve(generator):
    operator = make(generator)
    rhs = torch.randn(300, 2, generator=generator, dtype=torch.float64)
    prepared = ConjugateGradients(None).prepare(operator)
    with pytest.warns(NotConverged, match="budget_spent"):
        prepared.solve(rhs, tolerance=1e-9, max_epochs=2)
    with pytest.raises(InputError, match="max_epochs"):
        prepared.solve(rhs, max_epochs=-1)
    with pytest.raises(UnsupportedOperator, match="LinearOperator"):
        ConjugateGradients().prepare(torch.eye(3))
    with pytest.raises(UnsupportedOperator, match="LinearOperator"):
        prepared.moved_to(torch.eye(3))


class _Killed(Exception):
    pass


@pytest.mark.parametrize("name", ["cg-both", "sdd"])
def test_a_prepared_solve_is_resumed_too(name, generator, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_INTERVAL", 0.0)
    monkeypatch.setattr(checkpoint, "_WORK_PER_WRITE", 0.0)
    operator = make(generator)
    rhs = torch.randn(300, 2, generator=generator, dtype=torch.float64)
    prepared = SOLVERS[name].prepare(operator)
    whole = prepared.solve(rhs, tolerance=1e-4, generator=1)

    def kill(progress):
        if progress.iterations == 4:
            raise _Killed

    with pytest.raises(_Killed):
        prepared.solve(rhs, tolerance=1e-4, generator=1, checkpoint=tmp_path / "c", callback=kill)
    for again in (prepared, SOLVERS[name].prepare(operator)):
        resumed = again.solve(rhs, tolerance=1e-4, generator=1, checkpoint=tmp_path / "c")
        assert torch.equal(resumed.x, whole.x)


# solvers of users ---------------------------------------------------------------------------------------------------


@dataclass
class _State(State):
    x: torch.Tensor
    r: torch.Tensor

    per_column: ClassVar[tuple[str, ...]] = ("x", "r")


@dataclass(frozen=True)
class Plain(IterativeSolver):
    """Written against start(problem), as before there was a setup."""

    def start(self, problem):
        return _State(problem, torch.zeros_like(problem.rhs), problem.rhs.clone())

    def step(self, state):
        product = state.problem.operator.matmul(state.r)
        length = state.r.square().sum(0) / (state.r * product).sum(0)
        state.x = state.x + length * state.r
        state.r = state.r - length * product

    def iterate(self, state):
        return state.x

    def residual(self, state):
        return state.r.norm(dim=0), "recursive"


@dataclass(frozen=True)
class Scaled(Plain):
    """The same with a set-up: the diagonal."""

    made: ClassVar[list[int]] = []

    def setup(self, operator, columns, generator):
        self.made.append(columns)
        return operator.diagonal()

    def start(self, problem, setup):
        assert torch.equal(setup, problem.operator.diagonal())
        return super().start(problem)


@dataclass(frozen=True)
class Direct(Solver):
    """A solver of a user's own without steps."""

    def _solve(self, operator, rhs, x0, limits):
        return Cholesky()._solve(operator, rhs, x0, limits)


@pytest.mark.parametrize("solver", [Plain(), Scaled(), Direct()], ids=lambda s: type(s).__name__)
def test_solvers_of_users_can_be_prepared(solver, generator):
    operator = make(generator, noise=2.0)
    rhs = torch.randn(300, 2, generator=generator, dtype=torch.float64)
    Scaled.made.clear()
    prepared = solver.prepare(operator)
    assert isinstance(prepared, Prepared)
    for _ in range(2):
        assert torch.equal(
            prepared.solve(rhs, tolerance=1e-4).x, solver.solve(operator, rhs, tolerance=1e-4).x
        )
    assert len(Scaled.made) == (3 if isinstance(solver, Scaled) else 0)  # one, and one for each plain solve


def test_what_is_carried_outlasts_a_restart(generator):
    """A step that was halved stays halved, and each restart makes the running residual count for more."""
    operator = make(generator)
    rhs = torch.randn(300, 1, generator=generator, dtype=torch.float64)
    seen = []

    @dataclass(frozen=True)
    class Watched(StochasticDualDescent):
        def step(self, state):
            if not seen:
                state.size /= 4
            seen.append((state.restarts, state.size, state.estimate.clone(), self.residual(state)))
            super().step(state)

        def residual(self, state):
            found = super().residual(state)
            return None if found is None else (found[0] * 0.1, found[1])  # claims too early

    Watched().solve(operator, rhs, tolerance=1e-3, generator=0, on_failure="return")
    first = next(size for restarts, size, *_ in seen if restarts == 0)
    later = [size for restarts, size, *_ in seen if restarts > 0]
    assert later
    assert set(later) == {first}


def test_primal_descent_too(generator):
    operator = make(generator, noise=1.0)
    rhs = torch.randn(300, 1, generator=generator, dtype=torch.float64)
    prepared = StochasticGradientDescent().prepare(operator)
    arguments = {
        "callback": lambda progress: progress.iterations == 50,
        "generator": 3,
        "on_failure": "return",
    }
    one = StochasticGradientDescent().solve(operator, rhs, **arguments)
    for _ in range(2):
        assert torch.equal(prepared.solve(rhs, **arguments).x, one.x)
