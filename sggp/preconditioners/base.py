"""What a preconditioner is: frozen settings that build an object with `apply` and `log_det`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from sggp.errors import InputError, UnsupportedOperator
from sggp.linalg import cholesky
from sggp.operators.base import NeighbourOperator

__all__ = ["Built", "Given", "LowRankPlusDiagonal", "Preconditioner", "Rooted"]


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


def require_positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise InputError(f"{name} must be at least 1 or None, got {value}.")


def root_correction(core: Tensor) -> Tensor:  # (r, r) -> (r, r)
    """B with (I + GGᵀ)^-½ = I + GBGᵀ, from the core I + GᵀG.

    On an eigenvector of GᵀG with eigenvalue t, B is ((1 + t)^-½ − 1)/t, written without its cancellation at small t.
    """
    values, vectors = torch.linalg.eigh(core)
    root = values.clamp_min(1.0).sqrt()
    return (vectors * -(root * (1.0 + root)).reciprocal()) @ vectors.T


class LowRankPlusDiagonal:
    """P = FFᵀ + D, inverted by Woodbury's identity in float64.

    P⁻¹v = D⁻¹v − D⁻¹F(I + FᵀD⁻¹F)⁻¹FᵀD⁻¹v. The products run in float64 because the difference cancels when the noise is
    small: in float32 it would not stay positive definite.
    """

    def __init__(self, factor: Tensor, diagonal: Tensor) -> None:
        floor = 1e-10 * float((factor.square().sum(1) + diagonal).max())
        diagonal = diagonal.clamp_min(max(floor, torch.finfo(torch.float64).tiny))
        weighted = factor / diagonal[:, None]
        core = factor.T @ weighted
        core.diagonal().add_(1.0)
        lower = cholesky(
            require_finite("the low-rank part of the preconditioner", core),
            "the inner matrix of Woodbury's identity",
        )
        self._diagonal, self._factor, self._core = diagonal, factor, core
        self._half = torch.linalg.solve_triangular(lower, weighted.T, upper=False)  # (r, n)
        self._correction: Tensor | None = None
        self.log_det = float(2 * lower.diagonal().log().sum() + diagonal.log().sum())

    def apply(self, v: Tensor) -> Tensor:
        wide = v.double()
        return (wide / self._diagonal[:, None] - self._half.T @ (self._half @ wide)).to(v.dtype)

    def root(self, v: Tensor) -> Tensor:
        """Wv for W = D^-½(I + GGᵀ)^-½, G = D^-½F."""
        scale = self._diagonal.rsqrt()[:, None]
        wide, weighted = v.double(), self._factor * scale
        return scale * (wide + weighted @ (self._middle() @ (weighted.T @ wide)))

    def root_transpose(self, v: Tensor) -> Tensor:
        """Wᵀv."""
        scale = self._diagonal.rsqrt()[:, None]
        wide, weighted = scale * v.double(), self._factor * scale
        return wide + weighted @ (self._middle() @ (weighted.T @ wide))

    def _middle(self) -> Tensor:
        if self._correction is None:
            self._correction = root_correction(self._core)
        return self._correction
