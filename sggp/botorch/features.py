"""sggp's random features for BoTorch's own models."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from botorch.sampling.pathwise.features.generators import GenKernelFeatures
from botorch.sampling.pathwise.features.maps import FeatureMap as BotorchFeatureMap
from botorch.sampling.pathwise.utils import FeatureSelector
from gpytorch.kernels import (
    AdditiveKernel,
    ConstantKernel,
    IndexKernel,
    Kernel,
    LinearKernel,
    PeriodicKernel,
    ProductKernel,
    RQKernel,
    ScaleKernel,
)
from torch import Tensor

from sggp.botorch.columns.categorical_kernel import CategoricalKernel
from sggp.botorch.columns.multitask_paths import register_multitask_paths
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
    IndexKernel,
    CategoricalKernel,
    AdditiveKernel,
    ProductKernel,
)


class KernelFeatures(BotorchFeatureMap):
    """sggp's `FeatureMap`s in the form BoTorch's paths expect.

    Args:
        kernel: the kernel they were drawn for.
        features: one map for each kernel of its batch, in the order of the batch, for points restricted to the
            kernel's `active_dims`.
        columns: the `active_dims`, or None for all columns.
    """

    def __init__(self, kernel: Kernel, features: list[FeatureMap], columns: Tensor | None) -> None:
        super().__init__()
        self.kernel = kernel
        self.features = features
        self.input_transform = None if columns is None else FeatureSelector(columns)
        # BoTorch's ScaleKernel rule chains it and cannot take None
        self.output_transform = torch.nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Features (*b, n, p) of points (*b, n, d); for a batch of kernels, b is broadcast with its shape."""
        shape = self.batch_shape
        if not shape:
            return self.features[0].phi(x)
        batch = torch.broadcast_shapes(x.shape[:-2], shape)
        own = x.expand(*batch, *x.shape[-2:]).flatten(-2 - len(shape), -3)
        each = torch.stack([f.phi(own[..., i, :, :]) for i, f in enumerate(self.features)], dim=-3)
        return each.unflatten(-3, shape)

    @property
    def num_outputs(self) -> int:
        return self.features[0].num_features

    @property
    def batch_shape(self) -> torch.Size:
        """That of the kernel."""
        return self.kernel.batch_shape


def register() -> tuple[type[Kernel], ...]:
    """Put sggp's random features into BoTorch's `GenKernelFeatures` for kernels that BoTorch has none for.

    Afterwards `get_matheron_path_model(SingleTaskGP(..., covar_module=ScaleKernel(TanimotoMinMax())))`,
    `PathwiseThompsonSampling` and the like work for the Tanimoto, rational quadratic, periodic, linear, constant,
    categorical and index kernels and for sums and products, also in batches, as models of several outputs have them; so
    they do for `MixedSingleTaskGP` and, with points that name their task, for `MultiTaskGP`. A kernel type for which a
    rule exists (BoTorch's own, or one somebody else registered) keeps it. Calling it again changes nothing. The random
    numbers come from torch's global generator, as they do in BoTorch.

    Returns:
        The kernel types for which sggp's features are now used.
    """
    for kind in KERNELS:
        if (kind,) not in GenKernelFeatures.funcs:
            GenKernelFeatures.register(kind)(_draw)
    register_multitask_paths()
    return tuple(kind for kind in KERNELS if GenKernelFeatures.funcs[(kind,)] is _draw)


def _draw(kernel: Kernel, *, num_inputs: int, num_outputs: int, **kwargs: Any) -> KernelFeatures:
    columns = kernel.active_dims
    if columns is not None:
        kernel = copy.deepcopy(kernel)
        kernel.active_dims = None
        num_inputs = len(columns)
    features = []
    for index in itertools.product(*(range(size) for size in kernel.batch_shape)):
        seed = draw_seed(torch.default_generator)
        drawn = draw_features(_member(kernel, index), num_outputs, input_dim=num_inputs, generator=seed)
        features.append(drawn.to(kernel.device))
    return KernelFeatures(kernel, features, columns)


def _member(kernel: Kernel, index: tuple[int, ...]) -> Kernel:
    """One kernel of a batch. GPyTorch's own `kernel[index]` takes `active_dims` for a parameter."""
    if not index:
        return kernel
    kernel = copy.deepcopy(kernel)
    for part in kernel.modules():
        if not isinstance(part, Kernel):
            continue
        own = part.raw_outputscale.shape if isinstance(part, ScaleKernel) else part._batch_shape
        here = tuple(min(i, size - 1) for i, size in zip(index[len(index) - len(own) :], own, strict=True))
        for parameter in part.parameters(recurse=False):
            parameter.data = parameter.data[here]
        part.batch_shape = torch.Size()
    return kernel
