"""What a random-feature map is, and the registry that draws one for a kernel."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.errors import DtypeError, InputError, NoRandomFeatures, ShapeError, UnsupportedKernel
from sggp.random import as_generator
from sggp.typing import Device, Seed

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
        differentiable: whether φ(x) carries gradients with respect to x.
        exact: whether φ(x)·φ(z) equals k(x, z) for every draw, not only on average.
        group_size: g, if the features come as p/g groups each of which alone is an unbiased estimate of
            k·g/p; None where there are no such groups. Products of kernels multiply group by group.
    """

    input_dim: int
    dtype: torch.dtype
    differentiable: bool = True
    exact: bool = False
    group_size: int | None = None

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
            raise DtypeError(f"expected a real torch tensor (..., n, {self.input_dim}), got {_describe(x)}.")
        if x.ndim < 2 or x.shape[-1] != self.input_dim:
            raise ShapeError(
                f"expected points of shape (..., n, {self.input_dim}), got {tuple(x.shape)}; "
                "the map was drawn for that input dimension."
            )
        return self._evaluate(x)

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
        out_dtype = self._output_dtype(x)
        weights = weights.to(device=x.device, dtype=out_dtype)
        rows = x.reshape(-1, x.shape[-1])
        step = max(
            1, memory_budget // max(1, self.num_features * torch.empty(0, dtype=out_dtype).element_size())
        )
        parts = [
            self.phi(rows[start : start + step]) @ weights for start in range(0, max(1, len(rows)), step)
        ]
        flat = parts[0] if len(parts) == 1 else torch.cat(parts)
        return flat.reshape(*x.shape[:-1], *weights.shape[1:])

    def to(self: Map, device: Device | None = None, dtype: torch.dtype | None = None) -> Map:
        """The same map on another device, or with another feature dtype for integer input."""
        if dtype is not None and not dtype.is_floating_point:
            raise DtypeError(f"features are floating point; got dtype={dtype}, expected float32 or float64.")
        return _moved(self, device, dtype)

    def rescaled(self, factor: float) -> FeatureMap:
        """The map of factor · k. Overridden where the factor folds into the map."""
        from sggp.kernels.features.algebra import Rescaled

        return Rescaled(self, float(factor))

    def on_columns(self, columns: Tensor, input_dim: int) -> FeatureMap:
        """The same map of an input of which only `columns` are seen."""
        from sggp.kernels.features.algebra import OnColumns

        return OnColumns(self, columns, input_dim)

    def centred(self, at: Tensor) -> FeatureMap:
        """The map of x − `at` where the kernel is stationary (the same kernel, smaller phases); else this map.

        In float32, data far from the origin lose digits in the phases ωᵀx; with `at` the mean of the training
        points they do not. The centred map is another, equally good, draw: use one of the two throughout.
        """
        del at
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


def _describe(x: object) -> str:
    return f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__


class FeatureRule(Protocol):
    """How features are drawn for one kernel type; `input_dim` counts the columns left by `active_dims`."""

    def __call__(
        self, kernel: Any, num_features: int, *, input_dim: int, generator: torch.Generator
    ) -> FeatureMap: ...


def _no_rule(kernel: Any, num_features: int, *, input_dim: int, generator: torch.Generator) -> FeatureMap:
    raise _missing(type(kernel).__name__, "no random features are registered for it")


def _missing(name: str, why: str) -> NoRandomFeatures:
    return NoRandomFeatures(
        f"cannot draw random features for {name}: {why}. Either register a rule with "
        f"@draw_features.register({name}) (docs/kernels.md), or use what needs only products of the kernel: "
        'the posterior mean, and variance(method="solve").'
    )


