"""Numbers of CSV and other text files: blocks of lines read by NumPy, and by cells where it cannot read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from sggp.molecules.files.numbers import is_missing
from sggp.molecules.files.numeric.source import NumberBlock, NumberFile, read_cells
from sggp.molecules.files.sources import opened
from sggp.molecules.files.stream import BadRow, LineForm, cells_of, raw_lines, read_head
from sggp.molecules.files.table import DataTable

_LINES = 16_384
_FEW = 128
"""So many lines, one of which NumPy cannot read, are read one by one."""
_OTHERWISE = (",", "%", "'", "’")


@dataclass(frozen=True)
class LineNumbers(NumberFile):
    """Text with a delimiter, a row in each line."""

    form: LineForm

    def blocks(self, names: Sequence[str]) -> Iterator[NumberBlock]:
        """See `NumberFile.blocks`."""
        positions = [self.head.header.index(name) for name in names]
        with opened(self.path) as raw:
            lines, done = raw_lines(self.path, raw), self.form.first - 1
            for _ in islice(lines, done):
                pass
            while piece := [line for line, _ in islice(lines, _LINES)]:
                yield self._block(piece, done + 1, names, positions)
                done += len(piece)

    def _block(
        self, piece: list[bytes], first: int, names: Sequence[str], positions: list[int]
    ) -> NumberBlock:
        values = self._plain(piece, positions)
        if values is not None:
            return NumberBlock(values, np.arange(first, first + len(piece)))
        half = len(piece) // 2
        if len(piece) > _FEW:
            parts = ((piece[:half], first), (piece[half:], first + half))
            return NumberBlock.joined([self._block(*part, names, positions) for part in parts])
        rows, lines, bad = list[list[str]](), list[int](), list[BadRow]()
        for number, line, cells in cells_of(self.form, b"".join(piece), first):
            if isinstance(cells, str):
                bad.append(BadRow(number, line, cells))
            elif any(cell.strip() for cell in cells):
                rows.append([cell.strip() for cell in cells])
                lines.append(number)
        found = read_cells(names, positions, rows, lines)
        return NumberBlock(found.values, found.lines, sorted(bad + found.bad), found.notes)

    def _plain(self, piece: list[bytes], positions: list[int]) -> np.ndarray | None:
        """The numbers of lines that hold nothing else where they are asked for; None where some line does."""
        mark, between = str(self.form.delimiter).encode(), self.form.width - 1
        if any(line.count(mark) != between or b'"' in line or not line.strip() for line in piece):
            return None
        texts = [line.decode("latin-1") for line in piece]
        try:
            found = np.loadtxt(
                texts, delimiter=self.form.delimiter, usecols=positions, ndmin=2, comments=None
            )
        except ValueError:
            return None
        return found if len(found) == len(piece) and np.isfinite(found).all() else None


def open_lines(path: Path, decimal: str | None) -> LineNumbers | None:
    """A text file whose numbers are written plainly in its first lines, with decimal points; None for others.

    Raises:
        DataFileError: no text that is read by lines, no table, or numbers that can be read in two ways.
    """
    table, delimiter = read_head(path)
    if delimiter is None or decimal == "," or not len(table):
        return None
    numbers = []
    for name, cells in table.columns.items():
        found = table.numbers(name, mostly=False)
        filled = sum(not is_missing(cell) for cell in cells)
        wrong = len(found.reasons) - (len(cells) - filled)
        if 2 * wrong > filled:  # a column of text
            continue
        if any(sign in cell for cell in cells for sign in _OTHERWISE):
            return None
        numbers.append(name)
    form = LineForm(path, delimiter, len(table.header), int(table.lines[0]))
    return LineNumbers(path, _as_points(table), tuple(numbers), form)


def _as_points(table: DataTable) -> DataTable:
    return DataTable(
        table.path, table.columns, table.rows, table.lines, table.rejected, table.notes, decimal="."
    )
