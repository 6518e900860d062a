"""Stationary kernels in the Triton engine: choosing precision and tiles, and starting the kernels.

Tiles by dimension and number of columns are estimates from register counts, not yet tried on hardware.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from sggp.native.checks import check_columns, check_pair, check_points
from sggp.native.families import Profile
from sggp.native.reference import BUDGET, Given, resolved
from sggp.native.triton import host

__all__ = ["stationary_block", "stationary_gradient", "stationary_matmul"]

_FLOAT32_RADIUS = 1e15  # squares of larger distances could leave the range of float32
_UNROLLED = 12  # coordinates whose squares are added without a loop


class _Rows(NamedTuple):
    """Both sides as the kernels read them: coordinates outermost, a whole number of chunks of them."""

    a: Tensor  # (d', n)
    b: Tensor  # (d', m)
    weights: Tensor | None  # (d',), or None where the rows are scaled
    chunk: int


def stationary_block(
    a: Tensor, b: Tensor, profile: Profile, *, dtype: torch.dtype | None = None, source: Given = None
) -> Tensor:
    """The kernel as a dense block: see `reference.stationary_block`.

    Cost: O(n·m·d) time, a copy of both sides beside the block.
    """
    dtype = a.dtype if dtype is None else dtype
    check_points(a, b, dtype)
    host.check_device(a, b)
    n, m = len(a), len(b)
    if 0 in (n, m):
        return torch.empty(n, m, dtype=dtype, device=a.device)
    rows = _rows(a, b, dtype, source)
    parameters = _parameters(profile, rows.a.dtype, a.device)
    out = torch.empty(n, m, dtype=rows.a.dtype, device=a.device)
    block_n, block_m, warps = _tile(out.dtype, 1)
    grid = (host.divide(n, block_n), host.divide(m, block_m))
    host.check_grid(grid[1], "columns")
    with host.on(a.device):
        host.kernels().stationary_block[grid](
            rows.a, rows.b, _weights(rows), parameters, out, n, n, m, m, rows.a.shape[0],
            FAMILY=profile.family, CHUNK=rows.chunk, WEIGHTED=rows.weights is not None, BLOCK_N=block_n,
            BLOCK_M=block_m, num_warps=warps, **host.OPTIONS,
        )  # fmt: skip
    return out.to(dtype)


def stationary_matmul(
    a: Tensor, b: Tensor, v: Tensor, profile: Profile, memory_budget: int = BUDGET, *, source: Given = None
) -> Tensor:
    """K(a, b) v without K: see `reference.stationary_matmul`.

    Args:
        memory_budget: bytes that the sums over spans of columns may take; copies of a, b and v come on top.

    Raises:
        MemoryBudgetError: not even one block of rows fits the budget.
    """
    check_points(a, b, v.dtype)
    check_columns(v, b.shape[0], "v")
    host.check_device(a, b, v)
    n, (m, s) = len(a), v.shape
    if 0 in (n, m, s):
        return torch.zeros(n, s, dtype=v.dtype, device=v.device)
    rows = _rows(a, b, v.dtype, source)
    columns = v.detach().to(rows.a.dtype).contiguous()
    parameters, weights = _parameters(profile, rows.a.dtype, a.device), _weights(rows)
    block_s, shares = host.column_block(s)
    block_n, block_m, warps = _tile(columns.dtype, block_s)

    def launch(start: int, count: int, part: Tensor) -> None:
        grid = (host.divide(count, block_n), part.shape[0], shares)
        host.kernels().stationary_matmul[grid](
            rows.a[:, start:], rows.b, weights, parameters, columns, part, n, count, m, m, rows.a.shape[0], s,
            FAMILY=profile.family, CHUNK=rows.chunk, WEIGHTED=rows.weights is not None,
            TILES=host.SPAN // block_m, BLOCK_N=block_n, BLOCK_M=block_m, BLOCK_S=block_s, num_warps=warps,
            **host.OPTIONS,
        )  # fmt: skip

    with host.on(a.device):
        return host.summed_spans(launch, n, m, columns, block_n, memory_budget).to(v.dtype)


def stationary_gradient(
    a: Tensor, b: Tensor, left: Tensor, right: Tensor, profile: Profile, *, memory_budget: int = BUDGET
) -> tuple[Tensor, Tensor]:
    """The gradient of a bilinear form: see `reference.stationary_gradient`.

    From differences in every term; sums of a tile in the working precision, sums of tiles in float64.

    Args:
        memory_budget: bytes that the sums of blocks may take; copies of the arguments come on top.
    """
    check_pair(a, b, left, right)
    host.check_device(a, b, left, right)
    n, d = a.shape
    m, s = right.shape
    total = torch.zeros(host.power_of_two(d + 1), dtype=torch.float64, device=a.device)
    if 0 not in (n, m, s):
        rows = _rows(a, b, a.dtype, None)
        parameters, weights = _parameters(profile, rows.a.dtype, a.device), _weights(rows)
        block_n, block_m, warps = _tile(rows.a.dtype, 1)
        spans = host.divide(m, host.SPAN)
        host.check_grid(spans, "columns")
        chunk = host.row_chunk(n, host.divide(spans * total.numel() * 8, block_n), block_n, memory_budget)
        lt, rt = (x.detach().to(rows.a.dtype).T.contiguous() for x in (left, right))
        with host.on(a.device):
            for start in range(0, n, chunk):
                count = min(chunk, n - start)
                grid = (host.divide(count, block_n), spans)
                sums = torch.empty(grid[0] * spans, total.numel(), dtype=torch.float64, device=a.device)
                host.kernels().stationary_gradient[grid](
                    rows.a[:, start:], rows.b, weights, parameters, lt[:, start:], rt, sums, n, count, m, m, d,
                    rows.a.shape[0], s, FAMILY=profile.family, CHUNK=rows.chunk, TILES=host.SPAN // block_m,
                    BLOCK_N=block_n, BLOCK_M=block_m, BLOCK_D=total.numel(), num_warps=warps, **host.OPTIONS,
                )  # fmt: skip
                total += sums.sum(0)
    return -2.0 * total[:d], total[-1] / profile.scale


def _tile(dtype: torch.dtype, block_s: int) -> tuple[int, int, int]:
    """Rows and columns of a tile of K, and warps, so that tile, operands and sums stay in registers."""
    if dtype == torch.float64:
        return (32, 32, 4) if block_s < 64 else (32, 32, 8)
    if 1 < block_s < 16:
        return 32, 64, 4  # the products of a tile by all columns exist at once
    return (64, 64, 4) if block_s < 64 else (64, 64, 8)


def _rows(a: Tensor, b: Tensor, dtype: torch.dtype, source: Given) -> _Rows:
    """Both sides for the kernels: see `reference.resolved`."""
    furthest = max(float(x.detach().double().square().sum(1).max()) for x in (b, a)) ** 0.5
    a, b, weights, dtype = resolved(a, b, dtype, source)
    if not furthest < _FLOAT32_RADIUS:
        dtype = torch.float64
    chunk, padded = _chunks(a.shape[1])
    if weights is not None:
        weights = torch.nn.functional.pad(weights.to(dtype), (0, padded - a.shape[1])).contiguous()
    same = a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()
    turned = _turned(a, dtype, padded)
    return _Rows(turned, turned if same else _turned(b, dtype, padded), weights, chunk)


def _chunks(d: int) -> tuple[int, int]:
    """Coordinates of a chunk, and d rounded up to a multiple of it."""
    count = max(1, host.divide(d, _UNROLLED))
    chunk = max(1, host.divide(d, count))
    return chunk, chunk * count if d else 0


def _turned(x: Tensor, dtype: torch.dtype, padded: int) -> Tensor:
    out = torch.zeros(padded, x.shape[0], dtype=dtype, device=x.device)
    out[: x.shape[1]] = x.T
    return out


def _weights(rows: _Rows) -> Tensor:
    """The weights, or anything of the same type: kernels without weights never read them."""
    return rows.a if rows.weights is None else rows.weights


@functools.lru_cache(maxsize=64)
def _parameters(profile: Profile, dtype: torch.dtype, device: torch.device) -> Tensor:
    """scale, α and 1/(2α) on the device: numbers in the arguments of a kernel would be rounded to float32."""
    numbers = [profile.scale, profile.shape, 0.5 / profile.shape]
    return torch.tensor(numbers, dtype=torch.float64).to(device, dtype)
