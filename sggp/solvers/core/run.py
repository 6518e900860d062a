"""The bookkeeping of one solve: what was found, what it cost, and residuals that are measured or sampled."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sggp.operators.base import NeighbourOperator, RowOperator
from sggp.running import heard, may_stop, stop_asked, tell
from sggp.solvers.core.limits import Budget
from sggp.solvers.core.problem import Problem, System, few
from sggp.solvers.core.solution import Record, Solution, Status
from sggp.typing import ResidualKind

__all__ = ["Run", "begin", "describe_step", "solution", "tell_step"]

_SHARE = 0.05
"""The part of a pass that a sampled residual may cost."""
_FEWEST_ROWS, _MOST_ROWS = 64, 4096
_BLOCK_BYTES = 64 * 2**20
_FORECAST_ROWS, _FORECAST_SHARE = 16_384, 256
"""Rows from which on the first step is forecast where seconds are limited, and the share of a pass that this costs."""
_WRONG = 0.25
"""Of a tolerance: what a product that a residual is measured by may be wrong by."""
_HARMLESS = 1.1
"""Rounding that raises the residual of a column that misses its tolerance by less than this factor is harmless."""

_NOT_FINITE = "the measured residual is not finite: the operator, or the solver, gave NaN or infinity."


@dataclass
class Run:
    """Bookkeeping of one solve over the columns that need work."""

    system: System
    x: Tensor  # (n, s) float64, the sum of all corrections
    remainder: (
        Tensor  # (n, s) rhs - A x as last measured, relative to the norms of rhs; of the operator's dtype
    )
    residual: Tensor  # (s,) float64, latest known
    measured: Tensor  # (s,) float64, norm of `remainder`
    status: list[Status | None]
    entries0: int
    clock: float
    rejections: Tensor  # (s,) claims of convergence refused since the measured residual last fell
    error: Tensor  # (s,) standard errors of sampled residuals, 0 where measured
    whole: Tensor  # (s,) whether the float64 iterate was measured, not one rounded to the dtype of rhs
    wide: bool = False  # whether remainders are measured in float64
    both: bool = False  # whether the float64 iterate is measured beside the rounded one
    stopped: bool = False  # by a signal, or by who holds the `Stop`
    hasty: bool = False  # ended by a callback for which a sample of the residuals will do
    paused: float = 0.0
    iterations: int = 0
    history: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    last_step: float = 0.0  # epochs of the latest step
    step_epochs: float = 0.0
    step_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.clock - self.paused

    @property
    def entries(self) -> int:
        return int(self.system.operator.entries_evaluated - self.entries0)

    @property
    def epochs(self) -> float:
        return self.entries / self.system.operator.entries_per_epoch

    @property
    def kind(self) -> ResidualKind:
        return "estimated" if bool((self.error > 0).any()) else "true"

    @property
    def pass_seconds(self) -> float:
        """What a full pass takes, going by the steps so far; 0 before any."""
        return self.step_seconds / self.step_epochs if self.step_epochs > 0 else 0.0

    def agreed(self, decision: bool) -> bool:
        """What hangs on a clock or a signal; the place where several processes that solve together decide as one."""
        return bool(self.system.operator.workers.agreed(decision))

    def stop_asked(self) -> str | None:
        """Who has asked to stop, or None."""
        if not may_stop() or not self.agreed(stop_asked() is not None):
            return None
        return stop_asked() or "another process"

    def forecast_pass(self, columns: int) -> float:
        """Seconds of a product with so many columns, from one of few rows; 0 where n is small or there are no rows."""
        operator = self.system.operator
        if operator.shape[0] < _FORECAST_ROWS or not isinstance(operator, RowOperator):
            return 0.0
        rows = torch.arange(0, operator.shape[0], _FORECAST_SHARE, device=self.x.device)
        block, begin_ = self.remainder[:, :columns].to(operator.dtype), time.perf_counter()
        operator.rows_matmul(rows, block)
        exact = _FORECAST_SHARE * (time.perf_counter() - begin_)
        system = self.system.operator
        return exact * system.work(columns) / system.shape[0] ** 2 if system.approximates else exact

    def active(self) -> Tensor:
        """The columns without a status."""
        return torch.tensor([i for i, status in enumerate(self.status) if status is None], dtype=torch.long)

    def record(self, residual: Tensor, kind: ResidualKind) -> None:
        self.history.append(Record(self.epochs, self.seconds, residual.clone(), kind))

    def correction(self, columns: Tensor) -> Problem:
        """A d = b − A x for columns that are still open, with unit columns and tolerances that follow."""
        system, norms = self.system, self.measured[columns]
        rhs = self.remainder.new_empty(len(self.remainder), len(columns), dtype=system.operator.dtype)
        for place, (column, norm) in enumerate(zip(columns.tolist(), norms.tolist(), strict=True)):
            rhs[:, place] = self.remainder[:, column] / norm
        return Problem(
            operator=system.operator,
            rhs=rhs,
            tolerance=system.tolerance[columns] / norms,
            columns=system.columns[columns],
            generator=system.generator,
        )

    def break_down(self, columns: Tensor) -> None:
        """End the columns whose measured residual is not finite: comparisons with NaN would let them go on."""
        lost = columns[~torch.isfinite(self.residual[columns])].tolist()
        for i in lost:
            self.status[i] = Status.BREAKDOWN
        self.notes.extend([_NOT_FINITE] if lost and _NOT_FINITE not in self.notes else [])

    def measure(self, columns: Tensor, within: Budget | None = None) -> None:
        """True relative residuals of some columns, as they will be returned; the remainders are kept to go on from.

        One product measures the iterate rounded to the dtype of the right-hand side (and to that of the products, where
        those round). Once that has missed a tolerance, each product measures the float64 iterate beside it, and a
        column stays in float64 if rounding would lose its tolerance, or raise its residual by a tenth.

        Args:
            columns: which.
            within: the budget for a second product, of higher precision, where the first misses a tolerance; None for
                one product only.
        """
        system, exact = self.system, _taken(self.x, columns)
        rounded, tolerance = self._rounded(exact, columns), system.tolerance[columns]
        candidates = [exact] if rounded is exact else [rounded]
        if rounded is not exact and self.both and self._precise:
            candidates = [exact, rounded]
        together = candidates[0] if len(candidates) == 1 else torch.cat(candidates, 1)
        product, error = self._product(together, columns.repeat(len(candidates)))
        products, errors = product.chunk(len(candidates), 1), error.chunk(len(candidates))
        rhs, norms = system.rhs.take(columns), system.norms[columns].to(exact.device)
        remainders = [(rhs - product).div_(norms) for product in products]
        found = [torch.linalg.vector_norm(remainder, dim=0).cpu() for remainder in remainders]
        found = [size + error for size, error in zip(found, errors, strict=True)]
        missed = ~(found[-1] <= tolerance)
        affordable = within is not None and not within.forbids_pass(self)
        if bool(missed.any()) and affordable and self._look_closer():
            self.measure(columns)
            return
        whole = torch.zeros_like(missed)
        if len(candidates) == 2:
            whole = missed & ~((found[0] > tolerance) & (found[1] <= _HARMLESS * found[0]))
            whole = ~(found[1] < found[0]) if bool(whole.any()) else whole  # one tensor holds all columns
        choice = whole.to(exact.device)
        self.x[:, columns] = torch.where(choice, candidates[0], candidates[-1])
        left = torch.where(choice, remainders[0], remainders[-1])
        self.remainder[:, columns] = left.to(self.remainder.dtype)
        self.residual[columns] = torch.where(whole, found[0], found[-1])
        self.whole[columns], self.error[columns] = whole, 0.0

    @property
    def _precise(self) -> bool:
        """Whether products are of the float64 iterate."""
        return self.wide or self.system.operator.dtype == torch.float64

    def _rounded(self, x: Tensor, columns: Tensor) -> Tensor:  # (n, c) -> (n, c)
        """x in the dtypes of the right-hand side and of the products: x itself where both are float64."""
        system = self.system
        if system.dtype != torch.float64:
            scale = system.scale[system.columns[columns]].to(x)
            x = (x * scale).to(system.dtype).double() / scale
        return x if self._precise else x.to(system.operator.dtype).double()

    def _product(self, x: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:  # (n, c), (c,) -> (n, c), (c,)
        """A x, and what the relative residuals of these columns may be too small by for want of an exact one."""
        operator, system = self.system.operator, self.system
        if operator.approximates:
            norms = system.norms[columns]
            product, error = operator.product_within(x, _WRONG * system.tolerance[columns] * norms)
            return product, error / norms
        product = operator.matmul_wide(x) if self.wide else operator.matmul(x.to(operator.dtype)).double()
        return product, torch.zeros(len(columns), dtype=torch.float64)

    def _look_closer(self) -> bool:
        """Measure in higher precision from now on; False where there is none."""
        operator, before = self.system.operator, (self.wide, self.both and self._precise)
        if not self.wide and operator.dtype == torch.float32 and operator.matmul_wide is not None:
            self.wide = True
            self.notes.append("refined: residuals measured in float64, corrections solved in float32.")
        self.both = self.system.dtype != torch.float64
        return (self.wide, self.both and self._precise) != before

    def sample(self, columns: Tensor) -> bool:
        """Estimate residuals from random rows: ‖r_S‖·√(n/|S|); returns False where that would be a full pass.

        The standard error is that of a mean of squared row residuals, drawn without replacement, carried through
        the square root to first order. |S| is a twentieth of the rows, at least 64 and at most 4,096.
        """
        system, n = self.system, self.system.operator.shape[0]
        size = max(_FEWEST_ROWS, min(_MOST_ROWS, int(_SHARE * n)))
        if size > _SHARE * n or not hasattr(system.operator, "rows_matmul"):
            return False
        self.whole[columns] = self.both and self._precise
        if not (self.both and self._precise):
            for column in columns.split(1):
                self.x[:, column] = self._rounded(self.x[:, column], column)
        rows = torch.randperm(n, generator=system.generator)[:size].to(system.rhs.device)
        remainder = system.rhs.rows(rows, columns) - self._rows_product(rows, _taken(self.x, columns))
        squares = (remainder.double() / system.norms[columns].to(remainder.device)).square()
        mean, spread = squares.mean(0).cpu(), squares.std(0).cpu()
        found = (n * mean).sqrt()
        error = n * spread * ((1 - size / n) / size) ** 0.5
        self.residual[columns] = found
        self.error[columns] = (error / (2 * found)).nan_to_num(0.0)
        return True

    def _rows_product(self, rows: Tensor, x: Tensor) -> Tensor:  # (b,), (n, s) -> (b, s)
        operator = self.system.operator
        if not (self.wide and isinstance(operator, NeighbourOperator)):
            return operator.rows_matmul(rows, x.to(operator.dtype)).double()
        if hasattr(operator, "rows_matmul_wide"):
            return operator.rows_matmul_wide(rows, x)
        everything = torch.arange(len(x), device=x.device)
        tiles = rows.split(max(1, _BLOCK_BYTES // (8 * len(x))))
        product = torch.cat([operator.cross_block(tile, everything) @ x for tile in tiles])
        return product + operator.noise_variance[rows, None] * x[rows]


def _taken(values: Tensor, columns: Tensor) -> Tensor:  # (n, s), (c,) -> (n, c)
    """Some columns, in order; no copy where they are all."""
    return values if len(columns) == values.shape[1] else values[:, columns]


def begin(system: System) -> Run:
    """The run at its start: zero, or x0 and its measured residual."""
    operator, s = system.operator, system.rhs.shape[1]
    x = torch.zeros(system.rhs.shape, dtype=torch.float64, device=system.rhs.device)
    remainder = torch.zeros_like(x, dtype=operator.dtype)
    for columns in few(torch.arange(s), len(x)):
        remainder[:, columns] = (system.rhs.take(columns) / system.norms[columns].to(x)).to(remainder.dtype)
    run = Run(
        system=system,
        x=x if system.x0 is None else system.x0.clone(),
        remainder=remainder,
        residual=torch.ones(s, dtype=torch.float64),
        measured=torch.ones(s, dtype=torch.float64),
        status=[None] * s,
        entries0=operator.entries_evaluated,
        clock=time.perf_counter(),
        rejections=torch.zeros(s, dtype=torch.long),
        error=torch.zeros(s, dtype=torch.float64),
        whole=torch.zeros(s, dtype=torch.bool),
        wide=operator.rounds_inputs or operator.approximates,  # residuals are those of the matrix as given
    )
    if system.x0 is not None and s:
        everything = torch.arange(s)
        run.both = not torch.equal(run._rounded(run.x, everything), run.x)
        run.measure(everything)
        run.measured.copy_(run.residual)
        run.record(run.residual, "true")
        for i in (run.residual <= system.tolerance).nonzero()[:, 0].tolist():
            run.status[i] = Status.CONVERGED
        run.break_down(everything)
    return run


def describe_step(run: Run, before: tuple[int, float]) -> None:
    """Note what the step since `before` (entries, seconds) cost."""
    run.last_step = (run.entries - before[0]) / run.system.operator.entries_per_epoch
    run.step_epochs += run.last_step
    run.step_seconds += run.seconds - before[1]


def tell_step(run: Run) -> None:
    """Tell whoever listens of the step just made: the column farthest from its tolerance, and what it cost so far."""
    if not heard() or not len(active := run.active()):
        return
    tolerance = run.system.tolerance[active]
    worst = int((run.residual[active] / tolerance).nan_to_num(torch.inf).argmax())
    tell(
        "solve",
        run.iterations,
        residual=float(run.residual[active][worst]),
        tolerance=float(tolerance[worst]),
        epochs=run.epochs,
        open_columns=len(active),
    )


def solution(run: Run, method: str) -> Solution:
    """What is returned, trivial columns included."""
    system, notes = run.system, list(run.notes)
    scale = system.scale
    total, finite = len(scale), torch.isfinite(scale)
    dtype, lost = system.dtype, int(run.whole.sum())
    if dtype != torch.float64 and lost:
        notes.append(
            f"x is in float64: rounded to {dtype}, {lost} of {total} columns would lose the residual that was reached."
        )
        dtype = torch.float64
    x = torch.zeros(system.operator.shape[0], total, dtype=dtype, device=run.x.device)
    for places in few(torch.arange(len(system.columns)), len(x)):
        own = system.columns[places]
        x[:, own] = (run.x[:, places] * scale[own].to(run.x)).to(dtype)
    x[:, ~finite] = float("nan")
    residual, error = (torch.zeros(total, dtype=torch.float64) for _ in range(2))
    residual[system.columns], error[system.columns] = run.residual, run.error
    residual[~finite] = float("nan")
    status = [Status.CONVERGED if ok else Status.NONFINITE_INPUT for ok in finite.tolist()]
    for place, value in zip(system.columns.tolist(), run.status, strict=True):
        status[place] = Status.BUDGET_SPENT if value is None else value
    return Solution(
        x=x[:, 0] if system.vector else x,
        status=tuple(status),
        residual=residual,
        residual_error=error,
        residual_kind=run.kind,
        tolerance=system.all_tolerances,
        history=tuple(run.history),
        epochs=run.epochs,
        seconds=run.seconds,
        iterations=run.iterations,
        method=method,
        notes=tuple(notes),
    )
