"""The reference engine: products with stationary and Tanimoto kernels in plain torch, on any device.

Every other engine offers the functions of this module with the same names, signatures and meaning, and is tested
against it. Points arrive already divided by their length scales and centred; n, m are numbers of points, d the
dimension, s the number of columns.

Distances. The product form |a|² + |b|² − 2a·b is computed in float64 whatever the working precision and is trusted
only where it is well conditioned: entries with r² ≤ τ(|a|² + |b|²) are computed again from differences of
coordinates. A relative error of ε/τ in r² then moves k by at most ε/τ · max r|φ'(r)|, far below one unit in the last
place of float32 (τ = 1e-8) and below 1e-14 of the scale in float64 (τ = 0.03).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sggp.native.families import FAMILIES, Profile
from sggp.native.thermometer import tanimoto_block, tanimoto_matmul
from sggp.native.tiling import tile_shape, tiles

__all__ = [
    "FAMILIES",
    "Profile",
    "Source",
    "nearest",
    "profile_curvature",
    "profile_slope",
    "profile_values",
    "shape_gradient",
    "squared_distances",
    "stationary_block",
    "stationary_curvature",
    "stationary_gradient",
    "stationary_matmul",
    "stationary_slope",
    "tanimoto_block",
    "tanimoto_matmul",
]

_EXACT_RADIUS = {torch.float32: 3.0, torch.float64: 30.0}  # rows further out are taken from `source`
_ROWS = 65_536  # whose lengths are found together
_DIRECT_DIMENSION = 4  # up to this dimension, differences are as cheap as a matrix product
_MANY = 16  # more than one entry in this many ill conditioned: the whole tile by differences
_SEARCH_BYTES = 64 * 2**20  # of one tile of scores
_PAIR_CHUNK = 2**18  # coordinates gathered at a time when single entries are repaired
BUDGET = 256 * 2**20  # bytes for tiles unless told otherwise
BYTES_PER_ENTRY = 32  # live bytes per tile entry, temporaries included, in the worst family


class Source(NamedTuple):
    """The rows before centring and scaling: a ≈ (x − c)·weights, b ≈ (z − c)·weights.

    Differences taken here lose nothing to the rounding of a and b, however far the points are from the centre.
    """

    x: Tensor  # (n, d)
    z: Tensor  # (m, d)
    weights: Tensor  # (d,) float64, the inverse length scales


Given = Source | None  # what `source` may be


# --- profiles ---------------------------------------------------------------------------------------------------


def profile_values(r2: Tensor, profile: Profile) -> Tensor:
    """The values scale · φ(r²), overwriting `r2`; returns (n, m) in the dtype of `r2`."""
    return profile.kind.phi(r2, profile)


def profile_slope(r2: Tensor, profile: Profile) -> Tensor:
    """The slopes scale · dφ/d(r²), overwriting `r2`; finite everywhere (matern12: 0 at r = 0, where it has a kink)."""
    return profile.kind.slope(r2, profile)


def profile_curvature(r2: Tensor, profile: Profile) -> Tensor:
    """The curvatures scale · d²φ/d(r²)², overwriting `r2`; finite everywhere (0 at r = 0 where they are not)."""
    return profile.kind.curvature(r2, profile)


# --- distances --------------------------------------------------------------------------------------------------


def squared_distances(a: Tensor, b: Tensor, *, dtype: torch.dtype, source: Given = None) -> Tensor:
    """|a_i − b_j|² as (n, m) float64, accurate enough for entries of `dtype`; see the module's note.

    Args:
        a: (n, d) scaled and centred points.
        b: (m, d) likewise, with the same centre.
        dtype: the precision the kernel entries are wanted in.
        source: the unscaled rows, from which ill-conditioned differences are taken; None takes them from a, b.
    """
    pair = source or Source(a, b, torch.ones((), dtype=torch.float64, device=a.device))
    if a.shape[1] <= _DIRECT_DIMENSION:
        return _direct(pair)
    a, b = a.double(), b.double()
    aa, bb = a.square().sum(1), b.square().sum(1)
    r2 = torch.addmm(bb, a, b.T, alpha=-2.0).add_(aa[:, None])
    tau = 0.03 if dtype == torch.float64 else 1e-8
    near = r2 <= (aa[:, None] + bb).mul_(tau)
    if int(near.count_nonzero()) * _MANY > near.numel():
        del r2, near
        return _direct(pair)
    i, j = near.nonzero(as_tuple=True)
    step = max(1, _PAIR_CHUNK // a.shape[1])
    for rows, cols in zip(i.split(step), j.split(step), strict=True):
        difference = (pair.x[rows].double() - pair.z[cols].double()).mul_(pair.weights)
        r2[rows, cols] = difference.square_().sum(1)
    return r2


def resolved(
    a: Tensor, b: Tensor, dtype: torch.dtype, source: Given
) -> tuple[Tensor, Tensor, Tensor | None, torch.dtype]:
    """Rows that differences can be taken from, weights of these where they are those of `source`, and a precision.

    Rounding a row at distance R moves it by up to ε·R. Where rows of `b` lie beyond a small R, the unscaled rows are
    used if they are exact in the working precision; if not, the call is made in float64. (A row of `a` further out
    than all of `b` is near none of them.)
    """
    a, b = a.detach(), b.detach()
    farthest = max(float(torch.linalg.vector_norm(part, dim=1).max()) for part in b.split(_ROWS))
    if not farthest > _EXACT_RADIUS[dtype]:
        return a, b, None, dtype
    x, z = (a, b) if source is None else (source.x.detach(), source.z.detach())
    exact = x.is_floating_point() and z.is_floating_point() and {x.dtype, z.dtype} <= {torch.float32, dtype}
    if not exact:
        return a, b, None, torch.float64
    return x, z, None if source is None else source.weights.detach().expand(a.shape[1]), dtype


def _direct(pair: Source) -> Tensor:
    """Squared distances coordinate by coordinate: d passes over the tile, no cancellation."""
    x, z = pair.x, pair.z
    weights = pair.weights.double().expand(x.shape[1])
    r2 = torch.zeros(x.shape[0], z.shape[0], dtype=torch.float64, device=x.device)
    for k in range(x.shape[1]):
        difference = x[:, k, None].double() - z[None, :, k].double()
        difference.mul_(weights[k])
        r2.addcmul_(difference, difference)
    return r2


def _working(r2: Tensor, dtype: torch.dtype, profile: Profile) -> Tensor:
    """Kernel entries in `dtype` from float64 squared distances, which are overwritten."""
    if profile.kind.shaped or dtype == torch.float64:  # the slow tail of rq outlives the range of float32
        return profile_values(r2.clamp_max_(1e300), profile).to(dtype)
    return profile_values(r2.clamp_max_(1e37).to(dtype), profile)


def _tiles(
    a: Tensor, b: Tensor, memory_budget: int, per_row: int, *, more: int = 0
) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of tiles of K(a, b) within the budget; `more` bytes per entry beside the usual temporaries."""
    n, m = len(a), len(b)
    return tiles(n, m, tile_shape(n, m, memory_budget, per_entry=BYTES_PER_ENTRY + more, per_row=per_row))


