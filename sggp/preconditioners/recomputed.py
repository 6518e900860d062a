"""A low-rank part whose columns are evaluated anew in every application, so that its rank is not bound by memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sggp.checks import whole_number
from sggp.errors import UnsupportedOperator
from sggp.linalg import cholesky
from sggp.operators.base import completed
from sggp.parallel import Part
from sggp.preconditioners.base import (
    DiagonalPlus,
    Preconditioner,
    add_gram,
    correction,
    mirrored,
    noise_of,
    require_blocks,
    require_finite,
)
from sggp.running import go_on, tell

__all__ = ["Recomputed", "RecomputedNystrom", "landmark_factor"]

_ROWS = 2048
_JITTER = 1e-11
"""Of the matrix of the landmarks, as a share of the largest variance."""
_LOST, _POWERS = 0.01, 20
"""Share of GᵀG that may be rounding where L divides a sum of blocks; powers that tell how small K_LL can be."""


@dataclass(frozen=True)
class RecomputedNystrom(Preconditioner):
    """P = K_XL K_LL⁻¹ K_LX + Σ with uniform landmarks L: `Nystrom` that keeps rank² numbers instead of n·rank.

    Products with K_XL evaluate it, as those with K evaluate K: 2·rank/n of the entries of a product in each
    application. For so many rows that the factor of a good rank does not fit: a million rows can have thousands of
    landmarks in any number of columns, where 16 GB would hold 1,000.

    Args:
        rank: landmarks.

    Cost:
        Set-up n·rank entries and 2·n·rank² flops in float64; an application 2·n·rank entries in float64 and
        4·n·rank·s flops; 16·rank² bytes, and while it is set up 24·rank² and 32·1024·rank.

    Source: Williams and Seeger 2001 (the approximation); Rudi, Carratino and Rosasco 2017 (FALKON: K_XL in blocks that
        are not kept, there for the equations of the landmarks alone).
    """

    rank: int = 3000

    def __post_init__(self) -> None:
        whole_number(self.rank, "rank")

    def build(self, operator: Any, generator: torch.Generator) -> Recomputed:
        operator = completed(require_blocks(operator, "RecomputedNystrom"))
        return self.built(operator, torch.randperm(operator.shape[0], generator=generator))

    def built(self, operator: Any, order: Tensor) -> Recomputed:
        """Build P with the first of these rows as landmarks."""
        if operator.cross_matmul is None:
            raise UnsupportedOperator(
                f"RecomputedNystrom multiplies by blocks of K that are not kept, which {type(operator).__name__} does "
                "not offer; use Nystrom."
            )
        return Recomputed(operator, order[: self.rank].to(operator.device))


def landmark_factor(operator: Any, landmarks: Tensor) -> Tensor:  # (m,) -> (m, m)
    """L with K_LL + a jitter = LLᵀ."""
    matrix = require_finite("the kernel matrix of the landmarks", operator.cross_block(landmarks, landmarks))
    matrix.diagonal().add_(_JITTER * float(matrix.diagonal().max()))
    return cholesky(matrix, "the kernel matrix of the landmarks")


class Recomputed(DiagonalPlus):
    """P = FFᵀ + Σ with F = K_XL L⁻ᵀ, K_LL = LLᵀ, inverted by Woodbury's identity in float64 without F.

    With G = Σ^-½F and I + GᵀG = MMᵀ, P⁻¹ = Σ⁻¹ − Σ⁻¹K_XL (LMMᵀLᵀ)⁻¹ K_LXΣ⁻¹. GᵀG is L⁻¹(K_LXΣ⁻¹K_XL)L⁻ᵀ: of m landmarks
    of variance k the rounding of that sum is about 2ε·m^1.5·(k/λ)² of GᵀG, with λ the least eigenvalue of K_LL. Where
    that is too much GᵀG is summed from blocks of G.

    Args:
        operator: gives blocks of K, products with them, and Σ. landmarks: (m,) rows.
    """

    def __init__(self, operator: Any, landmarks: Tensor) -> None:
        self._operator, self._landmarks = operator, landmarks
        self.diagonal = noise_of(operator.noise_variance, float(operator.kernel_diagonal().max()))
        self._lower = landmark_factor(operator, landmarks)
        self._divided = _rounding(self._lower, operator.kernel_diagonal()[landmarks]) > _LOST
        core = mirrored(operator.workers.total(len(self.diagonal), self._squared, (landmarks,)))
        for _ in range(0 if self._divided else 2):  # L⁻¹(L⁻¹S)ᵀ
            core = torch.linalg.solve_triangular(self._lower, core, upper=False).T
        core.diagonal().add_(1.0)
        self._inner = cholesky(core, "the inner matrix of Woodbury's identity")
        self.log_det = float(self.diagonal.log().sum() + 2 * self._inner.diagonal().log().sum())

    def apply(self, v: Tensor) -> Tensor:  # (n, s) -> (n, s)
        """P⁻¹v, in the dtype of v."""
        scaled = v.double() / self.diagonal[:, None]
        inner = torch.cholesky_solve(self.collected(scaled), self._inner)
        return scaled.sub_(self.spread(inner).div_(self.diagonal[:, None])).to(v.dtype)

    @cached_property
    def correction(self) -> Tensor:  # (m, m)
        return correction(self._inner @ self._inner.T)

    def collected(self, v: Tensor) -> Tensor:  # (n, s) -> (m, s)
        """Fᵀv."""
        found = self._operator.cross_matmul(v, rows=self._landmarks)
        return torch.linalg.solve_triangular(self._lower, found, upper=False)

    def spread(self, z: Tensor) -> Tensor:  # (m, s) -> (n, s)
        """Fz."""
        weights = torch.linalg.solve_triangular(self._lower.T, z, upper=True)
        return self._operator.cross_matmul(weights, cols=self._landmarks)

    def _squared(self, part: Part) -> Tensor:  # -> (m, m)
        """GᵀG of a part of the rows, or K_LXΣ⁻¹K_XL: its lower triangle."""
        lower, noise, n = part.here(self._lower), part.here(self.diagonal), len(self.diagonal)
        total = torch.zeros_like(lower)
        start, stop, _ = part.rows.indices(n)
        for first in range(start, stop, _ROWS):
            go_on()
            tell("preconditioner, landmarks", first - start, stop - start)
            rows = torch.arange(first, min(first + _ROWS, stop), device=self._landmarks.device)
            block = part.here(self._operator.cross_block(self._landmarks, rows))
            block = require_finite("columns of K at the landmarks", block)
            block *= noise[first : first + len(rows)].rsqrt()
            if self._divided:
                block = torch.linalg.solve_triangular(lower, block, upper=False)
            add_gram(total, block.T)
        return total


def _rounding(lower: Tensor, variance: Tensor) -> float:  # (m, m), (m,)
    """About what share of GᵀG is rounding, if the sum of all blocks is divided by L."""
    m, v = len(lower), torch.ones_like(lower[:, :1])
    for _ in range(_POWERS):
        v = torch.cholesky_solve(v / v.norm(), lower)
    return 2 * torch.finfo(lower.dtype).eps * m**1.5 * float(variance.max() * v.norm()) ** 2
