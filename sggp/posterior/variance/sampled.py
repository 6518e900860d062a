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
from sggp.kernels.covariance import Covariance
from sggp.native.far.tree import enclosing, interleaved
from sggp.operators.far import far_product
from sggp.operators.fixed import FixedProduct
from sggp.posterior.paths import PathwiseSamples
from sggp.posterior.variance.interpolation import MOST_COLUMNS, interpolate
from sggp.posterior.variance.local import (
    CONTROL_ROWS,
    combine,
    combined_error,
    local_control,
    nearest_rows,
    shared_control,
)
from sggp.running import steps

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
_SAVED, _SAVED_OF_SHARED = 2, 8
"""Points that a value at a node must be for, where others are found one by one, and where they share rows."""
_SORTED_ROWS, _SORTED_COLUMNS, _SORTED_BITS = 4096, 6, 9
"""From so many points on they are sorted, in at most so many columns and by so many bits of each."""


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
        if len(flat) < _SORTED_ROWS or flat.requires_grad or not flat.is_floating_point():
            return self._in_blocks(flat, weights)
        order, cell = _neighbours_together(self.samples.covariance, flat), self._cell(len(flat))
        flat = flat[order]
        sharing = bool(cell) and self._worth(flat[:_BLOCK_ROWS], cell)
        done, value, error = self._interpolated(flat, weights[:, :0], _SAVED_OF_SHARED if sharing else _SAVED)
        left = (~done).nonzero()[:, 0]
        products = flat.new_empty(len(flat), weights.shape[1], dtype=torch.float64)
        if weights.shape[1] and len(left) < len(flat):
            products[done] = torch.cat([self.mean(block) for block in flat[done].split(_BLOCK_ROWS)]).double()
        if len(left):
            products[left], value[left], error[left] = self._in_blocks(flat[left], weights, cell)
        found = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        return products[found], value[found], error[found]

    def _interpolated(self, flat: Tensor, none: Tensor, saved: int) -> tuple[Tensor, ...]:
        """Which points are done, (q,) bool, and their variances and standard errors, (q,).

        As long as polynomials in boxes are right to a part of the standard error of a variance.
        """
        done = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
        value, error = torch.empty(2, len(flat), dtype=torch.float64, device=flat.device)
        metric = self.samples.covariance.embedding(flat) if flat.device.type == "cpu" else None
        if metric is None or metric.shape[1] > MOST_COLUMNS:
            return done, value, error

        def logarithms(points: Tensor, everywhere: int) -> Tensor:
            cell, (boxes, inside, _) = self._cell(everywhere), points.shape
            if cell:  # as near to it as boxes can be divided, or joined
                cell = inside * (cell // inside) or inside // max(1, round(inside / cell))
            _, value, error = self._in_blocks(points.flatten(0, 1), none, cell)
            value = value.clamp_min(torch.finfo(torch.float64).tiny)
            return torch.stack([value.log(), error / value], 1).unflatten(0, (boxes, inside))

        plain = (2.0 / self.samples.num_samples) ** 0.5
        found = interpolate(flat, metric.double(), logarithms, _SHARE_OF_ERROR * plain, saved)
        logarithm, relative = found.values.T if len(found.values) else (found.error, found.error)
        value[found.done] = logarithm.exp()
        error[found.done] = logarithm.exp() * (relative.square() + found.error.square()).sqrt()
        return found.done, value, error

    def _cell(self, points: int) -> int:
        """Points that may share rows, of so many: 0 where these are too few, or there is no metric of few columns."""
        embedded = self.samples.covariance.embedding(self.samples.x)
        if (
            self.noise is None
            or embedded is None
            or embedded.shape[1] > _SORTED_COLUMNS
            or embedded.device.type != "cpu"
        ):
            return 0
        return max((size for ratio, size in _CELLS if points >= ratio * len(embedded)), default=0)

    def _in_blocks(self, flat: Tensor, weights: Tensor, cell: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """By cells of so many points in the order they have; 0 for one by one."""
        parts = []
        for block in flat.split(_BLOCK_ROWS // cell * cell if cell else _BLOCK_ROWS):
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
