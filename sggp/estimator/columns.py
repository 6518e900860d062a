"""Columns of a table as numbers: categories as codes with length scales of their own, missing cells filled in."""

from __future__ import annotations

import numbers
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sggp.checks import one_of
from sggp.errors import DtypeError, InputError

MISSING = ("refuse", "median")
FEW_LEVELS, MANY_LEVELS = 10, 100
_SHOWN = 5  # columns, rows and levels that a message lists


@dataclass(frozen=True)
class Column:
    """How one column of a table becomes numbers.

    Attributes:
        name: the column's name, or its position where it has none.
        levels: the values seen in training, sorted, and None last where a missing cell is one of them; None for a
            column of numbers.
        fill: what a missing cell counts as; None where it is refused.
        indicator: whether a 0/1 column that says where cells are missing follows.
    """

    name: Any
    levels: tuple[Any, ...] | None = None
    fill: Any = None
    indicator: bool = False

    @property
    def names(self) -> list[Any]:
        """Names of its numbers: that of the column, "column=level", "column=missing"."""
        if self.levels is None:
            return [self.name] + [f"{self.name}=missing"] * self.indicator
        shown = ["missing" if level is None else str(level) for level in self.levels]
        if len(shown) <= 2:
            return [f"{self.name}={shown[-1]}"]
        return [f"{self.name}={level}" for level in shown]

    def encode(self, cells: np.ndarray) -> np.ndarray:  # (q,) -> (q, k)
        """Numbers of some cells, float64."""
        if self.levels is None:
            return self._numbers(cells)
        codes = {level: i for i, level in enumerate(self.levels)}
        fill = None if None in codes else self.fill
        words = {level.casefold(): level for level in codes if isinstance(level, str)}
        levels = [
            fill if gap else _as_word(_plain(cell), words)
            for cell, gap in zip(cells, missing(cells), strict=True)
        ]
        unknown: dict[Any, int] = {}
        for row, level in enumerate(levels):
            if level not in codes:
                unknown.setdefault(level, row)
        if unknown:
            listed = ", ".join(f"{level!r} (row {row})" for level, row in list(unknown.items())[:_SHOWN])
            raise InputError(
                f"column {self.name!r} holds levels that were not in the training rows: {listed}"
                f"{', ...' if len(unknown) > _SHOWN else ''}. Known are {listing(self.levels)}: train with rows of "
                "the new levels, or leave these rows out."
            )
        positions = np.array([codes[level] for level in levels], dtype=int)
        if len(codes) <= 2:
            return (positions[:, None] == 1).astype(float)
        return (positions[:, None] == np.arange(len(codes))).astype(float)

    def _numbers(self, cells: np.ndarray) -> np.ndarray:
        gap = missing(cells)
        if cells.dtype.kind not in "iufb":
            row = next((i for i, cell in enumerate(cells) if _cell_kind(cell) == "level"), None)
            if row is not None:
                raise InputError(
                    f"column {self.name!r} held numbers in training; row {row} holds {cells[row]!r}: correct it, or "
                    "train with the column as text."
                )
            _kind(self.name, cells, gap)  # which refuses whatever else is no number
        values = _floats(cells, gap)
        values = np.where(gap, np.nan if self.fill is None else self.fill, values)
        return np.stack([values, gap], axis=1) if self.indicator else values[:, None]


