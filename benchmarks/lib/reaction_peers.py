"""Other searches of combinatorial libraries for `combinatorial.py`, written from their papers.

A search is a generator: it yields lists of combinations (rows of reagents) and is sent their values, NaN where there is
no product; larger is better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestRegressor

from lib.reaction_objectives import BITS, Truth

__all__ = ["PEERS", "Search"]

Search = Generator[np.ndarray, np.ndarray, None]
WARM_UP = 3
"""Products made of each reagent before the sampler begins, as published."""
POPULATION, MUTATION = 100, 0.1
START, BATCH, TREES = 200, 50, 100


def chance(sizes: tuple[int, ...], draw: np.random.Generator, truth: Truth | None) -> Search:
    """Combinations at random."""
    while True:
        yield _random(sizes, draw, BATCH)


def reagents(sizes: tuple[int, ...], draw: np.random.Generator, truth: Truth | None) -> Search:
    """Thompson sampling with one normal belief per reagent (Klarich et al. 2024, 10.1021/acs.jcim.3c01790).

    Each reagent is made `WARM_UP` times with random partners. Its belief begins as the mean and variance over all of
    these, and is conditioned on each product's value, whose variance counts as that over the warm-up. Then, one product
    at a time: a draw for every reagent, and the best of each component, no combination twice.
    """
    warm = []
    for place, size in enumerate(sizes):
        rows = _random(sizes, draw, WARM_UP * size)
        rows[:, place] = np.repeat(np.arange(size), WARM_UP)
        warm.append(rows)
    rows = np.concatenate(warm)
    values = yield rows
    known = np.isfinite(values)
    noise = float(values[known].var()) or 1e-12
    means = [np.full(size, values[known].mean()) for size in sizes]
    variances = [np.full(size, noise) for size in sizes]

    def learn(row: np.ndarray, value: float) -> None:
        for place, reagent in enumerate(row):
            before = variances[place][reagent]
            means[place][reagent] = (means[place][reagent] * noise + before * value) / (noise + before)
            variances[place][reagent] = before * noise / (noise + before)

    for row, value in zip(rows[known], values[known], strict=True):
        learn(row, value)
    seen: set[tuple[int, ...]] = set()
    partners: Counter[tuple[int, ...]] = Counter()

    def enter(row: tuple[int, ...]) -> None:
        seen.add(row)
        partners.update((place, *row[:place], *row[place + 1 :]) for place in range(len(row)))

    for row in {tuple(row) for row in rows.tolist()}:
        enter(row)
    while True:
        chosen = _unseen(means, variances, draw, seen, partners)
        enter(chosen)
        value = float((yield np.asarray([chosen]))[0])
        if np.isfinite(value):
            learn(np.asarray(chosen), value)


def _unseen(
    means: list[np.ndarray],
    variances: list[np.ndarray],
    draw: np.random.Generator,
    seen: set[tuple[int, ...]],
    partners: Counter[tuple[int, ...]],
) -> tuple[int, ...]:
    """The best reagents of a draw, component by component in random order, that make a combination not made before.

    Args:
        seen: combinations made. partners: how many were made of every combination without its component `key[0]`.
    """
    count = len(means)
    while True:
        chosen, order = [-1] * count, draw.permutation(count).tolist()
        for place in order:
            drawn = means[place] + draw.standard_normal(len(means[place])) * np.sqrt(variances[place])
            rows = [(*chosen[:place], own, *chosen[place + 1 :]) for own in range(len(drawn))]
            if place == order[-1]:
                drawn[[own for own, row in enumerate(rows) if row in seen]] = -np.inf
            elif count > 1 and place == order[-2]:
                last = order[-1]
                most = len(means[last])
                full = [partners[last, *row[:last], *row[last + 1 :]] == most for row in rows]
                drawn[full] = -np.inf
            chosen[place] = int(drawn.argmax())
        if tuple(chosen) not in seen:
            return tuple(chosen)


def genetic(sizes: tuple[int, ...], draw: np.random.Generator, truth: Truth | None) -> Search:
    """A genetic algorithm on reagents: tournaments of three, uniform crossover, one in ten mutated, elitism."""
    rows = _random(sizes, draw, POPULATION)
    values = np.nan_to_num((yield rows), nan=-np.inf)
    while True:
        parents = [_tournament(values, draw, POPULATION) for _ in range(2)]
        mixed = np.where(draw.random((POPULATION, len(sizes))) < 0.5, rows[parents[0]], rows[parents[1]])
        mutated = draw.random(mixed.shape) < MUTATION
        mixed = np.where(mutated, _random(sizes, draw, POPULATION), mixed)
        new = np.nan_to_num((yield mixed), nan=-np.inf)
        rows, values = np.concatenate([rows, mixed]), np.concatenate([values, new])
        _, first = np.unique(rows, axis=0, return_index=True)
        best = first[np.argsort(-values[first], kind="stable")][:POPULATION]
        rows, values = rows[best], values[best]


def _tournament(values: np.ndarray, draw: np.random.Generator, count: int) -> np.ndarray:
    entered = draw.integers(len(values), size=(count, 3))
    return entered[np.arange(count), values[entered].argmax(axis=1)]


def forest(sizes: tuple[int, ...], draw: np.random.Generator, truth: Truth | None) -> Search:
    """The best means of a random forest over every product's Morgan bits: it has to list the library."""
    assert truth is not None
    rows = _random(sizes, draw, START)
    values = yield rows
    known = np.ravel_multi_index(tuple(rows.T), sizes)
    free = np.isfinite(truth.values)
    while True:
        free[known] = False
        there = np.isfinite(values)
        model = RandomForestRegressor(TREES, random_state=int(draw.integers(2**31)))
        model.fit(np.unpackbits(truth.bits[known[there]], axis=1)[:, :BITS], values[there])
        scores = np.full(len(free), -np.inf)
        for block in np.array_split(np.flatnonzero(free), max(1, len(free) // 20_000)):
            scores[block] = model.predict(np.unpackbits(truth.bits[block], axis=1)[:, :BITS])
        best = np.argsort(-scores, kind="stable")[:BATCH]
        new = yield np.stack(np.unravel_index(best, sizes), axis=1)
        known, values = np.concatenate([known, best]), np.concatenate([values, new])


def _random(sizes: tuple[int, ...], draw: np.random.Generator, count: int) -> np.ndarray:
    return np.stack([draw.integers(size, size=count) for size in sizes], axis=1)


PEERS: dict[str, Callable[[tuple[int, ...], np.random.Generator, Any], Search]] = {
    "reagent-thompson": reagents,
    "genetic": genetic,
    "forest": forest,
    "random": chance,
}
