"""Nearest *earlier* rows of a few chosen rows: what minibatches of conditionals need."""

from __future__ import annotations

import torch
from torch import Tensor

from sggp.native import neighbours as native

_TILE_BYTES = 64 * 2**20


def _within(z: Tensor, rows: Tensor, start: int, k: int) -> tuple[Tensor, Tensor]:
    """Squared distances and positions of the nearest in [start, row) of each row, by one dense tile."""
    stop = int(rows[-1]) + 1
    square = torch.cdist(z[rows], z[start:stop], compute_mode="donot_use_mm_for_euclid_dist").square_()
    later = torch.arange(start, stop, device=z.device)[None] >= rows[:, None]
    value, index = square.masked_fill_(later, torch.inf).topk(min(k, stop - start), dim=1, largest=False)
    return value, index + start


def _before(z: Tensor, own: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Squared distances and positions of the k points of `z` nearest to each of `own`."""
    half = 0.5 * z.square().sum(dim=1)
    tiles = own.split(max(1, _TILE_BYTES // (4 * len(z))))
    index = torch.cat(
        [torch.addmm(half[None], tile, z.T, alpha=-1).topk(k, dim=1, largest=False)[1] for tile in tiles]
    )
    return (own[:, None] - z[index]).square_().sum(dim=2), index


def earlier_rows(points: Tensor, rows: Tensor, k: int, *, groups: int = 48) -> Tensor:  # (r, k)
    """For each position in `rows`, the k positions before it that are nearest in Euclidean distance.

    Args:
        points: (n, d) rows in their order, already divided by length scales and centred.
        rows: (r,) positions, ascending.
        k: how many.
        groups: without the C++ engine, rows are searched in this many groups; all rows before a group are its
            candidates, and the few inside it are compared one by one.

    Returns:
        (r, k) positions, -1 where a row has fewer than k earlier ones.

    Cost: about r·n/2 distances in float32. Ties and rounding may pick another equally near row.
    """
    z = points.to(torch.float32)
    rows = rows.to(z.device)
    if native.available(z.device):
        return native.nearest(z, z[rows], k, before=rows)
    out = torch.full((len(rows), k), -1, dtype=torch.long)
    for part in torch.arange(len(rows)).tensor_split(min(groups, max(1, len(rows) // 64))):
        if part.numel() == 0:
            continue
        own = rows[part.to(z.device)]
        first = int(own[0])
        value, index = _within(z, own, first, k)
        if first > 0:
            before, place = _before(z[:first], z[own], min(k, first))
            value, index = torch.cat([before, value], dim=1), torch.cat([place, index], dim=1)
        value, chosen = value.topk(min(k, value.shape[1]), dim=1, largest=False)
        index = index.gather(1, chosen).masked_fill(torch.isinf(value), -1)
        out[part, : index.shape[1]] = index.cpu()
    return out
