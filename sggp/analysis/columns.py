"""Columns of a table: their names, and which of them belong together."""

from __future__ import annotations

from collections.abc import Sequence

from sggp.errors import ShapeError

Groups = Sequence[Sequence[int]]


def named_columns(names: Sequence[object] | None, columns: int) -> tuple[str, ...]:
    """Names as text; positions as x0, x1, … where there are none, or where they are numbers.

    Raises:
        ShapeError: not one name for each column.
    """
    names = range(columns) if names is None else names
    if len(names) != columns:
        raise ShapeError(f"expected {columns} names, one for each column, got {len(names)}.")
    return tuple(f"x{name}" if isinstance(name, int) else str(name) for name in names)


def grouped(groups: Groups | None, columns: int) -> list[list[int]]:
    """Groups of columns as lists; each column by itself where there are none.

    Raises:
        ShapeError: a position that is no column, an empty group, or a column in two of them.
    """
    if groups is None:
        return [[column] for column in range(columns)]
    try:
        found = [list(group) for group in groups]
    except TypeError as error:
        raise ShapeError(
            f"groups must be lists of positions, as in [[0, 1], [2]], got {groups!r}."
        ) from error
    members = [column for group in found for column in group]
    if not all(found) or len(set(members)) < len(members) or not set(members) <= set(range(columns)):
        raise ShapeError(f"groups must hold positions below {columns}, each once at most, got {found}.")
    return found
