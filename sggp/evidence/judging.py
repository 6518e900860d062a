"""Scores of kernels on rows that they have not seen, at the density of the table and at coarser ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sggp.evidence.leave_one_out import LeftOut, Observed, leave_each_out, leave_out
from sggp.evidence.tails import fit_tail, log_density
from sggp.predictive import PredictiveDistribution

Array = np.ndarray[Any, np.dtype[np.float64]]

COARSER = (3000, 1000, 250)
"""Rows of the random subsets that the judged rows are predicted from, beside all rows: few enough for exact ones."""
TWO_ERRORS = 2.0
"""Standard errors by which one kernel must win over another."""


@dataclass(frozen=True)
class KernelScore:
    """How well one kernel predicted the judged rows; averages over densities, each counting half as much as the last.

    Attributes:
        name: of the candidate. crps, squared_error: in shares of the first candidate's, per density.
        log_density: nats a row, each density with the scale and the tails that suit it best.
        crps_behind, squared_error_behind, log_density_behind: how far behind the best one, with the standard error of
            that difference.
        by_density: (rows conditioned on, log density, CRPS, RMSE) for each density, in units of the model.
    """

    name: str
    log_density: float
    crps: float
    squared_error: float
    log_density_behind: tuple[float, float]
    crps_behind: tuple[float, float]
    squared_error_behind: tuple[float, float]
    by_density: tuple[tuple[int, float, float, float], ...]


@dataclass(frozen=True)
class KernelSelection:
    """Candidates with their scores, in the order given, and the one chosen.

    Attributes:
        chosen: name of the winner. reason: why, in one sentence. scores: one per candidate. rows: rows judged.
    """

    chosen: str
    reason: str
    scores: tuple[KernelScore, ...] = field(repr=False)
    rows: int = 0

    def __str__(self) -> str:
        lines = [f"{'kernel':<12}{'log density':>12}{'behind':>18}{'CRPS':>8}{'behind':>18}"]
        for s in self.scores:
            mark = "*" if s.name == self.chosen else " "
            lines.append(
                f"{s.name + mark:<12}{s.log_density:>12.4f}{_pair(s.log_density_behind):>18}"
                f"{s.crps:>8.4f}{_pair(s.crps_behind):>18}"
            )
        return "\n".join([*lines, f"{self.reason} ({self.rows} rows judged)"])


def _pair(value: tuple[float, float]) -> str:
    return f"{value[0]:.4f} ± {value[1]:.4f}"


@dataclass(frozen=True)
class _Rows:
    """Scores row by row, densities averaged: (m,) each."""

    log_density: Array
    crps: Array
    squared_error: Array


def densities(rows: int) -> tuple[int, ...]:
    """Numbers of rows to condition on: all, then those of `COARSER` that are well below."""
    return (rows, *(m for m in COARSER if 3 * m <= rows))


def judge(candidates: Mapping[str, Observed], judged: Tensor, rest: Tensor) -> KernelSelection:
    """Score fitted kernels on rows that took no part in their fits, and choose.

    A kernel is out where its CRPS is more than two standard errors behind the best one's; then, among those left, where
    its squared error is; then where its log density is. Of those that nothing tells apart the first candidate wins:
    list the roughest first.

    Args:
        candidates: name -> the whole table as that kernel's fit has it. judged: (m,) rows that no fit has seen.
            rest: (r,) the others, in random order.

    Cost: for each candidate and density, `leave_out` of the judged rows.
    """
    contest = Contest(judged, rest)
    for name, observed in candidates.items():
        contest.add(name, observed)
    return contest.selection(list(candidates))


class Contest:
    """Candidates of `judge`, each scored when it comes.

    Args:
        judged, rest: as `judge` has them.
    """

    def __init__(self, judged: Tensor, rest: Tensor) -> None:
        self._judged, self._rest, self._levels = judged, rest, densities(len(rest))
        self._results: dict[str, list[_Rows]] = {}

    def add(self, name: str, observed: Observed) -> None:
        """Score a candidate at all densities."""
        self._results[name] = [_at(observed, self._judged, self._rest[:m]) for m in self._levels]

    def left(self) -> Sequence[str]:
        """Those that nothing excludes so far, in the order in which they came."""
        return _left(self._rows(list(self._results)))[0]

    def selection(self, order: Sequence[str]) -> KernelSelection:
        """The scores of the candidates in this order, and the choice."""
        rows = self._rows(order)
        chosen, reason = choose(rows)
        behind = {
            score: _behind({name: sign * getattr(r, score) for name, r in rows.items()})
            for score, sign in (("log_density", -1.0), ("crps", 1.0), ("squared_error", 1.0))
        }
        scores = tuple(
            KernelScore(
                name,
                log_density=float(r.log_density.mean()),
                crps=float(r.crps.mean()),
                squared_error=float(r.squared_error.mean()),
                log_density_behind=behind["log_density"][name],
                crps_behind=behind["crps"][name],
                squared_error_behind=behind["squared_error"][name],
                by_density=self._by_density(name),
            )
            for name, r in rows.items()
        )
        return KernelSelection(chosen, reason, scores, len(self._judged))

    def _rows(self, order: Sequence[str]) -> dict[str, _Rows]:
        """One score per row and candidate; CRPS and squared error in shares of the first one's."""
        units = [(level.crps.mean(), level.squared_error.mean()) for level in self._results[order[0]]]
        last = len(self._levels) - 1
        weights = [0.5 ** min(level + 1, last) for level in range(last + 1)]
        return {name: _averaged(self._results[name], units, weights) for name in order}

    def _by_density(self, name: str) -> tuple[tuple[int, float, float, float], ...]:
        return tuple(
            (
                m,
                float(r.log_density.mean()),
                float(r.crps.mean()),
                float(np.sqrt(r.squared_error.mean())),
            )
            for m, r in zip(self._levels, self._results[name], strict=True)
        )


