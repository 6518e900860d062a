"""Rows that come later, where a column of the table only ever grows or falls.

A row left out of such a table lies between its neighbours in time; the rows that a model of it will be asked for lie
ahead of all. Kernels that interpolate alike extrapolate otherwise, and the rows ahead share one future: their residuals
are no independent evidence. So the rows are cut into eight blocks in order, each is predicted from the first one, two,
... seven, and the standard error is that of blocks' means. Far ahead there are few: there a model must only not lose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sggp.evidence.judging import TWO_ERRORS
from sggp.evidence.leave_one_out import Observed
from sggp.kernels import as_covariance
from sggp.linalg import cholesky

LEAST_ROWS = 100
"""Fewer rows make blocks that say nothing."""
_BLOCKS = 8


def drifts(x: Tensor) -> bool:  # (n, d)
    """Whether one column of several only ever grows or falls, with other values in most rows, in 100 rows or more.

    A table of one column is taken to be sorted.
    """
    if len(x) < LEAST_ROWS or x.shape[1] < 2 or not x.is_floating_point():
        return False
    steps = x.diff(dim=0)
    one_way = (steps >= 0).all(dim=0) | (steps <= 0).all(dim=0)
    return bool((one_way & ((steps != 0).sum(dim=0) > len(x) // 2)).any())


def log_density_ahead(observed: Observed) -> Tensor:  # (7, 8)
    """Mean log density of each block's rows given the first 1, ..., 7 blocks, nats a row and target; nan if not ahead.

    Cost: one Cholesky factor of the table: the leading rows of it are the factor of the leading rows.
    """
    matrix = as_covariance(observed.kernel, dtype=torch.float64).block(observed.x).detach().double()
    matrix.diagonal().add_(observed.positive_noise(float(matrix.diagonal().mean())))
    factor = cholesky(matrix, "K + noise of the table")
    white = torch.linalg.solve_triangular(factor, observed.residual, upper=False)
    ends = [round(len(matrix) * j / _BLOCKS) for j in range(1, _BLOCKS + 1)]
    out = white.new_full((_BLOCKS - 1, _BLOCKS), math.nan)
    for given, start in enumerate(ends[:-1]):
        rows = factor[start:]
        variance = rows[:, start:].square().sum(dim=1, keepdim=True)
        error = observed.residual[start:] - rows[:, :start] @ white[:start]
        density = -0.5 * (math.log(2 * math.pi) + variance.log() + error.square() / variance)
        sizes = [stop - begin for begin, stop in pairwise(ends[given:])]
        out[given, given + 1 :] = torch.stack([block.mean() for block in density.split(sizes)])
    return out


@dataclass(frozen=True)
class GainAhead:
    """How much more likely one model finds rows ahead, nats a row.

    Attributes:
        next: of the block that comes next, averaged over origins. error: its standard error.
        least: the least of the averages for one, two, ... seven blocks ahead.
    """

    next: float
    error: float
    least: float

    @property
    def wins(self) -> bool:
        """Beyond two standard errors on the next block, and farther ahead at no cost."""
        return self.next > TWO_ERRORS * self.error and self.least > 0

    def __str__(self) -> str:
        return f"{self.next:+.3f} ± {self.error:.3f} nats a row, at least {self.least:+.3f} farther on"


def gain_ahead(candidate: Observed, other: Observed) -> GainAhead:
    """That of one model over another of the same rows."""
    gains = log_density_ahead(candidate) - log_density_ahead(other)
    soon = gains.diagonal(1)
    least = min(float(gains.diagonal(ahead).mean()) for ahead in range(1, _BLOCKS))
    return GainAhead(float(soon.mean()), float(soon.std() / len(soon) ** 0.5), least)
