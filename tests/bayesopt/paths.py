"""Sample paths with known optima, and a posterior that carries them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Table:
    """Paths over integer-coded points (q, 1): path i at row r has the value values[i, r]."""

    values: Tensor
    seen: list[int]

    @property
    def num_samples(self) -> int:
        return self.values.shape[0]

    def __call__(self, points: Tensor) -> Tensor:
        self.seen.append(points.shape[0])
        return self.values[:, points[:, 0].long()]

    def select(self, indices: Tensor) -> Table:
        return Table(self.values[indices], self.seen)


@dataclass(frozen=True)
class Bowls:
    """Path i is a downward bowl with its top at tops[i] (s, d), plus a lower, wider one elsewhere."""

    tops: Tensor
    width: float = 0.2

    @property
    def num_samples(self) -> int:
        return self.tops.shape[0]

    def _at(self, points: Tensor) -> Tensor:  # (s, q, d) -> (s, q)
        distance = (points - self.tops.unsqueeze(1)).square().sum(-1)
        decoy = (points - (1.0 - self.tops).unsqueeze(1)).square().sum(-1)
        return torch.exp(-distance / self.width**2) + 0.5 * torch.exp(-decoy / (2 * self.width) ** 2)

    def __call__(self, points: Tensor) -> Tensor:
        return self._at(points.expand(self.num_samples, *points.shape))

    def paired(self, points: Tensor) -> Tensor:
        return self._at(points)

    def select(self, indices: Tensor) -> Bowls:
        return Bowls(self.tops[indices], self.width)


@dataclass(frozen=True)
class Known:
    """A posterior that is nothing but its paths."""

    samples: Table | Bowls | Functions


@dataclass(frozen=True)
class Functions:
    """Path i is functions[i], of points (..., d)."""

    functions: list[Callable[[Tensor], Tensor]]

    @property
    def num_samples(self) -> int:
        return len(self.functions)

    def __call__(self, points: Tensor) -> Tensor:
        return torch.stack([function(points) for function in self.functions])

    def paired(self, points: Tensor) -> Tensor:
        return torch.stack([function(own) for function, own in zip(self.functions, points, strict=True)])

    def select(self, indices: Tensor) -> Functions:
        return Functions([self.functions[i] for i in indices.tolist()])
