"""Features of kernels in a fidelity: sums of functions that decay, and a polynomial of one."""

from __future__ import annotations

from dataclasses import dataclass

import scipy
import torch
from torch import Tensor

from sggp.kernels.features.base import FeatureMap, ScaledMap


@dataclass(frozen=True, eq=False)
class DecayMap(ScaledMap):
    """φ_m(x) = √(scale/M) e^{−r_m x} of one column x ≥ 0.

    Args:
        rates: (M,) the r_m.
    """

    rates: Tensor
    input_dim: int = 1
    scale: float = 1.0
    dtype: torch.dtype = torch.float32

    group_size = 1

    @property
    def num_features(self) -> int:
        """M."""
        return len(self.rates)

    def _evaluate(self, x: Tensor) -> Tensor:
        x = self._floating(x)
        return torch.exp(-x * self.rates.to(x)) * (self.scale / self.num_features) ** 0.5


@dataclass(frozen=True, eq=False)
class PowerMap(FeatureMap):
    """φ(x) = (√offset, (1 − x)^exponent) of one column x ≤ 1: exact."""

    offset: float
    exponent: float
    input_dim: int = 1
    dtype: torch.dtype = torch.float32

    exact = True
    finite = True

    @property
    def num_features(self) -> int:
        return 2

    def _evaluate(self, x: Tensor) -> Tensor:
        left = 1 - self._floating(x)
        return torch.cat([left * 0.0 + self.offset**0.5, left.clamp_min(0.0) ** self.exponent], dim=-1)


def decay_map(
    offset: float, lengthscale: float, power: float, num_features: int, *, generator: torch.Generator
) -> DecayMap:
    """Features of offset + (1 + (x + z)/ℓ)^{−α} for x, z ≥ 0.

    (1 + s)^{−α} is the mean of e^{−r s} over r ~ Gamma(α, 1), and a constant is that of r = 0: rates are drawn from the
    mixture, one from each of M equally likely strata, in random order.
    """
    draws = torch.rand(num_features, generator=generator, dtype=torch.float64)
    order = torch.randperm(num_features, generator=generator)
    level = (order + draws) / num_features * (1 + offset) - offset
    rates = torch.from_numpy(scipy.stats.gamma(power).ppf(level.clamp_min(0.0).numpy()))
    return DecayMap(rates / lengthscale, scale=1.0 + offset)
