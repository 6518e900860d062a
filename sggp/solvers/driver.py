"""The one loop behind every iterative solver.

A solver author writes three functions over a state: `start(problem) -> state`, `step(state)`, `iterate(state)`. The
driver owns everything else: scaling, trivial columns, per-column stopping and freezing, epochs, the clock, and a final
residual that is measured.

Every start is from zero: a warm start, or going on after a measured residual denied a claim of convergence, is the
same system for a correction, A d = b − A x, and the corrections add up in float64. Where the operator works in
float32 and offers float64 products, the gap is measured by those, which makes this iterative refinement: float32
speed, float64 answers.
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

__all__ = ["Callback", "Limits", "Progress", "drive", "finish"]

_CONFIRMATIONS = 3
"""How often a column may claim convergence that a measured residual denies before it counts as stagnated."""
_PROGRESS = 0.7
"""A restart that brings the measured residual below this share of what it was is progress."""


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
    x: Tensor  # (n, s) float64, the sum of all corrections
    gap: Tensor  # (n, s) rhs - A x as last measured
    residual: Tensor  # (s,) float64, latest known
    measured: Tensor  # (s,) float64, norm of `gap`
    status: list[Status | None]
    entries0: int
    clock: float
    denied: Tensor  # (s,) claims of convergence refused since the measured residual last fell
    wide: bool = False  # whether gaps are measured in float64
    paused: float = 0.0
    iterations: int = 0
    history: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.clock - self.paused

    @property
    def epochs(self) -> float:
        operator = self.problem.operator
        per_epoch = getattr(operator, "entries_per_epoch", self.problem.n**2)
        return (operator.entries_evaluated - self.entries0) / per_epoch

    def record(self, residual: Tensor, kind: ResidualKind) -> None:
        self.history.append(Record(self.epochs, self.seconds, residual.clone(), kind))


@dataclass(frozen=True)
class Limits:
    """What a solve is asked for and allowed; the arguments of `Solver.solve`."""

    tolerance: float | Tensor
    max_epochs: float | None
    max_seconds: float | None
    generator: Seed
    callback: Callback | None
    on_failure: FailurePolicy

    def __post_init__(self) -> None:
        if self.on_failure not in ("warn", "raise", "return"):
            raise InputError(f'on_failure must be "warn", "raise" or "return", got {self.on_failure!r}.')
        for name in ("max_epochs", "max_seconds"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InputError(f"{name} must not be negative, got {value}.")


def drive(solver: IterativeSolver, operator: Any, rhs: Tensor, x0: Tensor | None, limits: Limits) -> Solution:
    """Run `solver` until every column is settled or a budget is spent. See `Solver.solve`."""
    problem = prepare(operator, rhs, x0, limits.tolerance, limits.generator)
    run = _begin(problem)
    if len(problem.columns):
        _loop(solver, run, limits)
    return _assemble(solver, run)


def _begin(problem: Problem) -> _Run:
    operator, s = problem.operator, problem.rhs.shape[1]
    run = _Run(
        problem=problem,
        x=torch.zeros_like(problem.rhs) if problem.x0 is None else problem.x0.clone(),
        gap=problem.rhs.clone(),
        residual=torch.ones(s, dtype=torch.float64),
        measured=torch.ones(s, dtype=torch.float64),
        status=[None] * s,
        entries0=operator.entries_evaluated,
        clock=time.perf_counter(),
        denied=torch.zeros(s, dtype=torch.long),
    )
    if problem.x0 is not None and s:
        _measure(run, torch.arange(s))
        run.record(run.residual, "true")
        for i in (run.residual <= problem.tolerance).nonzero()[:, 0].tolist():
            run.status[i] = Status.CONVERGED
    return run


def _measure(run: _Run, columns: Tensor) -> None:
    """True relative residuals of some columns, by one product; the gaps are kept to go on from."""
    operator = run.problem.operator
    if run.wide:
        product = operator.matmul_wide(run.x[:, columns])
    else:
        product = operator.matmul(run.x[:, columns].to(operator.dtype)).double()
    run.gap[:, columns] = run.problem.rhs[:, columns] - product
    run.residual[columns] = torch.linalg.vector_norm(run.gap[:, columns], dim=0).cpu()


def _loop(solver: IterativeSolver, run: _Run, limits: Limits) -> None:
    most = solver.default_max_epochs if limits.max_epochs is None else float(limits.max_epochs)

    def exhausted() -> bool:
        return run.epochs >= most or (limits.max_seconds is not None and run.seconds >= limits.max_seconds)

    while True:
        active = torch.tensor([i for i, status in enumerate(run.status) if status is None], dtype=torch.long)
        if not len(active):
            return
        spent = exhausted()
        if not spent:
            state = solver.start(_correction(run, active))
            spent = _iterate(solver, run, state, active, exhausted, limits.callback)
            run.notes.extend(note for note in state.notes if note not in run.notes)
        _confirm(run, active, spent)
        if spent:
            return


def _correction(run: _Run, active: Tensor) -> Problem:
    """A d = gap for the columns that are still open, with unit columns and tolerances that follow."""
    problem, norms = run.problem, run.measured[active]
    return replace(
        problem,
        rhs=(run.gap[:, active] / norms.to(run.gap)).to(problem.operator.dtype),
        x0=None,
        tolerance=problem.tolerance[active] / norms,
        columns=problem.columns[active],
    )


def _iterate(
    solver: IterativeSolver,
    run: _Run,
    state: Any,
    active: Tensor,
    exhausted: Callable[[], bool],
    callback: Callback | None,
) -> bool:
    """Step until every open column claims to be done, has failed, or a budget is spent; returns whether it was."""
    open_ = active.clone()

    def settle(leaving: Tensor) -> None:
        places = open_[leaving]
        scale = run.measured[places].to(run.x)
        run.x[:, places] += solver.iterate(state)[:, leaving].to(run.x) * scale

    everything = torch.ones_like(open_, dtype=torch.bool)
    while True:
        if exhausted():
            settle(everything)
            return True
        solver.step(state)
        run.iterations += 1
        found = solver.residual(state)
        done = torch.zeros(len(open_), dtype=torch.bool)
        if found is not None:
            run.residual[open_] = found[0] * run.measured[open_]
            run.record(run.residual, found[1])
            done = run.residual[open_] <= run.problem.tolerance[open_]
        if _stopped(run, callback, found[1] if found is not None else "estimated"):
            settle(everything)
            return True
        failed = solver.failures(state)
        leaving = done | solver.stalled(state) | torch.tensor([status is not None for status in failed])
        if bool(leaving.any()):
            settle(leaving)
            for place, status in zip(open_.tolist(), failed, strict=True):
                if status is not None:
                    run.status[place] = status
            if bool(leaving.all()):
                return False
            open_ = open_[~leaving]
            everything = torch.ones_like(open_, dtype=torch.bool)
            solver.keep(state, (~leaving).nonzero()[:, 0])


def _stopped(run: _Run, callback: Callback | None, kind: ResidualKind) -> bool:
    """Tell the callback, off the clock; whether it asks to stop."""
    if callback is None:
        return False
    begin = time.perf_counter()
    stop = callback(Progress(run.iterations, run.epochs, run.seconds, run.residual.clone(), kind))
    run.paused += time.perf_counter() - begin
    return stop is True


def _confirm(run: _Run, active: Tensor, spent: bool) -> None:
    """Measure the residuals of the columns just worked on and settle their status by what was measured."""
    operator, tolerance = run.problem.operator, run.problem.tolerance
    _measure(run, active)
    refinable = not run.wide and operator.dtype == torch.float32 and hasattr(operator, "matmul_wide")
    if refinable and not spent and bool((run.residual[active] > tolerance[active]).any()):
        run.wide = True
        run.notes.append("refined: gaps measured in float64, corrections solved in float32.")
        _measure(run, active)
    run.record(run.residual, "true")
    for i in active.tolist():
        value = float(run.residual[i])
        if value <= float(tolerance[i]):
            run.status[i] = Status.CONVERGED
        elif run.status[i] is None:
            progressing = value < _PROGRESS * float(run.measured[i])
            run.denied[i] = 0 if progressing else run.denied[i] + 1
            if spent:
                run.status[i] = Status.BUDGET_SPENT
            elif int(run.denied[i]) >= _CONFIRMATIONS or value != value:
                run.status[i] = Status.STAGNATED
    run.measured[active] = run.residual[active]


def _assemble(solver: IterativeSolver, run: _Run) -> Solution:
    problem = run.problem
    total = len(problem.norms)
    finite = torch.isfinite(problem.norms)
    x = torch.zeros(problem.n, total, dtype=problem.dtype, device=run.x.device)
    x[:, problem.columns] = (run.x * problem.norms[problem.columns].to(run.x)).to(x)
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
    if solution.converged or on_failure == "return":
        return solution
    if on_failure == "raise":
        return solution.raise_for_status()
    warnings.warn(f"{solution.method}: {solution.describe_failure()}", NotConverged, stacklevel=3)
    return solution
