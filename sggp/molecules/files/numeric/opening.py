"""Which files are read as numbers, by blocks, and not as text."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from sggp.errors import DataFileError
from sggp.molecules.files.formats.arrow import ARROW, PARQUET
from sggp.molecules.files.numeric.batches import open_batches
from sggp.molecules.files.numeric.lines import open_lines
from sggp.molecules.files.numeric.source import NumberFile
from sggp.molecules.files.sources import opened

LARGE = 4 * 2**20
"""Bytes of a file from which on it is read by blocks: as text each of its numbers takes a kilobyte."""


def open_numbers(path: Path, *, decimal: str | None = None, least: int | None = None) -> NumberFile | None:
    """A large table with columns of numbers, to be read by blocks.

    Args:
        path: the file. decimal: "." or ",", as of `read_table`. least: bytes it has to have; None for 4 MiB.

    Returns:
        None for files that `read_table` reads, or refuses: smaller ones, workbooks, SD files, UTF-16, and numbers with
        decimal commas, thousands or per cent signs among the first thousand rows.

    Raises:
        MissingExtra: a Parquet or Arrow file, and pyarrow is not installed.
    """
    with suppress(DataFileError):
        with opened(path) as raw:
            start = raw.read(len(ARROW))
            if raw.seek(0, 2) < (LARGE if least is None else least):
                return None
        return open_batches(path) if start.startswith((ARROW, PARQUET)) else open_lines(path, decimal)
    return None
