"""Which rows are set aside to judge a model by: any, and where most rows are repeats whole inputs as well.

A row whose input was measured again is predicted by its repeats. Where most rows are such, rows set aside one by one
say how well a measurement repeats, and nothing of inputs that are new: there a model must do on both.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sggp.defaults import DIRECT_ROWS
from sggp.evidence.leave_one_out import Observed
from sggp.posterior.merge import Groups, group_rows

SET_ASIDE = 2000
"""Rows of a large table that are set aside, at most."""
EXACT_ROWS = 600
_PARTS, _FEWER_PARTS = 5, 3  # up to 600 rows, and beyond
_MOST_INPUTS = 3  # at least as many parts of the inputs, of which one is set aside
_MOSTLY = 0.5  # share of the rows that have repeats, from which on new inputs are looked at as well
Split = tuple[Tensor, Tensor]


def repeated_inputs(x: Tensor) -> Groups | None:  # (n, d)
    """Which rows share an input, where more than half of them do and there are two inputs or more; else None."""
    groups = group_rows(x.cpu())
    alone = int((torch.bincount(groups.member) == 1).sum())
    few = len(groups.first) < 2 or 1 - alone / len(x) <= _MOSTLY
    return None if few else groups


def rows_aside(n: int, generator: torch.Generator) -> list[Split]:
    """(rows set aside, the others), in random order: each row once up to 3,000 of them, 2,000 rows of more."""
    order = torch.randperm(n, generator=generator)
    if n > DIRECT_ROWS:
        return [(order[:SET_ASIDE], order[SET_ASIDE:])]
    parts = order.chunk(_PARTS if n <= EXACT_ROWS else _FEWER_PARTS)
    return [(part, torch.cat([*parts[:j], *parts[j + 1 :]])) for j, part in enumerate(parts)]


def inputs_aside(groups: Groups, generator: torch.Generator) -> list[Split]:
    """As `rows_aside`, but inputs are set aside, with all of their rows."""
    n, inputs = len(groups.member), len(groups.first)
    order = torch.randperm(inputs, generator=generator)
    if n > DIRECT_ROWS:
        few = max(1, min(inputs // _MOST_INPUTS, inputs * SET_ASIDE // n))
        aside, others = _rows_of(groups, order[:few], generator)
        return [(aside[:SET_ASIDE], others)]
    parts = order.chunk(min(inputs, _PARTS if n <= EXACT_ROWS else _FEWER_PARTS))
    return [_rows_of(groups, part, generator) for part in parts]


def one_row_an_input(observed: Observed, groups: Groups) -> Observed:
    """The table with each input once: the mean of its targets, with the noise of that mean."""
    noise = observed.positive_noise(1.0)
    residual = groups.mean(observed.residual, noise)
    return Observed(observed.kernel, observed.x[groups.first], residual, groups.noise(noise))


def mean_and_error(values: np.ndarray, member: np.ndarray | None = None) -> tuple[float, float]:
    """The mean of (m,) values and its standard error; those of one member (m,) vary together."""
    mean, n = float(values.mean()), len(values)
    if member is None:
        return mean, float(values.std() / n**0.5)
    sums = np.bincount(member, values - mean)
    return mean, float(np.sqrt(np.sum(sums**2)) / n)


def _rows_of(groups: Groups, inputs: Tensor, generator: torch.Generator) -> Split:
    chosen = torch.zeros(len(groups.first), dtype=torch.bool)
    chosen[inputs] = True
    order = torch.randperm(len(groups.member), generator=generator)
    inside = chosen[groups.member[order]]
    return order[inside], order[~inside]
