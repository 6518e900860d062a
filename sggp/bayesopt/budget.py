"""What a campaign has spent, and how many trials its budget still pays for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from sggp.bayesopt.trials import Trial
from sggp.errors import BudgetWarning, Exhausted


def spent(trials: Sequence[Trial]) -> tuple[float, float]:
    """What the trials cost together, and what one more is taken to cost.

    A trial that was asked for and has no told cost counts as the mean of the told ones, as 1 where there are none;
    attached and withdrawn trials count where their cost was told.
    """
    told = [trial.cost for trial in trials if trial.cost is not None]
    usual = sum(told) / len(told) if told else 1.0
    silent = sum(t.cost is None and t.source == "asked" and t.state != "withdrawn" for t in trials)
    return math.fsum(told) + silent * usual, usual


def affordable(q: int, trials: Sequence[Trial], budget: float | None) -> int:
    """How many of q further trials the budget pays for.

    Raises:
        Exhausted: for none. Warns: BudgetWarning where for fewer.
    """
    if budget is None:
        return q
    gone, usual = spent(trials)
    left = budget - gone
    count = q if usual == 0 else min(q, math.floor(left / usual * (1 + 1e-12) + 1e-12))
    if left < 0 or count < 1:
        raise Exhausted(
            f"the budget of {budget:g} is spent: {gone:g} so far, and one more trial costs about {usual:g}. Open the "
            "campaign with a larger budget= to go on."
        )
    if count < q:
        warnings.warn(
            f"{count} of {q} points: the budget of {budget:g} pays for no more ({gone:g} spent, {usual:g} a trial).",
            BudgetWarning,
            stacklevel=3,
        )
    return count
