"""A constant mean that was estimated from few rows, as part of the kernel."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from gpytorch.kernels import AdditiveKernel, ConstantKernel, Kernel, ScaleKernel

from sggp.defaults import DIRECT_ROWS
from sggp.kernels import as_covariance
from sggp.kernels.generic import copied
from sggp.solvers import Cholesky

_CONSTANT = 4.0  # prior variance of an unknown constant mean, in units of k(x, x)


def with_unknown_constant(kernel: Kernel, rows: int, solver: Any = None) -> Kernel:
    """The kernel of f plus an unknown constant, where posteriors are direct; else the kernel as it is.

    A constant mean that was estimated from few rows is not known: its uncertainty, kriging's (1 − 1ᵀH⁻¹k)²/(1ᵀH⁻¹1)
    (Rasmussen & Williams 2006, equation 2.42), belongs to every variance and sample. Its prior variance about the
    estimate is 4 k(x, x): a larger one changes little and costs digits. From many rows the mean is known, and iterative
    solves would suffer.
    """
    if rows > DIRECT_ROWS or not (solver is None or isinstance(solver, Cholesky)):
        return kernel
    constant = copied(_constant())
    size = as_covariance(kernel, dtype=torch.float64).scale  # as a tensor: GPyTorch rounds floats to float32
    constant.outputscale = torch.tensor(_CONSTANT * size, dtype=torch.float64)
    return AdditiveKernel(kernel, constant.to(next(kernel.parameters()).device)).requires_grad_(False)


@lru_cache(maxsize=1)
def _constant() -> Kernel:
    """A scaled constant to copy."""
    one = ConstantKernel()
    one.constant = torch.tensor(1.0)
    return ScaleKernel(one).double()
