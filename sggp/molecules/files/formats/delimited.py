"""CSV, TSV and SMI text to records: the delimiter by agreement of the lines, no quote that swallows the rest."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import islice

from sggp.errors import DataFileError
from sggp.molecules.files.columns import ID_NAMES, SMILES_NAMES, VALUE_NAMES, is_number, is_smiles, plain
from sggp.molecules.files.grid import SAMPLE, Grid

_DELIMITERS = ("\t", ";", "|", ",")
_LONGEST_CELL = 131_072  # csv.field_size_limit(), as Python sets it
_START = 2**20
"""Characters from which the delimiter is found out."""
_SMILES_HEADERS = {*SMILES_NAMES, "molecule"}
_EXTENSION = re.compile(r"\|[^|]*\|\s*")


def read_delimited(text: str, notes: list[str]) -> Grid:
    """The records of a text with a delimiter, or of SMILES and names between blanks where it has none."""
    skip, _ = _head(text)
    delimiter = delimiter_of(text)
    if delimiter is None:
        notes.append("read as SMILES with optional names behind a blank, since no delimiter was found")
        return read_smi(text, notes)
    grid = Grid((), notes=notes)
    grid.records = _without_comments(_records(text, delimiter, skip), notes)
    return grid


def delimiter_of(text: str) -> str | None:
    """What separates the cells of a text, a comma where there is but one column; None for SMILES and names."""
    skip, declared = _head(text)
    lines = list(islice(_lines(text[:_START]), SAMPLE + skip))[skip:]
    delimiter = declared or _delimiter(lines)
    return None if delimiter is None and _is_smi(lines) else delimiter or ","


def read_smi(text: str, notes: list[str]) -> Grid:
    """The records of SMI text: SMILES and, behind a blank or a tab, an optional name."""
    rows: list[tuple[int, list[str]]] = []
    comments, extended = [], []
    for number, line in enumerate(_lines(text), start=1):
        line = line.strip()
        if line.startswith("#") and not (not rows and plain(line.split()[0]) in _SMILES_HEADERS):
            comments.append(number)
        elif line:
            cells, cut = smi_cells(line)
            if cut:
                extended.append(number)
            rows.append((number, cells))
    for numbers, what in (
        (comments, "comments (#) skipped"),
        (extended, "CXSMILES extensions |...| left out"),
    ):
        if numbers:
            notes.append(f"{len(numbers)} {what}, the first in line {numbers[0]}")
    width = max((len(cells) for _, cells in rows), default=1)
    header = ["smiles", "id", *(f"column{i}" for i in range(3, width + 1))][:width]
    if rows and plain(rows[0][1][0]) in _SMILES_HEADERS:
        first = rows.pop(0)[1]
        header = [*first, *header[len(first) :]]
        if not rows:
            return Grid((), header=header, notes=notes, pad=True)
    return Grid(rows, header=header if rows else None, notes=notes, pad=True)


def smi_cells(line: str) -> tuple[list[str], bool]:
    """The cells of a line of SMI text, and whether an extension of CXSMILES was left out."""
    cells = line.split("\t") if "\t" in line else line.split(maxsplit=1)
    if len(cells) > 1 and cells[1].lstrip().startswith("|") and _EXTENSION.match(cells[1].lstrip()):
        cells[1] = _EXTENSION.sub("", cells[1].lstrip(), count=1)
        return cells, True
    return cells, False


def _lines(text: str) -> Iterator[str]:
    r"""Lines at \n, \r\n and \r, and nowhere else."""
    return iter(io.StringIO(text, newline=""))


def _head(text: str) -> tuple[int, str | None]:
    """Lines to skip and the delimiter, where Excel's `sep=;` stands first."""
    found = re.match(r"sep=(.)[ \t,;]*(?:\r\n|\r|\n)", text, re.IGNORECASE)
    return (1, found[1]) if found else (0, None)