def choose(rows: Mapping[str, _Rows]) -> tuple[str, str]:
    """The rule of `judge`, and a sentence that says what decided."""
    left, told = _left(rows)
    tied = f"; nothing tells {', '.join(left)} apart, so the first" if len(left) > 1 else ""
    return left[0], f"{left[0]} chosen: {'; '.join(told) or 'no score excludes any'}{tied}"


def _left(rows: Mapping[str, _Rows]) -> tuple[Sequence[str], list[str]]:
    """The names that no score excludes, and what excluded the others."""
    left: Sequence[str] = list(rows)
    told = []
    for score, sign, label in (
        ("crps", 1.0, "CRPS"),
        ("squared_error", 1.0, "squared error"),
        ("log_density", -1.0, "log density"),
    ):
        behind = _behind({name: sign * getattr(rows[name], score) for name in left})
        out = [name for name in left if behind[name][0] > TWO_ERRORS * behind[name][1]]
        if out:
            told.append(f"{label} excludes {', '.join(out)}")
        left = [name for name in left if name not in out]
    return left, told


def _behind(losses: Mapping[str, Array]) -> dict[str, tuple[float, float]]:
    """How far each mean loss is above the least one, and the standard error of that paired difference."""
    best = min(losses.values(), key=lambda loss: float(loss.mean()))
    out = {}
    for name, loss in losses.items():
        difference = loss - best
        out[name] = (float(difference.mean()), float(difference.std() / len(difference) ** 0.5))
    return out


def judge_left_out(candidates: Mapping[str, Observed], *, by_crps: bool = False) -> tuple[str, str]:
    """Choose, as `judge` does, by every row left out: the winner's name, and a sentence that says what decided.

    For kernels with as many hyperparameters as each other, learnt from these rows.

    Args:
        candidates: name -> the whole table as that kernel's fit has it, the roughest first.
        by_crps: whether another than the first must also be ahead of it by two standard errors of the CRPS.

    Cost: `leave_each_out` of each candidate.
    """
    units: list[tuple[float, float]] = []
    rows = {}
    for name, observed in candidates.items():
        found = _scored(observed.residual, leave_each_out(observed))
        units = units or [(found.crps.mean(), found.squared_error.mean())]
        rows[name] = _averaged([found], units, [1.0])
    chosen, reason = choose(rows)
    first = next(iter(rows))
    if by_crps and chosen != first:
        gain, error = _behind({name: rows[name].crps for name in (chosen, first)})[first]
        if not gain > TWO_ERRORS * error:
            return first, f"{first} chosen: {chosen} is no more than two standard errors better in CRPS"
    return chosen, reason


def _at(observed: Observed, judged: Tensor, given: Tensor) -> _Rows:
    """Scores of the judged rows predicted from some others: up to 3,000 of them exactly.

    By nearest rows alone a smooth kernel looks better than it is, for the whole process is stiffer than its parts.
    """
    return _scored(observed.residual[judged], leave_out(observed, judged, given=given))


def _scored(residual: Tensor, left: LeftOut) -> _Rows:
    """Scores of left-out rows, with the scale and the tails that suit them best."""
    error = (residual - left.mean).cpu().numpy()  # (m, t)
    variance = left.variance.cpu().numpy()[:, None]
    z_square = error**2 / variance
    tail = fit_tail(z_square.reshape(-1))
    scale = np.sqrt(variance * np.exp(tail.log_scale)) * np.ones_like(error)
    crps = PredictiveDistribution(np.zeros_like(error), scale, tail.df).crps(error)
    density = log_density(z_square, tail.log_scale, tail.df) - 0.5 * np.log(variance)
    return _Rows(density.mean(axis=1), crps.mean(axis=1), (error**2).mean(axis=1))


def _averaged(
    levels: Sequence[_Rows], units: Sequence[tuple[float, float]], weights: Sequence[float]
) -> _Rows:
    """One score per row, over densities; CRPS and squared error in units of the first candidate's."""
    shares = np.asarray(weights)[:, None]
    crps, squared_error = np.maximum(np.asarray(units), 1e-300).T[:, :, None]
    return _Rows(
        (shares * np.stack([r.log_density for r in levels])).sum(axis=0),
        (shares / crps * np.stack([r.crps for r in levels])).sum(axis=0),
        (shares / squared_error * np.stack([r.squared_error for r in levels])).sum(axis=0),
    )


def held_out(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows to judge on, a quarter and at most 2,000, and the rest, both in random order."""
    order = torch.randperm(rows, generator=generator)
    judged = min(2000, rows // 4)
    return order[:judged], order[judged:]
