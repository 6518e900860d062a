"""Tiles of a kernel matrix within a number of bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sggp.errors import MemoryBudgetError

__all__ = ["below_one_tile", "tile_shape", "tiles"]

_TILE_ENTRIES = 2**19  # a float64 tile of 4 MiB: near the caches, large enough for the matrix product


def tile_shape(n: int, m: int, memory_budget: int, *, per_entry: int, per_row: int = 0) -> tuple[int, int]:
    """Rows and columns of a tile so that rows·cols·per_entry + (rows + cols)·per_row bytes stay within the budget.

    Args:
        n: rows of the matrix.
        m: columns of the matrix.
        memory_budget: bytes for everything that a tile keeps alive.
        per_entry: bytes per entry of the tile, temporaries included.
        per_row: bytes per row and per column of the tile.

    Raises:
        MemoryBudgetError: a tile of 8 × 8 does not fit; names the setting.
    """
    n, m = max(n, 1), max(m, 1)
    entries = _TILE_ENTRIES
    while entries >= 64:
        cols = min(m, math.isqrt(entries))
        rows = min(n, entries // cols)
        cols = min(m, entries // rows)
        if rows * cols * per_entry + (rows + cols) * per_row <= memory_budget:
            return rows, cols
        entries //= 2
    raise below_one_tile(memory_budget, 64 * per_entry + 16 * per_row)


def below_one_tile(memory_budget: int, needed: int) -> MemoryBudgetError:
    """The error of a budget in which not even one tile fits."""
    return MemoryBudgetError(
        f"memory_budget={memory_budget} bytes is too small for one tile of the kernel matrix; raise "
        f"memory_budget to at least {needed} bytes."
    )


def tiles(n: int, m: int, shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Slices of rows and of columns that cover an (n, m) matrix, rows outermost."""
    for i in range(0, n, shape[0]):
        for j in range(0, m, shape[1]):
            yield slice(i, min(i + shape[0], n)), slice(j, min(j + shape[1], m))
