"""Which columns of a table a model learns from, and their cells."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from sggp.cli.console import say, stderr
from sggp.cli.molecules.tables import Reject, check_columns, write_rejects
from sggp.errors import DataFileError, InputError
from sggp.estimator.columns import too_many_levels
from sggp.molecules.files import DataTable, is_missing, read_numbers
from sggp.molecules.files.columns import counts_rows
from sggp.molecules.files.measured import measured_numbers
from sggp.molecules.files.numbers import bound_reason
from sggp.posterior.merge import group_rows

_COUNTED = re.compile(r"[^\w\s]*\s*\d")  # a digit, behind a sign or that of a currency at most
_NUMBERS = 0.5  # share of the filled cells that are numbers from which on a column is one of numbers


def choose_inputs(
    table: DataTable, target: str, features: str | None
) -> tuple[list[str], list[str], dict[str, str]]:
    """The input columns; those of them that are text and thus categories; and what is not used, with the reason.

    Those named; or every column but the target and those that can tell nothing: empty ones, text that is the same in
    every row, and text with too many different values for a category (`too_many_levels`), of which the reason is given.

    Args:
        features: names, comma separated, or None.
    """
    asked = None if features is None else [name.strip() for name in features.split(",") if name.strip()]
    check_columns(table, [target, *(asked or [])])
    if asked is not None:
        if target in asked:
            raise InputError(f"the target {target!r} cannot be one of --features.")
        if not asked:
            raise InputError("--features names no column.")
        texts = [name for name in asked if is_text(table.columns[name])]
        for name in texts:
            if reason := _too_many(table.columns[name]):
                raise InputError(f"column {name!r} of --features is no category: {reason}. Leave it out.")
        return asked, texts, {}
    names, unused = [], dict[str, str]()
    for name in (name for name in table.header if name != target):
        reason = _useless(name, table.columns[name])
        if reason is None:
            names.append(name)
        else:
            unused[name] = reason
    if not names:
        raise DataFileError(f"{table.path}: no column to learn from beside the target {target!r}.")
    return names, [name for name in names if is_text(table.columns[name])], unused


def say_unused(unused: Mapping[str, str]) -> None:
    """Tell on stderr which columns are not used, and why."""
    if unused:
        listed = ", ".join(f"{name} ({reason})" for name, reason in unused.items())
        stderr().print(f"not used: {listed}")


def used_lines(table: DataTable, rejects: Iterable[Reject]) -> list[int]:
    """Lines of the rows that were used."""
    bad = {reject.line for reject in rejects}
    return [int(line) for line in table.lines if int(line) not in bad]


def copied_rows(inputs: np.ndarray, y: np.ndarray) -> list[str]:  # (n, d), (n,)
    """A note on rows that stand there again, in inputs and target, where more than half of all do."""
    copies = len(y) - len(group_rows(torch.from_numpy(np.column_stack([inputs, y]))).first)
    if copies <= len(y) // 2:
        return []
    return [
        f"{copies} of {len(y)} rows are copies of others, in inputs and target, and count as measurements of their "
        "own; if they are none, delete them: they make the noise look small"
    ]


def is_text(cells: list[str]) -> bool:
    """Whether fewer than half of the cells that hold something are numbers."""
    filled = [cell for cell in cells if not is_missing(cell)]
    return len(read_numbers(filled).reasons) > (1 - _NUMBERS) * len(filled)


def read_cells(
    table: DataTable,
    names: list[str],
    categories: Mapping[str, Collection[str] | None],
    rejected: Path,
    target: str | None = None,
) -> tuple[np.ndarray, list[Reject]]:
    """The complete rows, (m, len(names)), and the rows left out, written to `rejected`.

    Args:
        names: columns. categories: those of them that are text, with the levels that are known, None for any.
        target: that of them which was measured, beside a column of relations perhaps.

    Returns:
        float64, or objects where there are categories.
    """
    check_columns(table, names)
    file = table.path.name
    rejects = [Reject(file, r.line, r.reason, r.content) for r in table.rejected]
    columns: list[np.ndarray] = []
    reasons: dict[int, str] = {}
    for name in names:
        cells = table.columns[name]
        if name in categories:
            values, bad = _levels(cells, categories[name])
        else:
            values, bad = _numbers(table, name, measured=name == target)
        columns.append(values)
        for position, reason in bad.items():
            reasons.setdefault(position, f"{name}: {reason}")
    for position, reason in reasons.items():
        content = ",".join(column[position] for column in table.columns.values())
        rejects.append(Reject(file, int(table.lines[int(table.rows[position])]), reason, content))
    keep = [i for i in range(len(table)) if i not in reasons]
    write_rejects(rejected, rejects)
    if not keep:
        raise DataFileError(f"{table.path}: no row is complete; {len(rejects)} unused rows in {rejected}.")
    return np.stack(columns, axis=1)[keep], rejects


def _numbers(table: DataTable, name: str, *, measured: bool) -> tuple[np.ndarray, dict[int, str]]:
    """The numbers of a column, and the reason for each cell that holds none, or a bound."""
    found = measured_numbers(table, name, units=False, errors=False) if measured else table.numbers(name)
    say(table.path.name, table.said(name, found))
    bounds = {i: bound_reason(table.columns[name][i]) for i, side in enumerate(found.censored) if side}
    if bounds:
        first = min(bounds)
        words = (
            f"{len(bounds)} cells are bounds, as {table.columns[name][first]!r} in line {table.line(first)}"
        )
        say(table.path.name, [f"column {name!r}: {words}; their rows are not used"])
    return found.values, {**found.reasons, **bounds}


def _useless(name: str, cells: list[str]) -> str | None:
    """Why a column is not worth learning from; None where it is."""
    levels = {cell for cell in cells if cell.strip()}
    if name.startswith("unnamed ") and counts_rows(cells):
        return "row numbers"
    if not levels:
        return "no value"
    if not is_text(cells):
        return None
    if len(levels) == 1:
        return "the same text in every row"
    return _too_many(cells)


def _too_many(cells: list[str]) -> str | None:
    filled = [cell for cell in cells if cell.strip()]
    levels = len(set(filled))
    reason = too_many_levels(levels, len(filled))
    if reason is None:
        return None
    counted = sum(_COUNTED.match(cell) is not None for cell in filled) > _NUMBERS * len(filled)
    hint = (
        f"; if these are numbers or dates, as {filled[0]!r}, write them as plain numbers" if counted else ""
    )
    return f"text, {levels} different values: {reason}{hint}"


def _levels(cells: list[str], known: Collection[str] | None) -> tuple[np.ndarray, dict[int, str]]:
    """Cells of a category as objects, and the reason for each that cannot be used."""
    reasons = {}
    for i, cell in enumerate(cells):
        if not cell.strip():
            reasons[i] = "no value"
        elif known is not None and cell not in known:
            reasons[i] = f"{cell!r} was not in the training table"
    return np.array(cells, dtype=object), reasons
