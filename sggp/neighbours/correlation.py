"""Orderings and neighbours of the rows of K + Σ: by the kernel's metric, by correlation, by residual correlation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sggp.neighbours.ordering import max_min_ordering, max_min_ordering_by
from sggp.neighbours.search import centred, earlier_neighbours, earlier_rows, nearest
from sggp.neighbours.similarity import Kernel, earlier_by_score
from sggp.running import go_on, tell

__all__ = ["KernelNeighbours"]

_SMALL_BYTES = 64 * 2**20


class KernelNeighbours:
    """Which rows of K + Σ are near which, as its kernel sees them.

    Args:
        covariance: the kernel in the precision of products, with `points`, its prepared rows.
        exact: the kernel in float64, with `exact_points`, its prepared rows.
        noise: (n,) float64 Σ.
        count: told of the kernel entries that were evaluated.
    """

    def __init__(
        self,
        covariance: tuple[Kernel, Any],
        exact: tuple[Kernel, Any],
        noise: Tensor,
        count: Callable[[int], None],
    ) -> None:
        self._covariance, self._points = covariance
        self._exact, self._exact_points = exact
        self._noise, self._count = noise, count

    def ordering(self, generator: torch.Generator) -> Tensor:  # -> (n,)
        """The rows from coarse to fine by the kernel's own metric, by correlation where the kernel has none.

        Cost:
            See `sggp.neighbours.max_min_ordering`; n² entries without a metric.
        """
        embedding = self._exact.embedding(self._exact_points)
        if embedding is not None:
            return max_min_ordering(embedding, generator)
        shuffle = torch.randperm(len(self._noise), generator=generator).to(self._noise.device)
        points = self._points[shuffle]
        scale = self._root_precision(points)
        self._count(len(shuffle) ** 2)

        def distance(rows: Tensor) -> Tensor:
            block = self._covariance.block(points[rows], points)
            return 1.0 - (block * scale[rows, None] * scale).clamp(-1.0, 1.0)

        return shuffle[max_min_ordering_by(distance, len(shuffle), device=shuffle.device)]

    def earlier_neighbours(
        self, order: Tensor, k: int, low_rank: Tensor | None = None
    ) -> Tensor:  # -> (n, k)
        """For each position of `order`, up to k earlier positions that are closest; -1 where there are fewer.

        Closest is by the kernel's own metric, by correlation where the kernel has none, and by the correlation of the
        residual K − FFᵀ where a low-rank part F (n, r) is given.

        Cost:
            See `sggp.neighbours`; with F, 3k candidates by the metric and 3·n·k entries; n² entries without a metric.
        """
        embedding = self._exact.embedding(self._exact_points)
        if embedding is None:
            return self._by_correlation(order, k, low_rank)
        if low_rank is None:
            return earlier_neighbours(embedding, order, k)
        return self._rescored(order, earlier_neighbours(embedding, order, 3 * k), k, low_rank)

    def earlier_of(self, order: Tensor, rows: Tensor, k: int) -> Tensor:  # -> (r, k)
        """`earlier_neighbours` at some positions of `order` alone, ascending.

        Cost: r·n/2 distances in the kernel's metric; n² entries without one.
        """
        embedding = self._exact.embedding(self._exact_points)
        if embedding is None:
            return self._by_correlation(order, k, None)[rows]
        return earlier_rows(centred(embedding)[order], rows, k)

    @property
    def metric_columns(self) -> int | None:
        """The columns of the kernel's metric in which rows differ; None where the kernel has no metric."""
        embedding = self._exact.embedding(self._exact_points)
        return None if embedding is None else int((embedding != embedding[0]).any(0).sum())

    @property
    def nearest_chosen(self) -> Callable[[Tensor, Tensor, int], Tensor] | None:
        """(chosen (m,), rows (b,), k) → (b, k) places among the chosen rows of those nearest by the kernel's metric.

        None where the kernel has no metric.
        """
        embedding = self._exact.embedding(self._exact_points)
        if embedding is None:
            return None
        return lambda chosen, rows, k: nearest(embedding[chosen], embedding[rows], k)

    def _rescored(self, order: Tensor, candidates: Tensor, k: int, low_rank: Tensor) -> Tensor:
        """The k candidates of largest |R_ij|/√R_jj, R = K − FFᵀ + Σ."""
        # the scores only rank candidates, so single precision is enough, and half the traffic
        left, narrow = self._residual_diagonal(low_rank).rsqrt().float(), low_rank.float()
        out = candidates.new_empty(len(order), min(k, candidates.shape[1]))
        width = candidates.shape[1]
        step = max(1, _SMALL_BYTES // (4 * width * (low_rank.shape[1] + 16 * self._exact_points.shape[1])))
        for tile in torch.arange(len(order), device=order.device).split(step):
            go_on()
            tell("preconditioner, residual neighbours", int(tile[0]), len(order))
            place = candidates[tile]
            score = self._scores(order[tile], torch.where(place >= 0, order[place], -1), narrow, left)
            out[tile] = torch.gather(place, 1, score.topk(out.shape[1]).indices)
        return out

    def _scores(
        self, rows: Tensor, cols: Tensor, low_rank: Tensor, left: Tensor
    ) -> Tensor:  # (b,), (b, c) -> (b, c)
        self._count(cols.numel())
        fused = self._exact.residual_scores(self._exact_points, low_rank, left, rows, cols)
        if fused is not None:
            return fused
        self._count(3 * cols.numel())  # blocks of 2 × 2
        known = cols.clamp_min(0)
        pair = torch.stack([rows[:, None].expand_as(known), known], -1).reshape(-1, 2)
        entries = self._exact.small_blocks(self._exact_points.raw[pair])[:, 0, 1].reshape(known.shape).float()
        entries = entries - torch.einsum("bkr,br->bk", low_rank[known], low_rank[rows])
        return torch.where(cols >= 0, entries.abs() * left[known], -1.0)

    def _by_correlation(self, order: Tensor, k: int, low_rank: Tensor | None) -> Tensor:
        points = self._points[order]
        self._count(len(order) ** 2 // 2)
        if low_rank is None:
            scale, part = self._root_precision(points), None
        else:
            scale = self._residual_diagonal(low_rank)[order].rsqrt().to(points.dtype)
            part = low_rank[order].to(points.dtype)

        def score(start: int, stop: int) -> Tensor:
            tile = self._covariance.block(points[start:stop], points[:stop]).to(points.dtype)
            if part is not None:
                tile = torch.addmm(tile, part[start:stop], part[:stop].T, alpha=-1).abs_()
            return tile.mul_(scale[None, :stop])

        return earlier_by_score(score, len(order), k, device=order.device)

    def _root_precision(self, points: Any) -> Tensor:
        """1/√k(x, x) of every row."""
        diagonal = self._covariance.diagonal(points).to(points.dtype)
        return diagonal.clamp_min(torch.finfo(points.dtype).tiny).rsqrt()

    def _residual_diagonal(self, low_rank: Tensor) -> Tensor:
        diagonal = self._exact.diagonal(self._exact_points).double()
        left = (diagonal - low_rank.square().sum(1)).clamp_min(0) + self._noise
        return left.clamp_min(1e-14 * float(diagonal.max()))
