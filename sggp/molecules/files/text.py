"""Bytes to text: the encoding by detection, and characters that nobody sees made visible or removed."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from sggp.errors import DataFileError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
_SAMPLE = 2**16
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")
_LINE_END = re.compile("\r\n|\r|\n")


def line_of(text: str, position: int) -> int:
    """1-based line of a position in a text."""
    return 1 + len(_LINE_END.findall(text, 0, position))


def visible(text: str) -> str:
    r"""The text with control characters written out (`\x1b`), escape codes and changes of direction among them; not \t,
    \r, \n.
    """
    for pattern in (_CONTROL, _TURNING):
        text = pattern.sub(lambda match: ascii(match[0])[1:-1], text)
    return text


def decode(path: Path, data: bytes) -> tuple[str, list[str]]:
    """The text of a file and what to say about its encoding and its characters.

    UTF-8, with or without mark; UTF-16 and UTF-32 by their mark, UTF-16 also by its zeros; else Windows-1252, unless
    most of what is not ASCII is UTF-8. Characters without width are removed, control characters are written out.

    Raises:
        DataFileError: bytes that are no text.
    """
    text, notes = _decoded(path, data)
    if found := _INVISIBLE.search(text):
        line = line_of(text, found.start())
        text, count = _INVISIBLE.subn("", text)
        notes.append(
            f"{count} invisible characters removed, the first (U+{ord(found[0]):04X}) in line {line}"
        )
    if found := _CONTROL.search(text):
        line = line_of(text, found.start())
        count = len(_CONTROL.findall(text))
        text = visible(text)
        notes.append(
            f"{count} control characters written out, the first as {visible(found[0])} in line {line}"
        )
    return text, notes


def _decoded(path: Path, data: bytes) -> tuple[str, list[str]]:
    for mark, codec, name in _MARKS:
        if data.startswith(mark):
            try:
                return data.decode(codec), [] if name == "UTF-8" else [f"read as {name}"]
            except UnicodeDecodeError as error:
                if name == "UTF-8":
                    data = data[len(mark) :]
                    break
                raise DataFileError(f"{path}: cannot be read as {name} ({error}); is it damaged?") from error
    sample = data[:_SAMPLE]
    half = len(sample) // 2
    for codec, zeros, letters in (
        ("utf-16-le", sample[1::2].count(0), sample[::2].count(0)),
        ("utf-16-be", sample[::2].count(0), sample[1::2].count(0)),
    ):
        if half and zeros > 0.5 * half and letters < 0.05 * half:
            try:
                return data.decode(codec), ["read as UTF-16"]
            except UnicodeDecodeError:
                break
    controls = sum(sample.count(byte) for byte in (*range(8), *range(14, 27), *range(28, 32)))
    if controls > max(4, 0.01 * len(sample)):
        raise DataFileError(
            f"{path}: is no table but a file of bytes that are no text; give CSV, .xlsx or .sdf."
        )
    try:
        return data.decode(), []
    except UnicodeDecodeError as error:
        return _western(path, data, error)


def _western(path: Path, data: bytes, error: UnicodeDecodeError) -> tuple[str, list[str]]:
    line = 1 + len(re.findall(b"\r\n|\r|\n", data[: error.start]))
    byte = f"byte 0x{data[error.start]:02x} in line {line}"
    text = data.decode(errors="replace")
    wrong = text.count("\ufffd")
    if sum(character > "\x7f" for character in text) - wrong > wrong:
        return text, [f"not all of it is UTF-8: {wrong} places cannot be read, the first is {byte}"]
    try:
        return data.decode("cp1252"), [f"read as Windows-1252, since it is not UTF-8 ({byte})"]
    except UnicodeDecodeError as other:
        raise DataFileError(
            f"{path}: is neither UTF-8, UTF-16 nor Windows-1252 ({byte}; byte 0x{data[other.start]:02x} is none of "
            "them): save it as UTF-8."
        ) from other