class TableEncoder:
    """A table of numbers, booleans and categories as float64 numbers: fitted to training rows, applied to any others.

    Numbers stay. A boolean, or a category of two levels, becomes one 0/1 column; a category of k > 2 levels becomes k
    of them, one per level. Categories are text, and columns of pandas' or polars' categorical types whatever they hold.
    Text is never read as numbers.

    With missing="median" a missing number becomes the median of the training rows, and a 0/1 column tells where cells
    are missing, if any were in training (one for all columns that miss the same rows); a missing category is a level of
    its own if any was missing in training, the most frequent level if none.

    Args:
        missing: "refuse" or "median": what becomes of missing cells (NaN, None, pandas.NA).

    Attributes:
        columns: one `Column` per column of the table.
    """

    def __init__(self, missing: str = "refuse") -> None:
        self.missing = one_of(missing, "missing", MISSING)
        self.columns: list[Column] = []

    @classmethod
    def of_numbers(cls, names: Sequence[Any]) -> TableEncoder:
        """For rows beside training rows that were a table of numbers."""
        encoder = cls()
        encoder.columns = [Column(name) for name in names]
        return encoder

    @property
    def names(self) -> list[Any]:
        """Names of the encoded columns: "column", "column=level", or "column=missing"."""
        return [name for column in self.columns for name in column.names]

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Encoded columns that are codes: those of one column of the table together."""
        out: list[tuple[int, ...]] = []
        start = 0
        for column in self.columns:
            end = start + len(column.names)
            codes = tuple(range(start if column.levels is not None else start + 1, end))
            out += [codes] if codes else []
            start = end
        return tuple(out)

    def fit_transform(self, table: Any) -> np.ndarray:  # (n, d) -> (n, d')
        """Learn the levels and medians of training rows, and encode them.

        Raises:
            InputError: missing cells where they are refused, by row and column; a column without any value, of numbers
                mixed with text, or of too many levels (`refuse_ids`).
            DtypeError: cells that are neither numbers nor text nor truth values.
        """
        names, columns, categorical = read_columns(table)
        gaps = [missing(cells) for cells in columns]
        if self.missing == "refuse":
            refuse_missing(names, gaps)
        seen: set[bytes] = set()
        self.columns = []
        for name, cells, gap, declared in zip(names, columns, gaps, categorical, strict=True):
            column = _learnt(name, cells, gap, declared, fill=self.missing == "median")
            if column.indicator and (pattern := gap.tobytes()) in seen:
                column = Column(name, None, column.fill)
            elif column.indicator:
                seen.add(pattern)
            self.columns.append(column)
        return self._encoded(columns)

    def transform(self, table: Any) -> np.ndarray:  # (q, d) -> (q, d')
        """Encode rows as those of the training table.

        Raises:
            InputError: a level that was not in training, a missing cell where they are refused, text in a column of
                numbers, another number of columns.
        """
        names, columns, _ = read_columns(table)
        if len(columns) != len(self.columns):
            raise InputError(
                f"the table has {len(columns)} columns; the encoder expects {len(self.columns)}."
            )
        if self.missing == "refuse":
            refuse_missing([column.name for column in self.columns], [missing(cells) for cells in columns])
        return self._encoded(columns)

    def _encoded(self, columns: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(
            [column.encode(cells) for column, cells in zip(self.columns, columns, strict=True)], axis=1
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as text, numbers and lists, for a file."""
        return {"missing": self.missing, "columns": [asdict(column) for column in self.columns]}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> TableEncoder:
        """What `to_dict` gave, also after JSON."""
        encoder = cls(saved["missing"])
        for entry in saved["columns"]:
            levels = entry["levels"]
            encoder.columns.append(Column(**{**entry, "levels": None if levels is None else tuple(levels)}))
        return encoder


def is_frame(table: Any) -> bool:
    """Whether it has columns of different types, as in pandas and polars."""
    return hasattr(table, "columns") and (hasattr(table, "iloc") or hasattr(table, "get_column"))


