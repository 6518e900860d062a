"""A low-rank part of thousands of landmarks, from which every row is interpolated by the few that are nearest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn.functional import embedding_bag

from sggp.checks import whole_number
from sggp.errors import UnsupportedOperator
from sggp.linalg import cholesky
from sggp.operators.base import completed
from sggp.preconditioners.base import DiagonalPlus, Preconditioner, correction, require_blocks, require_finite
from sggp.preconditioners.neighbour import sparse_columns
from sggp.running import go_on, tell

__all__ = ["Interpolated", "LocalNystrom"]

_TILE = 1024
_ROWS = 2**17
_JITTER = 1e-9
"""Of a small system without noise, as a share of the largest variance."""
_LEAST = 1e-10
"""What is left of a row's variance at least, as a share of the largest."""


@dataclass(frozen=True)
class LocalNystrom(Preconditioner):
    """P = W K_LL Wᵀ + D: W takes each row from the `neighbours` nearest of `rank` landmarks L, D is what that leaves.

    W holds the weights of the conditional mean, D the conditional variance and the noise. Where `Nystrom` keeps n·rank
    numbers this keeps n·neighbours and rank², so that a million rows can have thousands of landmarks: for many rows in
    few columns, at a noise above what the landmarks leave.

    Args:
        rank: landmarks, the first rows of the coarse-to-fine ordering.
        neighbours: landmarks that a row is interpolated from.

    Cost:
        n·neighbours² entries and n·neighbours³/3 flops for W, 2·rank³ flops; 12·n·neighbours + 8·rank² bytes, 32·rank²
        while it is set up; an application 4·(n·neighbours + rank²)·s flops.

    Source: Datta, Banerjee, Finley and Gelfand 2016, section 2 (nearest-neighbour process on a reference set), here
        with its dense process on the set; Snelson and Ghahramani 2006 (D).
    """

    rank: int = 4000
    neighbours: int = 50

    def __post_init__(self) -> None:
        whole_number(self.rank, "rank")
        whole_number(self.neighbours, "neighbours")

    def build(self, operator: Any, generator: torch.Generator) -> Interpolated:
        operator = completed(require_blocks(operator, "LocalNystrom"))
        return self.built(operator, operator.ordering(generator))

    def built(self, operator: Any, order: Tensor) -> Interpolated:
        """Build P on the first rows of an ordering."""
        if operator.nearest_chosen is None or operator.with_noise is None:
            raise UnsupportedOperator(
                f"LocalNystrom needs rows that are near in the kernel's metric, which {type(operator).__name__} with "
                "this kernel does not offer; use Nystrom."
            )
        if operator.device.type != "cpu":
            raise UnsupportedOperator(f"LocalNystrom is for the CPU, got {operator.device}; use Nystrom.")
        landmarks = order[: self.rank]
        everything = torch.arange(len(order), device=order.device)
        rows = interpolation(operator, landmarks, everything, self.neighbours)
        return Interpolated(rows, lambda: operator.cross_block(landmarks, landmarks), operator.noise_variance)


class Interpolation(NamedTuple):
    """Rows of a function from a few of its values at landmarks: f(x_i) ≈ Σ_j weights_ij f(landmark places_ij).

    Attributes:
        places: (b, k) int32, among the landmarks. weights: (b, k) float64, of the conditional mean.
        left: (b,) float64, the conditional variance, without noise.
    """

    places: Tensor
    weights: Tensor
    left: Tensor


def interpolation(operator: Any, landmarks: Tensor, rows: Tensor, k: int) -> Interpolation:
    """Rows (b,) of K from the k nearest of the landmarks (m,); a landmark is itself.

    Cost: b·k² entries and b·k³/3 flops.
    """
    k = min(k, len(landmarks))
    scale = _JITTER * float(operator.kernel_diagonal().max())
    free = completed(operator.with_noise(torch.full_like(operator.noise_variance, scale)))
    places = torch.empty(len(rows), k, dtype=torch.int32)
    weights, left = (torch.empty(*shape, dtype=torch.float64) for shape in ((len(rows), k), (len(rows),)))
    for start in range(0, len(rows), _ROWS):
        tile = slice(start, start + _ROWS)
        near, values = _interpolated(operator, free, landmarks, rows[tile], k)
        # a column of the inverse factor is (-w, 1)/√v
        weights[tile] = values[:, :-1] / -values[:, -1:]
        left[tile] = (values[:, -1].square().reciprocal() - scale).clamp_min_(0)
        places[tile] = near
    chosen = landmarks[places[:, 0].long()] == rows
    weights[chosen], left[chosen] = weights.new_tensor([1.0] + [0.0] * (k - 1)), 0.0
    return Interpolation(places, weights, left)


