"""Solvers whose methods give what the driver cannot use: said of the method, and listed by `check_solver`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import sggp.solvers.core.driver
from sggp.errors import DtypeError, InputError, ShapeError
from sggp.solvers import IterativeSolver, State, Status
from sggp.testing import check_solver
from tests.solvers.dense import DenseOperator


@dataclass
class DescentState(State):
    x: Tensor
    residual: Tensor
    per_column: ClassVar[tuple[str, ...]] = ("x", "residual")


@dataclass
class Unnamed(DescentState):
    """Fault: what runs over columns is not named."""

    per_column: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Descent(IterativeSolver):
    """Steepest descent as in docs/writing_a_solver.md, with one method that another one takes the place of."""

    broken: str = ""

    def start(self, problem: Any) -> Any:
        if self.broken == "start":
            return {"x": problem.rhs}
        kind = Unnamed if self.broken == "per_column" else DescentState
        if self.broken == "seed":
            torch.manual_seed(0)
        if self.broken == "default dtype":
            torch.set_default_dtype(torch.float64)
        return kind(problem, torch.zeros_like(problem.rhs), problem.rhs.clone())

    def step(self, state: Any) -> None:
        if self.broken == "error":
            raise ZeroDivisionError("no step")
        if self.broken == "idle":
            return
        product = state.problem.operator.matmul(state.residual)
        length = state.residual.square().sum(0) / (state.residual * product).sum(0)
        state.x = state.x + length * state.residual
        state.residual = state.residual - length * product

    def iterate(self, state: Any) -> Any:
        given: dict[str, Callable[[Tensor], Any]] = {
            "rows": lambda x: x[:-1],
            "vector": lambda x: x[:, 0],
            "tuple": lambda x: (x,),
        }
        return given.get(self.broken, lambda x: x)(state.x)

    def residual(self, state: Any) -> Any:
        norms = state.residual.double().norm(dim=0)
        given = {
            "kind": (norms, "measured"),
            "scalar": (norms.max(), "recursive"),
            "alone": norms,
            "list": (norms.tolist(), "recursive"),
        }
        return given.get(self.broken, (norms, "recursive"))

    def failures(self, state: Any) -> Any:
        return [] if self.broken == "failures" else super().failures(state)

    def stalled(self, state: Any) -> Any:
        return torch.tensor(False) if self.broken == "stalled" else super().stalled(state)


FAULTS = [
    ("start", DtypeError, "start must give a sggp.solvers.State"),
    ("per_column", ShapeError, "per_column"),
    ("rows", ShapeError, "iterate must give"),
    ("vector", ShapeError, "iterate must give"),
    ("tuple", DtypeError, "iterate must give"),
    ("kind", InputError, "kind of Descent.residual"),
    ("scalar", ShapeError, "residual must give"),
    ("alone", DtypeError, "residual must give"),
    ("list", DtypeError, "residual must give"),
    ("failures", ShapeError, "failures must give"),
    ("stalled", ShapeError, "stalled must give"),
]


def system() -> tuple[DenseOperator, Tensor]:
    values = torch.linspace(1, 4, 30, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    rhs = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    rhs[:, 0] = torch.eye(30, dtype=torch.float64)[0]  # solved in one step, and dropped
    return DenseOperator(torch.diag(values)), rhs


@pytest.mark.parametrize(("broken", "error", "match"), FAULTS)
def test_what_a_method_gives_is_checked(broken: str, error: type[Exception], match: str) -> None:
    operator, rhs = system()
    with pytest.raises(error, match=match):
        Descent(broken).solve(operator, rhs, tolerance=1e-6)
    assert Descent().solve(operator, rhs, tolerance=1e-6).converged


def test_steps_that_ask_nothing_of_the_operator_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """They spend no epochs, and no budget of epochs ended them."""
    monkeypatch.setattr(sggp.solvers.core.driver, "_MOST_IDLE", 50)
    operator, rhs = system()
    solution = Descent("idle").solve(operator, rhs, on_failure="return")
    assert set(solution.status) == {Status.BUDGET_SPENT}
    assert solution.iterations == 50
    assert any("asked nothing of the operator" in note for note in solution.notes)


@pytest.mark.parametrize("value", [float("nan"), "10", None])
def test_budgets_are_numbers(value: Any) -> None:
    operator, rhs = system()
    if value is None:
        assert Descent().solve(operator, rhs, max_epochs=float("inf")).converged
        return
    for name in ("max_epochs", "max_seconds"):
        with pytest.raises(InputError, match=name):
            Descent().solve(operator, rhs, **{name: value})


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        ("rows", "it raises ShapeError: Descent.iterate must give"),
        ("per_column", "it raises ShapeError: .*per_column"),
        ("error", r"it raises ZeroDivisionError: no step \(test_broken_solvers.py, line \d+\)"),
        ("seed", "torch's global random numbers"),
        ("default dtype", "changes the default dtype"),
    ],
)
def test_the_check_lists_errors_and_what_is_changed_at_the_first_solve(broken: str, fault: str) -> None:
    torch.manual_seed(12345)
    dtype = torch.get_default_dtype()
    try:
        found = check_solver(Descent(broken), generator=5, n=40)
    finally:
        torch.set_default_dtype(dtype)
    assert any(re.search(fault, violation) for violation in found), found
    assert len(found) == len(set(found))


def test_a_solver_that_does_not_pickle_is_listed() -> None:
    found = check_solver(replace(Descent(), broken=Unpicklable()), generator=5, n=40)
    assert any("it raises" in violation and "pickle" in violation for violation in found), found


class Unpicklable(str):
    """Text that does not pickle."""

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle this")
