"""Which runs of a campaign go on: one that finds another leaves it the trials that it evaluates."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

try:
    import fcntl
except ImportError:  # Windows: every run of a file counts as the only one
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


class RunLock(Protocol):
    """What the runs of one campaign share."""

    def join(self) -> bool:
        """Take part; whether nobody else does, in which case others wait until `share`."""

    def share(self) -> None:
        """Let others join."""

    def leave(self) -> None:
        """Take part no longer."""


class Running:
    """Held for the time of a run: whether it is the only one of the campaign.

    Runs of a campaign file, in any process of this machine, share a lock on a file beside it, which the last one
    deletes. Runs of a campaign in a PostgreSQL database, on any machine, share an advisory lock of the server, each by
    a session that stays open; the server finds out within two minutes that a machine is gone. Either belongs to the
    process: its workers do not hold it, and it ends with the process however that ends.

    A storage of another kind has no lock: there every run counts as the only one.

    Attributes:
        alone: whether no other run went on when this one began.

    Raises:
        DataFileError: the database cannot be reached.
    """

    def __init__(self, store: Any) -> None:
        run_lock = getattr(store, "run_lock", None)
        self._lock: RunLock | None = None if run_lock is None else run_lock()
        self._looking = False
        self.alone = True

    def __enter__(self) -> Running:
        if self._lock is not None:
            self.alone = self._lock.join()
            self._looking = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.begun()
        finally:
            if self._lock is not None:
                self._lock.leave()

    def begun(self) -> None:
        """The trials without a result were looked for: other runs may begin."""
        if self._looking and self._lock is not None:
            self._looking = False
            self._lock.share()


class FileLock:
    """A run's part in the lock of a campaign file; see `RunLock`. A folder without locks keeps nobody from running."""

    def __init__(self, path: Path) -> None:
        path = path.resolve()  # by whatever link it was named
        self._path = path.with_name(f"{path.name}.running")
        self._holds = False

    def join(self) -> bool:
        _HERE.starting.acquire()
        try:
            descriptor, count = _HERE.held.get(self._path, (-1, 0))
            alone = False
            if count == 0:
                descriptor, alone = _locked(self._path)
        except OSError:  # a system without locks, or a folder that is not to be written to
            return True
        except BaseException:
            _HERE.starting.release()
            raise
        _HERE.held[self._path] = (descriptor, count + 1)
        self._holds = True
        return alone

    def share(self) -> None:
        if self._holds:
            with suppress(OSError):
                fcntl.lockf(_HERE.held[self._path][0], fcntl.LOCK_SH)
        _HERE.starting.release()

    def leave(self) -> None:
        if not self._holds:
            return
        self._holds = False
        with _HERE.starting, suppress(OSError):
            descriptor, count = _HERE.held.pop(self._path)
            if count > 1:
                _HERE.held[self._path] = (descriptor, count - 1)
                return
            try:
                with suppress(BlockingIOError, PermissionError):
                    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._path.unlink()
            finally:
                os.close(descriptor)


def _locked(path: Path) -> tuple[int, bool]:
    """A descriptor of the lock file, locked for this process alone (True), or shared with others (False)."""
    if fcntl is None:
        raise OSError("no locks of this kind")
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
