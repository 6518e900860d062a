"""What campaigns and rules ask of the space in which the next measurement may be made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from sggp.bayesopt.maximise import Look, Paths
from sggp.bayesopt.trials import Place, Trial
from sggp.errors import DtypeError, Exhausted


@runtime_checkable
class Space(Protocol):
    """What campaigns and rules ask of a space; `Box` and `Pool` are two.

    A rule works in the coordinates of the model, those of `scaled`; a *choice* is a batch in these coordinates.
    """

    @property
    def capacity(self) -> float:
        """How many different measurements there are."""

    @property
    def num_initial(self) -> int:
        """How many measurements to collect before a model is used, unless the user says otherwise."""

    @property
    def names(self) -> list[str]:
        """The columns in which a trial's place is listed."""

    @property
    def scaled(self) -> Space:
        """The same space in the coordinates of the model."""

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """The coordinates of the model that are the codes of one category each."""

    def describe(self) -> dict[str, Any]:
        """What identifies this space in a stored campaign, as JSON."""

    def start(
        self, count: int, trials: Sequence[Trial], *, seed: int, generator: torch.Generator
    ) -> list[Place]:
        """`count` new places that need no model, after these trials."""

    def place(self, x: Any) -> Place:
        """The place that a user names, checked."""

    def places(self, choice: Tensor) -> list[Place]:
        """The places of a choice."""

    def features(self, trials: Sequence[Trial]) -> Tensor:
        """(n, d) inputs of the model at these trials."""

    def taken(self, trials: Sequence[Trial]) -> Tensor:
        """What is not to be asked for after these trials, each once, as `Rule.suggest` takes it for `exclude`."""

    def cells(self, trial: Trial) -> list[Any]:
        """The place of a trial, one cell for each of `names`."""

    def maximise(self, paths: Paths, posterior: Any, look: Look) -> tuple[Tensor, Tensor]:
        """The choice that holds the best point of each of s paths, and the paths' values there (s,)."""


def check_space(space: Any) -> Space:
    """Refuse, by a DtypeError, what is no `Box`, `Pool` or something that answers like them."""
    if isinstance(space, type) or not isinstance(space, Space):
        given = space.__name__ if isinstance(space, type) else f"a {type(space).__name__}"
        raise DtypeError(
            f"space must be a Box or a Pool, got {given}: wrap bounds in Box(...) and candidates in Pool(...)."
        )
    return space


def check_room(space: Space, count: int, taken: int = 0) -> None:
    """Refuse, by an `Exhausted`, a batch that is larger than what is left of the space."""
    left = space.capacity - taken
    if count > left:
        what = "rows of the pool's" if hasattr(space, "__len__") else "combinations of the box's"
        raise Exhausted(
            f"{count} points are asked for but only {left:.0f} {what} {space.capacity:.0f} different ones are left."
        )
