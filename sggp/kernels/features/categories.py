"""Features of kernels over names, tasks and categories, and the mixing of functions by the few features of tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from gpytorch.kernels import IndexKernel
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor

from sggp.kernels.features import prf
from sggp.kernels.features.base import CompositeMap, FeatureMap, ScaledMap
from sggp.kernels.features.registry import draw_features
from sggp.kernels.tasks import TaskKernel, codes_of

_STRANGERS = 8  # features that tell apart values that are none of the known categories


@dataclass(frozen=True, eq=False)
class IndexMap(FeatureMap):
    """φ(t) = row t of a root of the covariance matrix: exact, with one feature for each column of the root.

    Args:
        root: (T, r), with root rootᵀ the covariances. names: (T,) sorted numbers of the T rows.
    """

    root: Tensor
    names: Tensor
    input_dim: int = 1
    dtype: torch.dtype = torch.float32

    exact = True
    finite = True

    @property
    def num_features(self) -> int:
        return self.root.shape[1]

    def _evaluate(self, x: Tensor) -> Tensor:
        features = self.root.to(x.device)[codes_of(x[..., 0], self.names)].to(self._output_dtype(x))
        return features + x * 0.0 if x.requires_grad else features

    def rescaled(self, factor: float) -> IndexMap:
        return replace(self, root=self.root * float(factor) ** 0.5)


@dataclass(frozen=True, eq=False)
class MixedMap(CompositeMap):
    """All products of the factors' features: φ(x)·φ(z) is the product of those of the factors.

    Where one factor is the Cholesky factor of tasks, a function is for each task another mixture of independent
    functions, whose features the other factor holds.
    """

    factors: tuple[FeatureMap, ...]
    input_dim: int
    dtype: torch.dtype = torch.float32

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        return all(factor.differentiable for factor in self.factors)

    @property
    def exact(self) -> bool:  # type: ignore[override]
        return all(factor.exact for factor in self.factors)

    @property
    def num_features(self) -> int:
        return reduce(lambda count, factor: count * factor.num_features, self.factors, 1)

    def _evaluate(self, x: Tensor) -> Tensor:
        each = (factor.phi(x) for factor in self.factors)
        return reduce(lambda left, right: (left[..., :, None] * right[..., None, :]).flatten(-2), each)


@dataclass(frozen=True, eq=False)
class HammingMap(ScaledMap):
    """Random signs for k(x, z) = scale · Π_j (a_j + (1 − a_j) [x_j = z_j]), of categories in any number.

    Feature m looks at each column j with probability 1 − a_j, and is the product over these columns of pseudo-random
    signs of what stands in them: of two rows it is the same but for columns that differ, where its mean is zero.
    φ(x)·φ(x) is the scale exactly.

    Args:
        keys: (2, M) int32, the keys of the signs. seen: (M, d) bool, the columns of each feature.
        input_dim: d.
        scale: k(x, x).
    """

    keys: Tensor
    seen: Tensor
    input_dim: int
    scale: float = 1.0
    dtype: torch.dtype = torch.float32

    group_size = 1

    @property
    def num_features(self) -> int:
        """M."""
        return self.keys.shape[1]

    def _evaluate(self, x: Tensor) -> Tensor:
        rows = x.detach().reshape(-1, self.input_dim)
        out = rows.new_full((len(rows), self.num_features), 1.0, dtype=self._output_dtype(x))
        for j in range(self.input_dim):
            values, which = (rows[:, j].double() + 0.0).unique(return_inverse=True)  # −0 is 0
            signs = prf.sign(prf.table(_elements(values, j), self.keys.to(x.device))).to(out)
            out *= torch.where(self.seen[:, j].to(x.device), signs, 1.0)[which]
        out = out.mul_((self.scale / self.num_features) ** 0.5).reshape(*x.shape[:-1], -1)
        return out + x[..., :1] * 0.0 if x.requires_grad else out


@dataclass(frozen=True, eq=False)
class LevelsMap(ScaledMap):
    """Features of the same kernel that are exact over known categories: all products of those of the columns.

    Column j has one feature √a_j, and one √(1 − a_j) for each of its categories. A value that is none of them has, in
    the place of the latter, eight further ones with pseudo-random signs: k is exact between it and known ones, and on
    the diagonal, and holds on average between two such values.

    Args:
        keys: (2, 8) int32, the keys of the signs. levels: for each column, its categories, sorted.
        same: (d,) the a_j.
        input_dim: d.
        scale: k(x, x).
    """

    keys: Tensor
    levels: tuple[Tensor, ...]
    same: Tensor
    input_dim: int
    scale: float = 1.0
    dtype: torch.dtype = torch.float32

    @property
    def num_features(self) -> int:
        return levels_size([len(levels) for levels in self.levels])

    def _evaluate(self, x: Tensor) -> Tensor:
        rows = x.detach().reshape(-1, self.input_dim).double()
        out = torch.ones(len(rows), 1, dtype=self._output_dtype(x), device=x.device)
        for j, levels in enumerate(self.levels):
            values, which = (rows[:, j] + 0.0).unique(return_inverse=True)
            features = self._of_column(values, levels.to(x.device), j).to(out)[which]
            out = (out[:, :, None] * features[:, None, :]).flatten(1)
        out = out.mul_(self.scale**0.5).reshape(*x.shape[:-1], -1)
        return out + x[..., :1] * 0.0 if x.requires_grad else out

    def _of_column(self, values: Tensor, levels: Tensor, column: int) -> Tensor:  # (u,) -> (u, 1 + c + 8)
        same = float(self.same[column])
        signs = prf.sign(prf.table(_elements(values, column), self.keys.to(values.device))).to(values)
        equal = (values[:, None] == levels).to(values)
        strange = signs * (1 - equal.sum(1, keepdim=True)) / _STRANGERS**0.5
        return torch.cat(
            [
                torch.full_like(strange[:, :1], same**0.5),
                equal * (1 - same) ** 0.5,
                strange * (1 - same) ** 0.5,
            ],
            1,
        )


def levels_size(counts: Sequence[int]) -> int:
    """Number of features of a `LevelsMap` of columns of so many categories."""
    return math.prod(1 + count + _STRANGERS for count in counts)


def levels_map(
    weights: Tensor, levels: Sequence[Sequence[float]], *, generator: torch.Generator
) -> LevelsMap:
    """Features of exp(−Σ_j w_j [x_j ≠ z_j]), exact over the levels of each column."""
    known = tuple(torch.tensor(sorted(each), dtype=torch.float64) for each in levels)
    same = torch.exp(-weights.detach().double().cpu())
    return LevelsMap(prf.draw_keys(_STRANGERS, generator), known, same, len(known))


def _elements(values: Tensor, column: int) -> Tensor:
    """Codes of float64 values of a column, for the pseudo-random function."""
    bits = values.contiguous().view(torch.int64)
    return prf.element_codes(bits ^ (bits >> 29), column % 2048)


def hamming_map(
    weights: Tensor, num_features: int, *, input_dim: int, generator: torch.Generator
) -> HammingMap:
    """Features of exp(−Σ_j w_j [x_j ≠ z_j]).

    Args:
        weights: (d,).
    """
    keys = prf.draw_keys(num_features, generator)
    never = torch.rand(num_features, input_dim, generator=generator, dtype=torch.float64)
    return HammingMap(keys, never >= torch.exp(-weights.detach().double().cpu()), input_dim)


@draw_features.register(IndexKernel)
def _index(kernel: IndexKernel, num_features: int, *, input_dim: int, generator: torch.Generator) -> IndexMap:
    return _of_table(kernel, torch.arange(kernel.raw_var.shape[-1]))


@draw_features.register(TaskKernel)
def _tasks(kernel: TaskKernel, num_features: int, *, input_dim: int, generator: torch.Generator) -> IndexMap:
    return _of_table(kernel, kernel.tasks.detach().cpu().clone())


def _of_table(kernel: IndexKernel, names: Tensor) -> IndexMap:
    """By a Cholesky factor, whatever number of features is asked for."""
    table = kernel._eval_covar_matrix().detach().double().cpu()
    return IndexMap(psd_safe_cholesky(table), names)
