"""A GPyTorch kernel as plain values, and back: what lets a posterior be saved without pickle."""

from __future__ import annotations

from typing import Any

import gpytorch
import torch
from gpytorch.kernels import AdditiveKernel, Kernel, ProductKernel, ScaleKernel

from sggp.errors import InputError
from sggp.kernels import TanimotoDotProduct, TanimotoMinMax, TaskKernel
from sggp.kernels.linear import DenseLinearKernel

_PLAIN: dict[str, type[Kernel]] = {
    "RBFKernel": gpytorch.kernels.RBFKernel,
    "MaternKernel": gpytorch.kernels.MaternKernel,
    "RQKernel": gpytorch.kernels.RQKernel,
    "LinearKernel": gpytorch.kernels.LinearKernel,
    "DenseLinearKernel": DenseLinearKernel,
    "ConstantKernel": gpytorch.kernels.ConstantKernel,
    "PeriodicKernel": gpytorch.kernels.PeriodicKernel,
    "TanimotoMinMax": TanimotoMinMax,
    "TanimotoDotProduct": TanimotoDotProduct,
    "TaskKernel": TaskKernel,
}
_NESTED: dict[str, type[Kernel]] = {
    kind.__name__: kind for kind in (ScaleKernel, AdditiveKernel, ProductKernel)
}
_VALUES = (
    "lengthscale",
    "alpha",
    "variance",
    "period_length",
    "outputscale",
    "constant",
    "covar_factor",
    "var",
)


def describe_kernel(kernel: Kernel) -> dict[str, Any] | None:
    """The kernel as a nested dict of strings, numbers and tensors; None if it is of a type that cannot be described."""
    active = kernel.active_dims
    out: dict[str, Any] = {
        "type": type(kernel).__name__,
        "active_dims": None if active is None else active.tolist(),
        "values": {},
    }
    if _NESTED.get(out["type"]) is type(kernel):
        children = [kernel.base_kernel] if isinstance(kernel, ScaleKernel) else list(kernel.kernels)
    elif _PLAIN.get(out["type"]) is type(kernel):
        children = []
        out["nu"] = getattr(kernel, "nu", None)
        out["ard"] = kernel.ard_num_dims
        if isinstance(kernel, TaskKernel):
            out["tasks"] = kernel.tasks.tolist()
    else:
        return None
    for name in _VALUES:
        value = getattr(kernel, name, None)
        if isinstance(value, torch.Tensor):
            out["values"][name] = value.detach().clone()
    described = [describe_kernel(child) for child in children]
    if any(child is None for child in described):
        return None
    out["children"] = described
    return out


def rebuild_kernel(values: dict[str, Any]) -> Kernel:
    """The kernel that `describe_kernel` described.

    Raises:
        InputError: the description names an unknown kernel type.
    """
    children = [rebuild_kernel(child) for child in values["children"]]
    active = values["active_dims"]
    kind = values["type"]
    options: dict[str, Any] = {} if active is None else {"active_dims": tuple(active)}
    if kind in _NESTED:
        kernel = _NESTED[kind](*children)
    elif kind in _PLAIN:
        if values.get("nu") is not None:
            options["nu"] = values["nu"]
        if values.get("ard") is not None:
            options["ard_num_dims"] = values["ard"]
        if values.get("tasks") is not None:
            options |= {"tasks": values["tasks"], "rank": values["values"]["covar_factor"].shape[-1]}
        kernel = _PLAIN[kind](**options)
    else:
        raise InputError(f"the file describes a kernel of unknown type {kind!r}; pass kernel= to load.")
    for name, value in values["values"].items():
        kernel = kernel.to(value.dtype)
        kernel.initialize(**{name: value})
    return kernel
