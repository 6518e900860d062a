"""Records of a file, whatever its format, and the table that they make."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import numpy as np

from sggp.errors import DataFileError
from sggp.molecules.files.header import has_header, split_header
from sggp.molecules.files.table import DataTable, RejectedRow

SAMPLE = 200
"""Records from whose form a file's is decided."""


@dataclass
class Grid:
    """What a format gives.

    Attributes:
        records: (line, cells) of every record that is not blank, in order.
        header: names of the columns; None where the first record may hold them.
        broken: records that cannot be read, as (line, content, reason); may grow while `records` are read.
        notes: what was decided.
        decimal: "." where the numbers of the file are numbers already.
        pad: short records are complete: what is missing is empty.
    """

    records: Iterable[tuple[int, list[str]]]
    header: list[str] | None = None
    broken: list[tuple[int, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    decimal: str | None = None
    pad: bool = False


def make_table(path: Path, grid: Grid) -> DataTable:
    """The table of a grid: header or none, every record in it or among the rejected.

    Raises:
        DataFileError: no record, or nothing but a header.
    """
    records = iter(grid.records)
    start = list(islice(records, SAMPLE))
    notes = grid.notes
    if not start and not grid.broken:
        raise DataFileError(f"{path}: the file is empty.")
    if grid.header is None:
        start = _below_titles(start, notes)
        if has_header([cells for _, cells in start]):
            names, keep = split_header([cells for _, cells in start], notes)
            start = start[1:]
        else:
            width = _usual([len(cells) for _, cells in start])
            names, keep = [f"column{i}" for i in range(1, width + 1)], list(range(width))
            line, cells = start[0]
            notes.append(
                f"no header: line {line} ({','.join(cells)[:60]!r}) is read as data, and the columns are called "
                f"{', '.join(names[:3])}{', ...' if width > 3 else ''}"
            )
    else:
        names, keep = split_header([grid.header, *(cells for _, cells in start)], notes)
    return _fill(path, grid, names, keep, chain(start, records))


def _usual(counts: list[int]) -> int:
    """The most frequent count, the larger of two."""
    return max(set(counts), key=lambda count: (counts.count(count), count)) if counts else 0


def _below_titles(start: list[tuple[int, list[str]]], notes: list[str]) -> list[tuple[int, list[str]]]:
    """The records without lines of one filled cell above a table of several columns."""
    filled = [sum(1 for cell in cells if cell.strip()) for _, cells in start]
    if _usual([len(cells) for _, cells in start]) < 2 or sum(count > 1 for count in filled) < 2:
        return start
    first = next(i for i, count in enumerate(filled) if count > 1)
    for line, cells in start[:first]:
        title = next(cell for cell in cells if cell.strip())
        notes.append(f"line {line} ({title.strip()[:60]!r}) is read as a title above the table")
    return start[first:]


def _fill(
    path: Path, grid: Grid, names: list[str], keep: list[int], records: Iterable[tuple[int, list[str]]]
) -> DataTable:
    width = keep[-1] + 1 if keep else 0
    columns: list[list[str]] = [[] for _ in keep]
    lines: list[int] = []
    kept: list[int] = []
    rejected: list[tuple[int, str, str]] = grid.broken
    for line, cells in records:
        lines.append(line)
        while len(cells) > width and not cells[-1].strip():
            cells = cells[:-1]
        if grid.pad and len(cells) < width:
            cells = [*cells, *[""] * (width - len(cells))]
        if len(cells) != width:
            rejected.append((line, ",".join(cells), f"expected {width} cells, found {len(cells)}"))
            continue
        kept.append(line)
        for column, position in zip(columns, keep, strict=True):
            column.append(cells[position].strip())
    every = np.asarray(sorted({*lines, *(line for line, _, _ in rejected)}), dtype=np.int64)
    if not len(every):
        raise DataFileError(f"{path}: has a header but no data row.")
    rows = np.searchsorted(every, np.asarray(kept, dtype=np.int64))
    rejected.sort(key=lambda entry: entry[0])
    return DataTable(
        path,
        dict(zip(names, columns, strict=True)),
        rows,
        every,
        tuple(RejectedRow(int(np.searchsorted(every, entry[0])), *entry) for entry in rejected),
        tuple(grid.notes),
        grid.decimal,
    )
