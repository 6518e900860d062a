"""Who is still there when a collective has failed: asked over the store, which outlives the connections."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

__all__ = ["RollCall"]

SECONDS = 5.0
"""How long the others have to answer."""
_SHOWN = 300


class RollCall:
    """Finds out which ranks are lost.

    Args:
        store: a store of `torch.distributed` that all ranks reach.
        name: of this block; keys begin with it.
        rank, size: of this process.
    """

    def __init__(self, store: Any, name: str, rank: int, size: int) -> None:
        self.store, self.name, self.rank, self.size = store, name, rank, size

    def report(self, error: BaseException) -> None:
        """Leave word of this rank's own error; without waiting, and nothing is said where the store is gone."""
        with suppress(RuntimeError):
            self.store.set(self._key("failed", self.rank), f"{type(error).__name__}: {error}"[:_SHOWN])

    def describe(self, error: BaseException) -> str:
        """What to tell the user of a collective that failed on this rank."""
        try:
            silent, failed = self._ask()
        except RuntimeError:
            who = "rank 0 or the launcher, which keeps the store of this run"
        else:
            named = [f"rank {rank} ({said})" for rank, said in failed.items()]
            named += [f"rank {rank}" for rank in silent if rank not in failed]
            who = ", ".join(named) if named else "no rank, but a connection between two,"
        return (
            f"rank {self.rank} of {self.size} stops: lost {who} (a rank without a message was killed, ran out of "
            "memory or did not answer in time; its own output and the launcher's say more). Start the run again, with "
            f"any number of ranks; a solve with checkpoint= goes on from its file. {_said(error)}"
        )

    def _ask(self) -> tuple[list[int], dict[int, str]]:
        """The ranks that do not answer, and what those that failed left word of."""
        self.store.set(self._key("here", self.rank), "1")
        others = [rank for rank in range(self.size) if rank != self.rank]
        end, silent, failed = time.monotonic() + SECONDS, [], {}
        for rank in others:
            while not (there := self._has("here", rank)) and not self._has("failed", rank):
                if time.monotonic() > end:
                    break
                time.sleep(0.05)
            if self._has("failed", rank):
                failed[rank] = self.store.get(self._key("failed", rank)).decode()
            elif not there:
                silent.append(rank)
        return silent, failed

    def _has(self, what: str, rank: int) -> bool:
        return bool(self.store.check([self._key(what, rank)]))

    def _key(self, what: str, rank: int) -> str:
        return f"{self.name}/{what}/{rank}"


def _said(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"torch.distributed says: {lines[0][:_SHOWN].split(' This is typically')[0]}" if lines else ""
