"""Min-max Tanimoto similarity of counts as an exact matrix product, in plain torch.

The thermometer code u(x) of counts has one 0/1 column per (position i, level j), set where x_i ≥ j, so that
⟨u(x), u(z)⟩ = Σ_i min(x_i, z_i) and T = p / (|x|₁ + |z|₁ − p) with p that product. Levels above the smaller of the two
sets' largest counts change no minimum and are left out. All numbers before the division are whole, and exact in
float32 below 2²⁴; fingerprints widen from 1,024 positions to 2,500-3,500 columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sggp.native.tiling import tile_shape, tiles

__all__ = ["intersections", "tanimoto_block", "tanimoto_matmul"]

_EXACT = 2**24  # whole numbers up to here are exact in float32
WIDEST = 32  # mean levels per position above which differences of counts are cheaper than their code


def tanimoto_block(a: Tensor, b: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """T(a_i, b_j) = Σ min / Σ max, with T(0, 0) = 1, as a dense (n, m) block.

    Args:
        a: (n, d) uint8 counts or bits.
        b: (m, d) likewise.
        dtype: of the result, float32 or float64; each entry is the correctly rounded quotient.

    Cost: O(n·m·W) multiplications with W ≤ Σ_i max_i columns of code, and about 12·n·m bytes.
    """
    shared = intersections(a, b)
    return _similarity(shared, _totals(a, shared.dtype), _totals(b, shared.dtype), dtype)


def tanimoto_matmul(a: Tensor, b: Tensor, v: Tensor, memory_budget: int = 256 * 2**20) -> Tensor:
    """T(a, b) v by tiles, (n, s) in the dtype of `v`.

    Args:
        a: (n, d) uint8 counts or bits.
        b: (m, d) likewise.
        v: (m, s) columns.
        memory_budget: bytes that all tiles and their codes together may take.

    Raises:
        MemoryBudgetError: not even one small tile fits the budget.
    """
    out = torch.zeros(a.shape[0], v.shape[1], dtype=v.dtype, device=v.device)
    if 0 in (*a.shape, b.shape[0]):
        return out.add_(v.sum(0)) if a.shape[1] == 0 else out
    shape = tile_shape(
        a.shape[0], b.shape[0], memory_budget, per_entry=40, per_row=code_bytes(a, b) + 8 * v.shape[1]
    )
    for rows, cols in tiles(a.shape[0], b.shape[0], shape):
        out[rows].addmm_(tanimoto_block(a[rows], b[cols], dtype=v.dtype), v[cols])
    return out


def code_bytes(a: Tensor, b: Tensor) -> int:
    """Bytes per row that a tile of counts needs for its codes, temporaries included."""
    if 0 in (*a.shape, b.shape[0]):
        return 1
    return 16 * a.shape[1] + 10 * min(int(levels_of(a, b).sum()), WIDEST * a.shape[1])


def intersections(a: Tensor, b: Tensor) -> Tensor:
    """Σ_k min(a_ik, b_jk), exact whole numbers, (n, m) in float32 (float64 where sums pass 2²⁴)."""
    n, d = a.shape
    working = torch.float32 if d * 255 < _EXACT else torch.float64
    if 0 in (n, d, b.shape[0]):
        return torch.zeros(n, b.shape[0], dtype=working, device=a.device)
    levels = levels_of(a, b)
    if int(levels.sum()) > WIDEST * d:
        distance = torch.cdist(a.to(working), b.to(working), p=1.0)
        return distance.neg_().add_(_totals(a, working)[:, None]).add_(_totals(b, working)).mul_(0.5)
    position, level = columns_of(levels)
    left, right = (torch.ge(x[:, position], level).to(working) for x in (a, b))
    return left @ right.T


def levels_of(a: Tensor, b: Tensor) -> Tensor:
    """How many levels each position needs, (d,) int64."""
    return torch.minimum(a.amax(0), b.amax(0)).long()


def columns_of(levels: Tensor) -> tuple[Tensor, Tensor]:
    """Position and level of every column of the code, int64 and uint8."""
    position = torch.repeat_interleave(torch.arange(len(levels), device=levels.device), levels)
    first = torch.cumsum(levels, 0) - levels
    level = torch.arange(1, len(position) + 1, device=levels.device) - first[position]
    return position, level.to(torch.uint8)


def _totals(a: Tensor, dtype: torch.dtype) -> Tensor:
    return a.sum(1, dtype=torch.int64).to(dtype)


def _similarity(shared: Tensor, total_a: Tensor, total_b: Tensor, dtype: torch.dtype) -> Tensor:
    """The quotient p / (|a|₁ + |b|₁ − p), 1 where both are empty."""
    union = (total_a[:, None] + total_b).sub_(shared)
    empty = union == 0
    return shared.to(dtype).div_(union.to(dtype)).masked_fill_(empty, 1.0)
