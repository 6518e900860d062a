"""Reading users' tables of any usual format without losing a row, and without a silent decision."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from sggp.checks import as_path, one_of
from sggp.errors import DataFileError, InputError
from sggp.molecules.files.columns import ColumnGuess, choose_columns
from sggp.molecules.files.formats.arrow import read_arrow
from sggp.molecules.files.formats.delimited import read_delimited, read_smi
from sggp.molecules.files.formats.sdf import is_sdf, read_sdf
from sggp.molecules.files.formats.sheets import read_workbook
from sggp.molecules.files.grid import Grid, make_table
from sggp.molecules.files.measured import bound_text, measured_numbers
from sggp.molecules.files.numbers import Censored, bound_reason, is_missing
from sggp.molecules.files.sources import read_bytes
from sggp.molecules.files.table import DataTable, RejectedRow
from sggp.molecules.files.text import decode
from sggp.molecules.files.write import unshield

SMI_ENDINGS = (".smi", ".smiles", ".ism")
PACKED_ENDINGS = re.compile(r"\.(gz|bz2|xz)$")
_EXCEL_DATE = re.compile(
    r"(?:\d{1,2}-(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)|(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|"
    r"dec)-\d{2})",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class MoleculeFile:
    """Molecules read from a file, with a value each where a value column was read.

    Attributes:
        smiles: m texts, not yet parsed.
        values: (m,) float64, or None; of a bound (`>10`) it is the bound.
        ids: m texts, or None.
        rows: (m,) 0-based data rows; `lines[row]` is the line in the file.
        lines: (n,) line of every data row.
        rejected: rows that could not be used, and why.
        guess: which columns were used and why.
        path: the file.
        censored: m times "above" (`>10`), "below" (`<0.1`) or None; all None unless bounds were asked for.
        notes: what was decided in reading, to be told to the user.
        errors: (m,) standard errors of the values, NaN where none is told (`5±0.2`), or None where there are no values.
    """

    smiles: list[str]
    values: np.ndarray | None
    ids: list[str] | None
    rows: np.ndarray
    lines: np.ndarray
    rejected: tuple[RejectedRow, ...]
    guess: ColumnGuess
    path: Path
    total: int = field(default=0)
    censored: tuple[Censored | None, ...] = ()
    notes: tuple[str, ...] = ()
    errors: np.ndarray | None = None


def read_table(
    path: str | os.PathLike[str], *, sheet: str | None = None, decimal: str | None = None
) -> DataTable:
    """Read a table as text: CSV, TSV, SMI, SDF, .xlsx, .parquet or .arrow (Feather); gzip, bzip2 and xz accepted.

    Delimiter (`,` `;` tab `|`), encoding (UTF-8, UTF-16, Windows-1252), a missing header and comments are found out;
    what was decided is in `notes`. Rows with a wrong number of cells are collected in `rejected`. A cell or
    name that begins with `'=` (or +, -, @ behind the quote) loses the quote, which `sggp` and others write against
    formulas.

    Args:
        path: the file. SMI files have columns "smiles" and "id", SD files also one per data item.
        sheet: name of the sheet of an .xlsx file; None is the first that is visible and not empty.
        decimal: "." or ",", the decimal sign; None decides by column.

    Raises:
        DataFileError: no regular file, missing, empty, damaged or no table; larger than 1 GiB unpacked (the
            environment variable SGGP_MAX_TABLE_BYTES sets another limit); a quote that is never closed.
        MissingExtra: .xlsx without openpyxl, .parquet and .arrow without pyarrow (extra "files"), .sdf without RDKit.
    """
    target = as_path(path, "path")
    if decimal is not None:
        one_of(decimal, "decimal", (".", ","))
    if sheet is not None and not isinstance(sheet, str):
        raise InputError(f"sheet must be the name of a sheet, got {sheet!r}.")
    data, kind = read_bytes(target)
    if sheet is not None and kind != "xlsx":
        raise DataFileError(f"{target}: a sheet is asked for ({sheet!r}), but it is no .xlsx file.")
    try:
        table = make_table(target, _grid(target, data, kind, sheet))
    except DataFileError as error:
        if str(error).startswith(str(target)):
            raise
        raise DataFileError(f"{target}: {error}") from error
    names = [unshield(name) for name in table.columns]
    if len(set(names)) < len(names):  # "'=x" beside "=x"
        names = list(table.columns)
    cells = ([unshield(cell) for cell in column] for column in table.columns.values())
    columns = dict(zip(names, cells, strict=True))
    return replace(table, columns=columns, decimal=decimal or table.decimal)


def _grid(path: Path, data: bytes, kind: str, sheet: str | None) -> Grid:
    if kind == "xlsx":
        return read_workbook(path, data, sheet)
    if kind == "arrow":
        return read_arrow(path, data)
    text, notes = decode(path, data)
    if not text.strip():
        raise DataFileError(f"{path}: the file is empty.")
    name = PACKED_ENDINGS.sub("", path.name.lower())
    if is_sdf(name, text):
        return read_sdf(path, text, notes)
    return read_smi(text, notes) if name.endswith(SMI_ENDINGS) else read_delimited(text, notes)


def guess_columns(
    table: DataTable, *, smiles: str | None = None, value: str | None = None, id: str | None = None
) -> ColumnGuess:
    """Which columns hold SMILES, values and ids, and why; a name that is given is taken.

    Raises:
        DataFileError: a name that is given is not in the file. What cannot be guessed is None in the result.
    """
    return choose_columns(str(table.path), table.columns, smiles=smiles, value=value, id=id)


def read_molecules(
    path: str | os.PathLike[str] | DataTable,
    *,
    smiles_column: str | None = None,
    value_column: str | None = None,
    id_column: str | None = None,
    need_values: bool = False,
    bounds: bool = False,
) -> MoleculeFile:
    """Read SMILES (and values and ids) from a table.

    Args:
        path: a file as `read_table` reads it, or a table that it has read.
        smiles_column: name of the SMILES column; None guesses it.
        value_column: name of the value column; None guesses it if `need_values`.
        id_column: name of the id column; None guesses it and may find none.
        need_values: read a number from every row; rows without one are rejected.
        bounds: take `>10` and `<0.1` as values with `censored` set; otherwise such rows are rejected. A column
            named "relation" or "qualifier" of =, > and < says the same.

    Raises:
        DataFileError: as `read_table`; a column is missing or ambiguous, or its numbers can be read in two ways.
    """
    table = path if isinstance(path, DataTable) else read_table(path)
    guess = guess_columns(table, smiles=smiles_column, value=value_column, id=id_column)
    has_values = need_values or value_column is not None
    if guess.smiles is None:
        raise DataFileError(
            f"{table.path}: no column looks like SMILES: {guess.reasons['smiles']}. {_choices(table)}"
        )
    if has_values and guess.value is None:
        raise DataFileError(
            f"{table.path}: no value column found: {guess.reasons['value']}. {_choices(table)}"
        )
    notes = list(table.notes)
    ids = None if guess.id is None else tidy_ids(table, guess.id, notes)
    keep = np.arange(len(table))
    values, errors, rejected = None, None, list(table.rejected)
    censored: tuple[Censored | None, ...] = (None,) * len(table)
    if has_values and guess.value is not None:
        found = measured_numbers(table, guess.value)
        notes += table.said(guess.value, found)
        values, censored = found.values, found.censored
        reasons = dict(found.reasons)
        if not bounds:
            reasons |= {
                i: bound_reason(bound_text(table.columns[guess.value][i], side))
                for i, side in enumerate(censored)
                if side
            }
        rejected += [table.reject(i, f"{guess.value}: {reason}") for i, reason in reasons.items()]
        keep = np.asarray([i for i in keep if i not in reasons], dtype=np.int64)
        values = values[keep]
        errors = np.asarray([found.errors.get(i, np.nan) for i in keep.tolist()], dtype=np.float64)
    smiles = table.columns[guess.smiles]
    return MoleculeFile(
        smiles=[smiles[i] for i in keep],
        values=values,
        ids=None if ids is None else [ids[i] for i in keep],
        rows=table.rows[keep],
        lines=table.lines,
        rejected=tuple(sorted(rejected, key=lambda r: r.row)),
        guess=guess,
        path=table.path,
        total=len(table.lines),
        censored=tuple(censored[i] for i in keep),
        notes=tuple(notes),
        errors=errors,
    )


def _choices(table: DataTable) -> str:
    return f"Name it; the columns are: {', '.join(map(repr, table.header))}."


def tidy_ids(table: DataTable, name: str, notes: list[str] | None = None) -> list[str]:
    """Ids as they were meant: 13 where pandas wrote 13.0; what Excel has spoilt is told."""
    ids, notes = table.columns[name], [] if notes is None else notes
    filled = [cell for cell in ids if cell]
    if filled and all(re.fullmatch(r"\d+\.0", cell) or is_missing(cell) for cell in filled):
        notes.append(f"ids of column {name!r} are whole numbers: {filled[0]!r} is read as {filled[0][:-2]!r}")
        return [cell[:-2] if cell.endswith(".0") else cell for cell in ids]
    for pattern, words in (
        (re.compile(r"\d\.\d+E\+\d+"), "looks like a long number that Excel shortened: digits are lost"),
        (_EXCEL_DATE, "looks like a date that Excel made of a name such as 1-2"),
    ):
        places = [i for i, cell in enumerate(ids) if pattern.fullmatch(cell)]
        if places:
            notes.append(
                f"line {table.line(places[0])}: id {ids[places[0]]!r} {words} ({len(places)} such ids)"
            )
    return ids