# --- stationary kernels -----------------------------------------------------------------------------------------


def stationary_block(
    a: Tensor, b: Tensor, profile: Profile, *, dtype: torch.dtype | None = None, source: Given = None
) -> Tensor:
    """The kernel scale · φ(|a_i − b_j|²) as a dense (n, m) block.

    Args:
        a: (n, d) points divided by their length scales and centred.
        b: (m, d) likewise.
        profile: the kernel.
        dtype: of the result; None takes that of `a`.
        source: the unscaled rows, for entries that a and b cannot resolve.

    Cost: O(n·m·d) time, about `BYTES_PER_ENTRY`·n·m bytes at its peak.
    """
    dtype = a.dtype if dtype is None else dtype
    return _working(squared_distances(a, b, dtype=dtype, source=source), dtype, profile)


def stationary_slope(a: Tensor, b: Tensor, profile: Profile, *, source: Given = None) -> Tensor:
    """The slopes scale · dφ/d(r²) at (a_i, b_j) as a dense (n, m) float64 block, for gradients."""
    r2 = squared_distances(a, b, dtype=torch.float64, source=source)
    return profile_slope(r2.clamp_max_(1e300), profile)


def stationary_curvature(a: Tensor, b: Tensor, profile: Profile, *, source: Given = None) -> Tensor:
    """The curvatures scale · d²φ/d(r²)² likewise, for gradients of gradients."""
    r2 = squared_distances(a, b, dtype=torch.float64, source=source)
    return profile_curvature(r2.clamp_max_(1e300), profile)


def stationary_matmul(
    a: Tensor, b: Tensor, v: Tensor, profile: Profile, memory_budget: int = BUDGET, *, source: Given = None
) -> Tensor:
    """K(a, b) v by tiles, (n, s) in the dtype of `v`.

    Args:
        a: (n, d) points divided by their length scales and centred.
        b: (m, d) likewise.
        v: (m, s) columns; their dtype is the precision of the entries.
        profile: the kernel.
        memory_budget: bytes that all tiles and temporaries together may take.
        source: the unscaled rows, for entries that a and b cannot resolve.

    Raises:
        MemoryBudgetError: not even one small tile fits the budget.
    """
    out = torch.zeros(a.shape[0], v.shape[1], dtype=v.dtype, device=v.device)
    for rows, cols in _tiles(a, b, memory_budget, 16 * a.shape[1] + 8 * v.shape[1]):
        part = None if source is None else Source(source.x[rows], source.z[cols], source.weights)
        tile = stationary_block(a[rows], b[cols], profile, dtype=v.dtype, source=part)
        out[rows].addmm_(tile, v[cols])
    return out