def _delimiter(lines: list[str]) -> str | None:
    """The one by which most of the lines have as many cells as the first, more than one; None where there is none."""
    best: tuple[float, int, str] | None = None
    filled = [line for line in lines if line.strip()]
    for delimiter in _DELIMITERS:
        try:
            found = csv.reader(filled, delimiter=delimiter, skipinitialspace=True)
            counts = [len(record) for record in found if record]
        except csv.Error:  # a cell without end, which is refused when the records are read
            continue
        usual = max(set(counts), key=counts.count) if counts else 1
        if usual < 2:
            continue
        share = sum(count == usual for count in counts) / len(counts)
        agrees = counts[0] == usual
        score = share + agrees
        if best is None or score > best[0] + 1e-9:
            best = (score, usual, delimiter)
    if best is None or best[0] < 0.5:
        present = [mark for mark in _DELIMITERS if filled and mark in filled[0]]
        return max(present, key=filled[0].count) if present else None
    return best[2]


def _is_smi(lines: list[str]) -> bool:
    """Whether most lines begin with SMILES, and some go on behind a blank."""
    tokens = [line.split(maxsplit=1) for line in lines if line.strip()]
    if not any(len(token) > 1 for token in tokens):
        return False
    first = tokens[1:] if plain(tokens[0][0]) in _SMILES_HEADERS else tokens
    like = sum(is_smiles(token[0]) and not is_number(token[0]) for token in first)
    return bool(first) and like >= 0.8 * len(first)


def _without_comments(
    records: Iterator[tuple[int, list[str]]], notes: list[str]
) -> Iterator[tuple[int, list[str]]]:
    """The records without the lines that begin with # above the table; one as wide as the next is its header."""
    waiting: list[tuple[int, list[str]]] = []
    for line, cells in records:
        if cells[0].startswith("#"):
            waiting.append((line, cells))
            continue
        if waiting and _names(waiting[-1][1], len(cells)):
            yield waiting.pop()
        for skipped, _ in waiting:
            notes.append(f"line {skipped} is a comment (#), skipped")
        yield line, cells
        break
    else:
        yield from waiting
    yield from records


def _names(cells: list[str], width: int) -> bool:
    known = {*SMILES_NAMES, *VALUE_NAMES, *ID_NAMES}
    return len(cells) == width and (width > 1 or plain(cells[0]) in known)


def _records(text: str, delimiter: str, skip: int) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of every record that is not blank.

    Raises:
        DataFileError: a quote that is never closed, or that closes within another cell; a cell without end.
    """
    lines = _lines(text)
    for _ in range(skip):
        next(lines)
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=delimiter != "\t")
    width, before = 0, skip
    while True:
        number = before + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _open_quote(text, number, skip + reader.line_num, str(error)) from error
        before = skip + reader.line_num
        if before > number and width > 1 and any(_holds_rows(cell, delimiter, width) for cell in record):
            raise _open_quote(text, number, before, "a cell holds whole rows")
        if any(cell.strip() for cell in record):
            width = width or len(record)
            yield number, record


def _holds_rows(cell: str, delimiter: str, width: int) -> bool:
    """Whether lines within a cell look like records of the table."""
    return any(line.count(delimiter) >= width - 1 for line in re.split("\r\n|\r|\n", cell)[1:])


def _open_quote(text: str, first: int, last: int, said: str) -> DataFileError:
    lines = list(islice(_lines(text), first - 1, last))
    place = next((i for i, line in enumerate(lines) if line.count('"') % 2), 0)
    shown = lines[place].strip() if lines else ""
    if "field larger" in said:
        words = f"a cell has more than {_LONGEST_CELL:,} characters: perhaps a quote that is never closed"
    elif "expected after" in said and last == first:
        words = 'text follows a closing quote (")'
    else:
        words = f'a quote (") is not closed where it should be: the cell would go on to line {last}'
    return DataFileError(
        f'line {first + place}: {words}. Delete the quote, or write it twice ("") in a cell within quotes: '
        f"{shown[:80]!r}"
    )