class DrawFeatures:
    """The function `draw_features`, with `register` to teach it another kernel type."""

    def __init__(self) -> None:
        self._rules = functools.singledispatch(_no_rule)

    def register(self, kernel_type: type) -> Callable[[FeatureRule], FeatureRule]:
        """Decorator: use the decorated rule for kernels of `kernel_type`.

        The rule is called as ``rule(kernel, num_features, input_dim=…, generator=…)`` and returns a
        `FeatureMap`. It need not look at `active_dims`: the points it sees have been restricted already.
        A subclass that overrides `forward` is a different kernel and does not inherit the rule.
        """

        def decorate(rule: FeatureRule) -> FeatureRule:
            self._rules.register(kernel_type)(rule)
            return rule

        return decorate

    def __call__(self, kernel: Kernel, num_features: int, *, input_dim: int, generator: Seed) -> FeatureMap:
        """Draw a random feature map φ with E[φ(x)·φ(z)] = k(x, z), output scale included.

        Args:
            kernel: a GPyTorch kernel of a registered type: RBF, Matérn, RQ, periodic, linear, constant, the two
                Tanimoto kernels, and scales, sums and products of these, with `active_dims` and ARD.
            num_features: about how many features p to use. Rounded to whole groups (even for stationary
                kernels), at least one group; exact maps (linear, constant) use as many as they need. Read
                `FeatureMap.num_features` for the number drawn.
            input_dim: d, the number of columns of the points.
            generator: CPU generator, or an int; all randomness comes from it, and equal states give equal maps.

        Returns:
            A frozen `FeatureMap`; the kernel's parameters are copied, later changes to the kernel are not
            seen.

        Raises:
            NoRandomFeatures: no rule for the kernel or a part of it.
            UnsupportedKernel: the kernel has a batch shape or several outputs per input.
            ShapeError: `input_dim` does not fit the kernel's `active_dims` or ARD length scales.
            InputError: `num_features` or `input_dim` is not a positive integer.
        """
        for name, value in (("num_features", num_features), ("input_dim", input_dim)):
            if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < 1:
                raise InputError(f"expected {name} to be a positive integer, got {value!r}.")
        if generator is None:
            raise InputError(
                "draw_features has no default seed: pass a torch.Generator or an int as generator."
            )
        _check_structure(kernel, input_dim)
        return self.part(
            kernel, int(num_features), input_dim=int(input_dim), generator=as_generator(generator)
        )

    def part(
        self, kernel: Kernel, num_features: int, *, input_dim: int, generator: torch.Generator
    ) -> FeatureMap:
        """Features of a kernel inside another (its own `active_dims` count), without checking the arguments."""
        columns = kernel.active_dims
        if columns is None:
            return self.without_columns(kernel, num_features, input_dim=input_dim, generator=generator)
        columns = columns.detach().to("cpu")
        if int(columns.max()) >= input_dim:
            raise ShapeError(
                f"{type(kernel).__name__} has active_dims {columns.tolist()} but the points have "
                f"{input_dim} columns."
            )
        inner = self.without_columns(kernel, num_features, input_dim=len(columns), generator=generator)
        return inner.on_columns(columns, input_dim)

    def without_columns(
        self, kernel: Kernel, num_features: int, *, input_dim: int, generator: torch.Generator
    ) -> FeatureMap:
        """Features of `kernel` on points already restricted to its `active_dims`."""
        kind = type(kernel)
        owner = next((base for base in kind.__mro__ if base in self._rules.registry), object)
        if owner is not object and getattr(kind, "forward", None) is not getattr(owner, "forward", None):
            raise _missing(
                kind.__name__,
                f"it overrides forward of {owner.__name__}, whose rule may not hold for it",
            )
        rule: FeatureRule = self._rules.dispatch(kind)
        return rule(kernel, num_features, input_dim=input_dim, generator=generator)


def _check_structure(kernel: Kernel, input_dim: int) -> None:
    if not isinstance(kernel, Kernel):
        raise DtypeError(f"expected a gpytorch.kernels.Kernel, got {type(kernel).__name__}.")
    if len(kernel.batch_shape):
        raise UnsupportedKernel(
            f"{type(kernel).__name__} has batch_shape {tuple(kernel.batch_shape)}; sggp needs one kernel at a "
            "time: index the batch and condition once per kernel."
        )
    point = torch.zeros(1, input_dim)
    outputs = kernel.num_outputs_per_input(point, point)
    if outputs != 1:
        raise UnsupportedKernel(
            f"{type(kernel).__name__} has {outputs} outputs per input; sggp needs kernels with one output."
        )


draw_features = DrawFeatures()
