"""Linear constraints on the columns of a box, and the polytope that they cut out of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.linalg import null_space
from scipy.optimize import linprog
from torch import Tensor

from sggp.checks import finite_number
from sggp.errors import DtypeError, InputError

MARGIN = 1e-8
"""How far inside its inequalities a point is proposed, in edges of the box, so that rounding leaves it inside."""
_ROUNDING = 1e-10
_THIN = 1e-7  # radius of the largest ball inside, in edges of the box, from which on there is an interior
_SWEEPS = 60  # of Dykstra's projections
_WARM = 1024  # points from which walks start
_STEPS = 20  # of each walk


@dataclass(frozen=True)
class LinearConstraint:
    """A weighted sum of columns between bounds, or equal to a number.

    Args:
        coefficients: the weight of each column by name, continuous or integer ones; or names, which all weigh 1.
        at_most, at_least: bounds of the sum, one or both.
        equals: what the sum is, of continuous columns only: parts of a mixture have ``equals=1``.

    Raises:
        InputError: no bound or no column; a number that is not finite; `equals` beside bounds.

    Example:
        >>> LinearConstraint(["water", "ethanol", "acetone"], equals=1.0)
        LinearConstraint(water + ethanol + acetone = 1)
        >>> LinearConstraint({"base": 1.0, "acid": -2.0}, at_most=0.5)
        LinearConstraint(base - 2 acid <= 0.5)
    """

    coefficients: Mapping[str, float] | Sequence[str]
    at_most: float | None = None
    at_least: float | None = None
    equals: float | None = None

    def __post_init__(self) -> None:
        given: Any = self.coefficients
        if not isinstance(given, Mapping | list | tuple):  # names alone are a list
            raise DtypeError(f"a LinearConstraint needs weights by column name, got {type(given).__name__}.")
        pairs = given.items() if isinstance(given, Mapping) else ((name, 1.0) for name in given)
        weights = {str(name): finite_number(weight, f"the weight of {name!r}") for name, weight in pairs}
        kept = {name: weight for name, weight in weights.items() if weight != 0}
        if not kept:
            raise InputError("a LinearConstraint needs at least one column whose weight is not 0.")
        object.__setattr__(self, "coefficients", kept)
        for end in ("at_most", "at_least", "equals"):
            if getattr(self, end) is not None:
                object.__setattr__(self, end, finite_number(getattr(self, end), end))
        bounds = (self.at_most is not None) + (self.at_least is not None)
        if (self.equals is None) == (bounds == 0):
            raise InputError("a LinearConstraint needs at_most, at_least or both, or else equals.")

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each column by name."""
        return dict(self.coefficients)  # type: ignore[arg-type]  # names are gone since __post_init__

    def value(self, point: Mapping[str, Any]) -> float:
        """The sum at a point."""
        return math.fsum(weight * float(point[name]) for name, weight in self.weights.items())

    def misfit(self, point: Mapping[str, Any]) -> float:
        """By how much the sum misses its bounds at a point, 0 where it does not."""
        total = self.value(point)
        if self.equals is not None:
            return abs(total - self.equals)
        above = 0.0 if self.at_most is None else total - self.at_most
        below = 0.0 if self.at_least is None else self.at_least - total
        return max(above, below, 0.0)

    def describe(self) -> dict[str, Any]:
        """Everything about it, as JSON; arguments to make it again."""
        told = {end: getattr(self, end) for end in ("at_most", "at_least", "equals")}
        return {"coefficients": self.weights} | {k: v for k, v in told.items() if v is not None}

    def __str__(self) -> str:
        parts = []
        for name, weight in self.weights.items():
            size = "" if abs(weight) == 1 else f"{abs(weight):g} "
            parts.append(("- " if weight < 0 else "+ ") + size + name)
        total = " ".join(parts).removeprefix("+ ")
        if self.equals is not None:
            return f"{total} = {self.equals:g}"
        low = "" if self.at_least is None else f"{self.at_least:g} <= "
        high = "" if self.at_most is None else f" <= {self.at_most:g}"
        return f"{low}{total}{high}"

    def __repr__(self) -> str:
        return f"LinearConstraint({self})"


