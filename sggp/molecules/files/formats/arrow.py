"""Parquet and Arrow (Feather) files by batches of rows: as text, and their columns of numbers as numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sggp.errors import DataFileError, missing_extra
from sggp.molecules.files.formats.sheets import AS_CSV, Count, cell_text
from sggp.molecules.files.grid import Grid
from sggp.molecules.files.sources import limit, too_large

ARROW, PARQUET = b"ARROW1", b"PAR1"
BATCH = 65_536
"""Rows of a batch."""
_INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True)
class ArrowFile:
    """An open Parquet or Arrow file.

    Attributes:
        names: its columns, without the index that pandas stores. numbers: those of integers and floats.
        size: bytes that it takes unpacked, as far as it says.
    """

    names: list[str]
    numbers: list[str]
    size: int
    _reader: Any
    _parquet: bool

    def batches(self, names: Sequence[str], size: int | None = None) -> Iterator[Any]:
        """Record batches of some columns, of at most so many rows; None for 65,536."""
        size = BATCH if size is None else size
        if self._parquet:
            for batch in self._reader.iter_batches(columns=list(names), batch_size=size):
                yield batch.select(list(names))  # a name brings the fields of structures of that name with it
            return
        for number in range(self._reader.num_record_batches):
            batch = self._reader.get_batch(number).select(list(names))
            for start in range(0, len(batch), size):
                yield batch.slice(start, size)


@contextmanager
def open_arrow(path: Path, data: bytes | None = None) -> Iterator[ArrowFile]:
    """A Parquet or Arrow file, from its bytes where they are here; Arrow files that are not packed are mapped.

    Raises:
        DataFileError: a damaged file, also while it is read. MissingExtra: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import ipc, parquet, types
    except ImportError as error:
        raise missing_extra(
            "Reading .parquet and .arrow files needs pyarrow", "files", error, AS_CSV
        ) from error
    kind = "file"
    try:
        source = pyarrow.memory_map(str(path)) if data is None else io.BytesIO(data)
        with source:
            is_parquet = source.read(4) == PARQUET
            source.seek(0)
            kind = "Parquet file" if is_parquet else "Arrow file"
            reader = parquet.ParquetFile(source) if is_parquet else ipc.open_file(source)
            schema = reader.schema_arrow if is_parquet else reader.schema
            fields = [field for field in schema if not _INDEX.fullmatch(field.name)]
            yield ArrowFile(
                names=[field.name for field in fields],
                numbers=[f.name for f in fields if types.is_integer(f.type) or types.is_floating(f.type)],
                size=_size(reader) if is_parquet else path.stat().st_size if data is None else len(data),
                _reader=reader,
                _parquet=is_parquet,
            )
    except (pyarrow.ArrowException, OSError, ValueError, LookupError, ArithmeticError) as error:
        if isinstance(error, DataFileError):
            raise
        raise DataFileError(f"{path}: a damaged {kind} ({error}).") from error


def _size(reader: Any) -> int:
    meta = reader.metadata
    size = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
    return max(size, meta.num_rows * meta.num_columns)


def read_arrow(path: Path, data: bytes) -> Grid:
    """The records of a Parquet or Arrow file; the index that pandas stores is left out.

    Raises:
        DataFileError: a damaged file, or one beyond the limit. MissingExtra: pyarrow is not installed.
    """
    with open_arrow(path, data) as file:
        if file.size > limit():
            raise too_large(path, limit())
        count, out = Count(path), list[tuple[int, list[str]]]()
        for batch in file.batches(file.names):
            for row in texts_of(batch):
                count.add(row)
                out.append((len(out) + 1, row))
    return Grid(out, header=file.names, decimal=".")


def texts_of(batch: Any) -> list[list[str]]:
    """The cells of the rows of a batch; None has none."""
    return [] if batch is None else [list(cells) for cells in zip(*map(_texts, batch.columns), strict=True)]


def numbers_of(batch: Any) -> np.ndarray:  # -> (m, k)
    """The columns of a batch as float64, NaN where there is no value."""
    out = np.empty((len(batch), batch.num_columns))
    for place, column in enumerate(batch.columns):
        out[:, place] = column.to_numpy(zero_copy_only=False)
    return out


def _texts(array: Any) -> list[str]:
    if str(array.type) in ("float", "halffloat"):  # as short as their own precision allows
        return [cell_text(float(str(value))) for value in array.to_numpy(zero_copy_only=False)]
    return [cell_text(value) for value in array.to_pylist()]
