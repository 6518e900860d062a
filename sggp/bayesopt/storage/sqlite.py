"""The state of a campaign in one SQLite file, every change on disk before the call returns."""

from __future__ import annotations

import functools
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from sggp.bayesopt.storage.first_version import SCHEMA as FIRST_SCHEMA
from sggp.bayesopt.storage.first_version import migrate
from sggp.bayesopt.storage.rows import TABLES, VERSION, Connection, RowStorage
from sggp.bayesopt.storage.running import FileLock
from sggp.checks import as_path
from sggp.errors import DataFileError, InputError

_WAIT_SECONDS = 30.0
MAGIC = b"SQLite format 3\0"
_UNTOUCHED = "Nothing was stored, and what was there is unchanged"
_LOCKED = f"another program keeps it locked. {_UNTOUCHED}: close that program, or wait, and repeat."
_WORDS = {
    sqlite3.SQLITE_FULL: f"the disk is full. {_UNTOUCHED}: make room and repeat.",
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_READONLY: f"the file or its folder is read-only. {_UNTOUCHED}: change the permissions of both, or "
    "copy the file to a folder of your own.",
    sqlite3.SQLITE_CANTOPEN: f"it cannot be opened. {_UNTOUCHED}: see that its folder exists and that you may read and "
    "write both.",
    sqlite3.SQLITE_PERM: f"access is denied. {_UNTOUCHED}: change the permissions.",
    sqlite3.SQLITE_IOERR: f"the disk or network folder failed. {_UNTOUCHED}: see that it is there, has room and allows "
    "locks, and repeat.",
}
_DAMAGED = (
    "{} is damaged ({}). It is left as it is, since reading on would lose measurements: restore a copy, or import an "
    "export."
)


