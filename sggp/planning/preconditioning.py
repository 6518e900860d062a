"""Which preconditioner `Balanced` takes for a typical table, what it costs, and the passes that are left."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sggp.defaults import MEMORY_BUDGET
from sggp.planning.far import EXTENT, FarWork
from sggp.preconditioners import Balanced, LocalNystrom, RecomputedNystrom
from sggp.preconditioners.balanced import LANDMARKS, MOST_RANK, PILOT, Rows
from sggp.preconditioners.forecast import Forecast, Trend

__all__ = ["Chosen", "balanced_for"]

_SETUP = 1.4
"""The set-up of a preconditioner beside what `Balanced` counts of it, which leaves out what it measures."""
_LEFT, _FALLS, _FALLS_IN = 0.1, 1.5, 10
"""λ that a rank of 100 leaves, for each row, and the power of the rank that it falls with in ten columns or more; in
fewer the power grows as columns fall. Of six tables and functions of 9 to 26 columns, as `GPRegressor` learns them,
λ for each row is .03 to .63 at rank 100, .01 to .24 at 200, and at 1,000 from 1e-4 (nearly linear) to .04 (PROTEIN)."""
_NOISE = 0.01
"""Of that table, beside the variance of the function."""
_LOOKED, _LOOK, _LOOK_BYTES = 90, 1500.0, 40.0
"""Neighbours that are looked at for each row before landmarks are forecast; entries, and bytes, of each of them."""
_LEFT_LOCALLY, _LANDMARKS_FOR_IT = 5.7e-4, 1500.0
"""Share of the variance that so many landmarks leave in three dimensions, and so few in fewer; it falls as h^8."""
_POINTS = 40


@dataclass(frozen=True)
class Chosen:
    """What is taken: `setup` and `application` in entries of K a row, bytes of `memory`, and steps to 1e-2."""

    what: str
    setup: float
    application: float
    memory: float
    iterations: float


def balanced_for(n: int, d: int, columns: int, far: FarWork | None) -> Chosen:
    """The least work for n rows that fits into half of the memory budget.

    With a far field, where a pass is cheap, the spectrum is that of RBF on rows that fill a cube, and landmarks are
    looked at as `Balanced` does; else it is `_typical`. Where memory does not hold what that asks for, landmarks whose
    columns are not kept are counted.
    """
    balanced = Balanced(columns=columns, memory_budget=MEMORY_BUDGET / 2)
    pilot = max(2, min(PILOT, int(balanced.memory_budget / (16 * n))))
    rows = Rows(n, n if far is None else far.entries(columns) / n, d)
    forecast = Forecast(_typical(n, d) if far is None else _spectrum(n, d, pilot))
    if far is None and not balanced.fits(n, balanced.least(rows, forecast, bounded=False)[0]):
        found = _recomputed(balanced, rows, forecast, pilot)
        if found is not None:
            return found
    (rank, near), work = balanced.least(rows, forecast)
    setup = _SETUP * balanced.setup_work(rows, (rank, near), rank)
    ranked = Chosen(
        f"rank {rank}, {near} neighbours",
        setup,
        balanced.apply_work(rank, near),
        n * (16.0 * rank + 48.0 * near),
        forecast.iterations(rank, near),
    )
    further = far is not None and balanced.looks_further(rows, work, pilot)
    found = _landmarks(balanced, rows, d, pilot, work) if further else None
    return ranked if found is None else found


def _recomputed(balanced: Balanced, rows: Rows, forecast: Forecast, pilot: int) -> Chosen | None:
    """Landmarks whose columns of K are not kept, if as many as pay fit; they leave about as much as pivots do."""
    n = rows.n
    _, rank, steps = balanced.least_rank_recomputed(rows, lambda rank: forecast.iterations(rank, 0))
    if not rank:
        return None
    setup = balanced.recomputed_work(n, rank) + _SETUP * balanced.setup_work(rows, (pilot, 0), pilot)
    memory = max(balanced.recomputed_bytes(rank), 16.0 * n * pilot)  # one after the other
    return Chosen(
        f"{RecomputedNystrom(rank)!r}", setup, balanced.apply_recomputed_work(n, rank), memory, steps
    )


def _landmarks(balanced: Balanced, rows: Rows, d: int, pilot: int, work: float) -> Chosen | None:
    """Landmarks, where they are less work."""
    best, n = None, rows.n
    for rank in LANDMARKS:
        settings = LocalNystrom(rank)
        memory = 12.0 * n * settings.neighbours + 32.0 * rank**2
        if memory > balanced.memory_budget or rank > n // MOST_RANK:
            break
        left = _LEFT_LOCALLY * (_LANDMARKS_FOR_IT ** (d / 3) / rank) ** (8 / d)
        share = left / (left + _NOISE)
        steps = 1.0 + 3.2 * math.sqrt((1 + share * n / rank) / (1 - share))
        setup, application = balanced.landmark_work(n, settings), balanced.apply_landmark_work(n, settings)
        total = setup + balanced.solves * steps * (balanced.product_work(rows.entries) + application)
        if total >= work:
            if best is not None:
                break
            continue
        setup += _SETUP * balanced.setup_work(rows, (pilot, 0), pilot) + _LOOK * _LOOKED
        memory = max(memory, n * (16.0 * pilot + _LOOK_BYTES * _LOOKED))  # one after the other
        best, work = Chosen(f"{settings!r}", setup, application, memory, steps), total
    return best


def _typical(n: int, d: int) -> Trend:
    """λ of a smooth function with noise of a tenth of its spread."""
    power = _FALLS * max(1.0, _FALLS_IN / d)
    return Trend(((100, _LEFT * n), (200, _LEFT * n / 2**power)), power)


def _spectrum(n: int, d: int, pilot: int) -> Trend:
    """λ at half the pilot's rank and at its rank: of eigenvalues of RBF on rows that fill a cube, over the noise."""
    nodes, weights = np.polynomial.legendre.leggauss(_POINTS)
    kernel = np.exp(-((nodes[:, None] - nodes) ** 2) * EXTENT**2 / 8)  # nodes from -1 to 1
    root = np.sqrt(weights / 2)
    line = np.linalg.eigvalsh(root[:, None] * kernel * root).clip(1e-18)[::-1]
    values = line
    for _ in range(d - 1):
        values = np.sort((values[:, None] * line).ravel())[::-1][:20_000]
    points = []
    for rank in (max(1, pilot // 2), pilot):
        left = n * values[min(rank, len(values) - 1) :] / _NOISE
        points.append((rank, float((left**3).sum() / (left**2).sum())))  # as `RankSample` measures it
    return Trend(tuple(points), 3.0)
