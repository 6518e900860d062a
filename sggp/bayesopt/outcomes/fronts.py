"""Fronts: which points no other dominates, the volume they dominate, and what a point would add to it.

All objectives are to be made large here; a smaller-is-better one is negated before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sggp.errors import InputError, ShapeError

_MARGIN = 0.1  # of the front's range, by which the automatic reference point lies below it
_AT_ONCE = 2**22  # entries of overlaps held at once


def non_dominated(values: Tensor) -> Tensor:  # (n, m) -> (n,) bool
    """Points that no other is at least as good as in everything and better in something; equal points stay.

    Cost: n² m comparisons, in blocks.
    """
    keep = torch.ones(len(values), dtype=torch.bool)
    for start in range(0, len(values), 512):
        rows = values[start : start + 512, None]
        dominated = ((values[None] >= rows).all(-1) & (values[None] > rows).any(-1)).any(1)
        keep[start : start + 512] = ~dominated
    return keep


def reference_point(values: Tensor) -> Tensor:  # (n, m) -> (m,)
    """A point a tenth of the front's range below its worst values.

    Where the front has no range in an objective, that of all points counts, and 1 where they have none.

    Args:
        values: (n, m) measured points, at least one.

    Source: Ishibuchi et al. 2018, "How to specify a reference point in hypervolume calculation".
    """
    front = values[non_dominated(values)]
    worst, spread = front.amin(0), front.amax(0) - front.amin(0)
    whole = values.amax(0) - values.amin(0)
    spread = torch.where(spread > 0, spread, torch.where(whole > 0, whole, torch.ones_like(whole)))
    return worst - _MARGIN * spread


def free_boxes(front: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:  # (k, m), (m,) -> (b, m) twice
    """Disjoint boxes that cover all above the reference point that no point of the front dominates.

    Args:
        front: (k, m) points, dominated ones and those below the reference allowed; k may be 0.

    Returns:
        Lower corners, and upper corners, of which some are infinite.

    Cost: at most k + 1 boxes for two objectives, (k + 1)(k + 2)/2 for three.

    Source: hypervolume by slicing objectives, While, Hingston, Barone & Huband 2006.
    """
    if front.ndim != 2 or front.shape[1] != len(reference):
        raise ShapeError(
            f"a front must be (k, {len(reference)}), a column per objective; got {tuple(front.shape)}."
        )
    inside = front[(front > reference).all(1)]
    inside = torch.unique(inside[non_dominated(inside)], dim=0)
    if len(reference) == 1:
        low = torch.cat([inside.reshape(-1), reference]).amax().reshape(1, 1)
        return low, torch.full_like(low, torch.inf)
    levels = torch.unique(torch.cat([reference[-1:], inside[:, -1]]))
    tops = torch.cat([levels[1:], torch.full_like(reference[-1:], torch.inf)])
    lows, highs = [], []
    for level, top in zip(levels, tops, strict=True):
        low, high = free_boxes(inside[inside[:, -1] > level][:, :-1], reference[:-1])
        lows.append(torch.cat([low, level.expand(len(low), 1)], 1))
        highs.append(torch.cat([high, top.expand(len(high), 1)], 1))
    return torch.cat(lows), torch.cat(highs)


def improvement(points: Tensor, boxes: tuple[Tensor, Tensor]) -> Tensor:  # (..., m) -> (...)
    """The volume that each point alone would add to what a front dominates: exact, and differentiable.

    Args:
        points: (..., m). boxes: of `free_boxes`.

    Cost: m entries for each point and box, in blocks of points.
    """
    low, high = boxes
    flat = points.reshape(-1, low.shape[1])
    parts = [
        (torch.minimum(part[:, None], high) - low).clamp_min(0.0).prod(-1).sum(-1)
        for part in flat.split(max(1, _AT_ONCE // low.numel()))
    ]
    return torch.cat(parts).reshape(points.shape[:-1])


def shortfall(points: Tensor, boxes: tuple[Tensor, Tensor]) -> Tensor:  # (..., m) -> (...)
    """How far, in the sum of its coordinates, each point is from all that is not dominated; 0 there."""
    low = boxes[0]
    flat = points.reshape(-1, low.shape[1])
    parts = [
        (low - part[:, None]).clamp_min(0.0).sum(-1).amin(-1)
        for part in flat.split(max(1, _AT_ONCE // low.numel()))
    ]
    return torch.cat(parts).reshape(points.shape[:-1])


def hypervolume(points: Tensor, reference: Tensor) -> float:  # (n, m), (m,) -> ()
    """The volume between the reference point and the points, exact.

    Args:
        points: (n, m) with larger values better. reference: (m,); points that are not above it add nothing.

    Raises:
        InputError: more than three objectives.

    Example:
        >>> hypervolume(torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.zeros(2))
        3.0
    """
    if len(reference) > 3:
        raise InputError(f"hypervolumes are computed for up to three objectives, got {len(reference)}.")
    if not len(points):
        return 0.0
    corner = torch.maximum(points.amax(0), reference)
    return float((corner - reference).prod() - improvement(corner[None], free_boxes(points, reference))[0])
