"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from sggp.checks import as_path
from sggp.errors import DataFileError

__all__ = ["check_target", "whole_file", "write_whole"]

_STREAMS = ("/dev", "/dev/fd", "/proc/self/fd")
"""Folders of what is open already, such as /dev/stdout."""


def check_target(path: str | os.PathLike[str]) -> Path:
    """Refuse an output path before any work is done.

    Raises:
        InputError: `path` is neither a string nor a path.
        DataFileError: it is a folder, a device or a pipe, or its folder does not exist or cannot be written.
    """
    target, real = _target(path)
    try:
        with tempfile.TemporaryFile(dir=real.parent):
            return target
    except OSError as error:
        raise _refusal(target, error) from error


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary stream whose bytes become `path` once the block ends well; otherwise `path` stays as it was.

    The bytes go to a temporary file in the same folder, which replaces `path` only once they are on the disk: a
    reader sees the old file or the new one, never half of one, whatever stops the writer. A file that is replaced
    hands down its permissions; where `path` is a symbolic link the file that it leads to is replaced.

    Raises:
        InputError, DataFileError: as `check_target`; and DataFileError where writing fails, a full disk for instance.
    """
    target, real = _target(path)
    start = os.fsdecode(os.fsencode(real.name)[:200])  # names end at 255 bytes
    temporary = real.with_name(f".{start}.{secrets.token_hex(8)}.part")
    try:
        with temporary.open("x+b") as stream:
            _hand_down(real, temporary)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, real)
        _settle(real.parent)
    except OSError as error:
        raise _refusal(target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _settle(folder: Path) -> None:
    """Force a folder's new entries to the disk, where the system can: a renamed file then outlives a power cut."""
    with suppress(OSError, AttributeError):  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write `content`, text as UTF-8, so that the file appears whole or not at all.

    Raises:
        InputError, DataFileError: as `whole_file`.
    """
    with whole_file(path) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


def _hand_down(old: Path, new: Path) -> None:
    """Give the new file the permissions of the one that it replaces, where there is one and the disk has them."""
    with suppress(OSError):
        new.chmod(stat.S_IMODE(old.stat().st_mode))


def _target(path: Any) -> tuple[Path, Path]:
    """The path as it was given, and the file that it leads to, which is there already or may be made."""
    target = as_path(path, "path")
    try:
        real, mode = Path(os.path.realpath(target)), stat.S_IFREG
        folder = real.parent.is_dir()
        with suppress(FileNotFoundError, NotADirectoryError):
            mode = real.stat().st_mode
    except (OSError, ValueError) as error:  # too long a name, links in a circle, or a zero in it
        raise DataFileError(f"cannot write {target}: {_words(error)}; choose another path.") from error
    if stat.S_ISDIR(mode):
        raise DataFileError(f"cannot write {target}: it is a folder; give the path of a file in it.")
    if not folder:
        raise DataFileError(
            f"cannot write {target}: the folder {real.parent if target.is_symlink() else target.parent} does not "
            "exist; create it, or choose another."
        )
    # what a stream leads to may be a file, which another program writes to
    stream = os.path.dirname(os.path.abspath(target)) in _STREAMS
    if stream or not stat.S_ISREG(mode):  # its name would become that of a file
        raise DataFileError(f"cannot write {target}: it is a device or a pipe; give the path of a file.")
    return target, real


def _refusal(target: Path, error: OSError) -> DataFileError:
    kept = "The file that was there is unchanged" if target.exists() else "Nothing was written"
    return DataFileError(
        f"cannot write {target}: {_words(error)}. {kept}: make room, or choose another folder."
    )


def _words(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
