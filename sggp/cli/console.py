"""What the commands share: consoles, progress bars and tables."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sggp.errors import DataFileError, InputError
from sggp.files import check_target


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
    """True to maximise; refuses none and both."""
    if maximize == minimize:
        given = "both were given" if maximize else "neither was given"
        raise InputError(f"say which way is better: exactly one of --maximize and --minimize; {given}.")
    return maximize


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A CSV file as text; floats keep all their digits."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    return buffer.getvalue()


def check_output(path: Path, *inputs: Path) -> None:
    """Refuse an output path that is an input, or that `check_target` refuses, before any work is done."""
    if path.resolve() in [given.resolve() for given in inputs]:
        raise DataFileError(f"cannot write {path}: it is read as an input; choose another name.")
    check_target(path)
