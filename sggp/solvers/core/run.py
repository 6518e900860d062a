"""The bookkeeping of one solve: what was found, what it cost, and residuals that are measured or sampled."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sggp.operators.base import NeighbourOperator
from sggp.solvers.core.problem import Problem
from sggp.solvers.core.solution import Record, Status
from sggp.typing import ResidualKind

__all__ = ["Budget", "Run", "begin"]

_RESERVING = 20.0
"""From this many epochs on a budget keeps one pass for the final measurement."""
_SHARE = 0.05
"""The part of a pass that a sampled residual may cost, and of `max_seconds` that may be kept for a pass."""
_FEWEST_ROWS = 64
_BLOCK_BYTES = 64 * 2**20


@dataclass
class Run:
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
    error: Tensor  # (s,) standard errors of sampled residuals, 0 where measured
    wide: bool = False  # whether gaps are measured in float64
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

    def measure(self, columns: Tensor) -> None:
        """True relative residuals of some columns, by one product; the gaps are kept to go on from."""
        operator = self.problem.operator
        if self.wide:
            product = operator.matmul_wide(self.x[:, columns])
        else:
            product = operator.matmul(self.x[:, columns].to(operator.dtype)).double()
        self.gap[:, columns] = self.problem.rhs[:, columns] - product
        self.residual[columns] = torch.linalg.vector_norm(self.gap[:, columns], dim=0).cpu()
        self.error[columns] = 0.0

    def sample(self, columns: Tensor) -> bool:
        """Estimate residuals from random rows: ‖r_S‖·√(n/|S|); returns False where that would be a full pass.

        The standard error is that of a mean of squared row residuals, drawn without replacement, carried through
        the square root to first order. |S| is a twentieth of the rows, at least 64.
        """
        problem, n = self.problem, self.problem.n
        size = max(_FEWEST_ROWS, int(_SHARE * n))
        if size > _SHARE * n or not hasattr(problem.operator, "rows_matmul"):
            return False
        rows = torch.randperm(n, generator=problem.generator)[:size].to(problem.rhs.device)
        gap = problem.rhs[rows][:, columns] - self._rows_product(rows, self.x[:, columns])
        squares = gap.double().square()
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
        gap=problem.rhs.clone(),
        residual=torch.ones(s, dtype=torch.float64),
        measured=torch.ones(s, dtype=torch.float64),
        status=[None] * s,
        entries0=operator.entries_evaluated,
        clock=time.perf_counter(),
        denied=torch.zeros(s, dtype=torch.long),
        error=torch.zeros(s, dtype=torch.float64),
        wide=bool(getattr(operator, "rounds_inputs", False)),  # residuals are those of the inputs as given
    )
    if problem.x0 is not None and s:
        run.measure(torch.arange(s))
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


def settled(run: Run) -> dict[str, Any]:
    """The final columns of a `Solution`, trivial ones included."""
    problem = run.problem
    total, finite = len(problem.norms), torch.isfinite(problem.norms)
    x = torch.zeros(problem.n, total, dtype=problem.dtype, device=run.x.device)
    x[:, problem.columns] = (run.x * problem.norms[problem.columns].to(run.x)).to(x)
    x[:, ~finite] = float("nan")
    residual, error = (torch.zeros(total, dtype=torch.float64) for _ in range(2))
    residual[problem.columns], error[problem.columns] = run.residual, run.error
    residual[~finite] = float("nan")
    status = [Status.CONVERGED if ok else Status.NONFINITE_INPUT for ok in finite.tolist()]
    for place, value in zip(problem.columns.tolist(), run.status, strict=True):
        status[place] = Status.BUDGET_SPENT if value is None else value
    return {
        "x": x[:, 0] if problem.vector else x,
        "status": tuple(status),
        "residual": residual,
        "residual_error": error,
        "residual_kind": run.kind,
    }
