"""Where the state of a campaign is kept: a protocol, and one class per kind of storage."""

from __future__ import annotations

import os
from typing import Any

from sggp.bayesopt.storage.base import Draft, Event, Moved, Snapshot, Storage
from sggp.bayesopt.storage.sqlite import SQLiteStorage
from sggp.errors import DtypeError

__all__ = ["Draft", "Event", "Moved", "SQLiteStorage", "Snapshot", "Storage", "open_storage"]


def open_storage(given: Any) -> Storage:
    """The storage that is meant: the SQLite file of a path, the database of a URL, or a `Storage` as it is.

    Raises:
        DtypeError: none of these. MissingExtra: a URL, and SQLAlchemy is not installed.
    """
    if isinstance(given, str) and "://" in given:
        from sggp.bayesopt.storage.database import SQLAlchemyStorage

        return SQLAlchemyStorage(given)
    if isinstance(given, str | os.PathLike):
        return SQLiteStorage(given)
    if isinstance(given, type) or not isinstance(given, Storage):
        raise DtypeError(f"storage must be a path, a database URL or a Storage, got {type(given).__name__}.")
    return given
