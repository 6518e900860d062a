"""From a GPyTorch kernel to the covariance that evaluates it fastest."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import gpytorch.kernels as gk
import torch

from sggp.errors import UnsupportedKernel
from sggp.kernels.categories import IndexCovariance
from sggp.kernels.composite import (
    ColumnsCovariance,
    ConstantCovariance,
    ProductCovariance,
    ScaledCovariance,
    SumCovariance,
)
from sggp.kernels.covariance import Covariance
from sggp.kernels.generic import GenericCovariance
from sggp.kernels.periodic import PeriodicCovariance
from sggp.kernels.stationary import StationaryCovariance, profile_of
from sggp.kernels.tanimoto import TanimotoDotProduct, TanimotoMinMax
from sggp.kernels.tanimoto_covariance import DotProductCovariance, MinMaxCovariance
from sggp.kernels.tasks import TaskKernel

__all__ = ["as_covariance", "check_kernel_structure", "forward_covariance"]


def as_covariance(kernel: gk.Kernel | Covariance, *, dtype: torch.dtype | None = None) -> Covariance:
    """A frozen, detached, picklable evaluator of `kernel`.

    Args:
        kernel: any GPyTorch kernel without batch shape and with one output per input. RBF, Matérn and RQ kernels
            (ARD, `active_dims`), both Tanimoto kernels, and their scalings, sums and products run on fast engines;
            everything else is evaluated by tiles of itself. A `Covariance` is returned as it is.
        dtype: working precision for integer input (default float32); float rows keep their own.

    Raises:
        UnsupportedKernel: not a kernel, a batch of kernels, or several outputs per input.

    Example:
        >>> import torch, gpytorch
        >>> from sggp.kernels import as_covariance
        >>> k = as_covariance(gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5)))
        >>> k.matmul(torch.zeros(5, 2), None, torch.ones(5, 1)).shape
        torch.Size([5, 1])
    """
    if isinstance(kernel, Covariance):
        return kernel
    check_kernel_structure(kernel)
    return _call_covariance(kernel, dtype)


def check_kernel_structure(kernel: Any) -> None:
    """Refuse what a single matrix of covariances cannot express.

    Raises:
        UnsupportedKernel: not a GPyTorch kernel, a batch of kernels, several outputs per input, inducing points, or no
            column or negative ones in active_dims.
    """
    if not isinstance(kernel, gk.Kernel):
        raise UnsupportedKernel(f"expected a gpytorch.kernels.Kernel, got {type(kernel).__name__}.")
    for part in kernel.modules():
        if not isinstance(part, gk.Kernel):
            continue
        if isinstance(part, gk.InducingPointKernel):
            raise UnsupportedKernel(
                "InducingPointKernel has another value for a row and itself than for two equal rows, so that tiles and "
                "the whole matrix differ. Use its base_kernel, alone or with sggp.condition(..., centres=...)."
            )
        columns = part.active_dims
        if isinstance(columns, torch.Tensor) and (columns.numel() == 0 or bool((columns < 0).any())):
            raise UnsupportedKernel(
                f"{type(part).__name__} has active_dims {columns.tolist()}; expected at least one column, counted from "
                "0 (GPyTorch itself refuses negative ones)."
            )
        inherited = (
            type(part).batch_shape is gk.Kernel.batch_shape
        )  # with that of its parts, which come by themselves
        if len(part._batch_shape if inherited else part.batch_shape):
            raise UnsupportedKernel(
                f"{type(part).__name__} has batch_shape {tuple(part.batch_shape)}; expected "
                "none. Use one kernel of the batch, kernel[i], and one model for each."
            )
    probe = torch.zeros(1, 1)
    try:
        outputs = int(kernel.num_outputs_per_input(probe, probe))
    except (RuntimeError, IndexError, AttributeError, NotImplementedError):
        outputs = 1
    if outputs > 1:
        raise UnsupportedKernel(
            f"{type(kernel).__name__} has {outputs} outputs per input (a multitask or derivative "
            "kernel); expected one. Model each output with its own kernel."
        )


def _call_covariance(kernel: gk.Kernel, dtype: torch.dtype | None) -> Covariance:
    """The covariance of `kernel(x, z)`: that of `forward` on the active columns."""
    inner = forward_covariance(kernel, dtype)
    if inner is None:
        return GenericCovariance(kernel, dtype=dtype)
    if kernel.active_dims is None:
        return inner
    chosen = inner.on_columns(kernel.active_dims)
    return chosen or ColumnsCovariance(inner, kernel.active_dims)


def forward_covariance(kernel: gk.Kernel, dtype: torch.dtype | None) -> Covariance | None:
    """The covariance of `kernel.forward` (which ignores `active_dims`), or None where no engine knows the kernel.

    A subclass that changes how its parent evaluates is not its parent, so it is not recognised.
    """
    engines, wrappers = profile_of.registry, _forward.registry
    known = next(base for base in type(kernel).__mro__ if base in engines or base in wrappers)
    for method in ("forward", "__call__", "covar_dist", "lengthscale", "outputscale"):
        if getattr(type(kernel), method, None) is not getattr(known, method, None):
            return None
    return _forward(kernel, dtype)


@singledispatch
def _forward(kernel: Any, dtype: torch.dtype | None) -> Covariance | None:
    profile = profile_of(kernel)
    if profile is None:
        return None
    lengthscale = kernel.lengthscale.detach()
    if not bool((lengthscale > 0).all()) or not bool(torch.isfinite(lengthscale).all()):
        raise UnsupportedKernel(
            f"{type(kernel).__name__} has length scales {lengthscale.tolist()}; expected positive numbers."
        )
    return StationaryCovariance(profile, lengthscale, dtype=dtype, name=type(kernel).__name__)


register = _forward.register


def _number(value: torch.Tensor, what: str) -> float:
    if value.numel() != 1:
        raise UnsupportedKernel(f"{what} has {value.numel()} values; expected one.")
    return float(value.detach().double())


@register
def _(kernel: gk.ScaleKernel, dtype: torch.dtype | None) -> Covariance | None:
    inner = forward_covariance(kernel.base_kernel, dtype)  # GPyTorch calls its forward here, too
    if inner is None:
        return None
    scale = _number(kernel.outputscale, "outputscale of ScaleKernel")
    return inner.rescaled(scale) or ScaledCovariance(inner, scale)


@register(gk.AdditiveKernel)
@register(gk.ProductKernel)
def _(kernel: Any, dtype: torch.dtype | None) -> Covariance | None:
    kind = SumCovariance if isinstance(kernel, gk.AdditiveKernel) else ProductCovariance
    return kind([_call_covariance(k, dtype) for k in kernel.kernels], dtype=dtype, name=type(kernel).__name__)


@register
def _(kernel: gk.ConstantKernel, dtype: torch.dtype | None) -> Covariance | None:
    constant = _number(kernel.constant, "constant of ConstantKernel")
    return ConstantCovariance(constant, dtype=dtype, name="ConstantKernel")


@register
def _(kernel: gk.PeriodicKernel, dtype: torch.dtype | None) -> Covariance | None:
    if type(kernel).period_length is not gk.PeriodicKernel.period_length:
        return None
    return PeriodicCovariance(kernel.lengthscale, kernel.period_length, dtype=dtype, name="PeriodicKernel")


@register
def _(kernel: TanimotoMinMax, dtype: torch.dtype | None) -> Covariance | None:
    return MinMaxCovariance(dtype=dtype, name="TanimotoMinMax")


@register
def _(kernel: TanimotoDotProduct, dtype: torch.dtype | None) -> Covariance | None:
    return DotProductCovariance(dtype=dtype, name="TanimotoDotProduct")


@register
def _(kernel: gk.IndexKernel, dtype: torch.dtype | None) -> Covariance | None:
    return IndexCovariance(
        kernel._eval_covar_matrix(),
        torch.arange(kernel.raw_var.shape[-1]),
        dtype=dtype,
        name=type(kernel).__name__,
    )


@register
def _(kernel: TaskKernel, dtype: torch.dtype | None) -> Covariance | None:
    return IndexCovariance(kernel._eval_covar_matrix(), kernel.tasks, dtype=dtype, name="TaskKernel")
