"""Sums, products and scalings of covariances, and covariances that look at some columns."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sggp.errors import InputError
from sggp.kernels.covariance import Covariance, StationaryTerm
from sggp.kernels.points import Points

__all__ = [
    "ColumnsCovariance",
    "ConstantCovariance",
    "ProductCovariance",
    "ScaledCovariance",
    "SumCovariance",
    "Wrapper",
]


class _Composite(Covariance):
    """Shared by sums and products: the rows are prepared once for every term."""

    _combine: Callable[[Any, Any], Any]  # of two terms' values

    def __init__(
        self, terms: Sequence[Covariance], *, dtype: torch.dtype | None = None, name: str = ""
    ) -> None:
        super().__init__(dtype=dtype, name=name)
        if not terms:
            raise InputError(f"{self.name} has no terms.")
        self.terms = tuple(terms)
        self.centres = any(term.centres for term in terms)
        self.shift_invariant = all(term.shift_invariant for term in terms)
        self.counts = all(term.counts for term in terms)

    def _children(self, raw: Tensor, centre: Tensor | None) -> tuple[Points, ...]:
        return tuple(term.prepare(raw, centre if term.centres else None) for term in self.terms)

    def _tile_shape(self, x: Points, z: Points, v: Tensor, memory_budget: int) -> tuple[int, int]:
        shapes = [t._tile_shape(p, q, v, memory_budget * 3 // 4) for t, p, q in self._zip(x, z)]
        return min(shapes, key=lambda s: s[0] * s[1])

    def _zip(self, x: Points, z: Points) -> list[tuple[Covariance, Points, Points]]:
        return list(zip(self.terms, x.children, z.children, strict=True))

    @property
    def scale(self) -> float:
        return reduce(self._combine, (term.scale for term in self.terms))

    def _block(self, x: Points, z: Points) -> Tensor:
        return reduce(self._combine, (term._block(p, q) for term, p, q in self._zip(x, z)))

    def diagonal(self, x: Tensor | Points) -> Tensor:
        children = self.prepare(x).children
        return reduce(self._combine, (term.diagonal(p) for term, p in zip(self.terms, children, strict=True)))

    def _small_blocks(self, x: Tensor) -> Tensor:
        return reduce(self._combine, (term._small_blocks(x) for term in self.terms))


class SumCovariance(_Composite):
    """k = Σ_t k_t; a product with columns runs each term's own engine."""

    _combine = staticmethod(operator.add)

    def _block(self, x: Points, z: Points) -> Tensor:
        """One term after the other, of which two are in memory: the sum so far and the next."""
        first, *others = (_weighted(term, p, q) for term, p, q in self._zip(x, z))
        total = first.weight * first.block()
        for other in others:
            block = other.block()
            if total.requires_grad or block.requires_grad:
                total = total + block * other.weight
            else:
                total.add_(block, alpha=other.weight)
            del block
        return total

    def _matmul(self, x: Points, z: Points, v: Tensor, memory_budget: int) -> Tensor:
        return reduce(Tensor.add_, (term._matmul(p, q, v, memory_budget) for term, p, q in self._zip(x, z)))

    def stationary_terms(self, x: Points, z: Points) -> list[StationaryTerm] | None:
        found: list[StationaryTerm] = []
        for term, p, q in self._zip(x, z):
            terms = term.stationary_terms(p, q)
            if terms is None:
                return None
            found += terms
        return found


class _Weighted(NamedTuple):
    weight: float
    block: Callable[[], Tensor]


def _weighted(term: Covariance, x: Points, z: Points) -> _Weighted:
    """A term as a number times a block that is still to be evaluated."""
    if isinstance(term, ScaledCovariance):
        return _Weighted(term.outputscale, partial(term.inner._block, x.children[0], z.children[0]))
    return _Weighted(1.0, partial(term._block, x, z))


class ProductCovariance(_Composite):
    """k = Π_t k_t, multiplied tile by tile."""

    _combine = staticmethod(operator.mul)


class ConstantCovariance(Covariance):
    """k = c: what an unknown constant adds to a process."""

    shift_invariant = True

    def __init__(self, constant: float, *, dtype: torch.dtype | None = None, name: str = "") -> None:
        super().__init__(dtype=dtype, name=name)
        self.constant = float(constant)

    @property
    def scale(self) -> float:
        return self.constant

    def _block(self, x: Points, z: Points) -> Tensor:
        constant = torch.full((len(x), len(z)), self.constant, dtype=x.dtype, device=x.device)
        for rows in (x.raw, z.raw):
            if rows.requires_grad:  # of gradient zero, but on the graph
                constant = constant + 0.0 * rows.sum().to(constant)
        return constant

    def _matmul(self, x: Points, z: Points, v: Tensor, memory_budget: int) -> Tensor:
        return (v.sum(0, keepdim=True) * self.constant).repeat(len(x), 1)

    def diagonal(self, x: Tensor | Points) -> Tensor:
        x = self.prepare(x)
        return torch.full((len(x),), self.constant, dtype=x.dtype, device=x.device)

    def _small_blocks(self, x: Tensor) -> Tensor:
        b, m = x.shape[:2]
        return torch.full((b, m, m), self.constant, dtype=torch.float64, device=x.device)

    def rescaled(self, factor: float) -> ConstantCovariance:
        return ConstantCovariance(self.constant * factor, dtype=self.dtype, name=self.name)

    def on_columns(self, columns: Tensor) -> ConstantCovariance:
        return self


