"""Nearest rows: exact by tiles or by a k-d tree, among all rows or only among earlier ones.

Rows are points whose Euclidean distance orders pairs as the kernel does (inputs divided by length scales). A
nearest-neighbour factor needs, for every row of an ordering, its nearest *earlier* rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from sggp.errors import InputError, ShapeError

__all__ = ["earlier_by_score", "earlier_neighbours", "nearest"]

TREE_DIMENSION = 6
_TREE_ROWS = 4096
_TILE_BYTES = 64 * 2**20


def _check(points: Tensor, k: int) -> None:
    if points.ndim != 2:
        raise ShapeError(f"points must be (n, d), got shape {tuple(points.shape)}.")
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}.")


def _scaled(points: Tensor) -> Tensor:
    """Centred float32 copy: neighbours only steer, so a last-digit swap of two equal distances is harmless."""
    points = points.detach().double()
    return (points - points.mean(0)).float()


def nearest(points: Tensor, queries: Tensor, k: int) -> Tensor:
    """Indices of the k nearest rows of `points` for each row of `queries`.

    Args:
        points: (n, d). queries: (q, d). k: how many, at most n.

    Returns:
        (q, k) int64, nearest first.

    Cost:
        O(q·n·d) by tiles, or O(q log n) by a k-d tree when d ≤ 6.
    """
    _check(points, k)
    if queries.ndim != 2 or queries.shape[1] != points.shape[1]:
        raise ShapeError(f"queries must be (q, {points.shape[1]}), got shape {tuple(queries.shape)}.")
    k = min(k, len(points))
    if points.shape[1] <= TREE_DIMENSION and points.device.type == "cpu":
        tree = cKDTree(points.detach().numpy())
        found = tree.query(queries.detach().numpy(), k=k, workers=torch.get_num_threads())[1]
        return torch.as_tensor(np.asarray(found).reshape(len(queries), k), dtype=torch.long)
    centre = points.detach().double().mean(0)
    base, ask = (points.detach().double() - centre).float(), (queries.detach().double() - centre).float()
    half = 0.5 * base.square().sum(1)
    rows = max(1, _TILE_BYTES // (4 * max(1, len(base))))
    found_tiles = [
        torch.topk(torch.addmm(half[None], tile, base.T, alpha=-1), k, largest=False).indices
        for tile in ask.split(rows)
    ]
    return (
        torch.cat(found_tiles) if found_tiles else torch.empty(0, k, dtype=torch.long, device=points.device)
    )


def earlier_neighbours(points: Tensor, order: Tensor, k: int) -> Tensor:
    """For each position of an ordering, the positions of its nearest earlier rows.

    Args:
        points: (n, d) points in the kernel's metric.
        order: (n,) a permutation; position i holds row order[i].
        k: how many neighbours.

    Returns:
        (n, k) int64 positions j < i, nearest first; -1 where fewer than k rows are earlier.

    Cost:
        O(n²d/2) by tiles; O(n k log n) by k-d trees over doubling prefixes when d ≤ 6.
    """
    _check(points, k)
    ordered = _scaled(points)[order]
    if ordered.shape[1] <= TREE_DIMENSION and len(ordered) > _TREE_ROWS and ordered.device.type == "cpu":
        return _earlier_by_tree(ordered, k)
    half = 0.5 * ordered.square().sum(1)

    def score(start: int, stop: int) -> Tensor:  # larger is closer
        return torch.addmm(-half[None, :stop], ordered[start:stop], ordered[:stop].T)

    return earlier_by_score(score, len(ordered), k, device=points.device)


def earlier_by_score(
    score: Callable[[int, int], Tensor], n: int, k: int, *, device: torch.device | str = "cpu"
) -> Tensor:
    """Earlier neighbours under any similarity: `score(start, stop)` gives (stop - start, stop), larger is closer."""
    out = torch.full((n, k), -1, dtype=torch.long, device=device)
    start = 0
    while start < n:
        stop = min(n, start + max(16, min(1024, _TILE_BYTES // (4 * max(1, n)))))
        tile = score(start, stop)
        position = torch.arange(start, stop, device=device)
        tile = tile.masked_fill(torch.arange(stop, device=device)[None] >= position[:, None], -torch.inf)
        width = min(k, stop)
        value, index = tile.topk(width)
        out[start:stop, :width] = torch.where(value > -torch.inf, index, -1)
        start = stop
    return out


def _earlier_by_tree(ordered: Tensor, k: int) -> Tensor:
    """Trees over doubling prefixes, exactly.

    A row is settled once k of the rows found are earlier than itself; until then it asks again for more.
    """
    points = ordered.numpy()
    n = len(points)
    out = np.full((n, k), -1, dtype=np.int64)
    first = min(n, _TREE_ROWS)
    brute = earlier_neighbours(ordered[:first], torch.arange(first), k) if first < n else None
    out[:first] = brute.numpy() if brute is not None else -1
    start = first
    while start < n:
        stop = min(n, 2 * start)
        tree = cKDTree(points[:stop])
        pending, ask = np.arange(start, stop), 2 * k + 8
        while len(pending):
            ask = min(ask, stop)
            found = tree.query(points[pending], k=ask, workers=torch.get_num_threads())[1]
            earlier = found < pending[:, None]
            settled = (earlier.sum(1) >= k) | (ask == stop)
            rank = np.argsort(~earlier[settled], axis=1, kind="stable")[:, :k]
            picked = np.take_along_axis(found[settled], rank, 1)
            out[pending[settled], : picked.shape[1]] = np.where(
                picked < pending[settled][:, None], picked, -1
            )
            pending, ask = pending[~settled], 4 * ask
        start = stop
    return torch.from_numpy(out)
