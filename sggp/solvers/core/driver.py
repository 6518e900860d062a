"""The one loop behind every iterative solver.

A solver author writes three functions over a state: `start(problem) -> state`, `step(state)`, `iterate(state)`. The
driver owns everything else: scaling, trivial columns, per-column stopping and freezing, epochs, the clock, checkpoints,
and a final residual that is measured, or sampled and marked as such where measuring would exceed the budget.

Every start is from zero: a warm start, or going on after a measured residual denied a claim of convergence, is the
same system for a correction, A d = b − A x, and the corrections add up in float64. Where the operator works in
float32 and offers float64 products, the gap is measured by those, which makes this iterative refinement: float32
speed, float64 answers.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sggp.errors import InputError, NotConverged
from sggp.solvers.core.checkpoint import Checkpoint
from sggp.solvers.core.problem import prepare
from sggp.solvers.core.run import Budget, Run, begin, describe_step, solution
from sggp.solvers.core.solution import Solution, Status
from sggp.typing import FailurePolicy, ResidualKind, Seed

if TYPE_CHECKING:
    from sggp.solvers.core.base import IterativeSolver

__all__ = ["Callback", "Limits", "Progress", "drive", "finish"]

_CONFIRMATIONS = 3
"""How often a column may claim convergence that a measured residual denies before it counts as stagnated."""
_PROGRESS = 0.7
"""A restart that brings the measured residual below this share of what it was is progress."""

_NOT_FINITE = "the measured residual is not finite: the operator, or the solver, gave NaN or infinity."


@dataclass(frozen=True)
class Progress:
    """What a callback sees after each step."""

    iterations: int
    epochs: float
    seconds: float
    residual: Tensor  # (s,) latest known relative residuals of all columns
    kind: ResidualKind


Callback = Callable[[Progress], Any]


@dataclass(frozen=True)
class Limits:
    """What a solve is asked for and allowed; the arguments of `Solver.solve`."""

    tolerance: float | Tensor
    max_epochs: float | None
    max_seconds: float | None
    generator: Seed
    callback: Callback | None
    on_failure: FailurePolicy
    checkpoint: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if self.on_failure not in ("warn", "raise", "return"):
            raise InputError(f'on_failure must be "warn", "raise" or "return", got {self.on_failure!r}.')
        for name in ("max_epochs", "max_seconds"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InputError(f"{name} must not be negative, got {value}.")


@dataclass
class _Segment:
    """A solver at work on the columns that are open: from one start to the next measurement."""

    state: Any
    active: Tensor  # the columns it started with
    kept: Tensor  # those that are still open
    stepped: bool = False


def drive(solver: IterativeSolver, operator: Any, rhs: Tensor, x0: Tensor | None, limits: Limits) -> Solution:
    """Run `solver` until every column is settled or a budget is spent. See `Solver.solve`."""
    clock = time.perf_counter()
    problem = prepare(operator, rhs, x0, limits.tolerance, limits.generator)
    budget = Budget(
        solver.default_max_epochs if limits.max_epochs is None else float(limits.max_epochs),
        limits.max_seconds,
    )
    store = content = None
    if limits.checkpoint is not None:
        store = Checkpoint(limits.checkpoint, solver, problem, limits.generator)
        content = store.load()
    if store is None or content is None:
        run, segment = begin(problem), None
    else:
        run = store.restore(problem, content, clock)
        if content["state"] is not None:
            segment = _revived(solver, store, run, content)
        elif not _reopened(run, budget):
            return solution(run, solver.describe())
        else:
            segment = None
    if len(problem.columns):
        _loop(solver, run, limits, budget, segment, store)
    if store is not None:
        store.write(run)
    return solution(run, solver.describe())


def _revived(solver: IterativeSolver, store: Checkpoint, run: Run, content: dict[str, Any]) -> _Segment:
    def start(columns: Tensor) -> Any:
        return solver.start(run.correction(columns))

    return _Segment(*store.revive(run, content, start, solver.keep), stepped=True)


def _reopened(run: Run, budget: Budget) -> bool:
    """Whether a solve that ended for want of a budget may go on under this one; its open columns are open again."""
    wanting = [i for i, status in enumerate(run.status) if status is Status.BUDGET_SPENT]
    if not wanting or budget.spent(run):
        return False
    if bool((run.error > 0).any()):
        run.measure(torch.arange(len(run.status)))
    run.measured.copy_(run.residual)
    for i in wanting:
        run.status[i] = None
    run.notes.append(f"went on with a larger budget at iteration {run.iterations}.")
    return True


def _loop(
    solver: IterativeSolver,
    run: Run,
    limits: Limits,
    budget: Budget,
    segment: _Segment | None,
    store: Checkpoint | None,
) -> None:
    while segment is not None or len(run.active()):
        if segment is None:
            active = run.active()
            if budget.spent(run):
                _confirm(run, active, budget, spent=True, stepped=False)
                return
            segment = _Segment(solver.start(run.correction(active)), active, active.clone())
        spent = _iterate(solver, run, segment, budget, limits.callback, store)
        run.notes.extend(note for note in segment.state.notes if note not in run.notes)
        if _confirm(run, segment.active, budget, spent=spent, stepped=segment.stepped):
            return
        segment = None


def _iterate(
    solver: IterativeSolver,
    run: Run,
    segment: _Segment,
    budget: Budget,
    callback: Callback | None,
    store: Checkpoint | None,
) -> bool:
    """Step until every open column claims to be done, has failed, or a budget is spent; returns whether it was."""
    state = segment.state

    def settle(leaving: Tensor) -> None:
        places = segment.kept[leaving]
        scale = (run.measured[places] * run.problem.norms[places]).to(run.x)
        run.x[:, places] += solver.iterate(state)[:, leaving].to(run.x) * scale

    while True:
        everything = torch.ones_like(segment.kept, dtype=torch.bool)
        if budget.spent(run):
            settle(everything)
            return True
        before = run.entries, run.seconds
        solver.step(state)
        run.iterations += 1
        segment.stepped = True
        describe_step(run, before)
        done, kind = _claims(solver, run, segment)
        if _stopped(run, callback, kind):
            settle(everything)
            return True
        failed = solver.failures(state)
        # comparisons with NaN are false: a column that is no longer finite is measured, and goes no further by itself
        lost = ~torch.isfinite(run.residual[segment.kept])
        leaving = done | lost | solver.stalled(state) | torch.tensor([s is not None for s in failed])
        if bool(leaving.any()):
            settle(leaving)
            for place, status in zip(segment.kept.tolist(), failed, strict=True):
                if status is not None:
                    run.status[place] = status
            if bool(leaving.all()):
                return False
            segment.kept = segment.kept[~leaving]
            solver.keep(state, (~leaving).nonzero()[:, 0])
        if store is not None and store.due():
            store.write(run, state, segment.active, segment.kept)


def _claims(solver: IterativeSolver, run: Run, segment: _Segment) -> tuple[Tensor, ResidualKind]:
    """Which open columns claim to be done, and how their residuals are known."""
    found = solver.residual(segment.state)
    if found is None:
        return torch.zeros(len(segment.kept), dtype=torch.bool), "estimated"
    kept = segment.kept
    run.residual[kept] = found[0] * run.measured[kept]
    run.record(run.residual, found[1])
    return run.residual[kept] <= run.problem.tolerance[kept], found[1]


def _stopped(run: Run, callback: Callback | None, kind: ResidualKind) -> bool:
    """Tell the callback, off the clock; whether it asks to stop."""
    if callback is None:
        return False
    begin_ = time.perf_counter()
    stop = callback(Progress(run.iterations, run.epochs, run.seconds, run.residual.clone(), kind))
    run.paused += time.perf_counter() - begin_
    return stop is True


def _confirm(run: Run, active: Tensor, budget: Budget, *, spent: bool, stepped: bool) -> bool:
    """Settle the status of the columns just worked on by their measured residuals; returns whether to end.

    Where a full pass would exceed the budget the residuals are sampled instead, and the solve ends: a column then
    counts as converged only if its estimate is two standard errors below its tolerance and the solver, which has seen
    all rows, claims so as well. Few rows say nothing of a residual that sits in fewer still.
    """
    tolerance, before = run.problem.tolerance, run.measured[active].clone()
    claimed = run.residual <= tolerance
    if not stepped:  # nothing has changed since the last measurement
        run.residual[active] = before
    elif budget.forbids_pass(run) and run.sample(active):
        spent = True
        run.record(run.residual, "estimated")
    else:
        run.measure(active, None if spent else budget)
        run.record(run.residual, "true")
    for i in active.tolist():
        value = float(run.residual[i])
        if value + 2 * float(run.error[i]) <= float(tolerance[i]) and (
            bool(claimed[i]) or not float(run.error[i])
        ):
            run.status[i] = Status.CONVERGED
        elif not math.isfinite(value):
            run.status[i] = Status.BREAKDOWN
            run.notes.extend([_NOT_FINITE] if _NOT_FINITE not in run.notes else [])
        elif run.status[i] is None:
            progressing = value < _PROGRESS * float(run.measured[i])
            run.denied[i] = 0 if progressing else run.denied[i] + 1
            if spent:
                run.status[i] = Status.BUDGET_SPENT
            elif int(run.denied[i]) >= _CONFIRMATIONS:
                run.status[i] = Status.STAGNATED
    run.measured[active] = run.residual[active]
    return spent


def finish(solution: Solution, on_failure: FailurePolicy) -> Solution:
    """Return, warn or raise, as the caller asked."""
    if solution.converged or on_failure == "return":
        return solution
    if on_failure == "raise":
        return solution.raise_for_status()
    warnings.warn(f"{solution.method}: {solution.describe_failure()}", NotConverged, stacklevel=3)
    return solution
