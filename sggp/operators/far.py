"""Products with stationary kernels of many rows in at most three dimensions: far entries within a stated tolerance.

See `sggp.native.far`. In float32 every entry is within 5e-7 of the scale, but for rounding (3e-7 root mean square). In
float64 a product is compared with exact rows of it, at random places: where its error exceeds `PRODUCT_TOLERANCE` of
its norm, it is made again with a smaller tolerance, and exactly where none is small enough.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sggp.kernels.covariance import Covariance, StationaryTerm
from sggp.kernels.points import Points
from sggp.native import far as native_far
from sggp.native.families import Profile

if TYPE_CHECKING:
    from sggp.native.far import FarField

__all__ = ["FAR_ROWS", "FarMatrix", "far_matrix", "far_product", "stationary_terms", "varying"]

FAR_ROWS = 12_000
"""From so many rows on (a geometric mean where there are two sets) far fields are looked at.

Measured, CPU seconds of a Matérn-3/2 product beside a dense one, 1, 16 and 65 columns: 0.39, 0.23, 0.19 in one
dimension, 0.87, 0.62, 0.42 in two. In three they are alike between 24,000 and 48,000 rows, which `PAYS` finds by
counting.
"""
MOST_DIMENSIONS = 3
PRODUCT_TOLERANCE = 1e-7
"""Error of a float64 product that is let pass, relative to its norm: a tenth of the least default tolerance."""
TOLERANCES = (5e-7, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11)
"""Of an entry, relative to the scale: the first in float32, the others in float64."""
_SETUP_WORK = (0.0, 2e10, 4e10, 1e11, 1.4e11, 1.4e11)
"""Entries in the time that making the fields of a tolerance takes, measured: 60,000 x 3 rows, Matérn-1/2."""
_CHECKED_ROWS = 128
CAPACITIES = (150, 400, 1000)
COLUMNS_OF_AN_ENTRY = 22
"""So many columns take as long to be multiplied by an entry as it takes to be made."""
SIZED_FOR = 16
"""Columns that trees are sized for."""
PAYS = 0.5
"""Share of the n·m entries that a product with a far field may take, to be preferred."""
_QUERY_ROWS = 2**20
_LEAST_QUERIES = 4096

Exact = Callable[[Tensor | None, Tensor], Tensor]  # rows (b,), v (m, s) -> (b, s) float64


class FarMatrix:
    """K(x, z) by far fields, one for each term of the kernel.

    Args:
        terms: scaled rows of x, of z (None for those of x) and the profile, for each term.
        exact: (rows, v) → those rows of K(x, z) v in float64; rows None for all of them.
    """

    def __init__(self, terms: list[tuple[Tensor, Tensor | None, Profile]], exact: Exact) -> None:
        self.terms, self.exact = terms, exact
        self.rows = len(terms[0][0])
        self._made: dict[int, list[FarField]] = {}
        self._owed = dict(enumerate(_SETUP_WORK))
        self._started = {"matmul": 1, "within": 0}
        count = min(_CHECKED_ROWS, self.rows)
        self.checked = torch.randperm(self.rows, generator=torch.Generator().manual_seed(0))[:count]
        self.entries = 0

    def matmul(self, v: Tensor) -> Tensor:  # (m, s) -> (n, s)
        """K(x, z) v, in the precision of v; in float64 within `PRODUCT_TOLERANCE` of its norm."""
        if v.dtype == torch.float32:
            return self._sum(self.narrow, v)
        return self._improved(v, torch.zeros(v.shape[1], dtype=torch.float64), "matmul")[0]

    def within(self, v: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:  # (m, s), (s,) -> (n, s), (s,)
        """K(x, z) v in float64 with no more error than allowed, as 2-norms of the columns, and that error.

        Columns are multiplied in float32 first, and those whose error is not allowed with smaller and smaller
        tolerances in float64, in the end exactly; the next time begins with the tolerance that was enough.
        """
        return self._improved(v, allowed, "within")

    def _improved(self, v: Tensor, allowed: Tensor, caller: str) -> tuple[Tensor, Tensor]:
        level = self._started[caller]
        product, error = self._attempt(v, level)
        for step in range(level + 1, len(TOLERANCES) + 1):
            rounding = PRODUCT_TOLERANCE * torch.linalg.vector_norm(product, dim=0)
            missed = (error > torch.maximum(allowed, rounding)).nonzero()[:, 0]
            if not len(missed):
                break
            product[:, missed], error[missed] = self._attempt(v[:, missed], step)
            self._started[caller] = min(step, len(TOLERANCES) - 1)
        return product, error

    def _attempt(self, v: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """The product by one of the tolerances and its error; exactly where none is left, or exact is less work."""
        if level == 0:
            found = self._sum(self.narrow, v.float()).double()
        elif self._pays(v, level):
            found = self._sum(self._made[level], v.double())
        else:
            self.entries += self.rows * len(v)
            return self.exact(None, v), torch.zeros(v.shape[1], dtype=torch.float64)
        return found, self.error(v, found)

    def _pays(self, v: Tensor, level: int) -> bool:
        """Whether the fields of a tolerance are made, or now are: once exact products have taken as long as that."""
        if level == len(TOLERANCES):
            return False
        if level not in self._made:
            self._owed[level] -= self.rows * len(v) * (1 + v.shape[1] / COLUMNS_OF_AN_ENTRY)
            if self._owed[level] > 0:
                return False
            self._made[level] = self._fields(TOLERANCES[level])
        return True

    def error(self, v: Tensor, product: Tensor) -> Tensor:  # (m, s), (n, s) -> (s,)
        """2-norms of what a product is wrong by, from exact rows at random places: two standard errors above the mean.

        Cost: 128·m entries.
        """
        wrong = (self.exact(self.checked, v) - product[self.checked]).square()
        self.entries += len(self.checked) * len(v)
        spread = wrong.std(0) / math.sqrt(len(wrong))
        return (self.rows * (wrong.mean(0) + 2 * spread)).sqrt()

    @property
    def entries_per_product(self) -> int:
        """Kernel entries made and coupling coefficients read by a product in float32."""
        return sum(field.entries for field in self.narrow)

    def work(self, columns: float) -> float:
        """Entries whose evaluation and multiplication take as long as a float32 product with so many columns."""
        return sum(field.work(columns) for field in self.narrow)

    @cached_property
    def narrow(self) -> list[FarField]:
        """The fields of products in float32."""
        return self._fields(TOLERANCES[0])

    def _fields(self, tolerance: float) -> list[FarField]:
        return [_least_work(*term, tolerance) for term in self.terms]

    def _sum(self, fields: list[FarField], v: Tensor) -> Tensor:
        first, *others = fields
        found = first.matmul(v)
        for field in others:
            found += field.matmul(v)
        self.entries += sum(field.entries for field in fields)
        return found


def far_matrix(x: Points, z: Points | None = None) -> FarMatrix | None:
    """K(x, z) by far fields where that takes at most half of the entries, else None.

    That is: on the CPU, from `FAR_ROWS` rows on, for stationary kernels and sums of them that each see at most three
    columns that are not constant. `SGGP_FAR_FIELD=0` in the environment switches far fields off.
    """
    right = x if z is None else z
    terms = None if math.sqrt(len(x) * len(right)) < FAR_ROWS else stationary_terms(x, right)
    if terms is None:
        return None
    covariance: Covariance = x.owner
    pairs = []
    for term in terms:
        columns = varying(term.a, term.b)
        if len(columns) > MOST_DIMENSIONS:
            return None
        left, other = (rows[:, columns].contiguous() for rows in (term.a, term.b))
        pairs.append((left, None if z is None else other, term.profile))

    def exact(rows: Tensor | None, v: Tensor) -> Tensor:
        some = x if rows is None else x[rows]
        return covariance.matmul(some.astype(torch.float64), right.astype(torch.float64), v.double()).double()

    found = FarMatrix(pairs, exact)
    work = found.work(SIZED_FOR)
    return found if work <= PAYS * len(x) * len(right) * len(pairs) else None


def _least_work(a: Tensor, b: Tensor | None, profile: Profile, tolerance: float) -> FarField:
    fields = (native_far.FarField(a, b, profile, tolerance, capacity=capacity) for capacity in CAPACITIES)
    return min(fields, key=lambda field: field.work(SIZED_FOR))


def far_product(covariance: Covariance, x: Tensor, z: Points, v: Tensor, *, error: float = 0.0) -> Tensor:
    """covariance.matmul(x, z, v), by far fields where these pay and nothing is differentiated; in blocks of rows.

    Args:
        error: root mean square of what a column of the result may be wrong by; at least `PRODUCT_TOLERANCE` of that of
            the column is let pass whatever it says.
    """
    differentiated = torch.is_grad_enabled() and (x.requires_grad or z.requires_grad or v.requires_grad)
    if differentiated or len(x) < _LEAST_QUERIES or len(x) * len(z) < FAR_ROWS**2:
        return covariance.matmul(x, z, v)
    parts = []
    for rows in x.split(_QUERY_ROWS):
        points = covariance.prepare(rows, z.centre)
        far = far_matrix(points, z)
        if far is None:
            parts.append(covariance.matmul(points, z, v))
            continue
        allowed = torch.full((v.shape[1],), error * math.sqrt(len(rows)), dtype=torch.float64)
        parts.append(far.within(v.double(), allowed)[0].to(points.dtype))
    return torch.cat(parts)


def stationary_terms(x: Points, z: Points) -> list[StationaryTerm] | None:
    """K(x, z) as a sum of stationary kernels, where far fields are for it and switched on."""
    covariance: Covariance | None = x.owner
    if covariance is None or x.device.type != "cpu" or os.environ.get("SGGP_FAR_FIELD") == "0":
        return None
    return covariance.stationary_terms(x, z)


def varying(*sets: Tensor) -> Tensor:  # (n, d) each -> (c,)
    """The columns in which rows differ from one another: others move no distance. One column where there are none."""
    low = torch.stack([rows.min(0).values for rows in sets]).min(0).values
    high = torch.stack([rows.max(0).values for rows in sets]).max(0).values
    columns = (high > low).nonzero()[:, 0]
    return columns if len(columns) else torch.zeros(min(1, len(low)), dtype=torch.int64)
