"""Membership in the top k, counted over joint sample paths of a whole pool."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sggp.bayesopt.maximise import Look, Paths, deepest
from sggp.bayesopt.rules.base import Rule, is_pool
from sggp.bayesopt.rules.sweep import open_rows
from sggp.bayesopt.spaces.base import Space
from sggp.errors import InputError

_SAMPLES = 256
_SHARE = 0.01


class TopK(Rule):
    """The rows that most often belong to the k best of the pool, in samples of all its values together.

    k is `share` of the pool or the batch, whichever is larger, so that a batch holds the most members of the top that
    it can be expected to hold. `values` are the shares of samples; equal ones are ranked by the mean of the samples.

    Args, Raises: as `Rule`, and InputError for a box, which has no top k.

    Cost: N evaluations of each of `num_samples` paths; memory O(s·k + N) beyond a block.

    Source: Fromer et al. (2024), "Batched Bayesian optimization by maximizing the probability of including the optimum"
    (qPO), who count the best row alone, among the 10,000 best means; here the top k is counted, over the whole pool.
    """

    share: float = _SHARE

    def __init__(self, space: Space, batch_size: int, **options: Any) -> None:
        super().__init__(space, batch_size, **options)
        if not is_pool(self.space):
            raise InputError(
                "the rule top-k counts rows of a pool, and a box has none: take the rule thompson, tempered or ucb."
            )

    @property
    def num_samples(self) -> int:
        return _SAMPLES

    @property
    def k(self) -> int:
        """How many rows belong to the top."""
        size = len(self.space)  # type: ignore[arg-type]
        return min(size, max(self.batch_size, round(self.share * size)))

    def functions(self, posterior: Any, generator: torch.Generator) -> Paths:
        """`num_samples` of the samples, at random where there are more."""
        samples = posterior.samples
        if samples.num_samples == self.num_samples:
            return samples
        return samples.select(torch.randperm(samples.num_samples, generator=generator)[: self.num_samples])

    def pick(self, posterior: Any, look: Look, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        free = open_rows(self.space, look, self.batch_size)
        counts, mean = self._counted(self.functions(posterior, generator), look)
        # counts first, then means, then rows: two stable sorts, the less important first
        rows = free.nonzero().flatten()
        rows = rows[torch.argsort(self.sign * mean[rows], descending=True, stable=True)]
        rows = rows[torch.argsort(counts[rows], descending=True, stable=True)][: self.batch_size]
        return rows, counts[rows].to(torch.float64) / self.num_samples

    def _counted(self, paths: Paths, look: Look) -> tuple[Tensor, Tensor]:
        """In how many paths each row is among the k best, and its mean over the paths, (N,) each."""
        best = torch.empty(paths.num_samples, 0)
        where = torch.empty(paths.num_samples, 0, dtype=torch.long)
        means = []
        for start, features in self.space.chunks():  # type: ignore[attr-defined]
            with torch.no_grad():
                height = paths(features).detach().cpu()
            if not bool(torch.isfinite(height).all()):
                raise InputError(
                    "a sample path gave a value that is not finite: see posterior.solution for why."
                )
            means.append(height.to(torch.float64).mean(0))
            stop = start + features.shape[0]
            rows = torch.cat([where, torch.arange(start, stop).expand(len(height), -1)], dim=1)
            best, where = deepest(torch.cat([best, self.sign * height], dim=1), rows, self.k)
            if look.progress is not None:
                look.progress(stop)
        mean = torch.cat(means)
        return torch.bincount(where.flatten(), minlength=len(mean)), mean

    def note(self, slot: int, value: float, scaling: tuple[float, float]) -> str:
        return f"in the top {self.k} in {round(value * self.num_samples)} of {self.num_samples} samples"
