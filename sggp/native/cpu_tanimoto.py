"""Tanimoto (min-max) similarities of fingerprints in the C++ engine.

Two exact methods. *Lists*: rows of `a` as lists of their few non-zero counts against bytes of `b`; cost ∝ non-zeros of
a row. *Bits*: rows packed to bits (one per position for binary fingerprints, a thermometer code for counts) and
counted by population count; cost ∝ width. The cheaper one is taken: lists for molecules, bits for dense rows.

Nothing saturates here: counts of uint8 go up to 255 and their code has as many levels as the smaller of the two sets'
largest counts. Wider counts have to be brought to 0..255 by the caller, who decides what is lost.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sggp.errors import InputError, ShapeError
from sggp.native import library
from sggp.native.checks import check_columns, check_counts

__all__ = [
    "PackedRows",
    "small_tanimoto",
    "tanimoto_block",
    "tanimoto_matmul",
    "thermometer",
]

_SAMPLED_ROWS = 256
_WIDEST = 65536  # bits per row above which a thermometer code is never tried
_ROWS = 192  # of a tile
# What a word of bits costs in entries of a list, measured; NEON counts bits in one instruction.
_WORD_COST = {"avx512-popcnt": 2.5, "avx512": 10.0, "avx2": 7.0, "neon": 5.0, "portable": 13.0}


class PackedRows(NamedTuple):
    """Fingerprints as bits: `bits` (n, words) int64, lowest bit first, and `sums` (n,) int32, the rows' totals."""

    bits: Tensor
    sums: Tensor


def tanimoto_block(
    a: Tensor, b: Tensor, *, dtype: torch.dtype = torch.float32, isa: str | None = None
) -> Tensor:
    """The similarities as a dense block: see `thermometer.tanimoto_block`.

    Args:
        isa: one of `instruction_sets()`; None takes the best.

    Raises:
        DtypeError: counts that are neither uint8 nor bool.
    """
    check_counts(a, b, dtype)
    if 0 in (a.shape[0], b.shape[0]):
        return torch.empty(a.shape[0], b.shape[0], dtype=dtype)
    return _similarity(a, b, None, dtype, library.PACK_BYTES, isa)


def tanimoto_matmul(
    a: Tensor, b: Tensor, v: Tensor, memory_budget: int = 256 * 2**20, *, isa: str | None = None
) -> Tensor:
    """T(a, b) v without T: see `thermometer.tanimoto_matmul`.

    Args:
        memory_budget: bytes that packed columns and tiles together may take.
        isa: one of `instruction_sets()`; None takes the best.

    Raises:
        DtypeError: counts that are neither uint8 nor bool.
        MemoryBudgetError: not even one tile fits the budget.
    """
    check_columns(v, b.shape[0], "v")
    check_counts(a, b, v.dtype)
    if 0 in (a.shape[0], b.shape[0], v.shape[1]):
        return torch.zeros(a.shape[0], v.shape[1], dtype=v.dtype)
    # one tile of lists: a line of bytes and a place for every position
    pack = library.pack_bytes(memory_budget, a.shape[1] + 1, v.shape[1], v.element_size(), _ROWS)
    return _similarity(a, b, v, v.dtype, pack, isa)


