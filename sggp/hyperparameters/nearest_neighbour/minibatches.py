"""Minibatches of rows: their likelihood, which rows they are, and whether their gradients are but noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sggp.hyperparameters.coordinates import Coordinates
from sggp.hyperparameters.merged import MergedData
from sggp.hyperparameters.nearest_neighbour.neighbourhoods import Neighbourhoods

__all__ = ["MinibatchLikelihood", "RowQueue", "search_intervals", "z_square"]


class MinibatchLikelihood:
    """Rows in a random order, and the likelihood of minibatches of them.

    Args:
        coordinates: what is learnt. neighbourhoods: of the rows, distinct inputs if `merged`.
        y: (n, t) their targets. noise: known, () or (n,), or None. mean: known (t,), or None where it is learnt.
        merged: the rows before repeats were merged; None where none were.
    """

    def __init__(
        self,
        coordinates: Coordinates,
        neighbourhoods: Neighbourhoods,
        y: Tensor,
        noise: Tensor | None,
        mean: Tensor | None,
        merged: MergedData | None = None,
    ) -> None:
        self.coordinates, self.neighbourhoods = coordinates, neighbourhoods
        self.y, self.noise, self.mean, self.merged = y, noise, mean, merged

    def shared_noise(self) -> Tensor:  # (), or (n,) where it was given per point
        return self.coordinates.noise() if self.noise is None else self.noise

    def terms(self, selection: Tensor) -> Tensor:  # (b,) of the rows that are open -> (b,)
        """Log conditionals of some of the rows that are open, differentiable in the raw parameters."""
        index, _ = self.neighbourhoods.members(selection)
        mean = self.mean if self.coordinates.raw_mean is None else self.coordinates.raw_mean
        residuals = self.y[index] if mean is None else self.y[index] - mean
        noise = self.shared_noise()
        if self.merged is not None:
            noise = noise / self.merged.counts
        noise = noise[index] if noise.dim() else noise
        return self.neighbourhoods.log_conditionals(selection, residuals, noise)

    @property
    def targets(self) -> int:
        """Observed numbers, before merging."""
        return self.y.numel() if self.merged is None else self.merged.y.numel()

    def step(self, u: Tensor, selection: Tensor) -> tuple[float, Tensor]:
        """Unbiased value (per row and target, priors included) and its gradient in the coordinates."""
        self.coordinates.assign(u)
        with torch.enable_grad():
            # n/|batch| Σ_batch log N(y_i | y_N(i)) estimates Vecchia's sum over all rows without bias
            value = self.terms(selection).mean() * len(self.y)
            if self.merged is not None:
                value = value + self.merged.within(self.shared_noise())
            value = value / self.targets
            value.backward()
        prior, slope = self.coordinates.log_prior(u)
        return float(value.detach()) + prior / self.targets, self.coordinates.gradient(
            u
        ) + slope / self.targets


def search_intervals(max_steps: int) -> list[int]:
    """Steps between two neighbour searches: short while length scales still move, longer later."""
    sizes = [5, 5, 10, 10, 20]
    while sum(sizes) < max_steps:
        sizes.append(25)
    while sum(sizes) - sizes[-1] >= max_steps:
        sizes.pop()
    sizes[-1] -= sum(sizes) - max_steps
    return sizes


class RowQueue:
    """Positions without replacement, epoch after epoch."""

    def __init__(self, pool: Tensor, generator: torch.Generator) -> None:
        self.pool, self.generator = pool, generator
        self.queue = torch.empty(0, dtype=torch.long)

    def draw(self, count: int) -> Tensor:  # (count,)
        while len(self.queue) < count:
            order = torch.randperm(len(self.pool), generator=self.generator)
            self.queue = torch.cat([self.queue, self.pool[order]])
        out, self.queue = self.queue[:count], self.queue[count:]
        return out


def z_square(gradients: list[Tensor]) -> float:
    """Mean over coordinates of the squared z-score of the mean of some gradients; about one when stationary."""
    stack = torch.stack(gradients)
    if len(stack) < 2:
        return math.inf
    spread = stack.std(dim=0) / math.sqrt(len(stack))
    moving = spread > 0
    if not bool(moving.any()):
        return 0.0
    return float((stack.mean(dim=0)[moving] / spread[moving]).square().mean())
