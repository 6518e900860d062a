"""Files of version 1, which knew trials by the row of their pool and kept no journal."""

from __future__ import annotations

import json
from typing import Any

from sggp.bayesopt.storage import journal
from sggp.bayesopt.storage.base import Draft, Event
from sggp.bayesopt.storage.rows import Connection, RowStorage, create_tables

SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE trials (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    batch INTEGER NOT NULL,
    source TEXT NOT NULL CHECK (source IN ('asked', 'attached')),
    state TEXT NOT NULL CHECK (state IN ('pending', 'measured', 'failed')),
    pool_row INTEGER,
    point TEXT,
    label TEXT,
    value REAL,
    reason TEXT,
    asked_at TEXT NOT NULL,
    told_at TEXT,
    CHECK ((state = 'measured') = (value IS NOT NULL)),
    CHECK (pool_row IS NOT NULL OR point IS NOT NULL)
)""",
    "CREATE UNIQUE INDEX asked_once ON trials (pool_row) WHERE source = 'asked' AND pool_row IS NOT NULL",
)
_COLUMNS = "id, batch, source, state, pool_row, point, label, value, reason, asked_at, told_at"
_PROGRAM = "sggp (file of version 1)"


def migrate(db: Connection, copy: str, storage: RowStorage) -> None:
    """Write the journal that leads to these trials, and put the tables of this version in the place of the old ones.

    Trials keep their row and label; what they are (`key`) is found out when the campaign is next opened with its space.
    """
    meta = {name: json.loads(value) for name, value in db.rows("SELECT key, value FROM meta")}
    meta.pop("version")
    rows = db.rows(f"SELECT {_COLUMNS} FROM trials ORDER BY id")
    events = _events(meta, rows, copy)
    for statement in ("DROP INDEX asked_once", "DROP TABLE trials", "DROP TABLE meta"):
        db.run(statement)
    create_tables(db)
    settings, trials = journal.replay(events)
    storage._log(db, events)
    storage._insert_trials(db, trials)
    storage._keep_meta(db, settings)


def _events(meta: dict[str, Any], rows: list[Any], copy: str) -> list[Event]:
    """The journal, with the times that the first version kept."""
    events: list[Event] = []

    def add(draft: Draft, at: str, program: str = _PROGRAM) -> None:
        events.append(journal.write(draft, len(events) + 1, events[-1].digest if events else "", at, program))

    add(Draft("created", data=meta), rows[0][9] if rows else journal.now())
    ends = []
    for number, batch, source, state, pool_row, point, label, value, reason, asked_at, told_at in rows:
        place = {"index": pool_row, "x": _point(point), "label": label}
        data: dict[str, Any] = {name: part for name, part in place.items() if part is not None}
        end = {"values": {"value": [value]}} if state == "measured" else {"policy": "excluded"}
        if source == "asked":
            add(Draft("asked", number, data | {"batch": batch}), asked_at)
            if state != "pending":
                what = "told" if state == "measured" else "failed"
                ends.append((told_at or asked_at, Draft(what, number, end, reason)))
        else:
            add(Draft("attached", number, data | end), asked_at)
    for at, draft in sorted(ends, key=lambda item: item[0]):
        add(draft, at)
    add(Draft("migrated", data={"from": 1, "copy": copy}), journal.now(), journal.this_program())
    return events


def _point(text: str | None) -> Any:
    return None if text is None else journal.point_json([float(part) for part in json.loads(text)])