def read_columns(table: Any) -> tuple[list[Any], list[np.ndarray], list[bool]]:
    """Names (or positions), cells (n,) and whether its type is a categorical one, of every column."""
    if hasattr(table, "column_names") and hasattr(table, "to_batches"):  # of Arrow
        names = list(table.column_names)
        parts = [table.column(position) for position in range(len(names))]
        kinds = [str(part.type).startswith("dictionary") for part in parts]
        return names, [np.asarray(part) for part in parts], kinds
    if not is_frame(table):
        array = np.asarray(table)
        if array.dtype.kind in "US" and not isinstance(table, np.ndarray):
            array = np.asarray(table, dtype=object)  # as it was: NumPy writes numbers beside text as text
        return list(range(array.shape[1])), list(array.T), [False] * array.shape[1]
    names = list(table.columns)
    series = [
        table.iloc[:, j] if hasattr(table, "iloc") else table.get_column(name) for j, name in enumerate(names)
    ]
    kinds = [str(s.dtype).lower().startswith(("category", "categorical", "enum")) for s in series]
    return names, [np.asarray(s) for s in series], kinds


def missing(cells: np.ndarray) -> np.ndarray:  # (n,) -> (n,) bool
    """Which cells are NaN, None, NaT or pandas.NA."""
    if cells.dtype.kind == "f":
        return np.isnan(cells)
    if cells.dtype.kind != "O":
        return np.zeros(len(cells), dtype=bool)
    return np.fromiter((_is_missing(cell) for cell in cells), dtype=bool, count=len(cells))


