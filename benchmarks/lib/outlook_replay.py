"""One campaign replayed for `outlook.py`: what was said of the library at some stages, beside the truth."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.common import seeded
from lib.screen_libraries import LIBRARIES, Library, Source, load
from sggp.bayesopt import Pool, fit_surrogate
from sggp.bayesopt.outlook import Outlook, outlook
from sggp.bayesopt.rules import make_rule
from sggp.bayesopt.rules.scores import ScoreRule
from sggp.defaults import DIRECT_ROWS

__all__ = ["LIBRARIES", "STAGES", "TOP", "Truth", "first_known", "judged", "molecules", "replay"]

LIBRARIES.setdefault("dockstring", Source("dockstring_small_5000x58.csv.gz", "smiles", "F2"))
LIBRARIES.setdefault("lipophilicity", Source("lipophilicity.csv.gz", "smiles", "exp", maximize=True))
STAGES = (1, 3, 5)
"""Batches measured when the outlook is asked for."""
SHARE = 0.01
"""Of the library that is known at first, and that a batch is; at least `LEAST` molecules."""
LEAST = 20
TOP = (0.01, 10)


@dataclass(frozen=True)
class Truth:
    """All values of a library (N,), larger being better."""

    values: Tensor

    def found(self, rows: Tensor, count: int) -> float:
        """How many of the `count` best are among the rows, equal values sharing the last places."""
        threshold = self.values.topk(count).values[-1]
        inside = self.values[rows]
        sure, level = int((self.values > threshold).sum()), int((self.values == threshold).sum())
        return int((inside > threshold).sum()) + int((inside == threshold).sum()) * (count - sure) / level

    def regret(self, rows: Tensor) -> float:
        return float(self.values.max() - self.values[rows].max())


@functools.cache
def molecules(name: str, cache: Path | None) -> tuple[Tensor, Library]:
    """The fingerprints (N, d) of a library, and the library."""
    library = load(name, None, cache)
    return torch.cat([rows for _, rows in Pool(library.table).chunks()]), library


def first_known(rows: int) -> int:
    """Molecules that are known at first, and that a batch is."""
    return max(LEAST, math.ceil(SHARE * rows))


def replay(setup: dict[str, Any], cache: Path | None) -> list[dict[str, Any]]:
    """A campaign in some molecules of a library, drawn at random: at each stage what was said, and what was so.

    The model is a campaign's: a kernel for each part of the fingerprints. Rules that ask no paths share its fit.
    """
    features, library = molecules(setup["library"], cache)
    draw = seeded(setup["seed"])
    rows = torch.randperm(len(features), generator=draw)[: setup["rows"] or len(features)]
    pool, values = Pool(features[rows]), library.values[rows]
    truth = Truth(values if library.maximize else -values)
    batch = first_known(len(rows))
    known, told = list(range(batch)), []
    rule = make_rule(setup["rule"], pool, batch, maximize=library.maximize)
    for stage in range(max(STAGES) + 1):
        seed = 1000 * setup["seed"] + 10 * stage
        data = {"kernel": library.table.parts, "x": pool.rows(known), "y": values[known]}
        paths = setup["paths"] if stage in STAGES else rule.num_samples
        model = chooser = fit_surrogate(**data, num_samples=paths, generator=seed)
        pathless = isinstance(rule, ScoreRule) and len(known) <= DIRECT_ROWS
        if stage in STAGES and not (pathless and paths >= rule.num_samples):
            # a batch that was chosen by the paths that are asked about it would gain too much
            chooser = fit_surrogate(**data, num_samples=rule.num_samples, generator=seed + 2)
        chosen = rule.suggest(chooser.posterior, exclude=known, generator=seed + 1)
        if stage in STAGES:
            said = outlook(
                model,
                pool,
                known,
                values[known],
                maximize=library.maximize,
                top=TOP,
                batch=chosen,
                generator=seed + 3,
            )
            told.append(
                {"stage": stage, **judged(said, truth, torch.tensor(known), chosen, float(values.std()))}
            )
        known = [*known, *chosen.tolist()]
    return told


def judged(said: Outlook, truth: Truth, known: Tensor, batch: Tensor, spread: float) -> dict[str, Any]:
    """Statements and truths, as JSON."""
    regret = truth.regret(known)
    gain = float((truth.values[batch].max() - truth.values[known].max()).clamp_min(0.0))
    assert said.gain is not None
    assert said.gain_probability is not None
    return {
        "found": [
            {
                "count": one.count,
                "expected": one.expected.value,
                "low": one.low,
                "high": one.high,
                "inside": one.inside,
                "truth": truth.found(known, one.count),
            }
            for one in said.found
        ],
        "within": [
            {
                "epsilon": one.epsilon,
                "probability": one.probability.value,
                "truth": regret <= one.epsilon + 1e-9,
            }
            for one in said.within
        ],
        "regret": {
            "truth": regret / spread,
            "median": said.regret_median.value / spread,
            "most": said.regret_90.value / spread,
            "below": regret <= said.regret_90.value + 1e-9,
            "below_median": regret <= said.regret_median.value + 1e-9,
        },
        "gain": {
            "expected": said.gain.value / spread,
            "truth": gain / spread,
            "probability": said.gain_probability.value,
            "came": gain > 1e-9,
        },
        "correction": said.correction,
    }
