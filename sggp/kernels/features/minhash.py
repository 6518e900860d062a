"""Random hash features of the min-max Tanimoto kernel, for counts and for any other weights.

T_MM(x, z) = Σ min(x_i, z_i) / Σ max(x_i, z_i) is the Jaccard similarity of the sets {(i, t): 0 ≤ t < x_i}.
Give every unit cell (i, j) of that set an independent random time; the cell that rings first is the same for
x and z with probability T_MM (min-wise hashing), so a random sign attached to it has E[ξ(x) ξ(z)] = T_MM(x,
z). With M hashes φ = ξ/√M has φ(x)·φ(x) = 1 exactly and per-hash variance 1 − T_MM², the least possible.

For integer counts the cells are the thermometer code {(i, j): 1 ≤ j ≤ x_i}, and the whole computation is:
hash each (i, j) that occurs, running minimum over j, then a minimum over each row's non-zero columns. A
fractional count, or one above 256, is handled exactly by the arrivals of a Poisson process in the cell
(`weights.py`); both routes are the same hash, so 3 and 3.0 and a neighbour at 3.2 are treated
consistently.

The empty vector holds one reserved cell, so T(0, 0) = 1 and T(0, x) = 0.

Sources: Broder (1997) min-wise hashing; Tripp, Bacallado, Singh & Hernández-Lobato (NeurIPS 2023) §3 for the
features. Departures: 1. a keyed pseudo-random function replaces stored tables, so no two cells share a sign
and memory does not grow with the width of the fingerprint; 2. consistent weighted sampling (Ioffe 2010) is
replaced by min-wise hashing over cells with exact arrivals in the last one, which needs no logarithm on counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sggp.arrays import all_finite
from sggp.errors import InputError
from sggp.kernels.features import prf, weights
from sggp.kernels.features.base import ScaledMap
from sggp.kernels.features.registry import draw_features
from sggp.kernels.tanimoto import TanimotoMinMax, as_counts, check_counts
from sggp.random import streams

_CHUNK_ROWS = 8192
_CHUNK_ENTRIES = 2**23
_TABLE_BYTES = 4 * 2**20


@dataclass(frozen=True, eq=False)
class MinHashMap(ScaledMap):
    """φ_m(x) = √(scale/M) · (random sign of the cell of x that rings first in hash m).

    Args:
        keys: (2, M) int32, the hashes' keys.
        input_dim: d.
        scale: k(x, x).
        dtype: dtype of the features of integer input.

    `phi` raises `InputError` for NaN, infinite entries and negative counts; numbers of both signs are split
    into positive and negative parts, as the kernel does. Cost: M times the number of non-zeros of x; working
    memory beyond the features is a few tens of MiB for fingerprints, 256 MiB for rows without a zero.
    """

    keys: Tensor
    input_dim: int
    scale: float = 1.0
    dtype: torch.dtype = torch.float32

    differentiable = False
    counts = True
    group_size = 1

    @property
    def num_features(self) -> int:
        """M."""
        return self.keys.shape[1]

    def signs(self, x: Tensor) -> Tensor:
        """The features as signs: (…, n, d) -> (…, n, M) int8."""
        rows = x.detach().reshape(-1, self.input_dim)
        out = torch.empty(len(rows), self.num_features, dtype=torch.int8, device=x.device)
        step = max(1, min(_CHUNK_ROWS, _CHUNK_ENTRIES // self.input_dim))
        for start in range(0, len(rows), step):
            chunk = rows[start : start + step]
            counts, real = _counts(chunk)
            for members, hashes, lowest in _lowest(counts, self.keys):
                out[start + members, hashes] = prf.sign(lowest)
            if len(real):
                out[start + real] = _signs_of_reals(chunk[real], self.keys)
        return out.reshape(*x.shape[:-1], self.num_features)

    def _evaluate(self, x: Tensor) -> Tensor:
        return self.signs(x).to(self._output_dtype(x)).mul_(math.sqrt(self.scale / self.num_features))


@draw_features.register(TanimotoMinMax)
def _min_max(
    kernel: TanimotoMinMax, num_features: int, *, input_dim: int, generator: torch.Generator
) -> MinHashMap:
    (keys,) = streams(generator, "min-wise hash keys")
    return MinHashMap(prf.draw_keys(num_features, keys), input_dim)


def _counts(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as uint8 counts, and the indices of rows that are not counts of at most 255 (left empty)."""
    none = torch.empty(0, dtype=torch.int64, device=x.device)
    counts = as_counts(x)
    if counts is not None:
        return counts, none
    check_counts(x, "TanimotoMinMax")
    if x.is_floating_point() and not all_finite(x):
        raise InputError(
            "the min-max Tanimoto kernel needs finite counts or weights; got infinite or NaN entries."
        )
    real = (x > weights.LARGEST_COUNT).any(-1)
    if x.is_floating_point():
        real = real | ((x != x.floor()) | (x < 0)).any(-1)
    return x.masked_fill(real[:, None], 0).to(torch.uint8), real.nonzero()[:, 0]


