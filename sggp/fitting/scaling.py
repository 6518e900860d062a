"""Offsets and scales of a table's columns: what a model learns in, and the way back to the table's own units."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sggp.arrays import mean_and_std, near_one, tensor_of
from sggp.errors import InputError
from sggp.hyperparameters.units import TargetUnits, scaled, scaled_noise

FAR = 1e120
"""Spreads of a column: rows so far from all others have nothing to do with them, whatever the length scale."""
_TINY = 5e-324  # the least positive number
_HEAVY = 10.0  # spread over that of the middle from which on the rest counts as outliers
_NORMAL_MIDDLE = 3.29  # from the 5 % to the 95 % quantile of a standard normal variable


def location_and_scale(values: np.ndarray, otherwise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation of each column; those of its middle where outliers swamp them.

    Where the standard deviation is more than ten times what the 5 % and 95 % quantiles of a normal column would make
    it, a few rows decide it, and the others would all but coincide in its units: the column gets its median, and the
    scale that its quantiles imply.

    Args:
        values: (n, d). otherwise: (d,) the scale of columns that are constant to rounding.

    Returns:
        location (d,) and scale (d,), the latter positive.
    """
    unit, exponent = near_one(values)  # squares and differences in there overflow for no column
    location, spread = unit.mean(axis=0), unit.std(axis=0)
    median, inner = middle(unit)
    constant = spread <= 1e-14 * np.abs(unit).max(axis=0)
    heavy = (inner > 1e-14 * np.abs(median)) & (spread / _HEAVY > inner) & ~constant
    location, scale = (
        np.ldexp(v, exponent) for v in (np.where(heavy, median, location), np.where(heavy, inner, spread))
    )
    return location, np.where(constant, otherwise, np.maximum(scale, _TINY))


def middle(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (n, d) -> (d,), (d,)
    """The median of each column, and the deviation of a normal one of the same 5 % and 95 % quantiles."""
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95], axis=0)
    return median, (high - low) / _NORMAL_MIDDLE


def target_location_and_scale(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (n, t) -> (t,), (t,)
    """Mean and standard deviation of each target.

    One without spread to rounding gets a tiny scale: it is then predicted as its constant, with next to no variance. Of
    a single row nothing but its size is known, which is then the scale.
    """
    location, spread = mean_and_std(y)
    flat = _is_flat(torch.from_numpy(y)).numpy()
    size = np.where(location == 0, 1.0, np.abs(location))
    unit = size if len(y) == 1 else np.maximum(1e-6 * size, _TINY)
    return location, np.where(flat, unit, np.maximum(spread, _TINY))


def _is_flat(y: Tensor) -> Tensor:  # (n, t) -> (t,)
    """Whether a target is one number but for rounding."""
    return 0.5 * y.amax(dim=0) - 0.5 * y.amin(dim=0) <= 0.5e-14 * y.abs().amax(dim=0)


@dataclass(frozen=True)
class Scaling:
    """x ↦ (x − x_offset)/x_scale and y ↦ (y − y_offset)/y_scale, column by column.

    Attributes:
        x_offset, x_scale: (d,) in the units of the inputs; a scale is infinite for a column that counts as constant.
        y_offset, y_scale: (t,) in the units of the targets. Where targets are not to be normalised, these are the units
            that were learnt in.
        standardised, normalised: whether inputs are changed at all, and targets are normalised.
    """

    x_offset: np.ndarray
    x_scale: np.ndarray
    y_offset: np.ndarray
    y_scale: np.ndarray
    standardised: bool
    normalised: bool

    def inputs(self, x: Tensor) -> Tensor:  # (q, d) -> (q, d)
        """Rows as the kernel sees them: float64, or integers untouched where nothing is standardised."""
        if not self.standardised:
            return x.to(torch.float64) if x.is_floating_point() else x
        offset, scale = (tensor_of(v).to(x.device) for v in (self.x_offset, self.x_scale))
        return scaled(x.to(torch.float64), offset, scale).clamp_(-FAR, FAR)

    def targets(self, y: Tensor) -> Tensor:  # (n, t) -> (n, t)
        """Targets in units of their spread; exactly zero where they have none."""
        y = y.to(torch.float64)
        offset, scale = (tensor_of(v).to(y.device) for v in (self.y_offset, self.y_scale))
        values = scaled(y, offset, scale)
        return torch.where(_is_flat(y), 0.0, values) if self.normalised else values

    def noise(self, variance: Any, column: int) -> Tensor:
        """Noise variances in squared units of a target, in those of its scaled values."""
        return scaled_noise(np.array(variance, dtype=float), float(self.y_scale[column]))

    def with_codes(self, blocks: tuple[tuple[int, ...], ...]) -> Scaling:
        """The same, but for the 0/1 codes of categories: two levels are sqrt(2) apart, however rare they are.

        As far as two random rows are in a standardised column, so that the length scales of both mean the same.

        Args:
            blocks: input columns that code one category each: one column for two levels, else one per level.
        """
        offset, scale = self.x_offset.copy(), self.x_scale.copy()
        for block in blocks if self.standardised else ():
            offset[list(block)], scale[list(block)] = 0.0, 1.0 if len(block) > 1 else math.sqrt(0.5)
        return replace(self, x_offset=offset, x_scale=scale)

    def with_constant(self, columns: list[int]) -> Scaling:
        """The same, but for some columns of the inputs, which become constant."""
        scale = self.x_scale.copy()
        scale[columns] = np.inf
        return replace(self, x_scale=scale)

    def of_targets(self, y: Tensor) -> Scaling:  # (m, t)
        """The same for inputs, with the means and deviations of some rows' targets."""
        offset, scale = target_location_and_scale(y.detach().cpu().double().numpy())
        return replace(self, y_offset=offset, y_scale=scale)

    @property
    def units(self) -> TargetUnits:
        """The units of the targets, where they share one scale."""
        return TargetUnits(tensor_of(self.y_offset), float(self.y_scale[0]))


def scaling_of(
    x: Tensor, y: Tensor, *, standardise: bool, normalise: bool, learnt: TargetUnits | None = None
) -> Scaling:
    """The scaling of a table: inputs (n, d) where `standardise`, targets (n, t) where `normalise`, else as `learnt`."""
    d, t = x.shape[1], y.shape[1]
    x_offset, x_scale = np.zeros(d), np.ones(d)
    y_offset, y_scale = np.zeros(t), np.ones(t)
    if standardise:
        x_offset, x_scale = location_and_scale(x.detach().cpu().double().numpy(), np.ones(d))
    if normalise:
        y_offset, y_scale = target_location_and_scale(y.detach().cpu().double().numpy())
    elif learnt is not None:
        y_offset, y_scale = learnt.offset.cpu().numpy(), np.full(t, learnt.scale)
    return Scaling(x_offset, x_scale, y_offset, y_scale, standardise, normalise)


def check_range(inputs: Tensor, x: Tensor) -> None:
    """Refuse standardised inputs of which one is so far out that distances to it overflow.

    Raises:
        InputError: names the value, its row and its column.
    """
    if len(inputs) and max(map(abs, map(float, inputs.aminmax()))) >= FAR:
        far = (inputs.abs() >= FAR).nonzero()
        row, column = far[0].tolist()
        raise InputError(
            f"x holds {float(x[row, column]):.3g} in row {row}, column {column}, more than {FAR:.0e} times as far from "
            "the other rows as they are from each other: float64 holds no such distance. Correct or remove the row."
        )
