"""One safetensors file: tensors by name, and in its header what they mean, as JSON with checksums.

Layout, that of safetensors: 8 bytes with the length of the header (little-endian), the header (JSON), the tensors one
after another. Its `__metadata__` holds texts only:

    format          "sggp"
    format_version  of this layout and of what `content` holds
    kind            "posterior", "estimator", "linear posterior", "BoTorch model", "checkpoint",
                    "checkpoint of a fit", "library stream"
    written_by      versions of sggp, torch, ... (JSON)
    content         the values, naming the tensors in them (JSON; `sggp.persistence.tree`)
    sha256          the checksum of every tensor's bytes, by name (JSON)
    header_sha256   that of the header itself, these 64 digits being zeros

So every byte is under a checksum, and a file is read as data alone: JSON and numbers. Files are read by the
safetensors library. They are written here, since its writer names no failing disk, leaves bytes that nobody has
forced to the disk, and orders its header by chance.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sggp.checks import as_path
from sggp.errors import DataFileError, SggpError
from sggp.files import whole_file
from sggp.persistence.legacy import OLD_FILE, read_old
from sggp.persistence.tree import pack, unpack

__all__ = [
    "FORMAT_VERSION",
    "is_safetensors",
    "read_content",
    "read_labels",
    "rebuilding",
    "write_content",
]

FORMAT_VERSION = 1
"""Of files written now; the newest that is read."""
_FORMAT = "sggp"
_MOST_HEADER = 100_000_000  # bytes; the library reads no longer ones
_SEAL = b'"header_sha256":"'  # inside a text of the header its quotes would be escaped
_BLANK = b"0" * 64
_LIBRARIES = ("sggp", "torch", "gpytorch", "linear_operator", "numpy", "scikit-learn", "safetensors")
_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_OPENED_BY = {
    "posterior": "sggp.posterior.Posterior.load",
    "estimator": "sggp.GPRegressor.load or `sggp predict`",
    "linear posterior": "sggp.linear.LinearPosterior.load",
    "BoTorch model": "sggp.botorch.PathwiseGPModel.load",
    "checkpoint": "the checkpoint argument of a solve",
    "checkpoint of a fit": "the checkpoint argument of sggp.GPRegressor.fit",
    "library stream": "`sggp suggest --stream` or sggp.bayesopt.streaming.suggest_from_files",
}
_NO_TEXT = re.compile("[\\ud800-\\udfff]")
_NOT_OURS = (
    SafetensorError,
    OSError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
)
"""What reading bytes raises that are not those of a whole file."""


def write_content(path: str | os.PathLike[str], kind: str, content: dict[str, Any]) -> None:
    """Write plain values with tensors in them to `path`, which appears whole or not at all.

    Args:
        path: the file. kind: what it is, one that `read_content` is asked for.
        content: as `sggp.persistence.tree.pack` takes it.

    Raises:
        InputError: a value that a file cannot hold. InputError, DataFileError: as `sggp.files.whole_file`; and
            DataFileError for more than 100 MB of values beside the tensors.

    Cost: the bytes of the tensors, two passes over them; no copy of those that are contiguous and on the CPU.
    """
    tree, named = pack(content)
    tensors = dict(sorted(named.items(), key=lambda item: -item[1].element_size()))  # aligned, without gaps
    header = _header(kind, tree, tensors)
    if len(header) > _MOST_HEADER:
        raise DataFileError(
            f"cannot write {path}: names and texts of {len(header) / 1e6:.0f} MB, and a file holds 100 MB of them; "
            "leave out columns with a name for nearly every row."
        )
    with whole_file(path) as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        for tensor in tensors.values():
            stream.write(_bytes(tensor))


def _bytes(tensor: Tensor) -> memoryview:
    if not tensor.numel():
        return memoryview(b"")
    flat = tensor.reshape(-1)
    if flat.stride(0) != 1:  # one number that was expanded, of which torch views no bytes
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy().data


def _header(kind: str, tree: Any, tensors: dict[str, Tensor]) -> bytes:
    entries, place = {}, 0
    for name, tensor in tensors.items():
        end = place + tensor.nbytes
        entries[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, end],
        }
        place = end
    texts = {
        "format": _FORMAT,
        "format_version": str(FORMAT_VERSION),
        "kind": kind,
        "written_by": json.dumps(_versions()),
        "content": json.dumps(tree, allow_nan=False),
        "sha256": json.dumps({n: hashlib.sha256(_bytes(t)).hexdigest() for n, t in tensors.items()}),
        "header_sha256": _BLANK.decode(),
    }
    header = json.dumps({"__metadata__": texts, **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    digest = hashlib.sha256(header).hexdigest().encode()
    return header.replace(_SEAL + _BLANK, _SEAL + digest, 1)


@functools.cache
def _versions() -> dict[str, str]:
    """Found once: looking them up takes longer than writing a small file."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def read_content(path: str | os.PathLike[str], kind: str, *, again: str = "save it again") -> dict[str, Any]:
    """What `write_content` wrote, or an older version of sggp; nothing in the file is run.

    Args:
        path: the file. kind: what it must be. again: how the user gets another such file.

    Raises:
        InputError: `path` is neither a string nor a path.
        DataFileError: the file is missing, empty, damaged, of another program, of another kind or of a newer format,
            each said as such; it is left as it is.

    Cost: a read of the file, and its tensors in memory once.
    """
    target = as_path(path, "path")
    try:
        _check_regular(target)
        with target.open("rb") as stream:
            start = stream.read(8)
        if not start:
            _refuse(target, "is empty", again)
        found, content = read_old(target) if start.startswith(OLD_FILE) else _read(target, again)
    except PermissionError as error:
        raise DataFileError(f"cannot read {target}: {error.strerror}.") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataFileError(f"there is no file {target}.") from error
    except DataFileError:
        raise
    except _NOT_OURS as error:
        said = f" ({error})" if isinstance(error, _Damaged) else ""
        _refuse(target, f"is damaged, or not a file written by sggp{said}", again, error)
    if found != kind:
        raise DataFileError(
            f"{target} holds {_a(found)}, not {_a(kind)}: open it with {_OPENED_BY.get(found, 'what wrote it')}, or "
            "give another path."
        )
    return content


