"""Thompson sampling over a finite set of candidates, without repeats and without a matrix over the candidates."""

from __future__ import annotations

import torch
from botorch.generation.sampling import SamplingStrategy
from botorch.models.model import Model
from torch import Tensor

from sggp.checks import whole_number
from sggp.errors import InputError, ShapeError


class PoolThompsonSampling(SamplingStrategy):
    """Each path in turn takes its best candidate that no earlier path has taken.

    `MaxPosteriorSampling` evaluates every sample at every candidate at once; this strategy walks over blocks of
    candidates and keeps only the best few of each path.

    Args:
        model: a model of one output whose `posterior(X).rsample` returns the same functions for every `X`, such as
            `PathwiseGPModel`.
        maximize: whether large values are good.
        block_size: candidates evaluated at a time.

    Cost: O(N (n + p) (d + k)) for N candidates and k picks; memory O(block_size k + k^2).
    """

    def __init__(self, model: Model, *, maximize: bool = True, block_size: int = 8192) -> None:
        super().__init__()
        if model.num_outputs != 1:
            raise InputError(
                f"PoolThompsonSampling needs one output, got {model.num_outputs}: pass model.subset_output([i])."
            )
        self.model = model
        self.maximize = maximize
        self.block_size = whole_number(block_size, "block_size")

    def forward(self, X: Tensor, num_samples: int = 1) -> Tensor:
        """The candidates picked, (num_samples, d), in the order of the paths."""
        return X[..., self.indices(X, num_samples), :]

    def indices(self, X: Tensor, num_samples: int = 1, exclude: Tensor | None = None) -> Tensor:
        """Row numbers of the candidates picked.

        Args:
            X: candidates, (N, d).
            num_samples: number k of picks, at most the number of candidates that are not excluded.
            exclude: boolean mask (N,) of candidates that must not be picked (measured, pending).

        Returns:
            (k,) distinct row numbers.

        Raises:
            ShapeError: `X` or `exclude` has another shape.
            InputError: there are fewer candidates than picks.
        """
        if X.ndim != 2:
            raise ShapeError(f"candidates must have shape (N, d), got {tuple(X.shape)}.")
        free = torch.ones(len(X), dtype=torch.bool) if exclude is None else ~exclude.to("cpu", torch.bool)
        if free.shape != (len(X),):
            raise ShapeError(f"exclude must have shape ({len(X)},), got {tuple(free.shape)}.")
        if not 1 <= num_samples <= int(free.sum()):
            raise InputError(
                f"asked for {num_samples} picks among {int(free.sum())} candidates: ask for at least 1 and at most as "
                "many as there are."
            )
        from sggp.bayesopt.maximise import distinct_best

        rows = self._best_per_path(X, num_samples, free)
        return rows.gather(1, distinct_best(rows)[:, None])[:, 0].to(X.device)

    @torch.no_grad()
    def _best_per_path(self, X: Tensor, count: int, free: Tensor) -> Tensor:
        """Row numbers of the `count` best candidates of each of `count` paths, best first, (count, count)."""
        sign = 1.0 if self.maximize else -1.0
        candidates = free.nonzero().squeeze(-1)
        best = torch.empty(count, 0)
        rows = torch.empty(count, 0, dtype=torch.int64)
        for block in candidates.split(self.block_size):
            values = self.model.posterior(X[block.to(X.device)]).rsample(torch.Size([count]))
            scores = sign * values.squeeze(-1).cpu()
            best = torch.cat([best.to(scores), scores], dim=1)
            rows = torch.cat([rows, block.expand(count, -1)], dim=1)
            best, order = best.topk(min(count, best.shape[1]), dim=1)
            rows = rows.gather(1, order)
        return rows
