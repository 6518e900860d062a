"""Many small residual systems at once, in C++: columns of sparse inverse Cholesky factors and residual scores."""

from __future__ import annotations

import torch
from torch import Tensor

from sggp.native import library
from sggp.native.families import Profile

__all__ = ["max_min_order", "nearest", "residual_scores", "sparse_columns", "sparse_square"]


def sparse_columns(
    points: Tensor,
    profile: Profile,
    noise: Tensor,
    low_rank: Tensor | None,
    index: Tensor,
    real: Tensor,
    *,
    isa: str | None = None,
) -> Tensor:
    """Columns of U with UUᵀ ≈ (K − FFᵀ + Σ)⁻¹ on given patterns.

    Args:
        points: (n, d) float64 rows divided by their length scales and centred.
        profile: the kernel.
        noise: (n,) float64 Σ.
        low_rank: (n, r) float64 F, or None.
        index: (b, w) int64 rows of each small system, the column's own row last.
        real: (b, w) bool, False where an entry only pads.

    Returns:
        (b, w) float64, zero where an entry only pads.

    Raises:
        NativeError: a small system has no factor even with a jitter of 1e-3 of the scale.

    Cost: b·w²·(d + r) + b·w³/3 multiply-adds, (w + d + r)·w numbers a thread.
    """
    out = torch.empty(index.shape, dtype=torch.float64)
    rank = 0 if low_rank is None else low_rank.shape[1]
    systems = (*profile.numbers, points, points.shape[1], noise, low_rank, rank)
    library.run("neighbour_columns", *systems, index, real, *index.shape, out, isa=isa)
    return out


def residual_scores(
    points: Tensor,
    profile: Profile,
    low_rank: Tensor,
    weight: Tensor,
    own: Tensor,
    candidates: Tensor,
    *,
    isa: str | None = None,
) -> Tensor:
    """|k(x_i, x_c) − f_i·f_c| · weight_c for rows i and their candidates c.

    Args:
        points: (n, d) float64 rows divided by their length scales and centred.
        profile: the kernel.
        low_rank: (n, r) float32 F.
        weight: (n,) float32.
        own: (b,) int64 rows. candidates: (b, c) int64, -1 where there is none.

    Returns:
        (b, c) float32; -1 where there is no candidate.
    """
    out = torch.empty(candidates.shape, dtype=torch.float32)
    systems = (*profile.numbers, points, points.shape[1], low_rank, low_rank.shape[1], weight)
    library.run("neighbour_scores", *systems, own, candidates, *candidates.shape, out, isa=isa)
    return out


def nearest(
    points: Tensor, queries: Tensor, k: int, *, before: Tensor | None = None, isa: str | None = None
) -> Tensor:  # (n, d), (q, d) -> (q, k)
    """The k points nearest to every query, in float32: see `reference.nearest`; `before` may have any order.

    Cost: q·n·d multiply-adds (Σ before·d), 4·n·d bytes.
    """
    out = torch.empty(len(queries), k, dtype=torch.int64)
    library.run("nearest", points, *points.shape, queries, len(queries), k, before, out, isa=isa)
    return out


def max_min_order(points: Tensor, *, isa: str | None = None) -> Tensor:  # (n, d) -> (n,)
    """The max-min order of float32 points, starting with the first; see `sggp.neighbours`.

    Cost: n²·d/2 multiply-adds, 12·n·d bytes.
    """
    out = torch.empty(len(points), dtype=torch.int64)
    library.run("coarse_to_fine", points, *points.shape, out, isa=isa)
    return out


def sparse_square(index: Tensor, values: Tensor, v: Tensor, *, isa: str | None = None) -> Tensor:
    """U Uᵀ v in float64 for a sparse U given by columns.

    Args:
        index: (n, w) int64 rows of the entries of each column. values: (n, w) float64 entries, zero where padded.
        v: (n, s) float64.

    Cost: 2·n·w·s multiply-adds; threads share the columns of v.
    """
    out = torch.empty(v.shape, dtype=v.dtype)
    library.run("sparse_square", index, values, *index.shape, v, v.shape[1], out, isa=isa)
    return out
