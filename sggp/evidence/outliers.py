"""Rows whose targets do not belong: found by leaving them out, and set apart only where that helps all others."""

from __future__ import annotations

import torch
from torch import Tensor

from sggp.evidence.leave_one_out import Observed, Seen, leave_out

_FAR = 8.0  # robust standard deviations of left-out residuals
_MOST = 0.03  # share of rows: more of them are the noise, not outliers
_SHARE = 0.3  # of the sum of squared z-scores that they must hold
_JUDGED = 2000
_TWO_ERRORS = 2.0
APART = 1e8
"""What the noise variance of a row set apart is multiplied by, at least."""
_NO_PULL = (
    1e4  # times its squared residual: it then pulls by a ten-thousandth of what a row one deviation off does
)


def outlying_rows(observed: Observed, seen: Seen, generator: torch.Generator) -> Tensor | None:
    """Rows that the others are better predicted without, (k,); None where there are none.

    Candidates lie more than eight robust standard deviations (of the left-out z-scores) from their own left-out
    predictions, are at most 3 % of the rows, and hold at least 30 % of the sum of squared z-scores. They are set apart
    if the squared errors of up to 2,000 of the other rows fall without them, by two standard errors.

    Args:
        observed: one target, (n, 1). seen: its rows, left out.

    Cost: where there are candidates, left-out predictions of 2,000 rows, and of all where not all were seen.
    """
    z = seen.z(observed)
    far = _far(z)
    share = float(z[far].square().sum() / z.square().sum().clamp_min(1e-300))
    if not bool(far.any()) or float(far.double().mean()) > _MOST or share < _SHARE:
        return None
    every = torch.arange(len(observed.x))
    if len(far) < len(every):
        far = _far(Seen(every, leave_out(observed, every)).z(observed))
    apart, others = every[far], every[~far]
    judged = others[torch.randperm(len(others), generator=generator)[:_JUDGED]]
    before = observed.residual[judged] - leave_out(observed, judged).mean
    after = observed.residual[judged] - leave_out(observed, judged, given=others).mean
    gain = before.square() - after.square()
    if float(gain.mean()) <= _TWO_ERRORS * float(gain.std()) / len(gain) ** 0.5:
        return None
    return apart


def without(observed: Observed, apart: Tensor) -> Observed:
    """The same with some rows set apart: a noise that leaves them without a say."""
    noise = observed.noise.double().expand(len(observed.x)).clone()
    far = _NO_PULL * observed.residual[apart].square().amax(dim=1)
    noise[apart] = torch.maximum(APART * noise[apart], far)
    return Observed(observed.kernel, observed.x, observed.residual, noise)


def _far(z: Tensor) -> Tensor:
    return z.abs() > _FAR * 1.4826 * z.abs().median().clamp_min(1e-12)