def _lowest(counts: Tensor, keys: Tensor) -> Iterator[tuple[Tensor, slice, Tensor]]:
    """The lowest value among each row's cells in each hash, piece by piece: rows (r,), hashes, values (r, m) int32.

    `_levels` lists the (column, level) pairs up to each column's largest count; the running minimum over the
    levels of a column turns a row's work from one lookup per counted unit into one per non-zero column.
    """
    if not len(counts):
        return
    columns, level = _levels(counts)
    empty = prf.element_codes(torch.full((1,), -1, device=counts.device), 0)
    elements = torch.cat((prf.element_codes(columns, level), empty))
    groups = list(_row_groups(counts, columns, level))
    step = max(16, _TABLE_BYTES // (4 * len(elements)))
    deepest = int(level.max()) if len(level) else 0
    deeper = [(level == value).nonzero()[:, 0] for value in range(2, deepest + 1)]
    for start in range(0, keys.shape[1], step):
        hashes = slice(start, start + step)
        values = prf.table(elements, keys[:, hashes].contiguous())
        for rows in deeper:
            values[rows] = torch.minimum(values[rows], values[rows - 1])
        for members, lookups, alive in groups:
            lowest = values[lookups[0]]
            for position, count in enumerate(alive[1:], start=1):
                head = lowest[:count]
                torch.minimum(head, values.index_select(0, lookups[position, :count]), out=head)
            yield members, hashes, lowest


def _levels(counts: Tensor) -> tuple[Tensor, Tensor]:
    """All (column, level) with 1 <= level <= the column's largest count, levels of a column in a row."""
    largest = counts.amax(0).to(torch.int64)
    columns = torch.repeat_interleave(torch.arange(len(largest), device=counts.device), largest)
    first = largest.cumsum(0) - largest
    return columns, torch.arange(len(columns), device=counts.device) - first[columns] + 1


def _row_groups(counts: Tensor, columns: Tensor, level: Tensor) -> Iterator[tuple[Tensor, Tensor, list[int]]]:
    """Rows in groups of similar length: members (r,), lookups (longest, r) into the table, and how many reach each.

    Within a group rows are sorted by decreasing length, so those that still have a j-th entry are a prefix.
    """
    n, device = len(counts), counts.device
    offset = torch.zeros(counts.shape[1], dtype=torch.int64, device=device)
    offset[columns[level == 1]] = (level == 1).nonzero()[:, 0]
    row, column = counts.nonzero(as_tuple=True)
    entries = offset[column] + counts[row, column].to(torch.int64) - 1
    length = torch.bincount(row, minlength=n)
    begin = length.cumsum(0) - length
    order = torch.argsort(length, descending=True, stable=True)
    size = 256 if device.type == "cpu" else n
    for start in range(0, n, size):
        members = order[start : start + size]
        lengths = length[members]
        longest = max(1, int(lengths[0]))
        positions = torch.arange(longest, device=device)[:, None]
        index = (begin[members][None, :] + positions).clamp_(max=max(0, len(entries) - 1))
        lookups = entries[index] if len(entries) else torch.zeros_like(index)
        lookups[0, lengths == 0] = len(columns)  # the reserved cell of the empty vector, last in the table
        yield members, lookups, (lengths[None, :] > positions).sum(1).tolist()


def _signs_of_reals(x: Tensor, keys: Tensor) -> Tensor:
    """(n, d) real weights -> (n, M) int8; a negative weight is a positive one in a column of its own, d further on."""
    x = x.to(torch.float64)
    if bool((x < 0).any()):
        x = torch.cat((x.clamp(min=0.0), (-x).clamp(min=0.0)), -1)
    signs = []
    for block in x.split(max(1, _TABLE_BYTES // (4 * keys.shape[1]))):
        whole = weights.whole_units(block)
        lowest = torch.empty(len(block), keys.shape[1], dtype=torch.int32, device=x.device)
        for rows, hashes, values in _lowest(whole, keys):
            lowest[rows, hashes] = values
        signs.append(weights.race(block, whole, lowest, keys))
    return torch.cat(signs)
