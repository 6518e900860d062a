"""What a campaign measures: a place that was chosen, and what became of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sggp.checks import finite_number, one_of
from sggp.errors import InputError

State = Literal["pending", "measured", "failed", "withdrawn"]
Censored = Literal["above", "below"]
Policy = Literal["excluded", "retry", "imputed"]

POLICIES: tuple[Policy, ...] = ("excluded", "retry", "imputed")
_TEXT = re.compile(r"\s*(<=|>=|[<>≤≥])?\s*([-+−]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")
_SIDE: dict[str | None, Censored | None] = {
    None: None,
    **dict.fromkeys((">", ">=", "≥"), "above"),
    **dict.fromkeys(("<", "<=", "≤"), "below"),
}
_EXPECTED = "a number, a text such as '7.1', '>10' or '<0.1', a pair (value, noise_std) or a Measurement"

SIGNS: dict[Censored | None, str] = {None: "", "above": ">", "below": "<"}


@dataclass(frozen=True)
class Place:
    """Where to measure, as it is stored.

    Attributes:
        index: row in the pool as it was found last; a cache, never the identity.
        x: point (d,) of a box, or the features (d,) of a candidate that the pool does not hold.
        label: what the pool calls the row (its SMILES).
        key: what it is: canonical SMILES of a molecule, "id:<id>" in a pool that has ids only, else a digest of the
            exact features; None in a box, where the coordinates are the identity.
    """

    index: int | None = None
    x: tuple[float | str, ...] | None = None
    label: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class Measurement:
    """One measured number.

    Attributes:
        value: the number, finite.
        noise_std: its standard error where it is known, at least 0.
        censored: "above" where the truth is only known to be above `value` (">10"), "below" where it is below it.

    Raises:
        InputError: a number that is not finite, a negative standard error, or another word.
    """

    value: float
    noise_std: float | None = None
    censored: Censored | None = None

    def __post_init__(self) -> None:
        value = finite_number(self.value, "a measurement", "use fail(id, reason) for failures")
        object.__setattr__(self, "value", value)
        if self.noise_std is not None:
            std = finite_number(self.noise_std, "noise_std")
            if std < 0:
                raise InputError(f"noise_std is a standard deviation, at least 0; got {std!r}.")
            object.__setattr__(self, "noise_std", std)
        if self.censored is not None:
            one_of(self.censored, "censored", ("above", "below"))

    @classmethod
    def parse(cls, given: Any) -> Measurement:
        """A measurement from a number, a text, a pair (value, noise_std) or a measurement.

        A text has a decimal point or none and may begin with <, <=, > or >=; a comma is refused, since it divides
        thousands for some and decimals for others.

        Raises:
            InputError: none of these, or not finite.

        Example:
            >>> Measurement.parse(">10")
            Measurement(value=10.0, noise_std=None, censored='above')
        """
        if isinstance(given, Measurement):
            return given
        if isinstance(given, tuple):
            if len(given) != 2:
                raise InputError(f"a measurement must be {_EXPECTED}; got {len(given)} values {given!r:.60}.")
            return replace(cls.parse(given[0]), noise_std=given[1])
        if isinstance(given, str):
            found = _TEXT.fullmatch(given)
            if found is None:
                raise InputError(
                    f"{given[:60]!r} is no measurement: it must be {_EXPECTED}, with a decimal point; use "
                    "fail(id, reason) for failures."
                )
            return cls(float(found[2].replace("−", "-")), censored=_SIDE[found[1]])
        return cls(
            finite_number(given, "a measurement", f"it must be {_EXPECTED}; fail(id, reason) is for failures")
        )

    def __str__(self) -> str:
        """As a text that `parse` reads, without the standard error."""
        return SIGNS[self.censored] + repr(self.value)


@dataclass(frozen=True)
class Trial:
    """One measurement, asked for or attached.

    Attributes:
        id: number to `tell` or `fail` with.
        index: row in the pool as it is now, None in a box and for what the pool does not hold.
        x: point (d,) as a tuple, None for a pool row.
        label: what the pool calls the row (its SMILES), None where it has no names.
        state: pending, measured, failed or withdrawn.
        value: the first outcome, once measured.
        reason: why it failed or was withdrawn.
        batch: number of the `ask` that made it; 0 for attached data.
        source: asked or attached.
        asked_at, told_at: UTC times, ISO 8601.
        key: what it is, see `Place`.
        values: all outcomes by name, once measured.
        policy: what a failure means for the next batches, once failed: see `Campaign.fail`.
        expected: mean and standard deviation that the model gave when it was asked.
        why: one line, why it was chosen.
        cost: what it cost, where that was told.
    """

    id: int
    index: int | None
    x: tuple[float | str, ...] | None
    label: str | None
    state: State
    value: float | None
    reason: str | None
    batch: int
    source: str
    asked_at: str
    told_at: str | None
    key: str | None = None
    values: Mapping[str, Measurement] = field(default_factory=dict, hash=False)
    policy: Policy | None = None
    expected: tuple[float, float] | None = None
    why: str | None = None
    cost: float | None = None

    @property
    def smiles(self) -> str | None:
        """The label, under the name a molecule library gives it."""
        return self.label

    @property
    def measurement(self) -> Measurement | None:
        """The first outcome with its noise and censoring, None until measured."""
        return next(iter(self.values.values()), None)

    @property
    def place(self) -> Place:
        """Where it is measured."""
        return Place(self.index, self.x, self.label, self.key)
