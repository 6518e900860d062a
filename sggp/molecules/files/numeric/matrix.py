"""The columns of a file as one array of numbers: in memory, or on disk as a file of NumPy's that is mapped."""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sggp.checks import as_path, one_of
from sggp.errors import DataFileError, InputError
from sggp.files import whole_file
from sggp.molecules.files.numeric.opening import open_numbers
from sggp.molecules.files.numeric.source import NumberBlock, NumberFile
from sggp.molecules.files.sources import opened
from sggp.molecules.files.stream import BadRow

_HEADER = 128


@dataclass(frozen=True)
class Matrix:
    """The complete rows of some columns of a file.

    Attributes:
        path: the file. names: k columns.
        values: (n, k) float64; mapped from a file where one was written.
        lines: (n,) where each row stands: its line, or its number in a Parquet or Arrow file, from 1.
        rejected: rows that are not complete, with line, content and reason.
        notes: what was decided in reading, to be told to the user.
    """

    path: Path
    names: tuple[str, ...]
    values: np.ndarray = field(repr=False)
    lines: np.ndarray = field(repr=False)
    rejected: tuple[BadRow, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    def column(self, name: str) -> np.ndarray:  # (n,)
        """A view of one column."""
        if name not in self.names:
            raise InputError(f"there is no column {name!r}; the columns are {', '.join(self.names)}.")
        return self.values[:, self.names.index(name)]


def read_matrix(
    path: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    decimal: str | None = None,
) -> Matrix:
    r"""Columns of numbers of a file of any size: CSV and other text, packed or not, Parquet or Arrow (Feather).

    Args:
        path: the file. columns: which, in this order; None for all that hold numbers.
        out: an .npy file to write the rows to, whole or not at all; `values` is then mapped from there (mode "c", so
            that `torch.from_numpy` takes it as it is), and so may be opened again by `numpy.load(out, mmap_mode="c")`.
        decimal: ".", the decimal sign, where the first rows leave it open; files with "," are read by `read_table`.

    Raises:
        DataFileError: missing, damaged, another kind of file, no such column, a column of something else than numbers,
            no complete row, or `out` cannot be written or is that file. InputError: a column that is named twice.
            MissingExtra: Parquet or Arrow without pyarrow.

    Cost: one pass; memory of 8·n·(k + 1) bytes, 8·n with `out`, and a block of rows.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from sggp.datasets import read_matrix
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder) / "t.csv"
        ...     _ = file.write_text("a,b,y\n" + "".join(f"{i},{i % 3},{2 * i}\n" for i in range(9)) + "9,x,18\n")
        ...     table = read_matrix(file)
        >>> table.values.shape, table.rejected[0].reason
        ((9, 3), "b: not a number: 'x'")
    """
    target = as_path(path, "path")
    if decimal is not None:
        one_of(decimal, "decimal", (".", ","))
    with opened(target):  # says what is wrong with a file that nobody can read
        if out is not None and (written := as_path(out, "out")).exists() and written.samefile(target):
            raise DataFileError(f"out={written} is the table that is read; choose another name.")
    file = open_numbers(target, decimal=decimal, least=0)
    if file is None:
        raise DataFileError(
            f"{target} is no table that is read by blocks: CSV with decimal points, Parquet or Arrow is. "
            "sggp.molecules.read_table reads other tables, and says what is wrong."
        )
    return gather(file, file.numbers if columns is None else list(columns), out)


def gather(file: NumberFile, names: Sequence[str], out: str | os.PathLike[str] | None = None) -> Matrix:
    """The complete rows of an open file; see `read_matrix`."""
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"columns={list(names)} has {name!r} {count} times; name each column once.")
        if name not in file.numbers:
            what = "column of numbers" if name in file.head.columns else "column"
            raise DataFileError(
                f"{file.path}: there is no {what} {name!r}; columns of numbers are {', '.join(file.numbers)}."
            )
    rest = _Rest(file, tuple(names))
    blocks = rest.passing(file.blocks(names))
    if out is None:
        values = _in_memory(blocks, len(names))
    else:
        written = as_path(out, "out")
        with whole_file(written) as stream:
            stream.write(_header(0, len(names)))
            for block in blocks:
                stream.write(np.ascontiguousarray(block.values, dtype="<f8").tobytes())
            stream.seek(0)
            stream.write(_header(rest.rows, len(names)))
        values = np.load(written, mmap_mode="c")
    lines = np.concatenate(rest.lines)
    return Matrix(file.path, rest.names, values, lines, tuple(rest.bad), tuple(rest.notes.values()))


@dataclass
class _Rest:
    """What the blocks hold beside the values, gathered as they pass."""

    file: NumberFile
    names: tuple[str, ...]
    rows: int = 0
    lines: list[np.ndarray] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    notes: dict[tuple[str, str], str] = field(default_factory=dict)

    def passing(self, blocks: Iterator[NumberBlock]) -> Iterator[NumberBlock]:
        """The blocks.

        Raises:
            DataFileError: at their end, where no row was complete, or too few cells of a column are numbers.
        """
        self.notes = {("", note): note for note in self.file.head.notes}
        for block in blocks:
            self.rows += len(block.lines)
            self.lines.append(block.lines)
            self.bad += block.bad
            for name, line, words in block.notes:
                self.notes.setdefault((name, words), f"column {name!r}, line {line}: {words}")
            yield block
        wrong = Counter(row.reason.partition(": ")[0] for row in self.bad if ": not " in row.reason)
        for name, count in wrong.most_common(1):
            if count > self.rows and name in self.names:
                first = next(row for row in self.bad if row.reason.startswith(f"{name}: not "))
                raise DataFileError(
                    f"{self.file.path}: column {name!r} is no column of numbers: {count} of {count + self.rows} cells "
                    f"are none (line {first.line}: {first.reason}). Name another column, or delete these rows."
                )
        if not self.rows:
            raise DataFileError(
                f"{self.file.path}: no row is complete; the first, in line {self.bad[0].line}: {self.bad[0].reason}."
                if self.bad
                else f"{self.file.path}: has no data row."
            )


def _in_memory(blocks: Iterator[NumberBlock], columns: int) -> np.ndarray:  # -> (n, k)
    """The rows in one array, which grows in place: they are never held twice."""
    values, rows = np.empty((0, columns)), 0
    for block in blocks:
        end = rows + len(block.values)
        if end > len(values):
            values.resize((max(end, 3 * len(values) // 2), columns), refcheck=False)
        values[rows:end] = block.values
        rows = end
    values.resize((rows, columns), refcheck=False)
    return values


def _header(rows: int, columns: int) -> bytes:
    """The first 128 bytes of an .npy file of float64."""
    told = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({rows}, {columns}), }}"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", _HEADER - 10) + told.ljust(_HEADER - 11).encode() + b"\n"
