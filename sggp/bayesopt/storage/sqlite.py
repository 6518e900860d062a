"""The state of a campaign in one SQLite file, every change on disk before the call returns."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from sggp.bayesopt.storage.base import DuplicateAsk, Result, ended
from sggp.bayesopt.trials import Place, Trial
from sggp.errors import DataFileError, InputError

_VERSION = 1
_WAIT_SECONDS = 30.0
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE trials (
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
);
CREATE UNIQUE INDEX asked_once ON trials (pool_row) WHERE source = 'asked' AND pool_row IS NOT NULL;
"""
_COLUMNS = "id, pool_row, point, label, state, value, reason, batch, source, asked_at, told_at"  # as Trial


class SQLiteStorage:
    """Trials and settings of one campaign in an SQLite file; see `Storage` for the methods.

    A connection is opened for each operation, changes run in an immediate transaction with
    ``synchronous=FULL``, and a second process waits up to 30 s for its turn. A process killed at any moment
    leaves the last committed state.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def exists(self) -> bool:
        return self.path.is_file() and self.path.stat().st_size > 0

    def create(self, meta: dict[str, Any]) -> None:
        """Write a new campaign file with its settings, all or nothing.

        Raises:
            DataFileError: the folder does not exist or cannot be written.
        """
        if not self.path.parent.is_dir():
            raise DataFileError(f"cannot create {self.path}: the folder {self.path.parent} does not exist.")
        with self._change() as db:
            for statement in filter(str.strip, _SCHEMA.split(";")):
                db.execute(statement)
            values = [(key, json.dumps(value)) for key, value in {"version": _VERSION, **meta}.items()]
            db.executemany("INSERT INTO meta VALUES (?, ?)", values)

    def meta(self) -> dict[str, Any]:
        """The settings written by `create`.

        Raises:
            DataFileError: not a campaign file, or of another version.
        """
        with self._connect() as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
                raise DataFileError(f"{self.path} is not an sggp campaign file (it has no settings).")
            rows = db.execute("SELECT key, value FROM meta").fetchall()
        found = {key: json.loads(value) for key, value in rows}
        if found.get("version") != _VERSION:
            raise DataFileError(f"{self.path} is version {found.get('version')}; this sggp reads {_VERSION}.")
        return found

    def trials(self) -> list[Trial]:
        with self._connect() as db:
            return [_trial(row) for row in db.execute(f"SELECT {_COLUMNS} FROM trials ORDER BY id")]

    def add_asked(self, places: Sequence[Place]) -> list[Trial]:
        now = _now()
        with self._change() as db:
            (last,) = db.execute("SELECT COALESCE(MAX(batch), 0) FROM trials").fetchone()
            state = (last + 1, "asked", "pending", None, now, None)
            try:
                return [self._insert(db, place, *state) for place in places]
            except sqlite3.IntegrityError as error:
                raise DuplicateAsk(str(error)) from error

    def add_measured(self, measured: Sequence[tuple[Place, float]]) -> list[Trial]:
        now = _now()
        with self._change() as db:
            return [
                self._insert(db, place, 0, "attached", "measured", value, now, now)
                for place, value in measured
            ]

    def finish(self, results: Sequence[Result]) -> list[Trial]:
        now, out = _now(), []
        with self._change() as db:
            for result in results:
                new = ended(self._get(db, result.id), result, now)
                db.execute(
                    "UPDATE trials SET state = ?, value = ?, reason = ?, told_at = ? WHERE id = ?",
                    (new.state, new.value, new.reason, new.told_at, new.id),
                )
                out.append(new)
        return out

    def _insert(self, db: sqlite3.Connection, place: Place, *state: Any) -> Trial:
        point = None if place.x is None else json.dumps(place.x)
        cursor = db.execute(
            "INSERT INTO trials (pool_row, point, label, batch, source, state, value, asked_at, told_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (place.index, point, place.label, *state),
        )
        return self._get(db, cast(int, cursor.lastrowid))

    def _get(self, db: sqlite3.Connection, trial_id: int) -> Trial:
        row = db.execute(f"SELECT {_COLUMNS} FROM trials WHERE id = ?", (trial_id,)).fetchone()
        if row is None:
            (count,) = db.execute("SELECT COUNT(*) FROM trials").fetchone()
            raise InputError(f"{self.path} has no trial {trial_id}; it holds {count} trials (see results()).")
        return _trial(row)

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=_WAIT_SECONDS, isolation_level=None)) as db:
                db.execute("PRAGMA synchronous = FULL")
                yield db
        except sqlite3.OperationalError as error:
            raise DataFileError(f"cannot use {self.path}: {error}.") from error
        except sqlite3.DatabaseError as error:
            raise DataFileError(f"{self.path} is not an sggp campaign file ({error}).") from error

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._connect() as db, db:  # the second commits, or rolls back
            db.execute("BEGIN IMMEDIATE")
            yield db


def _trial(row: tuple[Any, ...]) -> Trial:
    number, index, point, *rest = row
    return Trial(number, index, None if point is None else tuple(json.loads(point)), *rest)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
