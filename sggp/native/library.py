"""The shared library of the C++ engine: loading it, its function types, and the checks that its callers share."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import pathlib
import re
import struct
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sggp.errors import InputError, SggpError, UnsupportedKernel
from sggp.native.checks import check_cpu
from sggp.native.tiling import below_one_tile

__all__ = ["NativeError", "available", "instruction_sets", "unavailable_reason"]

_log = logging.getLogger(__name__)

_ABI = 7
SUFFIX = {torch.float32: "f32", torch.float64: "f64"}
TILE = 256  # columns packed together
PACK_BYTES = 24 * 2**20  # packed columns that stay near the caches
_BAD_ARGUMENT, _NO_MEMORY, _UNKNOWN_FAMILY = 1, 2, 4
_PORTABLE = ("small_tanimoto", "ceiling_fill", "pack", "largest")  # the same for all instruction sets


class NativeError(SggpError, RuntimeError):
    """The C++ engine is not there, or one of its calls failed."""


class _Loaded(NamedTuple):
    library: ctypes.CDLL | None
    isas: tuple[str, ...]
    reason: str


def _one_thread() -> None:
    """In a forked child torch waits for ever for threads that only its parent has: it is to do without."""
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)


@functools.cache
def _loaded() -> _Loaded:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_one_thread)
    setting = os.environ.get("SGGP_NATIVE", "").strip().lower()
    if setting == "0":
        return _Loaded(None, (), "the C++ engine was switched off by SGGP_NATIVE=0")
    folder = pathlib.Path(__file__).parent
    found = [path for path in (folder / "_cpu.so", folder / "_cpu.pyd") if path.exists()]
    reason = ""
    if not found:
        reason = "the C++ engine was not built (no compiler that could, when sggp was installed)"
    else:
        try:
            _check_whole(found[0])
            library = ctypes.CDLL(str(found[0]))
            if library.sggp_abi_version() == _ABI:
                isas = _up_to(setting, _declare(library))
                library.sggp_use_team(openmp_team())
                return _Loaded(library, isas, "")
            reason = f"{found[0].name} belongs to another version of sggp; install sggp again"
        except (OSError, AttributeError) as error:
            reason = f"{found[0].name} could not be loaded ({error})"
    _log.warning("sggp computes kernels with torch, which is slower: %s.", reason)
    return _Loaded(None, (), reason)


def _check_whole(path: pathlib.Path) -> None:
    """Refuse the beginning of an ELF library, as a build or copy leaves it that was cut short.

    Loading it would end the process (SIGBUS) at the first page that is not there. The section headers come last.

    Raises:
        OSError: it ends before they do.
    """
    with path.open("rb") as file:
        header = file.read(64)
        size = os.fstat(file.fileno()).st_size
    if header[:6] == b"\x7fELF\x02\x01" and len(header) == 64:  # of 64 bits, the least significant byte first
        (start,), (length, count) = (
            struct.unpack_from("<Q", header, 40),
            struct.unpack_from("<HH", header, 58),
        )
        if size < start + length * count:
            raise OSError(f"{size} of {start + length * count} bytes are there: install sggp again")


def _up_to(setting: str, isas: tuple[str, ...]) -> tuple[str, ...]:
    """The instruction sets that `SGGP_NATIVE` leaves: those up to the one it names, all of them where it names none."""
    if setting in ("", "1", "require"):
        return isas
    if setting not in isas:
        raise InputError(
            f"SGGP_NATIVE={setting!r} is no engine of this machine; expected 0 (torch computes the kernels) or one of "
            f"{', '.join(isas)}, or unset it: the last one is used."
        )
    return isas[: isas.index(setting) + 1]


def _declare(library: ctypes.CDLL) -> tuple[str, ...]:
    """Types of every function, and the names of the instruction sets, slowest first."""
    i32, i64, f64, p = ctypes.c_int, ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
    profile: list[Any] = [i32, f64, f64]
    systems: list[Any] = [i32, i32, *profile, p, i64]
    signatures = {
        "neighbour_columns": [*systems, p, p, i64, p, p, i64, i64, p],
        "neighbour_scores": [*systems, p, i64, p, p, p, i64, i64, p],
        "conditionals": [i32, i32, i32, f64, p, i64, p, i64, p, i64, i64, p, i64, p, i32, p, p, p, p, p],
        "small_stationary": [i32, i32, *profile, p, p, i64, i64, i64, p],
        "local_posteriors": [i32, i32, p, p, i64, i64, p, i64, p, i64, p, p],
        "nearest": [i32, i32, p, i64, i64, p, i64, i64, p, p],
        "coarse_to_fine": [i32, i32, p, i64, i64, p],
        "sparse_square": [i32, i32, p, p, i64, i64, p, i64, p],
        "small_tanimoto": [i32, i32, p, i64, i64, i64, p],
        "ceiling_intersect": [i32, i32, i64, i64],
        "ceiling_fill": [i32, p, i64],
        "pack": [i32, p, i64, i64, p, i64, p, p],
        "largest": [i32, p, i64, i64, p],
    }
    for suffix in SUFFIX.values():
        points: list[Any] = [i32, i32, *profile, p, i64, p, i64, i64]
        signatures[f"stationary_{suffix}"] = [*points, p, p, i64, p, i64, i64]
        signatures[f"near_{suffix}"] = [i32, i32, *profile, p, i64, p, i64, i64, p, i64, p, p, i64, p, p]
        signatures[f"gradient_{suffix}"] = [*points, p, p, i64, p, i64]
        signatures[f"bits_{suffix}"] = [i32, i32, p, i64, p, i64, i64, p, p, p, i64, p, i64]
        signatures[f"counts_{suffix}"] = [i32, i32, p, i64, p, i64, i64, p, i64, p, i64]
        signatures[f"ceiling_evaluate_{suffix}"] = [i32, i32, i32, i64, i64]
        signatures[f"ceiling_multiply_{suffix}"] = [i32, i32, i64, i64]
    for name, arguments in signatures.items():
        function = getattr(library, f"sggp_{name}")
        function.argtypes, function.restype = arguments, i32
    library.sggp_use_team.argtypes, library.sggp_use_team.restype = [p], None
    library.sggp_isa_name.argtypes, library.sggp_isa_name.restype = [i32], ctypes.c_char_p
    return tuple(library.sggp_isa_name(i).decode() for i in range(library.sggp_isa_count()))


def openmp_team() -> int | None:
    """Address of GOMP_parallel in the OpenMP runtime that torch has loaded; None where there is none to be found.

    Its threads spin for a while after each of torch's operations: an engine with threads of its own would get half of
    the cores. Only Linux says where a process has its libraries from.
    """
    try:
        lines = pathlib.Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    loaded = {line.split(maxsplit=5)[-1] for line in lines}
    runtimes = [path for path in loaded if re.match(r"lib(gomp|iomp5|omp)\b", pathlib.PurePath(path).name)]
    home = str(pathlib.Path(torch.__file__).parent)
    for path in sorted(runtimes, key=lambda found: (not found.startswith(home), found)):
        try:
            return ctypes.cast(ctypes.CDLL(path).GOMP_parallel, ctypes.c_void_p).value
        except (OSError, AttributeError):
            continue
    return None


def available() -> bool:
    """Whether the C++ engine can be used; says why not, once, in the log."""
    return _loaded().library is not None


def unavailable_reason() -> str:
    """Why `available()` is False; empty where it is True."""
    return _loaded().reason


def instruction_sets() -> tuple[str, ...]:
    """The instruction sets that can run here, slowest first; the last is the one used.

    The environment variable `SGGP_NATIVE`, read once, ends the list at the one it names (`SGGP_NATIVE=avx2`); with
    `SGGP_NATIVE=0` there is no engine.
    """
    return _loaded().isas


def library() -> ctypes.CDLL:
    loaded = _loaded()
    if loaded.library is None:
        raise NativeError(f"{loaded.reason}; use sggp.native.reference.")
    return loaded.library


def isa_index(name: str | None) -> int:
    isas = instruction_sets()
    if name is None:
        return len(isas) - 1
    if name not in isas:
        raise InputError(f"isa={name!r} cannot run here; expected one of {', '.join(isas)} or None.")
    return isas.index(name)


def run(name: str, *arguments: Any, isa: str | None = None, refusal: str = "") -> None:
    """Call a function of the library, with as many threads as torch has.

    Args:
        name: the function, `SUFFIX` included.
        arguments: numbers, None for a null pointer, and tensors on the CPU, those to write to contiguous.
        isa: one of `instruction_sets()`; None takes the best.
        refusal: what to say of an argument that the function refuses.
    """
    function = getattr(library(), f"sggp_{name}")
    check_cpu(*(x for x in arguments if isinstance(x, Tensor)))
    given = [x.detach().contiguous() if isinstance(x, Tensor) else x for x in arguments]
    first = () if name in _PORTABLE else (isa_index(isa),)
    addresses = (x.data_ptr() if isinstance(x, Tensor) else x for x in given)
    code = function(*first, torch.get_num_threads(), *addresses)
    if code == _BAD_ARGUMENT and refusal:
        raise InputError(refusal)
    if code == _NO_MEMORY:
        raise MemoryError(f"{name} could not allocate its tiles.")
    if code == _UNKNOWN_FAMILY:
        raise UnsupportedKernel(
            f"{name} of the C++ engine has no such family of kernels, or needs its shape; use "
            "sggp.native.reference, or build the engine of this version of sggp."
        )
    if code != 0:
        raise NativeError(f"{name} failed with code {code}.")


def pack_bytes(memory_budget: int, values: int, columns: int, element: int, rows: int) -> int:
    """Bytes for packed columns: what the budget leaves beside the tiles of K, at most `PACK_BYTES`.

    Args:
        memory_budget: bytes for everything.
        values: numbers of `element` bytes that a point takes.
        columns: s.
        element: bytes per number.
        rows: rows of a tile.
    """
    tile = rows * (TILE + 16) * (element + 4) + 16 * rows * columns
    least = TILE * (values + columns + 16) * element
    needed = torch.get_num_threads() * tile + least
    if needed > memory_budget:
        raise below_one_tile(memory_budget, needed)
    return min(PACK_BYTES, memory_budget - needed + least)
