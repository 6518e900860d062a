"""What the commands share: consoles, progress bars, tables, and files that appear whole or not at all."""

from __future__ import annotations

import csv
import io
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sggp.errors import DataFileError, InputError

__all__ = [
    "csv_text",
    "direction",
    "print_table",
    "progress",
    "shown",
    "stderr",
    "stdout",
    "whole_file",
    "write_whole",
]


def stdout() -> Console:
    """Console for results: text as it is, since `[nH]` of a molecule is no markup and `:o:` no emoji."""
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True)


def stderr() -> Console:
    """Console for progress and notes, text as it is."""
    return Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)


def progress() -> Progress:
    """Progress bars on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=stderr())


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table of text; numbers are shown with four significant digits and aligned to the right.

    A terminal folds long cells at its width. In a pipe or file every cell stays on one line, so that a SMILES
    remains one.
    """
    listed = [list(row) for row in rows]
    out = Table(title=title, title_justify="left")
    for position, name in enumerate(header):
        numeric = all(isinstance(row[position], int | float) for row in listed)
        out.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in listed:
        out.add_row(*(shown(cell) for cell in row))
    console = stdout()
    if not console.is_terminal:
        whole = console.options.update(width=sys.maxsize)
        console.width = max(console.width, Measurement.get(console, whole, out).maximum)
    console.print(out)


def shown(cell: Any) -> str:
    """A cell as text."""
    if cell is None:
        return ""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def direction(maximize: bool, minimize: bool) -> bool:
    """True to maximise; refuses none and both.

    Raises:
        InputError: not exactly one of the two was given.
    """
    if maximize == minimize:
        given = "both were given" if maximize else "neither was given"
        raise InputError(
            f"say which way is better: exactly one of --maximize and --minimize is needed; {given}."
        )
    return maximize


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A CSV file as text; floats keep all their digits."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    return buffer.getvalue()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which replaces it once the block ends well and leaves nothing otherwise.

    Raises:
        DataFileError: the folder does not exist or cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise DataFileError(f"cannot write {path}: {error.strerror or error}.") from error
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it appears whole or not at all.

    Raises:
        DataFileError: the folder does not exist or cannot be written.
    """
    with whole_file(path) as temporary:
        data = content.encode() if isinstance(content, str) else content
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())


def check_output(path: Path, *inputs: Path) -> None:
    """Refuse an output path before any work is done.

    Raises:
        DataFileError: the folder of `path` does not exist or cannot be written, or `path` is a folder or an input.
    """
    if path.is_dir():
        raise DataFileError(f"cannot write {path}: it is a folder.")
    if path.resolve() in [given.resolve() for given in inputs]:
        raise DataFileError(f"cannot write {path}: it is read as an input; choose another name.")
    if not path.parent.is_dir():
        raise DataFileError(f"cannot write {path}: the folder {path.parent} does not exist.")
    if not os.access(path.parent, os.W_OK):
        raise DataFileError(f"cannot write {path}: no permission in {path.parent}.")
