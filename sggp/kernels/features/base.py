"""What a random-feature map is."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from sggp.errors import DtypeError, ShapeError
from sggp.typing import Device

APPLY_BUDGET = 64 * 2**20
"""Bytes of features that `FeatureMap.apply` holds at once unless told otherwise."""

Map = TypeVar("Map", bound="FeatureMap")


class FeatureMap(ABC):
    """A fixed finite map φ with E[φ(x)·φ(z)] = k(x, z) over draws of the map, the kernel's scale included.

    Concrete maps are frozen dataclasses (``@dataclass(frozen=True, eq=False)``) that hold every random number
    they use, so a map pickles, gives the same numbers on every call, and treats each row by itself. A row's
    features do not depend on its batch-mates except for the last bits of a floating-point matrix product
    (BLAS may order a sum differently for another number of rows); hashed maps agree bit for bit.

    A subclass sets the fields `input_dim` and `dtype` and implements `num_features` and `_evaluate`.

    Attributes:
        input_dim: d, the number of columns of x.
        dtype: dtype of the features of integer input (floating input keeps its own dtype).
        differentiable: whether φ(x) carries gradients with respect to x; if not, x is detached.
        exact: whether φ(x)·φ(z) equals k(x, z) for every draw, not only on average.
        group_size: g, if the features come as p/g groups each of which alone is an unbiased estimate of
            k·g/p; None where there are no such groups. Products of kernels multiply group by group.
        finite: whether the features are exact and as few as the names of a task or so: a product multiplies each of
            them with all those of the other factors.
        counts: whether rows of whole numbers are best left as they are stored.
    """

    input_dim: int
    dtype: torch.dtype
    differentiable: bool = True
    exact: bool = False
    group_size: int | None = None
    finite: bool = False
    counts: bool = False

    @property
    @abstractmethod
    def num_features(self) -> int:
        """p, the number of columns of φ(x)."""

    @abstractmethod
    def _evaluate(self, x: Tensor) -> Tensor:
        """φ of checked input: (…, n, d) -> (…, n, p)."""

    def phi(self, x: Tensor) -> Tensor:
        """The features of every row.

        Args:
            x: (…, n, d), floating or integer.

        Returns:
            (…, n, p) in the dtype of a floating `x`, else in `self.dtype`.

        Raises:
            ShapeError: `x` is not at least two-dimensional with d columns.
            DtypeError: `x` is not a real tensor.
        """
        if not isinstance(x, Tensor) or x.is_complex():
            given = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise DtypeError(f"expected a real torch tensor (..., n, {self.input_dim}), got {given}.")
        if x.ndim < 2 or x.shape[-1] != self.input_dim:
            raise ShapeError(
                f"expected points of shape (..., n, {self.input_dim}), got {tuple(x.shape)}; "
                "the map was drawn for that input dimension."
            )
        return self._evaluate(x if self.differentiable else x.detach())

    def apply(self, x: Tensor, weights: Tensor, *, memory_budget: int = APPLY_BUDGET) -> Tensor:
        """φ(x) @ weights without ever holding φ(x) for more than a block of rows.

        Args:
            x: (…, n, d).
            weights: (p, s), or (p,) for one function.
            memory_budget: bytes of features held at once.

        Returns:
            (…, n, s), or (…, n) for one-dimensional weights. Under autograd the blocks are kept for backward.

        Raises:
            ShapeError: `weights` does not have p rows.
        """
        if weights.ndim not in (1, 2) or weights.shape[0] != self.num_features:
            raise ShapeError(
                f"expected weights of shape ({self.num_features}, s), one row per feature, "
                f"got {tuple(weights.shape)}."
            )
        if not isinstance(x, Tensor) or x.ndim < 2:
            return self.phi(x)
        weights = weights.to(device=x.device, dtype=self._output_dtype(x))
        step = max(1, memory_budget // max(1, self.num_features * weights.dtype.itemsize))
        parts = [self._times(rows, weights) for rows in x.reshape(-1, x.shape[-1]).split(step)]
        flat = parts[0] if len(parts) == 1 else torch.cat(parts)
        return flat.reshape(*x.shape[:-1], *weights.shape[1:])

    def to(self: Map, device: Device | None = None, dtype: torch.dtype | None = None) -> Map:
        """The same map on another device, or with another feature dtype for integer input."""
        if dtype is not None and not dtype.is_floating_point:
            raise DtypeError(f"features are floating point; got dtype={dtype}, expected float32 or float64.")
        return _moved(self, device, dtype)

    def rescaled(self, factor: float) -> FeatureMap:
        """The map of factor · k. Overridden where the factor folds into the map."""
        return Rescaled(self, float(factor))

    def on_columns(self, columns: Tensor, input_dim: int) -> FeatureMap:
        """The same map of an input of which only `columns` are seen."""
        return OnColumns(self, columns, input_dim)

    def centred(self, at: Tensor) -> FeatureMap:
        """The map of x − `at` where the kernel is stationary (the same kernel, smaller phases); else this map.

        In float32, data far from the origin lose digits in the phases ωᵀx; with `at` the mean of the training
        points they do not. The centred map is another, equally good, draw: use one of the two throughout.
        """
        return self

    def _times(self, x: Tensor, weights: Tensor) -> Tensor:
        features = self.phi(x)
        return features @ weights.to(features.dtype)

    def narrowed(self) -> FeatureMap:
        """The same map with features in float32, whatever the points are in, where phases then lose nothing."""
        return self

    def _output_dtype(self, x: Tensor) -> torch.dtype:
        return x.dtype if x.is_floating_point() else self.dtype

    def _floating(self, x: Tensor) -> Tensor:
        return x if x.is_floating_point() else x.to(self.dtype)

    def _grouped(self, x: Tensor) -> Tensor:
        """φ as (…, n, p/g, g); only where `group_size` is not None."""
        features = self._evaluate(x)
        size = self.group_size or 1
        return features.reshape(*features.shape[:-1], -1, size)


class ScaledMap(FeatureMap):
    """A map with a field `scale`, k(x, x), into which factors fold."""

    scale: float

    def rescaled(self: Map, factor: float) -> Map:
        return dataclasses.replace(self, scale=self.scale * float(factor))  # type: ignore[type-var, attr-defined]


class CompositeMap(FeatureMap):
    """A map whose fields hold other maps of the same input: one, or a tuple of them."""

    def centred(self: Map, at: Tensor) -> Map:
        return _changed(self, lambda part: part.centred(at))

    def narrowed(self: Map) -> Map:
        return _changed(self, lambda part: part.narrowed())


def _changed(map: Map, change: Callable[[FeatureMap], FeatureMap]) -> Map:
    """A map with all those that its fields hold replaced."""
    changed: dict[str, Any] = {}
    for name, value in vars(map).items():
        if isinstance(value, FeatureMap):
            changed[name] = change(value)
        elif isinstance(value, tuple):
            changed[name] = tuple(change(part) for part in value)
    return dataclasses.replace(map, **changed)  # type: ignore[type-var]


def _of_base(name: str) -> Any:
    return property(lambda self: getattr(self.base, name))


class _Wrapper(CompositeMap):
    """A map made of one other map, `base`."""

    base: FeatureMap
    dtype, differentiable, exact = _of_base("dtype"), _of_base("differentiable"), _of_base("exact")
    finite = _of_base("finite")
    group_size, num_features, counts = _of_base("group_size"), _of_base("num_features"), _of_base("counts")


@dataclass(frozen=True, eq=False)
class Rescaled(_Wrapper):
    """√factor · φ."""

    base: FeatureMap
    factor: float

    input_dim = _of_base("input_dim")

    def _evaluate(self, x: Tensor) -> Tensor:
        return self.base.phi(x) * math.sqrt(self.factor)

    def _grouped(self, x: Tensor) -> Tensor:
        return self.base._grouped(x) * math.sqrt(self.factor)


@dataclass(frozen=True, eq=False)
class OnColumns(_Wrapper):
    """φ of some columns of a wider input."""

    base: FeatureMap
    columns: Tensor
    input_dim: int

    def _evaluate(self, x: Tensor) -> Tensor:
        return self.base.phi(x[..., self.columns])

    def _grouped(self, x: Tensor) -> Tensor:
        return self.base._grouped(x[..., self.columns])

    def centred(self, at: Tensor) -> OnColumns:
        return super().centred(at[self.columns])


def _moved(value: Any, device: Device | None, dtype: torch.dtype | None) -> Any:
    """`value` with every tensor on `device` and every map's `dtype` replaced, through tuples and dataclasses."""
    if isinstance(value, Tensor):
        return value if device is None else value.to(device)
    if isinstance(value, tuple):
        return tuple(_moved(item, device, dtype) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {
            f.name: _moved(getattr(value, f.name), device, dtype) for f in dataclasses.fields(value) if f.init
        }
        if dtype is not None and "dtype" in changed:
            changed["dtype"] = dtype
        return dataclasses.replace(value, **changed)
    return value
