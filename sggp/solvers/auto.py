"""The default choice of solver, as a documented function of the problem."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sggp.defaults import DIRECT_ROWS
from sggp.errors import SolverFailure
from sggp.operators.base import NeighbourOperator, RowOperator, completed
from sggp.parallel import Workers
from sggp.random import as_generator
from sggp.solvers.alternating_projections import AlternatingProjections
from sggp.solvers.cholesky import Cholesky
from sggp.solvers.conjugate_gradients import ConjugateGradients
from sggp.solvers.core.base import Prepared, Setup, Solver
from sggp.solvers.core.limits import ENOUGH, RESERVING, Limits, Progress
from sggp.solvers.core.solution import Solution, Status
from sggp.solvers.stochastic_dual_descent import StochasticDualDescent

__all__ = ["Auto", "choose"]

_ROWS_PER_COLUMN = 30
"""A factor costs n³/3 flops once, conjugate gradients some 25·n² a column: below this many rows a column it is less."""
_BETTER = 0.9
_LATE, _HARDLY = 0.5, 0.5
"""The share of a budget after which conjugate gradients that have not brought a residual below that end; see `Auto`."""
_FEW_PASSES, _MANY_ROWS = 20.0, 200_000
"""Passes below which so many rows go to dual descent at once."""
_TIMED = 2.0**26
"""Entries of K whose product is timed to know how many passes a number of seconds is."""
_LOST = (Status.STAGNATED, Status.BREAKDOWN, Status.DIVERGED)


def choose(operator: Any, columns: int, direct_rows: int = DIRECT_ROWS) -> tuple[Solver, ...]:
    """Solvers for an operator, in the order in which they are tried.

    | operator | first | where columns are lost |
    |---|---|---|
    | dense in 8·n² bytes; n ≤ direct_rows or n ≤ 30·s | `Cholesky()` | |
    | dense in 4·n² bytes only; n ≤ direct_rows or n ≤ 30·s | `Cholesky(float32)` | as below |
    | offers small blocks and neighbours | `ConjugateGradients("auto")` | as below |
    | offers rows | `ConjugateGradients(None)` | float64 products, `Cholesky`, else `AlternatingProjections` |
    | offers products only | `ConjugateGradients(None)` | float64 products, `Cholesky` if it can be made dense |

    "Float64 products" are those of `ConjugateGradients(float64_products=True)`, tried where the operator works in
    float32 and offers them; they come first where the mean noise is below 1.2e-7 (float32's ε) of the mean of K's
    diagonal.

    Memory is the operator's `memory_budget`. The noise, the number of columns and the memory left enter once more in
    `ConjugateGradients("auto")`, which sizes its preconditioner by them: see `sggp.preconditioners.Balanced`.

    Args:
        operator: the system.
        columns: s, right-hand sides.
        direct_rows: rows up to which a factor comes first whatever s, four times as many on a CUDA device; with 0 it
            never comes first.
    """
    operator = completed(operator)
    n, budget = operator.shape[0], -1.0 if operator.dense is None else operator.memory_budget
    wide, narrow = 8 * n * n <= budget, 4 * n * n <= budget
    if operator.device.type == "cuda":
        direct_rows = 4 * direct_rows
    direct = n <= direct_rows or 0 < n <= _ROWS_PER_COLUMN * columns * bool(direct_rows)
    if direct and wide:
        return (Cholesky(),)
    factors: tuple[Solver, ...] = (Cholesky(),) if wide else (Cholesky(torch.float32),) if narrow else ()
    blocks: tuple[Solver, ...] = (AlternatingProjections(),) if isinstance(operator, RowOperator) else ()
    iterative = ConjugateGradients("auto" if isinstance(operator, NeighbourOperator) else None)
    narrow_products = operator.dtype == torch.float32 and operator.matmul_wide is not None
    again = (replace(iterative, float64_products=True),) if narrow_products else ()
    if again and _rounds_noise_away(operator):
        iterative, again = again[0], ()
    if direct and narrow:
        return (*factors, iterative, *again, *blocks)
    return (iterative, *again, *(factors or blocks))


def _rounds_noise_away(operator: Any) -> bool:
    """Whether the noise is less than what rounding does to K's diagonal: products would be with another matrix."""
    if not isinstance(operator, NeighbourOperator):
        return False
    least = torch.finfo(operator.dtype).eps * float(operator.kernel_diagonal().mean())
    return float(operator.noise_variance.mean()) < least


@dataclass(frozen=True)
class Auto(Solver):
    """Chooses the solver by `choose`; columns on which it stagnates, breaks down or diverges go to the next one.

    Args:
        direct_rows: up to this many rows a dense factor comes first; 0 for never.

    Budgets hold for all solvers together. A checkpoint is that of the first one. Conjugate gradients are worth little
    long before their end, dual descent is worth something at any time: where half of `max_epochs` or `max_seconds` is
    spent and some residual is still above one half, stochastic dual descent has the rest, from zero, and its columns
    are taken where their residuals are less. From 200,000 rows on, without a far field, it has all of a budget of fewer
    than 20 passes, which conjugate gradients would spend on their preconditioner; not where a checkpoint is kept.

    Cost: that of the solvers tried; `Solution.method` names them, `Solution.notes` tells each change of mind.
    """

    direct_rows: int = DIRECT_ROWS

    def setup(self, operator: Any, columns: int, generator: torch.Generator) -> tuple[Prepared, ...]:
        chosen = choose(operator, columns, self.direct_rows)
        return tuple(solver.prepare(operator) for solver in chosen)

    def _solve(
        self, operator: Any, rhs: Tensor, x0: Tensor | None, limits: Limits, setup: Setup | None = None
    ) -> Solution:
        columns = 1 if rhs.ndim == 1 else rhs.shape[1]
        setup, source = Setup() if setup is None else setup, as_generator(limits.generator)
        first, *others = setup.of(self, operator, columns, source)
        watch = _Watch(limits, isinstance(operator, RowOperator))
        # a checkpoint goes on with the solver that it is of, whatever the next budget is
        free = watch.limited and limits.checkpoint is None
        hurried = free and _passes(operator, rhs, limits) < _FEW_PASSES
        if hurried:
            first = StochasticDualDescent().prepare(operator)
        solution = first.solve(rhs, x0, **replace(limits, callback=watch).options())
        tried = [solution.method]
        ends = zip(solution.residual.tolist(), solution.status, strict=True)
        slow = [i for i, (left, end) in enumerate(ends) if left > _HARDLY and end is not Status.CONVERGED]
        late = bool(slow) and not watch.asked and watch.limited and not hurried
        for prepared in [StochasticDualDescent().prepare(operator)] if late else others:
            lost = [i for i, status in enumerate(solution.status) if status in _LOST]
            lost = slow if late else lost
            left = _left(limits, solution, completed(operator).workers)
            if not lost or left is None:
                break
            name = prepared.solver.describe()
            tried.append(name)
            try:
                solution = _taken_over(solution, prepared, rhs, left, lost)
            except SolverFailure as failure:
                solution = replace(solution, notes=(*solution.notes, f"{name}: {failure}"))
        return replace(solution, method=f"{self.describe()} → {', then '.join(tried)}")


class _Watch:
    """The callback of the first solver: the user's, and the end of what comes to nothing within a budget.

    Attributes:
        limited: whether there is a budget, and rows for dual descent. asked: whether the user's callback asked to stop.
    """

    def __init__(self, limits: Limits, rows: bool) -> None:
        self._limits, self.asked = limits, False
        self._least: Tensor | None = None
        self.limited = rows and (limits.max_epochs is not None or limits.max_seconds is not None)

    def __call__(self, progress: Progress) -> bool | str:
        limits = self._limits
        self.asked = limits.callback is not None and limits.callback(progress) is True
        least = progress.residual if self._least is None else torch.minimum(self._least, progress.residual)
        self._least = least
        spent = (
            (progress.epochs, limits.max_epochs),
            (progress.seconds, limits.max_seconds),
        )
        late = any(most is not None and used >= _LATE * most for used, most in spent)
        hardly = float(least.nan_to_num(torch.inf).max()) > _HARDLY
        return self.asked or (ENOUGH if self.limited and late and hardly else False)


def _passes(operator: Any, rhs: Tensor, limits: Limits) -> float:
    """Passes of a budget over so many rows that each takes long; infinite where each is short, or nothing is limited.

    Cost: 2²⁶ entries where seconds are limited.
    """
    n, operator = operator.shape[0], completed(operator)
    if n < _MANY_ROWS or operator.approximates:
        return math.inf
    passes = math.inf if limits.max_epochs is None else limits.max_epochs
    if limits.max_seconds is not None:
        rows = torch.arange(min(n, max(1, int(_TIMED / n))), device=rhs.device)
        columns = (rhs[:, None] if rhs.ndim == 1 else rhs).to(operator.dtype)
        operator.rows_matmul(rows[:1], columns)  # what a first call takes beside
        begin = time.perf_counter()
        float(operator.rows_matmul(rows, columns)[0, 0])  # a device is waited for
        seconds = (time.perf_counter() - begin) * n / len(rows)
        passes = min(passes, limits.max_seconds / max(seconds, 1e-9))
    return float(operator.workers.agreed(float(passes)))


def _left(limits: Limits, solution: Solution, workers: Workers) -> Limits | None:
    """What the solvers so far have left of the budget; None where that is nothing."""
    epochs, seconds = limits.max_epochs, limits.max_seconds
    if epochs is not None:
        # the last pass is kept within large budgets, and would not be within what is left of one
        epochs -= solution.epochs + (1 if epochs >= RESERVING > epochs - solution.epochs else 0)
    used = workers.agreed(solution.seconds)
    seconds = None if seconds is None else seconds - used
    if (epochs is not None and epochs <= 0) or (seconds is not None and seconds <= 0):
        return None
    return replace(limits, max_epochs=epochs, max_seconds=seconds, checkpoint=None)


def _taken_over(
    solution: Solution, prepared: Prepared, rhs: Tensor, limits: Limits, lost: list[int]
) -> Solution:
    """The solution with its lost columns solved by another solver, where that served them better."""
    block = rhs[:, None] if rhs.ndim == 1 else rhs
    tolerance = torch.as_tensor(limits.tolerance, dtype=torch.float64).reshape(-1)
    tolerance = tolerance[lost] if len(tolerance) > 1 else tolerance
    reasons = sorted({str(solution.status[i]) for i in lost})
    second = prepared.solve(block[:, lost], **replace(limits, tolerance=tolerance).options())
    x = solution.x[:, None] if rhs.ndim == 1 else solution.x
    x = x.to(torch.promote_types(x.dtype, second.x.dtype), copy=True)
    residual, error, status = solution.residual.clone(), solution.residual_error.clone(), [*solution.status]
    # less by more than rounding moves it; NaN is more than any number
    less = second.residual.nan_to_num(torch.inf) < _BETTER * residual[lost].nan_to_num(torch.inf)
    better = 0
    for place, i in enumerate(lost):
        if second.status[place] is Status.CONVERGED or less[place]:
            x[:, i], residual[i], status[i] = second.x[:, place], second.residual[place], second.status[place]
            error[i] = second.residual_error[place]
            better += 1
    name = prepared.solver.describe()
    story = (
        f"{len(lost)} of {len(status)} columns ended as {', '.join(reasons)}; {name} took over and "
        f"improved {better}."
    )
    estimated = "estimated" in (solution.residual_kind, second.residual_kind)
    return replace(
        solution,
        x=x[:, 0] if rhs.ndim == 1 else x,
        status=tuple(status),
        residual=residual,
        residual_error=error,
        residual_kind="estimated" if estimated else solution.residual_kind,
        notes=(*solution.notes, story, *second.notes),
        epochs=solution.epochs + second.epochs,
        seconds=solution.seconds + second.seconds,
        iterations=solution.iterations + second.iterations,
    )
