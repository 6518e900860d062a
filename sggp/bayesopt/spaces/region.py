"""Where sample paths are maximised: the coordinates of a box's columns, and the moves that stay among its points."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from sggp.bayesopt.spaces.columns import Column, Integer, Numbered
from sggp.bayesopt.spaces.constraints import LinearConstraint, Polytope
from sggp.errors import InputError
from sggp.typing import Dtype

ENUMERATED = 20_000
"""Most combinations of a box without continuous columns that are looked at one by one."""
_ALL_LEVELS = 24  # most values of an ordered column that are tried one by one
_REJECTION = 0.02  # least share of the box that constraints leave for samples to be drawn from the whole
_PROBES = 4096
_PROBE = 1e-4  # length of a step along a slope, in edges of the box, that shows where constraints turn it
_ATTEMPTS = 50


class Region:
    """The points of a box as coordinates (D,): those of all columns, one after the other.

    Args:
        columns: C columns. names: what they are called.
        constraints: on continuous and integer columns.
        bounds: (D, 2) of the coordinates, where all columns are continuous and linear; None: between 0 and 1.

    Raises:
        InputError: the constraints leave nothing, or no interior.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        names: Sequence[str],
        constraints: Sequence[LinearConstraint] = (),
        bounds: Tensor | None = None,
    ) -> None:
        self.columns = tuple(columns)
        ends = [0]
        for column in self.columns:
            ends.append(ends[-1] + column.size)
        self.dimension = ends[-1]
        self.places = [slice(a, b) for a, b in pairwise(ends)]
        unit = torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(self.dimension, -1)
        self.bounds = unit if bounds is None else bounds
        self.low, self.width = self.bounds[:, 0], self.bounds[:, 1] - self.bounds[:, 0]
        self.avoid = torch.empty(0, self.dimension, dtype=torch.float64)
        self.numbered = [
            (place, column)
            for place, column in zip(self.places, self.columns, strict=True)
            if isinstance(column, Numbered)
        ]
        self.free = torch.ones(self.dimension, dtype=torch.bool)  # the continuous coordinates
        for place, _ in self.numbered:
            self.free[place] = False
        self.constraints = tuple(constraints)
        self._held = torch.tensor(self._held_places(names), dtype=torch.long)
        self.polytope = self._polytope(names) if self.constraints else None
        if self.polytope is not None:
            if bool(self.free[self._held].any()):
                self.polytope.centre  # noqa: B018  which refuses constraints that leave nothing
            self.listed  # noqa: B018  the same
        self._rejection = self.polytope is None or self._share() >= _REJECTION

    def without(self, points: Tensor) -> Region:
        """The same region, in which these points (k, D) are not to be proposed."""
        out = copy.copy(self)
        out.avoid = torch.cat([self.avoid, points.detach().cpu().to(torch.float64)])
        return out

    @property
    def combinations(self) -> float:
        """How many combinations of values there are, constraints left aside."""
        return math.prod(column.count for column in self.columns)

    @property
    def capacity(self) -> float:
        """How many points there are; where they are too many to list, constraints are left aside."""
        return self.combinations if self.listed is None else len(self.listed)

    @cached_property
    def listed(self) -> Tensor | None:
        """(N, D) every point, in the order of the values' numbers; None where they are more than `ENUMERATED`."""
        if self.combinations > ENUMERATED:
            return None
        grids = torch.cartesian_prod(*(torch.arange(int(column.count)) for _, column in self.numbered))
        points = torch.zeros(int(self.combinations), self.dimension, dtype=torch.float64)
        for (place, column), numbers in zip(self.numbered, grids.reshape(len(points), -1).T, strict=True):
            points[:, place] = column.codes(numbers)
        kept = points[self.feasible(points)]
        if not len(kept):
            raise InputError(f"no combination of values fulfils the constraints: {self.told}.")
        return kept

    @property
    def told(self) -> str:
        """The constraints, for messages."""
        return "; ".join(map(str, self.constraints))

    def clip(self, points: Tensor) -> Tensor:
        """(..., D) points moved between the bounds."""
        low, high = self.bounds.to(points.dtype).to(points.device).unbind(-1)
        return torch.minimum(torch.maximum(points, low), high)

    def feasible(self, points: Tensor) -> Tensor:
        """(...) whether points (..., D) fulfil the constraints."""
        if self.polytope is None:
            return torch.ones(points.shape[:-1], dtype=torch.bool)
        return self.polytope.feasible(points[..., self._held])

    def from_columns(self, unit: Tensor) -> Tensor:
        """(n, D) points from n points (n, C) of a unit cube with one dimension per column."""
        if not self.numbered:
            return self.clip(self.low + unit * self.width)
        points = torch.empty(len(unit), self.dimension, dtype=torch.float64)
        for j, (place, column) in enumerate(zip(self.places, self.columns, strict=True)):
            share = unit[:, j].to(torch.float64)
            if isinstance(column, Numbered):
                points[:, place] = column.codes(
                    (share * column.count).long().clamp(max=int(column.count) - 1)
                )
            else:
                points[:, place] = share[:, None]
        return points

    def sample(self, count: int, *, generator: torch.Generator, dtype: Dtype = torch.float64) -> Tensor:
        """(count, D) points: uniform, or spread over what the constraints leave.

        Raises:
            InputError: none is found, which happens where few whole numbers fulfil narrow constraints.
        """
        if self.polytope is None:
            return self._uniform(count, generator).to(dtype)
        found: list[Tensor] = []
        for attempt in range(_ATTEMPTS):
            many = max(2 * count, 64) * (1 if attempt < 5 else 8)
            points, kept = self._constrained(many, generator)
            found.append(points[kept])
            if sum(map(len, found)) >= count:
                return torch.cat(found)[:count].to(dtype)
        if any(map(len, found)):
            points = torch.cat(found)
            return points[torch.randint(len(points), (count,), generator=generator)].to(dtype)
        raise InputError(
            f"no point was found that fulfils the constraints with whole numbers: {self.told}. Widen a bound, or make "
            "a column continuous."
        )

    def scatter(self, points: Tensor, spread: Tensor, generator: torch.Generator) -> Tensor:
        """(n, D) points near others: continuous coordinates by normal noise, some of the other columns changed.

        Args:
            points: (n, D) where to start. spread: (n, D) standard deviations.
        """
        noise = torch.randn(points.shape, generator=generator, dtype=torch.float64)
        around = self.clip(points.to(torch.float64) + spread * noise)
        if self.numbered:
            around = torch.where(self.free, around, points.to(torch.float64))
            share = 0.5 if self.free.any() else 1.0
            moved = torch.rand(len(points), len(self.numbered), generator=generator)
            chosen = moved < share / len(self.numbered)
            if share == 1.0:  # at least one column of those that have nothing else to change
                chosen |= moved == moved.amin(dim=1, keepdim=True)
            for j, (place, column) in enumerate(self.numbered):
                other = self._others(column, around[:, place], spread[:, place].amax(dim=1), generator)
                around[:, place] = torch.where(chosen[:, j : j + 1], other, around[:, place])
        if self.polytope is None:
            return around
        around, kept = self.repaired(around)
        lost = int((~kept).sum())
        if lost:
            around[~kept] = self.sample(lost, generator=generator)
        return around

    def step(self, old: Tensor, new: Tensor) -> Tensor:
        """(..., D) from points of the region towards others, in the continuous coordinates only."""
        moved = self.clip(new)
        if self.numbered:
            moved = torch.where(self.free.to(moved.device), moved, old)
        if self.polytope is None:
            return moved
        held, free = self._held, self.free[self._held]
        moved = moved.clone()
        moved[..., held] = self.polytope.step(old[..., held], moved[..., held], free).to(moved.dtype)
        return moved

    def uphill(self, points: Tensor, slope: Tensor) -> Tensor:
        """(..., D) the part of the slopes at points that the constraints let one follow: none at a best point.

        Steps that are scaled by coordinate, as Adam's are, end elsewhere without.
        """
        if self.polytope is None:
            return slope
        size = slope.norm(dim=-1, keepdim=True).clamp_min(1e-300) / (_PROBE * self.width.mean())
        return (self.step(points, points + slope / size) - points) * size

    def repaired(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(..., D) points with continuous coordinates moved into the constraints, and whether that succeeded (...)."""
        if self.polytope is None:
            return points, self.feasible(points)
        kept, free = self.feasible(points), self.free[self._held]
        if not bool(kept.all()) and bool(free.any()):
            points = points.clone()
            wrong = points[~kept]
            wrong[..., self._held] = self.polytope.project(wrong[..., self._held], free)
            points[~kept] = self.clip(wrong)
            kept = self.feasible(points)
        return points, kept

    def exchanges(self, points: Tensor, place: slice, column: Numbered) -> Tensor:
        """(..., m, D) points (..., D) with other values of one column: all, or for long ones some near and far."""
        now = column.numbers(points[..., place])[..., None]
        if column.count <= _ALL_LEVELS or not column.ordered:
            numbers = torch.arange(int(column.count)).expand(*now.shape[:-1], -1)
        else:
            hops = torch.tensor([2**k for k in range(int(column.count).bit_length())])
            numbers = (now + torch.cat([-hops.flip(0), hops])).clamp(0, int(column.count) - 1)
        moved = points[..., None, :].expand(*points.shape[:-1], numbers.shape[-1], -1).clone()
        moved[..., place] = column.codes(numbers).to(points.dtype)
        return moved

    def _others(
        self, column: Numbered, codes: Tensor, spread: Tensor, generator: torch.Generator
    ) -> Tensor:  # (n, size), (n,) -> (n, size)
        """Another value of a column for each: a near one where they are ordered."""
        now, count = column.numbers(codes), int(column.count)
        if not column.ordered:
            return column.codes((now + torch.randint(1, count, now.shape, generator=generator)) % count)
        size = torch.randn(now.shape, generator=generator, dtype=torch.float64).abs() * spread * (count - 1)
        sign = 2 * torch.randint(2, now.shape, generator=generator) - 1
        hop = sign * size.ceil().clamp_min(1).long()
        inside = (now + hop >= 0) & (now + hop < count)
        return column.codes(torch.where(inside, now + hop, now - hop).clamp(0, count - 1))

    def _uniform(self, count: int, generator: torch.Generator) -> Tensor:
        return self.from_columns(
            torch.rand(count, len(self.columns), generator=generator, dtype=torch.float64)
        )

    def _constrained(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        points = self._uniform(count, generator)
        if self._rejection or self.polytope is None:
            return points, self.feasible(points)
        points[:, self._held] = self.polytope.walk(count, generator)
        for place, column in self.numbered:
            if isinstance(column, Integer):
                points[:, place] = column.codes(column.numbers(points[:, place]))
        return self.repaired(points)

    def _share(self) -> float:
        """The share of the box that fulfils the constraints."""
        points = self._uniform(_PROBES, torch.Generator().manual_seed(0))
        return float(self.feasible(points).double().mean())

    def _held_places(self, names: Sequence[str]) -> list[int]:
        """The coordinates that constraints speak of."""
        held = {name for constraint in self.constraints for name in constraint.coefficients}
        return [p.start for p, name in zip(self.places, names, strict=True) if name in held]

    def _polytope(self, names: Sequence[str]) -> Polytope:
        """The constraints in these coordinates."""
        held = self._held.tolist()
        position = {
            name: held.index(p.start) for p, name in zip(self.places, names, strict=True) if p.start in held
        }
        columns = {name: column for name, column in zip(names, self.columns, strict=True) if name in position}
        upper: list[tuple[Tensor, float]] = []
        equal: list[tuple[Tensor, float]] = []
        for constraint in self.constraints:
            row, offset = torch.zeros(len(held), dtype=torch.float64), 0.0
            for name, weight in constraint.weights.items():
                j, column = position[name], columns[name]
                low, high = float(column.low), float(column.high)  # type: ignore[attr-defined]
                scale = (high - low) / float(self.width[held[j]])
                row[j] = weight * scale
                offset += weight * (low - scale * float(self.low[held[j]]))
            if constraint.equals is not None:
                equal.append((row, constraint.equals - offset))
            if constraint.at_most is not None:
                upper.append((row, constraint.at_most - offset))
            if constraint.at_least is not None:
                upper.append((-row, offset - constraint.at_least))
        ends = self.bounds[self._held]
        return Polytope(
            ends[:, 0], ends[:, 1], _stacked(upper, len(held)), _stacked(equal, len(held)), self.told
        )


def _stacked(rows: list[tuple[Tensor, float]], width: int) -> tuple[Tensor, Tensor]:
    if not rows:
        return torch.zeros(0, width, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    return torch.stack([row for row, _ in rows]), torch.tensor([end for _, end in rows], dtype=torch.float64)
