"""A GPyTorch kernel as plain values, and back: what lets a posterior be saved without pickle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gpytorch
import torch
from gpytorch.constraints import GreaterThan, Interval, LessThan, Positive
from gpytorch.kernels import AdditiveKernel, Kernel, ProductKernel, ScaleKernel
from gpytorch.utils.transforms import inv_sigmoid, inv_softplus
from torch import Tensor

from sggp.errors import InputError
from sggp.kernels import TanimotoDotProduct, TanimotoMinMax, TaskKernel
from sggp.kernels.linear import DenseLinearKernel
from sggp.kernels.precomputed import PrecomputedKernel

__all__ = ["ReadNamed", "WriteNamed", "describe_kernel", "name_kernel", "rebuild_kernel"]

_KINDS: dict[str, tuple[type[Kernel], tuple[str, ...]]] = {
    **{name: (getattr(gpytorch.kernels, name), ()) for name in ("RBFKernel", "RQKernel", "LinearKernel")},
    **{name: (getattr(gpytorch.kernels, name), ()) for name in ("ConstantKernel", "PeriodicKernel")},
    "CosineKernel": (gpytorch.kernels.CosineKernel, ()),
    "MaternKernel": (gpytorch.kernels.MaternKernel, ("nu",)),
    "PolynomialKernel": (gpytorch.kernels.PolynomialKernel, ("power",)),
    "PiecewisePolynomialKernel": (gpytorch.kernels.PiecewisePolynomialKernel, ("q",)),
    "SpectralMixtureKernel": (gpytorch.kernels.SpectralMixtureKernel, ("num_mixtures",)),
    "DenseLinearKernel": (DenseLinearKernel, ()),
    "TanimotoMinMax": (TanimotoMinMax, ()),
    "TanimotoDotProduct": (TanimotoDotProduct, ()),
    "PrecomputedKernel": (PrecomputedKernel, ()),
    "TaskKernel": (TaskKernel, ("tasks", "rank")),
    **{kind.__name__: (kind, ()) for kind in (ScaleKernel, AdditiveKernel, ProductKernel)},
}
"""The kernels that a file may name (`name_kernel` adds some), and what their constructors are told beside
`ard_num_dims` and `active_dims`.
"""
_CONSTRAINTS = {kind.__name__: kind for kind in (Interval, GreaterThan, LessThan, Positive)}
_TRANSFORMS: dict[str, tuple[Any, Any]] = {
    "softplus": (torch.nn.Softplus(), inv_softplus),
    "sigmoid": (torch.sigmoid, inv_sigmoid),
    "exp": (torch.exp, torch.log),
    "none": (None, None),
}
_PRIORS = {
    "GammaPrior": ("concentration", "rate"),
    "NormalPrior": ("loc", "scale"),
    "LogNormalPrior": ("loc", "scale"),
    "UniformPrior": ("low", "high"),
    "HalfCauchyPrior": ("scale",),
    "HalfNormalPrior": ("scale",),
    "SmoothedBoxPrior": ("a", "b", "sigma"),
}
"""Priors of `gpytorch.priors`, and the attributes that are the arguments of their constructors, in order."""


def name_kernel(kind: type[Kernel], *options: str) -> None:
    """Let files name a kernel: its constructor takes these attributes, all else is parameters, constraints, priors."""
    _KINDS[kind.__name__] = (kind, options)


@dataclass(frozen=True)
class ReadNamed:
    """A prior's reading of a parameter by its name, for pickles: GPyTorch's own are local functions."""

    name: str

    def __call__(self, module: Kernel) -> Any:
        return getattr(module, self.name)


@dataclass(frozen=True)
class WriteNamed:
    """A prior's writing of a parameter by its name."""

    name: str

    def __call__(self, module: Kernel, value: Tensor) -> None:
        module.initialize(**{self.name: value})


# out ----------------------------------------------------------------------------------------------------------------


def describe_kernel(kernel: Kernel) -> dict[str, Any]:
    """The kernel as a nested dict of strings, numbers and tensors: raw parameters, constraints, priors, what is fixed.

    Raises:
        InputError: it holds a kernel, constraint or prior of a type that a file does not name, with which one.
    """
    described = _described(kernel, [])
    rebuilt: dict[str, Tensor] = rebuild_kernel(described).state_dict()
    own: dict[str, Tensor] = kernel.state_dict()
    if rebuilt.keys() != own.keys() or not all(torch.equal(rebuilt[k], v.cpu()) for k, v in own.items()):
        raise InputError(
            f"the kernel {type(kernel).__name__} has parameters that kernels of its type have not, or not in that shape"
        )
    return described


def _described(kernel: Kernel, seen: list[Kernel]) -> dict[str, Any]:
    """With kernels that stand in several places described once."""
    for place, other in enumerate(seen):
        if other is kernel:
            return {"repeats": place}
    seen.append(kernel)
    name = type(kernel).__name__
    kind, options = _KINDS.get(name, (None, ()))
    if kind is not type(kernel):
        raise InputError(f"{name} is not a type of kernel that a file names")
    parameters = dict(kernel.named_parameters(recurse=False))
    active, ard = kernel.active_dims, kernel.ard_num_dims
    given = {option: getattr(kernel, option) for option in options}
    return {
        "type": name,
        "options": given if ard is None or kind is ScaleKernel else given | {"ard_num_dims": ard},
        "active_dims": None if active is None else active.tolist(),
        "parameters": {key: value.detach().cpu().clone() for key, value in parameters.items()},
        "fixed": [key for key, value in parameters.items() if not value.requires_grad],
        "constraints": {key: _constraint(key, value) for key, value in kernel._constraints.items()},
        "priors": {key: _prior(kernel, key, *parts) for key, parts in kernel._priors.items()},
        "children": [_described(child, seen) for child in _children(kernel)],
    }


