"""Predictions of rows that were left out: each from all others, or from its nearest others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.defaults import DIRECT_ROWS
from sggp.kernels import as_covariance
from sggp.kernels.covariance import Covariance, Points
from sggp.linalg import cholesky
from sggp.native import engine
from sggp.posterior.merge import Groups, group_rows
from sggp.posterior.variance import local_posteriors, nearest_rows

NEIGHBOURS = 128
"""Distinct rows that a left-out row is predicted from where all of them would be too many."""
MOST_ROWS = 50_000
"""Rows of a table whose residuals are looked at."""
_DENSE_ROWS = 1000
_TILE_BYTES = 64 * 2**20
_LEAST_NOISE = 1e-12  # of k(x, x): repeats without noise would have no precision to take their own share from


@dataclass(frozen=True)
class Observed:
    """What is conditioned on, in the units of the kernel.

    Attributes:
        kernel: a GPyTorch kernel. x: (n, d). residual: (n, t) targets less the prior mean, float64. noise: (n,) noise
            variances, float64.
    """

    kernel: Kernel
    x: Tensor
    residual: Tensor
    noise: Tensor

    def part(self, rows: Tensor) -> Observed:
        """Some of its rows."""
        noise = self.noise.expand(len(self.x))[rows]
        return Observed(self.kernel, self.x[rows], self.residual[rows], noise)

    def positive_noise(self, size: float) -> Tensor:  # (n,)
        return self.noise.double().expand(len(self.x)).clamp_min(_LEAST_NOISE * size)


@dataclass(frozen=True)
class LeftOut:
    """Gaussian predictions of some rows from others.

    Attributes:
        mean: (m, t) of the target less the prior mean. latent: (m,) variance of f. noise: (m,) of the measurement.
    """

    mean: Tensor
    latent: Tensor
    noise: Tensor

    @property
    def variance(self) -> Tensor:  # (m,)
        """Of the measured value."""
        return self.latent + self.noise


@dataclass(frozen=True)
class Seen:
    """Left-out predictions of a table's rows, up to 50,000 of them: `rows` (m,), ascending."""

    rows: Tensor
    left: LeftOut

    @classmethod
    def of(cls, observed: Observed, generator: torch.Generator) -> Seen:
        """Cost: as `leave_out`, of all rows or of 50,000 random ones."""
        n = len(observed.x)
        rows = torch.arange(n)
        if n > MOST_ROWS:
            rows = torch.randperm(n, generator=generator)[:MOST_ROWS].sort().values
        return cls(rows, leave_out(observed, rows))

    def z(self, observed: Observed) -> Tensor:  # (m,)
        """Residuals of the first target over their standard deviations."""
        return (observed.residual[self.rows, 0] - self.left.mean[:, 0]) / self.left.variance.sqrt()


def leave_out(
    observed: Observed, rows: Tensor, neighbours: int = NEIGHBOURS, given: Tensor | None = None
) -> LeftOut:
    """Some rows, each from all others up to 3,000 of them, from its nearest others beyond.

    Args:
        observed: the table. rows: (m,) positions to predict. neighbours: how many, beyond.
        given: (g,) positions that are conditioned on, among which rows are or are not; None for all.
    """
    n = len(observed.x)
    if (n if given is None else len(given)) > DIRECT_ROWS:
        return leave_rows_out(observed, rows, neighbours, given)
    given = torch.arange(n) if given is None else given
    own = observed.part(given)
    place = torch.full((n,), -1)
    place[given] = torch.arange(len(given))
    inside = place[rows] >= 0
    mean = own.residual.new_empty(len(rows), own.residual.shape[1])
    latent = mean.new_empty(len(rows))
    system = _System.of(own)
    if bool(inside.any()):
        left = system.leave_each_out()
        mean[inside], latent[inside] = left.mean[place[rows[inside]]], left.latent[place[rows[inside]]]
    if not bool(inside.all()):
        mean[~inside], latent[~inside] = system.predict(observed.x[rows[~inside]])
    return LeftOut(mean, latent, observed.noise.double().expand(n)[rows])


