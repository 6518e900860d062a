"""`check_solver` passes every solver of the catalogue and finds what is wrong with those broken on purpose."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

import sggp.solvers.core.checkpoint
import sggp.testing.solvers
from sggp.solvers import ConjugateGradients, IterativeSolver, Solver, State, Status
from sggp.testing import check_solver
from tests.catalogue import SOLVERS


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """A checkpoint after every step, where a user of the check waits a second for one."""
    monkeypatch.setattr(sggp.solvers.core.checkpoint, "_INTERVAL", 0.0)
    monkeypatch.setattr(sggp.testing.solvers, "_PAUSE", 0.0)


@pytest.mark.parametrize("row", SOLVERS, ids=str)
def test_solvers_of_the_catalogue_keep_their_promises(row):
    assert check_solver(row.solver, generator=5) == []


def test_every_solver_has_a_row():
    exported = {getattr(sggp.solvers, name) for name in sggp.solvers.__all__}
    concrete = {t for t in exported if isinstance(t, type) and issubclass(t, Solver)} - {
        Solver,
        IterativeSolver,
    }
    assert concrete == {type(row.solver) for row in SOLVERS}


@dataclass(frozen=True)
class Liar(Solver):
    """Fault: one step, whatever was asked, and the claim that it was enough."""

    def _solve(self, operator, rhs, x0, limits):
        short = ConjugateGradients(None)._solve(operator, rhs, x0, replace(limits, max_epochs=1))
        claim = torch.minimum(short.residual, short.tolerance)
        return replace(short, status=(Status.CONVERGED,) * len(short.status), residual=claim)


@dataclass(frozen=True)
class Mixer(Solver):
    """Fault: the columns of the answer are not in the order of the right-hand side's."""

    def _solve(self, operator, rhs, x0, limits):
        solution = ConjugateGradients(None)._solve(operator, rhs, x0, limits)
        return replace(solution, x=solution.x.roll(1, -1)) if solution.x.ndim == 2 else solution


@dataclass
class Rude(Solver):
    """Faults: not frozen, normalises the caller's right-hand side in place, draws from the global generator."""

    def _solve(self, operator, rhs, x0, limits):
        rhs.nan_to_num_(0.0).mul_(2.0)
        torch.rand(())
        return ConjugateGradients(None)._solve(operator, rhs, x0, limits)


@dataclass
class ForgetfulState(State):
    parts: dict  # what changes is hidden from the checkpoint


@dataclass(frozen=True)
class Forgetful(IterativeSolver):
    """Faults: changes what no checkpoint holds, and draws its step from thin air."""

    calls: ClassVar[list[int]] = []

    def start(self, problem):
        self.calls.append(1)
        return ForgetfulState(problem, {"x": torch.zeros_like(problem.rhs), "gap": problem.rhs.clone()})

    def step(self, state):
        parts = state.parts
        product = state.problem.operator.matmul(parts["gap"])
        length = parts["gap"].square().sum(0) / (parts["gap"] * product).sum(0)
        length = length * (1.0 - 1e-3 * (len(self.calls) % 7))
        parts["x"] = parts["x"] + length * parts["gap"]
        parts["gap"] = parts["gap"] - length * product

    def iterate(self, state):
        return state.parts["x"]

    def residual(self, state):
        return state.parts["gap"].norm(dim=0), "recursive"

    def keep(self, state, columns):
        super().keep(state, columns)
        state.parts = {name: value[:, columns] for name, value in state.parts.items()}


@dataclass(frozen=True)
class Deaf(Solver):
    """Faults: neither the budget, nor x0, nor the dtype and shape of the right-hand side are heeded."""

    def _solve(self, operator, rhs, x0, limits):
        block = rhs.reshape(len(rhs), -1).double()
        return ConjugateGradients(None)._solve(
            operator, block, None, replace(limits, max_epochs=100, checkpoint=None)
        )


@dataclass(frozen=True)
class Rounding(Solver):
    """Fault: what it measured is rounded to the dtype of the right-hand side afterwards."""

    def _solve(self, operator, rhs, x0, limits):
        solution = ConjugateGradients(None)._solve(operator, rhs, x0, limits)
        return replace(solution, x=solution.x.to(rhs.dtype))


@dataclass(frozen=True)
class Clinging(Solver):
    """Fault: the first row counts double, so that the answer depends on which row comes first."""

    def _solve(self, operator, rhs, x0, limits):
        block = rhs.clone()
        block[0] *= 2
        solution = ConjugateGradients(None)._solve(operator, block, x0, limits)
        return replace(solution, residual_kind="estimated")


@pytest.mark.parametrize(
    ("solver", "faults"),
    [
        (Liar(), ["tolerance 1e-03: column 0 is said to be converged", "max_epochs=3: column 0 is said"]),
        (
            Mixer(),
            ["column 0 is said to be converged, but its residual is", "said to be .* and true, measured"],
        ),
        (Rude(), ["not frozen", "changes the right-hand side", "torch's global random numbers"]),
        (Forgetful(), ["equal seeds give different answers", "interrupted and resumed"]),
        (
            Deaf(),
            [
                "max_epochs=3 ends after",
                "started at the solution",
                "gives x of shape",
                "gives x in torch.float64",
            ],
        ),
        (
            Rounding(),
            [
                "at low noise: column 0 is said to be converged, but .* returned in torch.float32",
                "at low noise: the residual of column . is said .* measured",
            ],
        ),
        (Clinging(), ["rows in another order"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Solver) else "",
)
def test_faults_are_found_and_named(solver, faults):
    found = check_solver(solver, generator=5)
    for fault in faults:
        assert any(re.search(fault, violation) for violation in found), (fault, found)
