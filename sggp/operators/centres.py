"""Centres for a Gaussian process on inducing points: k-means, or rows thinned out by the kernel's own metric."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from sggp.arrays import check_rows
from sggp.checks import whole_number
from sggp.errors import InputError, UnsupportedKernel
from sggp.kernels import as_covariance
from sggp.kernels.covariance import Covariance
from sggp.kernels.points import Points
from sggp.neighbours.ordering import keep_apart
from sggp.random import as_generator, draw_seed
from sggp.typing import Seed

__all__ = ["select_centres"]

_TILE_ROWS = 1024
_TILE_BYTES = 64 * 2**20
_FULL_ROWS = 20_000
"""Up to this many rows k-means runs on all of them at once, beyond on mini-batches."""
_WIDEN = 1.3
_MOST_ROUNDS = 60

Close = Callable[[Tensor, Tensor], Tensor]  # (a,), (b,) row numbers -> (a, b) bool


def select_centres(
    kernel: Any,
    x: Tensor,
    num_centres: int | None = None,
    *,
    method: Literal["kmeans", "pruning"] = "kmeans",
    share: float = 0.2,
    generator: Seed = None,
) -> Tensor:
    """Centres Z for an `InducingOperator`, spread as the kernel sees the data.

    "kmeans" clusters the rows in coordinates divided by the length scales and returns the means of the clusters.
    "pruning" goes through the rows in random order and keeps a row unless it is closer than `share` of a length scale
    to one that was kept (for kernels without length scales: unless their correlation exceeds 1 − `share`), so that
    every row is that close to a centre and no two centres are.

    Args:
        kernel: any GPyTorch kernel, or a `sggp.kernels.Covariance`.
        x: (n, d) inputs; floating, or integer counts for Tanimoto kernels.
        num_centres: m; with "kmeans" it is required. With "pruning" it is an upper bound, met by widening what counts
            as close in steps of 30 %; None keeps what `share` keeps.
        method: "kmeans" needs a kernel with length scales (stationary, scaled, on some columns); "pruning" any.
        share: of a length scale, > 0 (below 1 for kernels without length scales); used by "pruning".
        generator: seed or generator; None draws fresh entropy.

    Returns:
        (m, d) rows in the dtype of x; fewer where x has fewer distinct rows or a cluster ran empty.

    Raises:
        UnsupportedKernel: "kmeans" with a kernel that has no length scales (Tanimoto, sums, products, unknown types).
        InputError: a number is out of range, or the method is unknown.

    Cost:
        "kmeans": O(n·m·d) a round, on mini-batches beyond 20,000 rows. "pruning": O(n·m·d), in tiles, exact.

    Source: Lin et al. 2023, section 3.2 (pruning by length scales). Departures: 1. Neighbours are exact. 2. Every
        dropped row has a kept one within the stated distance, which merging rows into groups would not ensure.
    """
    x = check_rows(x)
    if num_centres is not None:
        whole_number(num_centres, "num_centres")
    if not 0 < share < math.inf:
        raise InputError(f"share must be a positive number of length scales, got {share}.")
    covariance = as_covariance(kernel, dtype=torch.float64)
    points = covariance.prepare(x.double() if x.is_floating_point() else x)
    stream = as_generator(generator)
    if method == "kmeans":
        return _clustered(covariance, x, points, num_centres, stream)
    if method != "pruning":
        raise InputError(f'method must be "kmeans" or "pruning", got {method!r}.')
    order = torch.randperm(len(x), generator=stream).to(x.device)
    for i in range(_MOST_ROUNDS):
        kept = _thinned(_closeness(covariance, points, share, _WIDEN**i), order, num_centres)
        if kept is not None:
            return x[kept]
    raise InputError(
        f"pruning cannot bring the rows down to {num_centres}: too many are unrelated under this kernel. "
        "Raise num_centres, or pass centres of your own."
    )


def _clustered(
    covariance: Covariance, x: Tensor, points: Points, num_centres: int | None, generator: torch.Generator
) -> Tensor:
    """Means of k-means clusters of the rows in the kernel's own coordinates."""
    if num_centres is None:
        raise InputError('method="kmeans" needs num_centres; method="pruning" finds their number.')
    embedding = covariance.embedding(points) if x.is_floating_point() else None
    if embedding is None:
        raise UnsupportedKernel(
            f"k-means needs rows with length scales, which {covariance.name} on {x.dtype} rows does not have; use "
            'method="pruning", or pass centres of your own.'
        )
    distinct = torch.unique(x, dim=0)
    if len(distinct) <= num_centres:
        return distinct
    from sklearn.cluster import KMeans, MiniBatchKMeans

    seed = draw_seed(generator) % 2**32
    rows = embedding.double().cpu().numpy()
    kind = KMeans if len(x) <= _FULL_ROWS else MiniBatchKMeans
    label = kind(n_clusters=num_centres, n_init=1, random_state=seed).fit(rows).labels_
    member = torch.as_tensor(label, dtype=torch.long, device=x.device)
    count = torch.bincount(member, minlength=num_centres)
    # the coordinates are an affine map of the rows, so the mean of a cluster's rows maps to its mean
    centre = x.double().mean(0)
    total = torch.zeros(num_centres, x.shape[1], dtype=torch.float64, device=x.device)
    total.index_add_(0, member, x.double() - centre)
    full = count > 0
    return (total[full] / count[full, None] + centre).to(x.dtype)


def _closeness(covariance: Covariance, points: Points, share: float, widened: float) -> Close:
    """Which rows are closer than share·widened length scales, or correlate by more than (1 − share)/widened."""
    embedding = covariance.embedding(points) if points.raw.is_floating_point() else None
    if embedding is not None:
        rows = embedding.double()
        return lambda a, b: torch.cdist(rows[a], rows[b]) < share * widened
    if share >= 1:
        raise InputError(f"share must be below 1 for a kernel without length scales, got {share}.")
    scale = covariance.diagonal(points).double().clamp_min(torch.finfo(torch.float64).tiny).rsqrt()

    def close(a: Tensor, b: Tensor) -> Tensor:
        entries = covariance.block(points[a], points[b]).double()
        return entries * scale[a, None] * scale[b] > (1 - share) / widened

    return close


def _thinned(close: Close, order: Tensor, most: int | None) -> Tensor | None:
    """Rows in the given order that are not close to an earlier kept one; None where they are more than `most`."""
    kept = order[:0]
    for tile in order.split(_TILE_ROWS):
        free = torch.ones(len(tile), dtype=torch.bool, device=order.device)
        for part in kept.split(max(1, _TILE_BYTES // (8 * _TILE_ROWS))):
            free &= ~close(tile, part).any(1)
        tile = tile[free]
        kept = torch.cat([kept, tile[keep_apart(close(tile, tile))]])
        if most is not None and len(kept) > most:
            return None
    return kept
