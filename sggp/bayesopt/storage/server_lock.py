"""The lock that runs of a campaign in a PostgreSQL database share: an advisory one, by sessions of their own."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any

_KEY = "hashtext('sggp running ' || current_schema())"
# a session without work is not to be ended, and a machine that is gone is to be noticed; where the server knows how
_SETTINGS = {
    "idle_session_timeout": "0",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "6",
}
_SET = "SELECT set_config(name, '{1}', false) FROM pg_settings WHERE name = '{0}'"

_sockets: set[int] = set()  # of the sessions of this process


def _leave_to_the_parent() -> None:
    """In a process that was just forked: it would keep its parent's sessions open after the parent's end."""
    if not _sockets:
        return
    nowhere = os.open(os.devnull, os.O_RDWR)
    for socket in _sockets:
        os.dup2(nowhere, socket, inheritable=False)
    os.close(nowhere)
    _sockets.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)


class ServerLock:
    """One run's part in the lock of a campaign's schema; see `Running` for the methods.

    Args:
        connect: makes a connection of SQLAlchemy.
        saying: a block that says what is wrong with the server.
        error: what SQLAlchemy raises.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        saying: Callable[[], AbstractContextManager[None]],
        error: type[Exception],
    ) -> None:
        self._connect, self._saying, self._error = connect, saying, error
        self._db: Any = None
        self._alone = False

    def join(self) -> bool:
        try:
            with self._saying():
                self._db = self._connect().execution_options(isolation_level="AUTOCOMMIT")
                driver = self._db.connection.driver_connection
                if hasattr(driver, "fileno"):
                    _sockets.add(driver.fileno())
                for name, value in _SETTINGS.items():
                    self._db.exec_driver_sql(_SET.format(name, value))
                self._alone = self._db.exec_driver_sql(f"SELECT pg_try_advisory_lock({_KEY})").scalar()
                if not self._alone:  # wait while another run looks for trials
                    self._db.exec_driver_sql(f"SELECT pg_advisory_lock_shared({_KEY})")
        except BaseException:
            self.leave()
            raise
        return self._alone

    def share(self) -> None:
        if self._alone:
            with self._saying():
                self._db.exec_driver_sql(f"SELECT pg_advisory_lock_shared({_KEY})")
                self._db.exec_driver_sql(f"SELECT pg_advisory_unlock({_KEY})")

    def leave(self) -> None:
        if self._db is None:
            return
        with suppress(self._error, OSError):  # the server may be gone, and the lock with it
            driver = self._db.connection.driver_connection
            if hasattr(driver, "fileno"):
                _sockets.discard(driver.fileno())
            self._db.close()
