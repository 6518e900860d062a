"""Which columns of a table a model learns from, and their cells."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from sggp.cli.console import say, stderr
from sggp.cli.molecules.tables import Reject, check_columns, error_column, told_errors, write_rejects
from sggp.errors import DataFileError, InputError
from sggp.estimator.columns import too_many_levels
from sggp.molecules.files import DataTable, is_missing, read_numbers
from sggp.molecules.files.columns import counts_rows
from sggp.molecules.files.measured import bound_text, measured_numbers, relations_beside
from sggp.molecules.files.numbers import bound_reason
from sggp.posterior.merge import group_rows

_COUNTED = re.compile(r"[^\w\s]*\s*\d")  # a digit, behind a sign or that of a currency at most
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
_REASONS = 6
_TRUTH = ("true", "false")
_NUMBERS = 0.5  # share of the filled cells that are numbers from which on a column is one of numbers


def choose_inputs(
    table: DataTable, target: str, features: str | None
) -> tuple[list[str], list[str], dict[str, str]]:
    """The input columns; those of them that are text and thus categories; and what is not used, with the reason.

    Those named; or every column but the target and those that can tell nothing: empty ones, text that is the same in
    every row, text with too many different values for a category (`too_many_levels`), and columns that say which
    targets are bounds, or their standard errors.

    Args:
        features: names, comma separated, or None.
    """
    asked = None if features is None else _listed(features, target)
    check_columns(table, [target, *(asked or [])])
    if asked is not None:
        texts = [name for name in asked if is_text(table.columns[name])]
        for name in texts:
            if reason := _too_many(table.columns[name]):
                raise InputError(f"column {name!r} of --features is no category: {reason}. Leave it out.")
        return asked, texts, {}
    names, unused = [], dict[str, str]()
    bounds, errors = relations_beside(table.columns, target), error_column(table, target)
    for name in (name for name in table.header if name != target):
        reason = _useless(name, table.columns[name])
        if name == bounds:
            reason = f"says which values of {target} are bounds"
        elif name == errors:
            reason = f"standard errors of {target}"
        if reason is None:
            names.append(name)
        else:
            unused[name] = reason
    if not names:
        why = f": not used are {_with_reasons(unused)}" if unused else ""
        raise DataFileError(f"{table.path}: no column to learn from beside the target {target!r}{why}.")
    return names, [name for name in names if is_text(table.columns[name])], unused


def say_unused(unused: Mapping[str, str]) -> None:
    """Tell on stderr which columns are not used, and why."""
    if unused:
        stderr().print(f"not used: {_with_reasons(unused)}")


def say_doubtful(table: DataTable, categories: Iterable[str]) -> None:
    """Tell which categories look like numbers or dates, and which cells of them like no value."""
    for name in categories:
        filled = [cell for cell in table.columns[name] if cell.strip()]
        if _counted(filled):
            words = (
                f"column {name!r} is taken for categories; if these are numbers or dates, as {filled[0]!r}"
            )
            say(table.path.name, [f"{words}, write them as plain numbers"])
        if missing := sorted({cell for cell in filled if is_missing(cell)}):
            listed = " and ".join(map(repr, missing))
            counts = "is a category" if len(missing) == 1 else "are categories"
            text = f"column {name!r}: {listed} {counts} here; a missing value is an empty cell"
            say(table.path.name, [text])


@dataclass
class Unused:
    """Rows that are not used, by reason, to be told.

    Attributes:
        rows: how many. first: that of the first. kinds: how many rows by reason, without the cells in it; examples: the
            first reason of each kind, with the cell.
    """

    rows: int = 0
    first: str = ""
    kinds: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, rejects: Iterable[Reject]) -> Unused:
        """The same with further rows."""
        for reject in sorted(rejects, key=lambda one: one.line):
            self.first = self.first or f"the first in line {reject.line} ({reject.reason})"
            kind = _QUOTED.sub("…", reject.reason).removesuffix(": …")
            self.kinds[kind] += 1
            self.examples.setdefault(kind, reject.reason)
            self.rows += 1
        return self

    def reasons(self) -> str:
        """The reasons, the most frequent first, with their rows."""
        most = self.kinds.most_common()
        told = [(self.examples[kind] if count == 1 else kind, count) for kind, count in most[:_REASONS]]
        rest = sum(count for _, count in most[_REASONS:])
        others = [f"others ({rest})"] if rest else []
        return "; ".join([f"{reason} ({count})" for reason, count in told] + others)

    def told(self, rejected: Path, used: int) -> str:
        """How many rows beside the `used` ones are listed in the file `rejected`, and why."""
        return self.listed(rejected) + ("; that is most of the table" if self.rows > used else "")

    def listed(self, rejected: Path) -> str:
        """How many rows are listed in the file `rejected`, and why."""
        text = f"{self.rows} unused rows in {rejected}"
        if self.rows:
            text += f", {self.first}"
        if len(self.kinds) > 1:
            text += f"; by reason: {self.reasons()}"
        elif self.rows > 1:
            text += ", all for this reason"
        return text


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
) -> tuple[np.ndarray, list[Reject], np.ndarray | None]:
    """The complete rows, (m, len(names)), the rows left out, written to `rejected`, and standard errors.

    Args:
        names: columns. categories: those of them that are text, with the levels that are known, None for any.
        target: that of them which was measured, beside a column of relations perhaps.

    Returns:
        float64, or objects where there are categories; (m,) standard errors of the target, NaN where none is told, or
        None where none is at all.
    """
    check_columns(table, names)
    file = table.path.name
    rejects = [Reject(file, r.line, r.reason, r.content) for r in table.rejected]
    columns: list[np.ndarray] = []
    reasons, errors = dict[int, str](), dict[int, float]()
    for name in names:
        cells = table.columns[name]
        if name in categories:
            values, bad = _levels(cells, categories[name])
        else:
            values, bad, told = _numbers(table, name, measured=name == target)
            errors.update(told)
            if name == target:
                bad = {**_errors_beside(table, target, names, errors), **bad}
        columns.append(values)
        for position, reason in bad.items():
            reasons.setdefault(position, f"{name}: {reason}")
    for position, reason in reasons.items():
        content = ",".join(column[position] for column in table.columns.values())
        rejects.append(Reject(file, int(table.lines[int(table.rows[position])]), reason, content))
    keep = [i for i in range(len(table)) if i not in reasons]
    write_rejects(rejected, rejects)
    if not keep:
        raise DataFileError(f"{table.path}: no row is complete; {Unused().add(rejects).listed(rejected)}.")
    spread = np.array([errors.get(i, np.nan) for i in keep])
    return np.stack(columns, axis=1)[keep], rejects, None if np.isnan(spread).all() else spread


def _numbers(
    table: DataTable, name: str, *, measured: bool
) -> tuple[np.ndarray, dict[int, str], Mapping[int, float]]:
    """The numbers of a column, the reason for each cell that holds none, or a bound, and standard errors."""
    found = measured_numbers(table, name, units=False) if measured else table.numbers(name)
    say(table.path.name, table.said(name, found))
    cells = {i: bound_text(table.columns[name][i], side) for i, side in enumerate(found.censored) if side}
    if cells:
        first = min(cells)
        words = f"{len(cells)} cells are bounds, as {cells[first]!r} in line {table.line(first)}"
        say(table.path.name, [f"column {name!r}: {words}; their rows are not used"])
    bounds = {i: bound_reason(cell) for i, cell in cells.items()}
    return found.values, {**found.reasons, **bounds}, found.errors


def _errors_beside(
    table: DataTable, target: str, names: list[str], errors: dict[int, float]
) -> dict[int, str]:
    """Add to `errors` what a column beside the target tells, unless it is an input; what is no standard error."""
    column = error_column(table, target)
    if column is None or column in names:
        return {}
    told, wrong = told_errors(table, target)[1], dict[int, str]()
    for position, error in told.items():
        if error < 0:
            wrong[position] = f"its standard error in {column} is a number of at least 0, got {error:g}"
        else:
            errors.setdefault(position, error)
    if told:
        say(table.path.name, [f"standard errors of {len(told)} values from column {column!r}"])
    return wrong


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
    hint = f"; if these are numbers or dates, as {filled[0]!r}, write them as plain numbers"
    return f"text, {levels} different values: {reason}{hint if _counted(filled) else ''}"


def _counted(filled: list[str]) -> bool:
    """Whether most cells begin with a digit, as dates and numbers with a unit do."""
    return sum(_COUNTED.match(cell) is not None for cell in filled) > _NUMBERS * len(filled)


def _with_reasons(unused: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({reason})" for name, reason in unused.items())


def _listed(features: str, target: str) -> list[str]:
    """The names in `--features`: comma separated, those with a comma in quotes, as in a line of CSV."""
    names = [name.strip() for line in csv.reader([features], skipinitialspace=True) for name in line]
    names = [name for name in names if name]
    if target in names:
        raise InputError(f"the target {target!r} cannot be one of --features.")
    if not names:
        raise InputError("--features names no column.")
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"--features names {twice!r} twice: name each column once.")
    return names


def _levels(cells: list[str], known: Collection[str] | None) -> tuple[np.ndarray, dict[int, str]]:
    """Cells of a category as objects, and the reason for each that cannot be used."""
    reasons, found = {}, list(cells)
    alike = {level.casefold(): level for level in known or () if level.casefold() in _TRUTH}
    for i, cell in enumerate(cells):
        if not cell.strip():
            reasons[i] = "no value"
        elif known is not None and cell not in known:
            if cell.casefold() in alike:  # as programs write truth values: True, TRUE, true
                found[i] = alike[cell.casefold()]
            else:
                reasons[i] = f"{cell!r} was not in the training table"
    return np.array(found, dtype=object), reasons
