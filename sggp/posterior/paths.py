"""Pathwise posterior samples: functions that can be called anywhere and differentiated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sggp.errors import InputError, ShapeError
from sggp.kernels.covariance import Covariance
from sggp.kernels.features import FeatureMap

__all__ = ["PathwiseSamples", "check_points"]

_FEATURE_BYTES = 64 * 2**20


def check_points(points: Any, dimension: int, least: int) -> Tensor:
    """The points as a tensor of at least `least` dimensions whose last is the input dimension.

    Raises:
        ShapeError: they have another shape.
    """
    points = points if isinstance(points, Tensor) else torch.as_tensor(points)
    if points.ndim < least or points.shape[-1] != dimension:
        wanted = "(..., q, d)" if least == 2 else "(s, ..., q, d)"
        raise ShapeError(f"points must be {wanted} with d = {dimension}, got shape {tuple(points.shape)}.")
    return points


@dataclass(frozen=True)
class PathwiseSamples:
    """Functions drawn from the posterior.

    f_i(·) = μ + φ(·)ᵀw_i + K(·, X)(α_mean − α_i) for i = 1 … s:
    a prior draw by random features plus an update by the exact kernel.

    Attributes:
        covariance: k.
        x: (n, d) the inputs that were conditioned on, repeats merged.
        features: φ.
        weights: (p, s) w.
        update: (n, s) α_mean − α_i.
        mean: μ.

    Source: Wilson et al. 2020 (pathwise conditioning); Lin et al. 2023, equation 4.
    """

    covariance: Covariance
    x: Any
    features: FeatureMap
    weights: Tensor
    update: Tensor
    mean: float = 0.0

    @property
    def num_samples(self) -> int:
        """s."""
        return self.weights.shape[1]

    @property
    def dimension(self) -> int:
        """d."""
        return self.x.shape[1]

    def __call__(self, points: Tensor) -> Tensor:  # (..., q, d) -> (s, ..., q)
        """All samples at shared points.

        Args:
            points: (..., q, d); floating points that require grad are differentiated through.

        Returns:
            (s, ..., q).

        Cost:
            q·n entries and 2·q·(n + p)·s flops, in blocks of bounded memory.
        """
        points = check_points(points, self.dimension, 2)
        flat = points.reshape(-1, self.dimension)
        values = self.prior(flat) + self.covariance.matmul(flat, self.x, self.update.to(self._dtype(flat)))
        return (values + self.mean).T.reshape(self.num_samples, *points.shape[:-1])

    def paired(self, points: Tensor) -> Tensor:  # (s, ..., q, d) -> (s, ..., q)
        """Sample i at its own points i.

        Args:
            points: (s, ..., q, d).

        Returns:
            (s, ..., q); equal to evaluating each sample alone.
        """
        points = check_points(points, self.dimension, 3)
        if points.shape[0] != self.num_samples:
            raise ShapeError(
                f"paired needs one set of points per sample, {self.num_samples}; got shape {tuple(points.shape)}."
            )
        own = points.reshape(self.num_samples, -1, self.dimension)
        weights, update = self.weights, self.update.to(self._dtype(own))
        values = [
            self.features.apply(own[i], weights[:, i : i + 1].to(update))
            + self.covariance.matmul(own[i], self.x, update[:, i : i + 1])
            for i in range(self.num_samples)
        ]
        return (torch.stack(values)[..., 0] + self.mean).reshape(points.shape[:-1])

    def prior(self, points: Tensor) -> Tensor:  # (q, d) -> (q, s)
        """The prior draws f⁰ = φ(·)ᵀw, without the mean."""
        return self.features.apply(points, self.weights.to(self._dtype(points)))

    def select(self, indices: Sequence[int] | Tensor) -> PathwiseSamples:
        """The samples at `indices`, as an object of the same kind."""
        chosen = torch.as_tensor(indices, dtype=torch.long, device=self.weights.device).reshape(-1)
        if len(chosen) and (int(chosen.max()) >= self.num_samples or int(chosen.min()) < -self.num_samples):
            raise InputError(f"indices must lie within {self.num_samples} samples, got {chosen.tolist()}.")
        return replace(self, weights=self.weights[:, chosen], update=self.update[:, chosen])

    def __repr__(self) -> str:
        return f"PathwiseSamples(s={self.num_samples}, n={len(self.x)}, d={self.dimension})"

    def _dtype(self, points: Tensor) -> torch.dtype:
        return points.dtype if points.is_floating_point() else self.weights.dtype
