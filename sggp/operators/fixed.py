"""x ↦ K(x, z) v for one v and many x, as predictions are: far fields whose source side is made once.

A far field brings the weights to every place where values may be asked for (`sggp.native.far.FarFunction`), at the cost
of a product with all rows or so. After that a value takes a few hundred or thousand kernel entries, whatever n is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sggp.autograd import full_precision
from sggp.kernels.covariance import Covariance, StationaryTerm
from sggp.kernels.points import Points
from sggp.native import far as native_far
from sggp.operators import far
from sggp.operators.far import far_product, stationary_terms, varying

if TYPE_CHECKING:
    from sggp.native.far import FarFunction

__all__ = ["FixedProduct"]

_CAPACITIES = (600, 200, 60)
_NUMBERS = 2**27
"""Kept for all columns at most, where a capacity allows it: half a GiB in float32."""
_LOOK = 1e4
"""Entries in whose time a row is sorted into a tree and lists are made."""
_ROWS = 2**18
_CHECKED = 128


class _Part(NamedTuple):
    """A term of the kernel."""

    columns: Tensor  # in which the rows z differ
    others: Tensor
    function: FarFunction


class FixedProduct:
    """K(·, z) v.

    By a far field from when the rows asked for, all calls together, would have paid for it; until then, and at rows
    further outside the box around z than half its extent, as `sggp.operators.far.far_product`.

    Args:
        covariance: k. z: (n, d) prepared rows. v: (n, s).
        error: root mean square of what a column of values may be wrong by; at least `PRODUCT_TOLERANCE` of that of the
            column is let pass whatever it says. A far field is measured once, on 128 of the rows z.
    """

    def __init__(self, covariance: Covariance, z: Points, v: Tensor, error: float) -> None:
        self.covariance, self.z, self.v, self.error = covariance, z, v.detach(), error
        self._forget()

    def _forget(self) -> None:
        self._parts: list[_Part] = []
        self._asked, self._needed = 0, max(_LOOK, far.FAR_ROWS**2 / max(1, len(self.z)))

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_parts": []}

    @full_precision()
    def __call__(self, x: Tensor) -> Tensor:  # (q, d) -> (q, s)
        """The product, in the precision of the rows; differentiable in x, then by the dense route."""
        if torch.is_grad_enabled() and x.requires_grad:
            return self.covariance.matmul(x, self.z, self.v)
        if not self.ready(len(x)):
            return far_product(self.covariance, x, self.z, self.v, error=self.error)
        return torch.cat([self._by_field(rows) for rows in x.split(_ROWS)])

    def columns(self, chosen: Tensor) -> FixedProduct:  # (c,)
        """The product with some columns of v: by the far field of all, which its calls help to pay for."""
        return _Columns(self, chosen)

    def ready(self, rows: int = 0) -> bool:
        """Whether the far field is there; it is made if so many rows more make it pay."""
        self._asked += rows
        dense = self._asked * (1 + self.v.shape[1] / far.COLUMNS_OF_AN_ENTRY)  # times n: entries
        if not self._parts and dense >= self._needed:
            self._make(dense)
        return bool(self._parts)

    def _make(self, dense: float) -> None:
        terms = stationary_terms(self.z, self.z)
        columns = [varying(term.b) for term in terms or []]
        self._needed = float("inf")
        if terms is None or not self.v.numel() or any(len(c) > far.MOST_DIMENSIONS for c in columns):
            return
        for level, tolerance in enumerate(far.TOLERANCES):
            parts = [self._part(term, c, tolerance) for term, c in zip(terms, columns, strict=True)]
            coefficients = sum(part.function.passes.coefficients for part in parts)
            work = _LOOK + coefficients * self.v.shape[1] / far.COLUMNS_OF_AN_ENTRY / len(self.z)
            if work > dense:
                self._needed = work
                return
            for part in parts:
                part.function.weigh(self.v.double() if level else self.v.float())
            if self._good(parts):
                self._parts = parts
                return

    def _part(self, term: StationaryTerm, columns: Tensor, tolerance: float) -> _Part:
        rows, s = term.b[:, columns].contiguous(), self.v.shape[1]
        candidates: list[tuple[float, FarFunction]] = []
        for capacity in _CAPACITIES:
            found = native_far.FarFunction(rows, term.profile, tolerance, capacity=capacity)
            near = found.near_rows * len(rows) * (1 + s / far.COLUMNS_OF_AN_ENTRY)
            work = near + found.passes.coefficients * s / far.COLUMNS_OF_AN_ENTRY
            if candidates and (work >= candidates[-1][0] or found.numbers * s > _NUMBERS):
                break
            candidates.append((work, found))
        others = torch.ones(term.b.shape[1], dtype=torch.bool)
        others[columns] = False
        return _Part(columns, others.nonzero()[:, 0], candidates[-1][1])

    def _good(self, parts: list[_Part]) -> bool:
        """Whether the error is what is allowed, at some of the rows z."""
        some = torch.randperm(len(self.z), generator=torch.Generator().manual_seed(0))[:_CHECKED]
        rows, wide = self.z[some].astype(torch.float64), self.z.astype(torch.float64)
        exact = self.covariance.matmul(rows, wide, self.v.double()).double()
        wrong = self._sum(parts, self.z[some])[0].double() - exact
        rounding = far.PRODUCT_TOLERANCE * exact.square().mean(0).sqrt()
        return bool((wrong.square().mean(0).sqrt() <= rounding.clamp_min(self.error)).all())

    def _by_field(self, x: Tensor) -> Tensor:
        points = self.covariance.prepare(x, self.z.centre)
        found, outside = self._sum(self._parts, points)
        found = found.to(points.dtype)
        if len(outside):
            found[outside] = far_product(self.covariance, x[outside], self.z, self.v, error=self.error).to(
                found.dtype
            )
        return found

    def _sum(self, parts: list[_Part], points: Points) -> tuple[Tensor, Tensor]:
        """The sum of the terms, and the rows where it is none: those outside."""
        terms = stationary_terms(points, self.z) or []
        inside = torch.ones(len(points), dtype=torch.bool)
        for term, part in zip(terms, parts, strict=True):
            inside &= part.function.inside(term.a[:, part.columns])
            inside &= (term.a[:, part.others] == term.b[:1, part.others]).all(1)
        out = torch.zeros(len(points), self.v.shape[1], dtype=parts[0].function.dtype)
        rows = slice(None) if bool(inside.all()) else inside
        for term, part in zip(terms, parts, strict=True):
            out[rows] += part.function(term.a[rows][:, part.columns])
        return out, (~inside).nonzero()[:, 0]


class _Columns(FixedProduct):
    """Some columns of a product."""

    def __init__(self, whole: FixedProduct, chosen: Tensor) -> None:
        super().__init__(whole.covariance, whole.z, whole.v[:, chosen], whole.error)
        self.whole, self.chosen = whole, chosen

    def __reduce__(self) -> tuple[object, ...]:
        return FixedProduct, (self.covariance, self.z, self.v, self.error)

    def ready(self, rows: int = 0) -> bool:
        """Whether the far field of all columns is there; it is made if these rows make it pay."""
        own, all_ = (1 + v.shape[1] / far.COLUMNS_OF_AN_ENTRY for v in (self.v, self.whole.v))
        if not self._parts and self.whole.ready(math.ceil(rows * own / all_)):
            self._parts = [
                part._replace(function=part.function.columns(self.chosen)) for part in self.whole._parts
            ]
        return bool(self._parts)
