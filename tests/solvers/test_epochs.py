"""What the solvers that visit rows in epochs share, and the options of one of them."""

from __future__ import annotations

import pytest
import torch
from gpytorch.kernels import MaternKernel

from sggp.errors import InputError
from sggp.operators import KernelOperator
from sggp.solvers import SketchAndProject, StochasticDualDescent, stochastic_dual_descent
from sggp.solvers.core.problem import check_system
from sggp.solvers.core.run import begin
from sggp.solvers.stochastic_dual_descent import stable_step
from tests.solvers.dense import matern


def started(solver, operator, rhs):
    """A state as the driver gets it: for unit columns."""
    problem = begin(check_system(operator, rhs, None, 1e-3, 1)).correction(torch.arange(rhs.shape[1]))
    return solver.start(problem, solver.setup(operator, rhs.shape[1], problem.generator))


@pytest.fixture
def system(generator):
    x = torch.randn(300, 3, generator=generator, dtype=torch.float64)
    return KernelOperator(matern(3), x, 0.05), torch.randn(300, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("setting", "share"), [(True, 0.5), (0.25, 0.25), (1.0, 1.0)])
def test_tail_average_is_the_weighted_mean_it_says(setting, share, system):
    """Weights t^η (rising factorials), whose mean age is that of the newest share of the iterates."""
    operator, rhs = system
    solver = SketchAndProject(block_size=60, rank=20, tail_averaging=setting)
    state = started(solver, operator, rhs)
    seen = []
    for _ in range(40):
        solver.step(state)
        seen.append(state.w.clone())
    power, times = 2 / share - 2, torch.arange(1, 41, dtype=torch.float64)
    weights = (torch.lgamma(times + power) - torch.lgamma(times)).exp()
    weights = weights / weights.sum()
    torch.testing.assert_close(solver.iterate(state), torch.einsum("t,tns->ns", weights, torch.stack(seen)))
    age = float((weights * (40 - times)).sum())
    assert age == pytest.approx(share * 40 / 2, abs=1.0)


def test_tail_averaging_still_converges_and_is_off_by_default(system):
    operator, rhs = system
    plain = SketchAndProject(block_size=60)
    state = started(plain, operator, rhs)
    plain.step(state)
    assert state.average is None
    assert torch.equal(plain.iterate(state), state.w)
    limits = torch.tensor([1e-1, 1e-3])  # the first column leaves early, and its average with it
    assert (
        SketchAndProject(60, tail_averaging=True)
        .solve(operator, rhs, tolerance=limits, generator=1)
        .converged
    )


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_is_a_share(share):
    with pytest.raises(InputError, match="tail_averaging"):
        SketchAndProject(tail_averaging=share)


def test_the_step_is_found_within_the_operator_s_bytes(system):
    operator, rhs = system
    tight = KernelOperator(matern(3), operator.x, 0.05, memory_budget=200_000)  # 300² float64 take 720,000
    rough, largest = stable_step(tight, torch.Generator().manual_seed(1))
    exact, _ = stable_step(operator, torch.Generator().manual_seed(1))
    assert rough == pytest.approx(exact, rel=0.5)
    assert rough >= 0.9 * exact  # the bound errs on the safe side
    assert StochasticDualDescent().solve(tight, rhs, generator=1).converged


@pytest.mark.parametrize(
    "solver", [StochasticDualDescent(), SketchAndProject(block_size=60)], ids=["sdd", "sap"]
)
def test_an_epoch_visits_every_row_once(solver, system):
    operator, rhs = system
    visited = []
    product = operator.rows_matmul

    def spy(rows, v):
        visited.extend(rows.tolist())
        return product(rows, v)

    operator.rows_matmul = spy
    state = started(solver, operator, rhs)
    solver.step(state)
    while not state.fresh:
        solver.step(state)
    assert sorted(visited) == list(range(300))
    solver.step(state)
    assert not state.fresh


def test_growth_goes_back_to_the_best_iterate(system):
    operator, rhs = system
    solver = StochasticDualDescent(batch_size=300)
    state = started(solver, operator, rhs)
    for _ in range(5):
        solver.step(state)
    best, before = state.good.clone(), state.size
    assert bool((best != 0).any())
    state.alpha *= 1e6
    solver.step(state)
    assert not state.fresh
    assert torch.equal(state.alpha, best)
    assert torch.equal(state.average, best)
    assert bool((state.velocity == 0).all())
    assert state.size == before / 2
    assert "halved" in state.notes[-1]


@pytest.mark.parametrize("epochs", [0.25, 1.0])
def test_a_short_descent_does_not_average_over_its_start(epochs, generator, monkeypatch):
    """The average is as good as the last iterate from the first steps on, where one over four epochs is near zero."""
    x = torch.rand(2000, 2, generator=generator, dtype=torch.float64)
    operator = KernelOperator(MaternKernel(nu=1.5).double(), x, 0.05)
    monkeypatch.setattr(
        stochastic_dual_descent, "_SUBSET", 256
    )  # rows that the step is found from, within the budget
    rhs = torch.sin(5 * x[:, :1]) + torch.randn(2000, 1, generator=generator, dtype=torch.float64) * 0.05**0.5
    found = {}
    for averaging in (None, 1.0):
        solver = StochasticDualDescent(batch_size=50, averaging=averaging)
        found[averaging] = solver.solve(
            operator, rhs, tolerance=1e-6, max_epochs=epochs, generator=0, on_failure="return"
        ).x
    left = {k: float((operator.matmul(v) - rhs).norm() / rhs.norm()) for k, v in found.items()}
    assert left[None] < 1.2 * left[1.0]
    assert left[None] < 0.6
