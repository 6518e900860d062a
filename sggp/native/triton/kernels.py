"""The Triton kernels: a program owns a block of rows and a span of columns of K, and walks it tile by tile."""

from __future__ import annotations

import triton
import triton.language as tl

from sggp.native.triton.device import (
    accumulate,
    common_bits,
    finish,
    profile_slope,
    profile_value,
    squared_distances,
)

__all__ = [
    "stationary_block",
    "stationary_gradient",
    "stationary_matmul",
    "tanimoto_block",
    "tanimoto_matmul",
]


@triton.jit
def stationary_block(
    a,
    b,
    weights,
    parameters,
    out,
    a_stride,
    n,
    b_stride,
    m,
    d,
    FAMILY: tl.constexpr,
    CHUNK: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """One tile of K into out (n, m)."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    cols = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    q = squared_distances(a, b, weights, rows, cols, a_stride, n, b_stride, m, d, CHUNK, WEIGHTED)
    place = out + rows[:, None].to(tl.int64) * m + cols[None, :]
    value = profile_value(q, parameters, FAMILY)
    tl.store(place, value, mask=(rows[:, None] < n) & (cols[None, :] < m))


@triton.jit
def stationary_matmul(
    a,
    b,
    weights,
    parameters,
    v,
    out,
    a_stride,
    n,
    b_stride,
    m,
    d,
    s,
    FAMILY: tl.constexpr,
    CHUNK: tl.constexpr,
    WEIGHTED: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """A block of rows of K times a span of TILES tiles of v, into out (spans, n, s)."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    span = tl.program_id(1)
    columns = tl.program_id(2) * BLOCK_S + tl.arange(0, BLOCK_S)
    WIDTH: tl.constexpr = BLOCK_M if BLOCK_S == 1 else BLOCK_S
    total = tl.zeros((BLOCK_N, WIDTH), dtype=v.dtype.element_ty)
    first = span * TILES * BLOCK_M
    for start in range(first, tl.minimum(first + TILES * BLOCK_M, m), BLOCK_M):
        cols = start + tl.arange(0, BLOCK_M)
        q = squared_distances(a, b, weights, rows, cols, a_stride, n, b_stride, m, d, CHUNK, WEIGHTED)
        tile = profile_value(q, parameters, FAMILY)
        total = accumulate(total, tile, v, cols, columns, m, s, BLOCK_S)
    finish(out, total, rows, columns, span, n, s, BLOCK_S)


@triton.jit
def stationary_gradient(
    a,
    b,
    weights,
    parameters,
    left,
    right,
    out,
    a_stride,
    n,
    b_stride,
    m,
    d,
    padded,
    s,
    FAMILY: tl.constexpr,
    CHUNK: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """What a block of rows and a span of columns add to Σ W_ij (a_ik − b_jk)² and to the bilinear form itself.

    `left` and `right` have their columns outermost in memory, like the coordinates, with the strides of a and b. Place
    k < d of out (programs, BLOCK_D) takes the sum of coordinate k, the last place the value; float64, d < BLOCK_D.
    """
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    places = tl.arange(0, BLOCK_D)
    sums = tl.zeros((BLOCK_D,), dtype=tl.float64)
    first = tl.program_id(1) * TILES * BLOCK_M
    for start in range(first, tl.minimum(first + TILES * BLOCK_M, m), BLOCK_M):
        cols = start + tl.arange(0, BLOCK_M)
        outer = tl.zeros((BLOCK_N, BLOCK_M), dtype=a.dtype.element_ty)
        lt, rt = left + rows, right + cols
        for _ in range(s):
            x = tl.load(lt, mask=rows < n, other=0.0)
            z = tl.load(rt, mask=cols < m, other=0.0)
            outer += x[:, None] * z[None, :]
            lt += a_stride
            rt += b_stride
        q = squared_distances(a, b, weights, rows, cols, a_stride, n, b_stride, m, padded, CHUNK, False)
        value = tl.sum(tl.sum(outer * profile_value(q, parameters, FAMILY), axis=1).to(tl.float64), axis=0)
        sums += tl.where(places == BLOCK_D - 1, value, 0.0)
        outer = outer * profile_slope(q, parameters, FAMILY)
        at, bt = a + rows, b + cols
        for k in range(d):
            x = tl.load(at, mask=rows < n, other=0.0)
            z = tl.load(bt, mask=cols < m, other=0.0)
            difference = x[:, None] - z[None, :]
            value = tl.sum(tl.sum(outer * difference * difference, axis=1).to(tl.float64), axis=0)
            sums += tl.where(places == k, value, 0.0)
            at += a_stride
            bt += b_stride
    program = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    tl.store(out + program * BLOCK_D + places, sums)


@triton.jit
def _similarity(common, left, right, like):
    """c / (Σa + Σb − c), Σa in left and Σb in right, rounded as what `like` points to; 1 for two empty rows."""
    union = left[:, None] + right[None, :] - common
    bottom = tl.where(union == 0, 1, union).to(like.dtype.element_ty)
    top = tl.where(union == 0, 1, common).to(like.dtype.element_ty)
    if top.dtype == tl.float32:
        quotient = tl.div_rn(top, bottom)
    else:
        quotient = top / bottom
    return quotient


@triton.jit
def tanimoto_block(
    a,
    b,
    a_sums,
    b_sums,
    out,
    a_stride,
    n,
    b_stride,
    m,
    words,
    POPC: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """One tile of T into out (n, m)."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    cols = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    common = common_bits(a, b, rows, cols, a_stride, n, b_stride, m, words, POPC)
    left = tl.load(a_sums + rows, mask=rows < n, other=0)
    right = tl.load(b_sums + cols, mask=cols < m, other=0)
    value = _similarity(common, left, right, out)
    place = out + rows[:, None].to(tl.int64) * m + cols[None, :]
    tl.store(place, value, mask=(rows[:, None] < n) & (cols[None, :] < m))


@triton.jit
def tanimoto_matmul(
    a,
    b,
    a_sums,
    b_sums,
    v,
    out,
    a_stride,
    n,
    b_stride,
    m,
    words,
    s,
    POPC: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """A block of rows of T times a span of TILES tiles of v, into out (spans, n, s)."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    span = tl.program_id(1)
    columns = tl.program_id(2) * BLOCK_S + tl.arange(0, BLOCK_S)
    WIDTH: tl.constexpr = BLOCK_M if BLOCK_S == 1 else BLOCK_S
    total = tl.zeros((BLOCK_N, WIDTH), dtype=v.dtype.element_ty)
    left = tl.load(a_sums + rows, mask=rows < n, other=0)
    first = span * TILES * BLOCK_M
    for start in range(first, tl.minimum(first + TILES * BLOCK_M, m), BLOCK_M):
        cols = start + tl.arange(0, BLOCK_M)
        right = tl.load(b_sums + cols, mask=cols < m, other=0)
        common = common_bits(a, b, rows, cols, a_stride, n, b_stride, m, words, POPC)
        tile = _similarity(common, left, right, v)
        total = accumulate(total, tile, v, cols, columns, m, s, BLOCK_S)
    finish(out, total, rows, columns, span, n, s, BLOCK_S)
