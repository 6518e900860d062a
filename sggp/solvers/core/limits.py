"""What a solve is asked for and allowed, and what it says while it runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

from torch import Tensor

from sggp.checks import finite_number, one_of
from sggp.errors import InputError
from sggp.typing import FailurePolicy, ResidualKind, Seed

__all__ = ["Budget", "Callback", "Limits", "Options", "Progress"]

RESERVING = 20.0
"""From this many epochs on a budget keeps one pass for the final measurement."""
_SHARE = 0.05
"""The part of `max_seconds` that may be kept for a pass."""
_SETUP_SHARE = 0.7
"""The part of the seconds left that a set-up may take: what it is for needs the rest."""


@dataclass(frozen=True)
class Progress:
    """What a callback sees after each step."""

    iterations: int
    epochs: float
    seconds: float
    residual: Tensor  # (s,) latest known relative residuals of all columns
    kind: ResidualKind


Callback = Callable[[Progress], Any]
ENOUGH = "enough"
"""What a callback returns to end a solve that came to nothing: some rows tell its residual, and no pass is spent."""


class Options(TypedDict, total=False):
    """The keyword arguments of `Solver.solve`."""

    tolerance: float | Tensor
    max_epochs: float | None
    max_seconds: float | None
    generator: Seed
    callback: Callback | None
    on_failure: FailurePolicy
    checkpoint: str | os.PathLike[str] | None


@dataclass(frozen=True)
class Limits:
    """The arguments of `Solver.solve`, checked."""

    tolerance: float | Tensor = 1e-2
    max_epochs: float | None = None
    max_seconds: float | None = None
    generator: Seed = None
    callback: Callback | None = None
    on_failure: FailurePolicy = "warn"
    checkpoint: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        one_of(self.on_failure, "on_failure", ("warn", "raise", "return"))
        for name in ("max_epochs", "max_seconds"):
            value = getattr(self, name)
            if value is not None and finite_number(value, name, infinite=True) < 0:
                raise InputError(f"{name} must not be negative, got {value}.")

    def options(self) -> Options:
        """The same as keyword arguments of another solver's `solve`, which then is to return whatever it finds."""
        shared = {name: getattr(self, name) for name in Options.__annotations__}
        return Options(**{**shared, "on_failure": "return"})  # type: ignore[typeddict-item]


@dataclass(frozen=True)
class Budget:
    """What a solve may spend, the final measurement included where the budget is worth twenty passes or more."""

    epochs: float
    seconds: float | None

    def spent(self, run: Any) -> bool:
        """Whether a `Run` has to stop stepping."""
        if self.epochs >= RESERVING:
            # the next step is taken to cost what the last one did
            if run.epochs + run.last_step > self.epochs - 1:
                return True
        elif run.epochs >= self.epochs:
            return True
        if self.seconds is None:
            return False
        reserve = run.pass_seconds if run.pass_seconds <= _SHARE * self.seconds else 0.0
        return run.agreed(bool(run.seconds >= self.seconds - reserve))

    def setup_until(self, run: Any) -> float | None:
        """When a set-up has to end, as `time.perf_counter` counts; None without a limit."""
        if self.seconds is None:
            return None
        return time.perf_counter() + _SETUP_SHARE * max(0.0, self.seconds - run.seconds)

    def forbids_pass(self, run: Any) -> bool:
        """Whether a full product would go beyond the budget."""
        if run.epochs + 1 > self.epochs * (1 + 1e-9):
            return True
        return self.seconds is not None and run.agreed(run.seconds + run.pass_seconds > self.seconds)
