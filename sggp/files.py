"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from sggp.checks import as_path
from sggp.errors import DataFileError

__all__ = ["check_target", "whole_file", "write_whole"]


def check_target(path: str | os.PathLike[str]) -> Path:
    """Refuse an output path before any work is done.

    Raises:
        InputError: `path` is neither a string nor a path.
        DataFileError: it is a folder, or its folder does not exist or cannot be written.
    """
    target = _target(path)
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            return target
    except OSError as error:
        raise _refusal(target, error) from error


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary stream whose bytes become `path` once the block ends well; otherwise `path` stays as it was.

    The bytes go to a temporary file in the same folder, which replaces `path` only once they are on the disk: a
    reader sees the old file or the new one, never half of one, whatever stops the writer.

    Raises:
        InputError, DataFileError: as `check_target`; and DataFileError where writing fails, a full disk for instance.
    """
    target = _target(path)
    temporary = target.with_name(f".{target.name[:200]}.{secrets.token_hex(8)}.part")
    try:
        with temporary.open("x+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
        _settle(target.parent)
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


def _target(path: Any) -> Path:
    target = as_path(path, "path")
    if target.is_dir():
        raise DataFileError(f"cannot write {target}: it is a folder; give the path of a file in it.")
    if not target.parent.is_dir():
        raise DataFileError(
            f"cannot write {target}: the folder {target.parent} does not exist; create it, or choose another."
        )
    return target


def _refusal(target: Path, error: OSError) -> DataFileError:
    kept = "The file that was there is unchanged" if target.exists() else "Nothing was written"
    return DataFileError(
        f"cannot write {target}: {error.strerror or error}. {kept}: make room, or choose another folder."
    )
