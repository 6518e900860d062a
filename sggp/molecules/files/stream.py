"""Molecules of text files that are too large to be held, a block of lines at a time."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

from sggp.errors import DataFileError
from sggp.molecules.files.columns import ColumnGuess
from sggp.molecules.files.formats.delimited import delimiter_of, read_delimited, read_smi, smi_cells
from sggp.molecules.files.formats.sdf import is_sdf
from sggp.molecules.files.grid import make_table
from sggp.molecules.files.read import PACKED_ENDINGS, SMI_ENDINGS, guess_columns
from sggp.molecules.files.sources import kind_of, opened, unpacking
from sggp.molecules.files.table import DataTable
from sggp.molecules.files.text import decode
from sggp.molecules.files.write import unshield

_HEAD = 1000
"""Lines from which a file's form is found out."""
_LONGEST = 2**20
_WIDE = (b"\xff\xfe", b"\xfe\xff")


class Row(NamedTuple):
    """SMILES and id of one line (1-based)."""

    line: int
    smiles: str
    id: str


class BadRow(NamedTuple):
    """A line that holds no row, and why."""

    line: int
    content: str
    reason: str


class Block(NamedTuple):
    """Rows of consecutive lines, the last line that was read, and how many bytes of the file they end at."""

    rows: list[Row]
    bad: list[BadRow]
    line: int
    position: int


@dataclass(frozen=True)
class LineForm:
    """How the lines of a file are read.

    Attributes:
        path: the file.
        delimiter: of the cells; None: SMILES and names between blanks.
        width: number of cells of a row.
        first: line of the first row (1-based).
    """

    path: Path
    delimiter: str | None
    width: int
    first: int

    def cells(self, line: str) -> list[str] | str:
        """The cells of a line, or why it has not as many as there are columns."""
        if self.delimiter is None:
            cells, _ = smi_cells(line)
            return [*cells, *[""] * (self.width - len(cells))]
        tab = self.delimiter == "\t"
        try:
            (cells,) = csv.reader([line], delimiter=self.delimiter, strict=True, skipinitialspace=not tab)
        except csv.Error as error:
            return f"its quotes do not close within the line ({error})"
        if line.count('"') % 2 and any(cell.endswith('"') for cell in cells):
            return "a quote closes that was opened in an earlier line"
        while len(cells) > self.width and not cells[-1].strip():
            cells.pop()
        if len(cells) != self.width:
            return f"expected {self.width} cells, found {len(cells)}"
        return cells


@dataclass(frozen=True)
class Form(LineForm):
    """How the lines of a file of molecules are read.

    Attributes:
        smiles, id: which cells (0-based); no id where None.
        guess: the columns, with reasons.
    """

    smiles: int
    id: int | None
    guess: ColumnGuess


def read_head(path: Path) -> tuple[DataTable, str | None]:
    """The table of the first thousand lines of a file that is read by lines, and the delimiter of its cells.

    Raises:
        DataFileError: no text that is read by lines (an .xlsx, .parquet or SD file, UTF-16), or no table.
    """
    with opened(path) as raw:
        head = b"".join(line for line, _ in islice(raw_lines(path, raw), _HEAD))
    if head.startswith((b"PK\x03\x04", b"PAR1", *_WIDE)) or kind_of(path, head) != "text":
        raise _no_stream(path, "a file of another kind than UTF-8 text")
    text, notes = decode(path, head)
    name = PACKED_ENDINGS.sub("", path.name.lower())
    if is_sdf(name, text):
        raise _no_stream(path, "an SD file")
    smi = name.endswith(SMI_ENDINGS)
    table = make_table(path, read_smi(text, notes) if smi else read_delimited(text, notes))
    return table, None if smi else delimiter_of(text)


def read_form(path: Path, *, smiles_column: str | None = None, id_column: str | None = None) -> Form:
    """Find out from its first lines how a file is read: as `read_molecules`, but a row is a line.

    Raises:
        DataFileError: no text that is read by lines (an .xlsx, .parquet or SD file, UTF-16), empty, no column of
            SMILES, or as `read_molecules`.
    """
    table, delimiter = read_head(path)
    guess = guess_columns(table, smiles=smiles_column, id=id_column)
    if guess.smiles is None:
        raise DataFileError(f"{path}: no SMILES column ({guess.reasons['smiles']}); name it.")
    return Form(
        path=path,
        delimiter=delimiter,
        width=len(table.header),
        smiles=table.header.index(guess.smiles),
        id=None if guess.id is None else table.header.index(guess.id),
        first=int(table.lines[0]),
        guess=guess,
    )


def read_blocks(form: Form, *, after: int = 0, size: int = 16_384) -> Iterator[Block]:
    """The rows of a file in blocks of at most `size` lines, from the line behind `after`.

    Blank lines, and in SMI files comments, are passed over. Memory: one block.

    Raises:
        DataFileError: the file is damaged or cannot be read; the blocks before have been given by then.
    """
    with opened(form.path) as raw:
        lines = raw_lines(form.path, raw)
        done = max(after, form.first - 1)
        for _ in islice(lines, done):
            pass
        while piece := list(islice(lines, size)):
            rows, bad = _parsed(form, b"".join(line for line, _ in piece), done + 1)
            done += len(piece)
            yield Block(rows, bad, done, piece[-1][1])


def cells_of(form: LineForm, data: bytes, first: int) -> Iterator[tuple[int, str, list[str] | str]]:
    """Number, text and cells, or why there are none, of the lines that are neither blank nor a comment."""
    text, _ = decode(form.path, data)
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=first):
        line = line.strip("\r\n") if form.delimiter == "\t" else line.strip()
        if line.strip() and not (form.delimiter is None and line.startswith("#")):
            yield number, line, form.cells(line)


def _parsed(form: Form, data: bytes, first: int) -> tuple[list[Row], list[BadRow]]:
    rows, bad = [], []
    for number, line, cells in cells_of(form, data, first):
        if isinstance(cells, str):
            bad.append(BadRow(number, line, cells))
        elif any(cell.strip() for cell in cells):
            name = "" if form.id is None else unshield(cells[form.id].strip())
            rows.append(Row(number, cells[form.smiles].strip(), name))
    return rows, bad


def raw_lines(path: Path, raw: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Unpacked lines with their ends, and how many bytes of the file were read for them."""
    stream = unpacking(raw)
    while line := stream.readline(_LONGEST):
        if len(line) == _LONGEST:
            raise DataFileError(
                f"{path}: has a line of more than {_LONGEST:,} characters: it is no list of molecules by lines."
            )
        yield line, raw.tell()


def _no_stream(path: Path, what: str) -> DataFileError:
    return DataFileError(
        f"{path}: is {what}, which is not read line by line: save it as .smi or .csv (UTF-8, .gz accepted), or read "
        "it as a library that is held in memory."
    )
