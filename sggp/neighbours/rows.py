"""Nearest rows: exact by tiles or by a k-d tree, or approximate by an index; among all rows or earlier ones.

Rows are points whose Euclidean distance orders pairs as the kernel does (inputs divided by length scales). A
nearest-neighbour factor needs, for every row of an ordering, its nearest *earlier* rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from sggp.errors import InputError, MissingExtra, ShapeError
from sggp.native import neighbours as native

__all__ = [
    "Method",
    "coarse_to_fine",
    "coarse_to_fine_by_gaps",
    "earlier_by_score",
    "earlier_neighbours",
    "nearest",
]

Method = Literal["auto", "exact", "tree", "approximate"]

TREE_DIMENSION = 6
_TREE_ROWS = 4096
_TILE_BYTES = 64 * 2**20
_LEVEL_ROWS = 128
_CANDIDATES = 10_000
"""Rows that one query of the approximate index looks at, about."""
_LEAST_PROBES = 16
_TRAINING_ROWS = 64
"""Rows per cell that the cells of the approximate index are found from."""
_MOST_ASKED = 1024
"""Rows asked of the approximate index at most; who still lacks earlier ones then is searched exactly."""


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
    if native.available(base.device):
        return native.nearest(base, ask, k)
    half = 0.5 * base.square().sum(1)
    rows = max(1, _TILE_BYTES // (4 * max(1, len(base))))
    found_tiles = [
        torch.topk(torch.addmm(half[None], tile, base.T, alpha=-1), k, largest=False).indices
        for tile in ask.split(rows)
    ]
    return (
        torch.cat(found_tiles) if found_tiles else torch.empty(0, k, dtype=torch.long, device=points.device)
    )


def coarse_to_fine(points: Tensor, generator: torch.Generator) -> Tensor:
    """An ordering in which every row lies far from all earlier ones, as far as rows at its level can.

    Level by level the radius is halved, and of the rows not yet chosen all that lie further than the radius from every
    chosen one are chosen, in random order. Within a factor of two this is the max-min ordering, in which each row is
    the one furthest from all earlier ones; early rows then tell of the whole set and late ones only of their
    surroundings, which is what a factor on nearest earlier rows needs.

    Args:
        points: (n, d) points in the kernel's metric.
        generator: for the order within a level.

    Returns:
        (n,) a permutation.

    Cost: n²·d/2 multiply-adds.

    Source: Guinness 2018 (max-min ordering for Vecchia's approximation); Schäfer, Katzfuss and Owhadi 2021, section 4.
    """
    _check(points, 1)
    shuffle = torch.randperm(len(points), generator=generator).to(points.device)
    shuffled = _scaled(points)[shuffle]
    if native.available(shuffled.device):
        return shuffle[native.coarse_to_fine(shuffled)]

    def gaps(rows: Tensor) -> Tensor:
        exactly = "donot_use_mm_for_euclid_dist"
        return torch.cdist(shuffled[rows], shuffled, compute_mode=exactly).square()

    return shuffle[coarse_to_fine_by_gaps(gaps, len(points), device=shuffled.device)]


def coarse_to_fine_by_gaps(
    gaps: Callable[[Tensor], Tensor], n: int, *, device: torch.device | str = "cpu"
) -> Tensor:
    """`coarse_to_fine` under any squared distance: `gaps(rows)` gives (b, n). Cost: n² of them."""
    gap = torch.full((n,), torch.inf, device=device)
    chosen = torch.zeros(n, dtype=torch.bool, device=device)
    out: list[Tensor] = []

    def settle(rows: Tensor, found: Tensor) -> None:
        gap.copy_(torch.minimum(gap, found.amin(0)))
        chosen[rows] = True
        out.append(rows)

    first = torch.zeros(1, dtype=torch.long, device=device)
    settle(first, gaps(first).to(gap))
    radius = float(gap.max())
    least = 1e-14 * radius
    while not bool(chosen.all()):
        radius *= 0.25
        if not radius > least:
            out.append((~chosen).nonzero()[:, 0])
            break
        candidates = (~chosen & (gap > radius)).nonzero()[:, 0]
        for block in candidates.split(_LEVEL_ROWS):
            rows = block[gap[block] > radius]
            if not len(rows):
                continue
            found = gaps(rows).to(gap)
            keep = _spread_out(found[:, rows].cpu(), radius)
            settle(rows[keep.to(rows.device)], found[keep.to(found.device)])
    return torch.cat(out)


def _spread_out(gaps: Tensor, radius: float) -> Tensor:  # (b, b) -> indices
    """In order, the rows that lie further than the radius from those kept so far."""
    kept: list[int] = []
    for i in range(len(gaps)):
        if not kept or bool((gaps[i, kept] > radius).all()):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.long)


def earlier_neighbours(points: Tensor, order: Tensor, k: int, *, method: Method = "auto") -> Tensor:
    """For each position of an ordering, the positions of its nearest earlier rows.

    Args:
        points: (n, d) points in the kernel's metric.
        order: (n,) a permutation; position i holds row order[i]. The tree and the approximate index want a random one:
            they stay right in any other, but slow down.
        k: how many neighbours.
        method: "exact" compares all pairs, by tiles; "tree" is exact too, by k-d trees on the CPU, fast for d ≤ 6;
            "approximate" asks a faiss index (extra `neighbours`, on the CPU), which misses a few per cent of the
            neighbours; "auto" is "tree" on the CPU for d ≤ 6 and n > 4,096, otherwise "exact", and never needs the
            extra. Approximate neighbours in a preconditioner cost a pass or two, never correctness; they pay with
            d > 6 above some 400,000 rows (some 50,000 without the compiled search), where all pairs take longer.

    Returns:
        (n, k) int64 positions j < i, nearest first; -1 where fewer than k rows are earlier.

    Raises:
        ShapeError, InputError: arguments that cannot be used. MissingExtra: "approximate" without faiss.

    Cost:
        "exact" O(n²d/2); "tree" O(n k log n) for small d; "approximate" O(n (10,000 + √n) d) and 4·n·d bytes.

    Source of the approximate index: Jégou, Douze and Schmid 2011 (inverted file), without the compression.
    """
    _check(points, k)
    if method not in ("auto", "exact", "tree", "approximate"):
        raise InputError(f'method must be "auto", "exact", "tree" or "approximate", got {method!r}.')
    ordered = _scaled(points)[order]
    on_cpu = ordered.device.type == "cpu"
    if method == "auto":
        by_tree = ordered.shape[1] <= TREE_DIMENSION and len(ordered) > _TREE_ROWS and on_cpu
        method = "tree" if by_tree else "exact"
    if method != "exact":
        search = _tree_search if method == "tree" else _index_search(ordered.cpu(), k)
        return _earlier_by_search(ordered.cpu(), k, search).to(ordered.device)
    return _earlier_by_tiles(ordered, k)


def _earlier_by_tiles(ordered: Tensor, k: int) -> Tensor:
    if native.available(ordered.device):
        return native.nearest(ordered, ordered, k, before=torch.arange(len(ordered)))
    wide = ordered.double()  # norms and products far from the origin nearly cancel
    half = 0.5 * wide.square().sum(1)

    def score(start: int, stop: int) -> Tensor:  # larger is closer
        return torch.addmm(-half[None, :stop], wide[start:stop], wide[:stop].T)

    return earlier_by_score(score, len(ordered), k, device=ordered.device)


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


Asking = Callable[[np.ndarray, int], np.ndarray | None]
"""(rows, how many) -> (rows, how many) positions, nearest first and -1 where there are no more; None: too many."""


def _earlier_by_search(ordered: Tensor, k: int, search: Callable[[np.ndarray, int, int], Asking]) -> Tensor:
    """Searches over doubling prefixes: `search(points, start, stop)` makes one of the first `stop` rows.

    The first rows are compared by tiles. A row is settled once k of the rows found are earlier than itself; until then
    it asks again for more.
    """
    points = np.ascontiguousarray(ordered.numpy())
    n = len(points)
    out = np.full((n, k), -1, dtype=np.int64)
    first = min(n, _TREE_ROWS)
    out[:first] = _earlier_by_tiles(ordered[:first], k).numpy()
    start = first
    while start < n:
        stop = min(n, 2 * start)
        nearest_of = search(points, start, stop)
        pending, ask = np.arange(start, stop), 2 * k + 8
        while len(pending):
            ask = min(ask, stop)
            found = nearest_of(points[pending], ask)
            if found is None:
                out[pending] = _earlier_one_by_one(points, pending, k)
                break
            earlier = (found < pending[:, None]) & (found >= 0)
            settled = (earlier.sum(1) >= k) | (ask == stop)
            rank = np.argsort(~earlier[settled], axis=1, kind="stable")[:, :k]
            picked = np.take_along_axis(found[settled], rank, 1)
            known = np.take_along_axis(earlier[settled], rank, 1)
            out[pending[settled], : picked.shape[1]] = np.where(known, picked, -1)
            pending, ask = pending[~settled], 4 * ask
        start = stop
    return torch.from_numpy(out)


def _earlier_one_by_one(points: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:  # -> (rows, k)
    """Exactly, for a few rows."""
    out = np.full((len(rows), k), -1, dtype=np.int64)
    for place, row in enumerate(rows):
        distance = np.square(points[:row] - points[row]).sum(1)
        kept = np.argsort(distance, kind="stable")[:k]
        out[place, : len(kept)] = kept
    return out


def _tree_search(points: np.ndarray, start: int, stop: int) -> Asking:
    tree = cKDTree(points[:stop])

    def ask(rows: np.ndarray, count: int) -> np.ndarray:
        found = tree.query(rows, k=count, workers=torch.get_num_threads())[1]
        return np.asarray(found).reshape(len(rows), count)

    return ask


def _index_search(ordered: Tensor, k: int) -> Callable[[np.ndarray, int, int], Asking]:
    """An inverted file: rows in cells around some 2√n centres; a query looks into the cells nearest to it."""
    faiss = _faiss()
    n, d = ordered.shape
    cells = max(1, min(int(2 * n**0.5), n // 40))
    # a random order makes any stretch of rows a random sample of them; another order still gives usable centres
    sample = ordered[:: max(1, n // (_TRAINING_ROWS * cells))].contiguous().numpy()
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(d), d, cells)
    index.train(sample)

    def search(points: np.ndarray, start: int, stop: int) -> Asking:
        index.add(points[index.ntotal : stop])
        # while there are few rows the cells are nearly empty, so that more of them have to be looked into
        index.nprobe = min(cells, max(_LEAST_PROBES, -(-_CANDIDATES * cells // stop)))

        def ask(rows: np.ndarray, count: int) -> np.ndarray | None:
            return None if count > max(_MOST_ASKED, 2 * k + 8) else index.search(rows, count)[1]

        return ask

    return search


def _faiss() -> Any:
    try:
        with warnings.catch_warnings():  # its wrapper types raise deprecations of Python's own making
            warnings.simplefilter("ignore", DeprecationWarning)
            import faiss
    except ImportError as error:
        raise MissingExtra(
            'approximate neighbours need faiss: pip install "sggp[neighbours]", or use method="auto".'
        ) from error
    return faiss
