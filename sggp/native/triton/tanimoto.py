"""Tanimoto (min-max) similarities of fingerprints in the Triton engine.

Rows are packed into words of 32 bits, one bit per position for binary fingerprints and a thermometer code for counts
(see `sggp.native.thermometer`); the kernels count common bits. Nothing saturates: counts of uint8 go up to 255. Codes
of more than 32 levels per position on average, which dense rows of large counts need, are left to the reference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sggp.native import thermometer
from sggp.native.checks import check_columns, check_counts
from sggp.native.triton import host

__all__ = ["tanimoto_block", "tanimoto_matmul"]

_WORD = 32
_BLOCK_N, _BLOCK_M = 64, 64
_PACK_BYTES = 64 * 2**20  # codes of some rows before they are packed


def tanimoto_block(a: Tensor, b: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """The similarities as a dense block: see `thermometer.tanimoto_block`.

    Raises:
        DtypeError: counts that are neither uint8 nor bool.
    """
    check_counts(a, b, dtype)
    host.check_device(a, b)
    n, m = a.shape[0], b.shape[0]
    if 0 in (n, m):
        return torch.empty(n, m, dtype=dtype, device=a.device)
    levels = _levels(a, b)
    if levels is None:
        return thermometer.tanimoto_block(a.view(torch.uint8), b.view(torch.uint8), dtype=dtype)
    (left, left_sums), (right, right_sums) = (_pack(x, levels) for x in (a, b))
    out = torch.empty(n, m, dtype=dtype, device=a.device)
    grid = (host.divide(n, _BLOCK_N), host.divide(m, _BLOCK_M))
    host.check_grid(grid[1], "columns")
    with host.on(a.device):
        host.kernels().tanimoto_block[grid](
            left, right, left_sums, right_sums, out, n, n, m, m, left.shape[0],
            POPC=_popc(a), BLOCK_N=_BLOCK_N, BLOCK_M=_BLOCK_M, num_warps=4, **host.OPTIONS,
        )  # fmt: skip
    return out


def tanimoto_matmul(a: Tensor, b: Tensor, v: Tensor, memory_budget: int = 256 * 2**20) -> Tensor:
    """T(a, b) v without T: see `thermometer.tanimoto_matmul`.

    Args:
        memory_budget: bytes that the sums over spans of columns may take; packed rows come on top.

    Raises:
        DtypeError: counts that are neither uint8 nor bool.
        MemoryBudgetError: not even one block of rows fits the budget.
    """
    check_columns(v, b.shape[0], "v")
    check_counts(a, b, v.dtype)
    host.check_device(a, b, v)
    n, m, s = a.shape[0], b.shape[0], v.shape[1]
    if 0 in (n, m, s):
        return torch.zeros(n, s, dtype=v.dtype, device=v.device)
    levels = _levels(a, b)
    if levels is None:
        return thermometer.tanimoto_matmul(a.view(torch.uint8), b.view(torch.uint8), v, memory_budget)
    (left, left_sums), (right, right_sums) = (_pack(x, levels) for x in (a, b))
    columns = v.detach().contiguous()
    block_s, shares = host.column_block(s)
    block_n = 32 if v.dtype == torch.float64 or 1 < block_s < 16 else _BLOCK_N
    block_m = 32 if v.dtype == torch.float64 else _BLOCK_M

    def launch(start: int, count: int, part: Tensor) -> None:
        grid = (host.divide(count, block_n), part.shape[0], shares)
        host.kernels().tanimoto_matmul[grid](
            left[:, start:], right, left_sums[start:], right_sums, columns, part, n, count, m, m, left.shape[0], s,
            POPC=_popc(a), TILES=host.SPAN // block_m, BLOCK_N=block_n, BLOCK_M=block_m, BLOCK_S=block_s,
            num_warps=4 if block_s < 64 else 8, **host.OPTIONS,
        )  # fmt: skip

    with host.on(a.device):
        return host.summed_spans(launch, n, m, columns, block_n, memory_budget)


def _popc(a: Tensor) -> bool:
    """Whether the machine's own population count is there: CUDA, but not ROCm nor the interpreter."""
    return a.is_cuda and torch.version.hip is None and not host.interpreted()


def _levels(a: Tensor, b: Tensor) -> Tensor | None:
    """Levels of the thermometer code per position, (d,) int64; None where the code is too wide."""
    if a.shape[1] == 0:
        return torch.zeros(0, dtype=torch.int64, device=a.device)
    levels = thermometer.levels_of(a.view(torch.uint8), b.view(torch.uint8))
    return levels if int(levels.sum()) <= thermometer.WIDEST * a.shape[1] else None


def _pack(x: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """The thermometer code in bits, (words, n) int32, and the rows' own totals, (n,) int32."""
    x = x.detach().view(torch.uint8)
    position, level = thermometer.columns_of(levels)
    width = len(position)
    words = max(1, host.divide(width, _WORD))
    weights = (2 ** torch.arange(8, device=x.device)).to(torch.uint8)
    packed = torch.empty(words, x.shape[0], dtype=torch.int32, device=x.device)
    step = max(1, _PACK_BYTES // (4 * words * _WORD + 1))
    for start in range(0, x.shape[0], step):
        rows = x[start : start + step]
        code = torch.zeros(rows.shape[0], words * _WORD, dtype=torch.uint8, device=x.device)
        code[:, :width] = torch.ge(rows[:, position], level)
        octets = (code.view(rows.shape[0], words * 4, 8) * weights).sum(2, dtype=torch.uint8).contiguous()
        packed[:, start : start + step] = octets.view(torch.int32).T
    return packed, x.sum(1, dtype=torch.int32)
