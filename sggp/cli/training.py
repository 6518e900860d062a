"""The rows that `sggp fit` learns from: as text from small tables, as numbers by blocks from large ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.base import clone

from sggp.cli.console import say
from sggp.cli.inputs import choose_inputs, read_cells, say_doubtful, say_unused, used_lines
from sggp.cli.molecules.tables import Reject, error_column, write_rejects
from sggp.estimator import GPRegressor
from sggp.molecules.files import DataTable, read_table
from sggp.molecules.files.measured import relations_beside, tells_error
from sggp.molecules.files.numeric import NumberFile, open_numbers
from sggp.molecules.files.numeric.matrix import Matrix, gather
from sggp.molecules.files.numeric.source import HEAD

_ALONE = 20  # rows without a standard error from which on their noise is learnt from them alone
_FIRST = 0.25  # of the seconds of a fit, for that


@dataclass(frozen=True)
class Training:
    """The complete rows of a table.

    Attributes:
        names, categories: the input columns, and those of them that are text.
        others: the columns that are not used but the target, with the reason.
        cells: (n, d + 1) inputs and target: float64, or objects where there are categories. lines: (n,) of the file.
        rejects: rows that are not used.
        errors: (n,) standard errors of the targets, NaN for those that tell none; None where all do.
    """

    names: list[str]
    categories: list[str]
    others: dict[str, str]
    cells: np.ndarray
    lines: list[int]
    rejects: list[Reject]
    errors: np.ndarray | None = None

    @property
    def inputs(self) -> np.ndarray:
        """(n, d) as in the file."""
        return self.cells[:, :-1]

    @property
    def y(self) -> np.ndarray:
        """(n,) targets."""
        return self.cells[:, -1].astype(float)


@dataclass(frozen=True)
class Asked:
    """What `sggp fit` was asked to read: the file, the columns, and how a table is to be read."""

    data: Path
    target: str
    features: str | None
    sheet: str | None = None
    decimal: str | None = None


def read_training(asked: Asked, rejected: Path) -> Training:
    """The rows of a table; those that cannot be used are listed in the file `rejected`.

    Raises:
        DataFileError, InputError: as `read_table`, `choose_inputs` and `read_cells`.
    """
    file = open_numbers(asked.data, decimal=asked.decimal) if asked.sheet is None else None
    found = None if file is None else _by_blocks(asked, file, rejected)
    if found is not None:
        return found
    table = read_table(asked.data, sheet=asked.sheet, decimal=asked.decimal)
    say(asked.data.name, table.notes)
    names, categories, unused = choose_inputs(table, asked.target, asked.features)
    say_unused(unused)
    say_doubtful(table, categories)
    cells, rejects, errors = read_cells(
        table, [*names, asked.target], dict.fromkeys(categories), rejected, asked.target
    )
    others = _others(table.header, asked, names, unused)
    return Training(names, categories, others, cells, used_lines(table, rejects), rejects, errors)


def told_noise(table: Training, model: GPRegressor) -> np.ndarray | None:
    """(n,) noise variances, where targets came with standard errors; None where none did.

    That of the others is learnt first, from them alone if they are twenty or more, as campaigns do.

    Args:
        model: the estimator to be fitted, whose seconds this takes a quarter of.
    """
    if table.errors is None:
        return None
    unknown = np.isnan(table.errors)
    if not unknown.any():
        return table.errors**2
    rows = unknown if unknown.sum() >= _ALONE else np.ones_like(unknown)
    seed = 0 if model.random_state is None else model.random_state  # alike in a fit that goes on
    first = clone(model).set_params(num_samples=0, noise="constant", random_state=seed)
    if model.max_seconds is not None:
        first.set_params(max_seconds=_FIRST * model.max_seconds)
        model.set_params(max_seconds=(1 - _FIRST) * model.max_seconds)
    first.fit(table.inputs[rows], table.y[rows])
    return np.where(unknown, first.noise_variance_, table.errors**2)


def _by_blocks(asked: Asked, file: NumberFile, rejected: Path) -> Training | None:
    """The rows of a large table; None where cells are more than numbers: categories, 5±0.2, or signs beside bounds."""
    names, categories, unused = choose_inputs(file.head, asked.target, asked.features)
    if categories or not {*names} <= {*file.numbers} or _more_than_numbers(file.head, asked.target):
        return None
    unused = {name: f"{reason}, in the first {HEAD:,} rows" for name, reason in unused.items()}
    beside = error_column(file.head, asked.target)
    errors = [] if beside is None or beside in names else [beside]
    if not {*errors} <= {*file.numbers}:
        return None
    matrix = gather(file, [*names, asked.target, *errors])
    if _needs_text(matrix, asked.target, beside if errors else None):
        return None
    say_unused(unused)
    say(asked.data.name, matrix.notes)
    rejects = [Reject(asked.data.name, row.line, row.reason, row.content) for row in matrix.rejected]
    write_rejects(rejected, rejects)
    others = _others(file.head.header, asked, names, unused)
    if errors:
        say(asked.data.name, [f"standard errors of {len(matrix.values)} values from column {beside!r}"])
    cells, told = (matrix.values[:, :-1], matrix.values[:, -1]) if errors else (matrix.values, None)
    return Training(names, [], others, cells, matrix.lines.tolist(), rejects, told)


def _needs_text(matrix: Matrix, target: str, errors: str | None) -> bool:
    """Whether cells below the head tell errors as 5±0.2, or the column of errors holds what is none."""
    if errors is not None and matrix.values[:, -1].min() < 0:
        return True
    return any(
        (row.reason.startswith(f"{target}: ") and tells_error(row.reason))
        or (errors is not None and row.reason.startswith(f"{errors}: "))
        for row in matrix.rejected
    )


def _more_than_numbers(head: DataTable, target: str) -> bool:
    """Whether targets are told with standard errors, or with signs in another column."""
    return relations_beside(head.columns, target) is not None or any(map(tells_error, head.columns[target]))


def _others(
    header: tuple[str, ...], asked: Asked, names: list[str], unused: dict[str, str]
) -> dict[str, str]:
    return {name: unused.get(name, "not asked for") for name in header if name not in (*names, asked.target)}
