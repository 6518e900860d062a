"""What a place must meet before it counts: limits on other outcomes, along the paths of their own models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sggp.bayesopt.outcomes.beliefs import Beliefs
from sggp.bayesopt.outcomes.define import Constraint
from sggp.bayesopt.outcomes.failures import Failures
from sggp.bayesopt.outcomes.utility import Limits, Utility, UtilityPaths
from sggp.bayesopt.outlook.sweep import RowNoise, Truths
from sggp.bayesopt.surrogate import Surrogate
from sggp.errors import InputError

_OBJECTIVE, _MEASUREMENT = "the objective", "the measurement"


@dataclass(frozen=True)
class Condition:
    """An outcome that must lie within limits.

    Attributes:
        model: of the outcome, with as many sample paths as the objective's and in the same coordinates.
        low, high: the limits, in the outcome's units; infinite for none.
        said: the limits in words; "" has them made of the numbers.
    """

    model: Surrogate
    low: float = -math.inf
    high: float = math.inf
    said: str = ""

    @classmethod
    def of(cls, model: Surrogate, constraint: Constraint) -> Condition:
        """A campaign's constraint on the outcome of this model."""
        low, high = constraint.at_least, constraint.at_most
        return cls(model, -math.inf if low is None else low, math.inf if high is None else high)

    @classmethod
    def of_success(cls, failures: Failures) -> Condition:
        """That a measurement does not fail: g + N(0, 1) ≥ 0, which has the probability Φ(g) on a path of g."""
        model = Surrogate(
            failures.posterior, failures.mean, failures.scale, learned=True, new_noise=failures.scale**-2
        )
        return cls(model, low=0.0, said="succeeds")

    def limits(self, name: str) -> Limits:
        """The limits in the model's units, for `Utility`."""
        ends = ((end - self.model.offset) / self.model.scale for end in (self.low, self.high))
        return Limits(name, *ends)

    def __str__(self) -> str:
        """The limits in words."""
        if self.said:
            return self.said
        ends = [f"at least {self.low:g}"] if math.isfinite(self.low) else []
        return " and ".join(ends + ([f"at most {self.high:g}"] if math.isfinite(self.high) else []))


def conditions_of(beliefs: Beliefs, constraints: Sequence[Constraint]) -> dict[str, Condition]:
    """What a campaign's places must meet: its constraints, and that a measurement does not fail where some did."""
    out = {c.name: Condition.of(beliefs.models[c.name], c) for c in constraints}
    return out if beliefs.failures is None else out | {_MEASUREMENT: Condition.of_success(beliefs.failures)}


def checked_conditions(conditions: Mapping[str, Condition], paths: int) -> None:
    """Refuse those whose models have not as many paths as the objective's, by an InputError."""
    for name, condition in conditions.items():
        if (count := int(condition.model.posterior.num_samples)) != paths:
            raise InputError(
                f"the model of {name!r} carries {count} sample paths and that of the objective {paths}: fit both with "
                "the same num_samples."
            )


def rows_met(
    conditions: Mapping[str, Condition], paths: int, generators: tuple[torch.Generator, ...]
) -> Callable[[Tensor], Tensor]:
    """Of the next rows of a pool (q, d), on which paths (s, q) a measurement would meet all conditions.

    As for the objective, what a row has of its own is as large as the noise of the model.
    """
    own = [RowNoise(paths, generator) for generator in generators]

    def met(features: Tensor) -> Tensor:
        out = torch.ones(paths, len(features), dtype=torch.bool)
        for (name, condition), noise in zip(conditions.items(), own, strict=True):
            model = condition.model
            values = Truths.of_model(model, 1.0).paths(features)
            values = values + model.noise_std / model.scale * noise.next(len(features))
            out &= condition.limits(name).violation(values) == 0
        return out

    return met


def conditioned_paths(model: Surrogate, sign: float, conditions: Mapping[str, Condition]) -> UtilityPaths:
    """The objective's paths, larger being better, far below all others where a condition is violated."""
    zero = torch.zeros(1, dtype=torch.float64)
    utility = Utility(
        (_OBJECTIVE,),
        zero + sign,
        zero,
        zero + 1,
        None,
        tuple(condition.limits(name) for name, condition in conditions.items()),
        None,
        0.0,
    )
    parts = {name: condition.model.posterior.samples for name, condition in conditions.items()}
    return UtilityPaths({_OBJECTIVE: model.posterior.samples, **parts}, None, utility)
