"""What reading a file gives: cells by column, the rows that were left out, and what was decided."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sggp.errors import DataFileError
from sggp.molecules.files.numbers import Numbers, read_numbers

_NUMBERS = 0.5  # share of the filled cells that must be numbers in a column that is read as numbers


@dataclass(frozen=True)
class RejectedRow:
    """A row that was not used: 0-based data `row`, `line` in the file (1-based), its content and the reason."""

    row: int
    line: int
    content: str
    reason: str


@dataclass(frozen=True)
class DataTable:
    """The cells of a file as text, by column.

    Attributes:
        path: where it came from.
        columns: name → m cells, for the m complete rows.
        rows: (m,) 0-based data row of each (rejected rows keep their number).
        lines: line of the file (row of the sheet, first line of the molecule) for each of the n data rows.
        rejected: rows with too few or too many cells, or that cannot be read.
        notes: what was decided in reading (encoding, header, sheet, ...), to be told to the user.
        decimal: "." or "," where the user or the file says which is the decimal sign; None: by the column.
    """

    path: Path
    columns: dict[str, list[str]]
    rows: np.ndarray
    lines: np.ndarray
    rejected: tuple[RejectedRow, ...] = ()
    notes: tuple[str, ...] = ()
    decimal: str | None = None

    @property
    def header(self) -> tuple[str, ...]:
        """Column names in the order of the file."""
        return tuple(self.columns)

    def __len__(self) -> int:
        return len(self.rows)

    def line(self, position: int) -> int:
        """Line in the file of the complete row at `position`."""
        return int(self.lines[int(self.rows[position])])

    def content(self, position: int) -> str:
        """The cells of a complete row in one text."""
        return ",".join(cells[position] for cells in self.columns.values())

    def reject(self, position: int, reason: str) -> RejectedRow:
        """The complete row at `position` as one that is not used."""
        return RejectedRow(int(self.rows[position]), self.line(position), self.content(position), reason)

    def numbers(self, name: str, *, mostly: bool = True) -> Numbers:
        """The numbers of a column, its decimal sign being decided from the whole column, or the whole table.

        Args:
            name: the column.
            mostly: refuse a column in which fewer than half of the filled cells are numbers.

        Raises:
            DataFileError: the column can be read in two ways, or is one of text.
        """
        cells = self.columns[name]
        others = (other for key, other in self.columns.items() if key != name)
        found = read_numbers(cells, decimal=self.decimal, others=others)
        if found.doubt is not None:
            position, words = found.doubt
            raise DataFileError(
                f"{self.path} line {self.line(position)}, column {name!r}: {words} Say which sign is the decimal "
                "one (--decimal . or --decimal ,; in Python decimal=), or write all numbers alike."
            )
        wrong = [i for i, reason in found.reasons.items() if not reason.startswith("no value")]
        count = len(cells) - len(found.reasons)
        if mostly and wrong and count < _NUMBERS * (count + len(wrong)):
            raise DataFileError(
                f"{self.path}: column {name!r} is no column of numbers: {count} of {count + len(wrong)} filled cells "
                f"are numbers (line {self.line(wrong[0])}: {cells[wrong[0]]!r}). Name another column, or delete the "
                "rows without a number."
            )
        return found

    def said(self, name: str, found: Numbers) -> list[str]:
        """The notes on a column of numbers, with name and line."""
        return [f"column {name!r}, line {self.line(position)}: {words}" for position, words in found.notes]
