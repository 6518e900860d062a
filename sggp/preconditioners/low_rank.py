"""Low-rank approximations K ≈ FFᵀ from columns of K: greedy pivots, random pivots, uniform landmarks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sggp.linalg import cholesky
from sggp.preconditioners.base import require_finite
from sggp.running import go_on, tell

__all__ = ["pivoted_cholesky", "random_pivoted_cholesky", "uniform_nystrom"]

_BLOCK = 100
_JITTER = 1e-11


def pivoted_cholesky(operator: Any, rank: int) -> Tensor:  # -> (n, rank)
    """Partial Cholesky factor with greedy pivots: each pivot is the largest entry of what is left of the diagonal.

    Cost: rank columns of K, 2·n·rank² flops. Source: Harbrecht, Peters and Schneider 2012, algorithm 1.
    """
    left, scale, everything, factor = _begin(operator, rank)
    floor = _JITTER * scale
    for k in range(factor.shape[1]):
        go_on()
        pivot = int(left.argmax())
        if float(left[pivot]) <= floor:
            return factor[:, :k]
        column = operator.cross_block(everything, everything[pivot : pivot + 1])[:, 0]
        require_finite(f"column {pivot} of K", column)
        column = (column - factor[:, :k] @ factor[pivot, :k]) / left[pivot].sqrt()
        factor[:, k] = column
        left, floor = _less(left, column[:, None], floor)
        left[pivot] = 0
    return factor


def random_pivoted_cholesky(
    operator: Any, rank: int, generator: torch.Generator, start: Tensor | None = None
) -> Tensor:  # -> (n, ≤ rank)
    """Partial Cholesky factor with pivots drawn in proportion to what is left of the diagonal, in blocks.

    `start` (n, k) is a factor made by this function, to go on from.

    Cost: rank columns of K, 2·n·rank² flops. Source: Chen, Epperly, Tropp and Webber 2023 (RPCholesky), algorithm 2.2.
    """
    left, scale, everything, factor = _begin(operator, rank)
    # small blocks, so that later landmarks see what earlier ones left
    block = max(4, min(_BLOCK, factor.shape[1] // 8))
    k, floor = 0, _JITTER * scale
    if start is not None:
        k = start.shape[1]
        factor[:, :k] = start
        left, floor = _less(left, start, floor)
    while k < factor.shape[1]:
        go_on()
        tell("preconditioner, low rank", k, factor.shape[1])
        candidates = torch.where(left > floor, left, 0.0).cpu()
        size = min(block, factor.shape[1] - k, int(candidates.count_nonzero()))
        if size == 0:
            break
        pivots = _weighted_draw(candidates, size, generator).to(left.device)
        columns = operator.cross_block(everything, pivots) - factor[:, :k] @ factor[pivots, :k].T
        factor[:, k : k + size] = _columns_to_factor(columns, pivots, scale, floor / scale)
        left, floor = _less(left, factor[:, k : k + size], floor)
        left[pivots] = 0
        k += size
    return factor[:, :k]


def uniform_nystrom(operator: Any, rank: int, generator: torch.Generator) -> Tensor:  # -> (n, rank)
    """Nyström factor on uniformly drawn landmarks. Cost: rank columns of K, n·rank² flops.

    Source: Williams and Seeger 2001.
    """
    _, scale, everything, _ = _begin(operator, 0)
    landmarks = torch.randperm(len(everything), generator=generator)[:rank].to(everything.device)
    return _columns_to_factor(operator.cross_block(everything, landmarks), landmarks, scale)


def _begin(operator: Any, rank: int) -> tuple[Tensor, float, Tensor, Tensor]:
    """The diagonal of K, its largest entry, the numbers of all rows, and zeros for a factor (n, ≤ rank)."""
    left = require_finite("the diagonal of K", operator.kernel_diagonal()).clone()
    n = len(left)
    return left, float(left.max()), torch.arange(n, device=left.device), left.new_zeros(n, min(rank, n))


def _less(left: Tensor, factor: Tensor, floor: float) -> tuple[Tensor, float]:  # (n,), (n, k) -> (n,), floor
    """What a factor leaves of the diagonal, and the floor below which what is left is rounding.

    Exactly, nothing is left below zero. As far as it is, entries were evaluated with such errors, and pivots of that
    size would only multiply them.
    """
    left = left - factor.square().sum(1)
    return left.clamp_min(0), max(floor, -float(left.min()))


def _columns_to_factor(columns: Tensor, pivots: Tensor, scale: float, jitter: float = _JITTER) -> Tensor:
    """F with FFᵀ = G M⁻¹ Gᵀ for columns G of a positive semi-definite matrix and their pivot block M.

    Raises:
        InputError: the columns are not finite, or M is not positive semi-definite.
    """
    core = require_finite(f"{columns.shape[1]} columns of K", columns)[pivots]
    core = 0.5 * (core + core.T)
    lower = cholesky(core, "the kernel matrix of the pivots", scale=scale, least=jitter)
    return torch.linalg.solve_triangular(lower, columns.T, upper=False).T


def _weighted_draw(weights: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """`size` distinct indices with probability proportional to `weights` (Efraimidis and Spirakis 2006)."""
    uniform = torch.rand(len(weights), generator=generator, dtype=torch.float64).clamp_min(1e-300)
    return (-uniform.log() / weights).topk(size, largest=False).indices
