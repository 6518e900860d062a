"""The min-wise hash of weights that are not small counts: fractions, large numbers, numbers of both signs.

Whole units up to 255 are hashed as counts. What remains of a weight (a fraction of a unit cell, and beyond 256 cells of
doubling length) races against them in continuous time: a cell of length w rings first at T_1 ~ Exp(w), at a uniform
place z_1 in the cell. If the row covers only the first fraction f of the cell and z_1 >= f, the next ring to its left
comes after another Exp(w z_1), at a uniform place in [0, z_1), and so on: the sequence of records of a Poisson process,
about 1 + log(1/f) long. Whoever covers z_k rings at the same T_k with the same sign, whatever else the row holds, so
the hash is consistent, and the first ring of x and of z coincide with probability T_MM(x, z) exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sggp.kernels.features import prf

LARGEST_COUNT = 255
"""Weights above it are not counts; cells of length one end one unit later, then lengths double."""
_UNIT_CELLS = LARGEST_COUNT + 1
_ENTRIES = 2**19
_RINGS = 1024


def whole_units(x: Tensor) -> Tensor:
    """The part of non-negative weights that is hashed as counts: (n, d) uint8."""
    return x.clamp(max=LARGEST_COUNT).floor().to(torch.uint8)


def race(x: Tensor, whole: Tensor, lowest: Tensor, keys: Tensor) -> Tensor:
    """Signs (n, M) int8 of the first ring among the whole units and the remainders.

    Args:
        x: (n, d) non-negative float64.
        whole: (n, d) its whole units.
        lowest: (n, M) int32 lowest value among the whole units (of the reserved cell where there are none).
        keys: (2, M) int32.
    """
    none = (whole == 0).all(-1)
    signs = prf.sign(lowest)
    time = (-torch.log1p(-prf.uniform(lowest))).masked_fill_(none[:, None], math.inf)
    cells = _remainders(x, whole)
    step = max(1, _ENTRIES // keys.shape[1])
    for start in range(0, len(cells.row), step):
        part = cells.part(slice(start, start + step))
        value = prf.table(part.codes(), keys)
        # a unit cell that first rings after a whole unit cannot win with a later ring
        hopeful = (value < lowest[part.row]) | (none[part.row] | (part.width > 1))[:, None]
        at, hashed = hopeful.nonzero(as_tuple=True)
        _follow(part.part(at), value[at, hashed], hashed, keys, time, signs)
    return signs


@dataclass(frozen=True, eq=False)
class _Cells:
    """Cells of several rows, (c,) each: row, column, number (from 1), length, fraction covered."""

    row: Tensor
    column: Tensor
    number: Tensor
    width: Tensor
    fraction: Tensor

    def part(self, at: Tensor | slice) -> _Cells:
        """Some of the cells."""
        return _Cells(self.row[at], self.column[at], self.number[at], self.width[at], self.fraction[at])

    def codes(self, ring: int = 0, purpose: int = 0) -> Tensor:
        """Codes of the cells for the pseudo-random function."""
        return prf.element_codes(self.column, self.number, ring, purpose)


def _remainders(x: Tensor, whole: Tensor) -> _Cells:
    """The cells above the whole units: (j − 1, j] has number j up to 256, (256·2^q, 512·2^q] has number 257 + q."""
    row, column = (x > whole).nonzero(as_tuple=True)
    value, first = x[row, column], whole[row, column].to(torch.int64) + 1
    doubled = torch.log2((value / _UNIT_CELLS).clamp(min=1.0)).ceil()
    count = (value.clamp(max=_UNIT_CELLS).ceil() + doubled).to(torch.int64) - first + 1
    before = (count.cumsum(0) - count - first).repeat_interleave(count)
    number = torch.arange(len(before), device=x.device) - before
    row, column, value = (part.repeat_interleave(count) for part in (row, column, value))
    unit = number <= _UNIT_CELLS
    width = torch.exp2((number - _UNIT_CELLS - 1).clamp(min=0).to(torch.float64)) * _UNIT_CELLS
    below = torch.where(unit, number.to(torch.float64) - 1, width)
    width = torch.where(unit, 1.0, width)
    return _Cells(row, column, number, width, ((value - below) / width).clamp(0.0, 1.0))


def _follow(cells: _Cells, value: Tensor, hashed: Tensor, keys: Tensor, time: Tensor, signs: Tensor) -> None:
    """Let one cell per entry (e,) ring until inside its covered fraction; winners go into `time` and `signs`."""
    num_hashes = keys.shape[1]
    clock = -torch.log1p(-prf.uniform(value)) / cells.width
    place = prf.uniform(prf.entries(cells.codes(purpose=1), keys[:, hashed]))
    slot = cells.row * num_hashes + hashed
    bound = time.flatten()[slot]
    rung: list[tuple[Tensor, Tensor, Tensor]] = []
    for ring in range(1, _RINGS):
        inside, open_ = place < cells.fraction, clock < bound
        rung.append((slot[inside & open_], clock[inside & open_], prf.sign(value[inside & open_])))
        still = (open_ & ~inside).nonzero()[:, 0]
        if not len(still):
            break
        cells, hashed, slot, bound = cells.part(still), hashed[still], slot[still], bound[still]
        clock, place, feature = clock[still], place[still], keys[:, hashed]
        value = prf.entries(cells.codes(ring), feature)
        clock = clock - torch.log1p(-prf.uniform(value)) / (cells.width * place)
        place = place * prf.uniform(prf.entries(cells.codes(ring, purpose=1), feature))
    slots, times, marks = (torch.cat(part) for part in zip(*rung, strict=True))
    earliest = time.view(-1).scatter_reduce_(0, slots, times, "amin")
    first = times == earliest[slots]
    signs.view(-1)[slots[first]] = marks[first]
