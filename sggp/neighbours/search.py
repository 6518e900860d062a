"""Nearest rows: exact by tiles or by a k-d tree, or approximate by an index; among all rows or earlier ones.

Rows are points whose Euclidean distance orders pairs as the kernel does (inputs divided by length scales). A
nearest-neighbour factor needs, for every row of an ordering, its nearest *earlier* rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from sggp.checks import one_of
from sggp.errors import InputError, ShapeError, missing_extra
from sggp.native import engine
from sggp.parallel import Part, by_ranks
from sggp.running import go_on, tell

__all__ = ["Method", "earlier_neighbours", "earlier_rows", "nearest"]

Method = Literal["auto", "exact", "tree", "approximate"]

TREE_DIMENSION = 6
_TREE_ROWS = 4096
_CANDIDATES = 10_000
"""Rows that one query of the approximate index looks at, about."""
_LEAST_PROBES = 16
_TRAINING_ROWS = 64
"""Rows per cell that the cells of the approximate index are found from."""
_DISTANCES = 2**31
"""Multiply-adds between two looks at the clock, about a second of one core; and below the least rows for it."""
_LEAST_ASKED = 1024
_ASKED_AT_ONCE = 32_768
"""Rows asked of a tree or an index between two looks at the clock."""
_MOST_ASKED = 1024
"""Rows asked of the approximate index at most; who still lacks earlier ones then is searched exactly."""


def check(points: Tensor, k: int) -> None:
    if points.ndim != 2:
        raise ShapeError(f"points must be (n, d), got shape {tuple(points.shape)}.")
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}.")


def centred(points: Tensor) -> Tensor:
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
    check(points, k)
    if queries.ndim != 2 or queries.shape[1] != points.shape[1]:
        raise ShapeError(f"queries must be (q, {points.shape[1]}), got shape {tuple(queries.shape)}.")
    k = min(k, len(points))
    if points.shape[1] <= TREE_DIMENSION and points.device.type == "cpu":
        search = _tree_search(points.detach().numpy(), 0, len(points))
        return torch.as_tensor(search(queries.detach().numpy(), k), dtype=torch.long)
    centre = points.detach().double().mean(0)
    base, ask = ((x.detach().double() - centre).float() for x in (points, queries))
    parts = []
    for tile in ask.split(_tile(base)):
        go_on()
        parts.append(engine(base.device, base.dtype).nearest(base, tile, k))
    return torch.cat(parts)


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
    check(points, k)
    one_of(method, "method", ("auto", "exact", "tree", "approximate"))
    ordered = centred(points)[order]
    on_cpu = ordered.device.type == "cpu"
    if method == "auto":
        by_tree = ordered.shape[1] <= TREE_DIMENSION and len(ordered) > _TREE_ROWS and on_cpu
        method = "tree" if by_tree else "exact"
    if method != "exact":
        search = _tree_search if method == "tree" else _index_search(ordered.cpu(), k)
        return _earlier_by_search(ordered.cpu(), k, search).to(ordered.device)
    return _by_tiles(ordered, torch.arange(len(ordered)), k, phase="preconditioner, neighbours")


def earlier_rows(points: Tensor, rows: Tensor, k: int) -> Tensor:  # (r, k)
    """For each position in `rows`, the k positions before it that are nearest in Euclidean distance.

    Args:
        points: (n, d) rows in their order, already divided by length scales and centred.
        rows: (r,) positions, ascending.
        k: how many.

    Returns:
        (r, k) positions, nearest first; -1 where a row has fewer than k earlier ones. Of rows that are equally near any
        may be taken.

    Cost: about r·n/2 distances.
    """
    return _by_tiles(points, rows, k)


def _by_tiles(points: Tensor, rows: Tensor, k: int, phase: str = "") -> Tensor:  # (r, k)
    """`earlier_rows`, with a look at the clock every second or so; told of as `phase`, if at all."""
    z = points.to(torch.float32)
    own, search, parts = rows.to(z.device), engine(z.device, z.dtype).nearest, []

    def some(part: Part) -> Tensor:
        these = tile[part.rows]
        return search(z, z[these], k, before=these)

    for tile in own.split(_tile(z)):
        go_on()
        if phase:
            tell(phase, int(tile[0]), len(z))
        parts.append(by_ranks(len(tile), some, (z, tile)))
    return torch.cat(parts).to(rows.device) if parts else rows.new_empty(0, k)


def _tile(points: Tensor) -> int:
    """Rows that are compared with all points in about a second."""
    return int(max(_LEAST_ASKED, _DISTANCES // max(1, points.numel())))


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
    out[:first] = earlier_rows(ordered[:first], torch.arange(first), k).numpy()
    start = first
    while start < n:
        stop = min(n, 2 * start)
        nearest_of = search(points, start, stop)
        pending, ask = np.arange(start, stop), 2 * k + 8
        while len(pending):
            ask = min(ask, stop)
            found = _asked(nearest_of, points, pending, ask)
            if found is None:
                out[pending] = earlier_rows(ordered, torch.from_numpy(pending), k).numpy()
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


def _asked(nearest_of: Asking, points: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray | None:
    """The answers for some rows, asked in parts."""
    parts = []
    for start in range(0, len(rows), _ASKED_AT_ONCE):
        part = rows[start : start + _ASKED_AT_ONCE]
        go_on()
        tell("preconditioner, neighbours", int(part[0]), len(points))
        found = nearest_of(points[part], count)
        if found is None:
            return None
        parts.append(found)
    return np.concatenate(parts)


def _tree_search(points: np.ndarray, start: int, stop: int) -> Callable[[np.ndarray, int], np.ndarray]:
    tree = cKDTree(points[:stop])

    def ask(rows: np.ndarray, count: int) -> np.ndarray:
        def some(part: Part) -> Tensor:
            found = tree.query(rows[part.rows], k=count, workers=torch.get_num_threads())[1]
            return torch.from_numpy(np.asarray(found).reshape(-1, count))

        return by_ranks(len(rows), some, (torch.from_numpy(rows),)).numpy()

    return ask


def _index_search(ordered: Tensor, k: int) -> Callable[[np.ndarray, int, int], Asking]:
    """An inverted file: rows in cells around some 2√n centres; a query looks into the cells nearest to it."""
    try:
        with warnings.catch_warnings():  # its wrapper types raise deprecations of Python's own making
            warnings.simplefilter("ignore", DeprecationWarning)
            import faiss
    except ImportError as error:
        raise missing_extra(
            "approximate neighbours need faiss", "neighbours", error, ', or use method="auto"'
        ) from error
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
