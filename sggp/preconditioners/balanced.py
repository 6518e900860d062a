"""A preconditioner whose rank and neighbours follow from the matrix, the columns to solve for, and the memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sggp.arrays import check_budget
from sggp.checks import whole_number
from sggp.errors import InputError
from sggp.operators.base import NeighbourOperator
from sggp.preconditioners.base import Built, Preconditioner, require_blocks
from sggp.preconditioners.low_rank import random_pivoted_cholesky
from sggp.preconditioners.neighbour import LowRankPlusNeighbour, NearestNeighbour

__all__ = ["Balanced"]

_PILOT = 200
_SMOOTH = 25.0
"""Mean variance left by the pilot, in units of the noise, up to which rank does more than neighbours."""
_ROUGH = 0.7
"""Share of the variance left by the pilot above which rank does nothing."""
_NEIGHBOURS = (20, 30, 40, 50, 60, 80, 100, 120, 140, 160, 200)
_RANKS = (100, 150, 200, 300, 400, 500, 700, 1000, 1500)
_FEW = 20
_MIXED_RANK = 500


@dataclass(frozen=True)
class Balanced(Preconditioner):
    """Low rank plus neighbours, sized so that building it costs about as much as `passes` products with K.

    A pilot of 200 random pivots tells what kind of matrix it is, by the variance it leaves, as a share e of all
    variance and as a multiple q of the noise:

    | the pilot leaves | kind | rank | neighbours |
    |---|---|---|---|
    | e > 0.7 | rough | none | as the budget allows, to 200 |
    | else, q ≤ 25 | smooth, or noisy | as the budget allows, to 1,500 | 20 |
    | else | mixed | what 200 neighbours leave of the budget, to 500 | as the budget allows, to 200 |

    Args:
        columns: s, the right-hand sides that will be solved for: more of them are worth a better preconditioner.
        passes: products with K, of s columns, that the set-up may cost.
        memory_budget: bytes that the preconditioner may keep.

    Cost:
        In entries of K a row (one pass is n·(1 + s/22)): 30,000 + 600·m + 0.08·m³ + r·(364 + 0.18·m²), fitted to the
        compiled engine on two cores; 16·n·r + 48·n·m bytes.

    Source: own; the parts are those of `LowRankPlusNeighbour`.
    """

    columns: int = 1
    passes: float = 10.0
    memory_budget: float = 2**30

    def __post_init__(self) -> None:
        whole_number(self.columns, "columns")
        if not self.passes > 0:
            raise InputError(f"passes must be positive, got {self.passes}.")
        check_budget(self.memory_budget)

    def build(self, operator: Any, generator: torch.Generator) -> Built:
        operator = require_blocks(operator, "Balanced")
        n = operator.shape[0]
        most = max(1, int(min(_PILOT, n // 10, self.memory_budget / (16 * n))))
        pilot = random_pivoted_cholesky(operator, most, generator)
        rank, neighbours = self.sizes(operator, pilot)
        if rank == 0:
            return NearestNeighbour(neighbours).build(operator, generator)
        return LowRankPlusNeighbour(rank, neighbours).build(operator, generator, start=pilot[:, :rank])

    def sizes(self, operator: NeighbourOperator, pilot: Tensor) -> tuple[int, int]:  # pilot (n, p)
        """Rank and neighbours by the table above."""
        n = operator.shape[0]
        diagonal, noise = operator.kernel_diagonal(), operator.noise_variance
        left = (diagonal - pilot.square().sum(1)).clamp_min(0)
        share = float(left.sum() / diagonal.sum().clamp_min(1e-300))
        ratio = float((left / noise.clamp_min(1e-300)).mean())
        most = max(1, n // 10)
        rough = share > _ROUGH
        if ratio <= _SMOOTH and not rough:
            ranks = [r for r in _RANKS if r <= most and self._fits(n, r, _FEW)]
            return max([min(most, _RANKS[0]), *ranks]), _FEW
        neighbours = max([_FEW, *(m for m in _NEIGHBOURS if self._fits(n, 0, m))])
        if rough or neighbours < _NEIGHBOURS[-1]:
            return 0, neighbours
        ranks = [r for r in _RANKS if r <= min(most, _MIXED_RANK) and self._fits(n, r, neighbours)]
        return max([0, *ranks]), neighbours

    def _fits(self, n: int, rank: int, neighbours: int) -> bool:
        work = 3e4 + 600 * neighbours + 0.08 * neighbours**3 + rank * (364 + 0.18 * neighbours**2)
        kept = n * (16 * rank + 48 * neighbours)
        return work <= self.passes * n * (1 + self.columns / 22) and kept <= self.memory_budget
