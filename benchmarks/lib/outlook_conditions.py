"""Replays for `outlook.py` of campaigns with a constraint: log P, measured with the objective, at most its median."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.common import seeded
from lib.outlook_replay import STAGES, TOP, Truth, first_known, judged, molecules
from sggp.bayesopt import Constraint, Objective, Pool
from sggp.bayesopt.outcomes import BeliefSettings, Outcomes
from sggp.bayesopt.outcomes.beliefs import Beliefs, build_beliefs
from sggp.bayesopt.outlook import outlook
from sggp.bayesopt.outlook.conditions import conditions_of
from sggp.bayesopt.rules import make_rule
from sggp.bayesopt.trials import Measurement, Trial

__all__ = ["replay_with_constraint"]


@functools.cache
def _log_p(name: str, cache: Path | None) -> Tensor:
    """Crippen's log P of every molecule of a library, (N,)."""
    from rdkit import Chem
    from rdkit.Chem import Crippen

    _, library = molecules(name, cache)
    found = [Crippen.MolLogP(Chem.MolFromSmiles(smiles)) for smiles in library.table.smiles]
    return torch.tensor(found, dtype=torch.float64)


def replay_with_constraint(setup: dict[str, Any], cache: Path | None) -> list[dict[str, Any]]:
    """As `replay`, of what has a log P of at most the median of the molecules drawn: about half of them."""
    features, library = molecules(setup["library"], cache)
    draw = seeded(setup["seed"])
    rows = torch.randperm(len(features), generator=draw)[: setup["rows"] or len(features)]
    pool, values, other = Pool(features[rows]), library.values[rows], _log_p(setup["library"], cache)[rows]
    limit = float(other.median())
    met, sign = other <= limit, 1.0 if library.maximize else -1.0
    truth = Truth((sign * values).masked_fill(~met, -math.inf))
    wanted = Outcomes((Objective("value", maximize=library.maximize),), (Constraint("log P", at_most=limit),))
    batch = first_known(len(rows))
    known, told = list(range(batch)), []
    rule = make_rule(setup["rule"], pool, batch, maximize=True)

    def trial(number: int, row: int) -> Trial:
        told = {"value": Measurement(float(values[row])), "log P": Measurement(float(other[row]))}
        return Trial(
            id=number,
            index=row,
            x=None,
            label=None,
            state="measured",
            value=told["value"].value,
            reason=None,
            batch=1,
            source="asked",
            asked_at="",
            told_at=None,
            values=told,
        )

    def beliefs(paths: int, seed: int) -> Beliefs:
        trials = [trial(i, row) for i, row in enumerate(known, start=1)]
        settings = BeliefSettings(num_samples=paths, kernel=library.table.parts)
        return build_beliefs(pool.rows(known), wanted, trials, settings, seed)

    for stage in range(max(STAGES) + 1):
        seed = 1000 * setup["seed"] + 10 * stage
        # a batch that was chosen by the paths that are asked about it would gain too much
        chosen = rule.suggest(
            beliefs(rule.num_samples, seed + 2).posterior, exclude=known, generator=seed + 1
        )
        if stage in STAGES:
            found = beliefs(setup["paths"], seed)
            said = outlook(
                found.surrogate,
                pool,
                known,
                values[known],
                maximize=library.maximize,
                top=TOP,
                batch=chosen,
                conditions=conditions_of(found, wanted.constraints),
                met=met[known],
                generator=seed + 3,
            )
            told.append(
                {"stage": stage, **judged(said, truth, torch.tensor(known), chosen, float(values.std()))}
            )
        known = [*known, *chosen.tolist()]
    return told
