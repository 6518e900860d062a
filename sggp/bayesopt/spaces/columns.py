"""Columns of a box: numbers between bounds, whole numbers, ordered levels, categories."""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor

from sggp.checks import finite_number, flag, whole_number
from sggp.errors import DtypeError, InputError

Cell: TypeAlias = float | int | str | bool
"""A value of a column as the user gives and sees it."""

_SHOWN = 8  # levels that a message lists


class Column(ABC):
    """One setting of an experiment: which values it may have, and how a model sees them.

    A model sees `size` coordinates between 0 and 1. The values of a column that is not continuous are also numbered,
    from 0 to `count` - 1.
    """

    kind: ClassVar[str]
    unit: str

    @property
    def size(self) -> int:
        """Number of coordinates in the model."""
        return 1

    @property
    @abstractmethod
    def count(self) -> float:
        """How many different values there are, perhaps infinity."""

    @abstractmethod
    def cell(self, value: Any, name: str) -> Cell:
        """The user's value for the column `name` as Python has it.

        Raises:
            InputError: it is none of this column.
        """

    @abstractmethod
    def encode(self, cells: Sequence[Any]) -> Tensor:
        """(n, size) float64 coordinates of n checked values."""

    @abstractmethod
    def decode(self, codes: Tensor) -> list[Cell]:
        """n values from (n, size) coordinates."""

    def in_unit(self, unit: str) -> Column:
        """The same column, measured in this."""
        return type(self)(**{f.name: getattr(self, f.name) for f in fields(self)} | {"unit": unit})  # type: ignore[arg-type]

    def describe(self) -> dict[str, Any]:
        """Everything about it, as JSON; `column_from` makes it again."""
        told = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return {"kind": self.kind} | {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in told.items()
            if value != "" and value is not False
        }


class Numbered(Column):
    """A column of finitely many values, by their numbers."""

    @abstractmethod
    def codes(self, numbers: Tensor) -> Tensor:
        """(..., size) float64 coordinates of the values with these numbers (...)."""

    def numbers(self, codes: Tensor) -> Tensor:
        """(...) int64 numbers of the values nearest to coordinates (..., size)."""
        return (codes[..., 0].clamp(0.0, 1.0) * (self.count - 1)).round().long()

    @property
    def ordered(self) -> bool:
        """Whether neighbouring numbers are similar values."""
        return True


@dataclass(frozen=True)
class Continuous(Column):
    """Every number from `low` to `high`.

    Args:
        low, high: the bounds, finite, low < high.
        log: whether equal ratios count as equal steps; the bounds are positive then.
        unit: what the numbers are measured in.

    Example:
        >>> Continuous(1e-4, 1.0, log=True, unit="mol/L").encode([1.0]).tolist()
        [[1.0]]
    """

    kind: ClassVar[str] = "continuous"
    low: float
    high: float
    log: bool = False
    unit: str = ""

    def __post_init__(self) -> None:
        _check_bounds(self, *(finite_number(getattr(self, end), f"{end} of a column") for end in _ENDS))
        if flag(self.log, "log") and self.low <= 0:
            raise InputError(f"a column on a log scale needs positive bounds, got {self.low} to {self.high}.")

    @property
    def count(self) -> float:
        return math.inf

    def cell(self, value: Any, name: str) -> float:
        number = finite_number(value, f"column {name!r}")
        if not self.low <= number <= self.high:
            raise InputError(_outside(self, name, number))
        return number

    def encode(self, cells: Sequence[Any]) -> Tensor:
        values = torch.as_tensor(cells, dtype=torch.float64)
        low, high = self.low, self.high
        if self.log:
            values, low, high = values.log(), math.log(low), math.log(high)
        return ((values - low) / (high - low))[:, None]

    def decode(self, codes: Tensor) -> list[Cell]:
        share = codes.to(torch.float64)[:, 0]
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            values = (low + share * (high - low)).exp()
        else:
            values = self.low + share * (self.high - self.low)
        return values.clamp(self.low, self.high).tolist()


