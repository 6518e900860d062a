"""Features of linear and constant kernels, and of scales, sums and products of kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from gpytorch.kernels import AdditiveKernel, ConstantKernel, Kernel, LinearKernel, ProductKernel, ScaleKernel
from torch import Tensor

from sggp.kernels.features.base import CompositeMap, FeatureMap
from sggp.kernels.features.categories import MixedMap
from sggp.kernels.features.registry import draw_features
from sggp.kernels.features.stationary import FourierMap, fourier_map, per_column
from sggp.kernels.linear import DenseLinearKernel
from sggp.random import as_generator, draw_seed, streams

_MIXED = 64  # features of a name that multiply those of other factors; more are combined by random signs


@dataclass(frozen=True, eq=False)
class LinearMap(FeatureMap):
    """φ(x) = x √variance: the linear kernel itself, exactly."""

    root: Tensor
    input_dim: int
    dtype: torch.dtype = torch.float32

    exact = True

    @property
    def num_features(self) -> int:
        return self.input_dim

    def _evaluate(self, x: Tensor) -> Tensor:
        x = self._floating(x)
        return x * self.root.to(x.dtype)

    def rescaled(self, factor: float) -> LinearMap:
        return replace(self, root=self.root * math.sqrt(factor))


@dataclass(frozen=True, eq=False)
class ConstantMap(FeatureMap):
    """φ(x) = √constant."""

    constant: float
    input_dim: int
    dtype: torch.dtype = torch.float32

    exact = True

    @property
    def num_features(self) -> int:
        return 1

    def _evaluate(self, x: Tensor) -> Tensor:
        # 0·x keeps the features on the graph of x, so that a constant alone can be differentiated (to zero)
        return (self._floating(x)[..., :1] * 0.0) + math.sqrt(self.constant)

    def rescaled(self, factor: float) -> ConstantMap:
        return replace(self, constant=self.constant * float(factor))

    def on_columns(self, columns: Tensor, input_dim: int) -> ConstantMap:
        return replace(self, input_dim=input_dim)


@dataclass(frozen=True, eq=False)
class SumMap(CompositeMap):
    """The terms' features side by side: φ·φ is the sum of the terms' products."""

    terms: tuple[FeatureMap, ...]
    input_dim: int
    dtype: torch.dtype = torch.float32

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        return all(term.differentiable for term in self.terms)

    @property
    def exact(self) -> bool:  # type: ignore[override]
        return all(term.exact for term in self.terms)

    @property
    def num_features(self) -> int:
        return sum(term.num_features for term in self.terms)

    def _evaluate(self, x: Tensor) -> Tensor:
        return torch.cat([term.phi(x) for term in self.terms], -1)


@dataclass(frozen=True, eq=False)
class ProjectedMap(CompositeMap):
    """G random-sign combinations φ·r_1 … φ·r_G over √G, each alone unbiased: E[(φ(x)·r)(φ(z)·r)] = φ(x)·φ(z)."""

    base: FeatureMap
    signs: Tensor
    input_dim: int
    dtype: torch.dtype = torch.float32

    group_size = 1

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        return self.base.differentiable

    @property
    def num_features(self) -> int:
        return self.signs.shape[-1]

    def _evaluate(self, x: Tensor) -> Tensor:
        features = self.base.phi(x)
        return features @ self.signs.to(features.dtype) / math.sqrt(self.num_features)


@dataclass(frozen=True, eq=False)
class ProductMap(CompositeMap):
    """Group-by-group outer products of independent maps that all have the same number G of groups.

    Each factor's group m is an unbiased estimate of its kernel over G, and the factors are independent, so
    the outer product of the m-th groups is one of the product kernel over G^F; the factor G^{(F−1)/2} makes
    that 1/G.
    """

    factors: tuple[FeatureMap, ...]
    input_dim: int
    dtype: torch.dtype = torch.float32

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        return all(factor.differentiable for factor in self.factors)

    @property
    def group_size(self) -> int:  # type: ignore[override]
        return math.prod(factor.group_size or 1 for factor in self.factors)

    @property
    def num_groups(self) -> int:
        """G."""
        first = self.factors[0]
        return first.num_features // (first.group_size or 1)

    @property
    def num_features(self) -> int:
        return self.num_groups * self.group_size

    def _grouped(self, x: Tensor) -> Tensor:
        product = self.factors[0]._grouped(x)
        for factor in self.factors[1:]:
            product = (product[..., :, None] * factor._grouped(x)[..., None, :]).flatten(-2)
        return product * self.num_groups ** (0.5 * (len(self.factors) - 1))

    def _evaluate(self, x: Tensor) -> Tensor:
        return self._grouped(x).flatten(-2)


def _parts(kernel: Any, kind: type[Kernel]) -> list[Any]:
    """The kernels of a sum (or product), nested ones of the same kind opened."""
    found: list[Any] = []
    for part in kernel.kernels:
        found.extend(_parts(part, kind) if type(part) is kind and part.active_dims is None else [part])
    return found


def _exact_size(kernel: Kernel, input_dim: int) -> int | None:
    """How many features a kernel with an exact finite map needs; None for the others."""
    if isinstance(kernel, ScaleKernel):
        seen = input_dim if kernel.active_dims is None else len(kernel.active_dims)
        return _exact_size(kernel.base_kernel, seen)
    if isinstance(kernel, ConstantKernel):
        return 1
    if isinstance(kernel, LinearKernel):
        return input_dim if kernel.active_dims is None else len(kernel.active_dims)
    return None


@draw_features.register(ScaleKernel)
def _scale(
    kernel: ScaleKernel, num_features: int, *, input_dim: int, generator: torch.Generator
) -> FeatureMap:
    """outputscale · k; GPyTorch applies the base kernel's `active_dims` once, as its own."""
    base = kernel.base_kernel
    inner = draw_features.without_columns(base, num_features, input_dim=input_dim, generator=generator)
    return inner.rescaled(float(kernel.outputscale.detach()))


