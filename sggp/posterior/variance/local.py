"""Posteriors given a few rows each, the control of a sampled variance, and what both together say.

The notation is that of `sggp.posterior.variance.sampled`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sggp.kernels.covariance import Covariance, Points
from sggp.kernels.derivatives import differentiated_once
from sggp.linalg import try_cholesky
from sggp.native import engine
from sggp.neighbours import nearest

CONTROL_ROWS = 64
"""Nearest rows of the local posterior that sharpens sampled variances."""
_TILE_BYTES = (
    64 * 2**20
)  # small blocks near the caches, and not so few that threads wait for one another often
_SEARCH_BYTES = 128 * 2**20
_HALVINGS = 60
_FIRST_ORDER = "second derivatives of sampled variances are not implemented"


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
