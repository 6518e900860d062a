"""The state of a campaign in one SQLite file, every change on disk before the call returns."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from sggp.errors import DataFileError, InputError

__all__ = ["DuplicateAsk", "NewTrial", "Trial", "TrialStore"]

State = Literal["pending", "measured", "failed"]

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
_COLUMNS = "id, batch, source, state, pool_row, point, label, value, reason, asked_at, told_at"


class DuplicateAsk(Exception):
    """Another process asked for one of these pool rows in the meantime."""


@dataclass(frozen=True)
class Trial:
    """One measurement, asked for or attached.

    Attributes:
        id: number to `tell` or `fail` with.
        index: row in the pool, None in a box or for a molecule outside the pool.
        x: point (d,) as a tuple, None for a pool row.
        label: what the pool calls the row (its SMILES), None where it has no names.
        state: pending, measured or failed.
        value: the measurement, once measured.
        reason: why it failed, once failed.
        batch: number of the `ask` that made it; 0 for attached data.
        source: asked or attached.
        asked_at, told_at: UTC times, ISO 8601.
    """

    id: int
    index: int | None
    x: tuple[float, ...] | None
    label: str | None
    state: State
    value: float | None
    reason: str | None
    batch: int
    source: str
    asked_at: str
    told_at: str | None

    @property
    def smiles(self) -> str | None:
        """The label, under the name a molecule library gives it."""
        return self.label


@dataclass(frozen=True)
class NewTrial:
    """A trial about to be written."""

    index: int | None = None
    x: tuple[float, ...] | None = None
    label: str | None = None


class TrialStore:
    """Trials and settings of one campaign in an SQLite file.

    A connection is opened for each operation, changes run in an immediate transaction with
    ``synchronous=FULL``, and a second process waits up to 30 s for its turn. A process killed at any moment
    leaves the last committed state.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def exists(self) -> bool:
        """Whether the file is there with content."""
        return self.path.is_file() and self.path.stat().st_size > 0

    def create(self, meta: dict[str, Any]) -> None:
        """Write a new campaign file with its settings, all or nothing.

        Raises:
            DataFileError: the folder does not exist or cannot be written.
        """
        if not self.path.parent.is_dir():
            raise DataFileError(f"cannot create {self.path}: the folder {self.path.parent} does not exist.")
        with self._change() as db:
            for statement in _SCHEMA.split(";"):
                if statement.strip():
                    db.execute(statement)
            for key, value in {"version": _VERSION, **meta}.items():
                db.execute("INSERT INTO meta VALUES (?, ?)", (key, json.dumps(value)))

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
            raise DataFileError(
                f"{self.path} has campaign version {found.get('version')}; this sggp reads {_VERSION}."
            )
        return found

    def trials(self) -> list[Trial]:
        """All trials by id."""
        with self._connect() as db:
            return [_trial(row) for row in db.execute(f"SELECT {_COLUMNS} FROM trials ORDER BY id")]

    def get(self, trial_id: int) -> Trial:
        """One trial.

        Raises:
            InputError: no such trial.
        """
        with self._connect() as db:
            return self._get(db, trial_id)

    def add_asked(self, new: Sequence[NewTrial]) -> list[Trial]:
        """Write a batch of pending trials, all or none.

        Raises:
            DuplicateAsk: a pool row was asked for before.
        """
        now = _now()
        with self._change() as db:
            (last,) = db.execute("SELECT COALESCE(MAX(batch), 0) FROM trials").fetchone()
            try:
                ids = [self._insert(db, trial, last + 1, "asked", None, now) for trial in new]
            except sqlite3.IntegrityError as error:
                raise DuplicateAsk(str(error)) from error
            return [self._get(db, trial_id) for trial_id in ids]

    def add_measured(self, new: Sequence[tuple[NewTrial, float]]) -> list[Trial]:
        """Write measurements made outside the campaign, all or none."""
        now = _now()
        with self._change() as db:
            ids = [self._insert(db, trial, 0, "attached", value, now) for trial, value in new]
            return [self._get(db, trial_id) for trial_id in ids]

    def finish(self, results: Sequence[tuple[int, float | None, str | None]]) -> list[Trial]:
        """Give pending trials a value, or a reason of failure, all or none; the same value twice is allowed.

        Raises:
            InputError: no such trial, or it already ended otherwise.
        """
        now = _now()
        with self._change() as db:
            for trial_id, value, reason in results:
                self._finish(db, trial_id, value, reason, now)
            return [self._get(db, trial_id) for trial_id, _, _ in results]

    def _finish(
        self, db: sqlite3.Connection, trial_id: int, value: float | None, reason: str | None, now: str
    ) -> None:
        old = self._get(db, trial_id)
        state = "failed" if value is None else "measured"
        if old.state == state and (value is None or old.value == value):
            return
        if old.state != "pending":
            was = f"measured as {old.value!r}" if old.state == "measured" else f"marked failed ({old.reason})"
            raise InputError(
                f"trial {trial_id} was already {was}; attach(x, value) adds a repeat measurement instead."
            )
        db.execute(
            "UPDATE trials SET state = ?, value = ?, reason = ?, told_at = ? WHERE id = ?",
            (state, value, reason, now, trial_id),
        )

    def _insert(
        self, db: sqlite3.Connection, new: NewTrial, batch: int, source: str, value: float | None, now: str
    ) -> int:
        point = None if new.x is None else json.dumps(list(new.x))
        measured = value is not None
        cursor = db.execute(
            "INSERT INTO trials (batch, source, state, pool_row, point, label, value, asked_at, told_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (batch, source, "measured" if measured else "pending", new.index, point, new.label, value, now)
            + ((now,) if measured else (None,)),
        )
        return cast(int, cursor.lastrowid)

    def _get(self, db: sqlite3.Connection, trial_id: int) -> Trial:
        row = db.execute(f"SELECT {_COLUMNS} FROM trials WHERE id = ?", (int(trial_id),)).fetchone()
        if row is None:
            (count,) = db.execute("SELECT COUNT(*) FROM trials").fetchone()
            raise InputError(f"{self.path} has no trial {trial_id}; it holds {count} trials (see results()).")
        return _trial(row)

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        try:
            db = sqlite3.connect(self.path, timeout=_WAIT_SECONDS, isolation_level=None)
            try:
                db.execute("PRAGMA synchronous = FULL")
                yield db
            finally:
                db.close()
        except sqlite3.OperationalError as error:
            raise DataFileError(f"cannot use {self.path}: {error}.") from error
        except sqlite3.DatabaseError as error:
            raise DataFileError(f"{self.path} is not an sggp campaign file ({error}).") from error

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._connect() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")


def _trial(row: tuple[Any, ...]) -> Trial:
    number, batch, source, state, index, point, label, value, reason, asked_at, told_at = row
    x = None if point is None else tuple(float(v) for v in json.loads(point))
    return Trial(number, index, x, label, state, value, reason, batch, source, asked_at, told_at)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
