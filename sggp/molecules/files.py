"""Reading users' tables (CSV, TSV, SMI; gzip accepted) without losing a row silently."""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TextIO

import numpy as np

from sggp.checks import as_path
from sggp.errors import DataFileError
from sggp.files import write_whole
from sggp.molecules.columns import ColumnGuess, check_header, choose_columns

_SMI_ENDINGS = (".smi", ".smiles", ".ism")


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
        lines: line of the file for each of the n data rows, complete or not.
        rejected: rows with too few or too many cells.
    """

    path: Path
    columns: dict[str, list[str]]
    rows: np.ndarray
    lines: np.ndarray
    rejected: tuple[RejectedRow, ...] = ()

    @property
    def header(self) -> tuple[str, ...]:
        """Column names in the order of the file."""
        return tuple(self.columns)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class MoleculeFile:
    """Molecules read from a file, with a value each where a value column was read.

    Attributes:
        smiles: m texts, not yet parsed.
        values: (m,) float64, or None.
        ids: m texts, or None.
        rows: (m,) 0-based data rows; `lines[row]` is the line in the file.
        lines: (n,) line of every data row.
        rejected: rows that could not be used, and why.
        guess: which columns were used and why.
        path: the file.
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


def guess_columns(
    table: DataTable, *, smiles: str | None = None, value: str | None = None, id: str | None = None
) -> ColumnGuess:
    """Which columns hold SMILES, values and ids, and why; a name that is given is taken.

    Raises:
        DataFileError: a name that is given is not in the file. What cannot be guessed is None in the result.
    """
    return choose_columns(str(table.path), table.columns, smiles=smiles, value=value, id=id)


def read_molecules(
    path: str | os.PathLike[str],
    *,
    smiles_column: str | None = None,
    value_column: str | None = None,
    id_column: str | None = None,
    need_values: bool = False,
) -> MoleculeFile:
    """Read SMILES (and values and ids) from a table.

    Args:
        path: CSV, TSV or SMI file, gzip accepted.
        smiles_column: name of the SMILES column; None guesses it.
        value_column: name of the value column; None guesses it if `need_values`.
        id_column: name of the id column; None guesses it and may find none.
        need_values: read a number from every row; rows without one are rejected.

    Raises:
        DataFileError: the file is missing, empty, damaged, has no header, or a column is missing or ambiguous.
    """
    table = read_table(path)
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
    smiles = table.columns[guess.smiles]
    ids = None if guess.id is None else table.columns[guess.id]
    keep = np.arange(len(table))
    values, rejected = None, list(table.rejected)
    if has_values and guess.value is not None:
        values, reasons = parse_numbers(table.columns[guess.value])
        for i, reason in reasons.items():
            content = ",".join(column[i] for column in table.columns.values())
            row = int(table.rows[i])
            rejected.append(RejectedRow(row, int(table.lines[row]), content, f"{guess.value}: {reason}"))
        keep = np.asarray([i for i in keep if i not in reasons], dtype=np.int64)
        values = values[keep]
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
    )


def _choices(table: DataTable) -> str:
    return f"Name it; the columns are: {', '.join(map(repr, table.header))}."


def parse_numbers(cells: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
    """(n,) float64 with NaN where there is no finite number, and the reason for each such position."""
    values = np.full(len(cells), np.nan)
    reasons: dict[int, str] = {}
    for i, text in enumerate(cell.strip() for cell in cells):
        try:
            number = float(text)
        except ValueError:
            reasons[i] = f"not a number: {text!r}" if text else "no value"
            continue
        if math.isfinite(number):
            values[i] = number
        else:
            reasons[i] = f"not finite: {text!r}"
    return values, reasons


def read_table(path: str | os.PathLike[str]) -> DataTable:
    """Read a CSV (`,` or `;`), TSV or SMI file as text, gzip accepted; blank lines are skipped.

    SMI files need no header: their columns are "smiles" and "id". Rows with a wrong number of cells are collected in
    `rejected`, never dropped silently.

    Raises:
        DataFileError: missing, empty, damaged or undecodable file, no header, no data row, repeated column names.
    """
    target = as_path(path, "path")
    with _open_text(target) as stream:
        try:
            return _parse(target, stream)
        except (csv.Error, UnicodeDecodeError, EOFError, OSError) as error:
            raise DataFileError(f"{target}: cannot be read as a text table ({error}).") from error


@contextmanager
def _open_text(path: Path) -> Iterator[TextIO]:
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            data = gzip.GzipFile(fileobj=raw) if packed else raw
            with io.TextIOWrapper(data, encoding="utf-8-sig", newline="") as text:
                yield text
    except FileNotFoundError as error:
        raise DataFileError(f"{path}: no such file.") from error
    except IsADirectoryError as error:
        raise DataFileError(f"{path}: is a folder, not a file.") from error
    except PermissionError as error:
        raise DataFileError(f"{path}: no permission to read it.") from error


def _records(path: Path, stream: TextIO) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every record that is not blank."""
    first = stream.readline()
    while first and not first.strip():
        first = stream.readline()
    if not first:
        raise DataFileError(f"{path}: the file is empty.")
    stream.seek(0)
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(_SMI_ENDINGS):
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield number, (line.strip().split("\t") if "\t" in line.strip() else line.split(maxsplit=1))
        return
    delimiter = max((",", "\t", ";"), key=first.count)
    reader, number = csv.reader(stream, delimiter=delimiter), 1
    for record in reader:
        if any(cell.strip() for cell in record):
            yield number, record
        number = reader.line_num + 1


def _parse(path: Path, stream: TextIO) -> DataTable:
    records = _records(path, stream)
    line, first = next(records)
    is_smi = path.name.lower().removesuffix(".gz").endswith(_SMI_ENDINGS)
    pending: list[tuple[int, list[str]]] = []
    if is_smi and first[0].strip().lower() not in {"smiles", "smi", "canonical_smiles"}:
        header = ["smiles", "id", *(f"column{i}" for i in range(3, len(first) + 1))][: max(1, len(first))]
        pending.append((line, first))
    else:
        header = check_header(str(path), first)
    columns: list[list[str]] = [[] for _ in header]
    rows: list[int] = []
    lines: list[int] = []
    rejected: list[RejectedRow] = []
    for number, record in chain(pending, records):
        row = len(lines)
        lines.append(number)
        if len(record) != len(header):
            reason = f"expected {len(header)} cells, found {len(record)}"
            rejected.append(RejectedRow(row, number, ",".join(record), reason))
            continue
        rows.append(row)
        for cells, cell in zip(columns, record, strict=True):
            cells.append(cell.strip())
    if not lines:
        raise DataFileError(f"{path}: has a header but no data row.")
    return DataTable(
        path,
        dict(zip(header, columns, strict=True)),
        np.asarray(rows, dtype=np.int64),
        np.asarray(lines, dtype=np.int64),
        tuple(rejected),
    )


def write_rejects(path: str | os.PathLike[str], rows: Iterable[RejectedRow]) -> int:
    """Write row, line, reason and content of each rejected row to a CSV file, whole or not at all.

    Returns:
        How many rows were written.
    """
    entries = list(rows)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["row", "line", "reason", "content"])
    writer.writerows([entry.row, entry.line, entry.reason, entry.content] for entry in entries)
    write_whole(path, text.getvalue())
    return len(entries)
