"""What a campaign measures and wants: objectives, and constraints that outcomes must meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sggp.checks import direction, finite_number
from sggp.errors import DtypeError, InputError


@dataclass(frozen=True)
class Objective:
    """An outcome to be made as large, or as small, as possible.

    Args:
        name: what the outcome is called in `tell` and in files.
        maximize: whether larger is better, True or False, or a word such as "max" or "min"; never guessed.
        unit: of its values, for what is printed.

    Raises:
        InputError: an empty name, or a direction that is none.

    Example:
        >>> Objective("yield", True, "%").as_json()
        {'name': 'yield', 'maximize': True, 'unit': '%'}
    """

    name: str
    maximize: bool
    unit: str = ""

    def __post_init__(self) -> None:
        _check_text(self.name, self.unit)
        object.__setattr__(self, "maximize", direction(self.maximize, f"maximize of {self.name!r}"))

    @property
    def sign(self) -> float:
        """1 where larger is better, else -1."""
        return 1.0 if self.maximize else -1.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Constraint:
    """An outcome that must lie between limits; it has a model of its own.

    Args:
        name: what the outcome is called; an objective of this name is both.
        at_least, at_most: the limits that are allowed themselves; None sets none on that side.
        unit: of its values.

    Raises:
        InputError: an empty name, no limit, a limit that is not finite, or a lower limit above the upper one.

    Example:
        >>> Constraint("solubility", at_least=0.5).met(0.7)
        True
    """

    name: str
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        _check_text(self.name, self.unit)
        if self.at_least is None and self.at_most is None:
            raise InputError(f"constraint {self.name!r} needs a limit: give at_least=, at_most= or both.")
        for side in ("at_least", "at_most"):
            if getattr(self, side) is not None:
                limit = finite_number(
                    getattr(self, side), f"{side} of {self.name!r}", "None sets no limit on that side"
                )
                object.__setattr__(self, side, limit)
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise InputError(
                f"constraint {self.name!r} can never be met: at_least={self.at_least} is above at_most={self.at_most}."
            )

    def met(self, value: float) -> bool:
        """Whether a value lies within the limits."""
        above = self.at_least is None or value >= self.at_least
        return above and (self.at_most is None or value <= self.at_most)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Outcomes:
    """The objectives and constraints of a campaign.

    Raises:
        DtypeError: something else than `Objective` and `Constraint`.
        InputError: no objective, or two outcomes of one kind with one name.
    """

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "objectives", _checked(self.objectives, Objective, "objectives"))
        object.__setattr__(self, "constraints", _checked(self.constraints, Constraint, "constraints"))
        if not self.objectives:
            raise InputError(
                "a campaign needs at least one objective: Objective(name, maximize=True or False)."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Every outcome once, objectives first."""
        names = [objective.name for objective in self.objectives]
        return tuple(dict.fromkeys([*names, *(constraint.name for constraint in self.constraints)]))

    def as_json(self) -> dict[str, Any]:
        return {
            "objectives": [objective.as_json() for objective in self.objectives],
            "constraints": [constraint.as_json() for constraint in self.constraints],
        }

    @classmethod
    def from_json(cls, stored: Any) -> Outcomes:
        """What `as_json` gave.

        Raises:
            InputError: something else.
        """
        try:
            objectives = tuple(Objective(**item) for item in stored["objectives"])
            constraints = tuple(Constraint(**item) for item in stored.get("constraints", ()))
        except (TypeError, KeyError, AttributeError) as error:
            raise InputError(f"these are no stored objectives and constraints: {stored!r:.200}.") from error
        return cls(objectives, constraints)


def _check_text(name: Any, unit: Any) -> None:
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"an outcome needs a name, a text that is not empty; got {name!r:.60}.")
    if not isinstance(unit, str):
        raise InputError(f"the unit of {name!r} must be a text such as 'nM'; got {unit!r:.60}.")


def _checked(items: Any, kind: Any, what: str) -> tuple[Any, ...]:
    if isinstance(items, kind):
        items = (items,)
    if isinstance(items, str | Mapping) or not isinstance(items, Sequence):
        raise DtypeError(f"{what} must be a list of {kind.__name__}, got {type(items).__name__}.")
    listed: list[Any] = list(items)
    for item in listed:
        if not isinstance(item, kind):
            raise DtypeError(f"{what} must hold {kind.__name__}(...), got {type(item).__name__}.")
    names = [item.name for item in listed]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{what} name {', '.join(map(repr, twice))} more than once: one of each name.")
    return tuple(listed)
