"""A kernel system as regularised least squares: what stochastic gradient descent asks of an operator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import gpytorch
import torch
from torch import Tensor

from sggp.errors import DtypeError, InputError, NoRandomFeatures
from sggp.kernels import FeatureMap, draw_features
from sggp.kernels.covariance import Covariance
from sggp.kernels.generic import copied
from sggp.kernels.points import Points
from sggp.operators.matrix import KernelMatrix
from sggp.operators.rows import tile_bytes
from sggp.parallel import Part, Workers, entered

__all__ = ["KernelLeastSquares", "PenaltyEstimate"]


def detached_copy(kernel: Any) -> Any:
    """The kernel as it is now, so that later changes to its parameters are not seen; covariances are frozen already."""
    return copied(kernel) if isinstance(kernel, gpytorch.kernels.Kernel) else kernel


class PenaltyEstimate(ABC):
    """Unbiased estimates of P u for a penalty P = K(z, z) over the rows of the unknown.

    A subclass sets `_kernel` (the kernel itself), `_penalty_rows` (z as given), `_penalty_points` (z prepared) and
    `_noise` (Σ in the working precision).
    """

    covariance: Covariance
    dtype: torch.dtype
    workers: Workers
    _kernel: Any
    _penalty_rows: Tensor
    _penalty_points: Points
    _noise: Tensor

    @abstractmethod
    def _count(self, entries: int) -> None:
        """Told of kernel entries that were evaluated."""

    def require_noise(self) -> None:
        """Raise unless every noise variance is positive in the working precision."""
        if not self._noisy:
            raise InputError(
                "least squares divide by the noise variance, and at least one is zero in the working precision: give "
                "every observation a positive one, or use ConjugateGradients or Cholesky without inducing points."
            )

    @cached_property
    def _noisy(self) -> bool:
        return bool((self._noise > 0).all())

    @cached_property
    def draws_features(self) -> bool:
        """Whether the kernel has random features."""
        try:
            self._features(2, torch.Generator().manual_seed(0))
        except (NoRandomFeatures, DtypeError):  # no rule for the kernel, or a covariance instead of a kernel
            return False
        return True

    def penalty_estimate(self, u: Tensor, num_features: int, generator: torch.Generator) -> Tensor:
        """ΦΦᵀu with fresh features Φ (m, p), or (m/p) P[:, J] u_J for a kernel that has none.

        Args:
            u: (m, s). num_features: p. generator: draws Φ, or the columns J.

        Returns:
            (m, s) in the working precision; its expectation is P u.

        Cost:
            4·m·p·s flops and m·p numbers; no entries of P with features, m·p without.
        """
        if self.draws_features:
            return self._feature_product(self._features(num_features, generator), u)
        m = len(self._penalty_points)
        columns = torch.randperm(m, generator=generator)[:num_features].to(u.device)
        self._count(m * len(columns))
        with entered(self.workers):
            product = self.covariance.matmul(self._penalty_points, self._penalty_points[columns], u[columns])
        return product.to(self.dtype).mul_(m / len(columns))

    def _feature_product(self, features: FeatureMap, u: Tensor) -> Tensor:
        """ΦΦᵀu; every worker evaluates its rows of Φ, once."""
        rows, parts = self._penalty_rows, dict[int, Tensor]()

        def projected(part: Part) -> Tensor:
            phi = part.here(features).phi(part.here(rows[part.rows])).to(self.dtype)
            parts[part.number] = phi
            return phi.T @ part.here(u[part.rows])

        inner = self.workers.total(len(rows), projected, (u,))
        return self.workers.gather(len(rows), lambda part: parts[part.number] @ part.here(inner), (inner,))

    def _features(self, num_features: int, generator: torch.Generator) -> FeatureMap:
        rows = self._penalty_rows
        features = draw_features(self._kernel, num_features, input_dim=rows.shape[1], generator=generator)
        features = features.to(rows.device)
        if not rows.is_floating_point():
            return features.to(dtype=self.dtype)
        return features.centred(self._penalty_centre)

    @cached_property
    def _penalty_centre(self) -> Tensor:
        return self._penalty_rows.double().mean(0)


class KernelLeastSquares(PenaltyEstimate):
    """(K + Σ) d = r as the least squares problem whose design and penalty are both K.

    The gradient of ½(r − Kd)ᵀΣ⁻¹(r − Kd) + ½dᵀKd is KΣ⁻¹(Kd − (r − Σδ)) + K(d − δ) for every δ. δ = 0 is the plain
    objective of Lin et al. 2023; for r = t + ε, δ = Σ⁻¹ε is their low-variance target; and with δ the solution all
    noise vanishes at the solution, since each row of the first term and the second vanish there.
    """

    def __init__(self, kernel: Any, matrix: KernelMatrix, noise: Tensor) -> None:
        self.covariance, self.dtype, self._noise = matrix.covariance, matrix.dtype, noise
        self._kernel, self._matrix, self.workers = detached_copy(kernel), matrix, matrix.workers
        self._penalty_rows, self._penalty_points = matrix.x, matrix.points

    def _count(self, entries: int) -> None:
        self._matrix.count(entries)

    def anchored_target(self, anchor: Tensor, gap: Tensor) -> Tensor:  # (n, s), (n, s) -> (n, s)
        """r − Σδ."""
        return torch.addcmul(gap, self._noise[:, None], anchor, value=-1.0)

    def data_gradient(self, rows: Tensor, u: Tensor, anchor: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(n/b) K_{I,:}ᵀ Σ_I⁻¹ (K_I u − target_I), and the rows I of (K + Σ)u − r.

        Args:
            rows: (b,) I, without repeats.
            u: (n, s). anchor: (n, s) δ. target: (n, s) `anchored_target(anchor, r)`.

        Returns:
            (n, s) and (b, s) in the working precision.

        Raises:
            InputError: a row without noise: the objective divides by its noise variance.

        Cost:
            b·n entries, evaluated once where the block fits a tile and twice where it does not; 4·b·n·s flops.
        """
        self.require_noise()
        noise, matrix, n = self._noise[rows, None], self._matrix, len(self._penalty_rows)
        fits = matrix.keeps_matrix or 4 * matrix.bytes_of(len(rows), n) <= tile_bytes(matrix.memory_budget)
        block = matrix.rows(rows) if fits else None
        product = matrix.rows_matmul(rows, u) if block is None else block.matmul(u)
        misfit = product - target[rows]
        weighted = misfit * (n / len(rows)) / noise
        gradient = (
            matrix.columns_matmul(rows, weighted) if block is None else block.transposed_matmul(weighted)
        )
        return gradient, misfit.addcmul_(noise, u[rows] - anchor[rows])

    def design_norms(self, rows: Tensor) -> Tensor:  # (b,) -> (b,)
        """Squared norms of rows of K in float64, by tiles; b·n entries."""
        tiles = rows.split(max(1, tile_bytes(self._matrix.memory_budget) // (64 * len(self._penalty_rows))))
        return torch.cat(
            [self._matrix.dense_rows(tile).square().sum(1, dtype=torch.float64) for tile in tiles]
        )
