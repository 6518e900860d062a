"""The plots of a campaign's report."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from sggp.bayesopt import Trial
from sggp.bayesopt.outcomes import Objective
from sggp.bayesopt.outcomes.results import guaranteed
from sggp.bayesopt.outcomes.tables import measurement_of
from sggp.cli.report import brief
from sggp.plotting import new_figure

_CHARACTER = 0.011  # of the width of a figure
_BLUE, _GREY, _RED = "#0b6e99", "#8a8a8a", "#b3432b"


def progress(trials: Sequence[Trial], objective: Objective) -> Any:
    """Every measurement in the order of its batch, with what the model expected, and the best value so far."""
    done = sorted((t for t in trials if t.value is not None), key=lambda t: (t.batch, t.id))
    values = np.array([t.value for t in done], dtype=float)
    order = np.arange(1, len(done) + 1)
    told = [measurement_of(t, objective.name, objective.name) for t in done]
    least = np.array([guaranteed(measured, objective) for measured in told])  # larger being better
    best = objective.sign * np.maximum.accumulate(least)
    figure = new_figure(9.0, 4.0)
    axes = figure.subplots()
    start, free = 0, 0.0
    for position, (batch, members) in enumerate(groupby(done, key=lambda t: t.batch)):
        count = len(list(members))
        if position % 2:
            axes.axvspan(start + 0.5, start + count + 0.5, color=_GREY, alpha=0.12, linewidth=0)
        name = "before" if batch == 0 else str(batch)
        middle, half = start + 0.5 + count / 2, _CHARACTER * len(done) * (len(name) + 1) / 2
        # where many batches are small, not each has room for its number
        if middle - half >= free or batch == 0:
            axes.text(middle, 1.01, name, transform=axes.get_xaxis_transform(), ha="center")
            free = middle + half
        start += count
    expected = [(i, *t.expected) for i, t in zip(order, done, strict=True) if t.expected is not None]
    if expected:
        at, mean, std = (np.array(column, dtype=float) for column in zip(*expected, strict=True))
        axes.errorbar(
            at, mean, yerr=2 * std, fmt="_", color=_GREY, elinewidth=0.8, label="expected before (± 2 s.d.)"
        )
    exact = np.array([measured is None or measured.censored is None for measured in told])
    axes.plot(order[exact], values[exact], "o", color=_BLUE, markersize=4, label="measured")
    for side, marker, sign in (("above", "^", ">"), ("below", "v", "<")):
        bound = np.array([measured is not None and measured.censored == side for measured in told])
        if bound.any():
            label = f"a bound ({sign})"
            axes.plot(order[bound], values[bound], marker, color=_RED, markersize=5, label=label)
    best = np.where(np.isfinite(best), best, np.nan)  # of "<5", where larger is better, nothing is known
    axes.step(order, best, where="post", color="black", linewidth=1.2, label="best so far")
    axes.set_xlabel("measurements; batches above")
    axes.set_ylabel(_named(objective))
    axes.legend(fontsize="small")
    return figure


def library(mean: np.ndarray, std: np.ndarray, best: float | None, objective: Objective) -> Any:
    """What the model predicts for what was not measured: means, and how sure it is."""
    figure = new_figure(9.0, 3.6)
    left, right = figure.subplots(1, 2)
    left.hist(mean, bins=50, color=_BLUE, alpha=0.8)
    if best is not None:
        left.axvline(best, color="black", linestyle="--", label="best measured")
        left.legend(fontsize="small")
    left.set_xlabel(f"predicted {_named(objective)}")
    left.set_ylabel("candidates")
    right.hist(std, bins=50, color=_GREY)
    right.set_xlabel("standard deviation of a measurement there")
    return figure


def front(trials: Sequence[Trial], best: Sequence[Trial], objectives: Sequence[Objective]) -> Any:
    """Two objectives of every trial, and the front."""
    first, second = objectives[:2]
    figure = new_figure(5.5, 4.2)
    axes = figure.subplots()
    bounds: list[list[float]] = []
    for chosen, colour, label in ((trials, _GREY, "measured"), (best, _RED, "not beaten in both")):
        both = [t for t in chosen if first.name in t.values and second.name in t.values]
        places = [[t.values[o.name].value for o in (first, second)] for t in both]
        bounds += [p for p, t in zip(places, both, strict=True) if _bounded(t, (first, second))]
        size = 4 if colour == _GREY else 6
        axes.plot(*np.reshape(places, (-1, 2)).T, "o", color=colour, markersize=size, label=label)
    if bounds:
        label = "of these, with a bound (> or <)"
        axes.plot(*np.array(bounds).T, "s", color="black", fillstyle="none", markersize=8, label=label)
    axes.set_xlabel(f"{_named(first)} ({'larger' if first.maximize else 'smaller'} is better)")
    axes.set_ylabel(f"{_named(second)} ({'larger' if second.maximize else 'smaller'} is better)")
    axes.legend(fontsize="small")
    return figure


def _bounded(trial: Trial, objectives: Sequence[Objective]) -> bool:
    return any(trial.values[objective.name].censored is not None for objective in objectives)


def _named(objective: Objective) -> str:
    name = brief(objective.name)
    return f"{name} ({objective.unit})" if objective.unit else name