def leave_each_out(observed: Observed) -> LeftOut:
    """Every row from all others, exactly: y_i − α_i/(H⁻¹)_ii with variance 1/(H⁻¹)_ii.

    Cost: n³ flops, 16·n² bytes.

    Source: Rasmussen & Williams 2006, equation 5.12.
    """
    return _System.of(observed).leave_each_out()


def leave_rows_out(
    observed: Observed, rows: Tensor, neighbours: int = NEIGHBOURS, given: Tensor | None = None
) -> LeftOut:
    """Some rows, each from its nearest rows among those given, itself left out.

    Rows with equal inputs are one row with their precision-weighted mean; a row's own repeats stay.

    Args:
        observed: the table.
        rows: (m,) positions to predict.
        neighbours: k, distinct rows that each is predicted from.
        given: (g,) positions that are conditioned on; None for all.

    Cost: the search, m·k² entries and m·k³/3 flops; bounded memory.
    """
    covariance = as_covariance(observed.kernel, dtype=torch.float64)
    merged = _Merged.of(observed, given, covariance)
    own, queries = merged.groups.member[rows], observed.x[rows]
    near = merged.nearest(covariance, queries, neighbours + 1)
    place = len(merged.x) + torch.arange(len(rows))[:, None]
    near = torch.where(near == own[:, None], place, near)
    mean, latent = _predict(covariance, merged.x, queries, near, merged.without(rows))
    return LeftOut(mean, latent, merged.noise[rows])


def predict(observed: Observed, queries: Tensor, neighbours: int = NEIGHBOURS) -> tuple[Tensor, Tensor]:
    """Mean (q, t) and latent variance (q,) at (q, d) new rows: from a table of 1,000 rows, or from the nearest of more.

    Cost: n³/3 + n²·q flops, or as `leave_rows_out`.
    """
    if len(observed.x) <= _DENSE_ROWS:
        return _System.of(observed).predict(queries)
    covariance = as_covariance(observed.kernel, dtype=torch.float64)
    merged = _Merged.of(observed, None, covariance)
    near = merged.nearest(covariance, queries, neighbours)
    given = (merged.weighted / merged.precision[:, None], merged.precision.reciprocal())
    return _predict(covariance, merged.x, queries, near, given)


