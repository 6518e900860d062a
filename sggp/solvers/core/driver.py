"""The contract of iterative solvers, and the one loop behind all of them.

A solver author writes three functions over a state: `start(problem) -> state`, `step(state)`, `iterate(state)`. The
driver owns everything else: scaling, trivial columns, per-column stopping and freezing, epochs, the clock, checkpoints,
and a final residual that is measured, or sampled and marked as such where measuring would exceed the budget.

Every start is from zero: a warm start, or going on after a measured residual refused a claim of convergence, is the
same system for a correction, A d = b − A x, and the corrections add up in float64. Where the operator works in
float32 and offers float64 products, the residual is measured by those, which makes this iterative refinement: float32
speed, float64 answers.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from sggp.errors import DtypeError
from sggp.running import OutOfTime, deadline
from sggp.solvers.core.answers import checked_failures, checked_iterate, checked_residual, checked_stalled
from sggp.solvers.core.base import Setup, Solver
from sggp.solvers.core.checkpoint import Checkpoint
from sggp.solvers.core.limits import ENOUGH, Budget, Callback, Limits, Progress
from sggp.solvers.core.problem import Problem, check_system
from sggp.solvers.core.run import Run, begin, describe_step, solution, tell_step
from sggp.solvers.core.solution import Solution, Status
from sggp.typing import ResidualKind

__all__ = ["IterativeSolver", "State"]

_MOST_REJECTIONS = 3
"""How often a column may claim convergence that a measured residual refuses before it counts as stagnated."""
_STATE_BYTES = 28
"""What a solver holds for a row and column, about: seven float32 blocks."""
_MOST_IDLE = 10_000
"""Steps on end that ask nothing of the operator, after which a solve ends: no budget of epochs would end it."""
_PROGRESS = 0.7
"""A restart that brings the measured residual below this share of what it was is progress."""


@dataclass
class State:
    """Base of every iterative solver's state: the open columns, and notes for the report.

    A subclass names in `per_column` its tensor fields whose last dimension runs over columns; once a column is settled
    the driver drops it from them, so that frozen columns cost nothing. It names in `carried` the plain fields whose
    values outlast a restart, such as a step that was halved. `restarts` counts them.
    """

    per_column: ClassVar[tuple[str, ...]] = ()
    carried: ClassVar[tuple[str, ...]] = ()

    problem: Problem
    notes: list[str] = field(default_factory=list, kw_only=True)
    restarts: int = field(default=0, kw_only=True)


class IterativeSolver(Solver):
    """A solver that the driver steps. Authors write `start`, `step`, `iterate`, and `residual` if one is cheap.

    Those with something to make of the operator before the first step write `setup(operator, columns, generator)`, too.
    """

    default_max_epochs: ClassVar[float] = 1000.0
    whole_passes: ClassVar[bool] = False
    """Whether a step is a product with the whole matrix: it is then not begun where `max_seconds` leaves less."""

    @abstractmethod
    def start(self, *arguments: Any, **options: Any) -> Any:
        """`start(problem)`, or `start(problem, setup)` of a solver with a set-up: a `State` at x = 0."""

    @abstractmethod
    def step(self, state: Any) -> None:
        """Advance the state by one step."""

    @abstractmethod
    def iterate(self, state: Any) -> Tensor:  # -> (n, s)
        """The current approximation of the open columns."""

    def residual(self, state: Any) -> tuple[Tensor, ResidualKind] | None:
        """Relative residuals (s,) if they are known at this step, with their kind; None otherwise."""
        return None

    def failures(self, state: Any) -> list[Status | None]:
        """A status for each open column that cannot go on, None for the others."""
        return [None] * state.problem.rhs.shape[1]

    def stalled(self, state: Any) -> Tensor:  # -> (s,) bool
        """Which open columns no longer get better; their residual is measured and they start again from there."""
        return torch.zeros(state.problem.rhs.shape[1], dtype=torch.bool)

    def keep(self, state: Any, columns: Tensor) -> None:
        """Drop all columns but these from the state."""
        problem = state.problem
        for name in state.per_column:
            value = getattr(state, name)
            setattr(state, name, value[..., columns.to(value.device)])
        state.problem = replace(
            problem,
            rhs=problem.rhs[:, columns],
            tolerance=problem.tolerance[columns],
            columns=problem.columns[columns],
        )

    def _solve(
        self, operator: Any, rhs: Tensor, x0: Tensor | None, limits: Limits, setup: Setup | None = None
    ) -> Solution:
        """Run the solver until every column is settled or a budget is spent."""
        clock = time.perf_counter()
        system = check_system(operator, rhs, x0, limits.tolerance, limits.generator)
        passes = max(1.0, system.operator.shape[0] ** 2 / max(1, system.operator.entries_per_epoch))
        budget = Budget(
            passes * self.default_max_epochs if limits.max_epochs is None else float(limits.max_epochs),
            limits.max_seconds,
        )
        setup = Setup() if setup is None else setup
        store = content = segment = None
        if limits.checkpoint is not None:
            store = Checkpoint(limits.checkpoint, self, system, limits.generator)
            content = system.operator.workers.shared(store.load)
        if store is None or content is None:
            run = begin(system)
        else:
            run = store.restore(system, content, clock)
            if content["state"] is not None:
                segment = _resumed(self, setup, store, run, content)
            elif not _reopened(run, budget):
                return solution(run, self.describe())
        if len(system.columns):
            limited = limits.max_epochs is not None or limits.max_seconds is not None
            _loop(_Task(self, setup, run, budget, limits.callback, store, limited), segment)
        if store is not None and not run.stopped:  # a stop has written the state, to go on from exactly
            store.write(run)
        return solution(run, self.describe())


@dataclass
class _Segment:
    """A solver at work on the columns that are open: from one start to the next measurement."""

    state: Any
    active: Tensor  # the columns it started with
    kept: Tensor  # those that are still open
    stepped: bool = False
    idle: int = 0  # steps on end without an entry


@dataclass(frozen=True)
class _Task:
    """What the loop works with."""

    solver: IterativeSolver
    setup: Setup
    run: Run
    budget: Budget
    callback: Callback | None
    store: Checkpoint | None
    limited: bool
    """Whether the caller limits epochs or seconds."""


def _start(solver: IterativeSolver, setup: Setup, run: Run, columns: Tensor) -> Any:
    """A state for the correction of some columns, made with the set-up if the solver has one."""
    problem = run.correction(columns)
    made = setup.of(solver, problem.operator, len(columns), problem.generator)
    state = solver.start(problem) if made is None else solver.start(problem, made)
    if not isinstance(state, State):
        raise DtypeError(
            f"{type(solver).__name__}.start must give a sggp.solvers.State, got {type(state).__name__}."
        )
    return state


def _group(task: _Task, active: Tensor) -> Tensor:
    """The open columns to work on together: all, or as many as a quarter of the memory budget holds states of.

    Where epochs or seconds are limited all share them.
    """
    run = task.run
    if task.limited:
        return active
    size = _STATE_BYTES * len(run.x) * len(active) / (run.system.operator.memory_budget / 4)
    groups = max(1, math.ceil(size))
    return active[: -(-len(active) // groups)]


def _begun(task: _Task, columns: Tensor) -> _Segment | None:
    """A segment of these columns; None where a stop, or the budget, ended the set-up."""
    run = task.run
    try:
        if (reason := run.stop_asked()) is not None:
            raise OutOfTime(f"stopped by {reason}", stopped=True)
        with deadline(task.budget.setup_until(run), run.agreed):
            state = _start(task.solver, task.setup, run, columns)
        if task.solver.whole_passes and task.budget.seconds is not None and not run.step_epochs:
            needed, left = run.forecast_pass(len(columns)), task.budget.seconds - run.seconds
            if run.agreed(needed > left):
                raise OutOfTime(
                    f"a step takes about {needed:.3g} s, and max_seconds leaves {max(left, 0.0):.3g}"
                )
    except OutOfTime as over:
        run.notes.append(f"went no further: {over}.")
        run.stopped = run.stopped or over.stopped  # nothing new that a file should keep
        return None
    return _Segment(state, columns, columns.clone())


def _resumed(
    solver: IterativeSolver, setup: Setup, store: Checkpoint, run: Run, content: dict[str, Any]
) -> _Segment:
    saved = content["state"]
    if setup.states is None:
        setup.columns = saved["columns"]
    state = store.resume(run, content, lambda columns: _start(solver, setup, run, columns), solver.keep)
    return _Segment(state, saved["active"], saved["kept"], stepped=True)


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


def _loop(task: _Task, segment: _Segment | None) -> None:
    run, budget = task.run, task.budget
    carried: dict[str, Any] = {}
    while segment is not None or len(run.active()):
        if segment is None:
            active = _group(task, run.active())
            segment = None if budget.spent(run) else _begun(task, active)
            if segment is None:
                _check(run, run.active(), budget, spent=True, stepped=False)
                return
            for name, value in carried.items():
                setattr(segment.state, name, value)
        spent = _iterate(task, segment)
        state = segment.state
        run.notes.extend(note for note in state.notes if note not in run.notes)
        if _check(run, segment.active, budget, spent=spent, stepped=segment.stepped):
            return
        carried = {name: getattr(state, name) for name in state.carried} | {"restarts": state.restarts + 1}
        segment = state = None


def _iterate(task: _Task, segment: _Segment) -> bool:
    """Step until every open column claims to be done, has failed, or a budget is spent; returns whether it was."""
    solver, run, state = task.solver, task.run, segment.state

    def settle(leaving: Tensor) -> None:
        found = checked_iterate(solver, solver.iterate(state), len(run.x), len(segment.kept))
        for column in leaving.nonzero()[:, 0].tolist():  # one at a time: no copies of all of them
            place = int(segment.kept[column])
            run.x[:, place] += found[:, column].to(run.x) * float(
                run.measured[place] * run.system.norms[place]
            )

    while True:
        everything = torch.ones_like(segment.kept, dtype=torch.bool)
        if task.budget.spent(run) or _asked_to_stop(task, segment):
            settle(everything)
            return True
        before = run.entries, run.seconds
        solver.step(state)
        run.iterations += 1
        segment.stepped = True
        describe_step(run, before)
        done, kind = _claimed(solver, run, segment)
        if _stopped(run, task.callback, kind) or _idle(run, segment, before[0]):
            settle(everything)
            return True
        failed = checked_failures(solver, solver.failures(state), len(segment.kept))
        # comparisons with NaN are false: a column that is no longer finite is measured, and goes no further by itself
        lost = ~torch.isfinite(run.residual[segment.kept])
        stalled = checked_stalled(solver, solver.stalled(state), len(segment.kept))
        leaving = done | lost | stalled
        if any(status is not None for status in failed):
            leaving = leaving | torch.tensor([status is not None for status in failed])
        if bool(leaving.any()):
            settle(leaving)
            for place, status in zip(segment.kept.tolist(), failed, strict=True):
                if status is not None:
                    run.status[place] = status
            if bool(leaving.all()):
                return False
            segment.kept = segment.kept[~leaving]
            solver.keep(state, (~leaving).nonzero()[:, 0])
        if task.store is not None and task.store.due():
            task.store.write(run, state, _open_columns(task, segment))


def _open_columns(task: _Task, segment: _Segment) -> dict[str, Any]:
    return {"active": segment.active, "kept": segment.kept, "columns": task.setup.columns}


def _asked_to_stop(task: _Task, segment: _Segment) -> bool:
    """Whether a signal, or who holds the `Stop`, ends the solve here; the checkpoint then is that of this very step."""
    run = task.run
    if (reason := run.stop_asked()) is None:
        return False
    if task.store is not None and segment.stepped:
        task.store.write(run, segment.state, _open_columns(task, segment))
    run.stopped = True
    run.notes.append(f"stopped by {reason} at iteration {run.iterations}.")
    return True


def _idle(run: Run, segment: _Segment, before: int) -> bool:
    """Whether this was one of very many steps that ask nothing of the operator."""
    segment.idle = segment.idle + 1 if run.entries == before else 0
    if segment.idle < _MOST_IDLE:
        return False
    run.notes.append(f"ended: {_MOST_IDLE} steps on end asked nothing of the operator.")
    return True


def _claimed(solver: IterativeSolver, run: Run, segment: _Segment) -> tuple[Tensor, ResidualKind]:
    """Which open columns claim to be done, and how their residuals are known."""
    found = checked_residual(solver, solver.residual(segment.state), len(segment.kept))
    if found is None:
        return torch.zeros(len(segment.kept), dtype=torch.bool), "estimated"
    kept = segment.kept
    run.residual[kept] = found[0] * run.measured[kept]
    run.record(run.residual, found[1])
    return run.residual[kept] <= run.system.tolerance[kept], found[1]


def _stopped(run: Run, callback: Callback | None, kind: ResidualKind) -> bool:
    """Tell the callback and whoever listens, off the clock; whether the callback asks to stop."""
    begin_, stop = time.perf_counter(), False
    tell_step(run)
    if callback is not None:
        stop = callback(Progress(run.iterations, run.epochs, run.seconds, run.residual.clone(), kind))
    run.paused += time.perf_counter() - begin_
    ends = run.agreed(stop is True or stop is ENOUGH)
    run.hasty = ends and run.agreed(stop is ENOUGH)
    return ends


def _check(run: Run, active: Tensor, budget: Budget, *, spent: bool, stepped: bool) -> bool:
    """Settle the status of the columns just worked on by their measured residuals; returns whether to end.

    Where a full pass would exceed the budget the residuals are sampled instead, and the solve ends: a column then
    counts as converged only if its estimate is two standard errors below its tolerance and the solver, which has seen
    all rows, claims so as well. Few rows say nothing of a residual that sits in fewer still.
    """
    tolerance, before = run.system.tolerance, run.measured[active].clone()
    claimed = run.residual <= tolerance
    if not stepped:  # nothing has changed since the last measurement
        run.residual[active] = before
    elif (budget.forbids_pass(run) or run.stopped or run.hasty) and run.sample(active):
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
        elif run.status[i] is None:
            progressing = value < _PROGRESS * float(run.measured[i])
            run.rejections[i] = 0 if progressing else run.rejections[i] + 1
            if spent:
                run.status[i] = Status.BUDGET_SPENT
            elif int(run.rejections[i]) >= _MOST_REJECTIONS:
                run.status[i] = Status.STAGNATED
    run.break_down(active)
    run.measured[active] = run.residual[active]
    return spent
