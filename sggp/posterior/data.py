"""The data a posterior is conditioned on: checked, with repeats merged, and the prior draws that go with it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sggp.arrays import check_noise, check_rows, check_targets
from sggp.checks import whole_number
from sggp.errors import DtypeError, InputError
from sggp.kernels import as_covariance
from sggp.kernels.features import FeatureMap, draw_features
from sggp.operators import select_centres
from sggp.posterior.merge import Groups, group_rows
from sggp.random import draw_seed, streams


@dataclass(frozen=True)
class Data:
    """Observations, checked, and their repeats merged.

    Attributes:
        x: (n, d), float64 or integer. y: (n,) float64. noise_variance: (n,) float64.
        noise: (n, s) float64, the noise drawn for each sample.
    """

    x: Tensor
    y: Tensor
    noise_variance: Tensor
    noise: Tensor

    @classmethod
    def checked(cls, x: Any, y: Any, noise_variance: Any, *, dimension: int | None = None) -> Data:
        """Observations as a user gives them, for no sample so far; errors as in `sggp.arrays`."""
        x = check_rows(x, dimension=dimension)
        x = x.double() if x.is_floating_point() else x
        y, noise = check_targets(y, len(x)).to(x.device), check_noise(noise_variance, len(x), x.device)
        return cls(x, y, noise, noise.new_zeros(len(x), 0))

    def shared_noise(self, name: str) -> float:
        """The noise variance that all observations have; `InputError` where it differs, about the argument `name`."""
        noise = self.noise_variance
        if float(noise.max()) != float(noise.min()):
            raise InputError(
                "the noise differs between observations, so a new observation's is not known: pass "
                f"{name} as a number or a tensor of variances."
            )
        return float(noise[0])

    def with_noise(self, num_samples: int, generator: torch.Generator) -> Data:
        """The same observations with noise drawn for so many samples."""
        drawn = replace(self, noise=draw_noise(self.noise_variance, num_samples, generator))
        drawn.__dict__["groups"] = self.groups  # of the same rows
        return drawn

    @cached_property
    def groups(self) -> Groups:
        return group_rows(self.x)

    @cached_property
    def rows(self) -> Tensor:  # (g, d)
        """The distinct inputs, in order of appearance; the inputs themselves where none is repeated."""
        first = self.groups.first
        return self.x if len(first) == len(self.x) else self.x[first]

    @cached_property
    def merged_noise(self) -> Tensor:  # (g,)
        """The noise variance of each distinct input."""
        return self.groups.noise(self.noise_variance)

    def merged(self, values: Tensor) -> Tensor:  # (n, s) -> (g, s)
        """The mean of values over the repeats of each input, weighted by precision."""
        return self.groups.mean(values, self.noise_variance)

    def joined(self, other: Data) -> Data:
        """These observations followed by others."""
        names = [field.name for field in fields(self)]
        return Data(*(torch.cat([getattr(self, name), getattr(other, name)]) for name in names))


@dataclass(frozen=True)
class Prior:
    """s prior functions φ(·)ᵀw, determined by a seed so that they can be saved without their numbers.

    Attributes:
        features: φ.
        weights: (p, s) float64.
        seed: the map is `draw_features(kernel, num_features, input_dim=d, generator=seed)`.
        num_features: as asked.
        centre: (d,) what the map subtracts from float inputs, so that phases stay small; None for integer inputs.
    """

    features: FeatureMap
    weights: Tensor
    seed: int
    num_features: int
    centre: Tensor | None = None

    def at(self, points: Tensor) -> Tensor:  # (q, d) -> (q, s)
        """The prior functions at points, without the mean."""
        return self.features.apply(points, self.weights)

    def redrawn(self, num_samples: int, generator: torch.Generator) -> Prior:
        """Other functions of the same features."""
        (normal,) = streams(generator, "weights")
        return replace(self, weights=_weights(self.features, num_samples, normal))


def draw_noise(
    noise_variance: Tensor, num_samples: int, generator: torch.Generator
) -> Tensor:  # (n,) -> (n, s)
    """ε ~ N(0, Σ), one column per sample."""
    unit = torch.randn(len(noise_variance), num_samples, generator=generator, dtype=torch.float64)
    return noise_variance.sqrt()[:, None] * unit.to(noise_variance.device)


def choose_centres(kernel: Any, data: Data, centres: Any, generator: torch.Generator) -> Tensor:  # -> (m, d)
    """Inducing points as given, without repeats, or so many of them chosen from the distinct inputs."""
    x = data.x
    if isinstance(centres, Tensor) and centres.ndim:
        centres = check_rows(centres, "centres", dimension=x.shape[1])
        if centres.is_floating_point() and not x.is_floating_point():
            raise DtypeError(f"centres must be integer like x ({x.dtype}), got {centres.dtype}.")
        rows = centres.to(dtype=x.dtype, device=x.device)
        return rows[group_rows(rows).first]
    distinct, number = data.rows, whole_number(centres, "centres, unless a tensor of (m, d) rows,")
    if len(distinct) <= number:
        return distinct
    if x.is_floating_point() and as_covariance(kernel).embedding(distinct[:1]) is not None:
        return select_centres(kernel, distinct, number, generator=generator)
    return distinct[torch.randperm(len(distinct), generator=generator)[:number].to(x.device)]


def draw_prior(
    kernel: Any, x: Tensor, num_samples: int, num_features: int, generator: torch.Generator
) -> Prior:
    """Draw features and weights of `num_samples` prior functions over inputs like `x`.

    Raises:
        NoRandomFeatures: the kernel has none; condition with num_samples=0 and use the exact variance instead.
    """
    seeding, normal = streams(generator, "features", "weights")
    seed = draw_seed(seeding)
    centre = x.double().mean(0) if x.is_floating_point() else None
    features = seeded_features(kernel, num_features, x.shape[1], seed, centre)
    return Prior(features, _weights(features, num_samples, normal), seed, num_features, centre)


def _weights(features: FeatureMap, num_samples: int, generator: torch.Generator) -> Tensor:  # -> (p, s)
    return torch.randn(features.num_features, num_samples, generator=generator, dtype=torch.float64)


def seeded_features(
    kernel: Any, num_features: int, dimension: int, seed: int, centre: Tensor | None
) -> FeatureMap:
    """The map that a seed and a centre determine."""
    generator = torch.Generator().manual_seed(seed)
    features = draw_features(kernel, num_features, input_dim=dimension, generator=generator)
    return features if centre is None else features.centred(centre)
