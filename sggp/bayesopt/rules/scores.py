"""Rules that rank by mean and standard deviation, aware of the rest of the batch."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sggp.bayesopt.maximise import Look, Paths
from sggp.bayesopt.rules.base import Rule, is_pool, mean_and_std, mean_at
from sggp.bayesopt.rules.sweep import best_rows, moments, open_rows
from sggp.defaults import DIRECT_ROWS, FACTOR_ROWS

_SAMPLES = 64
"""Paths for the first look at a pool where solving for every variance would take too long."""
_SHORTLIST = 3
"""Rows whose variances follow the batch, in batches."""
_ROUGH_SHORTLIST, _ROUGH_ROWS = 6, 2000
"""Rows, in batches and at least, that are looked at again after a first look by sample paths."""
SLACK = 1.001
"""What a bound of a standard deviation is raised by, more than rounding can move it or the mean."""
_TOGETHER = 1024
"""Rows that are solved for before it is asked again which others still matter."""


class ScoreRule(Rule):
    """Rank by a score of mean and standard deviation.

    Over a pool: one sweep finds the mean of every row and, where the posterior has a Cholesky factor, an upper bound of
    its standard deviation; rows are solved for in the order of their score with that bound, until none is left that
    could be among the best. Other posteriors give the standard deviation of every row. The batch is then chosen one by
    one among the best rows; each choice lowers the standard deviations of what it would tell about, as if it had been
    measured and found as expected, so that a batch does not ask the same question many times. A posterior that has no
    ``covariance_matrix`` cannot say so: there the batch is the best scores.

    In a box: slot 0 takes the best score; the others, functions of their own sample paths (`path_form`).

    Args, Raises: as `Rule`.

    A posterior of more than `DIRECT_ROWS` distinct rows without such a factor is first looked at by its sample paths;
    the best rows of that are then solved for.

    Cost: N means and bounds of the variance, n² for each row that is solved for, and for the batch b of them
    O(b²·(n + b)). Nothing looks at sample paths then; else N variances, or N evaluations of the paths.

    Source of the batch: Desautels, Krause & Burdick (2014), GP-BUCB.
    """

    needs_best = False
    """Whether `score` looks at the best mean; a box has to be searched for it."""

    needs_std = True
    """Whether `score` looks at the standard deviation, which costs more than the mean."""

    @property
    def num_samples(self) -> int:
        return _SAMPLES if is_pool(self.space) else max(_SAMPLES, self.batch_size)

    def paths_for(self, measured: int) -> int:
        direct = FACTOR_ROWS if getattr(self.space, "kind", None) == "counts" else DIRECT_ROWS
        return 0 if is_pool(self.space) and measured <= direct else self.num_samples

    def needs_paths(self, posterior: Any) -> bool:
        return not (is_pool(self.space) and has_bounds(posterior))

    @abstractmethod
    def score(self, mean: Tensor, std: Tensor, best: float) -> Tensor:
        """The score where larger values are better; it grows with `std` or ignores it.

        Args:
            mean, std: (q,) of one point each, mirrored where smaller values are better.
            best: where `needs_best`, the k-th largest mean of the pool, measured rows included, for a batch of k;
                in a box the largest mean.
        """

    def path_form(self, mean: Tensor, paths: Tensor) -> Tensor:
        """(s, q): functions for the slots of a batch in a box, from mean (q,) and paths (s, q)."""
        return paths

    def functions(self, posterior: Any, generator: torch.Generator, best: float = 0.0) -> Paths:
        # where constraints make samples fall off a cliff, those that spread about the mean as the variance says
        samples = getattr(posterior, "samples_about_mean", posterior.samples)
        chosen = torch.randperm(samples.num_samples, generator=generator)[: self.batch_size]
        return Slots(self, posterior, samples.select(chosen), best)

    def pick(self, posterior: Any, look: Look, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if is_pool(self.space):
            return self._pick_rows(posterior, look)
        best = 0.0
        if self.needs_best:
            _, top = self.space.maximise(Mean(posterior), posterior, look)
            best = self.sign * float(top)
        places, values = self.space.maximise(self.functions(posterior, generator, best), posterior, look)
        return places, values

    def first_look(self, posterior: Any) -> tuple[Any, int]:
        """What gives mean and standard deviation of the rows of a pool, and how many of the best are kept."""
        if self.needs_std and is_large(posterior) and not has_bounds(posterior):
            return Sampled(posterior.samples), max(_ROUGH_SHORTLIST * self.batch_size, _ROUGH_ROWS)
        return posterior, _SHORTLIST * self.batch_size

    def _pick_rows(self, posterior: Any, look: Look) -> tuple[Tensor, Tensor]:
        free = open_rows(self.space, look, self.batch_size)
        if self.needs_std and has_bounds(posterior):
            return self._one_by_one(posterior, *self._best_by_bounds(posterior, look, free))
        by, wide = self.first_look(posterior)
        rough = by is not posterior
        mean, std = moments(by, self.space, look.progress, with_std=self.needs_std)
        mean = self.sign * mean
        best = float(mean.topk(self.batch_size).values[-1])
        rows = best_rows(self.score(mean, std, best), free, min(int(free.sum()), wide))
        mean, std = mean[rows], std[rows]
        if rough:
            mean, std = self._solved(posterior, rows)
            order = torch.argsort(self.score(mean, std, best), descending=True, stable=True)
            order = order[: _SHORTLIST * self.batch_size]
            rows, mean, std = rows[order], mean[order], std[order]
        return self._one_by_one(posterior, rows, mean, std, best)

    def _best_by_bounds(
        self, posterior: Any, look: Look, free: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, float]:
        """The best free rows with mean and standard deviation, and the k-th largest mean.

        They are those of solving for every row: a row is left out only where its score with an upper bound of its
        standard deviation is below the scores of as many others as are wanted.
        """
        mean, most = moments(Bounded(posterior), self.space, look.progress)
        mean = self.sign * mean
        best = float(mean.topk(self.batch_size).values[-1])
        wanted = min(int(free.sum()), _SHORTLIST * self.batch_size)
        hope = torch.where(free, self.score(mean, SLACK * most, best), -math.inf)
        order = torch.argsort(hope, descending=True, stable=True)[: int(free.sum())]
        std, score, done, step = torch.zeros_like(mean), torch.full_like(mean, -math.inf), 0, wanted
        while step:
            rows = order[done : done + step]
            mean[rows], std[rows] = self._solved(posterior, rows)
            score[rows] = self.score(mean[rows], std[rows], best)
            done, floor = done + step, score.topk(wanted).values[-1]
            step = int((hope[order[done : done + _TOGETHER]] >= floor).sum())
        rows = best_rows(score, free, wanted)
        return rows, mean[rows], std[rows], best

    def _solved(self, posterior: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mean, mirrored where smaller is better, and standard deviation of rows, by solving."""
        pool: Any = self.space
        with torch.no_grad():
            mean, variance = posterior.mean_and_variance(pool.rows(rows), method="solve")
        return self.sign * mean.to(torch.float64).cpu(), variance.to(torch.float64).clamp_min(
            1e-20
        ).sqrt().cpu()

    def _one_by_one(
        self, posterior: Any, rows: Tensor, mean: Tensor, std: Tensor, best: float
    ) -> tuple[Tensor, Tensor]:
        """The batch among these rows, and the score of each when it was chosen, with the sign of the values."""
        score = self.score(mean, std, best)
        if not (self.needs_std and hasattr(posterior, "covariance_matrix")) or self.batch_size == 1:
            return rows[: self.batch_size], self.sign * score[: self.batch_size]
        with torch.no_grad():
            pool: Any = self.space
            joint = posterior.covariance_matrix(pool.rows(rows)).to(torch.float64).cpu()
        noise = float(torch.as_tensor(posterior.noise_variance, dtype=torch.float64).max())
        left, known = joint.diagonal().clone(), joint.new_zeros(len(rows), self.batch_size)
        picked: list[int] = []
        scores: list[float] = []
        for slot in range(self.batch_size):
            score[picked] = -math.inf
            one = int(score.argmax())
            picked.append(one)
            scores.append(float(score[one]))
            column = (joint[:, one] - known[:, :slot] @ known[one, :slot]) / math.sqrt(
                max(float(left[one]) + noise, 1e-20)
            )
            known[:, slot] = column
            left = (left - column.square()).clamp_min(1e-20)
            score = self.score(mean, left.sqrt(), best)
        return rows[picked], self.sign * torch.tensor(scores, dtype=torch.float64)


