"""Length scales that the likelihood cannot tell: what they are set to after a fit; columns that a fit found useless.

A constant column has no part in any training covariance, so a fit leaves its length scale wherever the start, or the
mode of a prior, happens to be. It is given the geometric mean of the others: the best guess for a column of which
nothing is known is a typical one. An affine copy of another column, x_j = a x_i + b, enters only through
1/ℓ_i² + a²/ℓ_j²; this sum is kept and shared evenly among all copies, so that the answer does not hang on where the
optimiser started. No training covariance changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.hyperparameters.gram import stationary_parts

NO_INFLUENCE = 1e-9
"""Squared distance, in length scales, that columns without influence may make together. Smooth kernels change by that
share of their scale, so the function by 3e-5 of its spread."""


@dataclass(frozen=True)
class Unidentified:
    """An input column whose length scale the likelihood cannot tell.

    Attributes:
        column: its position.
        kind: "constant" (no part in any covariance), or "copy": an affine copy of another column.
        of: the column that it copies.
        reason: for readers.
    """

    column: int
    kind: Literal["constant", "copy"]
    of: int | None = None
    reason: str = "constant"


def unidentified_columns(kernel: Kernel, x: Tensor) -> tuple[Unidentified, ...]:
    """Input columns whose length scales the likelihood cannot tell, in their order.

    A column that is an affine copy of an earlier one (|correlation| = 1 to rounding) shares its influence
    with it: only the combination is identified. Empty for kernels without one length scale per column, and for fewer
    than three rows, of which every column is a copy of every other.
    """
    parts = stationary_parts(kernel)
    if parts is None or not x.is_floating_point() or x.shape[0] < 3:
        return ()
    if parts[1].lengthscale.numel() != x.shape[1]:
        return ()
    x = x.to(torch.float64)
    unit = x - x.mean(dim=0)
    deviation = torch.linalg.vector_norm(unit, dim=0) / math.sqrt(x.shape[0])
    constant = deviation <= 1e-14 * torch.maximum(x.amax(dim=0), -x.amin(dim=0))
    unit /= torch.where(constant, torch.ones_like(deviation), deviation) * math.sqrt(x.shape[0])
    copies = ((unit.T @ unit).abs() > 1 - 1e-12).tolist()
    out: dict[int, Unidentified] = {}
    for j in range(x.shape[1]):
        if constant[j]:
            out[j] = Unidentified(j, "constant")
            continue
        first = next((i for i in range(j) if copies[j][i] and i not in out), None)
        if first is not None:
            out[j] = Unidentified(j, "copy", first, f"copy of column {first}")
    return tuple(out.values())


def settle_unidentified(
    start: Kernel, learnt: Kernel, x: Tensor, unidentified: Sequence[Unidentified]
) -> None:
    """Settle, in place, the length scales of columns that are constant or copies.

    Args:
        start: the kernel before the fit; a length scale that was not to be learnt, or that has an upper bound, stays.
        learnt: the kernel after it.
        x: (n, d) rows.
        unidentified: as in `FitResult.unidentified_columns`.
    """
    before, after = stationary_parts(start), stationary_parts(learnt)
    if not unidentified or before is None or after is None or not before[1].raw_lengthscale.requires_grad:
        return
    if math.isfinite(float(after[1].raw_lengthscale_constraint.upper_bound.max())):
        return
    scales = after[1].lengthscale.detach().reshape(-1).double().clone()
    groups: dict[int, list[int]] = {}
    for record in unidentified:
        if record.of is not None:
            groups.setdefault(record.of, [record.of]).append(record.column)
    spread = x.double().std(dim=0, correction=0)
    for columns in groups.values():
        share = (spread[columns] / scales[columns]).square().mean().sqrt()
        scales[columns] = spread[columns] / share
    constant = [record.column for record in unidentified if record.kind == "constant"]
    others = [column for column in range(len(scales)) if column not in constant]
    if constant and others:
        scales[constant] = scales[others].log().mean().exp()
    with torch.no_grad():
        after[1].lengthscale = scales.reshape(after[1].lengthscale.shape)


def columns_without_influence(kernel: Kernel, x: Tensor) -> list[int]:
    """Columns whose length scales are so long that all of them together make no difference between any two rows.

    Taking them as constant moves no entry of a kernel matrix by more than about `NO_INFLUENCE` of the output scale, and
    rows that differ in nothing else become repeats. Constant columns are not among them.

    Args:
        kernel: a learnt kernel; only a single stationary one, scaled or not, has such columns.
        x: (n, d) rows, float.
    """
    parts = stationary_parts(kernel)
    if parts is None:
        return []
    ranges = x.amax(dim=0) - x.amin(dim=0)
    squares = (ranges / parts[1].lengthscale.detach().to(x).reshape(-1)).square()
    ascending, order = squares.sort()
    linear = getattr(parts[1], "nu", None) == 0.5  # Matérn-1/2 decays with the distance, not with its square
    most = NO_INFLUENCE**2 if linear else NO_INFLUENCE
    small = order[ascending.cumsum(dim=0) <= most]
    return sorted(int(column) for column in small if ranges[column] > 0)
