"""Thompson sampling: each member of a batch is the optimum of its own posterior sample."""

from __future__ import annotations

from typing import Any

import torch

from sggp.bayesopt.maximise import Paths
from sggp.bayesopt.rules.base import Rule, sample_note


class ThompsonSampling(Rule):
    """Choose a batch by maximising one posterior sample per slot, drawn from those that the posterior carries.

    `values` are those of the samples.

    Args, Raises: as `Rule`.

    Example:
        >>> from sggp.bayesopt import Box
        >>> ThompsonSampling(Box([[0.0, 1.0]]), batch_size=8).batch_size
        8

    Source: Thompson (1933); parallel form: Hernandez-Lobato et al., ICML 2017, Algorithm 2.
    """

    def functions(self, posterior: Any, generator: torch.Generator) -> Paths:
        """As many of the samples as there are slots, at random where there are more."""
        samples = posterior.samples
        if samples.num_samples == self.batch_size:
            return samples
        return samples.select(torch.randperm(samples.num_samples, generator=generator)[: self.batch_size])

    def note(self, slot: int, value: float, scaling: tuple[float, float]) -> str:
        return f"the best place of {sample_note(self, slot, value, scaling)}"
