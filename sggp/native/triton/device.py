"""Functions inside the Triton kernels: distances, profiles, population counts, sums over columns.

`CHUNK`, `FAMILY` and the like are constants of the compiled kernel; everything else is known when it runs.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

__all__ = ["accumulate", "common_bits", "finish", "profile_slope", "profile_value", "squared_distances"]


# --- stationary kernels -----------------------------------------------------------------------------------------


@triton.jit
def squared_distances(
    a,
    b,
    weights,
    rows,
    cols,
    a_stride,
    n,
    b_stride,
    m,
    d,
    CHUNK: tl.constexpr,
    WEIGHTED: tl.constexpr,
):
    """Σ_k (w_k (a_ki − b_kj))² over a tile, from differences; coordinates outermost in memory, d a multiple of CHUNK.

    The sums of chunks are added up, so that the rounding error grows with CHUNK + d / CHUNK and not with d.
    """
    at, bt, wt = a + rows, b + cols, weights
    total = tl.zeros((rows.shape[0], cols.shape[0]), dtype=a.dtype.element_ty)
    for _ in range(0, d, CHUNK):
        part = tl.zeros_like(total)
        for _k in tl.static_range(CHUNK):
            x = tl.load(at, mask=rows < n, other=0.0)
            z = tl.load(bt, mask=cols < m, other=0.0)
            difference = x[:, None] - z[None, :]
            if WEIGHTED:
                difference = difference * tl.load(wt)
                wt += 1
            part += difference * difference
            at += a_stride
            bt += b_stride
        total += part
    if total.dtype == tl.float64:
        total = tl.where(total > 1e300, 1e300, total)  # keeps NaN, and ∞ · exp(−∞) does not become one
    else:
        total = tl.where(total > 1e37, 1e37, total)
    return total


@triton.jit
def _root(x):
    """√x to the last place: plain `tl.sqrt` is approximate in float32."""
    if x.dtype == tl.float32:
        result = tl.sqrt_rn(x)
    else:
        result = tl.sqrt(x)
    return result


@triton.jit
def _odd_series(square, TERMS: tl.constexpr):
    """Σ_k square^k / (2k + 1), TERMS terms."""
    series = tl.zeros_like(square)
    for k in tl.static_range(TERMS):
        series = series * square + 1.0 / (2 * (TERMS - 1 - k) + 1)
    return series


@triton.jit
def _log1p(t):
    """log(1 + t) for t ≥ 0 with a small relative error: 2 artanh(t / (2 + t)) by its series below 1/2."""
    ratio = t / (2.0 + t)
    if t.dtype == tl.float64:
        series = _odd_series(ratio * ratio, 12)
    else:
        series = _odd_series(ratio * ratio, 6)
    return tl.where(t < 0.5, 2.0 * ratio * series, tl.log(1.0 + t))


@triton.jit
def profile_value(q, parameters, FAMILY: tl.constexpr):
    """scale · φ(q) at squared distances q; `parameters` points to the scale, α and 1/(2α)."""
    if FAMILY == "rbf":
        value = tl.exp(-0.5 * q)
    elif FAMILY == "matern12":
        value = tl.exp(-_root(q))
    elif FAMILY == "matern32":
        t = _root(q) * 1.7320508075688772
        value = (1.0 + t) * tl.exp(-t)
    elif FAMILY == "matern52":
        t = _root(q) * 2.23606797749979
        value = (1.0 + t * (1.0 + t * 0.3333333333333333)) * tl.exp(-t)
    else:
        tl.static_assert(FAMILY == "rq", "no such family of kernels")
        value = tl.exp(-tl.load(parameters + 1) * _log1p(q * tl.load(parameters + 2)))
    return value * tl.load(parameters)


@triton.jit
def profile_slope(q, parameters, FAMILY: tl.constexpr):
    """scale · dφ/dq; 0 at the kink of matern12."""
    if FAMILY == "rbf":
        slope = -0.5 * tl.exp(-0.5 * q)
    elif FAMILY == "matern12":
        r = _root(q)
        apart = tl.where(r == 0.0, 1.0, r)
        slope = tl.where(r == 0.0, 0.0, -0.5 * tl.exp(-r) / apart)
    elif FAMILY == "matern32":
        slope = -1.5 * tl.exp(-1.7320508075688772 * _root(q))
    elif FAMILY == "matern52":
        t = _root(q) * 2.23606797749979
        slope = -0.8333333333333334 * (1.0 + t) * tl.exp(-t)
    else:
        tl.static_assert(FAMILY == "rq", "no such family of kernels")
        alpha = tl.load(parameters + 1)
        slope = -0.5 * tl.exp((-1.0 - alpha) * _log1p(q * tl.load(parameters + 2)))
    return slope * tl.load(parameters)


# --- counts -----------------------------------------------------------------------------------------------------


@triton.jit
def _population(x, POPC: tl.constexpr):
    """The number of set bits of int32 words, by the machine's instruction or by adding neighbouring fields."""
    if POPC:
        count = libdevice.popc(x)
    else:
        u = x.to(tl.uint32, bitcast=True)
        u = u - ((u >> 1) & 0x55555555)
        u = (u & 0x33333333) + ((u >> 2) & 0x33333333)
        u = (u + (u >> 4)) & 0x0F0F0F0F
        u = u + (u >> 8)
        u = (u + (u >> 16)) & 0x3F
        count = u.to(tl.int32)
    return count


@triton.jit
def common_bits(
    a,
    b,
    rows,
    cols,
    a_stride,
    n,
    b_stride,
    m,
    words,
    POPC: tl.constexpr,
):
    """How many bits rows and columns have in common, int32; words outermost in memory."""
    at, bt = a + rows, b + cols
    total = tl.zeros((rows.shape[0], cols.shape[0]), dtype=tl.int32)
    for _ in range(words):
        x = tl.load(at, mask=rows < n, other=0)
        z = tl.load(bt, mask=cols < m, other=0)
        total += _population(x[:, None] & z[None, :], POPC)
        at += a_stride
        bt += b_stride
    return total


# --- products ---------------------------------------------------------------------------------------------------


@triton.jit
def accumulate(total, tile, v, cols, columns, m, s, BLOCK_S: tl.constexpr):
    """total + tile · v. One column is summed per entry of the tile and reduced once, at the end, by `finish`."""
    place = v + cols[:, None].to(tl.int64) * s + columns[None, :]
    part = tl.load(place, mask=(cols[:, None] < m) & (columns[None, :] < s), other=0.0)
    if BLOCK_S == 1:
        total += tile * tl.trans(part)
    elif BLOCK_S < 16:
        total += tl.sum(tile[:, None, :] * tl.trans(part)[None, :, :], axis=2)
    else:
        total = tl.dot(tile, part, total, input_precision="ieee", out_dtype=tile.dtype)
    return total


@triton.jit
def finish(out, total, rows, columns, span, n, s, BLOCK_S: tl.constexpr):
    """Write what one span of columns adds to (n, s) results into its own place of out (spans, n, s)."""
    if BLOCK_S == 1:
        total = tl.sum(total, axis=1)[:, None]
    first = span.to(tl.int64) * n
    place = out + (first + rows[:, None]) * s + columns[None, :]
    tl.store(place, total, mask=(rows[:, None] < n) & (columns[None, :] < s))
