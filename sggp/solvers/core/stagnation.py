"""The iterate of least residual, and the one rule for when a column no longer gets better."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["count_idle", "keep_best"]

_FELL = 0.9


def keep_best(state: Any) -> None:
    """Copy the columns of `state.x` whose `residual` is the least so far to `best`, and lower `least`."""
    better = state.residual < state.least
    if bool(better.all()):
        state.best.copy_(state.x)
    elif bool(better.any()):
        state.best[:, better] = state.x[:, better]
    state.least = torch.minimum(state.least, torch.nan_to_num(state.residual, nan=float("inf")))


def count_idle(state: Any, steps: int = 1) -> None:
    """Add to `state.idle` (s,) for columns whose `least` residual has not fallen by a tenth since their `mark`.

    A column whose count reaches the solver's patience has stagnated: it is measured, and starts again from there.
    """
    fell = state.least < _FELL * state.mark
    state.mark = torch.where(fell, state.least, state.mark)
    state.idle = torch.where(fell, 0, state.idle + steps)
