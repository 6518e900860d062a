"""The bytes of a user's file: no devices, no endless archives, and a word on what a file is instead of a table."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sggp.errors import DataFileError
from sggp.persistence import is_safetensors

MAX_BYTES = 2**30
"""Largest table read by default, unpacked: 1 GiB. The environment variable SGGP_MAX_TABLE_BYTES sets another."""

BAD_ARCHIVE = (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, OSError, EOFError, struct.error)
"""What `zipfile` raises on an archive that is damaged or has a password."""

_LIMIT = "SGGP_MAX_TABLE_BYTES"
_PIECE = 2**20
_PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_OTHERS = {
    b"%PDF": "a PDF; save the table in it as CSV or .xlsx",
    b"\xd0\xcf\x11\xe0": "an old Excel file (.xls) or one with a password; save it as .xlsx or CSV, without password",
    b"SQLite format 3\x00": "a database (a campaign, perhaps), not a table",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"{\\rtf": "a text document (RTF); save the table as CSV",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"\x28\xb5\x2f\xfd": "packed by zstd; unpack it, or pack it by gzip",
    b"\x89HDF": "an HDF5 file; save the table as CSV or .parquet",
    b"\x7fELF": "a program",
    b"MZ\x90": "a program",
    b"version https://git-lfs": "a pointer of Git LFS, not the file; fetch it by git lfs pull",
    b"\x80\x04": "a Python pickle; save the table as CSV or .parquet",
    b"\x80\x05": "a Python pickle; save the table as CSV or .parquet",
}


def limit() -> int:
    """Largest table in bytes, unpacked."""
    text = os.environ.get(_LIMIT, "")
    if not text:
        return MAX_BYTES
    try:
        return max(1, int(float(text)))
    except (ValueError, OverflowError) as error:
        raise DataFileError(f"{_LIMIT} must be a number of bytes, got {text!r}.") from error


def read_bytes(path: Path) -> tuple[bytes, str]:
    """The bytes of a file, unpacked (gzip, bzip2, xz), and its kind: "text", "xlsx", or "arrow" for Parquet, too.

    Raises:
        DataFileError: no regular file, missing, unreadable, damaged, larger than the limit, or no table.
    """
    with opened(path) as raw:
        data = _unpacked(path, raw)
    return data, kind_of(path, data)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a regular file, packed as they are; what goes wrong in the block is told with the file's name.

    Raises:
        DataFileError: no regular file, missing, unreadable or damaged.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise DataFileError(f"{path}: is a folder, not a file.")
        if not stat.S_ISREG(mode):
            what = (
                "a pipe" if stat.S_ISFIFO(mode) else "a device" if stat.S_ISCHR(mode) else "no regular file"
            )
            raise DataFileError(f"{path}: is {what}; write its content to a file and give that.")
        with path.open("rb") as raw:
            yield raw
    except FileNotFoundError as error:
        raise DataFileError(f"{path}: no such file.") from error
    except PermissionError as error:
        raise DataFileError(f"{path}: no permission to read it.") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        if isinstance(error, DataFileError):
            raise
        raise DataFileError(f"{path}: cannot be read as a table ({error}); is it damaged?") from error


def unpacking(raw: IO[bytes]) -> IO[bytes]:
    """The stream unpacked (gzip, bzip2, xz) as it is read, or itself where it is not packed."""
    start = raw.read(6)
    raw.seek(0)
    opener = next((opener for magic, opener in _PACKED.items() if start.startswith(magic)), None)
    return raw if opener is None else opener(raw)


def too_large(path: Path, most: int) -> DataFileError:
    """The error of a table beyond the limit."""
    return DataFileError(
        f"{path}: holds more than {most:,} bytes unpacked, the largest table that is read. Set the environment "
        f"variable {_LIMIT} to allow more, or split the file."
    )


def _unpacked(path: Path, raw: IO[bytes]) -> bytes:
    most = limit()
    for _ in range(2):
        unpacked = unpacking(raw)
        if unpacked is raw:
            break
        raw = io.BytesIO(_bounded(path, unpacked, most))
    return _bounded(path, raw, most)


def _bounded(path: Path, stream: IO[bytes], most: int) -> bytes:
    out = bytearray()
    while piece := stream.read(_PIECE):
        out += piece
        if len(out) > most:
            raise too_large(path, most)
    return bytes(out)


def kind_of(path: Path, data: bytes) -> str:
    """Text, xlsx or arrow, from the bytes of a file; other kinds are refused by a DataFileError."""
    if data.startswith((b"PAR1", b"ARROW1")):
        return "arrow"
    if data.startswith(b"PK\x03\x04"):
        return _zip_kind(path, data)
    for magic, words in _OTHERS.items():
        if data.startswith(magic):
            raise DataFileError(f"{path}: is no table but {words}.")
    if is_safetensors(data):
        raise DataFileError(f"{path}: is no table but a model of sggp, or another file of safetensors.")
    start = data[:1000].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<table")):
        raise DataFileError(
            f"{path}: is a web page, not a table; was it saved by a download that needs a login?"
        )
    if start.startswith((b"<?xml", b'{"', b"[{")):
        raise DataFileError(f"{path}: is XML or JSON, not a table; save it as CSV.")
    return "text"


def _zip_kind(path: Path, data: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except BAD_ARCHIVE as error:
        raise DataFileError(f"{path}: a damaged archive or .xlsx file ({error}).") from error
    names = {entry.filename for entry in entries}
    if "xl/workbook.xml" in names:
        if sum(entry.file_size for entry in entries) > limit():
            raise too_large(path, limit())
        return "xlsx"
    if "content.xml" in names:
        raise DataFileError(f"{path}: is an OpenDocument file; save it as .xlsx or CSV.")
    if {"model.json", "posterior"} <= names:
        raise DataFileError(f"{path}: is a model written by sggp fit, not a table.")
    if "xl/workbook.bin" in names:
        raise DataFileError(f"{path}: is a binary Excel file (.xlsb); save it as .xlsx or CSV.")
    raise DataFileError(
        f"{path}: is a zip archive of {len(names)} file(s); unpack it and give the table in it."
    )
