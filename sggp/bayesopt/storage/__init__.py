"""Where the state of a campaign is kept: a protocol, and one class per kind of storage."""

from sggp.bayesopt.storage.base import DuplicateAsk, Result, Storage, ended
from sggp.bayesopt.storage.sqlite import SQLiteStorage

__all__ = ["DuplicateAsk", "Result", "SQLiteStorage", "Storage", "ended"]