class _Transaction:
    """`Connection` over one of sqlite3."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def rows(self, sql: str, values: Mapping[str, Any] | None = None) -> list[Sequence[Any]]:
        return self.db.execute(sql, values or {}).fetchall()

    def run(self, sql: str, values: Sequence[Mapping[str, Any]] = ({},)) -> None:
        self.db.executemany(sql, values) if len(values) != 1 else self.db.execute(sql, values[0])


class SQLiteStorage(RowStorage):
    """Journal, trials and settings of one campaign in an SQLite file; see `Storage` for the methods.

    A connection is opened for each operation and changes run in an immediate transaction with a rollback journal and
    ``synchronous=EXTRA``: a process killed at any moment, or a power cut, leaves the last committed state, and the
    campaign is one file to copy whenever no program writes to it. A second process waits up to 30 s for its turn.

    At the first use the file is checked (`quick_check`), its tables must be ours and nothing beside them (no trigger,
    no view), and its trials must be what its journal says. A file of version 1 is brought to this version, a copy of it
    kept beside it.

    Args:
        path: the file.

    Raises:
        DataFileError: the file is damaged, is no campaign, or cannot be read or written; it is left as it is.
        InputError: no path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        given = as_path(path, "storage")
        if str(given) in (".", ":memory:"):
            raise InputError("a campaign is kept in a file: give the path of one, not '' or ':memory:'.")
        self._name, self.path = str(given), given.absolute()  # an objective may change the folder it works in
        self._checked = False

    @property
    def name(self) -> str:
        return self._name

    def run_lock(self) -> FileLock:
        """The lock that the runs of this campaign share; see `sggp.bayesopt.storage.running`."""
        return FileLock(self.path)

    @property
    def exists(self) -> bool:
        if not self._content():
            return False
        with self._connect() as db:
            return not self._empty(_Transaction(db))

    def _content(self) -> bool:
        """Whether there is something in the file.

        Raises:
            DataFileError: a folder or device, or no database (SQLite takes a few bytes of text for an empty one).
        """
        if not self.path.exists():
            return False
        if not self.path.is_file():
            raise DataFileError(f"{self.path} is a folder or a device: give the path of a file.")
        try:
            with self.path.open("rb") as file:
                start = file.read(len(MAGIC))
        except OSError as error:
            raise DataFileError(f"cannot read {self.path}: {error.strerror}. It is left as it is.") from error
        half_written = self.path.with_name(f"{self.path.name}-journal").exists()  # SQLite undoes that
        if start not in (b"", MAGIC) and not half_written:
            raise DataFileError(
                f"{self.path} is not an sggp campaign file (it is no database). It is left as it is."
            )
        return bool(start)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        self._check()
        with self._connect() as db:
            db.execute("BEGIN")
            self._check_schema(db)
            yield _Transaction(db)

    @contextmanager
    def _changing(self, *, create: bool = False) -> Iterator[Connection]:
        if not create:
            self._check()
        elif not self._content() and not self.path.parent.is_dir():
            raise DataFileError(f"cannot create {self.path}: the folder {self.path.parent} does not exist.")
        with self._connect("rwc" if create else "rw") as db, self._transaction(db):
            if not create:
                self._check_schema(db)
            yield _Transaction(db)
        self._checked = self._checked or create

    def _empty(self, db: Connection) -> bool:
        return not db.rows("SELECT 1 FROM sqlite_master WHERE name NOT LIKE 'sqlite~_%' ESCAPE '~'")

    @contextmanager
    def _connect(self, mode: str = "rw") -> Iterator[sqlite3.Connection]:
        try:
            address = f"{self.path.absolute().as_uri()}?mode={mode}"
            with closing(sqlite3.connect(address, _WAIT_SECONDS, isolation_level=None, uri=True)) as db:
                db.execute("PRAGMA synchronous = EXTRA")
                db.execute("PRAGMA trusted_schema = OFF")
                yield db
        except sqlite3.DatabaseError as error:
            raise self._refusal(error) from error

    @contextmanager
    def _transaction(self, db: sqlite3.Connection) -> Iterator[None]:
        if db.execute("PRAGMA journal_mode").fetchone() == (
            "wal",
        ):  # another program's choice: two more files
            db.execute("PRAGMA journal_mode = DELETE")
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # a full disk has rolled back already
                db.execute("ROLLBACK")
            raise

    def _check(self) -> None:
        """At the first use: the file is whole and ours, and of this version."""
        if self._checked:
            return
        if not self._content():
            raise DataFileError(f"there is no campaign in {self.path}.")
        with self._connect() as db:
            found = [text for (text,) in db.execute("PRAGMA quick_check(3)")]
            if found != ["ok"]:
                raise DataFileError(_DAMAGED.format(self.path, "; ".join(found)))
            first = _schema_of(db) == _schema(FIRST_SCHEMA)
            if first:
                with self._transaction(db):
                    if _schema_of(db) == _schema(FIRST_SCHEMA):  # no other process was quicker
                        copy = _copy_beside(self.path)
                        migrate(_Transaction(db), copy.name, self)
            self._check_schema(db)
        self._checked = True
        try:
            self.verify()
        except BaseException:
            self._checked = False
            raise

    def _check_schema(self, db: sqlite3.Connection) -> None:
        """Refuse a file with another table, trigger or view, by name, before anything of it is run."""
        found, ours = _schema_of(db), _schema(tuple(TABLES.values()))
        if found == ours:
            return
        if ("table", "meta") in found and ("table", "trials") in found:
            version = [row[-1] for row in db.execute("SELECT * FROM meta") if row[0] == "version"]
            if version and version[0] not in ("1", str(VERSION)):
                raise DataFileError(
                    f"{self.path} is a campaign of version {version[0]}; this sggp reads versions 1 and {VERSION}: "
                    "install a newer sggp."
                )
            foreign = [
                f"{kind} {name}" for (kind, name), sql in found.items() if ours.get((kind, name)) != sql
            ]
            raise DataFileError(
                f"{self.path} holds what sggp did not put there: {', '.join(foreign) or 'tables are missing'}. Such "
                "things can change or delete measurements, so nothing is read or written: restore a copy of the file."
            )
        names = ", ".join(f"{kind} {name}" for kind, name in found) or "nothing"
        raise DataFileError(f"{self.path} is not an sggp campaign file (it holds {names}).")

    def _refusal(self, error: sqlite3.DatabaseError) -> DataFileError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_NOTADB:
            return DataFileError(f"{self.path} is not an sggp campaign file ({error}).")
        if code == sqlite3.SQLITE_CORRUPT:
            return DataFileError(_DAMAGED.format(self.path, error))
        if code in _WORDS:
            return DataFileError(f"cannot use {self.path}: {_WORDS[code]}")
        return DataFileError(f"cannot use {self.path} ({error}). {_UNTOUCHED}.")


def _schema_of(db: sqlite3.Connection) -> dict[tuple[str, str], str | None]:
    """Everything that was created in a file, with its SQL; the names SQLite keeps for itself aside."""
    rows = db.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    return {(kind, name): sql for kind, name, sql in rows if not name.startswith("sqlite_")}


@functools.cache
def _schema(statements: tuple[str, ...]) -> dict[tuple[str, str], str | None]:
    with closing(sqlite3.connect(":memory:")) as db:
        for statement in statements:
            db.execute(statement)
        return _schema_of(db)


def _copy_beside(path: Path) -> Path:
    """A copy of the file as it is, under a name of its own: `c.db` becomes `c.version1.db`."""
    names = [
        f"{path.stem}.version1{number}{path.suffix}" for number in ("", *(f"-{i}" for i in range(2, 1000)))
    ]
    target = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        address = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as source, closing(sqlite3.connect(part)) as copy:
            source.backup(copy)
        os.replace(part, target)
    finally:
        with suppress(OSError):
            part.unlink()
    return target
