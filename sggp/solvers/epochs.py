"""What solvers that visit rows in epochs share: the order of rows, the running residual, and backing off.

An epoch visits every row once, in a new random order. The squares of the residuals of the rows as they are visited
add up to a running residual, which costs nothing; where it grows, the iteration goes back to the best iterate so far
and goes on more carefully.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from sggp.errors import InputError
from sggp.solvers.core.driver import IterativeSolver, State
from sggp.solvers.core.problem import Problem
from sggp.solvers.core.solution import Status
from sggp.typing import ResidualKind

__all__ = ["EpochSolver", "EpochState"]

_GROWTH = 20.0
"""A running residual this many times the least one so far is divergence."""
_MOST_BACKOFFS = 12
_TIE = 64
"""Rounding errors by which two running residuals of one iterate may differ."""
_DOUBT = 2.0
"""What a running residual is multiplied by after each time that a measured one refused it."""


@dataclass
class EpochState(State):
    """State of a solver that visits rows in epochs; `fresh` says that an epoch has just been closed.

    `size` scales the solver's steps; it is halved where the iteration diverges.
    """

    good: Tensor = field(kw_only=True)  # (n, s) iterate at the epoch of least residual, to fall back on
    squares: Tensor = field(kw_only=True)  # (s,) Σ‖r_I‖² over the running epoch
    estimate: Tensor = field(kw_only=True)  # (s,) relative residual over the last full epoch
    least: Tensor = field(kw_only=True)  # (s,)
    order: Tensor = field(kw_only=True)
    size: float = field(kw_only=True)
    backoffs: int = field(default=0, kw_only=True)
    place: int = field(default=0, kw_only=True)
    fresh: bool = field(default=False, kw_only=True)
    diverged: bool = field(default=False, kw_only=True)

    per_column: ClassVar[tuple[str, ...]] = ("good", "squares", "estimate", "least")
    carried: ClassVar[tuple[str, ...]] = ("size", "backoffs")


class EpochSolver(IterativeSolver):
    """An iterative solver that stops by the running residual of an epoch."""

    @staticmethod
    def epoch_fields(problem: Problem, size: float) -> dict[str, Any]:
        """The fields of an `EpochState` at x = 0, with steps of a size to begin with."""
        s = problem.rhs.shape[1]
        return {
            "good": torch.zeros_like(problem.rhs),
            "squares": torch.zeros(s, dtype=torch.float64),
            "estimate": torch.ones(s, dtype=torch.float64),
            "least": torch.ones(s, dtype=torch.float64),
            "order": torch.empty(0, dtype=torch.long),
            "size": size,
        }

    @staticmethod
    def next_rows(state: Any, size: int) -> Tensor:  # -> (≤ size,)
        """The next rows of the epoch; a new one is begun where the last is over."""
        state.fresh = False
        if state.place >= len(state.order):
            problem = state.problem
            state.order = torch.randperm(problem.n, generator=problem.generator).to(problem.rhs.device)
            state.place = 0
            state.squares = torch.zeros_like(state.squares)
        rows = state.order[state.place : state.place + size]
        state.place += len(rows)
        return rows

    @staticmethod
    def visit(state: Any, residual: Tensor) -> bool:  # (b, s)
        """Add the residuals of the rows visited; whether the epoch is over, or cannot go on."""
        state.squares += residual.double().square().sum(0).cpu()
        return state.place >= len(state.order) or not bool(torch.isfinite(state.squares).all())

    @staticmethod
    def close_epoch(state: Any, current: Tensor, growth: float = _GROWTH) -> bool:
        """Take the running residual of the epoch and keep `current` where it is the best; False where it diverges."""
        seen = state.squares.sqrt() * math.sqrt(len(state.order) / max(1, state.place))
        grown = seen > growth * state.least.clamp_min(1e-12)
        if not bool(torch.isfinite(seen).all()) or bool(grown.any()):
            return False
        state.fresh, state.estimate = True, seen
        better = seen < state.least
        if bool(better.any()):
            state.good[:, better] = current[:, better]
        state.least = torch.minimum(state.least, seen)
        return True

    @staticmethod
    def back_off(state: Any, note: str, sequences: tuple[str, ...]) -> None:
        """Go back to the best iterate with steps of half the size.

        Args:
            state: the state.
            note: what to report, with a place for the new size.
            sequences: the fields of the state that take the value of the best iterate.
        """
        state.backoffs += 1
        state.size /= 2
        state.notes.append(note.format(state.size))
        state.diverged = state.backoffs >= _MOST_BACKOFFS
        for name in sequences:
            setattr(state, name, state.good.clone())
        state.order, state.place = state.order[:0], 0

    @staticmethod
    def better_of(state: Any, current: Tensor) -> Tensor:  # (n, s) -> (n, s)
        """`current`, or the best iterate of an earlier epoch where the running residual has risen since."""
        if state.diverged:
            return state.good
        # the first pass may see the residual of the start itself: a difference of rounding is no rise
        risen = state.estimate > state.least * (1 + _TIE * torch.finfo(current.dtype).eps)
        return torch.where(risen.to(current.device), state.good, current) if bool(risen.any()) else current

    def residual(self, state: Any) -> tuple[Tensor, ResidualKind] | None:
        # each restart means that a measured residual was larger than the running one
        return (state.estimate * _DOUBT**state.restarts, "estimated") if state.fresh else None

    def failures(self, state: Any) -> list[Status | None]:
        return [Status.DIVERGED if state.diverged else None] * state.problem.rhs.shape[1]


def check_descent(solver: Any) -> None:
    """Raise `InputError` unless step size, batch size, momentum and averaging are in range."""
    if not 0 <= solver.momentum < 1:
        raise InputError(f"momentum must lie in [0, 1), got {solver.momentum}.")
    if solver.step_size is not None and not solver.step_size > 0:
        raise InputError(f"step_size must be positive or None, got {solver.step_size}.")
    if solver.batch_size is not None and solver.batch_size < 1:
        raise InputError(f"batch_size must be at least 1 or None, got {solver.batch_size}.")
    if solver.averaging is not None and not 0 < solver.averaging <= 1:
        raise InputError(f"averaging must lie in (0, 1] or be None, got {solver.averaging}.")