def stationary_gradient(
    a: Tensor, b: Tensor, left: Tensor, right: Tensor, profile: Profile, *, memory_budget: int = BUDGET
) -> tuple[Tensor, Tensor]:
    """The gradient of Σ_j left_jᵀ K(a, b) right_j in the logarithms of the length scales and in the scale.

    With M = left rightᵀ and W = M ∘ scale·φ'(r²), ∂/∂log ℓ_k = −2 Σ_ij W_ij (a_ik − b_jk)².

    Args:
        a: (n, d) points divided by their length scales and centred.
        b: (m, d) likewise.
        left: (n, s) columns.
        right: (m, s) columns.
        profile: the kernel.
        memory_budget: bytes that all tiles may take.

    Returns:
        (d,) derivatives in log ℓ_k and the () derivative in the scale, float64.
    """
    a, b = a.double(), b.double()
    log_lengthscale = torch.zeros(a.shape[1], dtype=torch.float64, device=a.device)
    scale = torch.zeros((), dtype=torch.float64, device=a.device)
    for rows, cols in _tiles(a, b, memory_budget, 32 * a.shape[1] + 16 * left.shape[1]):
        x, z = a[rows], b[cols]
        outer = left[rows].double() @ right[cols].double().T
        r2 = squared_distances(x, z, dtype=torch.float64).clamp_max_(1e300)
        weight = profile_slope(r2.clone(), profile).mul_(outer)
        scale += (profile_values(r2, profile) * outer).sum()
        spread = weight.sum(1) @ x.square() + weight.sum(0) @ z.square() - 2.0 * (x * (weight @ z)).sum(0)
        log_lengthscale -= 2.0 * spread
    return log_lengthscale, scale / profile.scale


def shape_gradient(
    sides: tuple[Tensor, Tensor], left: Tensor, right: Tensor, alpha: float, memory_budget: int
) -> Tensor:
    """The derivative of Σ_j left_jᵀ φ(a, b) right_j in the shape α of "rq", () float64, by tiles; sides: (a, b).

    With φ = (1 + y)^−α, y = r²/2α: ∂φ/∂α = φ·(y/(1 + y) − log(1 + y)).
    """
    a, b = sides
    total = torch.zeros((), dtype=torch.float64, device=a.device)
    for rows, cols in _tiles(a, b, memory_budget, 32 * a.shape[1] + 16 * left.shape[1], more=16):
        y = squared_distances(a[rows], b[cols], dtype=torch.float64).clamp_max_(1e300).div_(2.0 * alpha)
        logarithm = y.log1p()
        value = y.div_(y + 1.0).sub_(logarithm).mul_(logarithm.mul_(-alpha).exp_())
        total += (value * (left[rows].double() @ right[cols].double().T)).sum()
    return total


# --- search -----------------------------------------------------------------------------------------------------


def nearest(
    points: Tensor, queries: Tensor, k: int, *, before: Tensor | None = None
) -> Tensor:  # (n, d), (q, d) -> (q, k)
    """The k points nearest to every query by comparing with all, nearest first; -1 beyond the last.

    Args:
        points: (n, d), centred.
        queries: (q, d).
        k: how many.
        before: (q,) int64 ascending: only points at places below a query's number count; None takes all.

    Cost: q·n·d multiply-adds in float64, by tiles: norms and products far from the origin nearly cancel.
    """
    out = torch.full((len(queries), k), -1, dtype=torch.long, device=points.device)
    wide, ask = points.double(), queries.double()
    half = 0.5 * wide.square().sum(1)
    rows = max(16, min(1024, _SEARCH_BYTES // (8 * max(1, len(points)))))
    for tile in torch.arange(len(queries), device=points.device).split(rows):
        if not len(tile):
            break
        stop = len(points) if before is None else int(before[tile[-1]])
        score = torch.addmm(-half[None, :stop], ask[tile], wide[:stop].T)  # larger is closer
        if before is not None:
            place = torch.arange(stop, device=points.device)
            score.masked_fill_(place >= before[tile, None], -torch.inf)
        width = min(k, stop)
        value, index = score.topk(width)
        out[tile, :width] = torch.where(value > -torch.inf, index, -1)
    return out
