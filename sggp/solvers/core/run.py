"""The bookkeeping of one solve: what was found, what it cost, and residuals that are measured or sampled."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sggp.operators.base import NeighbourOperator
from sggp.solvers.core.problem import Problem
from sggp.solvers.core.solution import Record, Solution, Status
from sggp.typing import ResidualKind

__all__ = ["Budget", "Run", "begin", "describe_step", "solution"]

_RESERVING = 20.0
"""From this many epochs on a budget keeps one pass for the final measurement."""
_SHARE = 0.05
"""The part of a pass that a sampled residual may cost, and of `max_seconds` that may be kept for a pass."""
_FEWEST_ROWS = 64
_BLOCK_BYTES = 64 * 2**20
_HARMLESS = 1.1
"""Rounding that raises the residual of a column that misses its tolerance by less than this factor is harmless."""


@dataclass
class Run:
    """Bookkeeping of one solve over the columns that need work."""

    problem: Problem
    x: Tensor  # (n, s) float64, the sum of all corrections
    gap: Tensor  # (n, s) rhs - A x as last measured, relative to the norms of rhs
    residual: Tensor  # (s,) float64, latest known
    measured: Tensor  # (s,) float64, norm of `gap`
    status: list[Status | None]
    entries0: int
    clock: float
    denied: Tensor  # (s,) claims of convergence refused since the measured residual last fell
    error: Tensor  # (s,) standard errors of sampled residuals, 0 where measured
    whole: (
        Tensor  # (s,) whether what was measured is the float64 iterate, not one rounded to the dtype of rhs
    )
    wide: bool = False  # whether gaps are measured in float64
    both: bool = False  # whether the float64 iterate is measured beside the rounded one
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
    def per_epoch(self) -> int:
        return int(getattr(self.problem.operator, "entries_per_epoch", self.problem.n**2))

    @property
    def entries(self) -> int:
        return int(self.problem.operator.entries_evaluated - self.entries0)

    @property
    def epochs(self) -> float:
        return self.entries / self.per_epoch

    @property
    def kind(self) -> ResidualKind:
        return "estimated" if bool((self.error > 0).any()) else "true"

    @property
    def pass_seconds(self) -> float:
        """What a full pass takes, going by the steps so far; 0 before any."""
        return self.step_seconds / self.step_epochs if self.step_epochs > 0 else 0.0

    def active(self) -> Tensor:
        """The columns without a status."""
        return torch.tensor([i for i, status in enumerate(self.status) if status is None], dtype=torch.long)

    def record(self, residual: Tensor, kind: ResidualKind) -> None:
        self.history.append(Record(self.epochs, self.seconds, residual.clone(), kind))

    def correction(self, columns: Tensor) -> Problem:
        """A d = gap for columns that are still open, with unit columns and tolerances that follow."""
        problem, norms = self.problem, self.measured[columns]
        return replace(
            problem,
            rhs=(self.gap[:, columns] / norms.to(self.gap)).to(problem.operator.dtype),
            x0=None,
            tolerance=problem.tolerance[columns] / norms,
            columns=problem.columns[columns],
            norms=torch.ones_like(norms),
        )

    def measure(self, columns: Tensor, within: Budget | None = None) -> None:
        """True relative residuals of some columns, as they will be returned; the gaps are kept to go on from.

        One product measures the iterate rounded to the dtype of the right-hand side (and to that of the products, where
        those round). Once that has missed a tolerance, each product measures the float64 iterate beside it, and a
        column stays in float64 if rounding would lose its tolerance, or raise its residual by a tenth.

        Args:
            columns: which.
            within: the budget for a second product, of higher precision, where the first misses a tolerance; None for
                one product only.
        """
        problem, exact = self.problem, self.x[:, columns]
        rounded, tolerance = self._rounded(exact, columns), problem.tolerance[columns]
        candidates = [exact] if rounded is exact else [rounded]
        if rounded is not exact and self.both and self._precise:
            candidates = [exact, rounded]
        products = self._product(torch.cat(candidates, 1)).chunk(len(candidates), 1)
        rhs, norms = problem.rhs[:, columns], problem.norms[columns].to(exact.device)
        gaps = [(rhs - product) / norms for product in products]
        found = [torch.linalg.vector_norm(gap, dim=0).cpu() for gap in gaps]
        missed = ~(found[-1] <= tolerance)
        if (
            bool(missed.any())
            and within is not None
            and not within.forbids_pass(self)
            and self._look_closer()
        ):
            self.measure(columns)
            return
        whole = torch.zeros_like(missed)
        if len(candidates) == 2:
            whole = missed & ~((found[0] > tolerance) & (found[1] <= _HARMLESS * found[0]))
            whole = ~(found[1] < found[0]) if bool(whole.any()) else whole  # one tensor holds all columns
        choice = whole.to(exact.device)
        self.x[:, columns] = torch.where(choice, candidates[0], candidates[-1])
        self.gap[:, columns] = torch.where(choice, gaps[0], gaps[-1])
        self.residual[columns] = torch.where(whole, found[0], found[-1])
        self.whole[columns], self.error[columns] = whole, 0.0

    @property
    def _precise(self) -> bool:
        """Whether products are of the float64 iterate."""
        return self.wide or self.problem.operator.dtype == torch.float64

    def _rounded(self, x: Tensor, columns: Tensor) -> Tensor:  # (n, c) -> (n, c)
        """x in the dtypes of the right-hand side and of the products: x itself where both are float64."""
        problem = self.problem
        if problem.dtype != torch.float64:
            scale = problem.scale[problem.columns[columns]].to(x)
            x = (x * scale).to(problem.dtype).double() / scale
        return x if self._precise else x.to(problem.operator.dtype).double()

    def _product(self, x: Tensor) -> Tensor:  # (n, c) -> (n, c)
        operator = self.problem.operator
        return operator.matmul_wide(x) if self.wide else operator.matmul(x.to(operator.dtype)).double()

    def _look_closer(self) -> bool:
        """Measure in higher precision from now on; False where there is none."""
        operator, before = self.problem.operator, (self.wide, self.both and self._precise)
        if not self.wide and operator.dtype == torch.float32 and hasattr(operator, "matmul_wide"):
            self.wide = True
            self.notes.append("refined: gaps measured in float64, corrections solved in float32.")
        self.both = self.problem.dtype != torch.float64
        return (self.wide, self.both and self._precise) != before

    def sample(self, columns: Tensor) -> bool:
        """Estimate residuals from random rows: ‖r_S‖·√(n/|S|); returns False where that would be a full pass.

        The standard error is that of a mean of squared row residuals, drawn without replacement, carried through
        the square root to first order. |S| is a twentieth of the rows, at least 64.
        """
        problem, n = self.problem, self.problem.n
        size = max(_FEWEST_ROWS, int(_SHARE * n))
        if size > _SHARE * n or not hasattr(problem.operator, "rows_matmul"):
            return False
        self.whole[columns] = self.both and self._precise
        if not (self.both and self._precise):
            self.x[:, columns] = self._rounded(self.x[:, columns], columns)
        rows = torch.randperm(n, generator=problem.generator)[:size].to(problem.rhs.device)
        gap = problem.rhs[rows][:, columns] - self._rows_product(rows, self.x[:, columns])
        squares = (gap.double() / problem.norms[columns].to(gap.device)).square()
        mean, spread = squares.mean(0).cpu(), squares.std(0).cpu()
        found = (n * mean).sqrt()
        error = n * spread * ((1 - size / n) / size) ** 0.5
        self.residual[columns] = found
        self.error[columns] = (error / (2 * found)).nan_to_num(0.0)
        return True

    def _rows_product(self, rows: Tensor, x: Tensor) -> Tensor:  # (b,), (n, s) -> (b, s)
        operator = self.problem.operator
        if not (self.wide and isinstance(operator, NeighbourOperator)):
            return operator.rows_matmul(rows, x.to(operator.dtype)).double()
        everything = torch.arange(len(x), device=x.device)
        tiles = rows.split(max(1, _BLOCK_BYTES // (8 * len(x))))
        product = torch.cat([operator.cross_block(tile, everything) @ x for tile in tiles])
        return product + operator.noise_variance[rows, None] * x[rows]


@dataclass(frozen=True)
class Budget:
    """What a solve may spend, the final measurement included where the budget is worth twenty passes or more."""

    epochs: float
    seconds: float | None

    def spent(self, run: Run) -> bool:
        """Whether to stop stepping."""
        if self.epochs >= _RESERVING:
            # the next step is taken to cost what the last one did
            if run.epochs + run.last_step > self.epochs - 1:
                return True
        elif run.epochs >= self.epochs:
            return True
        if self.seconds is None:
            return False
        reserve = run.pass_seconds if run.pass_seconds <= _SHARE * self.seconds else 0.0
        return run.seconds >= self.seconds - reserve

    def forbids_pass(self, run: Run) -> bool:
        """Whether a full product would go beyond the budget."""
        if run.epochs + 1 > self.epochs * (1 + 1e-9):
            return True
        return self.seconds is not None and run.seconds + run.pass_seconds > self.seconds


def begin(problem: Problem) -> Run:
    """The run at its start: zero, or x0 and its measured residual."""
    operator, s = problem.operator, problem.rhs.shape[1]
    run = Run(
        problem=problem,
        x=torch.zeros_like(problem.rhs) if problem.x0 is None else problem.x0.clone(),
        gap=problem.rhs / problem.norms.to(problem.rhs),
        residual=torch.ones(s, dtype=torch.float64),
        measured=torch.ones(s, dtype=torch.float64),
        status=[None] * s,
        entries0=operator.entries_evaluated,
        clock=time.perf_counter(),
        denied=torch.zeros(s, dtype=torch.long),
        error=torch.zeros(s, dtype=torch.float64),
        whole=torch.zeros(s, dtype=torch.bool),
        wide=bool(getattr(operator, "rounds_inputs", False)),  # residuals are those of the inputs as given
    )
    if problem.x0 is not None and s:
        everything = torch.arange(s)
        run.both = not torch.equal(run._rounded(run.x, everything), run.x)
        run.measure(everything)
        run.measured.copy_(run.residual)
        run.record(run.residual, "true")
        for i in (run.residual <= problem.tolerance).nonzero()[:, 0].tolist():
            run.status[i] = Status.CONVERGED
    return run


def describe_step(run: Run, before: tuple[int, float]) -> None:
    """Note what the step since `before` (entries, seconds) cost."""
    run.last_step = (run.entries - before[0]) / run.per_epoch
    run.step_epochs += run.last_step
    run.step_seconds += run.seconds - before[1]


def solution(run: Run, method: str) -> Solution:
    """What is returned, trivial columns included."""
    problem, notes = run.problem, list(run.notes)
    scale = problem.scale
    total, finite = len(scale), torch.isfinite(scale)
    dtype, lost = problem.dtype, int(run.whole.sum())
    if dtype != torch.float64 and lost:
        notes.append(
            f"x is in float64: rounded to {dtype}, {lost} of {total} columns would lose the residual that was reached."
        )
        dtype = torch.float64
    x = torch.zeros(problem.n, total, dtype=dtype, device=run.x.device)
    x[:, problem.columns] = (run.x * scale[problem.columns].to(run.x)).to(dtype)
    x[:, ~finite] = float("nan")
    residual, error = (torch.zeros(total, dtype=torch.float64) for _ in range(2))
    residual[problem.columns], error[problem.columns] = run.residual, run.error
    residual[~finite] = float("nan")
    status = [Status.CONVERGED if ok else Status.NONFINITE_INPUT for ok in finite.tolist()]
    for place, value in zip(problem.columns.tolist(), run.status, strict=True):
        status[place] = Status.BUDGET_SPENT if value is None else value
    return Solution(
        x=x[:, 0] if problem.vector else x,
        status=tuple(status),
        residual=residual,
        residual_error=error,
        residual_kind=run.kind,
        tolerance=problem.all_tolerances,
        history=tuple(run.history),
        epochs=run.epochs,
        seconds=run.seconds,
        iterations=run.iterations,
        method=method,
        notes=tuple(notes),
    )
