"""A solve that is asked to stop, or whose set-up takes too long, keeps what it has and says so."""

from __future__ import annotations

import json
import time

import pytest
import torch

from sggp import GPRegressor
from sggp.errors import Stopped
from sggp.neighbours import search
from sggp.operators import KernelOperator
from sggp.preconditioners import LowRankPlusNeighbour, NearestNeighbour, Nystrom, neighbour
from sggp.running import JsonLines, Stop, listening, stoppable
from sggp.solvers import Auto, ConjugateGradients, Status
from sggp.solvers.core import run
from tests.solvers.dense import matern
from tests.solvers.test_checkpoint import SOLVERS, make_system, same

ARGUMENTS = {"tolerance": torch.tensor([1e-1, 1e-3, 1e-3, 1e-4]), "generator": 3}


@pytest.mark.parametrize("name", SOLVERS)
def test_a_stop_ends_at_the_next_step_and_the_same_call_goes_on_exactly(name, generator, tmp_path):
    operator, rhs = make_system(name, generator, n=180)
    whole = SOLVERS[name].solve(operator, rhs, **ARGUMENTS)
    at = whole.iterations // 2
    with stoppable(Stop()) as stop:
        stopped = SOLVERS[name].solve(
            operator, rhs, **ARGUMENTS, checkpoint=tmp_path / "c", on_failure="return",
            callback=lambda progress: stop.ask("SIGTERM") if progress.iterations == at else None,
        )  # fmt: skip
    assert stopped.iterations == at
    assert Status.BUDGET_SPENT in stopped.status
    assert any(note == f"stopped by SIGTERM at iteration {at}." for note in stopped.notes)
    truth = torch.linalg.vector_norm(rhs - operator.matmul(stopped.x), dim=0)
    truth = truth / torch.linalg.vector_norm(rhs, dim=0).clamp_min(1e-300)
    torch.testing.assert_close(stopped.residual, truth, rtol=1e-6, atol=1e-12)
    resumed = SOLVERS[name].solve(operator, rhs, **ARGUMENTS, checkpoint=tmp_path / "c")
    same(resumed, whole)
    assert f"resumed from c at iteration {at}." in resumed.notes


