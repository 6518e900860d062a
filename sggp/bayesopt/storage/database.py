"""The state of a campaign in a team's database, by SQLAlchemy (extra `sql`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sggp.bayesopt.storage.rows import EVENT_COLUMNS, TABLES, TRIAL_COLUMNS, Connection, RowStorage
from sggp.bayesopt.storage.running import RunLock
from sggp.bayesopt.storage.server_lock import ServerLock
from sggp.bayesopt.storage.sqlite import SQLiteStorage
from sggp.errors import DataFileError, InputError, missing_extra

_NEEDED = "database URLs need SQLAlchemy and a driver"
_WAIT = "30s"
_COLUMNS = {"meta": ("name", "value"), "trials": TRIAL_COLUMNS, "journal": EVENT_COLUMNS}
_NAMES = ", ".join(f"'{name}'" for name in TABLES)
_OURS = f"table_schema = current_schema() AND table_name IN ({_NAMES})"
_FOREIGN = f"""
SELECT 'trigger ' || t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE NOT t.tgisinternal AND c.relnamespace = current_schema()::regnamespace AND c.relname IN ({_NAMES})
UNION ALL
SELECT 'rule ' || rulename FROM pg_rules WHERE schemaname = current_schema() AND tablename IN ({_NAMES})
""".replace("::", r"\:\:")


class _Transaction:
    """`Connection` over one of SQLAlchemy."""

    def __init__(self, db: Any) -> None:
        from sqlalchemy import text

        self.db, self.text = db, text

    def rows(self, sql: str, values: Mapping[str, Any] | None = None) -> list[Sequence[Any]]:
        return [tuple(row) for row in self.db.execute(self.text(sql), dict(values or {}))]

    def run(self, sql: str, values: Sequence[Mapping[str, Any]] = ({},)) -> None:
        self.db.execute(self.text(sql), [dict(one) for one in values] if any(values) else None)


class SQLAlchemyStorage(RowStorage):
    """Journal, trials and settings of one campaign in one schema of a PostgreSQL database; see `Storage`.

    Several people may use it at once: changes wait for each other (30 s), and one that was decided on an older state is
    decided anew. A connection is opened for each operation. Where the user's search path names another schema
    (``?options=-csearch_path%3Dcampaign7``), that one holds the campaign: one campaign per schema.

    An SQLite URL is served too, with the guarantees of `SQLiteStorage`, whose file it is.

    Args:
        url: such as "postgresql+psycopg://user:password@host/database".

    Raises:
        MissingExtra: SQLAlchemy or the driver is not installed.
        InputError: no URL, or of a database that was never tried.
        DataFileError: the database cannot be reached, or holds other tables of these names.
    """

    def __init__(self, url: str) -> None:
        try:
            import sqlalchemy
        except ImportError as error:
            raise missing_extra(_NEEDED, "sql", error) from error
        try:
            self._engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
        except ImportError as error:
            raise missing_extra(_NEEDED, "sql", error) from error
        except sqlalchemy.exc.ArgumentError as error:
            raise InputError(f"this is no database URL: {error}.") from error
        self._dialect = self._engine.dialect.name
        if self._dialect not in ("postgresql", "sqlite"):
            raise InputError(f"campaigns are kept in PostgreSQL or SQLite; {self._dialect} was never tried.")
        self._file = None
        if self._dialect == "sqlite":
            self._file = SQLiteStorage(self._engine.url.database or "")
            sqlalchemy.event.listen(self._engine, "connect", _as_sqlite_storage_does)
        self._error = sqlalchemy.exc.SQLAlchemyError
        self._checked = False

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self._engine.url.render_as_string(hide_password=False)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["url"])  # type: ignore[misc]

    @property
    def name(self) -> str:
        return self._engine.url.render_as_string(hide_password=True)

    @property
    def exists(self) -> bool:
        if self._file is not None:
            return self._file.exists
        with self._connect() as db:
            return not self._empty(db)

    def run_lock(self) -> RunLock:
        """The lock that the runs of this campaign share; see `sggp.bayesopt.storage.running`."""
        if self._file is not None:
            return self._file.run_lock()
        return ServerLock(self._engine.connect, self._saying, self._error)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        self._check()
        with self._connect() as db:
            yield db

    @contextmanager
    def _changing(self, *, create: bool = False) -> Iterator[Connection]:
        if not create:
            self._check()
        with self._connect(change=True) as db:
            if not create:
                self._check_schema(db)
            yield db
        self._checked = self._checked or create

    def _empty(self, db: Connection) -> bool:
        if self._file is not None:
            return self._file._empty(db)
        return not db.rows(f"SELECT 1 FROM information_schema.tables WHERE {_OURS}")

    @contextmanager
    def _connect(self, *, change: bool = False) -> Iterator[Connection]:
        with self._saying(), self._engine.connect() as db:
            if self._file is not None:
                db.exec_driver_sql("BEGIN IMMEDIATE" if change else "BEGIN")
            elif change:
                db.exec_driver_sql(f"SET LOCAL lock_timeout = '{_WAIT}'")
                db.exec_driver_sql("SET LOCAL synchronous_commit = on")
                db.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('sggp ' || current_schema()))")
            else:
                db.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield _Transaction(db)
            db.commit()

    @contextmanager
    def _saying(self) -> Iterator[None]:
        """What is wrong with the database, in words."""
        try:
            yield
        except self._error as error:
            said = " ".join(str(getattr(error, "orig", None) or error).split())
            raise DataFileError(
                f"cannot use {self.name}: {said}. Nothing was stored, and what was there is unchanged."
            ) from error

    def _check(self) -> None:
        if self._checked:
            return
        if self._file is not None:
            self._file._check()
        else:
            with self._connect() as db:
                self._check_schema(db)
        self._checked = True
        try:
            self.verify()
        except BaseException:
            self._checked = False
            raise

    def _check_schema(self, db: Connection) -> None:
        """Refuse tables of other columns, and triggers or rules on them, by name."""
        if self._file is not None:
            return self._file._check_schema(db.db.connection.driver_connection)  # type: ignore[attr-defined]
        found: dict[str, list[str]] = {}
        for table, column in db.rows(
            f"SELECT table_name, column_name FROM information_schema.columns WHERE {_OURS} ORDER BY ordinal_position"
        ):
            found.setdefault(table, []).append(column)
        if not found:
            raise DataFileError(f"{self.name} holds no campaign.")
        wrong = [table for table, columns in _COLUMNS.items() if found.get(table) != list(columns)]
        if wrong:
            raise DataFileError(
                f"{self.name} is no sggp campaign of this version: unknown {', '.join(f'table {t}' for t in wrong)}."
            )
        foreign = [name for (name,) in db.rows(_FOREIGN)]
        if foreign:
            raise DataFileError(
                f"{self.name} holds what sggp did not put there: {', '.join(foreign)}. Such things can change or "
                "delete measurements, so nothing is read or written."
            )
        return None


def _as_sqlite_storage_does(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say so
    for pragma in ("synchronous = EXTRA", "trusted_schema = OFF", "busy_timeout = 30000"):
        connection.execute(f"PRAGMA {pragma}")
