"""One function to be made large out of the paths of several outcomes, and of where measurements fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sggp.bayesopt.maximise import Paths
from sggp.bayesopt.outcomes.failures import Failures

_INFEASIBLE = 10.0  # what a violated constraint costs at once, and again per unit of violation
_AUGMENTED = 0.05
_UTOPIA = 1.05


@dataclass(frozen=True)
class Limits:
    """The limits of a constraint in the units of its model."""

    outcome: str
    low: float
    high: float

    def violation(self, value: Tensor) -> Tensor:
        return (self.low - value).clamp_min(0.0) + (value - self.high).clamp_min(0.0)

    def probability(self, mean: Tensor, variance: Tensor) -> Tensor:
        """That a normal value lies within them."""
        std = variance.clamp_min(1e-20).sqrt()
        inside = torch.ones_like(mean)
        if math.isfinite(self.high):  # an infinite one has no slope in the standard deviation
            inside = torch.special.ndtr((self.high - mean) / std)
        if math.isfinite(self.low):
            inside = inside - torch.special.ndtr((self.low - mean) / std)
        return inside


@dataclass(frozen=True)
class Utility:
    """u = s − (10 + 10 v)·[v > 0] − (1 − p)·span, of the outcomes' values in their models' units.

    v is the sum of the violations of the constraints, p the probability of success, and s the objective with its sign;
    of several objectives z_j, zero at the worst and one at the best value of the front, s is the augmented Chebyshev
    function min_j w_j (z_j − 1.05) + 0.05 Σ_j w_j (z_j − 1.05).

    The first step makes every feasible point better than every infeasible one, as far as a path can tell, and among
    infeasible ones the least violation best. A place that is sure to fail loses what lies between the best and the
    worst value measured: it counts as the worst.

    Attributes:
        outcomes: names of the objectives. signs: (m,) 1 where larger is better, else -1.
        low, width: (m,) of signed values, what z is made with. weights: (s, m) a row for each path, or None for one
            objective.
        limits: the constraints. failures: where measurements fail, or None. span: what a failure costs.

    Source: Knowles 2006 (ParEGO: the augmented Chebyshev function with random weights); Eriksson & Poloczek 2021 (SCBO:
    feasible before infeasible, by paths).
    """

    outcomes: tuple[str, ...]
    signs: Tensor
    low: Tensor
    width: Tensor
    weights: Tensor | None
    limits: tuple[Limits, ...]
    failures: Failures | None
    span: float

    def vectors(self, values: Mapping[str, Tensor]) -> Tensor:  # (s, ...) each -> (s, ..., m)
        """The objectives z."""
        stacked = torch.stack([values[name] for name in self.outcomes], -1)
        return (self.signs * stacked - self.low) / self.width

    def scalar(self, z: Tensor) -> Tensor:  # (s, ..., m) -> (s, ...)
        """s, before constraints and failures."""
        if self.weights is None:
            return z[..., 0]
        weights = self.weights.reshape(len(z), *[1] * (z.ndim - 2), -1)
        short = weights * (z - _UTOPIA)
        return short.amin(-1) + _AUGMENTED * short.sum(-1)

    def penalty(self, values: Mapping[str, Tensor]) -> Tensor | float:  # (s, ...) each -> (s, ...)
        """What the violated constraints cost."""
        if not self.limits:
            return 0.0
        violation = torch.stack([limit.violation(values[limit.outcome]) for limit in self.limits]).sum(0)
        return torch.where(violation > 0, _INFEASIBLE * (1.0 + violation), 0.0)

    def success(self, h: Tensor | None) -> Tensor | float:
        """p, of the paths of failure."""
        return 1.0 if self.failures is None or h is None else self.failures.of_paths(h)


@dataclass(frozen=True)
class UtilityPaths:
    """Paths of the utility: each made of the paths of the same number of every outcome.

    Attributes:
        parts: paths by outcome. failing: paths of h where failures are modelled. utility: what is made of them.
    """

    parts: Mapping[str, Any]
    failing: Any
    utility: Utility

    @property
    def num_samples(self) -> int:
        """Number of paths s."""
        return next(iter(self.parts.values())).num_samples

    def __call__(self, points: Tensor) -> Tensor:
        """Every path at shared points: (q, d) -> (s, q)."""
        return self._utility(lambda part: part(points))

    def paired(self, points: Tensor) -> Tensor:
        """Path i at its own points: (s, q, d) -> (s, q)."""
        return self._utility(lambda part: part.paired(points))

    def vectors(self, points: Tensor, paired: bool = False) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """The objectives z (s, q, m), what violated constraints cost (s, q), and the probability of success (s, q)."""
        values, h = self._values(lambda part: part.paired(points) if paired else part(points))
        return self.utility.vectors(values), self.utility.penalty(values), self.utility.success(h)

    def select(self, indices: Any) -> UtilityPaths:
        """The paths at these positions."""
        index = torch.as_tensor(indices, dtype=torch.long).reshape(-1)
        weights = self.utility.weights
        return UtilityPaths(
            {name: part.select(index) for name, part in self.parts.items()},
            None if self.failing is None else self.failing.select(index),
            replace(self.utility, weights=None if weights is None else weights[index]),
        )

    def _values(self, at: Callable[[Any], Tensor]) -> tuple[dict[str, Tensor], Tensor | None]:
        values = {name: at(part).double() for name, part in self.parts.items()}
        return values, None if self.failing is None else at(self.failing).double()

    def _utility(self, at: Callable[[Any], Tensor]) -> Tensor:
        values, h = self._values(at)
        utility = self.utility
        scalar = utility.scalar(utility.vectors(values)) - utility.penalty(values)
        return scalar if h is None else scalar - (1.0 - utility.success(h)) * utility.span


class Composite:
    """What a rule sees of several outcomes: paths of their utility, its moments, and where good values are.

    Larger is better, whatever the objectives' directions.

    Attributes:
        samples: the `UtilityPaths`.
        x, y: (n, d) the measured inputs and (n,) how good they are: the utility's mean, for several objectives how
            little each is short of the best for the weights that suit it most.
        kernel: the first objective's.
        front, reference: (k, m), (m,) in the units of `UtilityPaths.vectors`: the objectives' means at the measured
            points that meet the constraints, and what hypervolumes are measured from.
    """

    def __init__(
        self,
        posteriors: Mapping[str, Any],
        utility: Utility,
        x: Tensor,
        front: tuple[Tensor, Tensor],
        moments: Callable[[], UtilityPaths],
    ) -> None:
        self._posteriors, self._utility, self._moments = dict(posteriors), utility, moments
        failing = None if utility.failures is None else utility.failures.posterior.samples
        self.samples: UtilityPaths = UtilityPaths(
            {name: posterior.samples for name, posterior in self._posteriors.items()}, failing, utility
        )
        self.kernel = self._posteriors[utility.outcomes[0]].kernel
        self.front, self.reference = front
        self.x = x
        with torch.no_grad():
            self.y = self._goodness()

    def feasible(self, points: Tensor) -> Tensor:  # (..., q, d) -> (..., q)
        """The probability that a measurement succeeds and meets every constraint, taken as independent."""
        chance = torch.ones(points.shape[:-1], dtype=torch.float64)
        for limit in self._utility.limits:
            mean, variance = self._posteriors[limit.outcome].mean_and_variance(points)
            chance = chance * limit.probability(mean.double(), variance.double())
        return (
            chance if self._utility.failures is None else chance * self._utility.failures.probability(points)
        )

    def mean_and_variance(self, points: Tensor) -> tuple[Tensor, Tensor]:  # (..., q, d) -> (..., q) twice
        """Of the utility: those of 64 paths, each with weights of its own."""
        paths = self.samples if self.samples.num_samples >= MOMENT_PATHS else self._moments()
        values = paths(points)
        return values.mean(0), values.var(0)

    def _goodness(self) -> Tensor:
        values = self.samples(self.x)
        return (values - values.amax(1, keepdim=True)).amax(0)


class Constrained(Composite):
    """A `Composite` of one objective, whose moments are those of its model: no paths are needed for them.

    The mean is the model's, with the sign that makes larger better, less (1 − P(feasible))·span; variances and
    covariances are the model's.
    """

    @property
    def noise_variance(self) -> Tensor:
        """Of the measurements."""
        return self._posteriors[self._utility.outcomes[0]].noise_variance

    def mean_and_variance(self, points: Tensor) -> tuple[Tensor, Tensor]:  # (..., q, d) -> (..., q) twice
        """Of the utility."""
        mean, variance = self._posteriors[self._utility.outcomes[0]].mean_and_variance(points)
        return self._utility.signs[0] * mean.double() - self.loss(points), variance.double()

    def covariance_matrix(self, points: Tensor) -> Tensor:  # (..., q, d) -> (..., q, q)
        """Of the objective."""
        return self._posteriors[self._utility.outcomes[0]].covariance_matrix(points)

    @property
    def samples_about_mean(self) -> AboutMean:
        """Paths of the objective, less what `mean_and_variance` takes off for what is not feasible."""
        return AboutMean(self, self.samples)

    def loss(self, points: Tensor) -> Tensor:  # (..., q, d) -> (..., q)
        """(1 − P(feasible))·span."""
        return (1.0 - self.feasible(points)) * self._utility.span

    def objective(self, part: Callable[[Any], Tensor], paths: UtilityPaths) -> Tensor:
        """Values of the objective's paths, larger being better."""
        return self._utility.signs[0] * part(paths.parts[self._utility.outcomes[0]]).double()

    def _goodness(self) -> Tensor:
        return self.mean_and_variance(self.x)[0]


