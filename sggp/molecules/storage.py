"""One file of named arrays: written whole or not at all, and readable by memory map.

Layout: 8 bytes of magic, the length of the header (little-endian uint64), the header (JSON: `meta`, the total size, a
digest of the arrays and, per array, its type, shape and offset; last a digest of itself), then the arrays, each
starting at a multiple of 64 bytes. Files of before have no digests.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sggp.checks import as_path
from sggp.errors import DataFileError
from sggp.files import whole_file

_MAGIC = b"SGGPTAB1"
_ALIGN = 64
_BLOCK = 2**20


def _aligned(position: int) -> int:
    return -(-position // _ALIGN) * _ALIGN


def write_arrays(
    path: str | os.PathLike[str], meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Write `meta` (JSON-able) and `arrays` to `path`.

    Raises:
        InputError, DataFileError: as `sggp.files.whole_file`.
    """
    layout: dict[str, dict[str, Any]] = {}
    position = 0
    for name, array in arrays.items():
        position = _aligned(position)
        layout[name] = {"dtype": array.dtype.str, "shape": list(array.shape), "offset": position}
        position += array.nbytes
    plain = {"meta": dict(meta), "arrays": layout, "size": position, "digest": _digest(arrays.values())}
    header = json.dumps(plain | {"check": _own_digest(plain)}).encode()
    start = _aligned(len(_MAGIC) + 8 + len(header))
    with whole_file(path) as stream:
        stream.write(_MAGIC + len(header).to_bytes(8, "little") + header)
        for name, array in arrays.items():
            _pad(stream, start + layout[name]["offset"])
            stream.write(np.ascontiguousarray(array).data)
        _pad(stream, start + position)


def _digest(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _verify(target: Path, start: int, header: dict[str, Any]) -> None:
    """Read the arrays once, a block at a time, so that none of a mapped file stays in memory."""
    digest = hashlib.blake2b(digest_size=16)
    with target.open("rb") as stream:
        for entry in header["arrays"].values():
            stream.seek(start + entry["offset"])
            left = int(np.prod(entry["shape"])) * np.dtype(entry["dtype"]).itemsize
            while left > 0 and (block := stream.read(min(left, _BLOCK))):
                digest.update(block)
                left -= len(block)
    if header.get("digest") not in (None, digest.hexdigest()):
        raise DataFileError(f"{target} is damaged: its content is not what was written; build it again.")


def _own_digest(header: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(header).encode(), digest_size=16).hexdigest()


def _pad(stream: Any, position: int) -> None:
    stream.write(bytes(position - stream.tell()))


def read_arrays(
    path: str | os.PathLike[str], *, mmap: bool = True, verify: bool = False
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what `write_arrays` wrote: (meta, arrays), the arrays memory-mapped read-only or in memory.

    Arrays that come into memory, or of which `verify` asks it, are compared with their digest: 1 s per GB.

    Raises:
        DataFileError: the file is missing, empty, truncated, damaged or not of this format.
    """
    target = as_path(path, "path")
    try:
        size = target.stat().st_size
        with target.open("rb") as stream:
            if stream.read(len(_MAGIC)) != _MAGIC:
                raise DataFileError(f"{target} is not a fingerprint table written by sggp; build it again.")
            length = int.from_bytes(stream.read(8), "little")
            text = stream.read(length) if length < size else b""
    except OSError as error:
        raise DataFileError(f"cannot read {target}: {error.strerror or error}.") from error
    try:
        header = json.loads(text)
        if "check" in header and header.pop("check") != _own_digest(header):
            raise ValueError
        meta = dict(header["meta"])
        start = _aligned(len(_MAGIC) + 8 + length)
        complete = size == start + header["size"]
        entries = {
            name: (np.dtype(e["dtype"]), tuple(e["shape"]), e["offset"])
            for name, e in header["arrays"].items()
        }
    except (ValueError, KeyError, TypeError) as error:
        raise DataFileError(f"{target} has a damaged header; build it again.") from error
    if not complete:
        raise DataFileError(
            f"{target} has {size} bytes instead of {start + header['size']}: it is cut short; build it again."
        )
    arrays = {}
    for name, (dtype, shape, offset) in entries.items():
        if int(np.prod(shape)) == 0:
            arrays[name] = np.zeros(shape, dtype=dtype)
        else:
            mapped = np.memmap(target, dtype=dtype, mode="r", offset=start + offset, shape=shape)
            arrays[name] = mapped if mmap else np.array(mapped)
    if verify or not mmap:
        _verify(target, start, header)
    return meta, arrays
