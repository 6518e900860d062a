"""BoTorch's kernel of categories: products and features of it, and a form that knows its categories and is faster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from botorch.models.kernels.categorical import CategoricalKernel
from torch import Tensor

from sggp.kernels import Covariance
from sggp.kernels.categories import HammingCovariance
from sggp.kernels.convert import register as register_covariance
from sggp.kernels.features import FeatureMap, draw_features
from sggp.kernels.features.categories import hamming_map, levels_map, levels_size
from sggp.kernels.features.stationary import per_column
from sggp.posterior.kernel_values import name_kernel


class KnownCategoricalKernel(CategoricalKernel):
    """BoTorch's kernel of categories, with the categories of each column, over which its features are exact.

    Args:
        levels: for each column, the categories; none where they are not to be used.
        **options: those of `CategoricalKernel`.

    Cost: one product with the weights of the columns in the place of BoTorch's quotients and mean.
    """

    def __init__(self, levels: Sequence[Sequence[float]] = (), **options: Any) -> None:
        super().__init__(**options)
        self.levels = tuple(tuple(sorted(set(map(float, each)))) for each in levels)

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        """exp(−Σ_j [x1_j ≠ x2_j]/(d ℓ_j)), (…, n, m), or (…, n) with `diag`."""
        if len(self.batch_shape):
            return super().forward(x1, x2, diag=diag, **params)
        weights = (1 / (self.lengthscale * x1.shape[-1])).reshape(-1).expand(x1.shape[-1])
        unequal = x1 != x2 if diag else x1.unsqueeze(-2) != x2.unsqueeze(-3)
        return torch.exp(-(unequal.to(weights) @ weights))


name_kernel(CategoricalKernel)
name_kernel(KnownCategoricalKernel, "levels")


@register_covariance(CategoricalKernel)
@register_covariance(KnownCategoricalKernel)
def _covariance(kernel: CategoricalKernel, dtype: torch.dtype | None) -> Covariance | None:
    lengths = kernel.lengthscale.detach().double().reshape(-1)
    return HammingCovariance(1 / (lengths * len(lengths)), dtype=dtype, name="CategoricalKernel")


@draw_features.register(CategoricalKernel)
@draw_features.register(KnownCategoricalKernel)
def _features(
    kernel: CategoricalKernel, num_features: int, *, input_dim: int, generator: torch.Generator
) -> FeatureMap:
    """exp(−Σ_j [x_j ≠ z_j]/(d ℓ_j)); of a kernel that knows its categories, exactly where so many features do."""
    weights = 1 / (per_column(kernel.lengthscale, input_dim, "lengthscale") * input_dim)
    levels = getattr(kernel, "levels", ())
    if len(levels) == input_dim and levels_size([len(each) for each in levels]) <= num_features:
        return levels_map(weights, levels, generator=generator)
    return hamming_map(weights, num_features, input_dim=input_dim, generator=generator)
