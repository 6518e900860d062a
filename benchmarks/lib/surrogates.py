"""The models that a Bayesian optimisation is compared over, and what they have learnt."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.means import ConstantMean
from gpytorch.mlls import ExactMarginalLogLikelihood
from torch import Tensor

from sggp.botorch import PathwiseGPModel

__all__ = [
    "BOTORCH",
    "MANY",
    "MIXES",
    "OURS",
    "SURROGATES",
    "dense_like",
    "fit_botorch",
    "fit_ours",
    "learnt",
]

OURS, BOTORCH, MANY = "ours", "SingleTaskGP", "ours, 512 paths"


def fit_ours(x: Tensor, y: Tensor, seed: int) -> PathwiseGPModel:
    return PathwiseGPModel(x, y[:, None], generator=seed)


def fit_many(x: Tensor, y: Tensor, seed: int) -> PathwiseGPModel:
    """As many paths as BoTorch's acquisition functions average over."""
    return PathwiseGPModel(x, y[:, None], num_samples=512, generator=seed)


def fit_botorch(x: Tensor, y: Tensor, seed: int) -> SingleTaskGP:
    model = SingleTaskGP(x, y[:, None])
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    return model


def paths_like(x: Tensor, y: Tensor, seed: int) -> PathwiseGPModel:
    """Our posterior with the hyperparameters that BoTorch learns; both standardise y alike."""
    fitted = fit_botorch(x, y, seed)
    return PathwiseGPModel(
        x,
        y[:, None],
        covar_module=fitted.covar_module,
        noise_variance=float(fitted.likelihood.noise.detach()),
        mean=float(fitted.mean_module.constant.detach()),
        optimizer=None,
        generator=seed,
    )


def dense_like(model: PathwiseGPModel, x: Tensor, y: Tensor) -> SingleTaskGP:
    """BoTorch's dense posterior with the hyperparameters of `model`."""
    (output,) = model.output_models
    mean = ConstantMean()
    mean.constant = float(output.mean_module.constant.detach())
    dense = SingleTaskGP(
        x,
        y[:, None],
        covar_module=copy.deepcopy(output.covar_module),
        likelihood=copy.deepcopy(output.likelihood),
        mean_module=mean,
    )
    return dense.eval()


def fit_dense(x: Tensor, y: Tensor, seed: int) -> SingleTaskGP:
    return dense_like(fit_ours(x, y, seed), x, y)


MIXES: dict[str, Callable[[Tensor, Tensor, int], Any]] = {
    "our paths, its hyperparameters": paths_like,
    "dense, our hyperparameters": fit_dense,
}
SURROGATES: dict[str, Callable[[Tensor, Tensor, int], Any]] = {
    OURS: fit_ours,
    MANY: fit_many,
    BOTORCH: fit_botorch,
    **MIXES,
}


def learnt(model: Any) -> dict[str, Any]:
    """Kernel, length scales, variances and mean in the units after standardisation."""
    holder = model.output_models[0] if isinstance(model, PathwiseGPModel) else model
    kernel = holder.covar_module
    scale = kernel.outputscale.item() if isinstance(kernel, ScaleKernel) else 1.0
    base = kernel.base_kernel if isinstance(kernel, ScaleKernel) else kernel
    lengths = base.lengthscale
    return {
        "kernel": f"Matern-{base.nu:g}" if isinstance(base, MaternKernel) else type(base).__name__,
        "lengthscale": None if lengths is None else lengths.detach().flatten().tolist(),
        "outputscale": scale,
        "noise_variance": torch.as_tensor(holder.likelihood.noise).detach().mean().item(),
        "mean": holder.mean_module.constant.item(),
    }
