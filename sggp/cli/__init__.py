"""The `sggp` command. Needs typer and rich (extra ``cli``)."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Sequence

__all__ = ["main"]

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of glibc's malloc.h
_LARGE = 2 * 2**20


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (None: the process's own arguments) and return its exit code.

    0 is success, 1 success in part (some rows of a file were not used, or fewer points than asked for), 2 an error that
    is described in one line on stderr, 130 an interruption.
    """
    missing = [name for name in ("typer", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        needed = " and ".join(missing)
        sys.stderr.write(f'error: the sggp command needs {needed}: pip install "sggp[cli]"\n')
        return 2
    _shorten_spinning()
    _give_memory_back()
    try:
        from sggp.cli.app import run
    except KeyboardInterrupt:  # loading takes seconds
        sys.stderr.write("interrupted\n")
        return 130
    return run(list(sys.argv[1:] if argv is None else argv))


def _shorten_spinning() -> None:
    """Let torch's idle threads sleep after a short spin, in this process and before torch is loaded.

    By default GNU's OpenMP spins for milliseconds at the end of every small operation; on a machine that also does
    something else each spin waits for a thread that is not running, which made a search of 15 seconds take minutes. A
    value set by the user stays.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _give_memory_back() -> None:
    """Let glibc return large arrays to the system when they are freed, in this process and before torch is loaded.

    By default it keeps freed blocks of up to 32 MiB, and the matrices of a fit then lie idle beside those of the steps
    after it. A value set by the user stays; other C libraries are left alone.
    """
    if "torch" in sys.modules or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    set_option(_MMAP_THRESHOLD, _LARGE)
