"""Values in a GPyTorch kernel as parameters of the estimator: `kernel__base_kernel__lengthscale`."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from gpytorch.kernels import Kernel
from sklearn.base import BaseEstimator

from sggp.errors import InputError
from sggp.hyperparameters.coordinates import copy_kernel, public_name

_PREFIX = "kernel__"


class KernelParameters(BaseEstimator):
    """scikit-learn's get_params and set_params through a GPyTorch kernel, which has none of its own."""

    kernel: Any

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Arguments of the constructor; deep, also the values in a kernel object, as kernel__ and their name there.

        GPyTorch's names with __ for dots: `kernel__outputscale`, `kernel__base_kernel__lengthscale`, each a float, or a
        list where there are several.
        """
        out: dict[str, Any] = super().get_params(deep)
        if deep and isinstance(self.kernel, Kernel):
            out.update({_PREFIX + name: value for name, value in kernel_values(self.kernel).items()})
        return out

    def set_params(self, **params: Any) -> Self:
        """Set arguments of the constructor, and values in a kernel object by the names of `get_params`.

        The kernel is replaced by a copy with the new values, from which `fit` starts to learn: with optimizer=None, or
        where its `requires_grad` is off, they stay.

        Raises:
            InputError: no such value in the kernel, one outside its constraint, or a kernel that is no object.
        """
        kernel = params.get("kernel", self.kernel)
        inner = {k: v for k, v in params.items() if k.startswith(_PREFIX)}
        if not inner or (not isinstance(kernel, Kernel) and hasattr(kernel, "set_params")):
            return super().set_params(**params)
        super().set_params(**{k: v for k, v in params.items() if k not in inner})
        if not isinstance(self.kernel, Kernel):
            raise InputError(
                f"{', '.join(inner)}: the kernel is {self.kernel!r}, which has no values to set: give a kernel object, "
                "such as gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())."
            )
        self.kernel = with_values(self.kernel, {k.removeprefix(_PREFIX): v for k, v in inner.items()})
        return self


def kernel_values(kernel: Kernel) -> dict[str, Any]:
    """The constrained values of a kernel by name, __ for dots: floats, or lists of several."""
    out = {}
    for name, (parameter, constraint) in _parameters(kernel).items():
        value = (parameter if constraint is None else constraint.transform(parameter)).detach().reshape(-1)
        out[name] = value.item() if value.numel() == 1 else value.tolist()
    return out


def with_values(kernel: Kernel, values: dict[str, Any]) -> Kernel:
    """A copy of a kernel, in float64, with some values replaced.

    Raises:
        InputError: an unknown name, another number of values, or a value outside its constraint.
    """
    copied = copy_kernel(kernel)
    known = _parameters(copied)
    for name, value in values.items():
        if name not in known:
            raise InputError(f"the kernel has no {name!r}; it has {', '.join(known)}.")
        parameter, constraint = known[name]
        try:
            given = torch.from_numpy(np.array(value, dtype=float)).reshape(-1)
            full = given.expand(parameter.numel()).reshape(parameter.shape)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{name} must be a number, or {parameter.numel()} of them, got {value!r}."
            ) from error
        if not bool(torch.isfinite(full).all()) or not (constraint is None or _allowed(constraint, full)):
            raise InputError(f"{name} must be finite and within its constraint {constraint}, got {value!r}.")
        with torch.no_grad():
            parameter.copy_(full if constraint is None else constraint.inverse_transform(full))
    return copied


def _allowed(constraint: Any, value: torch.Tensor) -> bool:
    low, high = constraint.lower_bound.double(), constraint.upper_bound.double()
    return bool(((value > low) & (value < high)).all())


def _parameters(kernel: Kernel) -> dict[str, tuple[torch.nn.Parameter, Any]]:
    return {
        public_name(name).replace(".", "__"): (parameter, constraint)
        for name, parameter, constraint in kernel.named_parameters_and_constraints()
        if not name.rpartition(".")[2].startswith("_")
    }
