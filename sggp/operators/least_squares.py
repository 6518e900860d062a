"""A kernel system as regularised least squares: what stochastic gradient descent asks of an operator."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, Self

import gpytorch
import torch
from torch import Tensor

from sggp.errors import DtypeError, InputError, NoRandomFeatures
from sggp.kernels import FeatureMap, draw_features
from sggp.kernels.covariance import Covariance, Points

__all__ = ["KernelLeastSquares", "PenaltyEstimate"]


def detached_copy(kernel: Any) -> Any:
    """The kernel as it is now, so that later changes to its parameters are not seen; covariances are frozen already."""
    return copy.deepcopy(kernel) if isinstance(kernel, gpytorch.kernels.Kernel) else kernel


class PenaltyEstimate:
    """Unbiased estimates of P u for a penalty P = K(z, z) over the rows of the unknown.

    A subclass sets `_kernel` (the kernel itself), `_penalty_rows` (z as given), `_penalty_points` (z prepared) and
    `_noise` (Σ in the working precision).
    """

    covariance: Covariance
    entries_evaluated: int
    _dtype: torch.dtype
    _kernel: Any
    _penalty_rows: Tensor
    _penalty_points: Points
    _noise: Tensor

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
            phi = self._features(num_features, generator).phi(self._penalty_rows).to(self._dtype)
            return phi @ (phi.T @ u)
        m = len(self._penalty_points)
        columns = torch.randperm(m, generator=generator)[:num_features].to(u.device)
        self.entries_evaluated += m * len(columns)
        product = self.covariance.matmul(self._penalty_points, self._penalty_points[columns], u[columns])
        return product.to(self._dtype).mul_(m / len(columns))

    def _features(self, num_features: int, generator: torch.Generator) -> FeatureMap:
        rows = self._penalty_rows
        features = draw_features(self._kernel, num_features, input_dim=rows.shape[1], generator=generator)
        features = features.to(rows.device)
        if not rows.is_floating_point():
            return features.to(dtype=self._dtype)
        return features.centred(self._penalty_centre)

    @cached_property
    def _penalty_centre(self) -> Tensor:
        return self._penalty_rows.double().mean(0)


class KernelLeastSquares(PenaltyEstimate, ABC):
    """(K + Σ) d = r as the least squares problem whose design and penalty are both K.

    The gradient of ½(r − Kd)ᵀΣ⁻¹(r − Kd) + ½dᵀKd is KΣ⁻¹(Kd − (r − Σδ)) + K(d − δ) for every δ. δ = 0 is the plain
    objective of Lin et al. 2023; for r = t + ε, δ = Σ⁻¹ε is their low-variance target; and with δ the solution all
    noise vanishes at the solution, since each row of the first term and the second vanish there.
    """

    x: Tensor
    _points: Points
    _noise64: Tensor

    def with_noise(self, noise: Tensor) -> Self:  # (n,)
        """The same K, shared, with another Σ; float64."""
        other = copy.copy(self)
        other._noise64, other._noise = noise, noise.to(self._dtype)
        return other

    def anchored_target(self, anchor: Tensor, gap: Tensor) -> Tensor:  # (n, s), (n, s) -> (n, s)
        """r − Σδ."""
        return torch.addcmul(gap, self._noise[:, None], anchor, value=-1.0)

    def data_gradient(
        self, rows: Tensor, u: Tensor, anchor: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor | None]:
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
        noise = self._noise[rows, None]
        block = self._design_block(rows)
        if block is not None:
            misfit = block @ u - target[rows]
        else:
            misfit = self._design_product(self._points[rows], self._points, u) - target[rows]
        weighted = misfit * (len(self.x) / len(rows)) / noise
        if block is not None:
            gradient = block.T @ weighted
        else:
            gradient = self._design_product(self._points, self._points[rows], weighted)
        return gradient, misfit.addcmul_(noise, u[rows] - anchor[rows])

    def design_norms(self, rows: Tensor) -> Tensor:  # (b,) -> (b,)
        """Squared norms of rows of K in float64, by tiles; b·n entries."""
        parts = []
        for tile in rows.split(max(1, self._tile_bytes() // (64 * len(self.x)))):
            self.entries_evaluated += len(tile) * len(self.x)
            block = self.covariance.block(self._points[tile], self._points)
            parts.append(block.square().sum(1, dtype=torch.float64))
        return torch.cat(parts)

    def _design_block(self, rows: Tensor) -> Tensor | None:
        """Rows of K as one block, where they are in memory or fit a tile."""
        n = len(self.x)
        if self.keeps_matrix:
            self.entries_evaluated += len(rows) * n
            return self._stored()[rows]
        if 4 * self._bytes(len(rows), n) > self._tile_bytes():
            return None
        self.entries_evaluated += len(rows) * n
        return self.covariance.block(self._points[rows], self._points).to(self._dtype)

    def _design_product(self, left: Points, right: Points, v: Tensor) -> Tensor:
        self.entries_evaluated += len(left) * len(right)
        return self.covariance.matmul(left, right, v, memory_budget=self._tile_bytes()).to(self._dtype)

    # what `KernelOperator` writes ---------------------------------------------------------------------------------

    @property
    @abstractmethod
    def keeps_matrix(self) -> bool:
        """Whether K is held in memory."""

    @abstractmethod
    def _stored(self) -> Tensor:
        """K, once it is held."""

    @abstractmethod
    def _bytes(self, rows: int, cols: int) -> int:
        """Size of a block in the working precision."""

    @abstractmethod
    def _tile_bytes(self) -> int:
        """What a product may take for its tiles."""
