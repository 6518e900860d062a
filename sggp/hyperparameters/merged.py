"""Rows with exact repeats merged, and the part of the likelihood that merging leaves behind."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from sggp.errors import InputError
from sggp.hyperparameters.gram import LOG_TWO_PI
from sggp.posterior.merge import group_rows

__all__ = ["MergedData", "mean_and_weights", "right_sides"]


class MergedData:
    """Observations whose repeated inputs are one row each.

    r rows at one input with noise σ² are one row with their mean and noise σ²/r, and log p(y) = log p(means) +
    Σ_g −½[SS_g/σ² + (r_g − 1) log 2πσ² + log r_g] with SS_g the sum of squares within the group; with noise of their
    own σ_i², the precision-weighted mean, noise 1/Σσ_i⁻², and −½[Σ_i (y_i − ȳ_g)²/σ_i² + Σ_i log 2πσ_i² − log 2πσ̄_g²].

    Args:
        x: (n, d) inputs. y: (n, t) targets, float64.

    Attributes:
        rows: (g, d) distinct inputs. counts: (g,) rows of each, float64.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y
        self.groups = group_rows(x)
        self.rows = x[self.groups.first]
        self.counts = torch.bincount(self.groups.member, minlength=len(self.rows)).to(torch.float64)

    @property
    def n(self) -> int:
        """Rows before merging."""
        return len(self.y)

    @property
    def size(self) -> int:
        """Distinct inputs."""
        return len(self.rows)

    def row_noise(self, noise: Tensor) -> Tensor:  # () or (n,) -> (n,)
        """The noise variance of every row.

        Raises:
            InputError: a repeated input has a noise variance of zero, so that the likelihood is not finite.
        """
        rows = noise.to(self.y).expand(self.n)
        if not self.groups.trivial and bool(((rows == 0) & (self.counts[self.groups.member] > 1)).any()):
            raise InputError(
                "an input that occurs more than once has noise variance 0, so its targets have no density: give such "
                "rows positive noise, or keep one of them."
            )
        return rows

    def means(self, values: Tensor, row_noise: Tensor) -> Tensor:  # (n, s), (n,) -> (g, s)
        """Precision-weighted means of the groups."""
        return self.groups.mean(values, row_noise)

    def within(self, noise: Tensor) -> Tensor:  # () or (n,) -> ()
        """What the likelihood of the merged rows lacks, summed over targets.

        Args:
            noise: variance that all rows share, in which the result is differentiable at no cost; or one per row.
        """
        if self.groups.trivial:
            return 0.0 * noise.sum()
        freedom = self.n - self.size
        if noise.dim() == 0:
            quadratic, spread = self._squares / noise, freedom * noise.log() + self.counts.log().sum()
        else:
            quadratic = (self._deviations(noise).square() / noise[:, None]).sum()
            spread = noise.log().sum() - self.groups.noise(noise).log().sum()
        # −½ Σ_g [SS_g/σ² + (r_g − 1) log 2πσ² + log r_g], for every target
        return -0.5 * (quadratic + self.y.shape[1] * (spread + freedom * LOG_TWO_PI))

    @cached_property
    def _squares(self) -> float:
        return self.sum_of_squares(self.y.new_ones(self.n))

    def sum_of_squares(self, row_noise: Tensor) -> float:
        """Σ_i (y_i − ȳ_g)², summed over targets."""
        return float(self._deviations(row_noise).square().sum())

    def _deviations(self, row_noise: Tensor) -> Tensor:  # (n, t)
        return self.y - self.means(self.y, row_noise)[self.groups.member]


def right_sides(y: Tensor, mean: Tensor | None) -> Tensor:  # (g, t) -> (g, t) or (g, 1 + t)
    """What to solve with H for: y − m; or [1, y] where the mean is not known."""
    return torch.cat([torch.ones_like(y[:, :1]), y], dim=1) if mean is None else y - mean


def mean_and_weights(solved: Tensor, mean: Tensor | None) -> tuple[Tensor, Tensor]:  # (t,), (g, t)
    """m and H⁻¹(y − m) from the solution for `right_sides`; by generalised least squares, m = 1ᵀH⁻¹y / 1ᵀH⁻¹1."""
    if mean is not None:
        return mean, solved
    mean = solved[:, 1:].sum(dim=0) / solved[:, 0].sum()
    return mean, solved[:, 1:] - solved[:, :1] * mean
