"""Noise models on disk: tensors and plain values with a checksum, no pickle."""

from __future__ import annotations

import os
from dataclasses import fields, is_dataclass
from typing import Any

from gpytorch.kernels import Kernel

from sggp.errors import DataFileError, SggpError
from sggp.evidence.leave_one_out import Observed
from sggp.evidence.spread import NoiseModel, NoiseScore, SpreadSurface
from sggp.evidence.tails import Tail
from sggp.files import read_content, write_content
from sggp.posterior.kernel_values import describe_kernel, rebuild_kernel

_FORMAT = "sggp-noise-1"
_KERNEL = "kernel"
_KINDS: dict[str, Any] = {
    kind.__name__: kind for kind in (NoiseModel, NoiseScore, Observed, SpreadSurface, Tail)
}


def save_noise_model(path: str | os.PathLike[str], model: NoiseModel) -> None:
    """Write a noise model to `path`: O(m·p) bytes for a surface of m rows and p features.

    Raises:
        InputError, DataFileError: as `sggp.files.whole_file`.
    """
    write_content(path, {"format": _FORMAT, "model": _plain(model)})


def load_noise_model(path: str | os.PathLike[str]) -> NoiseModel:
    """Read what `save_noise_model` wrote.

    Raises:
        DataFileError: the file is missing, damaged or another, or its parts do not go together.
    """
    content = read_content(path, _FORMAT)
    try:
        model = _rebuilt(content["model"])
        _check_shapes(model)
    except (SggpError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DataFileError(
            f"{path} is not a whole noise model of this version of sggp: something in it is missing or of another "
            "kind. Save it again."
        ) from error
    return model


def _plain(value: Any) -> Any:
    """Dataclasses and kernels as dicts that name their kind, tuples as lists; anything else as it is."""
    if isinstance(value, Kernel):
        return {"kind": _KERNEL, "values": describe_kernel(value)}
    if is_dataclass(value):
        return {
            "kind": type(value).__name__,
            **{f.name: _plain(getattr(value, f.name)) for f in fields(value)},
        }
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def _rebuilt(value: Any) -> Any:
    """What `_plain` was made of."""
    if isinstance(value, list):
        return tuple(_rebuilt(part) for part in value)
    if not isinstance(value, dict):
        return value
    if value["kind"] == _KERNEL:
        return rebuild_kernel(value["values"]).requires_grad_(False)
    return _KINDS[value["kind"]](**{name: _rebuilt(part) for name, part in value.items() if name != "kind"})


def _check_shapes(model: NoiseModel) -> None:
    """Raise ValueError where the parts of a file do not go together."""
    if not (isinstance(model, NoiseModel) and model.tail.df > 2):
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
