"""The most similar *earlier* rows, for kernels without a metric (Tanimoto, sums, unknown ones)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Kernel", "earlier_by_score", "earlier_by_similarity"]


class Kernel(Protocol):
    """What the search asks of a covariance: see `sggp.kernels.Covariance`. Its points are whatever `prepare` gives."""

    def prepare(self, x: Any) -> Any: ...
    def block(self, x: Any, z: Any) -> Tensor: ...
    def diagonal(self, x: Any) -> Tensor: ...
    def embedding(self, x: Any) -> Tensor | None: ...
    def small_blocks(self, x: Tensor) -> Tensor: ...

    def residual_scores(
        self, x: Any, low_rank: Tensor, weight: Tensor, rows: Tensor, candidates: Tensor
    ) -> Tensor | None: ...


_ROWS = 1024  # searched together, so that the columns are read once for all of them
_TILE_BYTES = 64 * 2**20


def earlier_by_similarity(
    covariance: Kernel, x: Any, rows: Tensor, k: int, *, budget: int = _TILE_BYTES
) -> Tensor:  # (r, k)
    """For each position in `rows`, the k positions before it of largest |correlation|.

    Args:
        covariance: the kernel; its scale does not matter.
        x: (n, d) rows in their order.
        rows: (r,) positions, ascending.
        k: how many.
        budget: bytes of one tile and its temporaries.

    Returns:
        (r, k) positions, most similar first; -1 where a row has fewer than k earlier ones. Of equally similar rows
        any may be taken.

    Cost: r·n/2 kernel entries in the working precision of the covariance (float32 for fingerprints), exact products
        of counts by the compiled engine; memory is `budget`, whatever n.
    """
    points = covariance.prepare(x)
    weight = covariance.diagonal(points).detach().clamp_min(1e-300).rsqrt()
    out = torch.full((len(rows), k), -1, dtype=torch.long)
    with torch.no_grad():
        for part in torch.arange(len(rows)).split(_ROWS):
            out[part] = _search(covariance, points, weight, rows[part], k, budget).cpu()
    return out


def _search(
    covariance: Kernel, points: Any, weight: Tensor, rows: Tensor, k: int, budget: int
) -> Tensor:  # (r, k)
    """One group of rows against all columns before its last row, tile by tile, keeping the best k."""
    device = points.device
    own, position = points[rows.to(device)], rows.to(device)
    value = torch.full((len(rows), k), -1.0, dtype=weight.dtype, device=device)
    index = torch.full((len(rows), k), -1, dtype=torch.long, device=device)
    width = max(k, budget // (3 * weight.element_size() * len(rows)))
    for start in range(0, int(rows[-1]), width):
        stop = min(start + width, int(rows[-1]))
        first = int(torch.searchsorted(rows, start, right=True))  # earlier rows have no column here
        tile = covariance.block(own[first:], points[start:stop]).abs_().mul_(weight[start:stop])
        column = torch.arange(start, stop, device=device)
        if stop > int(rows[first]):
            tile.masked_fill_(column >= position[first:, None], -1.0)
        near, where = tile.topk(min(k, stop - start), dim=1)
        near = torch.cat([value[first:], near.to(value.dtype)], dim=1)
        where = torch.cat([index[first:], where + start], dim=1)
        value[first:], chosen = near.topk(k, dim=1)
        index[first:] = where.gather(1, chosen)
    return index.masked_fill(value < 0, -1)


def earlier_by_score(
    score: Callable[[int, int], Tensor], n: int, k: int, *, device: torch.device | str = "cpu"
) -> Tensor:
    """Earlier neighbours under any similarity: `score(start, stop)` gives (stop - start, stop), larger is closer."""
    out = torch.full((n, k), -1, dtype=torch.long, device=device)
    step = max(16, min(1024, _TILE_BYTES // (4 * max(1, n))))
    for start in range(0, n, step):
        stop = min(n, start + step)
        tile = score(start, stop)
        position = torch.arange(start, stop, device=device)
        tile = tile.masked_fill(torch.arange(stop, device=device)[None] >= position[:, None], -torch.inf)
        width = min(k, stop)
        value, index = tile.topk(width)
        out[start:stop, :width] = torch.where(value > -torch.inf, index, -1)
    return out