def refuse_missing(names: Sequence[Any], gaps: Sequence[np.ndarray], policy: str = "refuse") -> None:
    """Refuse a table with missing cells.

    Args:
        names: of the columns. gaps: (n,) bool of each, where its cells are missing.
        policy: what the user chose; bytes and truth values of an array are not filled in.
    """
    found = [(name, np.flatnonzero(gap)) for name, gap in zip(names, gaps, strict=True) if gap.any()]
    if not found:
        return
    listed = ", ".join(f"{name!r} ({listing(rows.tolist(), 'row')})" for name, rows in found[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more columns" if len(found) > _SHOWN else ""
    advice = (
        'Set missing="median" to have them filled in (medians and a column that tells where), or leave such rows out.'
        if policy == "refuse"
        else "The training rows were bytes or truth values, which are not filled in: leave such rows out."
    )
    raise InputError(
        f"X contains NaN or other missing cells, {sum(len(rows) for _, rows in found)} in all, in column "
        f"{listed}{more}. {advice}"
    )


def as_numbers(y: Any) -> Any:
    """Targets of any type as numbers, missing ones as NaN; what has no rows or is complex as it is.

    Text is read as Python's `float` reads it.

    Raises:
        DtypeError: times, or cells of another type than numbers. InputError: text that is no number.
    """
    values = np.asarray(y)
    if values.ndim not in (1, 2) or values.dtype.kind in "iufbc":
        return y
    if values.dtype.kind in "mM":
        raise DtypeError("y holds times: convert them to numbers, such as days since the first, beforehand.")
    cells = values.reshape(-1)
    gaps = missing(cells)
    out = np.full(cells.shape, np.nan)
    for place in np.flatnonzero(~gaps).tolist():
        try:
            out[place] = cells[place]
        except (TypeError, ValueError) as error:
            row = place // (values.size // len(values))
            kind = InputError if isinstance(cells[place], str | bytes) else DtypeError
            raise kind(
                f"y holds {cells[place]!r} ({type(cells[place]).__name__}) in row {row}, which is no number: correct "
                "it, or leave the row out."
            ) from error
    return out.reshape(values.shape)


def too_many_levels(levels: int, rows: int) -> str | None:
    """Why a column of so many levels in so many rows is no category; None where it is one.

    Every row its own level (of three rows or more); more than 10 levels of fewer than two rows each on average; or more
    than 100 levels.
    """
    if levels > 2 and levels == rows:
        return "every row has its own, as ids do"
    if levels > FEW_LEVELS and 2 * levels > rows:
        return "fewer than two rows each, as ids have"
    return f"more than {MANY_LEVELS}" if levels > MANY_LEVELS else None


def _learnt(name: Any, cells: np.ndarray, gap: np.ndarray, declared: bool, *, fill: bool) -> Column:
    """What to do with a column from now on."""
    present = cells[~gap]
    if not len(present):
        raise InputError(f"column {name!r} holds no value at all: drop it.")
    kind, values = ("level", present) if declared else _kind(name, cells, gap)
    if kind == "number":
        if not fill:
            return Column(name)
        return Column(name, None, float(np.median(values[~gap])), bool(gap.any()))
    counts = Counter(_plain(cell) for cell in present)
    reason = too_many_levels(len(counts), len(cells))
    if reason is not None:
        raise InputError(
            f"column {name!r} holds {len(counts)} different values in {len(cells)} rows ({reason}): too many for a "
            "category. Drop it; group its rare values; or, if it is a number or a time, convert it to numbers."
        )
    levels = (False, True) if kind == "flag" else tuple(_sorted(counts))
    most = max(levels, key=lambda level: counts[level])
    return Column(name, (*levels, None) if gap.any() else levels, most if fill else None)


def _kind(name: Any, cells: np.ndarray, gap: np.ndarray) -> tuple[str, np.ndarray]:
    """Whether cells that are no categories by type are numbers, flags or levels; with the numbers as float64."""
    if cells.dtype.kind in "iuf":
        return "number", _floats(cells, gap)
    if cells.dtype.kind == "b":
        return "flag", cells
    if cells.dtype.kind in "US":
        return "level", cells
    if cells.dtype.kind in "mM":
        raise DtypeError(
            f"column {name!r} holds times: convert it to numbers, such as days since its first, beforehand."
        )
    first: dict[str, int] = {}
    for place in np.flatnonzero(~gap).tolist():
        first.setdefault(_cell_kind(cells[place]), place)
    if "other" in first:
        row = first["other"]
        raise DtypeError(
            f"column {name!r} holds a {type(cells[row]).__name__} in row {row}: every argument must be a string or a "
            "number (or a truth value); convert or drop the column."
        )
    if "level" in first and len(first) > 1:
        row, other = first.pop("level"), next(iter(first.values()))
        raise InputError(
            f"column {name!r} mixes text ({cells[row]!r} in row {row}) with numbers ({cells[other]!r} in row {other}): "
            "make it numbers, with NaN for what is missing, or text throughout."
        )
    if set(first) == {"flag"}:
        return "flag", cells
    if "level" in first:
        return "level", cells
    return "number", _floats(cells, gap)


def _floats(cells: np.ndarray, gap: np.ndarray) -> np.ndarray:  # (n,) -> (n,) float64
    if cells.dtype.kind != "O":
        return cells.astype(float)
    return np.array([np.nan if g else float(cell) for cell, g in zip(cells, gap, strict=True)])


def _cell_kind(cell: Any) -> str:
    if isinstance(cell, bool | np.bool_):
        return "flag"
    if isinstance(cell, str | bytes):
        return "level"
    return "number" if isinstance(cell, numbers.Real) or type(cell).__name__ == "Decimal" else "other"


def _is_missing(cell: Any) -> bool:
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(cell, float | np.floating) and bool(cell != cell)


def _plain(cell: Any) -> Any:
    """A level as Python has it: files and messages know no NumPy types."""
    return cell.item() if isinstance(cell, np.generic) else cell


def _as_word(cell: Any, words: dict[str, Any]) -> Any:
    """A truth value by the level that is its word, where a table of text was learnt from, as by `sggp fit`."""
    return words.get(str(cell).casefold(), cell) if isinstance(cell, bool) else cell


def _sorted(levels: Any) -> list[Any]:
    try:
        return sorted(levels)
    except TypeError:
        return sorted(levels, key=str)


def listing(values: Sequence[Any], what: str = "") -> str:
    """Values as text, the first five of many."""
    shown = ", ".join("missing" if value is None else repr(value) for value in values[:_SHOWN])
    if what:
        shown = f"{what}{'s' if len(values) > 1 else ''} {shown}"
    return shown if len(values) <= _SHOWN else f"{shown}, ... ({len(values)} in all)"
