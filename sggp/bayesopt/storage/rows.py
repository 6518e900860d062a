"""A campaign in three tables: what SQLite files and team databases have in common."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

from sggp.bayesopt.storage import journal
from sggp.bayesopt.storage.base import Draft, Event, Moved, Snapshot
from sggp.bayesopt.trials import Trial
from sggp.errors import DataFileError, InputError

VERSION = 2
TABLES = {
    "meta": "CREATE TABLE meta (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL)",
    "trials": """CREATE TABLE trials (
    id INTEGER PRIMARY KEY NOT NULL,
    batch INTEGER NOT NULL,
    source TEXT NOT NULL CHECK (source IN ('asked', 'attached')),
    state TEXT NOT NULL CHECK (state IN ('pending', 'measured', 'failed', 'withdrawn')),
    pool_row INTEGER,
    point TEXT,
    label TEXT,
    what TEXT,
    value DOUBLE PRECISION,
    outcomes TEXT,
    reason TEXT,
    policy TEXT,
    expected TEXT,
    why TEXT,
    cost DOUBLE PRECISION,
    asked_at TEXT NOT NULL,
    told_at TEXT,
    CHECK ((state = 'measured') = (outcomes IS NOT NULL)),
    CHECK (pool_row IS NOT NULL OR point IS NOT NULL OR what IS NOT NULL)
)""",
    "journal": """CREATE TABLE journal (
    number INTEGER PRIMARY KEY NOT NULL,
    at TEXT NOT NULL,
    what TEXT NOT NULL,
    trial INTEGER,
    data TEXT NOT NULL,
    reason TEXT,
    program TEXT NOT NULL,
    digest TEXT NOT NULL
)""",
}
TRIAL_COLUMNS = (
    "id", "batch", "source", "state", "pool_row", "point", "label", "what", "value", "outcomes", "reason", "policy",
    "expected", "why", "cost", "asked_at", "told_at",
)  # fmt: skip
EVENT_COLUMNS = ("number", "at", "what", "trial", "data", "reason", "program", "digest")
_SELECT_TRIALS = f"SELECT {', '.join(TRIAL_COLUMNS)} FROM trials"
_SELECT_EVENTS = f"SELECT {', '.join(EVENT_COLUMNS)} FROM journal"


def _insert(table: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(':' + name for name in columns)})"


_INSERT_TRIAL, _INSERT_EVENT = _insert("trials", TRIAL_COLUMNS), _insert("journal", EVENT_COLUMNS)
_UPDATE_TRIAL = (
    f"UPDATE trials SET {', '.join(f'{name} = :{name}' for name in TRIAL_COLUMNS[1:])} WHERE id = :id"
)


class Connection(Protocol):
    """A transaction: SQL with named parameters, the same for all databases."""

    def rows(self, sql: str, values: Mapping[str, Any] | None = None) -> list[Sequence[Any]]:
        """The rows that a query gives."""

    def run(self, sql: str, values: Sequence[Mapping[str, Any]] = ({},)) -> None:
        """A statement, once for each of the values."""


class RowStorage(ABC):
    """`Storage` over a database that keeps transactions; a subclass says how one is opened."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What messages call it."""

    @property
    @abstractmethod
    def exists(self) -> bool:
        """Whether it holds a campaign; a creation that was cut short does not count."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[Connection]:
        """A transaction that sees one state and changes nothing."""

    @abstractmethod
    def _changing(self, *, create: bool = False) -> AbstractContextManager[Connection]:
        """A transaction that no other change runs beside, kept whole at its end or not at all."""

    @abstractmethod
    def _empty(self, db: Connection) -> bool:
        """Whether there is none of our tables."""

    def create(self, meta: dict[str, Any]) -> None:
        """Write the tables and the settings, all or nothing.

        Raises:
            Moved: another process has created them.
            DataFileError: the place does not exist or cannot be written.
        """
        with self._changing(create=True) as db:
            if not self._empty(db):
                raise Moved(f"{self.name} was created by another process in the meantime.")
            create_tables(db)
            self._log(db, [journal.write(Draft("created", data=meta), 1, "")])
            self._keep_meta(db, meta)

    def meta(self) -> dict[str, Any]:
        with self._reading() as db:
            return _meta(db)

    def snapshot(self) -> Snapshot:
        with self._reading() as db:
            return Snapshot(_last(db)[0], [trial_of(row) for row in db.rows(f"{_SELECT_TRIALS} ORDER BY id")])

    def events(self, trial: int | None = None) -> list[Event]:
        where = "" if trial is None else " WHERE trial = :trial"
        with self._reading() as db:
            found = db.rows(
                f"{_SELECT_EVENTS}{where} ORDER BY number", None if trial is None else {"trial": trial}
            )
        return [event_of(row) for row in found]

    def append(self, drafts: Sequence[Draft], *, after: int | None = None) -> list[Trial]:
        with self._changing() as db:
            writer = _Writer(self, db)
            if after is not None and writer.last != after:
                raise Moved(f"{self.name} has {writer.last} events, not {after}.")
            trials = [writer.take(draft) for draft in drafts]
            writer.finish()
        return [trial for trial in trials if trial is not None]

    def restore(self, events: Sequence[Event]) -> int:
        meta, trials = journal.replay(events)
        with self._changing(create=not self.exists) as db:
            if self._empty(db):
                create_tables(db)
            last = _last(db)[0]
            common = min(last, len(events))
            here = db.rows("SELECT digest FROM journal WHERE number = :number", {"number": common})
            if common and here[0][0] != events[common - 1].digest:
                raise InputError(
                    f"{self.name} and what is to be imported are different campaigns, or went apart: their journals "
                    "differ. Import into a new file."
                )
            if new := list(events[last:]):
                self._log(db, new)
                db.run("DELETE FROM trials")
                self._insert_trials(db, trials)
                self._keep_meta(db, meta)
        return len(new)

    def verify(self) -> None:
        """See that the tables are what the journal says.

        Raises:
            DataFileError: they are not, or the journal was changed. Cost: the whole journal is read.
        """
        with self._reading() as db:
            events = [event_of(row) for row in db.rows(f"{_SELECT_EVENTS} ORDER BY number")]
            trials = [trial_of(row) for row in db.rows(f"{_SELECT_TRIALS} ORDER BY id")]
            meta = _meta(db)
        try:
            told, there = journal.replay(events)
            if (told, there) != (meta, trials):
                raise DataFileError("its trials or settings are not those of its journal")
        except DataFileError as error:
            raise DataFileError(
                f"{self.name} is damaged, or was changed by another program: {str(error).rstrip('.')}. It is left as "
                "it is: restore a copy of it, or import an export."
            ) from error

    def _log(self, db: Connection, events: Iterable[Event]) -> None:
        rows = [{**vars(event), "data": journal.dumps(event.data)} for event in events]
        if rows:
            db.run(_INSERT_EVENT, rows)

    def _insert_trials(self, db: Connection, trials: Iterable[Trial]) -> None:
        if rows := [row_of(trial) for trial in trials]:
            db.run(_INSERT_TRIAL, rows)

    def _keep_meta(self, db: Connection, meta: Mapping[str, Any]) -> None:
        db.run("DELETE FROM meta WHERE name <> 'version'")
        rows = [{"name": name, "value": journal.dumps(value)} for name, value in meta.items()]
        db.run("INSERT INTO meta VALUES (:name, :value)", rows)


class _Writer:
    """Turns the drafts of one transaction into events and rows."""

    def __init__(self, storage: RowStorage, db: Connection) -> None:
        self.storage, self.db = storage, db
        self.last, self.before = _last(db)
        self.meta = _meta(db)
        self.outcomes = journal.outcome_names(self.meta)
        self.highest = int(db.rows("SELECT COALESCE(MAX(id), 0) FROM trials")[0][0])
        self.batch: int | None = None
        self.events: list[Event] = []
        self.new: dict[int, Trial] = {}
        self.changed: dict[int, Trial] = {}

    def take(self, draft: Draft) -> Trial | None:
        if draft.what == "settings":
            self.meta = journal.with_settings(self.meta, draft.data)
            self._write(draft)
            return None
        if draft.what in ("asked", "attached"):
            number = self.highest + len(self.new) + 1
            if draft.what == "asked":
                draft = replace(draft, data={**draft.data, "batch": self._batch()})
            event = self._write(replace(draft, trial=number))
            self.new[number] = journal.start(event, number, self.outcomes)
            return self.new[number]
        trial = self._trial(draft.trial)
        if not journal.check(trial, draft):
            return trial
        after = journal.change(trial, self._write(draft), self.outcomes)
        (self.new if after.id in self.new else self.changed)[after.id] = after
        return after

    def finish(self) -> None:
        self.storage._log(self.db, self.events)
        self.storage._insert_trials(self.db, self.new.values())
        if self.changed:
            self.db.run(_UPDATE_TRIAL, [row_of(trial) for trial in self.changed.values()])
        if any(event.what == "settings" for event in self.events):
            self.storage._keep_meta(self.db, self.meta)

    def _write(self, draft: Draft) -> Event:
        number = self.last + len(self.events) + 1
        event = journal.write(draft, number, self.events[-1].digest if self.events else self.before)
        self.events.append(event)
        return event

    def _batch(self) -> int:
        if self.batch is None:
            self.batch = 1 + int(self.db.rows("SELECT COALESCE(MAX(batch), 0) FROM trials")[0][0])
        return self.batch

    def _trial(self, number: int | None) -> Trial:
        for known in (self.changed, self.new):
            if number in known:
                return known[number]
        rows = self.db.rows(f"{_SELECT_TRIALS} WHERE id = :id", {"id": number})
        if not rows:
            raise InputError(
                f"{self.storage.name} has no trial {number}; its ids end at {self.highest} (see results())."
            )
        return trial_of(rows[0])


def create_tables(db: Connection) -> None:
    """The tables of this version, with nothing in them but the version."""
    for table in TABLES.values():
        db.run(table)
    db.run("INSERT INTO meta VALUES ('version', :version)", [{"version": str(VERSION)}])


def _last(db: Connection) -> tuple[int, str]:
    """Number and digest of the last event."""
    found = db.rows("SELECT number, digest FROM journal ORDER BY number DESC LIMIT 1")
    return (int(found[0][0]), str(found[0][1])) if found else (0, "")


def _meta(db: Connection) -> dict[str, Any]:
    return {
        name: json.loads(value)
        for name, value in db.rows("SELECT name, value FROM meta")
        if name != "version"
    }


def row_of(trial: Trial) -> dict[str, Any]:
    """A trial as a row of the table `trials`."""
    point = journal.point_json(trial.x)
    return {
        **{name: getattr(trial, name) for name in TRIAL_COLUMNS if hasattr(trial, name)},
        "pool_row": trial.index,
        "point": point if isinstance(point, str | None) else journal.dumps(point),
        "what": trial.key,
        "outcomes": json.dumps(journal.values_json(trial.values)) if trial.state == "measured" else None,
        "expected": None if trial.expected is None else journal.dumps(trial.expected),
    }


def trial_of(row: Sequence[Any]) -> Trial:
    """The trial of a row."""
    read = dict(zip(TRIAL_COLUMNS, row, strict=True))
    point, outcomes, expected = read.pop("point"), read.pop("outcomes"), read.pop("expected")
    x = journal.json_point(json.loads(point) if point is not None and point.startswith("[") else point)
    return Trial(
        index=read.pop("pool_row"),
        x=x,
        key=read.pop("what"),
        values={} if outcomes is None else journal.json_values(json.loads(outcomes)),
        expected=None if expected is None else tuple(json.loads(expected)),
        **read,
    )


def event_of(row: Sequence[Any]) -> Event:
    """The event of a row."""
    read = dict(zip(EVENT_COLUMNS, row, strict=True))
    return Event(**{**read, "data": json.loads(read["data"])})