@dataclass(frozen=True)
class AboutMean:
    """Paths whose mean and variance are those of a `Constrained`."""

    posterior: Constrained
    paths: UtilityPaths

    @property
    def num_samples(self) -> int:
        return self.paths.num_samples

    def __call__(self, points: Tensor) -> Tensor:  # (q, d) -> (s, q)
        value = self.posterior.objective(lambda part: part(points), self.paths)
        return value - self.posterior.loss(points)

    def paired(self, points: Tensor) -> Tensor:  # (s, q, d) -> (s, q)
        value = self.posterior.objective(lambda part: part.paired(points), self.paths)
        return value - self.posterior.loss(points)

    def select(self, indices: Any) -> AboutMean:
        return AboutMean(self.posterior, self.paths.select(indices))


MOMENT_PATHS = 64


def chebyshev_weights(count: int, objectives: int, generator: torch.Generator) -> Tensor:  # -> (count, m)
    """Weights drawn uniformly from those that are positive and add to one."""
    exponential = (
        -torch.rand(count, objectives, generator=generator, dtype=torch.float64).clamp_min(1e-12).log()
    )
    return exponential / exponential.sum(1, keepdim=True)


__all__ = [
    "MOMENT_PATHS",
    "Composite",
    "Constrained",
    "Limits",
    "Paths",
    "Utility",
    "UtilityPaths",
    "chebyshev_weights",
]
