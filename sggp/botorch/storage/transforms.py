"""BoTorch's transforms of inputs and outcomes as tensors and plain values, and back."""

from __future__ import annotations

from typing import Any

import gpytorch
import torch
from botorch.models.transforms import input as inputs
from botorch.models.transforms import outcome as outcomes

from sggp.botorch.combined import PathStandardize, PathStratifiedStandardize
from sggp.errors import InputError

__all__ = ["describe_transform", "rebuild_transform"]

_KINDS: dict[str, type[torch.nn.Module]] = {
    kind.__name__: kind
    for kind in (
        inputs.AffineInputTransform,
        inputs.Normalize,
        inputs.InputStandardize,
        inputs.Round,
        inputs.Log10,
        inputs.Warp,
        inputs.FilterFeatures,
        inputs.ChainedInputTransform,
        outcomes.Standardize,
        outcomes.StratifiedStandardize,
        PathStandardize,
        PathStratifiedStandardize,
        outcomes.Log,
        outcomes.Power,
        outcomes.Bilog,
        outcomes.ChainedOutcomeTransform,
    )
}
"""The transforms that a file may name: what they hold are values, and no functions."""
_KEPT_BY_TORCH = frozenset(vars(gpytorch.Module())) | frozenset(vars(torch.nn.Module()))
_SHAPES = ("batch_shape", "_batch_shape")


def describe_transform(transform: torch.nn.Module | None, name: str) -> dict[str, Any] | None:
    """A transform as a nested dict of plain values and tensors; None for none.

    Raises:
        InputError: it is of a type that a file does not name, or has priors; naming the argument and the type.
    """
    if transform is None:
        return None
    kind = type(transform).__name__
    if _KINDS.get(kind) is not type(transform):
        raise InputError(
            f"{name}: {kind} is not a transform that a file names; it names {', '.join(sorted(_KINDS))}."
        )
    if getattr(transform, "_priors", None):
        raise InputError(f"{name}: the priors of {kind} are not kept in a file: build it without them.")
    parameters = dict(transform.named_parameters(recurse=False))
    return {
        "type": kind,
        "values": {key: value for key, value in vars(transform).items() if key not in _KEPT_BY_TORCH},
        "buffers": dict(transform.named_buffers(recurse=False)),
        "parameters": parameters,
        "learnt": [key for key, value in parameters.items() if value.requires_grad],
        "children": {
            key: describe_transform(child, f"{name}.{key}") for key, child in _inner(transform).items()
        },
    }


def rebuild_transform(content: dict[str, Any] | None) -> Any:
    """The transform that `describe_transform` described.

    Raises:
        InputError, LookupError, TypeError, ...: it describes none of this version.
    """
    if content is None:
        return None
    if content["type"] not in _KINDS:
        raise InputError(f"the file names an unknown transform {content['type']!r}.")
    kind = _KINDS[content["type"]]
    children = {key: rebuild_transform(child) for key, child in content["children"].items()}
    if kind is inputs.Warp:  # which has constraints, always the same
        out: Any = kind(d=children["_normalize"]._d, indices=content["buffers"]["indices"].tolist())
    else:
        out = kind.__new__(kind)
        torch.nn.Module.__init__(out)
    for key, value in content["values"].items():
        setattr(out, key, torch.Size(value) if key in _SHAPES else value)
    for key, value in content["buffers"].items():
        out.register_buffer(key, value)
    for key, value in content["parameters"].items():
        out.register_parameter(key, torch.nn.Parameter(value, requires_grad=key in content["learnt"]))
    for key, child in children.items():
        out.add_module(key, child)
    return out.eval()


def _inner(transform: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The transforms inside, without constraints."""
    kinds = (inputs.InputTransform, outcomes.OutcomeTransform)
    return {key: child for key, child in transform.named_children() if isinstance(child, kinds)}