class Polytope:
    """The points x of a box of p coordinates with A x <= b and E x = f, rows of A and E of length 1.

    Args:
        low, high: (p,) the box.
        upper: A (m, p) and b (m,). equal: E (r, p) and f (r,). Rows of any length but 0.
        told: what the constraints are, for messages.
    """

    def __init__(
        self,
        low: Tensor,
        high: Tensor,
        upper: tuple[Tensor, Tensor],
        equal: tuple[Tensor, Tensor],
        told: str,
    ) -> None:
        self.low, self.high = low, high
        self.upper, self.bound = _of_length_one(*upper)
        self.bound = self.bound - MARGIN
        self.equal, self.total = _of_length_one(*equal)
        p = len(low)
        basis = np.eye(p) if not len(self.equal) else null_space(self.equal.numpy())
        self._basis = torch.from_numpy(np.ascontiguousarray(basis))  # (p, q)
        self._inverse = (
            torch.linalg.pinv(self.equal) if len(self.equal) else torch.zeros(p, 0, dtype=low.dtype)
        )
        self._told = told
        self._warm: Tensor | None = None
        self._shape = self._basis

    def feasible(self, points: Tensor) -> Tensor:
        """(...) whether points (..., p) fulfil everything but for rounding."""
        x = points.to(torch.float64)
        inside = ((x >= self.low - _ROUNDING) & (x <= self.high + _ROUNDING)).all(-1)
        inside &= (x @ self.upper.T <= self.bound + MARGIN + _ROUNDING).all(-1)
        return inside & ((x @ self.equal.T - self.total).abs() <= _ROUNDING).all(-1)

    def step(self, old: Tensor, new: Tensor, free: Tensor) -> Tensor:
        """From feasible points (..., p) towards others: nearly the nearest feasible point that differs in `free` (p,).

        Dykstra's projections, then back along the line to the old point as far as is needed: exactly feasible.

        Source: Boyle & Dykstra (1986); the line is our own.
        """
        aim = self.project(torch.where(free, new.to(torch.float64), old.to(torch.float64)), free)
        x = old.to(torch.float64)
        d = torch.where(free, aim - x, torch.zeros((), dtype=torch.float64))
        share = self._reach(x, d, slack=1e-10).clamp(max=1.0)
        return torch.minimum(torch.maximum(x + share[..., None] * d, self.low), self.high)

    def walk(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, p) points spread over the polytope, by hit-and-run from points that are spread already.

        Source: Smith (1984). Departure: directions have the covariance of earlier points, so that long thin bodies
        are crossed as quickly as round ones.
        """
        if self._warm is None:
            fixed = torch.Generator().manual_seed(0)
            points = self.centre.expand(_WARM, -1)
            shape = self._basis
            for _ in range(4):
                points = self._walk(points, shape, 2 * _STEPS, fixed)
                inner = (points - points.mean(0)) @ self._basis
                spread = inner.T @ inner / _WARM
                scale, turn = torch.linalg.eigh(spread)
                shape = self._basis @ (turn * scale.clamp_min(1e-16).sqrt())
            self._warm, self._shape = points, shape
        first = torch.randint(_WARM, (count,), generator=generator)
        return self._walk(self._warm[first], self._shape, _STEPS, generator)

    def _walk(self, x: Tensor, shape: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        for _ in range(steps):
            d = torch.randn(len(x), shape.shape[1], generator=generator, dtype=torch.float64) @ shape.T
            d = d / d.norm(dim=1, keepdim=True).clamp_min(1e-300)
            ahead, back = self._reach(x, d, 0.0), self._reach(x, -d, 0.0)
            share = torch.rand(len(x), generator=generator, dtype=torch.float64)
            x = x + (share * (ahead + back) - back)[:, None] * d
            x = torch.minimum(torch.maximum(self._level(x), self.low), self.high)
        return x

    def _reach(self, x: Tensor, d: Tensor, slack: float) -> Tensor:
        """(...) how many times d (..., p) may be added to x before a constraint is in the way."""
        far = torch.full((), math.inf, dtype=torch.float64)

        def until(room: Tensor, speed: Tensor) -> Tensor:
            times = torch.where(speed > slack, room.clamp_min(0.0) / speed.clamp_min(1e-300), far)
            return times.amin(-1) if times.shape[-1] else far.expand(times.shape[:-1])

        walls = torch.minimum(until(self.high - x, d), until(x - self.low, -d))
        return torch.minimum(walls, until(self.bound - x @ self.upper.T, d @ self.upper.T))

    def _level(self, x: Tensor) -> Tensor:
        """The nearest points with E x = f."""
        return x - (x @ self.equal.T - self.total) @ self._inverse.T if len(self.equal) else x

    def project(self, x: Tensor, free: Tensor) -> Tensor:
        """Nearly the nearest points in all constraints that differ from x (..., p) in `free` only."""
        rows = self.upper * free
        length = rows.square().sum(1)
        equal = self.equal * free
        inverse = torch.linalg.pinv(equal) if len(equal) else None
        debt = [torch.zeros_like(x) for _ in range(len(rows) + 1)]
        for _ in range(_SWEEPS):
            before = x
            for i, row in enumerate(rows):
                y = x + debt[i]
                over = (y @ self.upper[i] - self.bound[i]).clamp_min(0.0)
                x = y - (over / length[i])[..., None] * row if length[i] > 0 else y
                debt[i] = y - x
            if inverse is not None:
                x = x - (x @ self.equal.T - self.total) @ inverse.T
            y = x + debt[-1]
            x = torch.where(free, torch.minimum(torch.maximum(y, self.low), self.high), y)
            debt[-1] = y - x
            if bool(((x - before).abs() <= 1e-13).all()):
                break
        if inverse is not None:
            x = x - (x @ self.equal.T - self.total) @ inverse.T
        return x

    @cached_property
    def centre(self) -> Tensor:
        """(p,) the centre of the largest ball inside, by a linear programme.

        Raises:
            InputError: no point fulfils the constraints, or only points of lower dimension do.
        """
        p, inside = len(self.low), self._basis @ self._basis.T
        rows = torch.cat([self.upper, torch.eye(p, dtype=torch.float64), -torch.eye(p, dtype=torch.float64)])
        bound = torch.cat([self.bound, self.high, -self.low])
        reach = (rows @ inside).norm(dim=1, keepdim=True)
        equal = torch.cat([self.equal, torch.zeros(len(self.equal), 1, dtype=torch.float64)], dim=1)
        found = linprog(
            [0.0] * p + [-1.0],
            A_ub=torch.cat([rows, reach], dim=1).numpy(),
            b_ub=bound.numpy(),
            A_eq=equal.numpy() if len(equal) else None,
            b_eq=self.total.numpy() if len(equal) else None,
            bounds=[(None, None)] * p + [(None, 1.0)],
        )
        if found.x is None or found.x[-1] < -2 * MARGIN:
            raise InputError(
                f"no point of the box fulfils the constraints: {self._told}. Widen a bound or drop one."
            )
        if found.x[-1] < _THIN or not self._basis.shape[1]:
            raise InputError(
                f"the constraints leave no interior: {self._told}. Say what is to be equal by equals=, leave out "
                "columns that have one value only, or widen a bound."
            )
        return torch.from_numpy(found.x[:p]).clamp(self.low, self.high)


def _of_length_one(rows: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    length = rows.norm(dim=1)
    return rows / length[:, None], bound / length
