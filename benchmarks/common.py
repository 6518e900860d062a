"""What every benchmark prints: the machine, the versions, and a table."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

__all__ = ["header", "print_table", "seeded"]


def seeded(seed: int) -> torch.Generator:
    """A generator with a stated seed."""
    return torch.Generator().manual_seed(seed)


def header(what: str, packages: tuple[str, ...] = ("torch", "gpytorch", "linear_operator")) -> None:
    """Print what is measured, on which machine, with which versions."""
    print(f"# {what}")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    print(
        f"machine: {_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB; torch threads {torch.get_num_threads()}"
    )
    versions = [f"{name} {_version(name)}" for name in ("sggp", *packages)]
    print(f"versions: Python {platform.python_version()}, {', '.join(versions)}\n", flush=True)


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