@dataclass(frozen=True)
class Integer(Numbered):
    """Every whole number from `low` to `high`, both included; steps are equal in the model.

    Example:
        >>> Integer(1, 5).cell(3, "equivalents")
        3
    """

    kind: ClassVar[str] = "integer"
    low: int
    high: int
    unit: str = ""

    def __post_init__(self) -> None:
        ends = (whole_number(getattr(self, end), f"{end} of an Integer column", least=None) for end in _ENDS)
        _check_bounds(self, *ends)

    @property
    def count(self) -> int:
        return self.high - self.low + 1

    def cell(self, value: Any, name: str) -> int:
        number = finite_number(value, f"column {name!r}")
        if number != round(number):
            raise InputError(
                f"column {name!r} holds whole numbers from {self.low} to {self.high}, got {number}."
            )
        if not self.low <= number <= self.high:
            raise InputError(_outside(self, name, number))
        return round(number)

    def encode(self, cells: Sequence[Any]) -> Tensor:
        return self.codes(torch.as_tensor([cell - self.low for cell in cells]))

    def decode(self, codes: Tensor) -> list[Cell]:
        return [self.low + number for number in self.numbers(codes).tolist()]

    def codes(self, numbers: Tensor) -> Tensor:
        return (numbers.to(torch.float64) / (self.count - 1))[..., None]


@dataclass(frozen=True)
class Ordinal(Numbered):
    """Levels in their order, numbers or texts, which count as equally spaced.

    Example:
        >>> Ordinal([0.1, 0.5, 2.0]).encode([0.5]).tolist()
        [[0.5]]
    """

    kind: ClassVar[str] = "ordinal"
    levels: tuple[Cell, ...]
    unit: str = ""

    def __post_init__(self) -> None:
        levels = _levels(self)
        numbers = [level for level in levels if not isinstance(level, str)]
        if len(numbers) == len(levels) and sorted(numbers) not in (numbers, numbers[::-1]):
            raise InputError(f"the levels of an Ordinal column come in their order, got {_listed(levels)}.")

    @property
    def count(self) -> int:
        return len(self.levels)

    def cell(self, value: Any, name: str) -> Cell:
        return _level(self.levels, value, name)

    def encode(self, cells: Sequence[Any]) -> Tensor:
        return self.codes(_positions(self.levels, cells))

    def decode(self, codes: Tensor) -> list[Cell]:
        return [self.levels[number] for number in self.numbers(codes).tolist()]

    def codes(self, numbers: Tensor) -> Tensor:
        return (numbers.to(torch.float64) / (self.count - 1))[..., None]


@dataclass(frozen=True)
class Categorical(Numbered):
    """One of several levels without an order: texts, numbers or truth values.

    Two levels are one coordinate 0 or 1, more are one coordinate each, of which one is 1; they share a length scale.

    Example:
        >>> Categorical(["K2CO3", "Et3N", "DBU"]).encode(["Et3N"]).tolist()
        [[0.0, 1.0, 0.0]]
    """

    kind: ClassVar[str] = "categorical"
    levels: tuple[Cell, ...]
    unit: str = ""

    def __post_init__(self) -> None:
        _levels(self)

    @property
    def size(self) -> int:
        return 1 if len(self.levels) == 2 else len(self.levels)

    @property
    def count(self) -> int:
        return len(self.levels)

    @property
    def ordered(self) -> bool:
        return False

    def cell(self, value: Any, name: str) -> Cell:
        return _level(self.levels, value, name)

    def encode(self, cells: Sequence[Any]) -> Tensor:
        return self.codes(_positions(self.levels, cells))

    def decode(self, codes: Tensor) -> list[Cell]:
        return [self.levels[number] for number in self.numbers(codes).tolist()]

    def codes(self, numbers: Tensor) -> Tensor:
        if self.size == 1:
            return numbers.to(torch.float64)[..., None]
        return torch.nn.functional.one_hot(numbers.long(), self.count).to(torch.float64)

    def numbers(self, codes: Tensor) -> Tensor:
        return super().numbers(codes) if self.size == 1 else codes.argmax(dim=-1)


KINDS: dict[str, type[Column]] = {kind.kind: kind for kind in (Continuous, Integer, Ordinal, Categorical)}
_ENDS = ("low", "high")