def has_bounds(posterior: Any) -> bool:
    """Whether a posterior gives upper bounds of variances for little, and solves for single rows by a factor."""
    return bool(getattr(posterior, "factorises", False))


def is_large(posterior: Any) -> bool:
    """Whether a posterior has so many rows that to solve for the variance of a whole pool takes too long."""
    return len(getattr(posterior, "x", ())) > DIRECT_ROWS


@dataclass(frozen=True)
class Sampled:
    """Mean and variance as they are among the sample paths."""

    paths: Any

    def mean_and_variance(self, points: Tensor) -> tuple[Tensor, Tensor]:
        values = self.paths(points).to(torch.float64)
        return values.mean(0), values.var(0)


@dataclass(frozen=True)
class Bounded:
    """The mean, and what the variance cannot exceed."""

    posterior: Any

    def mean_and_variance(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return self.posterior.mean_and_variance(points, method="bound")


@dataclass(frozen=True)
class Mean:
    """The mean as the only path."""

    posterior: Any
    num_samples: int = 1

    def __call__(self, points: Tensor) -> Tensor:
        return mean_at(self.posterior, points)[None]

    def paired(self, points: Tensor) -> Tensor:
        return mean_at(self.posterior, points)


@dataclass(frozen=True)
class Slots:
    """The score for slot 0, and functions of the sample paths for the others."""

    rule: ScoreRule
    posterior: Any
    samples: Any
    best: float

    @property
    def num_samples(self) -> int:
        return self.samples.num_samples

    def __call__(self, points: Tensor) -> Tensor:  # (q, d) -> (s, q)
        paths = self.samples(points)[1:]
        return torch.cat([self._score(points)[None], self._others(mean_at(self.posterior, points), paths)])

    def paired(self, points: Tensor) -> Tensor:  # (s, q, d) -> (s, q)
        first = self._score(points[0])[None]
        if len(points) == 1:
            return first
        rest = self.samples.select(torch.arange(1, self.num_samples)).paired(points[1:])
        return torch.cat([first, self._others(mean_at(self.posterior, points[1:]), rest)])

    def _score(self, points: Tensor) -> Tensor:
        mean, std = mean_and_std(self.posterior, points)
        return self.rule.sign * self.rule.score(self.rule.sign * mean, std, self.best)

    def _others(self, mean: Tensor, paths: Tensor) -> Tensor:
        sign = self.rule.sign
        return sign * self.rule.path_form(sign * mean.to(torch.float64), sign * paths.to(torch.float64))
