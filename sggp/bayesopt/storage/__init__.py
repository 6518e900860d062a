"""Where the state of a campaign is kept: a protocol, and one class per kind of storage."""

from sggp.bayesopt.storage.base import Draft, Event, Moved, Snapshot, Storage
from sggp.bayesopt.storage.sqlite import SQLiteStorage

__all__ = ["Draft", "Event", "Moved", "SQLiteStorage", "Snapshot", "Storage"]
