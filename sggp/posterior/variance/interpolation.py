"""A smooth function of a few columns at many points, from its values at the nodes of boxes that hold them.

Boxes halve the points' cube, one direction after another. In each the function is found at the nodes of a tensor grid
over the points of the box, and at a few of the points themselves. Where the polynomial through the nodes is right at
these, it serves all points of the box; else the box is halved. Boxes with too few points for that are left out. It is
begun with the widest boxes of which most will do, and not at all where few of the narrowest would.

Source: Trefethen 2013, Approximation Theory and Approximation Practice, chapters 2 and 5 (Chebyshev points and
barycentric interpolation).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import InitVar, dataclass

import numpy as np
import torch
from torch import Tensor

from sggp.native.far.tree import enclosing, interleaved

__all__ = ["Interpolated", "interpolate"]

_NODES, _CHECKS = 5, 9
"""Nodes in each direction, and points at which a box is looked at."""
_TRIED, _WORTH = 8, 0.5
"""Boxes that are looked at of a width, and the share of them that must do for it to be begun with."""
_LEAST = 20
"""Points, for each value that looking takes: a twentieth is lost where nothing comes of it."""
MOST_COLUMNS = 3
"""In more, nodes are too many."""
Function = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Interpolated:
    """Values at the points of boxes that would do.

    Attributes:
        done: (q,) bool, which points. values: (k, c) theirs, in order. error: (k,) root mean square error of the first
            of the c in their box, at points that were looked at.
        evaluations: points at which the function was found.
    """

    done: Tensor
    values: Tensor
    error: Tensor
    evaluations: int


def interpolate(
    points: Tensor, metric: Tensor, function: Function, tolerance: float, saved: int = 2
) -> Interpolated:
    """The function at as many of the points as boxes of them do for.

    Args:
        points: (q, d) float. Where more than three columns vary none is done.
        metric: (q, e) float64, the points where distances tell how far the function may change.
        function: of (b, m, d), the points of b boxes, c values each, (b, m, c) float64. It is also told how many points
            all boxes of the size would have.
        tolerance: root mean square error of the first value that is allowed in a box.
        saved: points of a box, at least, for each value that it takes.

    Cost:
        a sort of the points, some 200 flops for each; values at a twentieth of the points where nothing comes of it,
        else of one in `saved` of them at most.
    """
    search = _Search(points, metric, function, tolerance, saved)
    if search.worthwhile:
        search.run()
    return search.found()


@dataclass
class _Search:
    """The points in an order in which those of every box stand together, and what has been found.

    Attributes:
        order, key: (q,) the order, and places in it: of the first b bits are the boxes after b halvings.
        done, values, error: in that order; values None until one box does.
    """

    points: InitVar[Tensor]
    metric: InitVar[Tensor]
    function: Function
    tolerance: float
    saved: int
    evaluations: int = 0
    values: Tensor | None = None

    def __post_init__(self, points: Tensor, metric: Tensor) -> None:
        self.varying = (points != points[:1]).any(0).nonzero()[:, 0]
        cube = enclosing(metric)
        self.bits = metric.shape[1] * cube.depth
        self.key, self.order = interleaved(cube.finest(metric), cube.depth).sort()
        self.rows = points[self.order]
        whole = len(self.varying) == points.shape[1] and points.dtype == torch.float64
        self.places = self.rows if whole else self.rows[:, self.varying].double()
        self.nodes = _nodes(min(len(self.varying), MOST_COLUMNS))
        self.done = torch.zeros(len(points), dtype=torch.bool)
        self.error = torch.zeros(len(points), dtype=torch.float64)

    @property
    def worthwhile(self) -> bool:
        """Whether a look costs little beside the points."""
        return len(self.varying) <= MOST_COLUMNS and _LEAST * _TRIED * self.evaluated <= len(self.order)

    @property
    def evaluated(self) -> int:
        """Values that a box takes."""
        return len(self.nodes) + _CHECKS

    @property
    def least(self) -> int:
        """Points of a box, at least."""
        return self.saved * self.evaluated

    def run(self) -> None:
        halvings = self._begin()
        if halvings is None:
            return
        boxes = self._boxes(halvings)
        while len(boxes):
            boxes = boxes[boxes[:, 1] - boxes[:, 0] >= self.least]
            if not len(boxes):
                return
            tried = self._values(boxes, halvings)
            good = tried.error <= self.tolerance
            for i in good.nonzero()[:, 0].tolist():
                start, stop = boxes[i].tolist()
                values = tried.at(i, self.places[start:stop])
                if self.values is None:
                    self.values = values.new_empty(len(self.order), values.shape[1])
                self.values[start:stop], self.error[start:stop] = values, tried.error[i]
                self.done[start:stop] = True
            halvings += 1
            boxes = self._halved(boxes[~good], halvings)

    def found(self) -> Interpolated:
        """Back in the order of the points."""
        done = torch.empty_like(self.done).scatter_(0, self.order, self.done)
        if self.values is None:
            return Interpolated(done, self.error.new_empty(0, 1), self.error[:0], self.evaluations)
        place = torch.empty_like(self.order).scatter_(0, self.order, torch.arange(len(done)))[done]
        return Interpolated(done, self.values[place], self.error[place], self.evaluations)

    def _begin(self) -> int | None:
        """Halvings of the widest boxes of which enough will do; None where of the narrowest too few would."""
        step, begun = len(self.varying) or self.bits, None
        halvings = self._narrowest()
        while halvings >= 0:
            boxes = self._boxes(halvings)
            boxes = boxes[boxes[:, 1] - boxes[:, 0] >= self.least]
            some = boxes[torch.linspace(0, len(boxes) - 1, min(_TRIED, len(boxes))).long()]
            share = float((self._values(some, halvings).error <= self.tolerance).double().mean())
            if share < _WORTH:
                break
            begun, halvings = halvings, halvings - step
        return begun

    def _narrowest(self) -> int:
        """Halvings after which half of the points are still in boxes that hold enough of them."""
        for halvings in range(1, self.bits + 1):
            boxes = self._boxes(halvings)
            held = boxes[:, 1] - boxes[:, 0]
            if 2 * int(held[held >= self.least].sum()) < len(self.order):
                return halvings - 1
        return self.bits

    def _boxes(self, halvings: int) -> Tensor:  # (b, 2)
        """Ranges of the points of all boxes."""
        held = torch.unique_consecutive(self.key >> (self.bits - halvings), return_counts=True)[1]
        stop = held.cumsum(0)
        return torch.stack([stop - held, stop], 1)

    def _halved(self, boxes: Tensor, halvings: int) -> Tensor:  # (b, 2) -> (b', 2)
        """The halves of boxes that hold points, after so many halvings."""
        if halvings > self.bits:
            return boxes[:0]
        width = self.bits - halvings
        upper = ((self.key[boxes[:, 0]] >> (width + 1) << 1) + 1) << width
        middle = torch.searchsorted(self.key, upper)
        halves = torch.stack([boxes[:, 0], middle, middle, boxes[:, 1]], 1).reshape(-1, 2)
        return halves[halves[:, 1] > halves[:, 0]]

    def _values(self, boxes: Tensor, halvings: int) -> _Boxes:
        """The function at the nodes of boxes, and how far off it is at points inside."""
        low, high = (_ends(self.places, boxes, least) for least in (True, False))
        size = high - low
        count = len(self.nodes)
        steps = (torch.arange(_CHECKS, dtype=torch.float64) + 0.5) / _CHECKS
        checks = boxes[:, :1] + (steps * (boxes[:, 1:] - boxes[:, :1])).long()  # (b, checks)
        asked = self.rows[torch.cat([boxes[:, :1].expand(-1, count), checks], 1)]
        nodes = low[:, None] + size[:, None] * (self.nodes + 1) / 2  # (b, nodes, d)
        asked[:, :count, self.varying] = nodes.to(asked)
        self.evaluations += len(boxes) * self.evaluated
        everywhere = self.evaluated * len(self._boxes(halvings))
        values = self.function(asked, everywhere)
        found = _weights(self.places[checks], low[:, None], size[:, None]) @ values[:, :count, :1]
        wrong = found[..., 0] - values[:, count:, 0]
        return _Boxes(low, size, values[:, :count], wrong.square().mean(1).sqrt())


@dataclass(frozen=True)
class _Boxes:
    """Some boxes with the function at their nodes.

    Attributes:
        low, size: (b, d) of the points inside. values: (b, nodes, c). error: (b,) at the points that were looked at.
    """

    low: Tensor
    size: Tensor
    values: Tensor
    error: Tensor

    def at(self, box: int, places: Tensor) -> Tensor:  # (k, d) -> (k, c)
        """The polynomials of a box at points inside."""
        return _weights(places, self.low[box], self.size[box]) @ self.values[box]


def _weights(places: Tensor, low: Tensor, size: Tensor) -> Tensor:  # (..., k, d) -> (..., k, nodes)
    """Of the values at the nodes of a box, at points inside."""
    factors = _lagrange(2 * (places - low) / torch.where(size > 0, size, 1.0) - 1)  # (..., k, d, nodes)
    weights = factors.new_ones(*places.shape[:-1], 1)
    for j in range(places.shape[-1]):
        weights = (weights[..., None] * factors[..., j, None, :]).flatten(-2)
    return weights


def _ends(places: Tensor, boxes: Tensor, least: bool) -> Tensor:  # (q, d), (b, 2) -> (b, d)
    """Least or largest coordinates in each of some ranges."""
    ends = boxes.reshape(-1).numpy()
    reduce = np.minimum if least else np.maximum
    found = reduce.reduceat(places.numpy(), ends[ends < len(places)], axis=0)
    return torch.from_numpy(found[::2])


def _line() -> Tensor:  # (nodes,)
    """Chebyshev points of the second kind, both ends among them."""
    return -torch.cos(torch.arange(_NODES, dtype=torch.float64) * (math.pi / (_NODES - 1)))


def _nodes(directions: int) -> Tensor:  # (nodes^d, d)
    """Nodes of the cube from -1 to 1."""
    line = _line()
    if not directions:
        return line.new_empty(1, 0)
    return torch.cartesian_prod(*[line] * directions).reshape(-1, directions)


def _lagrange(t: Tensor) -> Tensor:  # (...) -> (..., nodes)
    """The Lagrange polynomials of the line at t, by products: they are of low degree."""
    line = _line()
    others = torch.stack([torch.cat([line[:k], line[k + 1 :]]) for k in range(_NODES)])
    return ((t[..., None, None] - others) / (line[:, None] - others)).prod(-1)
