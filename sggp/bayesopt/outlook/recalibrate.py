"""What left-out measurements say against a model's predictions, as a correction of its sample paths.

A Gaussian process that has learnt its kernel from few measurements shrinks too much or too little, is too sure or too
unsure, and knows nothing of an end of the scale. All of this shows where each measurement is predicted from the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from sggp.bayesopt.surrogate import Surrogate
from sggp.defaults import DIRECT_ROWS
from sggp.errors import InputError
from sggp.evidence.leave_one_out import Observed, leave_rows_out
from sggp.posterior.merge import group_rows

PRIOR_STD = (0.3, 0.4, 0.25, 0.25, 0.5, 0.5)
"""Prior standard deviations of shift, slope, spread, tilt, reach and bend; their prior means are zero.

Chosen on replays that `benchmarks/outlook.py` does not report.
"""
_MOST = 2.0
"""Bends lie between exp(-2) and exp(2), and so do spreads."""
_LEAST_STD = 1e-6
_JUDGED = 1000
"""Measurements that are left out in turn, where there are more than a factor serves for."""
_LEAST = 4
"""Left-out measurements below which there is nothing to learn from: the prior speaks alone."""


@dataclass(frozen=True)
class Recalibration:
    """A correction of predictions, in units of the values' standard deviation, larger being better.

    With m the model's mean, s its standard deviation, d a deviation (path and noise) and h the bend, the corrected
    value is

        h^-1(h(m) + shift + slope * m + exp(spread + tilt * m + reach * log s) * d).

    The reach tells rows that are far from all measurements from those that are near. h is the identity below the mean
    of the values and at bend 0; a positive bend stretches high values, so that what is predicted stays short of an end
    of the scale that measurements show.

    A search measures what it thinks it knows to be good, and such molecules may be easier to predict than the others.
    Whether they are, they cannot tell: on every other path deviations may grow but not shrink.

    Attributes:
        mean: (6,) most likely shift, slope, spread, tilt, reach and bend (of which h has the exponent exp(bend)).
        covariance: (6, 6) of their Gaussian approximation (Laplace's).
        judged: how many left-out measurements it was learnt from.
    """

    mean: Tensor
    covariance: Tensor
    judged: int

    @classmethod
    def nothing(cls) -> Recalibration:
        """Paths as they are."""
        size = len(PRIOR_STD)
        return cls(torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64), 0)

    def draw(self, count: int, generator: torch.Generator) -> Correction:
        """Parameters for each of `count` paths: what is not known of them widens what the paths say."""
        values, vectors = torch.linalg.eigh(self.covariance)
        root = vectors * values.clamp_min(0.0).sqrt()
        noise = torch.randn(count, len(self.mean), generator=generator, dtype=torch.float64)
        floor = torch.full((count, 1), -_MOST, dtype=torch.float64)
        floor[::2] = 0.0
        return Correction((self.mean + noise @ root.T).T[:, :, None], floor)


@dataclass(frozen=True)
class Correction:
    """Parameters (6, s, 1) of the correction of s paths, and the least logarithms (s, 1) of their widths."""

    parameters: Tensor
    floor: Tensor

    def __call__(self, mean: Tensor, deviation: Tensor) -> Tensor:  # (q,), (s, q) -> (s, q)
        """Corrected values of s paths at q points."""
        shift, slope, spread, tilt, reach, bend = self.parameters
        exponent = _exponent(bend)
        std = deviation.std(0).clamp_min(_LEAST_STD)
        width = _log_width(spread, tilt * mean, reach * std.log()).maximum(self.floor).exp()
        return _unbent(_bent(mean, exponent) + shift + slope * mean + width * deviation, exponent)


def recalibrate(model: Surrogate, sign: float, generator: torch.Generator) -> Recalibration:
    """The most likely correction of predictions of each measurement from the others, and how well it is known.

    Args:
        model: fitted to the measurements.
        sign: 1 where larger values are better, else -1.
        generator: which measurements are left out where there are many.

    Cost: n^3 flops and three times 8 n^2 bytes up to 3,000 measurements; beyond, 1,000 systems of 128 rows.
    """
    left = _left_out(model, generator)
    if left is None:
        return Recalibration.nothing()
    truth, mean, side, std = left
    truth, mean, side = sign * truth, sign * mean, sign * side
    bound = side != 0
    prior = torch.tensor(PRIOR_STD, dtype=torch.float64)

    def loss(p: Tensor) -> Tensor:
        shift, slope, spread, tilt, reach, bend = p
        exponent = _exponent(bend)
        log_width = _log_width(spread, tilt * mean, reach * std.log())
        error = _bent(truth, exponent) - _bent(mean, exponent) - shift - slope * mean
        z = error / (std * log_width.exp())
        slopes = (exponent - 1) * truth.clamp_min(0.0).log1p()
        exact = (0.5 * z.square() + log_width - slopes)[~bound].sum()
        beyond = torch.special.log_ndtr(-(side * z)[bound]).sum()  # of a bound only the side is known
        return exact - beyond + 0.5 * (p / prior).square().sum()

    def with_slope(p: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.tensor(p, requires_grad=True)
        value = loss(at)
        (slope,) = torch.autograd.grad(value, at)
        return float(value.detach()), slope.numpy()

    best = torch.tensor(optimize.minimize(with_slope, np.zeros(len(prior)), jac=True, method="BFGS").x)
    curvature = torch.autograd.functional.hessian(loss, best)
    values, vectors = torch.linalg.eigh(curvature)  # never flatter than the prior
    covariance = (vectors / values.clamp_min(float(prior.max()) ** -2)) @ vectors.T
    return Recalibration(best, covariance, len(truth))


def _left_out(model: Surrogate, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Standardised measurements (m,) without repeats, the mean that the others predict, sides of bounds, and std."""
    if not model.learned or model.x is None or model.target is None:
        return None
    groups = group_rows(model.x)
    counts = torch.bincount(groups.member)
    told, side = model.told_values
    told = (told - model.offset) / model.scale
    # a repeat would be predicted from its twin, and what stands for a failure is no measurement
    alone = ((counts[groups.member] == 1) & ~told.isnan()).nonzero()[:, 0]
    if len(alone) < _LEAST:
        return None
    if len(model.x) <= DIRECT_ROWS:
        mean, std = model.leave_one_out()
        mean, std = (mean[alone] - model.offset) / model.scale, std[alone] / model.scale
    else:
        alone = alone[torch.randperm(len(alone), generator=generator)[:_JUDGED]]
        residual = (model.target.double() - model.mean)[:, None]
        noise = model.posterior.data.noise_variance.double()
        left = leave_rows_out(Observed(model.posterior.kernel, model.x, residual, noise), alone)
        mean, std = left.mean[:, 0] + model.mean, (left.latent + model.own_noise[alone]).sqrt()
    if not bool(torch.isfinite(mean).all()) or not bool((std > 0).all()):
        raise InputError(
            "left-out predictions are not finite: the model cannot be judged by its own measurements."
        )
    return told[alone], mean.detach(), side[alone], std.detach()


def _log_width(spread: Tensor, tilt: Tensor, reach: Tensor) -> Tensor:
    return (spread + tilt + reach).clamp(-_MOST, _MOST)


def _exponent(bend: Tensor) -> Tensor:
    return bend.clamp(-_MOST, _MOST).exp()


def _bent(y: Tensor, exponent: Tensor) -> Tensor:
    """((1 + y)^w - 1)/w above zero, y below: the lower end of the scale says nothing of the upper one.

    Source: Yeo & Johnson, Biometrika 87 (2000) 954, above zero.
    """
    return ((1 + y.clamp_min(0.0)) ** exponent - 1) / exponent + y.clamp_max(0.0)


def _unbent(u: Tensor, exponent: Tensor) -> Tensor:
    return (1 + exponent * u.clamp_min(0.0)) ** (1 / exponent) - 1 + u.clamp_max(0.0)
