"""Excel workbooks to records of text."""

from __future__ import annotations

import datetime
import io
import math
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sggp.errors import DataFileError, missing_extra
from sggp.molecules.files.grid import Grid
from sggp.molecules.files.sources import BAD_ARCHIVE, limit, too_large

AS_CSV = ", or save the table as CSV"
_FORMULA = re.compile(rb"<f[ >/]")


class Count:
    """The characters of a table so far, against the limit."""

    def __init__(self, path: Path) -> None:
        self.path, self.most, self.total = path, limit(), 0

    def add(self, cells: Sequence[str]) -> None:
        self.total += sum(map(len, cells))
        if self.total > self.most:
            raise too_large(self.path, self.most)


def cell_text(value: Any) -> str:
    """A cell of a typed file as text: whole numbers without point, dates by ISO 8601, nothing as ""."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def read_workbook(path: Path, data: bytes, sheet: str | None) -> Grid:
    """The records of one sheet: the one that is named, or the first that is visible and not empty.

    Formulas are read by the value that Excel stored with them; where it stored none the cell is the formula's text.

    Raises:
        DataFileError: no such sheet, nothing in it, or a damaged file. MissingExtra: openpyxl is not installed.
    """
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise missing_extra("Reading .xlsx files needs openpyxl", "files", error, AS_CSV) from error
    try:
        book = load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        names = [name for name in book.sheetnames if hasattr(book[name], "iter_rows")]
        chosen, rows = _choose(path, book, names, sheet)
        formulas = _formulas(data, chosen, load_workbook)
    except DataFileError:
        raise
    except (*BAD_ARCHIVE, LookupError, TypeError, AttributeError, ArithmeticError, SyntaxError) as error:
        raise DataFileError(f"{path}: a damaged .xlsx file ({type(error).__name__}: {error}).") from error
    grid = Grid((), pad=True)
    if len(names) > 1:
        others = ", ".join(repr(name) for name in names if name != chosen)
        grid.notes.append(f"sheet {chosen!r} is read; there are also {others} (--sheet)")
    if any(isinstance(value, float) and not value.is_integer() for _, row in rows for value in row):
        grid.decimal = "."
    grid.records = _texts(rows, formulas, grid)
    return grid


def _choose(
    path: Path, book: Any, names: list[str], sheet: str | None
) -> tuple[str, list[tuple[int, list[Any]]]]:
    if sheet is not None and sheet not in names:
        raise DataFileError(
            f"{path}: there is no sheet {sheet!r}; the sheets are {', '.join(map(repr, names))}."
        )
    visible = [name for name in names if book[name].sheet_state == "visible"]
    for name in [sheet] if sheet is not None else visible or names:
        rows = _rows(path, book[name])
        if rows:
            return name, rows
    raise DataFileError(f"{path}: the sheet{'' if sheet is None else ' ' + repr(sheet)} is empty.")


def _rows(path: Path, page: Any) -> list[tuple[int, list[Any]]]:
    """(row number, values) of every row that is not blank, without what is empty at the right of all."""
    page.reset_dimensions()  # some writers state dimensions that are not true
    count, out, width = Count(path), [], 0
    for number, values in enumerate(page.iter_rows(values_only=True), start=1):
        filled = [i for i, value in enumerate(values) if value is not None and str(value).strip()]
        if filled:
            width = max(width, filled[-1] + 1)
            row = list(values[: filled[-1] + 1])
            count.add([str(value) for value in row])
            out.append((number, row))
    return [(number, row + [None] * (width - len(row))) for number, row in out]


def _formulas(data: bytes, name: str, load: Any) -> dict[tuple[int, int], str]:
    """(row, column) from 0 → formula, of a sheet."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        sheets = [entry for entry in archive.namelist() if entry.startswith("xl/worksheets/")]
        if not any(_FORMULA.search(archive.read(entry)) for entry in sheets):
            return {}
    page = load(io.BytesIO(data), read_only=True)[name]
    page.reset_dimensions()
    return {
        (i, j): str(getattr(value, "text", value))
        for i, row in enumerate(page.iter_rows(values_only=True), start=1)
        for j, value in enumerate(row)
        if (isinstance(value, str) and value.startswith("=")) or hasattr(value, "text")
    }


def _texts(
    rows: list[tuple[int, list[Any]]], formulas: dict[tuple[int, int], str], grid: Grid
) -> list[tuple[int, list[str]]]:
    known: list[int] = []
    unknown: list[int] = []
    dates: list[tuple[int, str]] = []
    out = []
    for number, row in rows:
        cells = []
        for column, value in enumerate(row):
            text = cell_text(value)
            formula = formulas.get((number, column))
            if formula is not None:
                (known if text else unknown).append(number)
                text = text or formula
            if isinstance(value, datetime.date | datetime.time):
                dates.append((number, text))
            cells.append(text)
        out.append((number, cells))
    if known:
        grid.notes.append(
            f"{len(known)} cells are formulas, read by their stored values, the first in row {known[0]}"
        )
    if unknown:
        grid.notes.append(
            f"{len(unknown)} formulas have no stored value, the first in row {unknown[0]}: open the file in Excel, "
            "and save it"
        )
    if dates:
        grid.notes.append(
            f"{len(dates)} cells are dates in Excel, the first ({dates[0][1]}) in row {dates[0][0]}: names such as "
            "1-2 become dates when they are typed in"
        )
    return out
