"""The best means, for comparison."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sggp.bayesopt.rules.base import is_pool
from sggp.bayesopt.rules.scores import ScoreRule
from sggp.bayesopt.spaces.base import Space
from sggp.errors import InputError


class Greedy(ScoreRule):
    """Rank by the mean alone; `values` are the means. Nothing is explored: for comparison.

    Args, Raises: as `Rule`, and InputError for more than one point of a box: all would be the same.
    """

    needs_std = False

    def __init__(self, space: Space, batch_size: int, **options: Any) -> None:
        super().__init__(space, batch_size, **options)
        if not is_pool(self.space) and self.batch_size > 1:
            raise InputError(
                f"the rule greedy chooses one point of a box at a time, not {self.batch_size}: all would be the same "
                "point; ask for one, or take the rule ucb, tempered or thompson."
            )

    def score(self, mean: Tensor, std: Tensor, best: float) -> Tensor:
        return mean

    def note(self, slot: int, value: float, scaling: tuple[float, float]) -> str:
        return f"number {slot + 1} by its mean"
