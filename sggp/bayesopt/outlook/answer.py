"""The answer to "is it worth going on?", in numbers and in sentences."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sggp.bayesopt.outcomes.results import told_digits

_RESAMPLES = 200


@dataclass(frozen=True)
class Figure:
    """An estimate over paths. value: in the units named where it stands. error: its Monte Carlo standard error."""

    value: float
    error: float

    @classmethod
    def probability(cls, happened: Tensor) -> Figure:
        """The share of paths (s,) on which something is so; the error that of one more yes and one more no."""
        s, yes = len(happened), int(happened.sum())
        share = (yes + 1) / (s + 2)
        return cls(yes / s, math.sqrt(share * (1 - share) / (s + 3)))

    @classmethod
    def mean(cls, values: Tensor) -> Figure:
        """The mean of (s,) values."""
        return cls(float(values.mean()), float(values.std()) / math.sqrt(len(values)))

    @classmethod
    def quantile(cls, values: Tensor, q: float, generator: torch.Generator) -> Figure:
        """The least of (s,) values that so many do not exceed; its error by resampling the paths."""
        drawn = torch.randint(len(values), (_RESAMPLES, len(values)), generator=generator)
        again = values[drawn].quantile(q, dim=1, interpolation="higher")
        return cls(float(values.quantile(q, interpolation="higher")), float(again.std()))


def interval(values: Tensor) -> tuple[float, float]:
    """Central interval of (s,) values, few of which differ, that holds about 90 % of them.

    An end is left out where what is beyond it and half of what is equal to it are no more than 5 %. An interval of no
    less than 90 % holds several per cent more; by these mid-p values it is near 90 on average.

    Source: Lancaster, J. Am. Stat. Assoc. 56 (1961) 223.
    """
    values, counts = values.sort().values.unique_consecutive(return_counts=True)
    shares = counts.double() / counts.sum()
    below = shares.cumsum(0) - 0.5 * shares
    kept = values[(below > 0.05) & (below < 0.95)]
    return float(kept[0]), float(kept[-1])


@dataclass(frozen=True)
class Within:
    """How probable it is that the best found is at most `epsilon` (in the values' units) from the best there is."""

    epsilon: float
    probability: Figure


@dataclass(frozen=True)
class Found:
    """How many of the `count` best of the pool have been measured.

    Where values are equal, the last places among the best are shared out, so numbers need not be whole.

    Attributes:
        share: of the pool that `count` is, None where a number was asked for.
        expected: number found. low, high: an interval that holds it with a probability of about 90 %.
        inside: the probability of that interval over the paths: near 90 % on average, whole numbers allow no more.
    """

    count: int
    share: float | None
    expected: Figure
    low: float
    high: float
    inside: float


@dataclass(frozen=True)
class Outlook:
    """Is it worth going on?

    Attributes:
        kind: "pool" or "box". maximize: whether larger is better.
        size: rows of the pool, None for a box. measured: how many of them, or points, have been measured.
        best: value of the best found, that is the measured one with the largest expected true value; best_at: its row
            in the pool, or its position among the measured points of a box.
        within: that the best found is within each epsilon of the best there is.
        regret_median, regret_90: by how much the best there is is better, with probabilities of 50 and 90 % at most.
        gain: expected improvement of the best by the next batch; gain_probability: that there is one. None without a
            batch. batch: its size.
        found: how many of the best of the pool have been found; empty for a box.
        noise_std: standard deviation of measurements about the truth; 0 where the values measured are the truth.
        step: by which values differ, 0 for continuous ones.
        paths: number of posterior samples. learned: False where the model had too little to learn from.
        judged: left-out measurements that the paths were corrected by. correction: see `Recalibration`.
        search_error: box: mean difference between two searches for a path's best point, in the values' units.
        names: what a candidate and the set of them are called.
        conditions: what a place must meet to count, in words: "purity at least 0.9".
        part_of: combinations of which the pool is only the searched part, None where it is everything.
    """

    kind: str
    maximize: bool
    size: int | None
    measured: int
    best: float
    best_at: int
    within: tuple[Within, ...]
    regret_median: Figure
    regret_90: Figure
    gain: Figure | None
    gain_probability: Figure | None
    batch: int
    found: tuple[Found, ...]
    noise_std: float
    step: float
    paths: int
    learned: bool
    judged: int = 0
    correction: tuple[float, ...] = ()
    search_error: float | None = None
    names: tuple[str, str] = ("candidate", "pool")
    conditions: tuple[str, ...] = ()
    part_of: int | None = None

    def of_part(self, size: int) -> Outlook:
        """The same, saying that the pool is what searches looked at of so many combinations."""
        return replace(self, names=("product", "searched part"), part_of=size)

    def as_dict(self) -> dict[str, Any]:
        """All of it, and the sentences, as JSON values."""
        return {**asdict(self), "sentences": self.sentences()}

    def sentences(self) -> list[str]:
        """All of it in plain English."""
        return [
            self._about_best(),
            self._about_regret(),
            *self._about_gain(),
            *(self._about_found(found) for found in self.found),
            self._about_truth(),
            *self._cautions(),
        ]

    @property
    def _all_known(self) -> bool:
        return self.size == self.measured and self.noise_std == 0

    def _about_best(self) -> str:
        one, several = self.names
        if self._all_known:
            return (
                f"Everything in the {several} has been measured: the best found is the best of the {several}."
            )
        where = f"of the {self.size:,} in the {several}" if self.size else f"in the {several}"
        exact, *wider = self.within
        near = "" if exact.epsilon == 0 else f"within {_number(exact.epsilon)} of "
        measured = self.kind == "pool" and self.noise_std == 0
        best = told_digits(self.best) if measured else _number(self.best)
        text = (
            f"The best {one} found ({best}) is {near}the best {where} with probability "
            f"{_chance(exact.probability)}"
        )
        for other in wider:
            text += (
                f", and within {_number(other.epsilon)} of it with probability {_chance(other.probability)}"
            )
        return text + "."

    def _about_regret(self) -> str:
        if self._all_known:
            return "Nothing better is left."
        middle, most = self.regret_median.value, self.regret_90.value
        if most <= 0:
            return "Nothing better is left, with a probability of at least 90 %."
        unit = _number(most, self.regret_90.error)
        if middle <= 0:
            return (
                f"As likely as not nothing better is left; the best left is by at most {unit} better (90 %)."
            )
        return (
            f"The best there is should be better by some {_number(middle, self.regret_median.error)}, "
            f"and by at most {unit} (90 %)."
        )

    def _about_gain(self) -> list[str]:
        if self.gain is None or self.gain_probability is None:
            return []
        what = f"{self.batch} {self.names[0]}" + ("s" if self.batch != 1 else "")
        chance = _chance(self.gain_probability)
        if self.gain_probability.value == 0:
            return [
                f"The next batch ({what}) holds something better than the best found with probability {chance}."
            ]
        return [
            f"The next batch ({what}) holds something better than the best found with probability {chance}; its "
            f"expected gain is {_number(self.gain.value, self.gain.error)} (± {self.gain.error:.1g})."
        ]

    def _about_found(self, found: Found) -> str:
        several = self.names[1]
        best = (
            f"best {found.count:,}"
            if found.share is None
            else f"best {100 * found.share:g} % ({found.count:,})"
        )
        if found.count == 1:
            best = "one best"
        if found.low == found.high and found.inside == 1.0:
            return f"Of the {several}'s {best}, {_count(found.expected.value)} found so far."
        return (
            f"Of the {several}'s {best}, about {_count(found.expected.value)} found so far "
            f"(90 %: {found.low:.3g} to {found.high:.3g})."
        )

    def _about_truth(self) -> str:
        if self.kind == "box":
            noise = f", measured with a noise of {_number(self.noise_std)}" if self.noise_std else ""
            return f"The truth here is the function without noise{noise}."
        one = self.names[0]
        if self.noise_std == 0:
            return f"The truth here is what a measurement of a {one} gives: measured values count as exact."
        return (
            f"The truth here is what measurements of a {one} scatter about, with a standard deviation of "
            f"{_number(self.noise_std)}."
        )

    def _cautions(self) -> list[str]:
        said = []
        if self.conditions:
            said.append(
                f"Only what meets every condition counts ({', '.join(self.conditions)}): measurements decide for "
                f"what was measured, joint samples for every other {self.names[0]}."
            )
        if self.part_of is not None:
            said.append(
                f"The searched part is the {self.size:,} products that searches looked at, of {self.part_of:,} "
                "combinations; nothing is said of the others."
            )
        if not self.learned:
            said.append(
                "These are guesses: there is too little, or nothing that differs, for a model to learn from."
            )
        if self.search_error is not None:
            said.append(
                f"Two searches for each path's best point differ by {_number(self.search_error)} on average."
            )
        return said


def _number(value: float, error: float = 0.0) -> str:
    """Three digits, or as many as its Monte Carlo error leaves, one at least."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = 3
    if error > 0:
        digits = min(max(math.floor(math.log10(abs(value))) - math.floor(math.log10(error)) + 1, 1), 3)
    size = math.floor(math.log10(abs(value)))
    if size >= digits - 1 and size < 7:
        return f"{round(value, digits - 1 - size):,.0f}"
    return f"{value:.{digits}g}"


def _chance(figure: Figure) -> str:
    """A probability with its Monte Carlo error; what no path or every path says stays short of certainty."""
    p, error = figure.value, figure.error
    if p == 0.0:
        return f"below {max(2 * error, 0.01):.2f}"
    if p == 1.0:
        return f"above {min(1 - 2 * error, 0.99):.2f}"
    return f"{p:.2f} (± {error:.2f})"


def _count(value: float) -> str:
    text = f"{value:.0f}" if value >= 10 or value == round(value) else f"{value:.1f}"
    return f"{text} {'has' if text == '1' else 'have'} been"