def _children(kernel: Kernel) -> list[Kernel]:
    if isinstance(kernel, ScaleKernel):
        return [kernel.base_kernel]
    return list(kernel.kernels) if isinstance(kernel, AdditiveKernel | ProductKernel) else []


def _constraint(key: str, constraint: Interval) -> dict[str, Any]:
    name, given = type(constraint).__name__, constraint._transform
    found = [known for known, (function, _) in _TRANSFORMS.items() if given is function]
    if isinstance(given, torch.nn.Softplus) and repr(given) == repr(_TRANSFORMS["softplus"][0]):
        found = ["softplus"]  # each copy of a constraint has one of its own
    if _CONSTRAINTS.get(name) is not type(constraint) or not found:
        raise InputError(f"{name} with {given} is not a constraint that a file names (of {key})")
    bounds = {bound: getattr(constraint, bound).cpu().clone() for bound in ("lower_bound", "upper_bound")}
    return {"type": name, "transform": found[0], **bounds}


def _prior(kernel: Any, key: str, prior: Any, read: Any, write: Any) -> dict[str, Any]:
    name, parameter = type(prior).__name__, key.removesuffix("_prior")
    value = getattr(kernel, parameter, None)
    known = getattr(gpytorch.priors, name, None) is type(prior) and name in _PRIORS
    plain = known and prior._transform is None and isinstance(value, Tensor)
    if not plain or not torch.equal(read(kernel), torch.as_tensor(value)):
        raise InputError(f"{name} is not a prior that a file names, or not one of a parameter ({key})")
    values = [torch.as_tensor(getattr(prior, argument)).cpu().clone() for argument in _PRIORS[name]]
    return {"type": name, "values": values}


# back ---------------------------------------------------------------------------------------------------------------


def rebuild_kernel(values: dict[str, Any]) -> Kernel:
    """The kernel that `describe_kernel` described, on the CPU.

    Raises:
        InputError: the description names an unknown type, or parts that do not go together.
    """
    return _old(values) if "values" in values else _rebuilt(values, [])


def _rebuilt(values: dict[str, Any], seen: list[Any]) -> Kernel:
    if "repeats" in values:
        return seen[values["repeats"]]
    place = len(seen)
    seen.append(None)
    children = [_rebuilt(child, seen) for child in values["children"]]
    kernel = _made(values, children, values["options"])
    seen[place] = kernel
    for key, found in values["constraints"].items():
        kernel.register_constraint(key.removesuffix("_constraint"), _constrained(found))
    for name, value in values["parameters"].items():
        parameter = dict(kernel.named_parameters(recurse=False)).get(name)
        if parameter is None or parameter.shape != value.shape:
            raise InputError(f"{values['type']} has no parameter {name} of shape {tuple(value.shape)}.")
        parameter.data = value.clone()
        parameter.requires_grad_(name not in values["fixed"])
    for key, found in values["priors"].items():
        if found["type"] not in _PRIORS:
            raise InputError(f"the file names an unknown prior {found['type']!r}.")
        prior = getattr(gpytorch.priors, found["type"])(*(value.clone() for value in found["values"]))
        parameter_name = key.removesuffix("_prior")
        kernel.register_prior(key, prior, ReadNamed(parameter_name), WriteNamed(parameter_name))
    return kernel


def _made(values: dict[str, Any], children: list[Kernel], options: dict[str, Any]) -> Kernel:
    if values["type"] not in _KINDS:
        raise InputError(
            f"the file describes a kernel of unknown type {values['type']!r}; pass kernel= to load."
        )
    kind, allowed = _KINDS[values["type"]]
    if not options.keys() <= {*allowed, "ard_num_dims"}:
        raise InputError(f"{values['type']} of this version of sggp has other settings than {options}.")
    active = values["active_dims"]
    return kind(*children, **options, **({} if active is None else {"active_dims": tuple(active)}))


def _constrained(values: dict[str, Any]) -> Interval:
    kind, (transform, inverse) = _CONSTRAINTS[values["type"]], _TRANSFORMS[values["transform"]]
    bounds = [values[bound] for bound in ("lower_bound", "upper_bound")]
    taken = {Interval: bounds, GreaterThan: bounds[:1], LessThan: bounds[1:], Positive: []}[kind]
    constraint = kind(*taken, transform=transform, inv_transform=inverse)
    constraint.lower_bound, constraint.upper_bound = (bound.clone() for bound in bounds)
    return constraint


def _old(values: dict[str, Any]) -> Kernel:
    """Of files from before safetensors: values as they are read, without constraints and priors."""
    options = {"nu": values.get("nu"), "ard_num_dims": values.get("ard")}
    children = [_old(child) for child in values["children"]]
    kernel = _made(values, children, {name: value for name, value in options.items() if value is not None})
    for name, value in values["values"].items():
        kernel = kernel.to(value.dtype)
        kernel.initialize(**{name: value})
    return kernel
