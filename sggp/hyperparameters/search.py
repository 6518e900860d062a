"""Nearest *earlier* rows of a few chosen rows: what minibatches of conditionals need."""

from __future__ import annotations

from collections.abc import Callable

import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

BlockFunction = Callable[[Tensor, Tensor], Tensor]


def _within(z: Tensor, rows: Tensor, start: int, k: int) -> tuple[Tensor, Tensor]:
    """Squared distances and positions of the nearest in [start, row) of each row, by one dense tile."""
    stop = int(rows.max()) + 1
    candidates = z[start:stop]
    own = z[rows]
    square = (
        own.square().sum(dim=1)[:, None] + candidates.square().sum(dim=1)[None] - 2.0 * (own @ candidates.T)
    )
    later = torch.arange(start, stop, device=z.device)[None] >= rows[:, None]
    square = square.masked_fill_(later, torch.inf)
    value, index = square.topk(min(k, stop - start), dim=1, largest=False)
    return value, index + start


def earlier_rows(points: Tensor, rows: Tensor, k: int, *, groups: int = 48) -> Tensor:  # (r, k)
    """For each position in `rows`, the k positions before it that are nearest in Euclidean distance.

    Args:
        points: (n, d) rows in their order, already divided by length scales and centred.
        rows: (r,) positions, ascending.
        k: how many.
        groups: rows are searched in this many groups; all rows before a group are its candidates, and the
            few inside it are compared one by one.

    Returns:
        (r, k) positions, -1 where a row has fewer than k earlier ones.

    Cost: about r·n/2 distances in float32. Ties and rounding may pick another equally near row.
    """
    z = points.to(torch.float32)
    out = torch.full((len(rows), k), -1, dtype=torch.long)
    for part in torch.arange(len(rows)).tensor_split(min(groups, max(1, len(rows) // 64))):
        if part.numel() == 0:
            continue
        own = rows[part]
        first = int(own[0])
        value, index = _within(z, own, first, k)
        if first > 0:
            count = min(k, first)
            if z.device.type == "cpu":
                search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(z[:first].numpy())
                near, where = search.kneighbors(z[own].numpy())
                before, place = torch.as_tensor(near).square().to(value), torch.as_tensor(where)
            else:
                square = torch.cdist(z[own], z[:first]).square()
                before, place = square.topk(count, dim=1, largest=False)
            value, index = torch.cat([before, value], dim=1), torch.cat([place.to(index), index], dim=1)
        value, chosen = value.topk(min(k, value.shape[1]), dim=1, largest=False)
        index = index.gather(1, chosen).masked_fill(torch.isinf(value), -1)
        out[part, : index.shape[1]] = index.cpu()
    return out


def earlier_rows_by_correlation(
    block: BlockFunction, diagonal: Tensor, rows: Tensor, k: int, *, budget: int = 64 * 2**20
) -> Tensor:  # (r, k)
    """The k earlier positions of largest |correlation| for kernels that have no metric (Tanimoto, sums, unknown ones).

    Args:
        block: (rows, columns) -> dense covariance block, without noise, of positions.
        diagonal: (n,) prior variances.
        rows: (r,) positions, ascending.
        k: how many.
        budget: bytes of one tile.

    Cost: r·n/2 kernel entries.
    """
    out = torch.full((len(rows), k), -1, dtype=torch.long)
    size = max(1, budget // (8 * max(1, int(rows[-1]))))
    deviation = diagonal.clamp_min(1e-300).sqrt()
    for part in torch.arange(len(rows)).split(size):
        own = rows[part]
        stop = int(own[-1])
        if stop == 0:
            continue
        columns = torch.arange(stop)
        near = block(own, columns).abs().to(torch.float64) / deviation[:stop]
        near = near.masked_fill_(columns[None].to(near.device) >= own[:, None].to(near.device), -1.0)
        value, index = near.topk(min(k, stop), dim=1)
        out[part, : index.shape[1]] = index.masked_fill(value < 0, -1).cpu()
    return out