@draw_features.register(LinearKernel)
@draw_features.register(DenseLinearKernel)
def _linear(
    kernel: LinearKernel, num_features: int, *, input_dim: int, generator: torch.Generator
) -> LinearMap:
    """xᵀ diag(variance) z, exactly, with d features whatever `num_features`."""
    return LinearMap(per_column(kernel.variance, input_dim, "variance").sqrt(), input_dim)


@draw_features.register(ConstantKernel)
def _constant(
    kernel: ConstantKernel, num_features: int, *, input_dim: int, generator: torch.Generator
) -> ConstantMap:
    """A constant, exactly, with one feature."""
    return ConstantMap(float(kernel.constant.detach()), input_dim)


@draw_features.register(AdditiveKernel)
def _sum(
    kernel: AdditiveKernel, num_features: int, *, input_dim: int, generator: torch.Generator
) -> FeatureMap:
    """Concatenation; the terms share the features evenly, beside what exact ones need.

    In proportion to their scales, errors of φ·φ would be least. But where the data have said all about the larger
    terms, the smallest is what is left to know.
    """
    parts = _parts(kernel, AdditiveKernel)
    exact = [_exact_size(part, input_dim) for part in parts]
    even = num_features // max(1, exact.count(None))
    names = [f"term {index}" for index in range(len(parts))]
    terms = []
    for part, size, stream in zip(parts, exact, streams(generator, *names), strict=True):
        share = max(2, even) if size is None else size
        terms.append(draw_features.part(part, share, input_dim=input_dim, generator=stream))
    return SumMap(tuple(terms), input_dim)


@draw_features.register(ProductKernel)
def _product(
    kernel: ProductKernel, num_features: int, *, input_dim: int, generator: torch.Generator
) -> FeatureMap:
    """Stationary factors add their frequencies; anything else is multiplied group by group.

    Factors without groups (linear, sums, maps registered elsewhere) first become G random-sign combinations. The few
    exact features of tasks multiply all those of the other factors.
    """
    parts = _parts(kernel, ProductKernel)
    names = [f"factor {index}" for index in range(len(parts))]
    seeds = [draw_seed(stream) for stream in streams(generator, *names)]

    def drawn(index: int, size: int) -> FeatureMap:
        source = as_generator(seeds[index])
        return draw_features.part(parts[index], size, input_dim=input_dim, generator=source)

    trial = [drawn(index, num_features) for index in range(len(parts))]
    few = [factor for factor in trial if factor.finite and factor.num_features <= _MIXED]
    if few and len(parts) > 1:
        others = [part for part, factor in zip(parts, trial, strict=True) if factor not in few]
        if others:
            (rest,) = streams(generator, "what is mixed")
            few.append(
                draw_features.part(_product_of(others), num_features, input_dim=input_dim, generator=rest)
            )
        return MixedMap(tuple(few), input_dim)
    constants = [index for index, factor in enumerate(trial) if isinstance(factor, ConstantMap)]
    constant = math.prod(factor.constant for factor in trial if isinstance(factor, ConstantMap))
    fourier = [index for index, factor in enumerate(trial) if _has_law(factor)]
    others = [index for index in range(len(parts)) if index not in fourier + constants]
    if len(parts) - len(constants) <= 1:
        only = next((trial[index] for index in fourier + others), ConstantMap(1.0, input_dim))
        return only.rescaled(constant)
    (joint,) = streams(generator, "stationary factors")
    stationary = [trial[index] for index in fourier]
    if not others:
        return _stationary_product(stationary, num_features, joint).rescaled(constant)
    sizes = {index: trial[index].group_size or 1 for index in others}
    groups = max(1, num_features // math.prod([2] * bool(fourier) + list(sizes.values())))
    factors: list[FeatureMap] = []
    for index in others:
        if trial[index].group_size is None:
            factors.append(_projected(trial[index], groups, seeds[index]))
        else:
            factors.append(drawn(index, groups * sizes[index]))
    if fourier:
        factors.insert(0, _stationary_product(stationary, 2 * groups, joint))
    return ProductMap(tuple(factors), input_dim).rescaled(constant)


def _product_of(parts: list[Kernel]) -> Kernel:
    return parts[0] if len(parts) == 1 else ProductKernel(*parts)


def _has_law(factor: FeatureMap) -> bool:
    """Whether the map's frequencies can be drawn together with another's."""
    return isinstance(factor, FourierMap) and all(term.law is not None for term in factor.terms)


def _stationary_product(maps: list[FeatureMap], num_features: int, generator: torch.Generator) -> FourierMap:
    factors = [factor for factor in maps if isinstance(factor, FourierMap)]
    terms = [term for factor in factors for term in factor.terms]
    product = fourier_map(terms, num_features, factors[0].input_dim, generator)
    return replace(product, scale=math.prod(factor.scale for factor in factors))


def _projected(base: FeatureMap, groups: int, seed: int) -> ProjectedMap:
    (signs,) = streams(as_generator(seed), "signs of the combinations")
    draws = torch.randint(2, (base.num_features, groups), generator=signs, dtype=torch.int8)
    return ProjectedMap(base, draws * 2 - 1, base.input_dim, base.dtype)