def _check_regular(target: Path) -> None:
    mode = target.stat().st_mode
    if stat.S_ISDIR(mode):
        raise DataFileError(f"there is no file {target} (it is a folder).")
    if not stat.S_ISREG(mode):
        raise DataFileError(f"{target} is a pipe or a device: write its content to a file and give that.")


def is_safetensors(start: bytes) -> bool:
    """Whether a file that begins with these ten bytes or more is one of safetensors, of ours or of others."""
    return start[4:10] == b'\0\0\0\0{"'


def read_labels(path: str | os.PathLike[str]) -> dict[str, str]:
    """The texts in the header of a file of ours, unchecked and without its numbers; none for any other file."""
    try:
        with _opened(path) as file:
            texts = file.metadata() or {}
    except _NOT_OURS:
        return {}
    return texts if texts.get("format") == _FORMAT else {}


@contextmanager
def rebuilding(path: str | os.PathLike[str], kind: str, again: str = "save it again") -> Iterator[None]:
    """Say of errors in the block that the content of a file does not go together.

    Raises:
        DataFileError: in the place of what reading or checking parts raised.
    """
    try:
        yield
    except (SggpError, *_NOT_OURS) as error:
        raise DataFileError(
            f"{path} is not a whole {kind} of this version of sggp: something in it is missing or of another kind. "
            f"It is left as it is: {again}, delete it, or give another path."
        ) from error


class _Damaged(ValueError):
    """What is wrong with the bytes of a file."""


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """A file of safetensors by any name: it takes none whose bytes are no text here, as those of `ä` where LC_ALL=C."""
    with ExitStack() as stack:
        name = os.fspath(path)
        if _NO_TEXT.search(name):
            name = f"/dev/fd/{stack.enter_context(open(path, 'rb')).fileno()}"
        yield stack.enter_context(safe_open(name, framework="pt"))


def _read(target: Path, again: str) -> tuple[str, dict[str, Any]]:
    with _opened(target) as file:  # checks that the entries fit the file, without a gap
        texts = file.metadata() or {}
        if texts.get("format") != _FORMAT:
            _refuse(target, "is a file of safetensors, but not one written by sggp", again)
        _check_version(target, texts)
        _check_header(target)
        expected = json.loads(texts["sha256"])
        names = set(file.keys())
        if names != set(expected):
            raise _Damaged("its tensors are not those it lists")
        tensors = {}
        for name in names:
            tensors[name] = file.get_tensor(name).clone()  # off the file, which may go away
            if hashlib.sha256(_bytes(tensors[name])).hexdigest() != expected[name]:
                raise _Damaged("a checksum of its numbers is wrong") from KeyError(name)
    return texts["kind"], unpack(json.loads(texts["content"]), tensors)


def _check_version(target: Path, texts: dict[str, str]) -> None:
    """Before any checksum: a newer format may have others."""
    number = int(texts["format_version"])
    if number <= FORMAT_VERSION:
        return
    try:
        writer = json.loads(texts["written_by"])["sggp"]
    except (LookupError, TypeError, ValueError):
        writer = "of unknown version"
    raise DataFileError(
        f"{target} was written by a newer sggp ({writer}, format {number}; this one is {_versions()['sggp']} and reads "
        f"up to {FORMAT_VERSION}): update sggp, or save it again with this version."
    )


def _check_header(target: Path) -> None:
    with target.open("rb") as stream:
        header = stream.read(int.from_bytes(stream.read(8), "little"))
    place = header.index(_SEAL) + len(_SEAL)
    end = place + len(_BLANK)
    if hashlib.sha256(header[:place] + _BLANK + header[end:]).hexdigest().encode() != header[place:end]:
        raise _Damaged("the checksum of its header is wrong")


def _refuse(target: Path, what: str, again: str, error: Exception | None = None) -> NoReturn:
    raise DataFileError(
        f"{target} {what}. It is left as it is: {again}, delete it, or give another path."
    ) from error


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
