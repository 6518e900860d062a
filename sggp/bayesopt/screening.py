"""A search whose answers are already known: an acquisition rule over a pool, replayed beside random choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sggp.bayesopt.maximise import as_indices
from sggp.bayesopt.rules import DEFAULT_RULE, RuleLike, make_rule
from sggp.bayesopt.spaces.pool import Pool
from sggp.bayesopt.surrogate import Surrogate, fit_surrogate
from sggp.checks import as_numbers, flag, whole_number
from sggp.errors import InputError, ShapeError
from sggp.random import as_generator, streams
from sggp.typing import Seed

_TOP = 50


@dataclass(frozen=True)
class Round:
    """The rows measured in one round and what the model had said of them (empty for the known rows)."""

    rows: list[int]
    mean: list[float]
    std: list[float]


@dataclass(frozen=True)
class Screening:
    """A finished search.

    Attributes:
        steps: round 0 is what was known before.
        values: (N,) the truth for the whole pool.
        maximize: whether larger is better.
        rest: rows never measured; mean, std: the last model's prediction there, noise included.
        learned: False when the last model had too little data.
    """

    steps: list[Round]
    values: Tensor
    maximize: bool
    rest: list[int]
    mean: Tensor
    std: Tensor
    learned: bool

    @property
    def measured(self) -> int:
        """Number of measurements, known ones included."""
        return sum(len(step.rows) for step in self.steps)

    @property
    def curve(self) -> np.ndarray:
        """(rounds + 1,) best value after each round."""
        sign = 1.0 if self.maximize else -1.0
        best = [max(sign * float(self.values[row]) for row in step.rows) for step in self.steps]
        return sign * np.maximum.accumulate(best)

    @property
    def counts(self) -> np.ndarray:
        """(rounds + 1,) number of measurements after each round."""
        return np.cumsum([len(step.rows) for step in self.steps])

    def best(self, k: int) -> list[tuple[int, int]]:
        """The k best measured rows, best first, with the round each was measured in."""
        found = [(row, number) for number, step in enumerate(self.steps) for row in step.rows]
        sign = -1.0 if self.maximize else 1.0
        return sorted(found, key=lambda item: (sign * float(self.values[item[0]]), item[0]))[:k]

    def top_found(self, top: int = _TOP) -> tuple[int, int]:
        """How many of the pool's `top` best rows were measured: (top, found)."""
        wanted = set(best_rows(self.values, top, self.maximize))
        return len(wanted), len(wanted & {row for step in self.steps for row in step.rows})

    def found_by_round(self, top: int = _TOP) -> np.ndarray:
        """(rounds + 1,) how many of the pool's `top` best rows were measured after each round."""
        wanted = set(best_rows(self.values, top, self.maximize))
        return np.cumsum([len(wanted & set(step.rows)) for step in self.steps])


@dataclass(frozen=True)
class RandomScreenings:
    """Random choice with the same known rows and budget: curves and top rows found, both (k, rounds + 1)."""

    curves: np.ndarray
    found_by_round: np.ndarray

    @property
    def top_found(self) -> np.ndarray:
        """(k,) top rows found in the end."""
        return self.found_by_round[:, -1]


def best_rows(values: Tensor, top: int, maximize: bool) -> list[int]:
    """The `top` best rows of the truth, ties to the lower row."""
    return torch.argsort(values, descending=maximize, stable=True)[:top].tolist()


