"""Tables that sggp writes: no cell that a spreadsheet runs as a formula, and the same text when read again."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

from sggp.files import write_whole
from sggp.molecules.files.table import RejectedRow
from sggp.molecules.files.text import visible

_FORMULA = re.compile(r"'*[=+\-@\t\r＝＋－＠]")
_QUOTED = re.compile(r"'+[=+\-@\t\r＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def shield(text: str) -> str:
    """The text with a `'` in front where a spreadsheet would take it for a formula (=, +, -, @, tab, return first).

    Numbers stay as they are. `unshield` is the inverse, and `read_table` applies it.
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def unshield(text: str) -> str:
    """A text as it was before `shield`."""
    if _QUOTED.match(text) and not _NUMBER.fullmatch(text[1:]):
        return text[1:]
    return text


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A CSV file as text; floats keep all their digits, text is shielded, control characters are written out."""
    return csv_rows([header]) + csv_rows(rows)


def csv_rows(rows: Iterable[Sequence[Any]]) -> str:
    """Further rows of a CSV file, as `csv_text` writes them."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([_cell(cell) for cell in row] for row in rows)
    return buffer.getvalue()


def _cell(cell: Any) -> Any:
    if cell is None:
        return ""
    return shield(visible(cell).replace("\r\n", "\n").replace("\r", "\\r")) if isinstance(cell, str) else cell


def write_rejects(path: str | os.PathLike[str], rows: Iterable[RejectedRow]) -> int:
    """Write row, line, reason and content of each rejected row to a CSV file, whole or not at all.

    Returns:
        How many rows were written.
    """
    entries = list(rows)
    header = ["row", "line", "reason", "content"]
    write_whole(
        path, csv_text(header, ([entry.row, entry.line, entry.reason, entry.content] for entry in entries))
    )
    return len(entries)
