"""A preconditioner whose rank and neighbours follow from the matrix, the columns to solve for, and the memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from sggp.arrays import check_budget
from sggp.checks import whole_number
from sggp.errors import InputError
from sggp.neighbours.ordering import by_grid
from sggp.operators.base import NeighbourOperator, completed
from sggp.preconditioners.base import (
    Built,
    LowRankPlus,
    Preconditioner,
    Unfinished,
    low_rank_plus_noise,
    require_blocks,
)
from sggp.preconditioners.forecast import Forecast, Sample
from sggp.preconditioners.local_nystrom import LocalNystrom
from sggp.preconditioners.low_rank import random_pivoted_cholesky
from sggp.preconditioners.neighbour import NearestNeighbour, SparseInverseFactor
from sggp.preconditioners.recomputed import RecomputedNystrom
from sggp.running import OutOfTime, go_on, limited, patient

__all__ = ["Balanced"]

Sizes = tuple[int, int]
"""Rank and neighbours."""
Landmarks = LocalNystrom | RecomputedNystrom

PILOT = 200
_AT_LEAST = 2.0
"""Iterations that any preconditioner takes."""
_CURIOUS = 0.1
"""Share of the least work so far that a factor of twice the rank may cost, to see whether the trend has changed."""
_FEW = 64
"""Rows up to which all earlier rows are neighbours."""
_NEIGHBOURS = (20, 30, 40, 50, 60, 80, 100, 120, 140, 160, 200, 250, 300, 400)
_RANKS = (200, 300, 400, 500, 700, 850, 1000, 1250, 1500, 2000, 2500, 3000, 4000, 5000, 6000, 8000)
LANDMARKS = (250, 500, 1000, 1500, 2000, 3000, 4000, 5000, 6000, 8000, 10_000, 12_000)
_LANDMARK_COLUMNS = 3
"""In more, local weights leave a part of many smooth functions, and steps are several times what is forecast."""
_ORDERED = 2**17
"""Rows up to which neighbours are looked at in the ordering that they would have; beyond, in one of chance."""
_FEW_SOLVES = 2.0
"""Solves that the rank of landmarks whose columns are not kept is for, at most: of 100,000 rows in ten columns 3,000 of
them take 25 steps to 1e-2 and 39 to 5e-4."""
_HURRIED_SOLVES, _HURRIED_SETUP = 0.5, 2.0
"""The same within a number of seconds, which are not for the set-up, and the products that it may take then."""
MOST_RANK = 3
"""Rank at most n/3: beyond, the set-up is most of a dense factor."""


@dataclass(frozen=True)
class Rows:
    """What there is to be preconditioned: n rows, each of which takes `entries` of K in a product.

    Attributes:
        columns: of the kernel's metric, in which rows differ; None where it has none.
    """

    n: int
    entries: float
    columns: int | None = None

    @property
    def ordered_for_nothing(self) -> bool:
        """Whether a grid orders them, so that no pairs are looked at (`max_min_ordering`)."""
        return self.columns is not None and by_grid(self.n, self.columns)

    @classmethod
    def of(cls, operator: Any, columns: int) -> Rows:
        """Those of an operator, in products of so many columns."""
        n = operator.shape[0]
        return cls(n, operator.work(columns) / n, operator.metric_columns)


@dataclass(frozen=True)
class Balanced(Preconditioner):
    """Low rank, neighbours, or both, sized so that the set-up and the iterations together are the least work.

    Iterations are forecast from what a preconditioner leaves, measured on a sample of rows (`Forecast`), and work is
    counted. A pilot of 200 random pivots begins; while more rank promises less work the factor is gone on with, to at
    most twice its rank at a time, and measured again. So a smooth kernel takes rank as long as its eigenvalues fall, a
    rough one or little noise takes neighbours, and nothing asks what the kernel is called. In at most three columns
    thousands of landmarks (`LocalNystrom`) are forecast too, and taken if they are less work; and so are landmarks
    whose columns of K are not kept (`RecomputedNystrom`), where memory does not hold the rank of least work.

    Args:
        columns: s, the right-hand sides that will be solved for: more of them are worth a better preconditioner.
        solves: how many solves of s columns to 1e-2 the set-up is for; one to 1e-4 counts as two or three.
        memory_budget: bytes that the preconditioner may take.

    Cost:
        In entries of K a row, fitted to the compiled engine on one core: a product is n·(1 + s/22) + 1e6/n, with
        `operator.work(s)`/n for n where that is less, an application r·(4 + s/5) + m·(38 + 2.6·s). The set-up is
        157·r + 0.11·r² for rank r, a good half of it the factor, which is not paid again where it is there already;
        30,000 + 600·m + 0.08·m³ for m neighbours; and r·(11·m + 0.034·m²) for both. 16·n·r + 48·n·m bytes.
        Landmarks: 1500·k + 0.2·m³/n for m of them, k to a row, and k·(38 + 2.6·s) + m²/n·(4 + s/5) an application;
        not kept, 5·m + 0.06·m² + 0.3·m³/n, and m·(5 + s/6) + m²/n·(4 + s/5).
        Measuring takes a product or two and one search of neighbours beside.

    Source: own; the parts are those of `Nystrom` and `LowRankPlusNeighbour`.
    """

    columns: int = 1
    solves: float = 4.0
    memory_budget: float = 2**30

    def __post_init__(self) -> None:
        whole_number(self.columns, "columns")
        if not self.solves > 0:
            raise InputError(f"solves must be positive, got {self.solves}.")
        check_budget(self.memory_budget)

    def build(self, operator: Any, generator: torch.Generator) -> Built:
        operator = require_blocks(operator, "Balanced")
        n = operator.shape[0]
        if n <= _FEW:
            return NearestNeighbour(max(1, n - 1)).build(operator, generator)
        factor = None
        try:
            sizes, factor, order = self.sizes(operator, generator)
            if isinstance(sizes, Landmarks):
                return sizes.built(completed(operator), cast(Tensor, order))  # `sizes` gives one with them
            rank, neighbours = sizes
            if neighbours == 0:
                return low_rank_plus_noise(factor, operator.noise_variance)
            part = factor if rank else None
            rest = SparseInverseFactor(operator, neighbours, generator, part, order)
            go_on()
            return rest if part is None else LowRankPlus(part, rest)
        except OutOfTime as over:
            factor = over.found if factor is None else factor
            if over.stopped or factor is None or not factor.shape[1]:
                raise
            factor = factor[:, :PILOT].contiguous()  # more would take its time, too
            with patient():
                cheap = low_rank_plus_noise(factor, operator.noise_variance)
            return Unfinished(cheap, f"only a preconditioner of rank {factor.shape[1]}: {over}.")

    def sizes(
        self, operator: NeighbourOperator, generator: torch.Generator
    ) -> tuple[Sizes | Landmarks, Tensor, Tensor | None]:
        """What is the least work: rank and neighbours, or landmarks; the factor (n, rank), and the ordering if made.

        Landmarks are the first rows of what is then returned as the ordering.
        """
        n, rows = operator.shape[0], Rows.of(completed(operator), self.columns)
        first = max(1, int(min(PILOT, n // 10, self.memory_budget / (16 * n))))
        factor = random_pivoted_cholesky(operator, first, generator)
        try:
            return self._grown(operator, generator, factor, rows)
        except OutOfTime as over:
            raise OutOfTime(str(over), factor, stopped=over.stopped) from over

    def _grown(
        self, operator: NeighbourOperator, generator: torch.Generator, factor: Tensor, rows: Rows
    ) -> tuple[Sizes | Landmarks, Tensor, Tensor | None]:
        """`sizes` from the pilot's factor on."""
        sample = Sample(operator, generator, self._sampled(rows))
        forecast = sample.forecast(factor)
        found: list[tuple[float, Landmarks | None, Tensor | None]] = []
        if not self.fits(rows.n, self.least(rows, forecast, bounded=False)[0]):
            found.append(self.least_recomputed(completed(operator), sample, rows))
        least = min([self.least(rows, forecast)[1], *(work for work, *_ in found)])
        if self.looks_further(rows, least, forecast.rank):
            sample.look_at_neighbours(factor, ordered=rows.ordered_for_nothing or rows.n <= _ORDERED)
            forecast = sample.forecast(factor)
            found.append(self.least_landmarks(completed(operator), sample, rows))
        work, landmarks, order = min(found, key=lambda one: one[0], default=(math.inf, None, None))
        if landmarks is not None and work < self.least(rows, forecast)[1]:
            kept = factor if limited() else factor[:, :0].clone()  # what there is if time runs out
            return landmarks, kept, order
        while True:
            (rank, neighbours), work = self.least(rows, forecast)
            before = factor.shape[1]
            wanted = max(rank, self._affordable(rows.n, 2 * before, work))
            if wanted > before:
                factor = random_pivoted_cholesky(operator, min(wanted, 2 * before), generator, factor)
            if factor.shape[1] == before:  # enough, or the kernel has no more
                return (min(rank, before), neighbours), factor[:, :rank].contiguous(), sample.order
            forecast = sample.forecast(factor)

    def looks_further(self, rows: Rows, work: float, rank: int) -> bool:
        """Whether what neighbours do is measured: only where they might be less work than the pilot's rank."""
        return work > self._work(rows, (0, _NEIGHBOURS[0]), _AT_LEAST, rank)

    def _affordable(self, n: int, rank: int, work: float) -> int:
        """The rank, if a factor of it costs so little that it is worth a look whatever the forecast says; else 0."""
        fits = rank <= n // MOST_RANK and 16 * n * rank <= self.memory_budget
        return rank if fits and self._work(Rows(n, n), (rank, 0), 0.0, rank) <= _CURIOUS * work else 0

    def fits(self, n: int, sizes: Sizes) -> bool:
        """Whether so much rank and so many neighbours of n rows fit into memory."""
        return n * (16 * sizes[0] + 48 * sizes[1]) <= self.memory_budget

    def least(self, rows: Rows, forecast: Forecast, bounded: bool = True) -> tuple[Sizes, float]:
        """The sizes of least work, and that work; of those that fit into memory where that is to bound them."""
        n = rows.n
        most = max(forecast.rank, n // MOST_RANK)
        ranks = sorted({0, forecast.rank, *(r for r in _RANKS if r <= most)})
        choices = [(r, 0) for r in ranks if r]
        if forecast.width:
            choices += [(r, m) for r in ranks for m in _NEIGHBOURS if m < n]
        fitting = [c for c in choices if not bounded or self.fits(n, c)] or choices[:1]
        work = {c: self._work(rows, c, forecast.iterations(*c), forecast.rank) for c in fitting}
        best = min(work, key=work.__getitem__)
        return best, work[best]

    def least_landmarks(
        self, operator: Any, sample: Sample, rows: Rows
    ) -> tuple[float, Landmarks | None, Tensor | None]:
        """The least work with landmarks that rows are interpolated from, these, and the ordering they begin.

        Infinite, and none, where rows are near to none of them, or none fit into memory.
        """
        n, best, least = rows.n, None, math.inf
        few = rows.columns is not None and rows.columns <= _LANDMARK_COLUMNS
        if sample.order is None or not few or operator.with_noise is None or operator.device.type != "cpu":
            return least, None, None
        for rank in LANDMARKS:
            settings = LocalNystrom(rank)
            if 12 * n * settings.neighbours + 32 * rank**2 > self.memory_budget or rank > n // MOST_RANK:
                break
            steps = sample.landmarks(settings, sample.order)
            work = self.landmark_work(n, settings) + self.solves * steps * (
                self.product_work(rows.entries) + self.apply_landmark_work(n, settings)
            )
            if work >= least:
                break
            best, least = settings, work
        return least, best, sample.order

    def least_recomputed(
        self, operator: Any, sample: Sample, rows: Rows
    ) -> tuple[float, Landmarks | None, Tensor | None]:
        """The least work with landmarks whose columns are not kept, these, and the rows that they are the first of."""
        if operator.cross_matmul is None:
            return math.inf, None, None
        work, rank, _ = self.least_rank_recomputed(rows, sample.recomputed)
        return (work, RecomputedNystrom(rank), sample.shuffled) if rank else (work, None, None)

    def least_rank_recomputed(self, rows: Rows, steps_of: Callable[[int], float]) -> tuple[float, int, float]:
        """The least work, the rank, and the iterations to 1e-2, known for each; infinite and 0 where none fits."""
        n, least, found = rows.n, math.inf, (math.inf, 0, 0.0)
        solves = min(self.solves, _HURRIED_SOLVES if limited() else _FEW_SOLVES)
        for rank in LANDMARKS:
            if self.recomputed_bytes(rank) > self.memory_budget or rank > n // MOST_RANK:
                break
            setup, steps = self.recomputed_work(n, rank), steps_of(rank)
            solve = steps * (self.product_work(rows.entries) + self.apply_recomputed_work(n, rank))
            work = setup + solves * solve
            long = limited() and setup > _HURRIED_SETUP * self.product_work(rows.entries)
            if work >= least or long:
                break
            least, found = work, (setup + self.solves * solve, rank, steps)
        return found

    @staticmethod
    def recomputed_bytes(rank: int) -> float:
        """What `RecomputedNystrom` takes while it is set up."""
        return 24.0 * rank**2 + 32_768.0 * rank

    @staticmethod
    def recomputed_work(n: int, rank: int) -> float:
        """The set-up of `RecomputedNystrom` in entries of K a row."""
        return rank * (5 + 0.06 * rank) + 0.3 * rank**3 / n

    def apply_recomputed_work(self, n: int, rank: int) -> float:
        """One application of it in entries of K a row."""
        return rank * (5 + self.columns / 6) + rank**2 / n * (4 + self.columns / 5)

    @staticmethod
    def landmark_work(n: int, settings: LocalNystrom) -> float:
        """The set-up in entries of K a row."""
        return 1500 * settings.neighbours + 0.2 * settings.rank**3 / n

    def apply_landmark_work(self, n: int, settings: LocalNystrom) -> float:
        """One application in entries of K a row."""
        k, dense = settings.neighbours, settings.rank**2 / n
        return k * (38 + 2.6 * self.columns) + dense * (4 + self.columns / 5)

    def product_work(self, entries: float) -> float:
        """A product that takes so many entries a row, and what a step takes whatever that is."""
        return entries * (1 + self.columns / 22) + 1e6 / entries

    def _work(self, rows: Rows, sizes: Sizes, iterations: float, reached: int) -> float:
        """Set-up and iterations in entries of K a row, where a factor of rank `reached` is there already."""
        setup = self.setup_work(rows, sizes, reached)
        step = self.product_work(rows.entries) + self.apply_work(*sizes)
        return setup + self.solves * iterations * step

    @staticmethod
    def setup_work(rows: Rows, sizes: Sizes, reached: int) -> float:
        """The set-up in entries of K a row, where a factor of rank `reached` is paid for in any case.

        Of neighbours it is above all the ordering, which looks at every pair of rows; not at any where they have so few
        columns that a grid orders them (`max_min_ordering`).
        """
        (r, m), most = sizes, max(sizes[0], reached)
        setup = most * (120 + 0.06 * most) + r * (37 + 0.05 * r + 11 * m + 0.034 * m * m)
        pairs = 0.0 if rows.ordered_for_nothing else 1.5 * rows.n
        return setup + (pairs + 600 * m + 0.08 * m**3 if m else 0.0)

    def apply_work(self, rank: int, neighbours: int) -> float:
        """One application in entries of K a row."""
        return rank * (4 + self.columns / 5) + neighbours * (38 + 2.6 * self.columns)

    def _sampled(self, rows: Rows) -> int:
        """Rows of K whose block the forecast may look at: 30 float64 entries take the time of one in a product."""
        return int(min(4096, math.sqrt(rows.n * self.product_work(rows.entries) / 30)))
