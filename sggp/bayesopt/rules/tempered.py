"""Tempered Thompson sampling: the optima of samples that were moved towards the mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sggp.bayesopt.maximise import Paths
from sggp.bayesopt.rules.base import mean_at, sample_note
from sggp.bayesopt.rules.thompson import ThompsonSampling


class TemperedThompson(ThompsonSampling):
    """As `ThompsonSampling`, of the functions mean + `heat` · (sample − mean); `values` are those of the functions.

    With heat 1 these are the samples. Below, a batch explores less: in a large pool the largest value of a sample lies
    where much is unknown, far from where the mean is best, and a batch of them seldom asks for what is likely good.

    Args, Raises: as `Rule`.

    Source: the scaled posterior of Chapelle & Li (2011), "An empirical evaluation of Thompson sampling".
    """

    heat: float = 0.5

    def functions(self, posterior: Any, generator: torch.Generator) -> Paths:
        return Tempered(posterior, super().functions(posterior, generator), self.heat)

    def note(self, slot: int, value: float, scaling: tuple[float, float]) -> str:
        return f"the best place, tempered by {self.heat:g}, of {sample_note(self, slot, value, scaling)}"


@dataclass(frozen=True)
class Tempered:
    """mean + heat · (path − mean) of each path."""

    posterior: Any
    paths: Any
    heat: float

    @property
    def num_samples(self) -> int:
        return self.paths.num_samples

    def __call__(self, points: Tensor) -> Tensor:
        return self._between(mean_at(self.posterior, points), self.paths(points))

    def paired(self, points: Tensor) -> Tensor:
        return self._between(mean_at(self.posterior, points), self.paths.paired(points))

    def _between(self, mean: Tensor, paths: Tensor) -> Tensor:
        return mean + self.heat * (paths - mean)
