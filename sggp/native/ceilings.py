"""What bounds products with kernel matrices on this machine: matrix products, exponentials, bit counts and memory.

A product K(a, b) V makes every entry of K once and multiplies it by s columns. On one unit of arithmetic an entry
takes at least

    max(1/E + 2·(d − 1)/F, 2·s/F)   seconds,

with F the floating point operations per second of the matrix product (the faster of torch's on square matrices and of
the engine's on a tile in cache), and E the entries per second of a kernel of one coordinate from a tile in cache:
exponential, root and one difference. Every further coordinate costs one multiply-add at least; machines that subtract
in the same unit need two operations, so there the bound cannot be reached in large dimensions. Where evaluation and
product share the unit, as on every CPU so far, their *sum* is what can be reached; K(x, x) V of equal sides makes only
half of K and may pass it. An intersection of bits takes words/P seconds, P the words that the engine counts from
cache; an entry of a block takes besides what it takes to write its bytes to new memory, whose pages the same cores
clear.

`works` gives one callable per ceiling, and `alternate` times ceilings and products in turn, so that a machine that is
slow for a while is slow for both.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch

from sggp.native import library
from sggp.native.families import FAMILIES

__all__ = ["Work", "alternate", "bits_bound", "multiply_adds", "rates", "stationary_bound", "works"]

_ROWS, _BIT_ROWS = 48, 96  # of the tiles in api_ceilings.cpp
_SQUARE = 1536
_COLUMNS = 64
_WORDS = 32
_NUMBERS = 2**24


class Work(NamedTuple):
    """One call that takes a ceiling's measure.

    Args:
        call: does the work on torch's threads.
        amount: how much one call does.
        unit: of what.
    """

    call: Callable[[], object]
    amount: float
    unit: str


def works(
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    *,
    isa: str | None = None,
    size: float = 1.0,
) -> dict[str, Work]:
    """The ceilings that can be measured on `device`, by name.

    Args:
        dtype: float32 or float64, of everything but bits.
        device: a CPU or a CUDA device.
        isa: one of `sggp.native.cpu.instruction_sets()`; None takes the best.
        size: scales the work of a call; 1 is some tens of milliseconds of one core each.

    Returns:
        "matrix product" (torch's, FLOP), "memory" (written and read by a copy, bytes); on a CPU also "exp" (torch's,
        values) and, with the C++ engine, "tile product" (FLOP), "tile evaluation" (entries, Matérn-3/2, one
        coordinate), "bit count" (words of 64 bits) and "new memory" (bytes written to pages never used before).
    """
    device = torch.device(device)
    side, numbers = max(16, int(_SQUARE * size ** (1 / 3))), max(64, int(_NUMBERS * size))
    a = torch.rand(side, side, dtype=dtype, device=device)
    source, target = torch.rand(numbers, device=device), torch.empty(numbers, device=device)
    found = {
        "matrix product": Work(_waited(lambda: a @ a, device), 2.0 * side**3, "FLOP"),
        "memory": Work(_waited(lambda: target.copy_(source), device), 8.0 * numbers, "bytes"),
    }
    if device.type == "cpu":
        found["exp"] = _exponentials(dtype, numbers)
        if library.available():
            found.update(_engine_works(dtype, isa, size))
    return found


def _waited(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The call, and on a GPU the wait for its end."""
    if device.type == "cpu":
        return call

    def waited() -> None:
        call()
        torch.cuda.synchronize(device)

    return waited


def _exponentials(dtype: torch.dtype, numbers: int) -> Work:
    few = torch.rand(min(numbers, 2**16), dtype=dtype)
    values, passes = torch.empty_like(few), max(1, numbers // 2**18)

    def call() -> None:
        for _ in range(passes):
            torch.exp(few, out=values)

    return Work(call, float(passes * few.numel()), "values")


def _engine_works(dtype: torch.dtype, isa: str | None, size: float) -> dict[str, Work]:
    suffix, repeats = library.SUFFIX[dtype], max(1, int(1000 * size))
    entries = _ROWS * library.TILE * torch.get_num_threads()

    def work(name: str, arguments: tuple[int, ...], count: int, amount: float, unit: str) -> Work:
        call = partial(library.run, f"ceiling_{name}", *arguments, count, isa=isa)
        return Work(call, amount * count, unit)

    flops = 2.0 * _COLUMNS * entries
    words = _WORDS * _BIT_ROWS * library.TILE * torch.get_num_threads()
    return {
        "tile product": work(f"multiply_{suffix}", (_COLUMNS,), max(1, repeats // 2), flops, "FLOP"),
        "tile evaluation": work(
            f"evaluate_{suffix}", (FAMILIES["matern32"].code, 1), 4 * repeats, entries, "entries"
        ),
        "bit count": work("intersect", (_WORDS,), repeats, float(words), "words"),
        "new memory": Work(partial(_fill_new, max(64, int(_NUMBERS * size))), 4.0 * _NUMBERS * size, "bytes"),
    }


def _fill_new(numbers: int) -> None:
    out = torch.empty(numbers)
    library.run("ceiling_fill", out, numbers)


def alternate(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every call, taken in turn after one round that is not timed; each round starts one call later."""
    names = list(calls)
    for name in names:
        calls[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        first = turn % max(len(names), 1)
        for name in names[first:] + names[:first]:
            begin = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def rates(found: Mapping[str, Work], seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """The median rate of every work in its unit per second, from the seconds of `alternate`."""
    return {name: work.amount / statistics.median(seconds[name]) for name, work in found.items()}


def multiply_adds(measured: Mapping[str, float]) -> float:
    """F: the best FLOP/s among the matrix products of `measured` (name of a work → its unit per second)."""
    return max(measured[name] for name in ("matrix product", "tile product") if name in measured)


def stationary_bound(measured: Mapping[str, float], d: int, s: int) -> tuple[float, float]:
    """Entries per second that a product with a stationary kernel cannot pass, and those that one unit can reach.

    Args:
        measured: name of a work → its unit per second.
        d: coordinates.
        s: columns.

    Returns:
        1 / max(evaluation, product) and 1 / (evaluation + product); see the formula at the top.
    """
    flops = multiply_adds(measured)
    value = measured.get("tile evaluation") or measured.get("exp") or math.inf
    evaluation, product = 1.0 / value + 2.0 * max(d - 1, 0) / flops, 2.0 * s / flops
    return 1.0 / max(evaluation, product), 1.0 / (evaluation + product)


def bits_bound(measured: Mapping[str, float], words: int, *, entry_bytes: int = 0) -> float:
    """Entries per second of intersections of `words` 64-bit words, each written to new memory in `entry_bytes`."""
    memory = measured.get("new memory") or measured["memory"]
    return 1.0 / (words / measured["bit count"] + entry_bytes / memory)
