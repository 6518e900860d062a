"""What the commands share: consoles, progress bars and tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from sggp.cli.outputs import check_output, check_outputs
from sggp.errors import InputError, Stopped
from sggp.molecules.files import csv_text, visible
from sggp.running import JsonLines, ProgressLines, Stop, listening

__all__ = [
    "check_output",
    "check_outputs",
    "csv_text",
    "direction",
    "exit_as_stopped",
    "long_run",
    "print_table",
    "progress",
    "progress_lines",
    "say",
    "shown",
    "stderr",
    "stdout",
]


class _Plain(Console):
    """Text as it is, but for control characters: a terminal obeys none that came from a file."""

    def print(self, *objects: Any, **settings: Any) -> None:
        super().print(*(visible(o) if isinstance(o, str) else o for o in objects), **settings)


class _Aside(_Plain):
    """What is told beside results: a pipe, terminal or disk that takes no more of it ends no computation."""

    def print(self, *objects: Any, **settings: Any) -> None:
        with suppress(OSError):
            super().print(*objects, **settings)

    def on_broken_pipe(self) -> None:
        self.quiet = True


def stdout() -> Console:
    """Console for results: text as it is, since `[nH]` of a molecule is no markup and `:o:` no emoji."""
    return _Plain(markup=False, emoji=False, highlight=False, soft_wrap=True)


def stderr() -> Console:
    """Console for progress and notes, text as it is."""
    return _Aside(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)


def progress() -> Progress:
    """Progress bars on stderr."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=stderr())


@contextmanager
def long_run(stop: Stop, log: Path | None = None) -> Iterator[None]:
    """Progress of the block on stderr; its steps in `log`, as JSON lines.

    Where the block raises `Stopped`, the command exits as after the signal of `stop`.
    """
    with nullcontext() if log is None else JsonLines(log):
        try:
            with progress_lines():
                yield
        except Stopped as error:
            stderr().print(str(error))
            exit_as_stopped(stop)
            raise


@contextmanager
def progress_lines() -> Iterator[None]:
    """Progress of the block on stderr."""
    lines = ProgressLines(sys.stderr, notes=False)
    try:
        with listening(lines):
            yield
    finally:
        lines.close()


def exit_as_stopped(stop: Stop) -> None:
    """Leave the command with 128 plus the number of the signal that stopped it, as shells have it, if one did."""
    if stop.signal is not None:
        raise typer.Exit(128 + stop.signal)


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table of text; numbers are shown with four significant digits and aligned to the right.

    A terminal folds long cells at its width. In a pipe or file every cell stays on one line, so that a SMILES
    remains one.
    """
    listed = [list(row) for row in rows]
    out = Table(title=_text(title), title_justify="left")
    for position, name in enumerate(header):
        numeric = all(isinstance(row[position], int | float) for row in listed)
        out.add_column(_text(name), justify="right" if numeric else "left", overflow="fold")
    for row in listed:
        out.add_row(*(_text(shown(cell)) for cell in row))
    console = stdout()
    if not console.is_terminal:
        whole = console.options.update(width=sys.maxsize)
        console.width = max(console.width, Measurement.get(console, whole, out).maximum)
    console.print(out)


def _text(cell: str) -> Text:
    """Text that is neither markup nor, by its control characters, a command to the terminal; one line."""
    return Text(visible(cell).replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t"))


def say(source: Any, notes: Iterable[str]) -> None:
    """Tell on stderr what was decided in reading a file."""
    for note in notes:
        stderr().print(f"note: {source}: {note}")


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
