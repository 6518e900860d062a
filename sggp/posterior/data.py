"""The data a posterior is conditioned on: checked, with repeats merged, and the prior draws that go with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sggp.errors import DtypeError, InputError, ShapeError
from sggp.kernels import as_covariance
from sggp.kernels.features import FeatureMap, draw_features
from sggp.operators import select_centres
from sggp.posterior.merge import Groups, group_rows
from sggp.random import draw_seed, streams

__all__ = ["Data", "Prior", "check_data", "choose_centres", "draw_prior"]


@dataclass(frozen=True)
class Data:
    """Observations as given: x (n, d), y (n,) float64, noise_variance (n,) float64 and the noise drawn for each sample,
    noise (n, s) float64."""

    x: Tensor
    y: Tensor
    noise_variance: Tensor
    noise: Tensor

    def groups(self) -> Groups:
        return group_rows(self.x)

    def joined(self, other: Data) -> Data:
        """These observations followed by others."""
        parts = zip(
            (self.x, self.y, self.noise_variance, self.noise),
            (other.x, other.y, other.noise_variance, other.noise),
            strict=True,
        )
        return Data(*(torch.cat([a, b]) for a, b in parts))


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


def check_data(
    x: Any, y: Any, noise_variance: Any, dimension: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """x (n, d), y (n,) float64, noise_variance (n,) float64.

    Raises:
        ShapeError, DtypeError, InputError: naming what was given and what is expected.
    """
    for name, value in (("x", x), ("y", y)):
        if not isinstance(value, Tensor):
            raise DtypeError(
                f"{name} must be a torch.Tensor, got {type(value).__name__}; use torch.as_tensor."
            )
    if x.ndim != 2 or len(x) == 0:
        raise ShapeError(f"x must be (n, d) with n ≥ 1, got shape {tuple(x.shape)}.")
    if dimension is not None and x.shape[1] != dimension:
        raise ShapeError(f"x must have {dimension} columns as before, got {x.shape[1]}.")
    if y.shape != (len(x),):
        raise ShapeError(f"y must be ({len(x)},) to go with x of {len(x)} rows, got shape {tuple(y.shape)}.")
    if y.is_complex() or not bool(torch.isfinite(y.double()).all()):
        raise InputError("y holds NaN, infinity or complex numbers; remove such rows, or impute them.")
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        raise InputError("x holds NaN or infinity; remove such rows, or impute them.")
    noise = torch.as_tensor(noise_variance, dtype=torch.float64, device=x.device).detach()
    if noise.numel() == 1:
        noise = noise.reshape(1).expand(len(x))
    if noise.shape != (len(x),):
        raise ShapeError(f"noise_variance must be a number or ({len(x)},), got shape {tuple(noise.shape)}.")
    if not bool(torch.isfinite(noise).all()) or bool((noise < 0).any()):
        raise InputError(
            "noise_variance must be finite and not negative (a variance, in squared units of y)."
        )
    return x.detach(), y.detach().double(), noise.contiguous()


def choose_centres(kernel: Any, data: Data, centres: Any, generator: torch.Generator) -> Tensor:  # -> (m, d)
    """Inducing points as given, without repeats, or so many of them chosen from the distinct inputs.

    Raises:
        ShapeError, DtypeError, InputError: naming what was given and what is expected.
    """
    x = data.x
    if isinstance(centres, Tensor) and centres.ndim:
        if centres.ndim != 2 or len(centres) == 0 or centres.shape[1] != x.shape[1]:
            raise ShapeError(f"centres must be (m, {x.shape[1]}), got shape {tuple(centres.shape)}.")
        if centres.is_floating_point() and not bool(torch.isfinite(centres).all()):
            raise InputError("centres hold NaN or infinity.")
        if centres.is_floating_point() and not x.is_floating_point():
            raise DtypeError(f"centres must be integer like x ({x.dtype}), got {centres.dtype}.")
        rows = centres.detach().to(dtype=x.dtype, device=x.device)
        return rows[group_rows(rows).first]
    if isinstance(centres, bool) or not hasattr(centres, "__index__") or int(centres) < 1:
        raise InputError(f"centres must be (m, d) rows or a positive number of them, got {centres!r}.")
    distinct, number = x[data.groups().first], int(centres)
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
    weights = torch.randn(features.num_features, num_samples, generator=normal, dtype=torch.float64)
    return Prior(features, weights, seed, num_features, centre)


def seeded_features(
    kernel: Any, num_features: int, dimension: int, seed: int, centre: Tensor | None
) -> FeatureMap:
    """The map that a seed and a centre determine."""
    generator = torch.Generator().manual_seed(seed)
    features = draw_features(kernel, num_features, input_dim=dimension, generator=generator)
    return features if centre is None else features.centred(centre)
