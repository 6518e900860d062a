"""Adam on one vector of coordinates."""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST = 1e-8  # added to the root of the second moment


class Adam:
    """Steps against a gradient, of a size that follows from its first two moments; the same numbers as torch's.

    u ← u − rate · (m/(1 − β₁ᵗ)) / (√(v/(1 − β₂ᵗ)) + 1e-8), m and v running means of the gradient and of its square.
    torch's own loads torch's compiler when it is first made, a second of every process that learns.

    Args:
        betas: (β₁, β₂), the shares of the moments that stay at a step.

    Cost: O(p) a step, for p coordinates.

    Source: Kingma and Ba, Adam: a method for stochastic optimization (2015), algorithm 1.
    """

    def __init__(self, betas: tuple[float, float]) -> None:
        self.betas = betas
        self.steps = 0
        self.moments: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def step(self, u: Tensor, gradient: Tensor, rate: float) -> None:
        """Move u (p,) in place, downhill."""
        if self.moments is None:
            self.moments = torch.zeros_like(u), torch.zeros_like(u)
        first, second = self.moments
        one, two = self.betas
        self.steps += 1
        first.lerp_(gradient, 1 - one)
        second.mul_(two).addcmul_(gradient, gradient, value=1 - two)
        root = (second.sqrt() / (1 - two**self.steps) ** 0.5).add_(_LEAST)
        u.addcdiv_(first, root, value=-rate / (1 - one**self.steps))
