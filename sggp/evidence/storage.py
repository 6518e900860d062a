"""Noise models, and how kernels compared, as tensors and plain values."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from gpytorch.kernels import Kernel

from sggp.evidence.judging import KernelScore, KernelSelection
from sggp.evidence.leave_one_out import Observed
from sggp.evidence.spread import NoiseModel, NoiseScore, SpreadSurface
from sggp.evidence.tails import Tail
from sggp.posterior.kernel_values import describe_kernel, rebuild_kernel

__all__ = ["evidence_parts", "evidence_values", "noise_model_parts"]

_KERNEL = "kernel"
_KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (KernelScore, KernelSelection, NoiseModel, NoiseScore, Observed, SpreadSurface, Tail)
}


def noise_model_parts(values: Any) -> NoiseModel:
    """The noise model that `evidence_values` was given.

    Raises:
        SggpError, LookupError, TypeError, ValueError, ...: parts are missing, or do not go together.
    """
    model = evidence_parts(values)
    _check_shapes(model)
    return model


def evidence_values(value: Any) -> Any:
    """Dataclasses and kernels as dicts that name their kind, tuples as lists; anything else as it is."""
    if isinstance(value, Kernel):
        return {"kind": _KERNEL, "values": describe_kernel(value)}
    if is_dataclass(value):
        return {
            "kind": type(value).__name__,
            **{f.name: evidence_values(getattr(value, f.name)) for f in fields(value)},
        }
    return [evidence_values(part) for part in value] if isinstance(value, tuple) else value


def evidence_parts(value: Any) -> Any:
    """What `evidence_values` was given."""
    if isinstance(value, list):
        return tuple(evidence_parts(part) for part in value)
    if not isinstance(value, dict):
        return value
    if value["kind"] == _KERNEL:
        return rebuild_kernel(value["values"]).requires_grad_(False)
    return _KINDS[value["kind"]](
        **{name: evidence_parts(part) for name, part in value.items() if name != "kind"}
    )


def _check_shapes(model: NoiseModel) -> None:
    """Raise ValueError where the parts of a file do not go together."""
    if not (isinstance(model, NoiseModel) and model.tail.df > 2 and model.tail.power > 0):
        raise ValueError(f"not a noise model with a variance: {model!r}")
    surface = model.surface
    if surface is None:
        return
    m, p = surface.observed.x.shape
    expected = {
        (m, 1): surface.observed.residual,
        (m,): surface.observed.noise,
        (p - 2,): surface.columns,
        (p,): surface.location,
    }
    wrong = [shape for shape, part in expected.items() if part.shape != shape]
    if not isinstance(surface.observed.kernel, Kernel):
        raise ValueError("a surface without a kernel")
    if wrong or surface.rows.shape != (m,) or surface.scale.shape != (p,):
        raise ValueError(f"a surface of {m} rows and {p} features with parts of other shapes")
