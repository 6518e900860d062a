"""The next batch from libraries on disk that are larger than memory: one pass, shard by shard."""

from sggp.bayesopt.streaming.best_rows import Best, PathSearch
from sggp.bayesopt.streaming.run import Streamed, StreamProgress, suggest_from_files
from sggp.bayesopt.streaming.shards import Found, LibrarySearch
from sggp.bayesopt.streaming.state import stream_seed

__all__ = [
    "Best",
    "Found",
    "LibrarySearch",
    "PathSearch",
    "StreamProgress",
    "Streamed",
    "stream_seed",
    "suggest_from_files",
]
