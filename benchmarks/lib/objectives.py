"""Test functions on the unit cube, to be maximised: values, noise that is the same for every method, regret."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from botorch.test_functions import Ackley, Branin, Hartmann, Levy, Michalewicz, Rosenbrock
from torch import Tensor
from torch.quasirandom import SobolEngine

from lib.common import seeded

__all__ = ["FUNCTIONS", "INITIAL", "NOISES", "Problem"]

FUNCTIONS: dict[str, Callable[[], Any]] = {
    "branin": Branin,
    "hartmann6": lambda: Hartmann(dim=6),
    "ackley5": lambda: Ackley(dim=5),
    "levy4": lambda: Levy(dim=4),
    "rosenbrock3": lambda: Rosenbrock(dim=3),
    "michalewicz5": lambda: Michalewicz(dim=5),
}
NOISES = ("exact", "noisy")
NOISE_SHARE = 0.05
"""Standard deviation of the noise, as a share of the function's spread."""
SPREAD_POINTS = 4096
INITIAL = 10
"""Points of the initial design."""


@dataclass(frozen=True)
class Problem:
    """One function, with the noise and the initial design of one seed.

    Attributes:
        function: a name in `FUNCTIONS`. noise: "exact" or "noisy". seed: of the design and of the noise.
    """

    function: str
    noise: str
    seed: int

    @cached_property
    def _test(self) -> Any:
        return FUNCTIONS[self.function]().to(torch.float64)

    @property
    def dimension(self) -> int:
        return int(self._test.dim)

    @property
    def bounds(self) -> Tensor:
        """The unit cube as BoTorch writes it, (2, d)."""
        return torch.stack([torch.zeros(self.dimension), torch.ones(self.dimension)]).double()

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the function over Sobol points."""
        points = SobolEngine(self.dimension).draw(SPREAD_POINTS, dtype=torch.float64)
        return float(self.value(points).std())

    def design(self, count: int) -> Tensor:  # -> (count, d)
        """The first points of the scrambled Sobol sequence of this seed."""
        return SobolEngine(self.dimension, scramble=True, seed=self.seed).draw(count, dtype=torch.float64)

    def value(self, points: Tensor) -> Tensor:  # (n, d) -> (n,)
        """Without noise: BoTorch's function, which is to be minimised, with its sign turned."""
        low, high = self._test.bounds
        return -self._test.evaluate_true(low + (high - low) * points.double()).flatten()

    def measure(self, points: Tensor, first: int) -> Tensor:  # (n, d) -> (n,)
        """Measurements number `first`, `first` + 1, ...; the noise of measurement i is the same for every method."""
        if self.noise == "exact":
            return self.value(points)
        noise = torch.randn(first + len(points), generator=seeded(self.seed), dtype=torch.float64)
        return self.value(points) + NOISE_SHARE * self.spread * noise[first:]

    def regret(self, points: Tensor) -> Tensor:  # (n, d) -> (n,)
        """How far below the optimum, without noise."""
        return -self._test.optimal_value - self.value(points)
