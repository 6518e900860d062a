"""Files that appear whole or not at all, and files of tensors and plain values with a checksum."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import secrets
import struct
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from sggp.checks import as_path
from sggp.errors import DataFileError

__all__ = ["check_target", "read_content", "whole_file", "write_content", "write_whole"]

_DIGEST = 32
_CHUNK = 2**24
_NO_CONTENT = (
    "{} is damaged, or not a file of the format {} ({}). It is left as it is: "
    "write it again, delete it, or give another path."
)
_UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    EOFError,
    struct.error,
    pickle.UnpicklingError,
)
"""What `torch.load` raises, as it happens, on bytes that are none of its own."""


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
    except (OSError, RuntimeError) as error:
        # torch.save hides what the disk said behind an error of its own
        said = error if isinstance(error, OSError) else error.__context__
        if not isinstance(said, OSError):
            raise
        raise _refusal(target, said) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


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


# tensors and plain values -------------------------------------------------------------------------------------------


class _Window(io.RawIOBase):
    """The first `size` bytes of a file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        base = {0: 0, 1: self.file.tell(), 2: self.size}[whence]
        return self.file.seek(base + offset)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        return self.file.readinto(view[: max(0, min(len(view), self.size - self.file.tell()))])  # type: ignore[attr-defined]


def write_content(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write tensors and plain values (numbers, strings, None, lists, dicts) with a checksum, whole or not at all.

    Args:
        path: the file.
        content: has the name of its format under "format".

    Raises:
        InputError, DataFileError: as `whole_file`.
    """
    with whole_file(path) as file:
        torch.save(content, file)
        size = file.tell()
        file.seek(0)
        file.write(_digest(file, size))


def _digest(file: BinaryIO, size: int) -> bytes:
    """Checksum of the next `size` bytes."""
    digest = hashlib.blake2b(digest_size=_DIGEST)
    while size > 0 and (chunk := file.read(min(_CHUNK, size))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.digest()


def read_content(
    path: str | os.PathLike[str], form: str, *, unchecked: str = "", device: torch.device | str | None = None
) -> dict[str, Any]:
    """Read what `write_content` wrote, without running anything in it.

    Args:
        path: the file.
        form: the format that it must have.
        unchecked: an older format, of files without a checksum, that is read as well.
        device: where its tensors go; None leaves them where they were, as far as there is such a device.

    Raises:
        InputError: `path` is neither a string nor a path.
        DataFileError: the file is missing, damaged or another; it is left as it is.
    """
    target = as_path(path, "path")
    if not target.is_file():
        raise DataFileError(f"there is no file {target}{' (it is a folder)' if target.is_dir() else ''}.")
    where = device if device is not None or torch.cuda.is_available() else "cpu"
    try:
        with target.open("rb") as file:
            size = max(0, os.fstat(file.fileno()).st_size - _DIGEST)
            digest = _digest(file, size)
            checked = file.read(_DIGEST) == digest
            if not checked and not unchecked:
                raise DataFileError(_NO_CONTENT.format(target, form, "its checksum is wrong"))
            file.seek(0)
            stream: Any = _Window(file, size) if checked else file
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, of a file that is none of its own
                content = torch.load(stream, map_location=where, weights_only=True)
    except PermissionError as error:
        raise DataFileError(f"cannot read {target}: {error.strerror}.") from error
    except _UNREADABLE as error:
        if isinstance(error, DataFileError):
            raise
        raise DataFileError(_NO_CONTENT.format(target, form, "its content cannot be read")) from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != (form if checked else unchecked):
        reason = "its checksum is wrong" if found == form else f"its format is {found!r}"
        raise DataFileError(_NO_CONTENT.format(target, form, reason))
    return content
