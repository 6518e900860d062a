"""Measured values that cannot belong: set apart where all others are better predicted without, and always named.

`sggp.evidence.outliers` finds rows of large tables that their neighbours contradict. A campaign has 20 to 60 rows, of
which one failed docking (+107 among scores of -5 to -11), a sentinel (999) or a slip of the unit (a factor of 1,000)
takes the whole scale of the model; and its best value may be the discovery looked for. So a suspect stands alone,
beyond all others by more than their whole range, ten times it where it would be the best.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sggp.bayesopt.outcomes.tables import BeliefSettings, Table, fit_table
from sggp.bayesopt.surrogate import Surrogate
from sggp.errors import OutlyingValues
from sggp.random import streams

_LEAST_ROWS = 10
_MOST = 0.05  # share of rows
_FAR = 8.0  # robust standard deviations from the median
_GAP, _GOOD_GAP = (
    1.0,
    10.0,
)  # ranges of the others between them and a suspect, on the worse and the better side
_TWO_ERRORS = 2.0


@dataclass(frozen=True)
class Apart:
    """A measured value that the model leaves out.

    Attributes:
        trial: its number. outcome: its name. value: as told. low, high: the range of all others.
    """

    trial: int
    outcome: str
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"trial {self.trial} has {self.outcome} = {self.value:g} where all others lie within {self.low:g} and "
            f"{self.high:g}"
        )


def suspects(value: Tensor, sign: float) -> Tensor | None:  # (n,) -> (n,) bool
    """Values that lie alone, far from all others; None where there are none.

    The k values farthest from the median, for the largest k up to 5 % of the rows (at least one) for which each lies
    more than eight robust standard deviations from the median of the others, and farther beyond all of them than their
    range; ten times their range on the side that is better. Where all values are positive, so must their logarithms,
    but for that factor of ten: a concentration of 5,000 beside 1 to 100 is no slip.

    Args:
        sign: 1 where larger is better, -1 where smaller is, 0 where neither.
    """
    n = len(value)
    if n < _LEAST_ROWS:
        return None
    order = (value - value.median()).abs().argsort(descending=True, stable=True)
    scales = [(value, sign)]
    if bool((value > 0).all()):
        scales.append((value.log(), 0.0))
    for k in range(max(1, int(_MOST * n)), 0, -1):
        if all(_alone(scale[order], k, better) for scale, better in scales):
            return torch.zeros(n, dtype=torch.bool).index_fill_(0, order[:k], True)
    return None


def _alone(value: Tensor, k: int, sign: float) -> bool:
    """Whether each of the first k values is far from all others."""
    far, rest = value[:k], value[k:]
    low, high, centre = rest.min(), rest.max(), rest.median()
    spread = 1.4826 * (rest - centre).abs().median()
    gap = torch.where(far > high, far - high, low - far)
    needed = torch.where(sign * (far - centre) > 0, _GOOD_GAP, _GAP) * (high - low)
    return bool(high > low) and bool(((gap > needed) & ((far - centre).abs() > _FAR * spread)).all())


def set_apart(
    table: Table, name: str, sign: float, settings: BeliefSettings, generator: torch.Generator
) -> tuple[Table, list[Apart]]:
    """The table without the suspects, if the others' left-out log density gains by more than two standard errors.

    Nothing is drawn from the generator where there is no suspect.

    Cost: two fits and two sets of left-out predictions where there are suspects.
    """
    exact = ~table.censored
    far = suspects(table.value[exact], sign)
    if far is None:
        return table, []
    known = table.part(exact)
    both, alone = streams(generator, "with suspects", "without")
    before = _log_densities(fit_table(known, known.value, settings, both), known.value)[~far]
    others = known.part(~far)
    after = _log_densities(fit_table(others, others.value, settings, alone), others.value)
    gain = after - before
    if not float(gain.mean()) > _TWO_ERRORS * float(gain.std()) / len(gain) ** 0.5:
        return table, []
    low, high = float(others.value.min()), float(others.value.max())
    ids = [id for id, suspect in zip(known.ids, far.tolist(), strict=True) if suspect]
    found = [
        Apart(id, name, float(v), low, high) for id, v in zip(ids, known.value[far].tolist(), strict=True)
    ]
    kept = exact.clone()
    kept[exact] = ~far
    return table.part(kept | ~exact), found


def warn_apart(found: Sequence[Apart]) -> None:
    """Name what was set apart in an `OutlyingValues` warning, with the way out."""
    if found:
        ids = ", ".join(str(apart.trial) for apart in found)
        warnings.warn(
            f"{'; '.join(map(str, found))}. The model leaves {'it' if len(found) == 1 else 'them'} out, since it "
            f"predicts the others better so. Trial {ids}: correct a mistake with amend(id, value, why), take a failed "
            "measurement out with withdraw(id, why); what is right needs nothing, and counts once others like it are "
            "there.",
            OutlyingValues,
            stacklevel=4,
        )


def _log_densities(model: Surrogate, value: Tensor) -> Tensor:  # (n,)
    mean, std = model.leave_one_out()
    return torch.distributions.Normal(mean, std).log_prob(value)
