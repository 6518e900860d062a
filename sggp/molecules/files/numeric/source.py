"""What a file of numbers offers, whatever its format: its first rows as text, and blocks of rows as numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sggp.molecules.files.numbers import bound_reason, read_numbers
from sggp.molecules.files.stream import BadRow
from sggp.molecules.files.table import DataTable

HEAD = 1000
"""Rows from which a file's columns are judged."""
_PLAIN = "0.5"


@dataclass(frozen=True)
class NumberBlock:
    """Rows of consecutive lines.

    Attributes:
        values: (m, k) float64, the complete rows, in the order of the columns asked for. lines: (m,) where they stand.
        bad: rows that are not complete, or cannot be read.
        notes: (column, line, what was decided), to be told to the user.
    """

    values: np.ndarray
    lines: np.ndarray
    bad: list[BadRow] = field(default_factory=list)
    notes: list[tuple[str, int, str]] = field(default_factory=list)

    @classmethod
    def joined(cls, blocks: Sequence[NumberBlock]) -> NumberBlock:
        """Blocks in order as one."""
        return cls(
            np.concatenate([block.values for block in blocks]),
            np.concatenate([block.lines for block in blocks]),
            [row for block in blocks for row in block.bad],
            [note for block in blocks for note in block.notes],
        )


@dataclass(frozen=True)
class NumberFile(ABC):
    """A table in a file that is read a block of rows at a time.

    Attributes:
        path: the file.
        head: its first thousand rows as text.
        numbers: the columns that can be read as numbers.
    """

    path: Path
    head: DataTable
    numbers: tuple[str, ...]

    @abstractmethod
    def blocks(self, names: Sequence[str]) -> Iterator[NumberBlock]:
        """The rows of some columns among `numbers`; memory: one block.

        Raises:
            DataFileError: the file is damaged, or has changed since it was opened.
        """


def read_cells(
    names: Sequence[str], positions: Sequence[int], rows: list[list[str]], lines: Sequence[int]
) -> NumberBlock:
    """Rows of text as `read_table` reads them: the complete ones as numbers, and why the others are not.

    Args:
        names, positions: the columns, and where they stand in a row. rows: m of cells. lines: where they stand.
    """
    values, reasons = np.empty((len(rows), len(names))), dict[int, str]()
    notes = []
    for place, (name, position) in enumerate(zip(names, positions, strict=True)):
        # a plain number first: signs of per cent are those of a whole column, and this one has shown none
        cells = [_PLAIN, *(row[position] for row in rows)]
        found = read_numbers(cells, decimal=".")
        values[:, place] = found.values[1:]
        bounds = {i: bound_reason(cells[i]) for i, side in enumerate(found.censored) if side}
        for i, reason in {**found.reasons, **bounds}.items():
            reasons.setdefault(i - 1, f"{name}: {reason}")
        notes += [(name, lines[i - 1], words) for i, words in found.notes]
    keep = [i for i in range(len(rows)) if i not in reasons]
    bad = [BadRow(lines[i], ",".join(rows[i]), reason) for i, reason in sorted(reasons.items())]
    return NumberBlock(values[keep], np.asarray(lines, dtype=np.int64)[keep], bad, notes)
