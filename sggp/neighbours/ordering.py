"""The max-min ordering, by an engine where points have a metric and by any distance where they have none."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from sggp.native import engine
from sggp.neighbours.search import centred, check
from sggp.running import go_on, limited, tell

__all__ = ["by_grid", "max_min_ordering", "max_min_ordering_by"]

_LEVEL_ROWS = 128
_GRID_ROWS = 65_536
_GRID_COLUMNS = 3
"""From so many rows on, in so few columns, levels are those of a grid, which looks at no pairs of rows."""
_GRID_LEVELS = 20
_FORECAST_ROWS = 16_384
"""Rows from which on the time of an ordering, which no deadline interrupts, is forecast from that of a sixteenth."""


def max_min_ordering(points: Tensor, generator: torch.Generator) -> Tensor:
    """The max-min ordering: every row lies far from all earlier ones, as far as rows at its level can.

    Level by level the radius is halved, and of the rows not yet chosen all that lie further than the radius from every
    chosen one are chosen, in random order. Within a factor of two each row is the one furthest from all earlier ones:
    early rows tell of the whole set and late ones only of their surroundings, which is what a factor on nearest earlier
    rows needs.

    Args:
        points: (n, d) points in the kernel's metric.
        generator: for the order within a level.

    Returns:
        (n,) a permutation.

    Cost: n²·d/2 multiply-adds. From 65,536 rows on in at most three columns that are not constant, where that would be
    more than all else, the levels are those of a grid whose cells are halved: see `grid_ordering`.

    Source: Guinness 2018 (max-min ordering for Vecchia's approximation); Schäfer, Katzfuss and Owhadi 2021, section 4.
    """
    check(points, 1)
    shuffle = torch.randperm(len(points), generator=generator).to(points.device)
    shuffled = centred(points)[shuffle]
    varying = shuffled[:, (shuffled != shuffled[0]).any(0)]
    tell("preconditioner, ordering")
    if by_grid(*varying.shape):
        go_on()
        return shuffle[grid_ordering(varying)]
    order = engine(shuffled.device, shuffled.dtype).max_min_order
    go_on(_forecast(order, shuffled) if limited() and len(points) >= _FORECAST_ROWS else 0.0)
    found = order(shuffled)
    if found is not None:
        return shuffle[found]

    def distance(rows: Tensor) -> Tensor:
        exactly = "donot_use_mm_for_euclid_dist"
        return torch.cdist(shuffled[rows], shuffled, compute_mode=exactly).square()

    return shuffle[max_min_ordering_by(distance, len(points), device=shuffled.device)]


def by_grid(n: int, columns: int) -> bool:
    """Whether so many rows, in so many columns that are not constant, are ordered by a grid."""
    return n >= _GRID_ROWS and columns <= _GRID_COLUMNS


def grid_ordering(points: Tensor) -> Tensor:  # (n, d) -> (n,)
    """From coarse to fine by a grid: at each level the first point of every cell that has none yet, then halved cells.

    Two points of a level may lie in neighbouring cells, closer than their width, which `max_min_ordering` excludes. A
    nearest-neighbour factor on it takes 0.8 to 1.3 times the iterations (20,000 rows in three columns, uniform and
    clustered, 16 and 32 neighbours), where one in random order takes up to 3.6 times as many.

    Args:
        points: (n, d), d at most 3, in random order.

    Cost: about 20 sorts of n numbers.
    """
    n = len(points)
    z = points.double() - points.double().amin(0) if n else points.double()
    side = float(z.max()) if z.numel() else 0.0
    z = z / side if side > 0 else z
    left, taken, out = torch.arange(n, device=z.device), torch.zeros(n, dtype=torch.bool, device=z.device), []
    for level in range(_GRID_LEVELS):
        if not len(left):
            break
        cells = 2**level
        place = (z * cells).long().clamp_(max=cells - 1)
        key = torch.zeros(n, dtype=torch.long, device=z.device)
        for column in place.T:
            key = key * cells + column
        _, cell = torch.unique(key, return_inverse=True)
        first = torch.full((int(cell.max()) + 1,), n, device=z.device)
        first.scatter_reduce_(0, cell[left], left, "amin")
        first[cell[taken]] = n  # it has one
        new = first[first < n].sort().values
        taken[new] = True
        out.append(new)
        left = (~taken).nonzero()[:, 0]
    return torch.cat([*out, left])


def _forecast(order: Callable[[Tensor], Tensor | None], points: Tensor) -> float:
    """Seconds that an ordering takes, quadratic in the rows, from a sixteenth of them."""
    begin = time.perf_counter()
    if order(points[: len(points) // 16]) is None:
        return 0.0
    return 256 * (time.perf_counter() - begin)


def max_min_ordering_by(
    distance: Callable[[Tensor], Tensor], n: int, *, device: torch.device | str = "cpu"
) -> Tensor:
    """`max_min_ordering` under any squared distance: `distance(rows)` gives (b, n). Cost: n² of them."""
    nearest = torch.full((n,), torch.inf, device=device)
    chosen = torch.zeros(n, dtype=torch.bool, device=device)
    out: list[Tensor] = []

    def settle(rows: Tensor, found: Tensor) -> None:
        nearest.copy_(torch.minimum(nearest, found.amin(0)))
        chosen[rows] = True
        out.append(rows)

    first = torch.zeros(1, dtype=torch.long, device=device)
    settle(first, distance(first).to(nearest))
    radius = float(nearest.max())
    least = 1e-14 * radius
    while not bool(chosen.all()):
        radius *= 0.25
        if not radius > least:
            out.append((~chosen).nonzero()[:, 0])
            break
        candidates = (~chosen & (nearest > radius)).nonzero()[:, 0]
        for block in candidates.split(_LEVEL_ROWS):
            go_on()
            rows = block[nearest[block] > radius]
            if not len(rows):
                continue
            found = distance(rows).to(nearest)
            keep = keep_apart((found[:, rows] <= radius).T)
            settle(rows[keep.to(rows.device)], found[keep.to(found.device)])
    return torch.cat(out)


def keep_apart(close: Tensor) -> Tensor:  # (t, t) -> (k,)
    """Places kept when each drops the later ones that are close to it."""
    free, near = torch.ones(len(close), dtype=torch.bool), close.cpu()
    for i in range(len(near)):
        if free[i]:
            free[i + 1 :] &= ~near[i, i + 1 :]
    return free.nonzero()[:, 0].to(close.device)