def as_column(given: Any, name: str) -> Column:
    """A column, from itself, a pair of bounds, or a list of texts or truth values.

    Raises:
        DtypeError: none of these. InputError: a list of numbers, which may be bounds, steps or categories.
    """
    if isinstance(given, Column):
        return given
    ways = "Continuous(low, high), Integer(low, high), Ordinal([...]) or Categorical([...])"
    if isinstance(given, str) or not hasattr(given, "__len__") or isinstance(given, dict | set):
        raise DtypeError(
            f"column {name!r} must be (low, high), a list of categories, or {ways}; got {given!r:.60}."
        )
    cells = [_plain(cell) for cell in given]
    if cells and all(isinstance(cell, str | bool) for cell in cells):
        return Categorical(tuple(cells))
    if len(cells) == 2 and all(
        isinstance(cell, int | float) and not isinstance(cell, bool) for cell in cells
    ):
        try:
            return Continuous(*cells)
        except InputError as error:
            raise InputError(f"column {name!r}: {error}") from error
    raise InputError(
        f"column {name!r} is given as {cells!r:.80}: bounds are two numbers, categories are texts; else say {ways}."
    )


def column_from(description: Any, name: str) -> Column:
    """The column that `Column.describe` described.

    Raises:
        InputError: it describes none.
    """
    told = dict(description) if isinstance(description, dict) else {}
    kind = told.pop("kind", None)
    if kind not in KINDS:
        raise InputError(f"column {name!r} is described as {description!r:.80}, which is no column of a box.")
    try:
        return KINDS[kind](**told)
    except TypeError as error:
        raise InputError(f"column {name!r} is described as {description!r:.80}: {error}.") from error


def _plain(value: Any) -> Any:
    """A level or number as Python has it, not NumPy or PyTorch."""
    if isinstance(value, np.generic | Tensor) and getattr(value, "ndim", 0) == 0:
        return value.item()
    return value


def _check_bounds(column: Any, low: Any, high: Any) -> None:
    """Keep the bounds as plain numbers of which the first is below the second."""
    if not low < high:
        raise InputError(
            f"the lower bound must be below the upper one, got {low} and {high}; leave constants out."
        )
    if not math.isfinite(high - low) or (isinstance(low, int) and high - low >= 2**63 - 1):
        raise InputError(f"from {low} to {high} is more than a column can count: narrow the bounds.")
    object.__setattr__(column, "low", low)
    object.__setattr__(column, "high", high)


def _levels(column: Any) -> tuple[Cell, ...]:
    """Keep the levels as a tuple of at least two different texts, finite numbers or truth values."""
    kind, given = type(column).__name__, column.levels
    if isinstance(given, str) or not hasattr(given, "__iter__"):
        raise DtypeError(f"{kind} needs a list of levels, got {given!r:.60}.")
    levels = tuple(_plain(level) for level in given)
    for level in levels:
        if not isinstance(level, str):
            if not isinstance(level, bool):
                finite_number(level, f"a level of {kind}")
        elif not level.strip():
            raise InputError(f"{kind} has an empty level.")
    if len({(isinstance(level, bool), level) for level in levels}) < max(len(levels), 2):
        raise InputError(f"{kind} needs at least two levels, all different; got {_listed(levels)}.")
    object.__setattr__(column, "levels", levels)
    return levels


def _level(levels: Sequence[Cell], value: Any, name: str) -> Cell:
    given = _plain(value)
    for level in levels:
        if level == given and isinstance(level, bool) == isinstance(given, bool):
            return level
    close = difflib.get_close_matches(
        str(given).strip().lower(), [str(level).lower() for level in levels], 1, 0.6
    )
    meant = next(
        (f"; did you mean {level!r}?" for level in levels if close and str(level).lower() == close[0]), "."
    )
    raise InputError(f"column {name!r} holds one of {_listed(levels)}; got {given!r:.60}{meant}")


def _positions(levels: Sequence[Cell], cells: Sequence[Any]) -> Tensor:
    number = {(isinstance(level, bool), level): i for i, level in enumerate(levels)}
    return torch.tensor([number[isinstance(cell, bool), cell] for cell in cells], dtype=torch.long)


def _outside(column: Any, name: str, value: float) -> str:
    unit = f" {column.unit}" if column.unit else ""
    return f"column {name!r} is {value:g}{unit}, outside its bounds {column.low:g} to {column.high:g}{unit}."


def _listed(levels: Sequence[Any]) -> str:
    more = f", ... ({len(levels)} in all)" if len(levels) > _SHOWN else ""
    return ", ".join(map(repr, levels[:_SHOWN])) + more
