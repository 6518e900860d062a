"""Upper confidence bound: the mean and some standard deviations of what is not known."""

from __future__ import annotations

import math

from torch import Tensor

from sggp.bayesopt.rules.base import in_units, is_pool, sample_note
from sggp.bayesopt.rules.scores import ScoreRule


class UpperConfidenceBound(ScoreRule):
    """Rank by mean + `width` · std (mean − `width` · std where smaller values are better); `values` are these bounds.

    In a box slot 0 maximises the bound itself and slot i mean + width·√(π/2)·|path i − mean|, whose average over paths
    is the bound.

    Args, Raises: as `Rule`.

    Source: Srinivas et al. (2010); the form by paths: Wilson et al. (2018), "Maximizing acquisition functions for
    Bayesian optimization".
    """

    width: float = 2.0

    def score(self, mean: Tensor, std: Tensor, best: float) -> Tensor:
        return mean + self.width * std

    def path_form(self, mean: Tensor, paths: Tensor) -> Tensor:
        return mean + self.width * math.sqrt(0.5 * math.pi) * (paths - mean).abs()

    def note(self, slot: int, value: float, scaling: tuple[float, float]) -> str:
        if slot and not is_pool(self.space):
            return f"the best place of a hopeful form of {sample_note(self, slot, value, scaling)}"
        bound = "plus" if self.maximize else "minus"
        return (
            f"mean {bound} {self.width:g} std is {in_units(value, scaling)}, number {slot + 1} of the batch"
        )