def _interpolated(operator: Any, free: Any, landmarks: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Places (b, k) and columns (b, k + 1) of a sparse inverse factor without noise."""
    places = operator.nearest_chosen(landmarks, rows, k)
    index = torch.cat([landmarks[places], rows[:, None]], 1)
    real = torch.ones_like(index, dtype=torch.bool)
    real[:, :-1] = index[:, :-1] != index[:, -1:]
    return places, sparse_columns(free, index, real, None)


class Interpolated(DiagonalPlus):
    """P = W K Wᵀ + D for sparse rows W, inverted by Woodbury's identity in float64.

    With K = LLᵀ, D^-½WL = G is never formed: GᵀG = Lᵀ(WᵀD⁻¹W)L.

    Args:
        rows: W and the variance that it leaves.
        core: makes K (m, m) at the landmarks, a new tensor.
        noise: (n,) Σ.
    """

    def __init__(self, rows: Interpolation, core: Callable[[], Tensor], noise: Tensor) -> None:
        self._core = core
        self._gather = (rows.places, require_finite("the weights of an interpolation", rows.weights))
        go_on()
        tell("preconditioner, landmarks")
        lower, scale = _factor(core())
        least = max(_LEAST * scale, torch.finfo(torch.float64).tiny)
        self.diagonal = (require_finite("the rows of an interpolation", rows.left) + noise).clamp_min(least)
        self._rows = _sparse(rows, len(lower))
        go_on()
        inner = cholesky(self._inner(lower), "the inner matrix of Woodbury's identity")
        self.log_det = float(self.diagonal.log().sum() + 2 * inner.diagonal().log().sum())
        go_on()
        # M⁻¹Lᵀ for I + GᵀG = MMᵀ: its transpose times it is K(I + WᵀD⁻¹WK)⁻¹
        self._half = torch.linalg.solve_triangular(inner, lower.T, upper=False)

    def apply(self, v: Tensor) -> Tensor:  # (n, s) -> (n, s)
        """P⁻¹v, in the dtype of v."""
        scaled = v.double() / self.diagonal[:, None]
        inner = self._half.T @ (self._half @ self.collected(scaled))
        return (scaled - self.spread(inner) / self.diagonal[:, None]).to(v.dtype)

    @cached_property
    def correction(self) -> Tensor:  # (m, m)
        """LBLᵀ, made at first use: K at the landmarks is factorised anew rather than kept."""
        lower, _ = _factor(self._core())
        return lower @ correction(self._inner(lower)) @ lower.T

    def _inner(self, lower: Tensor) -> Tensor:  # (m, m) -> (m, m)
        """I + GᵀG."""
        inner = _squared(lower, self._between(lower))
        inner.diagonal().add_(1.0)
        return inner

    def spread(self, z: Tensor) -> Tensor:  # (m, s) -> (n, s)
        """Wz."""
        places, weights = self._gather
        return embedding_bag(places, z.contiguous(), per_sample_weights=weights, mode="sum")

    def collected(self, v: Tensor) -> Tensor:  # (n, s) -> (m, s)
        """Wᵀv. By SciPy, which reads W as it lies, and in a tenth of the time of an `embedding_bag` over Wᵀ."""
        return torch.from_numpy(self._rows.T @ v.contiguous().numpy())

    def _between(self, lower: Tensor) -> Tensor:  # (m, m) -> (m, m)
        """WᵀD⁻¹W times a dense matrix."""
        total = csr_matrix((len(lower), len(lower)))
        for start in range(0, len(self.diagonal), _ROWS):
            go_on()
            w = self._rows[start : start + _ROWS]  # may be a view
            root = self.diagonal[start : start + _ROWS].rsqrt().repeat_interleave(self._gather[0].shape[1])
            w = csr_matrix((w.data * root.numpy(), w.indices, w.indptr), shape=w.shape)
            total = total + w.T @ w
        return torch.from_numpy(total @ lower.numpy())


def _factor(core: Tensor) -> tuple[Tensor, float]:  # (m, m) -> (m, m)
    """The lower factor of K at the landmarks, and the largest variance there."""
    scale = float(core.diagonal().max())
    return cholesky(core, "the kernel matrix of the landmarks", scale=scale), scale


def _sparse(rows: Interpolation, count: int) -> csr_matrix:
    """W."""
    b, k = rows.places.shape
    start = np.arange(0, b * k + 1, k)
    return csr_matrix(
        (rows.weights.flatten().numpy(), rows.places.flatten().numpy(), start), shape=(b, count)
    )


def _squared(lower: Tensor, between: Tensor) -> Tensor:  # (m, m), (m, m) -> (m, m)
    """LᵀX for a lower triangular L where that is symmetric, by tiles on and below the diagonal: m³/3 multiply-adds."""
    out = torch.empty_like(lower)
    for start in range(0, len(lower), _TILE):
        stop = start + _TILE
        tile = lower[start:, start:stop].T @ between[start:, :stop]
        out[start:stop, :stop] = tile
        out[:stop, start:stop] = tile.T
    return out
