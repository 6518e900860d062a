"""The best point of every sample path in a box: candidates near good points, ascent, exchanges, and never a repeat."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from sggp.bayesopt.maximise import BoxSearch, Paths, finite, maximise_pool
from sggp.bayesopt.spaces.region import Region
from sggp.errors import Exhausted, ShapeError

REPEAT = 1e-6
"""Two points are the same where no coordinate differs by more than this share of its range."""
_APART = (1e-2, 1e-3, 1e-4, 1e-5, REPEAT)  # how far from all others a point should be that replaces a repeat
_REPLACEMENTS = 128  # candidates for each such point
_EXCHANGES = 8  # sweeps over all columns at most, where there is nothing else to change
_FEW_EXCHANGES = 3  # and before each ascent
_PASSES = 2  # of exchanges and ascent


class HasRegion(Protocol):
    """What `maximise_box` asks of a `Box`."""

    @property
    def region(self) -> Region:
        """Its points in the coordinates of the paths."""


def maximise_box(
    paths: Paths,
    box: HasRegion,
    *,
    generator: torch.Generator,
    search: BoxSearch | None = None,
    maximize: bool = True,
    near: tuple[Tensor, Tensor] | None = None,
    lengthscale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The best point of each of s paths in a box, no point twice and none that is known.

    Candidates are drawn uniformly and near good measured points, every path picks its best of each round, and
    the best few climb by projected Adam on ``paths.paired``, all paths and starts at once. Columns of whole numbers,
    levels and categories take, one column at a time, the best of their values before each climb; paths are only
    ever looked at where a measurement can be made. The best point seen on the way is kept, so the result is never
    worse than the best candidate. A box of at most 20,000 combinations is looked at whole.

    A path whose best point is known, or that of an earlier path, takes the best other point it was looked at in or
    one scattered about it, if possible a hundredth of the box away from all those.

    Args:
        paths: s sample paths, differentiable in their points when ``search.steps > 0``.
        box: where to look, perhaps `Box.without` points that are not to be proposed: no coordinate of which is more
            than 1e-6 of its range away.
        generator: source of the candidates.
        search: how hard to look.
        maximize: False looks for the smallest value instead.
        near: measured inputs (n, D) and values (n,) to draw candidates around; None draws uniformly only.
        lengthscale: (D,) or scalar distance over which paths vary, in the units of the box; sets the spread
            of the candidates (half of it, as in the source) and the size of the Adam steps. None: a fifth of
            the box.

    Returns:
        points (s, D) inside the box, and the paths' values there (s,).

    Raises:
        InputError: a path gives a value that is not finite. Exhausted: fewer than s points are left.

    Cost: (rounds * candidates + 3 * starts * steps) evaluations of each path, and at most 8 * starts for each value
    of the columns that are not continuous, twice.

    Source: Lin et al., "Sampling from Gaussian process posteriors using stochastic gradient descent" (2023),
    section 4.2, and its successor (2024); valid points only, as in Garrido-Merchan & Hernandez-Lobato (2020).
    Departures: 1. measured points are drawn with weights that increase with their value (the published code had
    the sign of the shift reversed, so the worst point had the largest weight); 2. the spread varies between a tenth
    of half a length scale and the whole of it; 3. steps are in length scales, projected on the box, and decay.
    """
    settings, region = search or BoxSearch(), box.region
    sign = 1.0 if maximize else -1.0
    dtype = near[0].dtype if near is not None and near[0].is_floating_point() else torch.float64
    known = Known(region, region.avoid)
    if region.listed is not None and settings.repeats:
        with torch.no_grad():
            height, row = (sign * finite(paths(region.listed.to(dtype)))).cpu().max(dim=1)
        return region.listed[row].to(dtype), sign * height
    if region.listed is not None:
        return _best_listed(paths, region.listed.to(dtype), known, maximize)
    scale = _step_scale(region, lengthscale).to(dtype)
    draw = partial(_candidates, region, settings, near, sign, scale, generator, dtype)
    every, heights = _best_of_rounds(paths, draw, settings.rounds, sign)
    values, order = heights.topk(min(settings.starts, settings.rounds), dim=1)
    points = every.gather(1, order.unsqueeze(-1).expand(-1, -1, every.shape[2]))
    for _ in range(_PASSES if region.numbered else 1):
        if region.numbered:
            points, values = _exchange(paths, region, points, sign)
        if bool(region.free.any()):
            points, values = _climb(paths, region, points, settings, sign, scale)
    looked = torch.cat([points, every], dim=1), torch.cat([values, heights], dim=1)
    if settings.repeats:
        values, best = looked[1].max(dim=1)
        return looked[0][torch.arange(len(best)), best], sign * values
    points, values = _without_repeats(paths, region, *looked, known, sign, generator)
    return points, sign * values


