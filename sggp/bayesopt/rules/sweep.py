"""One sweep over a pool, a block at a time: what is expected of every row, and the best rows of a score."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sggp.bayesopt.maximise import Look, as_indices
from sggp.bayesopt.rules.base import mean_and_std, mean_at
from sggp.errors import InputError


def open_rows(pool: Any, look: Look, count: int) -> Tensor:
    """(N,) which rows may be chosen: not excluded, not pending, and no twins of such or of each other.

    Raises:
        InputError: fewer than `count` are left.
    """
    named = torch.cat([as_indices(getattr(look, w), len(pool), what=w) for w in ("exclude", "pending")])
    free = torch.ones(len(pool), dtype=torch.bool)
    free[pool.closed(named)] = False
    left = int(free.sum())
    if count > left:
        raise InputError(
            f"{count} rows are asked for but {left} of {len(pool)} are left ({len(pool) - left} are excluded)."
        )
    return free


def moments(
    posterior: Any, pool: Any, progress: Callable[[int], Any] | None = None, *, with_std: bool = True
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every row, (N,) float64 each; zeros for the second if not asked for.

    Raises:
        InputError: one is not finite.

    Cost: N means and variances of the posterior; memory of a block beyond the result.
    """
    parts = []
    for start, features in pool.chunks():
        with torch.no_grad():
            if with_std:
                part = torch.stack(mean_and_std(posterior, features)).cpu()
            else:
                mean = mean_at(posterior, features).to(torch.float64).cpu()
                part = torch.stack([mean, torch.zeros_like(mean)])
        if not bool(torch.isfinite(part).all()):
            raise InputError("the posterior gave a value that is not finite: see posterior.solution for why.")
        parts.append(part)
        if progress is not None:
            progress(start + features.shape[0])
    mean, std = torch.cat(parts, dim=1)
    return mean, std


def best_rows(score: Tensor, free: Tensor, count: int) -> Tensor:
    """The `count` rows of the largest scores among the free ones, best first; equal ones by row."""
    allowed = torch.where(free, score, -math.inf)
    floor = allowed.topk(count).values[-1]
    rows = (allowed >= floor).logical_and(free).nonzero().flatten()
    return rows[torch.argsort(allowed[rows], descending=True, stable=True)[:count]]
