"""What a campaign needs of its storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from sggp.bayesopt.trials import Place, State, Trial
from sggp.errors import InputError


class DuplicateAsk(Exception):
    """Another process asked for one of these pool rows in the meantime."""


@dataclass(frozen=True)
class Result:
    """How a trial ended: a value, or None and the reason of its failure."""

    id: int
    value: float | None
    reason: str | None = None


@runtime_checkable
class Storage(Protocol):
    """Settings and trials of one campaign, by several processes if the storage allows it.

    A change is kept, whole, when the call returns; a call that raises has changed nothing. Ids count from 1 in the
    order of writing, and are never used twice. What is given has been checked.
    """

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def exists(self) -> bool:
        """Whether it holds a campaign."""

    def create(self, meta: dict[str, Any]) -> None:
        """Start a campaign with its settings, which JSON can hold."""

    def meta(self) -> dict[str, Any]:
        """The settings given to `create`."""

    def trials(self) -> list[Trial]:
        """All trials by id."""

    def add_asked(self, places: Sequence[Place]) -> list[Trial]:
        """Add a batch of pending trials; its number follows the last batch's.

        Raises:
            DuplicateAsk: a pool row was asked for before.
        """

    def add_measured(self, measured: Sequence[tuple[Place, float]]) -> list[Trial]:
        """Add measurements made outside the campaign, as batch 0."""

    def finish(self, results: Sequence[Result]) -> list[Trial]:
        """End trials, each as `ended` says.

        Raises:
            InputError: no such trial, or it ended otherwise before.
        """


def ended(trial: Trial, result: Result, now: str) -> Trial:
    """The trial as it is after its result; the same result twice changes nothing.

    Raises:
        InputError: the trial has ended otherwise before.
    """
    state: State = "failed" if result.value is None else "measured"
    if trial.state == "pending":
        return replace(trial, state=state, value=result.value, reason=result.reason, told_at=now)
    if trial.state == state and trial.value == result.value:
        return trial
    was = f"measured as {trial.value!r}" if trial.state == "measured" else f"marked failed ({trial.reason})"
    raise InputError(f"trial {trial.id} was already {was}; attach(x, value) adds a repeat instead.")
