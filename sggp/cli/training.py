"""The rows that `sggp fit` learns from: as text from small tables, as numbers by blocks from large ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sggp.cli.console import say
from sggp.cli.inputs import choose_inputs, read_cells, say_unused, used_lines
from sggp.cli.molecules.tables import Reject, write_rejects
from sggp.molecules.files import read_table
from sggp.molecules.files.numeric import NumberFile, open_numbers
from sggp.molecules.files.numeric.matrix import gather
from sggp.molecules.files.numeric.source import HEAD


@dataclass(frozen=True)
class Training:
    """The complete rows of a table.

    Attributes:
        names, categories: the input columns, and those of them that are text.
        others: the columns that are not used but the target, with the reason.
        cells: (n, d + 1) inputs and target: float64, or objects where there are categories. lines: (n,) of the file.
        rejects: rows that are not used.
    """

    names: list[str]
    categories: list[str]
    others: dict[str, str]
    cells: np.ndarray
    lines: list[int]
    rejects: list[Reject]


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
    cells, rejects = read_cells(
        table, [*names, asked.target], dict.fromkeys(categories), rejected, asked.target
    )
    others = _others(table.header, asked, names, unused)
    return Training(names, categories, others, cells, used_lines(table, rejects), rejects)


def _by_blocks(asked: Asked, file: NumberFile, rejected: Path) -> Training | None:
    """The rows of a large table; None where columns of text are learnt from."""
    names, categories, unused = choose_inputs(file.head, asked.target, asked.features)
    if categories or not {*names} <= {*file.numbers}:
        return None
    unused = {name: f"{reason}, in the first {HEAD:,} rows" for name, reason in unused.items()}
    say_unused(unused)
    matrix = gather(file, [*names, asked.target])
    say(asked.data.name, matrix.notes)
    rejects = [Reject(asked.data.name, row.line, row.reason, row.content) for row in matrix.rejected]
    write_rejects(rejected, rejects)
    others = _others(file.head.header, asked, names, unused)
    return Training(names, [], others, matrix.values, matrix.lines.tolist(), rejects)


def _others(
    header: tuple[str, ...], asked: Asked, names: list[str], unused: dict[str, str]
) -> dict[str, str]:
    return {name: unused.get(name, "not asked for") for name in header if name not in (*names, asked.target)}