def thermometer(x: Tensor, levels: Tensor) -> PackedRows:
    """The thermometer code: position k takes levels[k] bits, of which the first min(x_k, levels[k]) are set.

    The number of common bits of two codes is Σ_k min(x_k, z_k, levels[k]), so `levels` must reach the smaller of the
    two sets' largest counts at every position. `sums` are the totals of the counts themselves, never cut.

    Args:
        x: (n, d) uint8 counts.
        levels: (d,) whole numbers in 0..255.
    """
    if levels.shape != (x.shape[1],):
        raise ShapeError(
            f"levels has shape {tuple(levels.shape)}; expected ({x.shape[1]},), one per position."
        )
    if levels.numel() and not bool(((levels >= 0) & (levels <= 255)).all()):
        raise InputError("levels outside 0..255; counts of uint8 need no more and none is negative.")
    check_counts(x, x, torch.float32)
    words = -(-int(levels.sum()) // 64)
    bits = torch.empty(x.shape[0], words, dtype=torch.int64)
    sums = torch.empty(x.shape[0], dtype=torch.int32)
    library.run("pack", x, *x.shape, levels.to(torch.int32), words, bits, sums)
    return PackedRows(bits, sums)


def small_tanimoto(x: Tensor, *, products: bool = False) -> Tensor:
    """Many small Gram matrices: (b, m, d) uint8 counts → (b, m, m) float64.

    Args:
        x: (b, m, d) uint8 counts or bits (bool too).
        products: False gives Σ min / Σ max, True Σ xz / (Σ x² + Σ z² − Σ xz); both 1 for two empty rows.

    Cost: b·m²·(non-zeros of a row).
    """
    if x.ndim != 3:
        raise ShapeError(f"x has shape {tuple(x.shape)}; expected (b, m, d).")
    flat = x.reshape(-1, x.shape[2])
    check_counts(flat, flat, torch.float64)
    out = torch.empty(x.shape[0], x.shape[1], x.shape[1], dtype=torch.float64)
    library.run("small_tanimoto", int(products), x, *x.shape, out)
    return out


def _similarity(
    a: Tensor, b: Tensor, v: Tensor | None, dtype: torch.dtype, pack_bytes: int, isa: str | None
) -> Tensor:
    levels = _code_levels(a, b, isa)
    if levels is not None:
        return _from_bits(thermometer(a, levels), thermometer(b, levels), v, dtype, pack_bytes, isa)
    columns, name = 0 if v is None else v.shape[1], f"counts_{library.SUFFIX[dtype]}"
    out = torch.empty(len(a), len(b) if v is None else columns, dtype=dtype)
    library.run(name, a, len(a), b, len(b), a.shape[1], v, columns, out, pack_bytes, isa=isa)
    return out


def _from_bits(
    a: PackedRows, b: PackedRows, v: Tensor | None, dtype: torch.dtype, pack_bytes: int, isa: str | None
) -> Tensor:
    if a.bits.shape[1] != b.bits.shape[1]:
        raise ShapeError(
            f"rows of {a.bits.shape[1]} and {b.bits.shape[1]} words; expected the same code for both."
        )
    (n, words), m = a.bits.shape, len(b.bits)
    columns, name = 0 if v is None else v.shape[1], f"bits_{library.SUFFIX[dtype]}"
    out = torch.empty(n, m if v is None else columns, dtype=dtype)
    rows = (a.bits, n, b.bits, m, words, a.sums, b.sums)
    library.run(name, *rows, v, columns, out, pack_bytes, isa=isa)
    return out


def _code_levels(a: Tensor, b: Tensor, isa: str | None) -> Tensor | None:
    """Levels of the thermometer code where it is cheaper than lists, else None."""
    d = a.shape[1]
    if d == 0:
        return None
    rows = a[:: max(1, a.shape[0] // _SAMPLED_ROWS)]
    entries = float(torch.count_nonzero(rows)) / rows.shape[0]
    word = _WORD_COST.get(isa or library.instruction_sets()[-1], _WORD_COST["portable"])
    if entries <= word * d / 64 / 2:
        return None
    levels = torch.minimum(_largest(a), _largest(b)).to(torch.int32)
    if int(levels.max()) <= 1:
        levels.fill_(1)  # plain bits, which are packed faster
    width = int(levels.sum())
    return levels if width <= _WIDEST and word * width / 64 < entries else None


def _largest(x: Tensor) -> Tensor:
    """The largest count of every position, (d,) uint8."""
    out = torch.empty(x.shape[1], dtype=torch.uint8)
    library.run("largest", x, *x.shape, out)
    return out
