"""What a preconditioner is: frozen settings that build an object with `apply` and `log_det`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from sggp.errors import InputError, UnsupportedOperator
from sggp.linalg import cholesky
from sggp.operators.base import NeighbourOperator

__all__ = ["Built", "Given", "LowRankPlus", "Preconditioner", "Rooted", "Unfinished", "gram"]

_TILE = 256


class Built(Protocol):
    """A symmetric positive definite P close to the operator."""

    @property
    def log_det(self) -> float: ...

    def apply(self, v: Tensor) -> Tensor:  # (n, s) -> (n, s)
        """P⁻¹v, in the dtype of v."""
        ...


@runtime_checkable
class Rooted(Built, Protocol):
    """A preconditioner with a square root of its inverse, P⁻¹ = WWᵀ, so that log|A| = log|P| + tr log WᵀAW."""

    def root(self, v: Tensor) -> Tensor:  # (n, s) -> (n, s)
        """Wv, float64."""
        ...

    def root_transpose(self, v: Tensor) -> Tensor:  # (n, s) -> (n, s)
        """Wᵀv, float64."""
        ...


class Preconditioner(ABC):
    """Settings of a preconditioner; subclasses are frozen dataclasses."""

    @abstractmethod
    def build(self, operator: Any, generator: torch.Generator) -> Built:
        """Build P from an operator.

        Raises:
            UnsupportedOperator: the operator lacks the small blocks that are needed.
        """


@dataclass(frozen=True)
class Given(Preconditioner):
    """A preconditioner that is built already, for a matrix not far from the one to solve with.

    Args:
        built: an object with `apply` and `log_det`.
    """

    built: Any = field(repr=False)

    def build(self, operator: Any, generator: torch.Generator) -> Built:
        return self.built


class Unfinished:
    """What there is of a preconditioner whose set-up had to end early.

    Args:
        built: a cheaper P; None for P = 1.
        note: why, and what is taken instead.
    """

    def __init__(self, built: Built | None, note: str) -> None:
        self._built, self.note = built, note

    @property
    def log_det(self) -> float:
        return 0.0 if self._built is None else self._built.log_det

    def apply(self, v: Tensor) -> Tensor:
        return v.clone() if self._built is None else self._built.apply(v)


def require_blocks(operator: Any, who: str) -> NeighbourOperator:
    """The operator, if it offers small float64 blocks and neighbours."""
    if not isinstance(operator, NeighbourOperator):
        raise UnsupportedOperator(
            f"{who} needs small blocks of K and the noise (sggp.operators.NeighbourOperator), which "
            f"{type(operator).__name__} does not offer; use preconditioner=None."
        )
    return operator


def require_finite(what: str, values: Tensor) -> Tensor:
    """The values, if none is NaN or infinity: comparisons with NaN are false, so nothing later would notice."""
    if not bool(torch.isfinite(values).all()):
        raise InputError(
            f"{what}: NaN or infinity in {int((~torch.isfinite(values)).sum())} of {values.numel()} entries. Check the "
            "kernel and its hyperparameters on these inputs."
        )
    return values


class Diagonal:
    """P = D, given as (n,) float64 positive values."""

    def __init__(self, values: Tensor) -> None:
        self._values = values[:, None]
        self.log_det = float(values.log().sum())

    def apply(self, v: Tensor) -> Tensor:
        return (v.double() / self._values).to(v.dtype)

    def root(self, v: Tensor) -> Tensor:
        return v.double() * self._values.rsqrt()

    root_transpose = root


class LowRankPlus:
    """P = FFᵀ + R for a preconditioner R with R⁻¹ = UUᵀ, inverted by Woodbury's identity in float64.

    P⁻¹v = U(I − G(I + GᵀG)⁻¹Gᵀ)Uᵀv with G = UᵀF, which alone is kept. The products run in float64 because the
    difference cancels when the noise is small: in float32 it would not stay positive definite.

    Cost: n·r² + r³/3 flops, 8·(n + r)·r bytes; an application 4·n·r·s flops beside those of U.
    """

    def __init__(self, factor: Tensor, rest: Rooted) -> None:
        self._rest, self._spread = rest, rest.root_transpose(factor)  # G
        self._core = gram(self._spread)
        self._core.diagonal().add_(1.0)
        self._lower = cholesky(self._core, "the inner matrix of Woodbury's identity")
        self.log_det = rest.log_det + float(2 * self._lower.diagonal().log().sum())

    def apply(self, v: Tensor) -> Tensor:
        inner = self._rest.root_transpose(v.double())
        # a tall matrix is read by rows in both products: its transpose times a few columns takes twice the time
        weights = torch.cholesky_solve((inner.T.contiguous() @ self._spread).T, self._lower)
        return self._rest.root(inner.addmm_(self._spread, weights, alpha=-1)).to(v.dtype)

    def root(self, v: Tensor) -> Tensor:
        """Wv for W = U(I + GGᵀ)^-½."""
        return self._rest.root(self._shrunk(v.double()))

    def root_transpose(self, v: Tensor) -> Tensor:
        """Wᵀv."""
        return self._shrunk(self._rest.root_transpose(v))

    def _shrunk(self, v: Tensor) -> Tensor:
        """(I + GGᵀ)^-½ v."""
        return torch.addmm(v, self._spread, self._correction @ (self._spread.T @ v))

    @cached_property
    def _correction(self) -> Tensor:  # (r, r)
        return correction(self._core)


class DiagonalPlus(ABC):
    """The roots of the inverse of P = D^½(I + GGᵀ)D^½ with G = D^-½F, which is known by products with F alone.

    Attributes:
        diagonal: (n,) D. correction: (m, m) B with (I + GGᵀ)^-½ = I + GBGᵀ.
    """

    diagonal: Tensor

    @property
    @abstractmethod
    def correction(self) -> Tensor: ...

    @abstractmethod
    def collected(self, v: Tensor) -> Tensor:  # (n, s) -> (m, s)
        """Fᵀv."""

    @abstractmethod
    def spread(self, z: Tensor) -> Tensor:  # (m, s) -> (n, s)
        """Fz."""

    def root(self, v: Tensor) -> Tensor:  # (n, s) -> (n, s)
        """Wv for W = D^-½(I + GGᵀ)^-½, P⁻¹ = WWᵀ."""
        return self._shrunk(v.double()) * self.diagonal.rsqrt()[:, None]

    def root_transpose(self, v: Tensor) -> Tensor:  # (n, s) -> (n, s)
        """Wᵀv."""
        return self._shrunk(v.double() * self.diagonal.rsqrt()[:, None])

    def _shrunk(self, v: Tensor) -> Tensor:
        """(I + GGᵀ)^-½ v."""
        scale = self.diagonal.rsqrt()[:, None]
        return v + scale * self.spread(self.correction @ self.collected(scale * v))


def correction(core: Tensor) -> Tensor:  # (r, r) -> (r, r)
    """B with (I + GGᵀ)^-½ = I + GBGᵀ, from the core I + GᵀG.

    On an eigenvector of GᵀG with eigenvalue t, B is ((1 + t)^-½ − 1)/t, written without its cancellation at a small t.
    """
    values, vectors = torch.linalg.eigh(core)
    root = values.clamp_min(1.0).sqrt()
    return (vectors * -(root * (1.0 + root)).reciprocal()) @ vectors.T


def gram(a: Tensor) -> Tensor:  # (n, r) -> (r, r)
    """AᵀA by tiles of columns, each with those before it only: half the flops of a product, n·r²."""
    return mirrored(add_gram(a.new_zeros(a.shape[1], a.shape[1]), a))


def add_gram(total: Tensor, a: Tensor) -> Tensor:  # (r, r), (n, r)
    """Add AᵀA to the lower triangle of a matrix, and what the tiles on its diagonal have above it."""
    for start in range(0, a.shape[1], _TILE):
        stop = min(start + _TILE, a.shape[1])
        total[start:stop, :stop].addmm_(a[:, start:stop].T, a[:, :stop])
    return total


def mirrored(lower: Tensor) -> Tensor:  # (r, r)
    """The lower triangle of a matrix on both sides of its diagonal, in place."""
    for start in range(_TILE, len(lower), _TILE):
        stop = min(start + _TILE, len(lower))
        lower[:start, start:stop] = lower[start:stop, :start].T
    return lower


def noise_of(noise: Tensor, scale: float) -> Tensor:  # (n,)
    """Σ that is no less than a share 1e-10 of the largest diagonal entry of P, which is `scale` without it."""
    floor = 1e-10 * (scale + float(noise.max()))
    return noise.clamp_min(max(floor, torch.finfo(torch.float64).tiny))


def low_rank_plus_noise(factor: Tensor, noise: Tensor) -> LowRankPlus:
    """P = FFᵀ + Σ, for a noise that is no less than a share 1e-10 of the largest diagonal entry of P."""
    return LowRankPlus(factor, Diagonal(noise_of(noise, float(factor.square().sum(1).max()))))