def test_a_stop_before_the_first_step_makes_no_preconditioner(generator, tmp_path):
    operator, rhs = make_system("cg-auto", generator)
    again = {"checkpoint": tmp_path / "c", "generator": 1, "on_failure": "return"}
    with stoppable(Stop()) as stop:
        stop.ask("SIGTERM")
        solution = Auto(direct_rows=0).solve(operator, rhs, **again)
    assert solution.iterations == 0
    assert not solution.x.any()
    assert any("went no further: stopped by SIGTERM" in note for note in solution.notes)
    assert Auto(direct_rows=0).solve(operator, rhs, **again).converged


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only where a test says so."""
    now = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def slowed(operator, clock, monkeypatch, **seconds):
    """The operator with methods that take so many seconds each."""
    calls = dict.fromkeys(seconds, 0)
    for name, taken in seconds.items():
        method = getattr(operator, name)

        def slow(*arguments, method=method, name=name, taken=taken):
            calls[name] += 1
            clock[0] += taken
            return method(*arguments)

        monkeypatch.setattr(operator, name, slow)
    return calls


@pytest.mark.parametrize(
    ("preconditioner", "slow", "note"),
    [
        ("auto", {"cross_block": 1.0}, "no preconditioner"),
        ("auto", {"sparse_columns": 9.0, "ordering": 3.0}, "only a preconditioner of rank 30"),
        (Nystrom(64), {"cross_block": 1.0}, "no preconditioner"),
        (NearestNeighbour(5), {"ordering": 3.0}, "no preconditioner"),
        (LowRankPlusNeighbour(40, 5), {"cross_block": 1.0}, "no preconditioner"),
    ],
)
def test_a_budget_ends_the_set_up_of_a_preconditioner(preconditioner, slow, note, clock, monkeypatch):
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(300, 3, generator=generator, dtype=torch.float64)
    operator = KernelOperator(matern(3), x, 1e-4)
    rhs = torch.randn(300, 1, generator=generator, dtype=torch.float64)
    calls = slowed(operator, clock, monkeypatch, matmul=0.1, **slow)
    begin = clock[0]
    solution = ConjugateGradients(preconditioner).solve(
        operator, rhs, max_seconds=4.0, tolerance=1e-12, generator=0, on_failure="return"
    )
    assert any(note in line and "max_seconds" in line for line in solution.notes), solution.notes
    assert solution.iterations > 0
    longest = max(slow.values())
    assert clock[0] - begin <= 4.0 + longest + 0.1  # what was under way, and a step
    assert calls["matmul"] >= solution.iterations


@pytest.mark.parametrize(("seconds", "steps"), [(1.0, 0), (1000.0, 3)])
def test_a_step_longer_than_the_budget_is_not_begun(seconds, steps, clock, monkeypatch):
    """A product of few rows tells: here of 2 in 512, in half a second."""
    monkeypatch.setattr(run, "_FORECAST_ROWS", 300)
    generator = torch.Generator().manual_seed(5)
    operator = KernelOperator(matern(3), torch.rand(512, 3, generator=generator, dtype=torch.float64), 1e-2)
    rhs = torch.randn(512, 2, generator=generator, dtype=torch.float64)
    calls = slowed(operator, clock, monkeypatch, rows_matmul=0.5, matmul=128.0)
    solution = ConjugateGradients(None).solve(
        operator, rhs, tolerance=1e-9, max_seconds=seconds, max_epochs=3.0, on_failure="return"
    )
    assert solution.iterations == steps
    assert calls["rows_matmul"] >= 1
    told = [note for note in solution.notes if "went no further: a step takes about 128 s" in note]
    assert len(told) == (steps == 0)


def test_a_set_up_within_the_budget_is_that_without_one(clock, monkeypatch):
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(300, 3, generator=generator, dtype=torch.float64)
    operator = KernelOperator(matern(3), x, 1e-4)
    rhs = torch.randn(300, 2, generator=generator, dtype=torch.float64)
    slowed(operator, clock, monkeypatch, cross_block=0.1, matmul=0.1)
    one, two = (ConjugateGradients().solve(operator, rhs, max_seconds=m, generator=0) for m in (None, 1e3))
    assert torch.equal(one.x, two.x)
    assert one.notes == two.notes


def test_searches_and_factors_look_at_the_clock_and_give_what_they_gave(monkeypatch):
    """In parts or whole, the numbers are the same."""
    x = torch.rand(600, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    operator, order = KernelOperator(matern(3), x, 1e-2), torch.randperm(600)

    def made(method):
        found = search.earlier_neighbours(x, order, 6, method=method)
        return found, NearestNeighbour(6).build(operator, torch.Generator().manual_seed(1)).apply(x)

    monkeypatch.setattr(search, "_TREE_ROWS", 64)
    whole = {method: made(method) for method in ("exact", "tree")}
    looks = []
    for module in (search, neighbour):
        monkeypatch.setattr(module, "go_on", lambda: looks.append(1))
    monkeypatch.setattr(search, "_DISTANCES", 1)
    monkeypatch.setattr(search, "_LEAST_ASKED", 100)
    monkeypatch.setattr(search, "_ASKED_AT_ONCE", 50)
    monkeypatch.setattr(neighbour, "_FUSED_ROWS", 100)
    for method, least in (("exact", 6 + 6 + 6), ("tree", 1 + 11 + 6 + 6)):
        looks.clear()
        for one, other in zip(made(method), whole[method], strict=True):
            assert torch.equal(one, other)
        assert len(looks) >= least


def test_a_solve_tells_of_its_steps(generator, tmp_path):
    operator, rhs = make_system("cg-auto", generator)
    with JsonLines(tmp_path / "run.jsonl"):
        solution = SOLVERS["cg-auto"].solve(operator, rhs, **ARGUMENTS)
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["phase"] == "solve"]
    assert {line["phase"].split(",")[0] for line in lines} == {"preconditioner", "solve"}
    assert len(steps) == solution.iterations
    assert [line["done"] for line in steps] == list(range(1, solution.iterations + 1))
    assert steps[0]["open_columns"] == 3
    assert steps[0]["tolerance"] == pytest.approx(1e-4)
    epochs = [line["epochs"] for line in steps]
    assert epochs == sorted(epochs)


def test_learning_is_stopped_and_says_that_nothing_is_left(generator):
    x = torch.rand(1600, 2, generator=generator, dtype=torch.float64)
    y = torch.sin(5 * x[:, 0]) * x[:, 1]
    steps = []

    def hear(step):
        steps.append(step)
        stop.ask("the test")

    with (
        stoppable(Stop()) as stop,
        listening(hear),
        pytest.raises(Stopped, match="the test while hyperparameters"),
    ):
        GPRegressor("matern32", noise="constant").fit(x.numpy(), y.numpy())
    assert [step.phase for step in steps] == ["hyperparameters"]
