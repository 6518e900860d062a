"""What the host side of the Triton engine shares: finding Triton, checks, spans of columns, chunks of rows."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from types import ModuleType

import torch
from torch import Tensor

from sggp.errors import InputError
from sggp.native.library import NativeError
from sggp.native.tiling import below_one_tile

__all__ = ["available", "unavailable_reason"]

SPAN = 2048  # columns of K that one program adds up in the working precision
# Of the compiler: some versions leave products and sums apart unless told.
OPTIONS = {"enable_fp_fusion": True}
_WIDEST = 128  # right-hand sides that one program keeps
_GRID = 65535  # the largest second and third side of a grid


def available() -> bool:
    """Whether Triton is installed; says nothing of a GPU."""
    return importlib.util.find_spec("triton") is not None


def unavailable_reason() -> str:
    """Why `available()` is False; empty where it is True."""
    return "" if available() else "Triton is not installed (pip install triton)"


@functools.cache
def kernels() -> ModuleType:
    """The module of Triton kernels, imported at the first call."""
    if not available():
        raise NativeError(f"{unavailable_reason()}; use sggp.native.reference.")
    return importlib.import_module("sggp.native.triton.kernels")


@functools.cache
def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, which takes tensors on the CPU."""
    jit = importlib.import_module("triton.runtime.jit")
    return not isinstance(kernels().stationary_block, jit.JITFunction)


def check_device(*tensors: Tensor) -> None:
    first = tensors[0].device
    for x in tensors:
        if x.device != first:
            raise InputError(f"tensors on {first} and on {x.device}; expected one device.")
    if first.type != "cuda" and not interpreted():
        raise InputError(
            f"the Triton engine needs tensors on a CUDA device; got one on {first}. Use sggp.native.engine, or set "
            "TRITON_INTERPRET=1 before Triton is imported to run its kernels on the CPU, slowly."
        )


@contextlib.contextmanager
def on(device: torch.device) -> Iterator[None]:
    """Kernels start on the current CUDA device: make it that of the tensors."""
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        yield


def divide(size: int, by: int) -> int:
    """size / by, rounded up."""
    return -(-size // by)


def power_of_two(size: int) -> int:
    """The smallest power of two that is at least `size`."""
    return 1 << max(size - 1, 0).bit_length()


def column_block(s: int) -> tuple[int, int]:
    """How many right-hand sides a program takes, a power of two, and how many programs share them."""
    programs = divide(s, _WIDEST)
    return power_of_two(divide(s, programs)), programs


def row_chunk(n: int, per_row: int, block: int, memory_budget: int) -> int:
    """Rows of one launch, a multiple of `block`, whose partial sums of `per_row` bytes stay within the budget.

    Raises:
        MemoryBudgetError: not even one block of rows fits.
    """
    most = memory_budget // (per_row * block) * block
    if most == 0:
        raise below_one_tile(memory_budget, per_row * block)
    return min(most, divide(n, block) * block)


def check_grid(size: int, what: str) -> None:
    if size > _GRID:
        raise InputError(f"too many {what} for one launch of a kernel; use sggp.native.reference.")


def summed_spans(
    launch: Callable[[int, int, Tensor], None], n: int, m: int, v: Tensor, block: int, memory_budget: int
) -> Tensor:
    """(n, s) products from their parts over spans of columns, some rows at a time.

    Args:
        launch: writes the parts of rows start, …, start + count − 1 into its third argument (spans, count, s).
        n: rows of K.
        m: columns of K.
        v: (m, s) right-hand sides.
        block: rows of one program.
        memory_budget: bytes for the parts and their sum.
    """
    s, spans = v.shape[1], divide(m, SPAN)
    check_grid(spans, "columns")
    out = torch.empty(n, s, dtype=v.dtype, device=v.device)
    chunk = row_chunk(n, (spans * v.element_size() + 8) * s, block, memory_budget)
    parts = torch.empty(spans * min(n, chunk) * s, dtype=v.dtype, device=v.device)
    for start in range(0, n, chunk):
        count = min(chunk, n - start)
        part = parts[: spans * count * s].view(spans, count, s)
        launch(start, count, part)
        out[start : start + count] = part.sum(0, dtype=torch.float64)
    return out
