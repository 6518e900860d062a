"""What every benchmark prints, the machine, the versions and a table; and runs in a process of their own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import platform
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from sggp.errors import SggpError

__all__ = [
    "Apart",
    "available_gib",
    "described",
    "end",
    "forget_peak",
    "header",
    "peak_gib",
    "print_table",
    "run_apart",
    "seeded",
]


def seeded(seed: int) -> torch.Generator:
    """A generator with a stated seed."""
    return torch.Generator().manual_seed(seed)


def header(what: str, packages: tuple[str, ...] = ("torch", "gpytorch", "linear_operator")) -> None:
    """Print what is measured, on which machine, with which versions."""
    print(f"# {what}\n{described(packages)}\n", flush=True)


def described(packages: tuple[str, ...]) -> str:
    """Two lines: the machine, and the versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = [f"{name} {_version(name)}" for name in ("sggp", *packages)]
    return (
        f"machine: {_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB; torch threads {torch.get_num_threads()}\n"
        f"versions: Python {platform.python_version()}, {', '.join(versions)}"
    )


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """A table in Markdown."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(columns, *rows, strict=True)]
    for cells in (columns, ["-" * width for width in widths], *rows):
        print(
            "| "
            + " | ".join(str(cell).ljust(width) for cell, width in zip(cells, widths, strict=True))
            + " |"
        )
    print(flush=True)


BROKEN: list[str] = []


@dataclass(frozen=True)
class Apart:
    """How a call in a process of its own ended: its value, or why there is none, and the peak of its memory."""

    value: Any
    peak_gib: float
    failure: str = ""


def run_apart(
    call: Callable[..., Any],
    *arguments: Any,
    limit_gib: float | None = None,
    limit_seconds: float | None = None,
) -> Apart:
    """`call(*arguments)` in a fresh process, whose memory nothing else of this benchmark has touched.

    Args:
        call: a function of a module's top level. arguments: what pickle can carry.
        limit_gib: bytes the process may allocate; beyond them an allocation fails there, and nobody else suffers.
        limit_seconds: after which the process is killed, its start included.

    A call that raises something other than a failure to solve or to allocate is broken: its traceback goes to stderr,
    the table says so, and `end` makes the benchmark fail after everything else has been measured.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, call, arguments, limit_gib))
    process.start()
    theirs.close()
    if not ours.poll(limit_seconds):
        process.kill()
        process.join()
        return Apart(None, float("nan"), f"stopped after {limit_seconds:.0f} s")
    try:
        found = pickle.loads(ours.recv_bytes())
    except EOFError:
        found = None
    process.join()
    if found is not None:
        return found
    if process.exitcode is not None and process.exitcode < 0:
        return Apart(None, float("nan"), f"killed by signal {-process.exitcode} (out of memory?)")
    BROKEN.append(call.__name__)
    return Apart(None, float("nan"), "BROKEN: see the traceback on stderr")


def end() -> None:
    """Exit with code 1 if anything was broken."""
    if BROKEN:
        sys.exit(f"broken: {', '.join(sorted(set(BROKEN)))}")


def _child(pipe: Any, call: Callable[..., Any], arguments: tuple[Any, ...], limit_gib: float | None) -> None:
    if limit_gib is not None:
        limit = int(limit_gib * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    value, failure = None, ""
    try:
        value = call(*arguments)
    except (MemoryError, SggpError) as error:
        failure = _first_line(error)
    except RuntimeError as error:  # torch's word for a failed allocation, and for a failed factor
        if "memory" not in str(error) and not isinstance(error, torch.linalg.LinAlgError):
            raise
        failure = "out of memory" if "memory" in str(error) else _first_line(error)
    # by value: torch would send its tensors as handles that die with this process
    pipe.send_bytes(pickle.dumps(Apart(value, peak_gib(), failure)))


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"


def peak_gib() -> float:
    """The most memory that this process has held so far (resident), in GiB.

    From the kernel's own mark of this process, where there is one: `ru_maxrss` of a child starts at its parent's.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 2**20
    unit = 2**30 if platform.system() == "Darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def forget_peak() -> float:
    """Start the peak anew at what is held now, where the system can; returns the peak it starts from, in GiB."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_gib()


def available_gib() -> float:
    """Memory that can be had without swapping, in GiB."""
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) / 2**20
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
