"""Pathwise posterior samples: functions that can be called anywhere and differentiated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor

from sggp.arrays import all_finite, real_numbers, real_tensor
from sggp.autograd import full_precision
from sggp.errors import InputError, ShapeError
from sggp.kernels.covariance import Covariance
from sggp.kernels.features import FeatureMap
from sggp.operators.fixed import FixedProduct


def check_points(points: Any, dimension: int, least: int) -> Tensor:
    """The points as a tensor of at least `least` dimensions whose last is the input dimension.

    Raises:
        DtypeError, ShapeError, InputError: they are no finite numbers of that shape.
    """
    wanted = f"{'(..., q, d)' if least == 2 else '(s, ..., q, d)'} with d = {dimension}"
    points = real_tensor(points, "points", f"numbers of shape {wanted}")
    if points.ndim < least or points.shape[-1] != dimension:
        raise ShapeError(f"points must be {wanted}, got shape {tuple(points.shape)}.")
    if points.is_floating_point() and not all_finite(points):
        raise InputError("points hold NaN or infinity; remove or impute such rows.")
    return points


def promoted(rows: Tensor, precision: torch.dtype) -> Tensor:
    """Float rows in at least this precision; integers as they are."""
    return rows.to(torch.promote_types(rows.dtype, precision)) if rows.is_floating_point() else rows


_AT_ONCE = 4 * 2**20
"""Features and kernel entries of paired points that are held at once."""


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
        precision: least one of products with the weights; values have the dtype of the points.
        error: root mean square of what values may be wrong by where far fields multiply (`sggp.operators.far`).

    Source: Wilson et al. 2020 (pathwise conditioning); Lin et al. 2023, equation 4.
    """

    covariance: Covariance
    x: Any
    features: FeatureMap
    weights: Tensor
    update: Tensor
    mean: float = 0.0
    precision: torch.dtype = torch.float32
    error: float = 0.0

    @property
    def num_samples(self) -> int:
        """s."""
        return self.weights.shape[1]

    @property
    def dimension(self) -> int:
        """d."""
        return self.x.shape[1]

    @full_precision()
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
        flat = promoted(points.reshape(-1, self.dimension), self.precision)
        values = self.prior(flat) + self.product(flat)
        return (values + self.mean).to(self._dtype(points)).T.reshape(self.num_samples, *points.shape[:-1])

    @full_precision()
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
        own = promoted(points.reshape(self.num_samples, -1, self.dimension), self.precision)
        if len(parts := list(self._parts(own))) == 1:
            values = self._part(own, parts[0][0])
        elif torch.is_grad_enabled() and own.requires_grad:
            values = _Paired.apply(self, own)
        else:
            values = self._paired(own)
        return (values + self.mean).to(self._dtype(points)).reshape(points.shape[:-1])

    def _paired(self, own: Tensor) -> Tensor:  # (s, q, d) -> (s, q), without the mean
        found = own.new_empty(own.shape[:2], dtype=self._dtype(own))
        for i, j in self._parts(own):
            found[i, j] = self._part(own[i, j], i)
        return found

    def _parts(self, own: Tensor) -> Iterator[tuple[slice, slice]]:
        """Samples and their points whose features and kernel entries are held at once: few points are all overhead."""
        s, q = own.shape[:2]
        most = max(1, _AT_ONCE // (len(self.weights) + len(self.x)))
        points = max(1, min(q, most))
        samples = max(1, most // points)
        for i, j in product(range(0, s, samples), range(0, q, points)):
            yield slice(i, i + samples), slice(j, j + points)

    def _part(self, own: Tensor, samples: slice) -> Tensor:  # (c, q, d) -> (c, q)
        flat, shape = own.reshape(-1, self.dimension), own.shape[:2]
        rows = self.features.phi(flat), self.covariance.block(flat, self.x)
        prior, update = (
            torch.bmm(part.reshape(*shape, -1), weights[samples, :, None].to(part.dtype))[..., 0]
            for part, weights in zip(rows, self._by_sample, strict=True)
        )
        return prior + update

    @cached_property
    def _by_sample(self) -> tuple[Tensor, Tensor]:  # (s, p), (s, n)
        """The weights and the update with those of one sample side by side: gathered anew they would cost most."""
        return self.weights.T.contiguous(), self.update.T.contiguous()

    @cached_property
    def product(self) -> FixedProduct:
        """K(·, X)(α_mean − α_i)."""
        return FixedProduct(self.covariance, self.x, self.update, self.error)

    def prior(self, points: Tensor) -> Tensor:  # (q, d) -> (q, s)
        """The prior draws f⁰ = φ(·)ᵀw, without the mean."""
        return self.features.apply(points, self.weights.to(self._dtype(points)))

    def select(self, indices: Sequence[int] | Tensor) -> PathwiseSamples:
        """The samples at `indices`, as an object of the same kind."""
        expected = f"positions among {self.num_samples} samples"
        given = real_numbers(indices, "indices", expected)
        chosen = given.long().to(self.weights.device).reshape(-1)
        if bool((chosen != given.to(chosen.device).reshape(-1)).any()):
            raise InputError(f"indices must be {expected}, integers; got {given.tolist()}.")
        if len(chosen) and (int(chosen.max()) >= self.num_samples or int(chosen.min()) < -self.num_samples):
            raise InputError(f"indices must lie within {self.num_samples} samples, got {chosen.tolist()}.")
        found = replace(self, weights=self.weights[:, chosen], update=self.update[:, chosen])
        found.__dict__["product"] = self.product.columns(chosen)
        return found

    def joined(self, other: PathwiseSamples) -> PathwiseSamples:
        """These samples followed by others of the same posterior and features: one map and one K(·, X) serve all.

        Raises:
            InputError: the others are of another posterior, or have features of their own.
        """
        if other.features is not self.features or other.x is not self.x:
            raise InputError(
                "samples can be joined only with those that more_samples of the same posterior drew, given that it has "
                "samples of its own: their features and data must be the same objects."
            )
        weights = torch.cat([self.weights, other.weights], 1)
        return replace(self, weights=weights, update=torch.cat([self.update, other.update], 1))

    def __repr__(self) -> str:
        return f"PathwiseSamples(s={self.num_samples}, n={len(self.x)}, d={self.dimension})"

    def _dtype(self, points: Tensor) -> torch.dtype:
        return points.dtype if points.is_floating_point() else self.weights.dtype


class _Paired(torch.autograd.Function):
    """Each sample at its own points, part by part, with the gradients found beside the values: no part is kept.

    A value depends on its own point only, so that these are the gradients whatever comes from above. One that is to be
    differentiated itself is that of the parts on the graph.
    """

    @staticmethod
    def forward(ctx: Any, samples: PathwiseSamples, own: Tensor) -> Tensor:
        values, slopes = own.new_empty(own.shape[:2]), torch.zeros_like(own)
        for i, j in samples._parts(own):
            with torch.enable_grad():
                part = own[i, j].detach().requires_grad_()
                found = samples._part(part, i)
                total = found.sum()
            values[i, j] = found.detach()
            if total.requires_grad:
                slopes[i, j] = torch.autograd.grad(total, part)[0]
            else:
                ctx.mark_non_differentiable(values)
        ctx.samples = samples
        ctx.save_for_backward(own, slopes)
        return values

    @staticmethod
    @full_precision()
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        own, slopes = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return None, grad[..., None] * slopes
        again = own.view_as(own)
        parts = [(ctx.samples._part(again[i, j], i) * grad[i, j]).sum() for i, j in ctx.samples._parts(own)]
        return None, *torch.autograd.grad(sum(parts), again, create_graph=True)
