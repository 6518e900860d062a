"""The one loop behind every iterative solver.

A solver author writes three functions over a state: `start(problem) -> state`, `step(state)`, `iterate(state)`. The
driver owns everything else: scaling, trivial columns, per-column stopping and freezing, epochs, the clock, and a final
residual that is measured.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sggp.errors import InputError, NotConverged
from sggp.solvers.problem import Problem, prepare
from sggp.solvers.solution import Record, Solution, Status
from sggp.typing import FailurePolicy, ResidualKind, Seed

if TYPE_CHECKING:
    from sggp.solvers.base import IterativeSolver

__all__ = ["Progress", "drive"]

_CONFIRMATIONS = 3
"""How often a column may claim convergence that a measured residual denies before it counts as stagnated."""


@dataclass(frozen=True)
class Progress:
    """What a callback sees after each step."""

    iterations: int
    epochs: float
    seconds: float
    residual: Tensor  # (s,) latest known relative residuals of all columns
    kind: ResidualKind


Callback = Callable[[Progress], Any]


@dataclass
class _Run:
    """Bookkeeping of one solve over the columns that need work."""

    problem: Problem
    x: Tensor  # (n, s) best known iterates
    gap: Tensor  # (n, s) rhs - A x as last measured
    residual: Tensor  # (s,) float64, measured where `measured`
    status: list[Status | None]
    entries0: int
    clock: float
    denied: Tensor  # (s,) claims of convergence refused since the measured residual last fell
    measured: Tensor  # (s,) residual at the last refusal
    paused: float = 0.0
    iterations: int = 0
    history: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.clock - self.paused

    @property
    def epochs(self) -> float:
        return (self.problem.operator.entries_evaluated - self.entries0) / self.problem.n**2

    def record(self, residual: Tensor, kind: ResidualKind) -> None:
        self.history.append(Record(self.epochs, self.seconds, residual.clone(), kind))


def drive(
    solver: IterativeSolver,
    operator: Any,
    rhs: Tensor,
    x0: Tensor | None,
    *,
    tolerance: float | Tensor,
    max_epochs: float | None,
    max_seconds: float | None,
    generator: Seed,
    callback: Callback | None,
    on_failure: FailurePolicy,
) -> Solution:
    """Run `solver` until every column is settled or a budget is spent. See `IterativeSolver.solve`."""
    problem = prepare(operator, rhs, x0, tolerance, generator)
    limit = solver.default_max_epochs if max_epochs is None else float(max_epochs)
    if limit < 0 or (max_seconds is not None and max_seconds < 0):
        raise InputError(
            f"max_epochs and max_seconds must not be negative, got {max_epochs} and {max_seconds}."
        )
    run = _begin(problem)
    if len(problem.columns):
        _loop(solver, run, limit, max_seconds, callback)
    return finish(_assemble(solver, run), on_failure)


def _begin(problem: Problem) -> _Run:
    operator, s = problem.operator, problem.rhs.shape[1]
    run = _Run(
        problem=problem,
        x=torch.zeros_like(problem.rhs) if problem.x0 is None else problem.x0.clone(),
        gap=problem.rhs.clone(),
        residual=torch.ones(s, dtype=torch.float64),
        status=[None] * s,
        entries0=operator.entries_evaluated,
        clock=time.perf_counter(),
        denied=torch.zeros(s, dtype=torch.long),
        measured=torch.full((s,), float("inf"), dtype=torch.float64),
    )
    if problem.x0 is not None and s:
        run.residual = _measure(run, torch.arange(s))
        run.record(run.residual, "true")
        for i in (run.residual <= problem.tolerance).nonzero()[:, 0].tolist():
            run.status[i] = Status.CONVERGED
    return run


def _measure(run: _Run, columns: Tensor) -> Tensor:
    """True relative residuals of some columns, by one product; the gaps are kept for a restart."""
    run.gap[:, columns] = run.problem.rhs[:, columns] - run.problem.operator.matmul(run.x[:, columns])
    return torch.linalg.vector_norm(run.gap[:, columns].double(), dim=0).cpu()


def _loop(
    solver: IterativeSolver, run: _Run, limit: float, max_seconds: float | None, callback: Callback | None
) -> None:
    while True:
        active = torch.tensor([i for i, status in enumerate(run.status) if status is None], dtype=torch.long)
        if not len(active):
            return
        spent = run.epochs >= limit or (max_seconds is not None and run.seconds >= max_seconds)
        if not spent:
            state = solver.start(_restrict(run, active))
            spent = _iterate(solver, run, state, active, limit, max_seconds, callback)
            run.notes.extend(note for note in state.notes if note not in run.notes)
        _confirm(run, active, spent)
        if spent:
            return


def _restrict(run: _Run, active: Tensor) -> Problem:
    """The same problem for the columns that are still open, started from their latest iterates."""
    problem, start = run.problem, run.x[:, active]
    return replace(
        problem,
        rhs=problem.rhs[:, active],
        x0=start if bool((start != 0).any()) else None,
        gap=run.gap[:, active],
        tolerance=problem.tolerance[active],
        columns=problem.columns[active],
    )


def _iterate(
    solver: IterativeSolver,
    run: _Run,
    state: Any,
    active: Tensor,
    limit: float,
    max_seconds: float | None,
    callback: Callback | None,
) -> bool:
    """Step until every open column claims to be done, has failed, or a budget is spent; returns whether it was."""
    open_ = active.clone()
    while True:
        if run.epochs >= limit or (max_seconds is not None and run.seconds >= max_seconds):
            run.x[:, open_] = solver.iterate(state)
            return True
        solver.step(state)
        run.iterations += 1
        found = solver.residual(state)
        if found is not None:
            residual, kind = found
            run.residual[open_] = residual
            run.record(run.residual, kind)
        if callback is not None:
            begin = time.perf_counter()
            seen = Progress(
                run.iterations, run.epochs, run.seconds, run.residual.clone(), kind if found else "estimated"
            )
            stop = callback(seen)
            run.paused += time.perf_counter() - begin
            if stop is True:
                run.x[:, open_] = solver.iterate(state)
                return True
        failed = solver.failures(state)
        done = torch.zeros(len(open_), dtype=torch.bool)
        if found is not None:
            done = residual <= run.problem.tolerance[open_]
        leaving = done | torch.tensor([status is not None for status in failed])
        if bool(leaving.any()):
            run.x[:, open_[leaving]] = solver.iterate(state)[:, leaving]
            for place, status in zip(open_.tolist(), failed, strict=True):
                if status is not None:
                    run.status[place] = status
            if bool(leaving.all()):
                return False
            open_ = open_[~leaving]
            solver.keep(state, (~leaving).nonzero()[:, 0])


def _confirm(run: _Run, active: Tensor, spent: bool) -> None:
    """Measure the residuals of the columns just worked on and settle their status by what was measured."""
    run.residual[active] = _measure(run, active)
    run.record(run.residual, "true")
    for i in active.tolist():
        value, limit = float(run.residual[i]), float(run.problem.tolerance[i])
        if value <= limit:
            run.status[i] = Status.CONVERGED
        elif run.status[i] is None:
            progressing = value < 0.7 * float(run.measured[i])
            run.denied[i] = 0 if progressing else run.denied[i] + 1
            run.measured[i] = value
            if spent:
                run.status[i] = Status.BUDGET_SPENT
            elif int(run.denied[i]) >= _CONFIRMATIONS or value != value:
                run.status[i] = Status.STAGNATED


def _assemble(solver: IterativeSolver, run: _Run) -> Solution:
    problem = run.problem
    total = len(problem.norms)
    finite = torch.isfinite(problem.norms)
    x = run.x.new_zeros(problem.n, total)
    x[:, problem.columns] = run.x * problem.norms[problem.columns].to(run.x)
    x[:, ~finite] = float("nan")
    residual = torch.zeros(total, dtype=torch.float64)
    residual[problem.columns] = run.residual
    residual[~finite] = float("nan")
    status = [Status.CONVERGED if ok else Status.NONFINITE_INPUT for ok in finite.tolist()]
    for place, value in zip(problem.columns.tolist(), run.status, strict=True):
        status[place] = Status.BUDGET_SPENT if value is None else value
    return Solution(
        x=x[:, 0] if problem.vector else x,
        status=tuple(status),
        residual=residual,
        residual_kind="true",
        tolerance=problem.all_tolerances,
        history=tuple(run.history),
        epochs=run.epochs,
        seconds=run.seconds,
        iterations=run.iterations,
        method=solver.describe(),
        notes=tuple(run.notes),
    )


def finish(solution: Solution, on_failure: FailurePolicy) -> Solution:
    """Return, warn or raise, as the caller asked."""
    if on_failure not in ("warn", "raise", "return"):
        raise InputError(f'on_failure must be "warn", "raise" or "return", got {on_failure!r}.')
    if solution.converged or on_failure == "return":
        return solution
    if on_failure == "raise":
        return solution.raise_for_status()
    warnings.warn(f"{solution.method}: {solution.describe_failure()}", NotConverged, stacklevel=4)
    return solution
