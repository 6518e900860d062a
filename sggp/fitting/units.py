"""A kernel learnt for scaled inputs and targets, rewritten for the inputs and targets themselves."""

from __future__ import annotations

import numpy as np
import torch
from gpytorch.kernels import Kernel
from gpytorch.priors import LogNormalPrior
from torch import Tensor

from sggp.errors import UnsupportedKernel
from sggp.hyperparameters.coordinates import copy_kernel


def kernel_in_units(kernel: Kernel, x_scale: np.ndarray | None, y_scale: float) -> Kernel:
    """The kernel k' with k'(x, z) = y_scale²·k(x/x_scale, z/x_scale), with log-normal priors moved along.

    Args:
        kernel: ScaleKernel(base) with length scales, one per column, or without any; never changed.
        x_scale: (d,) positive, units of the inputs; None leaves them.
        y_scale: positive, units of the targets.

    Raises:
        UnsupportedKernel: another kernel, where anything is to be rescaled.
    """
    kernel = copy_kernel(kernel)
    if x_scale is None and y_scale == 1.0:
        return kernel
    base = getattr(kernel, "base_kernel", None)
    if not hasattr(kernel, "outputscale") or base is None:
        raise UnsupportedKernel(
            f"{type(kernel).__name__} cannot be rescaled to other units: wrap it in gpytorch.kernels.ScaleKernel."
        )
    _rescale(kernel, "outputscale", torch.tensor(y_scale**2, dtype=torch.float64))
    if x_scale is not None and base.has_lengthscale:
        _rescale(base, "lengthscale", torch.as_tensor(x_scale, dtype=torch.float64).reshape(1, -1))
    return kernel


def _rescale(kernel: Kernel, name: str, factor: Tensor) -> None:
    """Multiply a positive parameter, and the median of its log-normal prior if it has one."""
    prior = getattr(kernel, f"{name}_prior", None)
    if isinstance(prior, LogNormalPrior):
        location = prior.loc.to(torch.float64) + factor.log()
        spread = prior.scale.to(torch.float64).expand_as(location).clone()
        kernel.register_prior(f"{name}_prior", LogNormalPrior(location, spread), name)
    setattr(kernel, name, getattr(kernel, name).detach() * factor)
