"""What the driver owes every iterative solver, and every user of one."""

from __future__ import annotations

import pytest
import torch

from sggp.errors import DtypeError, InputError, NotConverged, ShapeError, SolverFailure, UnsupportedOperator
from sggp.operators.base import completed
from sggp.solvers import Auto, ConjugateGradients, Solution, Status, StochasticDualDescent
from tests.solvers.dense import DenseOperator, with_spectrum

PLAIN = ConjugateGradients(preconditioner=None)
APART = (
    2 * 1e-8 / 0.5
)  # |x − x'| ≤ (|r| + |r'|)/λ_min of two solutions of `system` at tolerance 1e-8, per |b|


@pytest.fixture
def system(generator: torch.Generator) -> tuple[DenseOperator, torch.Tensor]:
    matrix, _ = with_spectrum(torch.linspace(0.5, 20, 60, dtype=torch.float64), generator)
    return DenseOperator(matrix), torch.randn(60, 3, generator=generator, dtype=torch.float64)


def test_easy_columns_do_not_hide_a_hard_one(generator):
    """99 columns in a well-conditioned subspace, one that needs the whole spectrum and more steps than allowed."""
    values = torch.cat([torch.ones(50), torch.logspace(-7, 0, 150)]).double()
    matrix, vectors = with_spectrum(values, generator)
    easy = vectors[:, :50] @ torch.randn(50, 99, generator=generator, dtype=torch.float64)
    hard = vectors[:, 50:] @ torch.ones(150, 1, dtype=torch.float64)
    operator = DenseOperator(matrix)
    with pytest.warns(NotConverged, match="1 of 100 columns.*worst column 40"):
        solution = PLAIN.solve(operator, torch.cat([easy[:, :40], hard, easy[:, 40:]], 1), max_epochs=10)
    assert solution.worst == 40
    assert solution.status[40] is Status.BUDGET_SPENT
    assert all(solution.status[i] is Status.CONVERGED for i in range(100) if i != 40)
    gap = torch.cat([easy[:, :40], hard, easy[:, 40:]], 1) - matrix @ solution.x
    torch.testing.assert_close(solution.residual[40], gap[:, 40].norm() / hard.norm(), rtol=1e-8, atol=0)
    assert solution.residual[40] > 1e-2


def test_settled_columns_stop_costing_work(generator):
    values = torch.cat([torch.ones(50), torch.logspace(-4, 0, 50)]).double()
    matrix, vectors = with_spectrum(values, generator)
    easy = vectors[:, :50] @ torch.randn(50, 30, generator=generator, dtype=torch.float64)
    hard = vectors @ torch.ones(100, 1, dtype=torch.float64)
    operator = DenseOperator(matrix)
    solution = PLAIN.solve(operator, torch.cat([easy, hard], 1), tolerance=1e-6)
    assert solution.converged
    # 30 easy columns take part in their one or two steps and in the measurement, not in the steps of the hard one
    assert solution.iterations > 20
    assert operator.columns_seen < solution.iterations + 31 * 5


@pytest.mark.parametrize(
    ("limits", "widths"), [({}, [3, 2]), ({"max_epochs": 500}, [5]), ({"max_seconds": 500.0}, [5])]
)
def test_columns_that_no_memory_holds_together_are_solved_in_groups(limits, widths, generator, monkeypatch):
    """States of five columns take 28 · 60 · 5 bytes; where a budget is shared they are solved together all the same."""
    matrix, _ = with_spectrum(torch.linspace(0.5, 20, 60, dtype=torch.float64), generator)
    rhs = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    operator = completed(DenseOperator(matrix))
    operator.memory_budget = 4 * 28 * 60 * 3.5
    seen: list[int] = []
    start = ConjugateGradients.start
    monkeypatch.setattr(
        ConjugateGradients, "start", lambda self, p, *a: seen.append(p.rhs.shape[1]) or start(self, p, *a)
    )
    solution = PLAIN.solve(operator, rhs, tolerance=1e-8, **limits)
    assert seen == widths
    assert solution.converged
    torch.testing.assert_close(solution.x, torch.linalg.solve(matrix, rhs), rtol=0, atol=1e-6)


def test_residual_is_the_true_one_and_history_ends_with_it(system):
    operator, rhs = system
    solution = PLAIN.solve(operator, rhs, tolerance=1e-5)
    true = (rhs - operator.matrix @ solution.x).norm(dim=0) / rhs.norm(dim=0)
    torch.testing.assert_close(solution.residual, true, rtol=1e-6, atol=1e-14)
    assert solution.residual_kind == "true"
    assert solution.history[-1].kind == "true"
    assert bool((solution.residual <= 1e-5).all())


def test_vector_in_vector_out(system):
    operator, rhs = system
    one = PLAIN.solve(operator, rhs[:, 0], tolerance=1e-8)
    many = PLAIN.solve(operator, rhs, tolerance=1e-8)
    assert one.x.shape == (60,)
    torch.testing.assert_close(one.x, many.x[:, 0], rtol=0, atol=APART * float(rhs.norm(dim=0).max()))


def test_scale_of_a_column_changes_nothing(system):
    operator, rhs = system
    scaled = PLAIN.solve(operator, rhs * torch.tensor([1e-9, 1.0, 1e9]), tolerance=1e-8).x
    plain = PLAIN.solve(operator, rhs, tolerance=1e-8).x
    limit = APART * float(rhs.norm(dim=0).max())
    torch.testing.assert_close(scaled / torch.tensor([1e-9, 1.0, 1e9]), plain, rtol=0, atol=limit)


