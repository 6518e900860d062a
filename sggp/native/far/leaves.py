"""From points to nodes and back, leaf by leaf: moments of values, and fields at points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sggp.native.far.basis import Basis
from sggp.native.far.tree import Tree

__all__ = ["Leaves"]

_BYTES = 24 * 2**20
"""Of the largest temporary of a batch of leaves."""
_SPREAD = 1.15


@dataclass(frozen=True)
class _Batch:
    """Leaves with about as many points, padded to the same number."""

    boxes: Tensor  # (l,) boxes of the level
    rows: Tensor  # (l, w) points, of which those past the end repeat the first
    real: Tensor  # (l, w) bool
    local: Tensor  # (l, w, d) float64, from the middle of the box


class Leaves:
    """The leaves of one level of a tree, with the basis of that level."""

    def __init__(self, tree: Tree, level: int, basis: Basis) -> None:
        self.tree, self.level, self.basis = tree, level, basis
        boxes = tree.levels[level]
        found = boxes.leaf.nonzero()[:, 0]
        sizes = (boxes.stop - boxes.start)[found]
        order = sizes.argsort()
        self.found, self.sizes = found[order], sizes[order]

    def __len__(self) -> int:
        return len(self.found)

    def moments(self, v: Tensor, out: Tensor) -> None:  # (n, s), (b, s, r)
        """out[b, :, i] = Σ of e_i(x) v over the points x of every leaf b."""
        coefficients = self.basis.coefficients.to(v.dtype)
        for batch in self._batches(v):
            values = v[batch.rows] * batch.real[..., None]
            left, right = self._factors(batch, v.dtype)
            # (l, w, P') (l, w, p·s): the last direction goes with the values
            spread = (right[..., :, None] * values[..., None, :]).flatten(2)
            table = left.mT @ spread  # (l, P', p·s)
            table = table.unflatten(2, (right.shape[2], -1)).flatten(1, 2)  # (l, P, s)
            out[batch.boxes] = table.mT @ coefficients

    def fields(self, local: Tensor, out: Tensor) -> None:  # (b, s, r), (n, s)
        """out[x] += Σ_i e_i(x) local[b, :, i] for the points x of every leaf b."""
        coefficients = self.basis.coefficients.to(out.dtype)
        for batch in self._batches(out):
            left, right = self._factors(batch, out.dtype)
            table = (local[batch.boxes] @ coefficients.T).mT  # (l, P, s)
            table = table.unflatten(1, (left.shape[2], -1)).flatten(2)  # (l, P', p·s)
            found = (left @ table).unflatten(2, (right.shape[2], -1))  # (l, w, p, s)
            values = (found * right[..., None]).sum(2)
            out[batch.rows[batch.real]] += values[batch.real]

    def _factors(self, batch: _Batch, dtype: torch.dtype) -> tuple[Tensor, Tensor]:  # (l, w, P'), (l, w, p)
        """Polynomials of all directions but the last, multiplied, and of the last."""
        *others, last = self.basis.factors(batch.local.to(dtype))
        left = torch.ones_like(last[..., :1])
        for factor in others:
            left = (left[..., :, None] * factor[..., None, :]).flatten(2)
        return left, last

    def _batches(self, v: Tensor) -> Iterator[_Batch]:
        orders = self.basis.orders
        lead = 1
        for p in orders[:-1]:
            lead *= p
        per_point = 4 * v.element_size() * (lead + orders[-1] * v.shape[1])
        boxes, cube = self.tree.levels[self.level], self.tree.cube
        side, start = cube.side_at(self.level), 0
        sizes = self.sizes.tolist()
        while start < len(sizes):
            stop, total = start, 0
            most = _SPREAD * sizes[start] + 4
            while stop < len(sizes) and sizes[stop] <= most:
                total = (stop - start + 1) * sizes[stop]
                if stop > start and total * per_point > _BYTES:
                    break
                stop += 1
            found = self.found[start:stop]
            first, count = boxes.start[found], self.sizes[start:stop]
            places = torch.arange(sizes[stop - 1])
            real = places < count[:, None]
            rows = first[:, None] + torch.where(real, places, torch.zeros_like(places))
            middle = cube.low + boxes.cell[found].double() * side + self.basis.extent / 2
            yield _Batch(found, rows, real, self.tree.rows[rows] - middle[:, None])
            start = stop
