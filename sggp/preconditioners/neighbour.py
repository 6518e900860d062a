"""Sparse inverse Cholesky factors on nearest neighbours, alone or over a low-rank part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from sggp.checks import whole_number
from sggp.linalg import cholesky
from sggp.native import engine
from sggp.operators.base import NeighbourOperator, completed
from sggp.preconditioners.base import LowRankPlus, Preconditioner, require_blocks, require_finite
from sggp.preconditioners.low_rank import random_pivoted_cholesky
from sggp.running import go_on, tell

__all__ = ["LowRankPlusNeighbour", "NearestNeighbour", "SparseInverseFactor"]

_CHUNK_BYTES = 64 * 2**20
_FUSED_ROWS = 8192
"""Columns of the factor that one fused call makes: some tenths of a second of work between two looks at the clock."""
_WIDE = 8
"""Columns from which on threads share the columns of a product with the factor instead of its rows."""


class SparseInverseFactor:
    """U with R⁻¹ ≈ UUᵀ for R = K − FFᵀ + Σ: upper triangular in a coarse-to-fine ordering, m + 1 entries a column.

    Column i solves the small system of i and its m nearest earlier rows S, u_S = L⁻ᵀe_last with LLᵀ = R_SS: the
    Kullback-Leibler-optimal factor of that pattern (Schäfer, Katzfuss and Owhadi 2021, theorem 2.1).

    Args:
        operator: gives small blocks, the noise and neighbours.
        neighbours: m.
        generator: draws the ordering.
        low_rank: (n, r) F, or None.
        order: (n,) an ordering of the operator to go by; None draws one.

    Cost:
        n·(m+1)² entries, n·m³/3 flops (and n·m²·r with a low-rank part), 24·n·m bytes; an application 4·n·m·s flops.
    """

    def __init__(
        self,
        operator: NeighbourOperator,
        neighbours: int,
        generator: torch.Generator,
        low_rank: Tensor | None = None,
        order: Tensor | None = None,
    ) -> None:
        n = operator.shape[0]
        order = operator.ordering(generator) if order is None else order
        found = operator.earlier_neighbours(order, min(neighbours, max(1, n - 1)), low_rank)
        own = torch.arange(n, device=order.device)
        real = torch.cat([found >= 0, torch.ones_like(own[:, None], dtype=torch.bool)], 1)
        place = torch.cat([found, own[:, None]], 1)
        place = torch.where(real, place, own[:, None])
        values = sparse_columns(operator, order[place], real, low_rank)
        self._values = require_finite("the neighbour factor of the preconditioner", values)
        self.log_det = float(-2 * values[:, -1].log().sum())
        # columns of U as rows of a table: Uᵀv gathers; U v gathers from the transposed table
        self._index = order[place]
        rows_of = self._index.flatten()
        by_row = torch.argsort(rows_of, stable=True)
        keep = by_row[values.flatten()[by_row] != 0]
        self._columns = own[:, None].expand_as(place).flatten()[keep]
        self._flat = values.flatten()[keep]
        counts = torch.bincount(rows_of[keep], minlength=n)
        self._offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)[:-1]])

    def apply(self, v: Tensor) -> Tensor:  # (n, s) -> (n, s)
        """R⁻¹v ≈ UUᵀv, computed in float64, in the dtype of v."""
        wide, found = v.double(), None
        if wide.shape[1] >= _WIDE:
            found = engine(wide.device, wide.dtype).sparse_square(self._index, self._values, wide)
        return (self.root(self.root_transpose(wide)) if found is None else found).to(v.dtype)

    def root(self, v: Tensor) -> Tensor:  # (n, s) -> (n, s)
        """Uv, in float64."""
        return embedding_bag(
            self._columns, v.double(), self._offsets, per_sample_weights=self._flat, mode="sum"
        )

    def root_transpose(self, v: Tensor) -> Tensor:  # (n, s) -> (n, s)
        """Uᵀv, in float64."""
        return embedding_bag(self._index, v.double(), per_sample_weights=self._values, mode="sum")


def sparse_columns(
    operator: NeighbourOperator, index: Tensor, real: Tensor, low_rank: Tensor | None
) -> Tensor:
    """The entries of U, (n, m+1): by the operator's fused product if it has one, else in batches."""
    fused, n = completed(operator).sparse_columns, len(index)
    rank = 0 if low_rank is None else low_rank.shape[1]
    narrow = max(1, _CHUNK_BYTES // (8 * index.shape[1] * (4 * index.shape[1] + rank)))
    parts: list[Tensor] = []
    start = 0
    while start < n:
        go_on()
        tell("preconditioner, factor", start, n)
        tile = slice(start, start + (narrow if fused is None else _FUSED_ROWS))
        part = None if fused is None else fused(index[tile], real[tile], low_rank)
        if part is None and fused is not None:
            fused = None  # not of this kernel or device
            continue
        parts.append(_columns(operator, index[tile], real[tile], low_rank) if part is None else part)
        start = tile.stop
    return torch.cat(parts)


def _columns(operator: NeighbourOperator, index: Tensor, real: Tensor, low_rank: Tensor | None) -> Tensor:
    """The entries of U for a batch of columns: (b, m+1), last one on the diagonal."""
    part = None if low_rank is None else low_rank[index]
    return last_columns(operator.small_blocks(index), operator.noise_variance[index], real, part)


def last_columns(small: Tensor, noise: Tensor, real: Tensor, part: Tensor | None) -> Tensor:
    """L⁻ᵀe_last for R = LLᵀ of each block of rows: (b, m+1), zero where a row is not real.

    Args:
        small: (b, m+1, m+1) noise-free blocks of K, float64. noise: (b, m+1). real: (b, m+1).
        part: (b, m+1, r) rows of F where R = K − FFᵀ + Σ, or None for R = K + Σ.
    """
    ceiling = small.diagonal(dim1=1, dim2=2).amax(1)
    if part is not None:
        small = torch.baddbmm(small, part, part.transpose(1, 2), alpha=-1)
        # what is left of a diagonal cannot fall below zero, whatever rounding says
        small.diagonal(dim1=1, dim2=2).clamp_min_(0)
    small.diagonal(dim1=1, dim2=2).add_(noise)
    both = real[:, :, None] & real[:, None, :]
    small = torch.where(both, small, torch.eye(small.shape[1], dtype=small.dtype, device=small.device))
    lower = cholesky(small, "the covariance of a row's neighbours", scale=ceiling)
    last = small.new_zeros(*small.shape[:2], 1)
    last[:, -1] = 1
    column = torch.linalg.solve_triangular(lower.transpose(1, 2), last, upper=True)[..., 0]
    return column * real


@dataclass(frozen=True)
class NearestNeighbour(Preconditioner):
    """P⁻¹ = UUᵀ, the sparse inverse Cholesky factor of K + Σ on nearest earlier neighbours. Best at low noise.

    Args:
        neighbours: m, entries a column beside the diagonal.

    Cost:
        See `SparseInverseFactor`; beside it one neighbour search.

    Source: Schäfer, Katzfuss and Owhadi 2021 (factor); Vecchia 1988 (approximation).
    """

    neighbours: int = 40

    def __post_init__(self) -> None:
        whole_number(self.neighbours, "neighbours")

    def build(self, operator: Any, generator: torch.Generator) -> SparseInverseFactor:
        operator = require_blocks(operator, "NearestNeighbour")
        return SparseInverseFactor(operator, self.neighbours, generator)


@dataclass(frozen=True)
class LowRankPlusNeighbour(Preconditioner):
    """P = FFᵀ + (UUᵀ)⁻¹: a low-rank part for what is smooth, a neighbour factor of the rest for what is local.

    Args:
        rank: columns of F; None takes min(500, n/10).
        neighbours: m; neighbours are those of largest residual correlation.

    Cost:
        The sum of `Nystrom` and `NearestNeighbour`, and n·m²·rank flops for the residual blocks.

    Source: own, of the parts above. Kin: AFN, low rank plus a factorised sparse inverse of the Schur complement (Zhao,
        Xu, Huang, Chow and Xi 2024, arXiv 2304.05460; the preconditioner of HiGP, arXiv 2503.02259), and VIF,
        inducing points plus Vecchia's approximation of the residual process (Gyger, Furrer and Sigrist, arXiv
        2507.05064; in GPBoost). Departures: landmarks by RPCholesky, neighbours by residual correlation.
    """

    rank: int | None = None
    neighbours: int = 40

    def __post_init__(self) -> None:
        if self.rank is not None:
            whole_number(self.rank, "rank")
        whole_number(self.neighbours, "neighbours")

    def build(self, operator: Any, generator: torch.Generator, start: Tensor | None = None) -> LowRankPlus:
        """Build P; `start` (n, ≤ rank) is a factor of `random_pivoted_cholesky` to go on from."""
        operator = require_blocks(operator, "LowRankPlusNeighbour")
        rank = self.rank if self.rank is not None else max(1, min(500, operator.shape[0] // 10))
        low_rank = random_pivoted_cholesky(operator, rank, generator, start)
        return LowRankPlus(low_rank, SparseInverseFactor(operator, self.neighbours, generator, low_rank))