def test_zero_and_nonfinite_columns(system):
    operator, rhs = system
    rhs = rhs.clone()
    rhs[:, 0] = 0
    rhs[3, 1] = float("nan")
    solution = PLAIN.solve(operator, rhs, on_failure="return")
    assert solution.status == (Status.CONVERGED, Status.NONFINITE_INPUT, Status.CONVERGED)
    assert bool((solution.x[:, 0] == 0).all())
    assert bool(solution.x[:, 1].isnan().all())
    torch.testing.assert_close(
        solution.x[:, 2], torch.linalg.solve(operator.matrix, rhs[:, 2]), rtol=0.1, atol=0.05
    )


def test_all_columns_zero(system):
    operator, rhs = system
    solution = PLAIN.solve(operator, torch.zeros_like(rhs))
    assert solution.converged
    assert solution.epochs == 0


@pytest.mark.parametrize("solver", [PLAIN, StochasticDualDescent()], ids=["cg", "sdd"])
def test_a_solution_fed_back_costs_one_product(system, solver):
    operator, rhs = system
    found = solver.solve(operator, rhs, tolerance=1e-3, generator=1)
    again = solver.solve(operator, rhs, found.x, tolerance=1e-3, generator=1)
    assert again.converged
    assert again.iterations == 0
    assert again.epochs == 1
    torch.testing.assert_close(again.x, found.x)


def test_no_warm_start_unless_asked(system):
    operator, rhs = system
    first, second = (PLAIN.solve(operator, rhs, tolerance=1e-6) for _ in range(2))
    assert first.iterations == second.iterations > 0
    assert first.epochs == second.epochs


def test_caps_are_honoured(system):
    operator, rhs = system
    solution = PLAIN.solve(operator, rhs, tolerance=1e-12, max_epochs=4, on_failure="return")
    assert solution.iterations == 4
    assert set(solution.status) == {Status.BUDGET_SPENT}
    assert PLAIN.solve(operator, rhs, max_epochs=0, on_failure="return").iterations == 0
    assert PLAIN.solve(operator, rhs, max_seconds=0, on_failure="return").iterations == 0


def test_callback_sees_progress_and_can_stop(system):
    operator, rhs = system
    seen = []

    def stop_at_three(progress):
        seen.append(progress)
        return progress.iterations == 3

    solution = PLAIN.solve(operator, rhs, tolerance=1e-12, callback=stop_at_three, on_failure="return")
    assert [p.iterations for p in seen] == [1, 2, 3]
    assert seen[-1].epochs == 3
    assert set(solution.status) == {Status.BUDGET_SPENT}


def test_one_tolerance_per_column(system):
    operator, rhs = system
    limits = torch.tensor([1e-1, 1e-4, 1e-9])
    solution = PLAIN.solve(operator, rhs, tolerance=limits)
    assert solution.converged
    assert bool((solution.residual <= limits).all())
    assert solution.residual[0] > 1e-9  # it was let go early


def test_failure_can_raise_and_carries_the_solution(system):
    operator, rhs = system
    with pytest.raises(SolverFailure, match="max_epochs") as caught:
        PLAIN.solve(operator, rhs, tolerance=1e-12, max_epochs=2, on_failure="raise")
    assert isinstance(caught.value.solution, Solution)
    assert caught.value.solution.x.shape == rhs.shape


@pytest.mark.parametrize("solver", [PLAIN, Auto(direct_rows=0)], ids=["cg", "auto"])
def test_the_warning_points_at_the_caller(system, solver):
    operator, rhs = system
    with pytest.warns(NotConverged) as caught:
        solver.solve(operator, rhs, tolerance=1e-12, max_epochs=2)
    assert [warning.filename for warning in caught] == [__file__]


def test_repr_is_one_line_and_names_the_worst_column(system):
    operator, rhs = system
    text = repr(PLAIN.solve(operator, rhs))
    assert "\n" not in text
    assert "worst column" in text


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"rhs": torch.ones(5, dtype=torch.float64)}, ShapeError),
        ({"rhs": torch.ones(60, 2, 2, dtype=torch.float64)}, ShapeError),
        ({"rhs": torch.ones(60, dtype=torch.long)}, DtypeError),
        ({"rhs": [1.0] * 60}, DtypeError),
        ({"rhs": torch.ones(60, device="meta")}, DtypeError),
        ({"rhs": torch.ones(60).to_sparse()}, DtypeError),
        ({"x0": torch.ones(60, 1, dtype=torch.float64)}, ShapeError),
        ({"x0": torch.full((60, 3), float("nan"), dtype=torch.float64)}, InputError),
        ({"tolerance": 0.0}, InputError),
        ({"tolerance": torch.ones(2)}, ShapeError),
        ({"max_epochs": -1}, InputError),
        ({"operator": object()}, UnsupportedOperator),
        ({"on_failure": "shrug", "max_epochs": 1, "tolerance": 1e-12}, InputError),
    ],
)
def test_bad_arguments(system, change, error):
    operator, rhs = system
    arguments = {"operator": operator, "rhs": rhs, **change}
    with pytest.raises(error):
        PLAIN.solve(arguments.pop("operator"), arguments.pop("rhs"), **arguments)
