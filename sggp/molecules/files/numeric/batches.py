"""Numbers of Parquet and Arrow files, a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sggp.molecules.files.formats.arrow import numbers_of, open_arrow, texts_of
from sggp.molecules.files.grid import Grid, make_table
from sggp.molecules.files.numeric.source import HEAD, NumberBlock, NumberFile, read_cells


@dataclass(frozen=True)
class BatchNumbers(NumberFile):
    """A Parquet or Arrow file; lines are rows, counted from 1."""

    def blocks(self, names: Sequence[str]) -> Iterator[NumberBlock]:
        """See `NumberFile.blocks`."""
        first, positions = 1, range(len(names))
        with open_arrow(self.path) as file:
            for batch in file.batches(names):
                values, lines = numbers_of(batch), np.arange(first, first + len(batch))
                first += len(batch)
                whole = np.isfinite(values).all(axis=1)
                if whole.all():
                    yield NumberBlock(values, lines)
                    continue
                gaps = np.flatnonzero(~whole)
                left = read_cells(names, positions, texts_of(batch.take(gaps)), lines[gaps].tolist())
                yield NumberBlock(values[whole], lines[whole], left.bad, left.notes)


def open_batches(path: Path) -> BatchNumbers | None:
    """A Parquet or Arrow file; None where two of its columns have one name.

    Raises:
        DataFileError: it is damaged, or has no row. MissingExtra: pyarrow is not installed.
    """
    with open_arrow(path) as file:
        rows = texts_of(next(file.batches(file.names, HEAD), None))
        head = make_table(path, Grid(list(enumerate(rows, start=1)), header=file.names, decimal="."))
        return BatchNumbers(path, head, tuple(file.numbers)) if list(head.header) == file.names else None