def screen(
    table: Any,
    values: Tensor,
    known: Sequence[int],
    *,
    rounds: int,
    batch_size: int,
    maximize: bool = True,
    generator: Seed = None,
    progress: Callable[[int], Any] | None = None,
    rule: RuleLike = DEFAULT_RULE,
) -> Screening:
    """Replay a campaign over a pool whose values are known.

    Each round the model is fitted to the measured rows only, the rule chooses a batch among the others, and the
    values of the batch are revealed.

    Args:
        table: N candidates, a `Pool` or what it takes.
        values: (N,) the truth.
        known: rows measured before the first round.
        rounds, batch_size: the budget.
        maximize: whether larger is better.
        generator: seed or generator.
        progress: called with the number of finished rounds.
        rule: how a batch is chosen, see `Campaign`.

    Raises:
        ShapeError: one value per row is needed.
        InputError: nothing known, repeated rows, a value that is not finite, or a budget larger than the pool.

    Cost: rounds * (n^3 + N n + N * features) with n measured rows.
    """
    pool = table if isinstance(table, Pool) else Pool(table)
    values = _values(values, len(pool))
    rounds, batch_size = whole_number(rounds, "rounds"), whole_number(batch_size, "batch_size")
    measured = _known(known, len(pool), rounds * batch_size)
    chooser = make_rule(rule, pool, batch_size, maximize=maximize)
    names = [f"round {number}" for number in range(rounds + 1)]
    seeds = streams(as_generator(generator), *names)
    steps = [Round(list(measured), [], [])]
    for number in range(rounds):
        fit_stream, choose_stream = streams(seeds[number], "model", "choice")
        model = _fit(pool, values, measured, chooser.paths_for(len(measured)), fit_stream)
        rows = chooser.suggest(model.posterior, exclude=measured, generator=choose_stream).tolist()
        mean, std = model.predict(pool.rows(rows), observation_noise=True)
        steps.append(Round(rows, mean.tolist(), std.tolist()))
        measured = [*measured, *rows]
        if progress is not None:
            progress(number + 1)
    model = _fit(pool, values, measured, 1, seeds[rounds])
    rest = sorted(set(range(len(pool))) - set(measured))
    mean, std = predict_rows(model, pool, rest)
    return Screening(steps, values, chooser.maximize, rest, mean, std, model.learned)


def predict_rows(model: Surrogate, pool: Pool, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The model's prediction of measurements at pool rows, a chunk at a time: mean and std (len(rows),)."""
    if not rows:
        return torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.float64)
    step = pool.chunk_size
    parts = [
        model.predict(pool.rows(rows[start : start + step]), observation_noise=True)
        for start in range(0, len(rows), step)
    ]
    return torch.cat([mean for mean, _ in parts]), torch.cat([std for _, std in parts])


def random_screenings(
    values: Tensor,
    known: Sequence[int],
    *,
    rounds: int,
    batch_size: int,
    repeats: int,
    maximize: bool = True,
    generator: Seed = None,
) -> RandomScreenings:
    """Random choice without replacement from the same known rows with the same budget, repeated."""
    values = _values(values)
    rounds, batch_size = whole_number(rounds, "rounds"), whole_number(batch_size, "batch_size")
    known = _known(known, len(values), rounds * batch_size)
    repeats = whole_number(repeats, "repeats")
    draw = as_generator(generator)
    sign = 1.0 if flag(maximize, "maximize") else -1.0
    rest = torch.tensor(sorted(set(range(len(values))) - set(known)))
    wanted = torch.zeros(len(values), dtype=torch.bool)
    wanted[best_rows(values, _TOP, maximize)] = True
    start = max(sign * float(values[row]) for row in known)
    curves, found = [], []
    for _ in range(repeats):
        rows = rest[torch.randperm(len(rest), generator=draw)[: rounds * batch_size]]
        best = (sign * values[rows]).reshape(rounds, batch_size).max(dim=1).values.numpy()
        curves.append(sign * np.maximum.accumulate([start, *best]))
        hits = wanted[rows].reshape(rounds, batch_size).sum(dim=1).tolist()
        found.append(np.cumsum([int(wanted[list(known)].sum()), *hits]))
    return RandomScreenings(np.asarray(curves), np.asarray(found))


def _values(values: Any, rows: int | None = None) -> Tensor:
    expected = f"({'N' if rows is None else rows},) numbers, one per row of the pool"
    checked = as_numbers(values, "values", expected)
    if checked.ndim != 1 or (rows is not None and len(checked) != rows):
        raise ShapeError(f"values must be {expected}; got {tuple(checked.shape)}.")
    if not bool(torch.isfinite(checked).all()):
        raise InputError("a value of the pool is not finite: a screening needs the whole truth.")
    return checked


def _known(known: Any, size: int, budget: int) -> list[int]:
    rows = as_indices(known, size, what="known").tolist()
    if not rows or len(set(rows)) != len(rows):
        raise InputError("known must name at least one row, and none twice.")
    if budget + len(rows) > size:
        raise InputError(f"a budget of {budget} beside {len(rows)} known rows does not fit {size} rows.")
    return rows


def _fit(pool: Pool, values: Tensor, rows: list[int], samples: int, generator: torch.Generator) -> Surrogate:
    return fit_surrogate(
        pool.rows(rows), values[rows], num_samples=samples, generator=generator, kernel=pool.parts
    )
