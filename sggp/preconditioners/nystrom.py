"""Preconditioners K ≈ FFᵀ plus the noise: Nyström and pivoted Cholesky."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from sggp.checks import one_of, whole_number
from sggp.preconditioners.base import LowRankPlus, Preconditioner, low_rank_plus_noise, require_blocks
from sggp.preconditioners.low_rank import pivoted_cholesky, random_pivoted_cholesky, uniform_nystrom

__all__ = ["Nystrom", "PivotedCholesky"]


@dataclass(frozen=True)
class Nystrom(Preconditioner):
    """P = FFᵀ + Σ with F from `rank` columns of K: best where the noise is high.

    Args:
        rank: number of landmarks.
        landmarks: "rpcholesky" draws them where K is not yet explained; "uniform" draws them uniformly.

    Cost:
        Set-up n·rank entries and 2·n·rank² flops; an application 4·n·rank·s flops; memory 8·n·rank bytes.

    Source: Frangella, Tropp and Udell 2023 (Nyström preconditioning); Chen et al. 2023 (landmarks).
    """

    rank: int = 500
    landmarks: Literal["rpcholesky", "uniform"] = "rpcholesky"

    def __post_init__(self) -> None:
        whole_number(self.rank, "rank")
        one_of(self.landmarks, "landmarks", ("rpcholesky", "uniform"))

    def build(self, operator: Any, generator: torch.Generator) -> LowRankPlus:
        operator = require_blocks(operator, "Nystrom")
        draw = random_pivoted_cholesky if self.landmarks == "rpcholesky" else uniform_nystrom
        return low_rank_plus_noise(draw(operator, self.rank, generator), operator.noise_variance)


@dataclass(frozen=True)
class PivotedCholesky(Preconditioner):
    """P = FFᵀ + Σ with F a partial Cholesky factor of K with greedy pivots.

    Args:
        rank: number of pivots.

    Cost:
        As `Nystrom`, one column of K at a time.

    Source: Gardner et al. 2018 (preconditioner); Harbrecht, Peters and Schneider 2012 (factor).
    """

    rank: int = 100

    def __post_init__(self) -> None:
        whole_number(self.rank, "rank")

    def build(self, operator: Any, generator: torch.Generator) -> LowRankPlus:
        operator = require_blocks(operator, "PivotedCholesky")
        return low_rank_plus_noise(pivoted_cholesky(operator, self.rank), operator.noise_variance)
