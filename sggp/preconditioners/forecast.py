"""How many iterations a preconditioner will take, measured on a sample of its rows before it is built."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sggp.operators.base import NeighbourOperator, completed
from sggp.preconditioners.local_nystrom import LocalNystrom, interpolation
from sggp.preconditioners.neighbour import last_columns
from sggp.preconditioners.recomputed import landmark_factor

__all__ = ["Forecast", "NeighbourSample", "RankSample", "Sample", "Trend"]

_ROWS = 400
_LOOK = 30
"""Neighbours of the columns that are measured, and below, the least and most columns."""
_LEAST, _MOST = 32, 128
_FALLS = 0.5
"""The power below which g counts as not falling with more neighbours."""
_DECAY = (1.0, 1.5)
"""Least and largest power of the number of neighbours that g is believed to fall with."""


@dataclass(frozen=True)
class RankSample:
    """A few hundred rows on which P = FFᵀ + Σ is compared with K + Σ.

    What is left is S = Σ^-½(K − FFᵀ)Σ^-½, and 1 + S has the spectrum that conjugate gradients see. Its largest
    eigenvalue is taken as tr S³/tr S², both without bias from distinct rows of the sample: the eigenvalues of the
    sampled block itself would be those of a matrix with more noise.

    Attributes:
        rows: (t,). kernel: (t, t) K there. noise: (t,) Σ there. n: rows of the whole.

    Source: Kong and Valiant 2017 (moments of a spectrum from cycles over distinct rows).
    """

    rows: Tensor
    kernel: Tensor
    noise: Tensor
    n: int

    @classmethod
    def draw(cls, operator: NeighbourOperator, generator: torch.Generator) -> RankSample:
        n = operator.shape[0]
        rows = torch.randperm(n, generator=generator)[:_ROWS].to(operator.device)
        kernel = operator.cross_block(rows, rows)
        # as in `low_rank_plus_noise`
        floor = max(1e-10 * float(kernel.diagonal().max()), torch.finfo(torch.float64).tiny)
        return cls(rows, kernel, operator.noise_variance[rows].clamp_min(floor), n)

    def measure(self, factor: Tensor) -> float:  # (n, r)
        """λ, the largest eigenvalue of S, about.

        Cost: t²·r + t³ flops.
        """
        return self.measure_rows(factor[self.rows])

    def measure_rows(self, part: Tensor) -> float:  # (t, r)
        """`measure` from the rows of F that are in the sample."""
        root, n, t = self.noise.rsqrt(), self.n, len(self.rows)
        left = torch.addmm(self.kernel, part, part.T, alpha=-1) * root[:, None] * root
        diagonal = left.diagonal().clamp_min(0).clone()
        left.diagonal().zero_()
        pairs, triples = n * (n - 1) / max(1, t * (t - 1)), math.comb(n, 3) / max(1, math.comb(t, 3))
        rows = left.square().sum(1)
        first = n * float(diagonal.mean())
        second = n * float(diagonal.square().mean()) + pairs * float(rows.sum())
        third = n * float(diagonal.pow(3).mean()) + 3 * pairs * float(diagonal @ rows)
        third += triples * float((left @ left).mul_(left).sum())
        # no less than by the second moment: tr S³ tr S ≥ (tr S²)²
        return max(third / max(second, 1e-300), second / max(first, 1e-300))


@dataclass(frozen=True)
class NeighbourSample:
    """A few columns U_T of a sparse inverse factor of R = K − FFᵀ + Σ, without the others.

    G = UᵀRU has a unit diagonal, and P = FFᵀ + (UUᵀ)⁻¹ is exact where G = 1. The measure is the mean square of a
    row of G beside its diagonal, g = ‖G − 1‖²_F/n, without bias from pairs of the sample.

    Attributes:
        rows: (u,) the rows that enter. place: (t, m+1) where those of a column are among them, its own last.
        real: (t, m+1) False where a row has fewer neighbours. kernel: (u, u) K there. noise: (u,) Σ there.
        n: rows of the whole.

    Source: own.
    """

    rows: Tensor
    place: Tensor
    real: Tensor
    kernel: Tensor
    noise: Tensor
    n: int

    @classmethod
    def of(cls, operator: NeighbourOperator, known: Tensor, real: Tensor, row: Tensor) -> NeighbourSample:
        """The columns of rows `row` (t, 1) with neighbours `known` (t, m)."""
        rows, place = torch.unique(torch.cat([known, row], 1), return_inverse=True)
        real = torch.cat([real, torch.ones_like(row, dtype=torch.bool)], 1)
        kernel = operator.cross_block(rows, rows)
        return cls(rows, place, real, kernel, operator.noise_variance[rows], operator.shape[0])

    @property
    def width(self) -> int:
        """m."""
        return self.place.shape[1] - 1

    def measure(self, factor: Tensor | None, width: int | None = None) -> float:  # (n, r)
        """g, with the first `width` of the neighbours; None for all.

        Cost: u²·t + t·m²·r flops.
        """
        part = None if factor is None else factor[self.rows]
        columns = self._columns(part, self.width if width is None else width)
        product = self.kernel @ columns
        product.addcmul_(self.noise[:, None], columns)
        gram = columns.T @ product
        if part is not None:
            inner = part.T @ columns
            gram = gram - inner.T @ inner
        t = len(gram)
        gram.diagonal().zero_()
        return (self.n - 1) * float(gram.square().sum()) / max(1, t * (t - 1))

    def _columns(self, part: Tensor | None, width: int) -> Tensor:  # (u, t)
        """U_T, dense."""
        place, real = (torch.cat([a[:, :width], a[:, -1:]], 1) for a in (self.place, self.real))
        small = self.kernel[place[:, :, None], place[:, None, :]]
        values = last_columns(small, self.noise[place], real, None if part is None else part[place])
        columns = small.new_zeros(len(self.rows), len(small))
        return columns.scatter_add_(0, place.T, values.T)


@dataclass(frozen=True)
class Trend:
    """A measure at some ranks, ascending: a power of the rank between two of them, and beyond the last two.

    Attributes:
        points: (rank, measure) pairs. steepest: the largest power that is believed beyond the last rank.
    """

    points: tuple[tuple[int, float], ...]
    steepest: float

    def at(self, rank: int) -> float:
        """The measure at a rank."""
        if len(self.points) == 1:
            return self.points[0][1]
        # the last of the two is the first rank that reaches as far
        i = next((i for i, (r, _) in enumerate(self.points[1:-1], 1) if rank <= r), len(self.points) - 1)
        (first, past), (last, value) = self.points[i - 1 : i + 1]
        if not 0 < value < past:
            return value
        power = math.log(past / value) / math.log(last / first)
        return value * (last / rank) ** (min(power, self.steepest) if rank > last else power)


@dataclass(frozen=True)
class Forecast:
    """Iterations by rank and neighbours, from what was measured at some ranks and one number of neighbours.

    With P = FFᵀ + Σ conjugate gradients take about 1 + 2.1·√λ iterations to 1e-2, λ as `RankSample` measures it; with
    neighbours about 2 + 60·g^0.65, g as `NeighbourSample` does. Fitted to 60 solves of 5,000 to 36,000 rows (RBF and
    Matérn-3/2 on a robot arm, POL, PROTEIN, ELEVATORS; 0 to 200 neighbours, rank 0 to 2,000) that took from 2 to 166
    iterations: most are within a third of the fit.

    Attributes:
        largest: λ. width: neighbours measured, 0 for none.
        alone: g of so many neighbours alone. beside: g of them beside a factor.
        decay: the power of the number of neighbours that g falls with.
        rows: n where g hardly falls with more neighbours, else 0. Then it is not many small errors but some n·g
            directions that the factor misses altogether (eigenvalues of G near 0), and each takes an iteration.
    """

    largest: Trend
    width: int = 0
    alone: float = 0.0
    beside: Trend | None = None
    decay: float = 1.0
    rows: int = 0

    @property
    def rank(self) -> int:
        """Columns that were measured."""
        return self.largest.points[-1][0]

    def iterations(self, rank: int, neighbours: int) -> float:
        """Iterations to 1e-2 with so much rank and so many neighbours."""
        if not neighbours:
            return iterations_of(self.largest.at(rank))
        spread = self.beside.at(rank) if rank and self.beside else self.alone
        missed = self.rows * spread
        return 2.0 + missed + 60.0 * (spread * (self.width / neighbours) ** self.decay) ** 0.65


def iterations_of(largest: float) -> float:
    """Iterations to 1e-2 with a low-rank part and the noise that leave this λ, about."""
    return 1.0 + 2.1 * math.sqrt(largest)


class Sample:
    """The samples of one operator, and the forecasts from them.

    Args:
        operator: n rows.
        generator: draws the rows, and the ordering where neighbours are looked at.
        most: rows whose block of K may be looked at for neighbours.

    Attributes:
        order: (n,) the ordering; None until `look_at_neighbours` has made it.
    """

    def __init__(self, operator: NeighbourOperator, generator: torch.Generator, most: int) -> None:
        self._operator, self._generator, self._most = operator, generator, most
        self._rank = RankSample.draw(operator, generator)
        self._residual: NeighbourSample | None = None
        self._alone, self._decay, self._missing = 0.0, 1.0, 0
        self._points: dict[type, dict[int, float]] = {}
        self.order: Tensor | None = None

    def forecast(self, factor: Tensor) -> Forecast:
        """From this factor and those before it; neighbours are in it once they have been looked at."""
        largest = Trend(self._measured(self._rank, factor), 3.0)
        if self._residual is None:
            return Forecast(largest)
        beside = Trend(self._measured(self._residual, factor), 1.5)
        return Forecast(largest, self._residual.width, self._alone, beside, self._decay, self._missing)

    def _measured(
        self, sample: RankSample | NeighbourSample, factor: Tensor
    ) -> tuple[tuple[int, float], ...]:
        """(rank, measure) of the factors so far, this one with them; the first one at half its rank too."""
        rank, points = factor.shape[1], self._points.setdefault(type(sample), {})
        if not points:
            half = factor[:, : max(1, rank // 2)]
            points[half.shape[1]] = sample.measure(half)
        if rank not in points:
            points[rank] = sample.measure(factor)
        return tuple(sorted(points.items()))

    def landmarks(self, settings: LocalNystrom, order: Tensor) -> float:
        """Iterations to 1e-2 with the first rows of an ordering as landmarks, about.

        With r the share of a row's variance that its landmarks leave, in what they leave and the noise, each of n/m
        rows around a landmark shares that with the others: the spectrum goes from 1 − r to 1 + r·n/m. Steps are
        1 + 3.2·√κ, fitted to 22 solves of 20,000 rows in two and three columns (250 to 2,000 landmarks, Matérn-1/2 to
        5/2, noise .001 to .1): between half and 1.5 times of what they took, 2 to 52.

        Cost: 400·k³/3 flops.
        """
        operator, n = self._operator, self._operator.shape[0]
        landmarks = order[: settings.rank]
        rows = torch.randperm(n, generator=self._generator)[:_ROWS].to(order.device)
        left = interpolation(completed(operator), landmarks, rows, settings.neighbours).left
        noise = operator.noise_variance[rows]
        share = float((left / (left + noise).clamp_min(torch.finfo(torch.float64).tiny)).mean())
        return 1.0 + 3.2 * math.sqrt((1 + share * n / len(landmarks)) / max(1 - share, 1e-12))

    @cached_property
    def shuffled(self) -> Tensor:  # (n,)
        """All rows in an order of chance: the first are landmarks."""
        rows = torch.randperm(self._operator.shape[0], generator=self._generator)
        return rows.to(self._operator.device)

    def recomputed(self, rank: int) -> float:
        """Iterations to 1e-2 with the first rows of `shuffled` as landmarks of a `RecomputedNystrom`, about.

        Cost: rank³/3 + t·rank² flops for the t rows of the sample.
        """
        landmarks = self.shuffled[:rank]
        columns = self._operator.cross_block(landmarks, self._rank.rows)
        part = torch.linalg.solve_triangular(landmark_factor(self._operator, landmarks), columns, upper=False)
        return iterations_of(self._rank.measure_rows(part.T))

    def look_at_neighbours(self, factor: Tensor, ordered: bool = True) -> None:
        """Draw the columns: neighbours by the kernel's metric, and by what the factor leaves.

        In the ordering that they would have, which is then kept, or in one of chance: to make the former may cost
        more than a look is worth.
        """
        operator, n = self._operator, self._operator.shape[0]
        m = min(_LOOK, n - 1)
        t = min(n, max(_LEAST, min(_MOST, self._most // (m + 1))))
        self.order = operator.ordering(self._generator) if ordered else None
        order = self.shuffled if self.order is None else self.order
        own = torch.randperm(n, generator=self._generator)[:t].sort().values.to(order.device)
        found = completed(operator).earlier_of(order, own, min(3 * m, n - 1))
        real, row = found >= 0, order[own][:, None]
        known = torch.where(real, order[found.clamp_min(0)], row)
        # of largest residual correlation, as `NeighbourOperator.earlier_neighbours` finds them
        blocks, part = operator.small_blocks(torch.cat([known, row], 1)), factor[known]
        left = (blocks.diagonal(dim1=1, dim2=2)[:, :-1] - part.square().sum(2)).clamp_min(0)
        left = (left + operator.noise_variance[known]).clamp_min(1e-14 * float(blocks.max()))
        score = (
            blocks[:, -1, :-1] - torch.einsum("tkr,tr->tk", part, factor[row[:, 0]])
        ).abs() * left.rsqrt()
        best = torch.where(real, score, -1.0).topk(m).indices
        plain = NeighbourSample.of(operator, known[:, :m], real[:, :m], row)
        self._alone, fewer = plain.measure(None), plain.measure(None, m // 2)
        if m > 1 and self._alone > 0 and fewer > 0:
            power = math.log(fewer / self._alone) / math.log(m / (m // 2))
            self._missing = n if power < _FALLS else 0
            self._decay = min(max(power, _DECAY[0]), _DECAY[1])
        self._residual = NeighbourSample.of(operator, known.gather(1, best), real.gather(1, best), row)
