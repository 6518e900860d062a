"""Which runs of a campaign go on: one that finds another leaves it the trials that it evaluates."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: every run counts as the only one
    fcntl = None  # type: ignore[assignment]


class _Process:
    """What the runs of this process share."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Nothing goes on, as in a process that was just forked: the locks are its parent's."""
        self.starting = threading.Lock()  # held while a run looks for trials without a result
        self.held: dict[Path, tuple[int, int]] = {}  # descriptor of the lock file, and runs that share it


_HERE = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_HERE.begin)


class Running:
    """Held for the time of a run: whether it is the only one of the campaign, in any process of this machine.

    Runs of a campaign file share a lock on a file beside it, which the last one deletes. It belongs to the process:
    its workers do not hold it, and it ends with the process however that ends. Campaigns in a server's database have
    none: there every run counts as the only one.

    Attributes:
        alone: whether no other run went on when this one began.
    """

    def __init__(self, store: Any) -> None:
        path = getattr(store, "path", None)
        self._path = path.with_name(f"{path.name}.running") if isinstance(path, Path) else None
        self._starting = self._holds = False
        self.alone = True

    def __enter__(self) -> Running:
        if self._path is not None and fcntl is not None:
            _HERE.starting.acquire()
            self._starting = True
            with suppress(OSError):  # a file system without locks, or one that is not to be written to
                self._join(self._path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._holds or self._path is None:
            self.begun()
            return
        if not self._starting:
            _HERE.starting.acquire()
            self._starting = True
        with suppress(OSError):
            self._leave(self._path)
        self.begun()

    def begun(self) -> None:
        """The trials without a result were looked for: other runs may begin."""
        if self._starting:
            if self._holds and self._path is not None:
                with suppress(OSError):
                    fcntl.lockf(_HERE.held[self._path][0], fcntl.LOCK_SH)
            self._starting = False
            _HERE.starting.release()

    def _join(self, path: Path) -> None:
        descriptor, count = _HERE.held.get(path, (-1, 0))
        if count == 0:
            descriptor, self.alone = _locked(path)
        else:
            self.alone = False
        _HERE.held[path] = (descriptor, count + 1)
        self._holds = True

    def _leave(self, path: Path) -> None:
        descriptor, count = _HERE.held.pop(path)
        self._holds = False
        if count > 1:
            _HERE.held[path] = (descriptor, count - 1)
            return
        try:
            with suppress(BlockingIOError, PermissionError):
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
        finally:
            os.close(descriptor)


def _locked(path: Path) -> tuple[int, bool]:
    """A descriptor of the lock file, locked for this process alone (True), or shared with others (False)."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        alone = True
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            alone = False
            fcntl.lockf(descriptor, fcntl.LOCK_SH)  # waits while another run looks for trials
        except OSError:  # there are no locks here, and so nobody who shares one
            os.close(descriptor)
            path.unlink()
            raise
        with suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                return descriptor, alone
        os.close(descriptor)  # deleted by the last run that shared it
