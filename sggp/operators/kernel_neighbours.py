"""What nearest-neighbour preconditioners ask of K + Σ: an ordering, neighbours, and columns of sparse factors."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from sggp.kernels.covariance import Covariance, Points
from sggp.kernels.stationary import StationaryCovariance
from sggp.native import neighbours as native_neighbours
from sggp.neighbours import (
    coarse_to_fine,
    coarse_to_fine_by_gaps,
    earlier_by_score,
    earlier_neighbours,
)

__all__ = ["KernelNeighbours"]

_SMALL_BYTES = 64 * 2**20


class KernelNeighbours:
    """The part of `KernelOperator` that looks at rows and their neighbours."""

    x: Tensor
    entries_evaluated: int
    covariance: Covariance
    _covariance64: Covariance
    _points: Points
    _points64: Points
    _noise64: Tensor
    _dtype: torch.dtype

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the rows are."""

    @abstractmethod
    def kernel_diagonal(self) -> Tensor:  # (n,)
        """The diagonal of K in float64."""

    @abstractmethod
    def small_blocks(self, index: Tensor) -> Tensor:  # (b, m) -> (b, m, m)
        """Blocks of K in float64."""

    def ordering(self, generator: torch.Generator) -> Tensor:  # -> (n,)
        """The rows from coarse to fine by the kernel's own metric, by correlation where the kernel has none.

        Cost:
            See `sggp.neighbours.coarse_to_fine`; n² entries without a metric.
        """
        embedding = self.covariance.embedding(self._points64)
        if embedding is not None:
            return coarse_to_fine(embedding, generator)
        shuffle = torch.randperm(len(self.x), generator=generator).to(self.device)
        points = self._points[shuffle]
        scale = self.covariance.diagonal(points).clamp_min(torch.finfo(self._dtype).tiny).rsqrt()
        self.entries_evaluated += len(self.x) ** 2

        def gaps(rows: Tensor) -> Tensor:
            block = self.covariance.block(points[rows], points)
            return 1.0 - (block * scale[rows, None] * scale).clamp(-1.0, 1.0)

        return shuffle[coarse_to_fine_by_gaps(gaps, len(self.x), device=self.device)]

    def earlier_neighbours(
        self, order: Tensor, k: int, low_rank: Tensor | None = None
    ) -> Tensor:  # -> (n, k)
        """For each position of `order`, up to k earlier positions that are closest; -1 where there are fewer.

        Closest is by the kernel's own metric, by correlation where the kernel has none, and by the correlation of the
        residual K − FFᵀ where a low-rank part F (n, r) is given.

        Cost:
            See `sggp.neighbours`; with F, 3k candidates by the metric and 3·n·k entries; n² entries without a metric.
        """
        embedding = self.covariance.embedding(self._points64)
        if embedding is None:
            return self._by_correlation(order, k, low_rank)
        if low_rank is None:
            return earlier_neighbours(embedding, order, k)
        return self._rescored(order, earlier_neighbours(embedding, order, 3 * k), k, low_rank)

    def _rescored(self, order: Tensor, candidates: Tensor, k: int, low_rank: Tensor) -> Tensor:
        """The k candidates of largest |R_ij|/√R_jj, R = K − FFᵀ + Σ."""
        # the scores only rank candidates, so single precision is enough, and half the traffic
        left, narrow = self._residual_diagonal(low_rank).rsqrt().float(), low_rank.float()
        out = candidates.new_empty(len(order), min(k, candidates.shape[1]))
        width = candidates.shape[1]
        step = max(1, _SMALL_BYTES // (4 * width * (low_rank.shape[1] + 16 * self.x.shape[1])))
        for tile in torch.arange(len(order), device=self.device).split(step):
            place = candidates[tile]
            score = self._scores(order[tile], torch.where(place >= 0, order[place], -1), narrow, left)
            out[tile] = torch.gather(place, 1, score.topk(out.shape[1]).indices)
        return out

    def _scores(
        self, rows: Tensor, cols: Tensor, low_rank: Tensor, left: Tensor
    ) -> Tensor:  # (b,), (b, c) -> (b, c)
        covariance, points = self._covariance64, self._points64
        if isinstance(covariance, StationaryCovariance) and native_neighbours.available(self.device):
            self.entries_evaluated += cols.numel()
            scaled = points.parts["scaled"]
            return native_neighbours.residual_scores(scaled, covariance.profile, low_rank, left, rows, cols)
        known = cols.clamp_min(0)
        pair = torch.stack([rows[:, None].expand_as(known), known], -1).reshape(-1, 2)
        entries = self.small_blocks(pair)[:, 0, 1].reshape(known.shape).float()
        entries = entries - torch.einsum("bkr,br->bk", low_rank[known], low_rank[rows])
        return torch.where(cols >= 0, entries.abs() * left[known], -1.0)

    def sparse_columns(self, index: Tensor, real: Tensor, low_rank: Tensor | None) -> Tensor | None:
        """Columns of the sparse inverse factor in one fused call, or None where this kernel or device has none.

        See `sggp.native.neighbours.sparse_columns`.
        """
        covariance = self._covariance64
        if not isinstance(covariance, StationaryCovariance) or not native_neighbours.available(self.device):
            return None
        self.entries_evaluated += index.shape[0] * index.shape[1] ** 2
        scaled = self._points64.parts["scaled"]
        return native_neighbours.sparse_columns(
            scaled, covariance.profile, self._noise64, low_rank, index, real
        )

    def _by_correlation(self, order: Tensor, k: int, low_rank: Tensor | None) -> Tensor:
        points = self._points[order]
        self.entries_evaluated += len(order) ** 2 // 2
        if low_rank is None:
            scale = self.covariance.diagonal(points).clamp_min(torch.finfo(self._dtype).tiny).rsqrt()
            part = None
        else:
            scale = self._residual_diagonal(low_rank)[order].rsqrt().to(self._dtype)
            part = low_rank[order].to(self._dtype)

        def score(start: int, stop: int) -> Tensor:
            tile = self.covariance.block(points[start:stop], points[:stop]).to(self._dtype)
            if part is not None:
                tile = torch.addmm(tile, part[start:stop], part[:stop].T, alpha=-1).abs_()
            return tile.mul_(scale[None, :stop])

        return earlier_by_score(score, len(order), k, device=self.device)

    def _residual_diagonal(self, low_rank: Tensor) -> Tensor:
        left = (self.kernel_diagonal() - low_rank.square().sum(1)).clamp_min(0) + self._noise64
        return left.clamp_min(1e-14 * float(self.kernel_diagonal().max()))
