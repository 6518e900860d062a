"""sggp's random features for BoTorch's own models."""

from __future__ import annotations

import copy
from typing import Any

import torch
from botorch.sampling.pathwise.features.generators import GenKernelFeatures
from botorch.sampling.pathwise.features.maps import FeatureMap as BotorchFeatureMap
from botorch.sampling.pathwise.utils import FeatureSelector
from gpytorch.kernels import (
    AdditiveKernel,
    ConstantKernel,
    Kernel,
    LinearKernel,
    PeriodicKernel,
    ProductKernel,
    RQKernel,
)
from torch import Tensor

from sggp.kernels import TanimotoDotProduct, TanimotoMinMax
from sggp.kernels.features import FeatureMap, draw_features
from sggp.random import draw_seed

KERNELS: tuple[type[Kernel], ...] = (
    TanimotoMinMax,
    TanimotoDotProduct,
    RQKernel,
    PeriodicKernel,
    LinearKernel,
    ConstantKernel,
    AdditiveKernel,
    ProductKernel,
)


class KernelFeatures(BotorchFeatureMap):
    """An sggp `FeatureMap` in the form BoTorch's paths expect.

    Args:
        kernel: the kernel it was drawn for.
        features: the map, for points restricted to the kernel's `active_dims`.
        columns: the `active_dims`, or None for all columns.
    """

    def __init__(self, kernel: Kernel, features: FeatureMap, columns: Tensor | None) -> None:
        super().__init__()
        self.kernel = kernel
        self.features = features
        self.input_transform = None if columns is None else FeatureSelector(columns)
        # BoTorch's ScaleKernel rule chains it and cannot take None
        self.output_transform = torch.nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Features (*b, n, p) of points (*b, n, d)."""
        return self.features.phi(x)

    @property
    def num_outputs(self) -> int:
        return self.features.num_features

    @property
    def batch_shape(self) -> torch.Size:
        """Empty: kernels with a batch shape are refused."""
        return self.kernel.batch_shape


def register() -> tuple[type[Kernel], ...]:
    """Put sggp's random features into BoTorch's `GenKernelFeatures` for kernels that BoTorch has none for.

    Afterwards `get_matheron_path_model(SingleTaskGP(..., covar_module=ScaleKernel(TanimotoMinMax())))`,
    `PathwiseThompsonSampling` and the like work for the Tanimoto, rational quadratic, periodic, linear and constant
    kernels and for sums and products. A kernel type for which a rule exists (BoTorch's own, or one somebody else
    registered) keeps it. Calling it again changes nothing. The random numbers come from torch's global
    generator, as they do in BoTorch.

    Returns:
        The kernel types for which sggp's features are now used.
    """
    for kind in KERNELS:
        if (kind,) not in GenKernelFeatures.funcs:
            GenKernelFeatures.register(kind)(_draw)
    return tuple(kind for kind in KERNELS if GenKernelFeatures.funcs[(kind,)] is _draw)


def _draw(kernel: Kernel, *, num_inputs: int, num_outputs: int, **kwargs: Any) -> KernelFeatures:
    columns = kernel.active_dims
    if columns is not None:
        kernel = copy.deepcopy(kernel)
        kernel.active_dims = None
        num_inputs = len(columns)
    seed = draw_seed(torch.default_generator)
    features = draw_features(kernel, num_outputs, input_dim=num_inputs, generator=seed)
    return KernelFeatures(kernel, features.to(kernel.device), columns)