class Known:
    """Points of a region that are not to be proposed again.

    Args:
        points: (n, D).
    """

    def __init__(self, region: Region, points: Tensor) -> None:
        self._width = region.width
        unit = points.detach().cpu().to(torch.float64) / self._width
        weights = torch.rand(
            region.dimension, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        self._weights = weights + 0.5
        # points that differ by at most t in every coordinate differ by at most t * sum of weights along a line
        line, order = (unit @ self._weights).sort()
        self._unit, self._line = unit[order], line

    def holds(self, points: Tensor, distance: float = REPEAT) -> Tensor:
        """(...) whether points (..., D) are within so much of a known one in all coordinates."""
        unit = points.detach().cpu().to(torch.float64).reshape(-1, len(self._width)) / self._width
        found = torch.zeros(len(unit), dtype=torch.bool)
        if len(self._line) and len(unit):
            at, reach = unit @ self._weights, distance * float(self._weights.sum()) * (1 + 1e-9)
            first, last = (
                torch.searchsorted(self._line, at - reach),
                torch.searchsorted(self._line, at + reach, right=True),
            )
            for i in (last > first).nonzero().flatten().tolist():
                gap = (self._unit[first[i] : last[i]] - unit[i]).abs().amax(dim=1)
                found[i] = bool((gap <= distance).any())
        return found.reshape(points.shape[:-1])

    def fresh(self, points: Tensor) -> Tensor:
        """Those of points (n, D) that are not known and repeat none before them."""
        return points[self.new(points)]

    def new(self, points: Tensor) -> Tensor:
        """(n,) which of points (n, D) are not known and repeat none of those before them that are new."""
        unit = points.detach().cpu().to(torch.float64) / self._width
        close = torch.ones(len(unit), len(unit), dtype=torch.bool).tril(-1)
        for line in unit.T:
            close &= (line[:, None] - line[None]).abs() <= REPEAT
        new = ~self.holds(points)
        for i in close.any(dim=1).nonzero().flatten().tolist():
            new[i] &= not bool((close[i] & new).any())
        return new


class _Rows:
    """Points as `maximise_pool` reads them."""

    def __init__(self, points: Tensor) -> None:
        self._points = points

    def __len__(self) -> int:
        return len(self._points)

    def chunks(self, size: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """First row and coordinates of every chunk."""
        step = 8192 if size is None else size
        for start in range(0, len(self), step):
            yield start, self._points[start : start + step]


def _best_listed(paths: Paths, points: Tensor, known: Known, maximize: bool) -> tuple[Tensor, Tensor]:
    """The best combinations of all that there are, as rows of a pool."""
    closed = known.holds(points)
    left = int((~closed).sum())
    if left < paths.num_samples:
        raise Exhausted(
            f"{paths.num_samples} points are asked for but only {left} of {len(points)} combinations are left."
        )
    rows, values = maximise_pool(paths, _Rows(points), maximize=maximize, exclude=closed)
    return points[rows], values


def _step_scale(region: Region, lengthscale: Tensor | None) -> Tensor:
    """(D,) distance over which paths vary, at most the box itself."""
    if lengthscale is None:
        return 0.2 * region.width
    scale = torch.as_tensor(lengthscale, dtype=torch.float64).detach().cpu().flatten()
    if scale.numel() not in (1, region.dimension):
        raise ShapeError(f"lengthscale must have 1 or {region.dimension} entries, got {scale.numel()}.")
    return torch.minimum(scale.expand(region.dimension), region.width)


def _candidates(
    region: Region,
    settings: BoxSearch,
    near: tuple[Tensor, Tensor] | None,
    sign: float,
    scale: Tensor,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> Tensor:
    """(candidates, D): a uniform share, the rest scattered around good measured points."""
    uniform = settings.candidates if near is None else math.ceil(settings.uniform_share * settings.candidates)
    parts = [region.sample(uniform, generator=generator, dtype=dtype)]
    if near is not None and settings.candidates > uniform:
        inputs, values = near
        merit = sign * values.detach().to(torch.float64).cpu()
        spread = float(merit.std()) if merit.numel() > 1 else 0.0
        weights = torch.exp(2.0 * (merit - merit.max()) / spread) if spread > 0 else torch.ones_like(merit)
        count = settings.candidates - uniform
        chosen = torch.multinomial(weights, count, replacement=True, generator=generator)
        shrink = 10.0 ** -torch.rand(count, 1, generator=generator, dtype=torch.float64)
        around = inputs.detach().cpu()[chosen].to(torch.float64)
        parts.append(region.scatter(around, 0.5 * scale * shrink, generator).to(dtype))
    return region.clip(torch.cat(parts))


def _best_of_rounds(
    paths: Paths, draw: Callable[[], Tensor], rounds: int, sign: float
) -> tuple[Tensor, Tensor]:
    """For each path the best candidate of every round (s, rounds, D), and their heights."""
    points, values = [], []
    for _ in range(rounds):
        candidates = draw()
        with torch.no_grad():
            height = sign * finite(paths(candidates)).cpu()
        best, where = height.max(dim=1)
        points.append(candidates[where])
        values.append(best)
    return torch.stack(points, dim=1), torch.stack(values, dim=1)


def _climb(
    paths: Paths, region: Region, starts: Tensor, settings: BoxSearch, sign: float, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Projected Adam from `starts` (s, k, D), each on its own: the best points and their heights."""
    x = starts.clone()
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    with torch.no_grad():
        best_value = sign * finite(paths.paired(x)).cpu()
    best = x.clone()
    for step in range(1, settings.steps + 1):
        x.requires_grad_(True)
        height = sign * paths.paired(x)
        (slope,) = torch.autograd.grad(height.sum(), x)
        with torch.no_grad():
            best, best_value = _keep_best(best, best_value, x, finite(height.detach()).cpu())
            slope = region.uphill(x.detach(), slope.detach().cpu()) * scale
            first = 0.9 * first + 0.1 * slope
            second = 0.99 * second + 0.01 * slope.square()
            ratio = (first / (1 - 0.9**step)) / ((second / (1 - 0.99**step)).sqrt() + 1e-12)
            rate = settings.learning_rate * (0.01 + 0.495 * (1 + math.cos(math.pi * step / settings.steps)))
            x = region.step(x.detach(), x.detach() + rate * scale * ratio)
    with torch.no_grad():
        return _keep_best(best, best_value, x, sign * finite(paths.paired(x)).cpu())


def _exchange(paths: Paths, region: Region, points: Tensor, sign: float) -> tuple[Tensor, Tensor]:
    """One column at a time the best of its values, others as they are, until nothing improves: (s, k, D) -> same."""
    best = points.clone()
    with torch.no_grad():
        height = sign * finite(paths.paired(best)).cpu()
        for _ in range(_FEW_EXCHANGES if bool(region.free.any()) else _EXCHANGES):
            before = height
            for place, column in region.numbered:
                other, kept = region.repaired(region.exchanges(best, place, column))  # (s, k, m, D)
                value = sign * finite(paths.paired(other.flatten(1, 2))).cpu().reshape(kept.shape)
                value, where = value.masked_fill(~kept, -math.inf).max(dim=-1)
                moved = other.gather(2, where[..., None, None].expand(-1, -1, 1, other.shape[-1]))[:, :, 0]
                best, height = _keep_best(best, height, moved, value)
            if torch.equal(height, before):
                break
    return best, height


def _keep_best(best: Tensor, best_value: Tensor, x: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    better = value > best_value
    return torch.where(better.unsqueeze(-1), x.detach(), best), torch.where(better, value, best_value)


def _without_repeats(
    paths: Paths,
    region: Region,
    points: Tensor,  # (s, c, D)
    values: Tensor,  # (s, c)
    known: Known,
    sign: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Each path's best point, unless it is known or an earlier path has it: then the best one some way from those.

    What takes its place is another of the points that the path was looked at in, or one scattered about its best.
    """
    order = values.argsort(dim=1, descending=True, stable=True)
    best = order[:, :1]
    top = points.gather(1, best[..., None].expand(-1, -1, points.shape[2]))[:, 0]
    height = values.gather(1, best)[:, 0]
    taken = ~known.new(top)
    if not bool(taken.any()):
        return top, height
    chosen = top[~taken]
    width = region.width.to(torch.float64)
    for apart in _APART:
        for reach in (3.0, 30.0, math.inf):
            rows = taken.nonzero().flatten().tolist()
            if not rows:
                return top, height
            more = _around(region, top, max(apart * reach, apart), width, generator)
            with torch.no_grad():
                heights = sign * finite(paths.paired(more)).cpu()
            every, all_heights = torch.cat([points, more], dim=1), torch.cat([values, heights], dim=1)
            closed = known.holds(every[rows], apart)
            for position, i in enumerate(rows):
                near = closed[position] | _close(region, every[i], chosen, apart)
                line = all_heights[i].masked_fill(near, -math.inf)
                if bool(near.all()):
                    continue
                where = int(line.argmax())
                top[i], height[i], taken[i] = every[i, where], line[where], False
                chosen = torch.cat([chosen, top[i][None]])
    raise Exhausted(
        f"{int(taken.sum())} of the points asked for could not be found apart from those known: the box is exhausted. "
        "Ask for fewer, or widen a bound."
    )


def _around(
    region: Region, top: Tensor, reach: float, width: Tensor, generator: torch.Generator
) -> Tensor:  # (s, D) -> (s, replacements, D)
    """Points scattered about one point each, or over the whole box where the reach is infinite."""
    count = _REPLACEMENTS
    if math.isinf(reach):
        flat = region.sample(len(top) * count, generator=generator)
    else:
        share = 10.0 ** -torch.rand(len(top) * count, 1, generator=generator, dtype=torch.float64)
        flat = region.scatter(top.repeat_interleave(count, 0), 3 * reach * share * width, generator)
    return flat.to(top.dtype).reshape(len(top), count, -1)


def _close(region: Region, points: Tensor, others: Tensor, distance: float) -> Tensor:
    """(c,) whether points (c, D) are within so much of one of the others (m, D) in all coordinates."""
    if not len(others):
        return torch.zeros(len(points), dtype=torch.bool)
    gap = (points[:, None] - others[None]).abs() / region.width.to(points.dtype)
    return (gap.amax(dim=-1) <= distance).any(dim=1)