@dataclass(frozen=True)
class _Merged:
    """Distinct inputs, with the precision and the weighted sum of targets of their given rows."""

    groups: Groups
    x: Tensor  # (g, d)
    residual: Tensor  # (n, t)
    noise: Tensor  # (n,)
    is_given: Tensor  # (n,) 0 or 1
    counts: Tensor  # (g,)
    precision: Tensor  # (g,)
    weighted: Tensor  # (g, t)
    nothing: float  # a noise variance without information

    @classmethod
    def of(cls, observed: Observed, given: Tensor | None, covariance: Covariance) -> _Merged:
        groups, n = group_rows(observed.x), len(observed.x)
        x = observed.x[groups.first]
        size = float(covariance.diagonal(x[:256]).double().mean())
        noise = observed.positive_noise(size)
        is_given = noise.new_ones(n)
        if given is not None:
            is_given = noise.new_zeros(n).index_fill_(0, given, 1.0)

        def sums(values: Tensor) -> Tensor:  # (n, k) -> (g, k)
            return values.new_zeros(len(x), values.shape[1]).index_add_(0, groups.member, values)

        weight = (is_given / noise)[:, None]
        counts, precision = sums(is_given[:, None])[:, 0], sums(weight)[:, 0]
        weighted = sums(weight * observed.residual)
        return cls(
            groups, x, observed.residual, noise, is_given, counts, precision, weighted, size / _LEAST_NOISE
        )

    def nearest(self, covariance: Covariance, queries: Tensor, count: int) -> Tensor:  # (q, d) -> (q, k)
        known = self.counts.nonzero()[:, 0]
        near = nearest_rows(covariance, covariance.prepare(self.x[known]), queries, min(count, len(known)))
        return known[near]

    def without(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Targets (g + m, t) and noise (g + m,) of the groups, then of each row's group without the row.

        A group of which nothing is left gets a noise that outweighs all that it could say.
        """
        own, mine = self.groups.member[rows], self.is_given[rows]
        left = self.counts[own] - mine > 0
        precision = torch.where(left, self.precision[own] - mine / self.noise[rows], 1.0)
        weighted = self.weighted[own] - (mine / self.noise[rows])[:, None] * self.residual[rows]
        targets = torch.where(left[:, None], weighted / precision[:, None], 0.0)
        noise = torch.where(left, precision.reciprocal(), self.nothing)
        given = self.counts > 0
        every = torch.where(given, self.precision, 1.0)
        return torch.cat([self.weighted / every[:, None], targets]), torch.cat([every.reciprocal(), noise])


@dataclass(frozen=True)
class _System:
    """K + Σ of a table as one Cholesky factor, and the prior variances and the noise of its rows."""

    observed: Observed
    covariance: Covariance
    points: Points
    prior: Tensor  # (n,)
    noise: Tensor  # (n,)
    factor: Tensor  # (n, n)

    @classmethod
    def of(cls, observed: Observed) -> _System:
        covariance = as_covariance(observed.kernel, dtype=torch.float64)
        points = covariance.prepare(observed.x)
        matrix = covariance.block(points).detach().double()
        prior = matrix.diagonal().clone()
        noise = observed.positive_noise(float(prior.mean()))
        matrix.diagonal().add_(noise)
        factor = cholesky(matrix, "K + noise of the table")
        return cls(observed, covariance, points, prior, noise, factor)

    def leave_each_out(self) -> LeftOut:
        residual = self.observed.residual
        inverse = torch.cholesky_inverse(self.factor)
        precision = inverse.diagonal()
        mean = residual - inverse @ residual / precision[:, None]
        latent = (precision.reciprocal() - self.noise).clamp_min(0.0).minimum(self.prior)
        return LeftOut(mean, latent, self.noise)

    def predict(self, queries: Tensor) -> tuple[Tensor, Tensor]:  # (q, d) -> (q, t), (q,)
        prior = self.covariance.diagonal(queries).detach().double()
        cross = self.covariance.block(self.points, queries).detach().double()
        half = torch.linalg.solve_triangular(self.factor, cross, upper=False)
        solved = torch.cholesky_solve(self.observed.residual, self.factor)
        return cross.T @ solved, (prior - half.square().sum(dim=0)).clamp_min(0.0)


def _predict(
    covariance: Covariance, x: Tensor, queries: Tensor, near: Tensor, given: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Means and latent variances given rows `near` of x or, from its length on, repeats of the query itself."""
    targets, variances = given
    width = near.shape[1] + 1
    step = max(1, _TILE_BYTES // (width * 8 * (4 * width + 2 * x.shape[1])))
    means, latents = [], []
    for index, asked in zip(near.split(step), queries.split(step), strict=True):
        repeats = index >= len(x)
        members = x[torch.where(repeats, 0, index)]
        members = torch.where(repeats[:, :, None], asked[:, None], members)
        small = covariance.small_blocks(torch.cat([members, asked[:, None]], dim=1))
        start = targets.new_zeros(len(index), targets.shape[1])
        found = engine(small.device, small.dtype).local_posteriors(small, index, variances, targets, start)
        if found is None:
            cross = (small[:, :-1, -1], small[:, -1, -1])
            found = local_posteriors(small, index, variances, targets, start, cross)
        latents.append(found[0])
        means.append(-found[1])
    return torch.cat(means), torch.cat(latents)
