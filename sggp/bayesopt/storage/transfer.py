"""A whole campaign as JSON lines: a header, then the journal, one event a line."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any

from sggp.bayesopt.storage import journal
from sggp.bayesopt.storage.base import Event
from sggp.bayesopt.storage.sqlite import MAGIC
from sggp.checks import as_path
from sggp.errors import DataFileError
from sggp.files import write_whole

_FORMAT = "sggp campaign"
_VERSION = 1
_FIELDS = tuple(field.name for field in fields(Event))


def write_journal(path: str | os.PathLike[str], events: Sequence[Event]) -> None:
    """Write a journal, whole or not at all.

    Raises:
        DataFileError: a database is there, a campaign perhaps, or as `sggp.files.write_whole`.
    """
    target = as_path(path, "path")
    with suppress(OSError), target.open("rb") as file:
        if file.read(len(MAGIC)) == MAGIC:
            raise DataFileError(f"{target} is a database, a campaign perhaps: give the export another name.")
    header = {"format": _FORMAT, "version": _VERSION, "events": len(events)}
    lines = [header, *({name: getattr(event, name) for name in _FIELDS} for event in events)]
    write_whole(target, "".join(journal.dumps(line) + "\n" for line in lines))


def read_journal(path: str | os.PathLike[str]) -> list[Event]:
    """The journal that `write_journal` wrote, checked event by event.

    Raises:
        DataFileError: no such file, no export, one of a newer version, or lines of it are missing or were changed.
    """
    target = as_path(path, "path")
    try:
        lines = target.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise DataFileError(f"cannot read {target}: {said}.") from error
    header = _line(target, 1, lines[0] if lines else "")
    if header.get("format") != _FORMAT:
        raise DataFileError(f"{target} is no export of a campaign: its first line is not that of one.")
    if header.get("version") != _VERSION:
        raise DataFileError(
            f"{target} is an export of version {header.get('version')}; this sggp reads {_VERSION}."
        )
    if len(lines) - 1 != header.get("events"):
        raise DataFileError(
            f"{target} was cut short or added to: {len(lines) - 1} events, {header.get('events')} expected. "
            "Nothing was imported."
        )
    events = [_event(target, number, line) for number, line in enumerate(lines[1:], start=2)]
    try:
        journal.replay(events)
    except DataFileError as error:
        raise DataFileError(f"{target}: {error}. Nothing was imported: export again.") from error
    return events


def _line(target: Any, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise DataFileError(f"{target} line {number} is no JSON ({error}). Nothing was imported.") from error
    if not isinstance(found, dict):
        raise DataFileError(f"{target} line {number} is no event. Nothing was imported.")
    return found


def _event(target: Any, number: int, line: str) -> Event:
    found = _line(target, number, line)
    if set(found) != set(_FIELDS) or not isinstance(found["data"], dict):
        raise DataFileError(f"{target} line {number} is no event. Nothing was imported.")
    return Event(**found)
