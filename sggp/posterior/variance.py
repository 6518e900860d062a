"""The variance of a posterior from its samples, with a local posterior as control.

Notation at one query point x. f₀ⱼ and zⱼ = f₀ⱼ(X) + εⱼ ~ N(0, H) are the prior draw and the noisy targets of sample j;
gⱼ = f₀ⱼ(x) − k_xᵀH⁻¹zⱼ is its deviation from the mean, so that v = E[g²] is the variance sought. The m rows N nearest
to x give a local posterior whose deviation hⱼ = f₀ⱼ(x) − k_xNᵀH_NN⁻¹zⱼ(N) has a variance u = E[h²] that is known
exactly from one small system. Conditioning further can only take away: h − g is a function of the data alone, so it is
independent of g, and u = v + E[(h − g)²]. Two independent mean squares with a known sum of expectations,

    p = mean gⱼ² ~ v χ²_s/s,    t = mean (hⱼ − gⱼ)² ~ (u − v) χ²_s/s,

are combined by maximum likelihood: v̂ solves (p − v)/v² = (t − (u − v))/(u − v)², and lies in (0, u). Its standard error
is √(2/s)/√(1/v² + 1/(u − v)²): where the nearest rows explain nearly all that all rows do, a small share of the plain
√(2/s)·v. Where u − v is a small share of v, t alone says nearly all: v̂ = u − t, of standard error √(2/s)·(u − v).
That needs no f₀, as h − g has none, and few samples. All of it holds for any m rows, so many points that lie together
share them, and their factor; points at which the first few samples leave too much error are done one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from sggp.autograd import full_precision
from sggp.kernels.covariance import Covariance, Points
from sggp.kernels.derivatives import differentiated_once
from sggp.linalg import try_cholesky
from sggp.native import engine
from sggp.native.far.tree import enclosing, interleaved
from sggp.neighbours import nearest
from sggp.operators.far import far_product
from sggp.operators.fixed import FixedProduct
from sggp.posterior.paths import PathwiseSamples
from sggp.running import steps

CONTROL_ROWS = 64
"""Nearest rows of the local posterior that sharpens sampled variances."""
_TILE_BYTES = (
    64 * 2**20
)  # small blocks near the caches, and not so few that threads wait for one another often
_SEARCH_BYTES = 128 * 2**20
_HALVINGS = 60
_SAMPLED_BYTES = 16 * 2**20
"""Of sample values at points whose variances are found together; a handful of such tables live at once."""
_BLOCK_ROWS = 2**18
"""Points whose products with the weights are held together."""
_SHARED_ROWS, _FEW_SAMPLES = 128, 16
"""Rows that points of a cell share, and samples that say what all rows add to these."""
_CELLS = ((0.5, 32), (4.0, 64))
"""From so many points for each row on, so many of them to a cell: it must not be wide beside the rows it takes."""
_SHARE_OF_ERROR = 0.25
"""Of √(2/s), that the error of a point may be which has no samples of its own."""
_TRIED_CELLS = 32
_SORTED_ROWS, _SORTED_COLUMNS, _SORTED_BITS = 4096, 6, 9
"""From so many points on they are sorted, in at most so many columns and by so many bits of each."""

_FIRST_ORDER = "second derivatives of sampled variances are not implemented"


@dataclass(frozen=True)
class SampledVariance:
    """The variance of a posterior from its samples.

    Attributes:
        samples: f_j. mean: K(·, X)α_mean. solved: (n, s) α_j.
        noise: (n,) Σ; None where there are centres, for which the local posterior is no control.
        targets: (n, s) zⱼ.
    """

    samples: PathwiseSamples
    mean: FixedProduct
    solved: Tensor
    noise: Tensor | None
    targets: Tensor

    @full_precision()
    def __call__(self, flat: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """K(·, X)·weights (q, c), the variance and its standard error (q,), float64; in bounded blocks.

        Args:
            flat: (q, d). weights: (n, c) α_mean, or no columns.
        """
        if len(flat) >= _SORTED_ROWS and not flat.requires_grad and flat.is_floating_point():
            order = _neighbours_together(self.samples.covariance, flat)
            found = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
            products, value, error = self._in_blocks(flat[order], weights, self._cell(flat))
            return products[found], value[found], error[found]
        return self._in_blocks(flat, weights)

    def _cell(self, flat: Tensor) -> int:
        """Points that may share rows: 0 where they are too few, or the kernel has no metric of few columns."""
        embedded = self.samples.covariance.embedding(self.samples.x)
        if (
            self.noise is None
            or embedded is None
            or embedded.shape[1] > _SORTED_COLUMNS
            or flat.device.type != "cpu"
        ):
            return 0
        return max((size for ratio, size in _CELLS if len(flat) >= ratio * len(embedded)), default=0)

    def _in_blocks(self, flat: Tensor, weights: Tensor, cell: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """By cells of so many points in the order they have; 0 for one by one."""
        parts = []
        for block in flat.split(_BLOCK_ROWS):
            if cell and not self._worth(block, cell):
                cell = 0
            parts.append(self._by_cells(block, weights, cell) if cell else self._one_by_one(block, weights))
        products, value, error = (torch.cat(part) for part in zip(*parts, strict=True))
        return products, value, error

    def _worth(self, block: Tensor, cell: int) -> bool:
        """Whether half of the points in some of the cells can do without samples of their own."""
        if len(block) < cell:
            return False
        some = torch.linspace(0, len(block) // cell - 1, _TRIED_CELLS).long()
        return float(self._few(block.unfold(0, cell, cell).mT[some].flatten(0, 1), cell)[2].mean()) >= 0.5

    def _by_cells(self, block: Tensor, weights: Tensor, cell: int) -> tuple[Tensor, Tensor, Tensor]:
        products, (value, error), good = self._few(block, cell)
        products = products[:, : weights.shape[1]]
        left = (good == 0).nonzero()[:, 0]
        if len(left):
            products[left], value[left], error[left] = self._one_by_one(block[left], weights)
        return products, value, error

    @cached_property
    def _few_product(self) -> FixedProduct:
        """K(·, X) of the mean's weights and of those of a few samples."""
        columns = torch.cat([self.mean.v, self.solved[:, :_FEW_SAMPLES]], 1)
        return FixedProduct(self.samples.covariance, self.samples.x, columns, self.mean.error)

    def _few(self, flat: Tensor, cell: int) -> tuple[Tensor, Tensor, Tensor]:
        """K(·, X)α_mean (q, 1), u − t of a few samples and its error (2, q), and 1.0 where that will do."""
        samples, k = self.samples, min(_FEW_SAMPLES, self.samples.num_samples)
        found, noise = self._few_product(flat), cast(Tensor, self.noise)  # `_cell` looked for it
        groups, learnt = (
            torch.cat([x, x[-1:].expand(-len(x) % cell, -1)]).unflatten(0, (-1, cell))
            for x in (flat, found[:, 1:].double())
        )
        near = nearest_rows(samples.covariance, samples.x, groups.mean(1), min(_SHARED_ROWS, len(samples.x)))
        total, rest = shared_control(
            samples.covariance, samples.x, noise, self.targets[:, :k], groups, learnt, near
        )
        total, rest = total[: len(flat)], rest[: len(flat)]
        limit = _SHARE_OF_ERROR * (k / samples.num_samples) ** 0.5
        good = (rest * (1 + limit) <= limit * total).double()
        return found[:, :1].double(), torch.stack([total - rest, (2.0 / k) ** 0.5 * rest]), good

    def _one_by_one(self, block: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        given, others = self._explained(block, weights)
        rows = max(1, _SAMPLED_BYTES // (8 * self.samples.num_samples))
        near = self._near(block)
        tiles = list(zip(*(part.split(rows) for part in (block, given, near)), strict=True))
        found = [self._tile(*tile) for tile in steps("predictions", tiles)]
        value, error = (torch.cat(part) for part in zip(*found, strict=True))
        return others.double(), value, error

    def _explained(self, flat: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:  # -> (q, s), (q, c)
        """−K(·, X)α_j, and K(·, X)·weights."""
        samples = self.samples
        if not _differentiated(flat) and samples.product.ready(len(flat)):
            mean = self.mean(flat)
            return samples.product(flat) - mean, mean[:, : weights.shape[1]]
        columns = torch.cat([-self.solved, weights], 1)
        found = far_product(samples.covariance, flat, samples.x, columns, error=self.mean.error)
        return found[:, : samples.num_samples], found[:, samples.num_samples :]

    def _near(self, flat: Tensor) -> Tensor:  # (q, d) -> (q, m)
        """The rows of the local posteriors, of one search for all points: it begins with a tree of all rows."""
        if self.noise is None:
            return torch.empty(len(flat), 0, dtype=torch.int64, device=flat.device)
        samples = self.samples
        return nearest_rows(samples.covariance, samples.x, flat.detach(), min(CONTROL_ROWS, len(samples.x)))

    def _tile(self, flat: Tensor, given: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
        samples, s = self.samples, self.samples.num_samples
        if samples.precision == torch.float32 and not _differentiated(flat):
            prior = samples.features.narrowed().apply(flat, samples.weights)
        else:
            prior = samples.prior(flat)
        deviations = (prior + given).double()
        plain = deviations.square().mean(1)
        if self.noise is None:
            return plain, plain * (2.0 / s) ** 0.5
        total, local = local_control(
            samples.covariance, samples.x, self.noise, self.targets, flat, prior, near
        )
        value = combine(plain, (local - deviations).square().mean(1), total)
        return value, combined_error(value, total, s)


def _neighbours_together(covariance: Covariance, queries: Tensor) -> Tensor:  # (q, d) -> (q,)
    """An order of points in which those that are near one another come one after the other, where d is small."""
    rows = covariance.embedding(queries)
    if rows is None or rows.shape[1] > _SORTED_COLUMNS or rows.device.type != "cpu":
        return torch.arange(len(queries), device=queries.device)
    rows = rows.double()
    cube = enclosing(rows)
    return interleaved(cube.finest(rows) >> (cube.depth - _SORTED_BITS), _SORTED_BITS).argsort()


def _differentiated(rows: Tensor) -> bool:
    return torch.is_grad_enabled() and rows.requires_grad


def local_control(
    covariance: Covariance,
    points: Points,
    noise_variance: Tensor,
    targets: Tensor,
    queries: Tensor,
    prior: Tensor,
    rows: int | Tensor,
) -> tuple[Tensor, Tensor]:
    """Variance and deviations of the posterior given only the rows nearest to each query.

    Args:
        covariance: the kernel. points: the (n, d) data.
        noise_variance: (n,) Σ.
        targets: (n, s) zⱼ.
        queries: (q, d).
        prior: (q, s) f₀ⱼ at the queries.
        rows: m, or which these are, (q, m).

    Returns:
        u (q,) and h (q, s), float64; those of the prior where the m rows have no Cholesky factor.

    Cost: the neighbour search, q·m² entries, q·m³/3 + q·m·s flops.
    """
    if isinstance(rows, Tensor):
        near = rows
    else:
        near = nearest_rows(covariance, points, queries.detach(), min(rows, len(points)))
    noise, targets, wide = noise_variance.double(), targets.double(), near.shape[1] + 1
    given, asked = _plain_rows(covariance, points, queries.detach())
    step = wide * (8 * (4 * wide + targets.shape[1]) + 2 * given.shape[1] * given.element_size())
    step = max(1, _TILE_BYTES // step)
    tiles = (near.split(step), asked.split(step), queries.split(step), prior.split(step))
    variances, deviations = [], []
    for some, plain, tile, start in zip(*tiles, strict=True):
        index = torch.cat([some, some[:, :1]], 1)
        together = given.index_select(0, index.reshape(-1)).reshape(*index.shape, given.shape[1])
        together[:, -1] = plain
        small, found = covariance.small_blocks(together), None
        if not (tile.requires_grad or start.requires_grad):
            found = engine(small.device, small.dtype).local_posteriors(small, some, noise, targets, start)
        if found is None:
            cross = _cross(covariance, points, some, tile, small)
            found = local_posteriors(small, some, noise, targets, start, cross)
        variances.append(found[0])
        deviations.append(found[1])
    return torch.cat(variances), torch.cat(deviations)


def shared_control(
    covariance: Covariance,
    points: Points,
    noise_variance: Tensor,
    targets: Tensor,
    groups: Tensor,
    learnt: Tensor,
    near: Tensor,
) -> tuple[Tensor, Tensor]:
    """The variance given rows that all points of a group share, and what all rows take away from it.

    Args:
        covariance, points, noise_variance, targets: as `local_control` has them.
        groups: (g, c, d) the points. learnt: (g, c, s) k_xᵀH⁻¹zⱼ. near: (g, m) rows.

    Returns:
        u and t = mean (hⱼ − gⱼ)², (g·c,) float64; infinite t where the m rows have no Cholesky factor.

    Cost: g·(m + c)² entries, g·m²·(m/3 + c + s) + g·m·c·s flops.
    """
    m, (count, c, _) = near.shape[1], groups.shape
    given, asked = _plain_rows(covariance, points, groups.flatten(0, 1))
    asked = asked.unflatten(0, (count, c))
    noise, targets = noise_variance.double(), targets.double()
    step = max(1, _TILE_BYTES // (8 * (2 * (m + c) ** 2 + 2 * m * (c + targets.shape[1]))))
    totals, rests = [], []
    for rows, some, seen in zip(near.split(step), asked.split(step), learnt.split(step), strict=True):
        small = covariance.small_blocks(torch.cat([given[rows], some], 1))
        lower, jitter = try_cholesky(small[:, :m, :m] + torch.diag_embed(noise[rows]))
        right = torch.cat([small[:, :m, m:], targets[rows]], 2)
        cross, white = torch.linalg.solve_triangular(lower, right, upper=False).split(
            [c, targets.shape[1]], 2
        )
        own = small.diagonal(dim1=1, dim2=2)[:, m:]
        rest = (cross.mT @ white - seen).square().mean(2)
        lost = torch.isinf(jitter)[:, None]
        totals.append(torch.where(lost, own, (own - cross.square().sum(1)).clamp_min(0)))
        rests.append(torch.where(lost, torch.inf, rest))
    return torch.cat(totals).flatten(), torch.cat(rests).flatten()


def _cross(
    covariance: Covariance, points: Points, rows: Tensor, queries: Tensor, small: Tensor
) -> tuple[Tensor, Tensor]:  # (q, m), (q,)
    """k_xN and k(x, x) with the gradient of the queries, from the small blocks where they have none."""
    if not queries.requires_grad:
        return small[:, :-1, -1], small[:, -1, -1]
    cross = [covariance.block(x[None], points[own]) for x, own in zip(queries, rows, strict=True)]
    return torch.cat(cross).double(), covariance.diagonal(queries).double()


def local_posteriors(
    small: Tensor,
    rows: Tensor,
    noise: Tensor,
    targets: Tensor,
    prior: Tensor,
    of_queries: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """`sggp.native.local.local_posteriors` in torch, differentiable in k_xN, k(x, x) and the prior."""
    cross, own = of_queries
    lower, jitter = try_cholesky(small[:, :-1, :-1] + torch.diag_embed(noise[rows]))
    lost = torch.isinf(jitter)
    if bool(lost.any()):  # nothing is learned from such rows: the prior is a control as well
        lower[lost] = torch.eye(rows.shape[1], dtype=lower.dtype, device=lower.device)
        cross = cross.masked_fill(lost[:, None], 0.0)
    weights = torch.cholesky_solve(cross[..., None], lower)[..., 0]
    variance = (own - (weights * cross).sum(1)).clamp_min(0)
    return variance, prior.double() - torch.einsum("qm,qms->qs", weights, targets[rows])


def combine(plain: Tensor, difference: Tensor, total: Tensor) -> Tensor:
    """v̂ of the module's head from p, t and u, each (q,); differentiable in all three.

    Where the likelihood has several stationary points, the one next to the inverse-variance average is taken.
    """
    with torch.no_grad():
        low, high = torch.zeros_like(total), total.clone()
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            above = _slope(middle, plain, difference, total) > 0
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        value = 0.5 * (low + high)
        rest = total - value
        steep = -(rest.square() + value.square()) - 2 * ((plain - value) * rest + (difference - rest) * value)
        steep = torch.where(steep.abs() > 0, steep, torch.full_like(steep, -torch.inf))
    if not (plain.requires_grad or difference.requires_grad or total.requires_grad):
        return value
    # one Newton step from the root changes nothing but carries the gradient (implicit function theorem)
    step = _slope(value, plain, difference, total) / steep
    return differentiated_once(value - step, _FIRST_ORDER, plain, difference, total)


def combined_error(value: Tensor, total: Tensor, num_samples: int) -> Tensor:
    """Standard error of v̂, (q,)."""
    rest = (total - value).clamp_min(0)
    return (2.0 / num_samples) ** 0.5 * value * rest / torch.hypot(value, rest).clamp_min(1e-300)


def _slope(value: Tensor, plain: Tensor, difference: Tensor, total: Tensor) -> Tensor:
    rest = total - value
    return (plain - value) * rest.square() - (difference - rest) * value.square()


def nearest_rows(covariance: Covariance, points: Points, queries: Tensor, m: int) -> Tensor:  # -> (q, m)
    """Positions of the m rows nearest to each query in the kernel's metric, else those of largest correlation."""
    embedded = covariance.embedding(points)
    asked = covariance.embedding(covariance.prepare(queries, points.centre))
    if embedded is not None and asked is not None:
        return nearest(embedded, asked, m)
    scale = covariance.diagonal(points).clamp_min(1e-300).rsqrt()
    rows = max(1, _SEARCH_BYTES // (8 * max(1, len(points))))
    tiles = [
        (covariance.block(tile, points).abs() * scale).topk(m, dim=1).indices for tile in queries.split(rows)
    ]
    return torch.cat(tiles)


def _plain_rows(
    covariance: Covariance, points: Points, queries: Tensor
) -> tuple[Tensor, Tensor]:  # (n, d), (q, d)
    given = covariance.plain_rows(points)
    asked = covariance.plain_rows(covariance.prepare(queries, points.centre))
    if given.dtype == asked.dtype:
        return given, asked
    wide = torch.promote_types(torch.promote_types(points.raw.dtype, queries.dtype), torch.float64)
    return points.raw.to(wide), queries.to(wide)
