"""Which rows the steps of a stochastic fit see, in which windows, and whether their gradients still point anywhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["RowQueue", "window_sizes", "z_square"]


def window_sizes(max_steps: int) -> list[int]:
    """Steps between two neighbour searches: short while length scales still move, longer later."""
    sizes: list[int] = []
    for size in (5, 5, 10, 10, 20):
        sizes.append(size)
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
    """Mean over coordinates of the squared z-score of the window's mean gradient; about one when stationary."""
    stack = torch.stack(gradients)
    if len(stack) < 2:
        return math.inf
    spread = stack.std(dim=0) / math.sqrt(len(stack))
    moving = spread > 0
    if not bool(moving.any()):
        return 0.0
    return float((stack.mean(dim=0)[moving] / spread[moving]).square().mean())