class Wrapper(Covariance):
    """A covariance of one other, whose rows are its only children."""

    def __init__(self, inner: Covariance) -> None:
        super().__init__(dtype=inner.dtype, name=inner.name)
        self.inner = inner
        self.centres = inner.centres
        self.shift_invariant = inner.shift_invariant
        self.counts = inner.counts

    @property
    def scale(self) -> float:
        return self.inner.scale

    def recomputes(self, device: torch.device) -> bool:
        return self.inner.recomputes(device)

    def _tile_shape(self, x: Points, z: Points, v: Tensor, memory_budget: int) -> tuple[int, int]:
        return self.inner._tile_shape(x.children[0], z.children[0], v, memory_budget * 3 // 4)

    def _block(self, x: Points, z: Points) -> Tensor:
        return self.inner._block(x.children[0], z.children[0])

    def _matmul(self, x: Points, z: Points, v: Tensor, memory_budget: int) -> Tensor:
        return self.inner._matmul(x.children[0], z.children[0], v, memory_budget)

    def stationary_terms(self, x: Points, z: Points) -> list[StationaryTerm] | None:
        return self.inner.stationary_terms(x.children[0], z.children[0])

    def diagonal(self, x: Tensor | Points) -> Tensor:
        return self.inner.diagonal(self.prepare(x).children[0])

    def embedding(self, x: Tensor | Points) -> Tensor | None:
        """That of the inner covariance: scaling keeps the order."""
        return self.inner.embedding(self.prepare(x).children[0])


class ScaledCovariance(Wrapper):
    """k = outputscale · k_inner, for kernels whose engine has no scale of its own."""

    def __init__(self, inner: Covariance, outputscale: float) -> None:
        super().__init__(inner)
        self.outputscale = float(outputscale)

    @property
    def scale(self) -> float:
        return self.outputscale * self.inner.scale

    def _children(self, raw: Tensor, centre: Tensor | None) -> tuple[Points, ...]:
        return (self.inner.prepare(raw, centre),)

    def _block(self, x: Points, z: Points) -> Tensor:
        return super()._block(x, z) * self.outputscale

    def _matmul(self, x: Points, z: Points, v: Tensor, memory_budget: int) -> Tensor:
        return super()._matmul(x, z, v, memory_budget).mul_(self.outputscale)

    def stationary_terms(self, x: Points, z: Points) -> list[StationaryTerm] | None:
        terms, factor = super().stationary_terms(x, z), self.outputscale
        if terms is None:
            return None
        return [t._replace(profile=replace(t.profile, scale=t.profile.scale * factor)) for t in terms]

    def diagonal(self, x: Tensor | Points) -> Tensor:
        return super().diagonal(x) * self.outputscale

    def plain_rows(self, x: Points) -> Tensor:
        return self.inner.plain_rows(x.children[0])

    def _small_blocks(self, x: Tensor) -> Tensor:
        return self.inner._small_blocks(x).mul_(self.outputscale)


class ColumnsCovariance(Wrapper):
    """k(x, z) = k_inner(x[columns], z[columns]): GPyTorch's `active_dims` for any inner covariance."""

    def __init__(self, inner: Covariance, columns: Tensor) -> None:
        super().__init__(inner)
        self.columns = columns.detach().long().reshape(-1).clone()
        first, count = int(self.columns[:1].sum()), len(self.columns)
        side_by_side = torch.equal(self.columns.cpu(), torch.arange(first, first + count))
        self.run = slice(first, first + count) if side_by_side else None

    def _seen(self, rows: Tensor) -> Tensor:  # (..., d) -> (..., c)
        """The columns; those side by side are moved as one piece, not entry by entry."""
        if self.run is None:
            return rows[..., self.columns.to(rows.device)]
        return rows[..., self.run].contiguous()

    def _children(self, raw: Tensor, centre: Tensor | None) -> tuple[Points, ...]:
        return (self.inner.prepare(self._seen(raw), None if centre is None else self._seen(centre)),)

    def _small_blocks(self, x: Tensor) -> Tensor:
        return self.inner._small_blocks(self._seen(x))
