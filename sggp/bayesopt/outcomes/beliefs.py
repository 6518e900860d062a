"""From a campaign's trials to what its rules choose by: a model of every outcome, and of failure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sggp.bayesopt.outcomes.censored import fit_censored
from sggp.bayesopt.outcomes.define import Outcomes
from sggp.bayesopt.outcomes.failures import Failures, fit_failures
from sggp.bayesopt.outcomes.fronts import non_dominated, reference_point
from sggp.bayesopt.outcomes.outliers import Apart, set_apart, warn_apart
from sggp.bayesopt.outcomes.results import checked_reference
from sggp.bayesopt.outcomes.tables import BeliefSettings, Table, table_of
from sggp.bayesopt.outcomes.utility import (
    MOMENT_PATHS,
    Composite,
    Constrained,
    Limits,
    Utility,
    UtilityPaths,
    chebyshev_weights,
)
from sggp.bayesopt.surrogate import Surrogate
from sggp.bayesopt.trials import Trial
from sggp.errors import InputError, ShapeError
from sggp.random import as_generator, streams
from sggp.typing import Seed

_LEAST_SPAN = 2.0  # standard deviations that a failure costs at least


@dataclass(frozen=True)
class Beliefs:
    """What a campaign believes after its trials.

    Attributes:
        posterior: what a rule sees. One objective alone: that of its `Surrogate`; else a `Composite`.
        maximize: in which direction of it better is: the objective's, or True for a composite.
        models: a `Surrogate` for every outcome that was measured, by name.
        failures: the model of failure, None where nothing failed.
        apart: values that the models leave out.
    """

    posterior: Any
    maximize: bool
    models: Mapping[str, Surrogate]
    failures: Failures | None = None
    apart: tuple[Apart, ...] = ()

    @property
    def surrogate(self) -> Surrogate:
        """The first objective's model."""
        return next(iter(self.models.values()))

    @property
    def scaling(self) -> tuple[float, float]:
        """Offset and scale that turn values of `posterior` into the first objective's units; (0, 1) for several."""
        model = self.surrogate
        if isinstance(self.posterior, Constrained):
            return model.offset, float(self.posterior.samples.utility.signs[0]) * model.scale
        return (0.0, 1.0) if isinstance(self.posterior, Composite) else (model.offset, model.scale)

    def feasible(self, points: Tensor) -> Tensor:  # (q, d) -> (q,)
        """The probability that a measurement succeeds and meets every constraint."""
        if isinstance(self.posterior, Composite):
            return self.posterior.feasible(points)
        return torch.ones(len(points), dtype=torch.float64)


@dataclass
class _Parts:
    """What is collected on the way."""

    models: dict[str, Surrogate] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    apart: list[Apart] = field(default_factory=list)


def build_beliefs(
    x: Tensor,
    outcomes: Outcomes,
    trials: Sequence[Trial],
    settings: BeliefSettings | None = None,
    generator: Seed = None,
) -> Beliefs:
    """Fit every outcome and the failures.

    One objective without constraints, measured exactly and without failures, gives the posterior of
    `fit_surrogate(x, values, ..., generator=generator)` as it is. Censored values, known noise, values set apart:
    `sggp.bayesopt.outcomes.censored`, `.tables`, `.outliers`. A failed trial is learnt from as its policy says:
    "excluded" (or none) by the model of failure, "imputed" as the worst value measured so far of every objective,
    "retry" not at all. A constraint that nobody has measured yet counts as met.

    Args:
        x: (n, d) inputs of the model, a row for each trial.
        outcomes: what is wanted.
        trials: measured and failed ones; others are passed over.
        settings: of the models.
        generator: seed or generator.

    Raises:
        ShapeError: there is not one row per trial.
        InputError: an objective has no measurement yet.

    Warns:
        OutlyingValues: a value was set apart.
    """
    settings, draw = settings or BeliefSettings(), as_generator(generator)
    if len(x) != len(trials):
        raise ShapeError(f"x must have a row for each of the {len(trials)} trials; got {len(x)}.")
    failed = torch.tensor(
        [t.state == "failed" and t.policy in (None, "excluded") for t in trials], dtype=torch.bool
    )
    plain = len(outcomes.objectives) == 1 and not outcomes.constraints and not bool(failed.any())
    parts, wanted = _Parts(), {objective.name: objective.sign for objective in outcomes.objectives}
    for constraint in outcomes.constraints:
        sign = (constraint.at_least is not None) - float(constraint.at_most is not None)
        wanted.setdefault(constraint.name, sign)
    objectives = {objective.name for objective in outcomes.objectives}
    for name, sign in wanted.items():
        table = table_of(x, trials, name, outcomes.names[0])
        if len(table) == 0 and name not in objectives:
            continue
        if len(table) == 0:
            raise InputError(f"there is no measurement of {name!r} yet: tell or attach some first.")
        stream = draw if plain else streams(_copied(draw), f"outcome {name}")[0]
        if settings.outliers == "apart":
            table, found = set_apart(table, name, sign, settings, stream)
            parts.apart += found
        measured = len(table)
        if name in objectives:
            table = _with_imputed(table, x, trials, sign)
        model = fit_censored(table, settings, stream)
        if len(table) > measured:
            stands = torch.arange(len(table)) >= measured
            model = replace(model, told=table.value.masked_fill(stands, torch.nan), side=table.side)
        parts.tables[name], parts.models[name] = table, model
    warn_apart(parts.apart)
    if plain:
        (model,) = parts.models.values()
        return Beliefs(
            model.posterior, outcomes.objectives[0].maximize, parts.models, None, tuple(parts.apart)
        )
    failing, weights = streams(draw, "failures", "weights")
    ended = failed | torch.tensor([t.state == "measured" for t in trials], dtype=torch.bool)
    first = parts.models[outcomes.objectives[0].name]
    failures = fit_failures(x[ended], failed[ended], settings, first.kernel, failing)
    posterior = _composite(outcomes, parts, failures, settings, weights)
    return Beliefs(posterior, True, parts.models, failures, tuple(parts.apart))


def _copied(generator: torch.Generator) -> torch.Generator:
    """One that draws the same, so that every outcome's stream is named and none depends on the others."""
    return torch.Generator().set_state(generator.get_state())


def _with_imputed(table: Table, x: Tensor, trials: Sequence[Trial], sign: float) -> Table:
    """The table with the worst value measured so far for failures that are to be imputed."""
    rows = [i for i, t in enumerate(trials) if t.state == "failed" and t.policy == "imputed"]
    if not rows:
        return table
    index = torch.tensor(rows)
    worst = sign * (sign * table.value).min()
    unknown = torch.full((len(rows),), torch.nan, dtype=torch.float64)
    return Table(
        torch.cat([table.x, x[index]]),
        torch.cat([table.value, worst.expand(len(rows))]),
        torch.cat([table.noise_std, unknown]),
        torch.cat([table.side, torch.zeros(len(rows), dtype=torch.float64)]),
        (*table.ids, *(trials[i].id for i in rows)),
        torch.cat([table.positions, index]),
    )


def _composite(
    outcomes: Outcomes,
    parts: _Parts,
    failures: Failures | None,
    settings: BeliefSettings,
    generator: torch.Generator,
) -> Composite:
    names = tuple(objective.name for objective in outcomes.objectives)
    signs = torch.tensor([objective.sign for objective in outcomes.objectives], dtype=torch.float64)
    limits = tuple(
        Limits(c.name, _limit(c.at_least, -math.inf, model), _limit(c.at_most, math.inf, model))
        for c in outcomes.constraints
        if (model := parts.models.get(c.name)) is not None
    )
    x = _measured_in_all([parts.tables[name] for name in names])
    measured = signs * torch.stack([_mean(parts.models[name], x) for name in names], 1)
    draw, more = streams(generator, "weights", "moments")
    one = len(names) == 1
    several = None if one else chebyshev_weights(settings.num_samples, len(names), draw)
    met = _meets(limits, parts, x)
    allowed = measured[met] if bool(met.any()) else measured
    low, width = _range(allowed) if not one else (torch.zeros_like(signs), torch.ones_like(signs))
    target = signs[0] * parts.models[names[0]].posterior.y.double()
    span = max(_LEAST_SPAN, float(target.max() - target.min())) if one else 1.0
    utility = Utility(names, signs, low, width, several, limits, failures, span)
    front = ((allowed - low) / width)[non_dominated(allowed)]
    reference = reference_point(front)
    if settings.reference is not None:
        given = checked_reference(settings.reference, outcomes.objectives)
        units = [(parts.models[n].offset, parts.models[n].scale) for n in names]
        offset, scale = torch.tensor(units, dtype=torch.float64).unbind(1)
        reference = (signs * (given - offset) / scale - low) / width
    posteriors = {name: model.posterior for name, model in parts.models.items()}

    def moments() -> UtilityPaths:
        every = [
            *(f"outcome {name}" for name in posteriors),
            "failures",
            "weights",
        ]  # a stream each: paths of two outcomes have nothing in common
        own = dict(zip(every, streams(_copied(more), *every), strict=True))
        drawn = {name: p.more_samples(MOMENT_PATHS, own[f"outcome {name}"]) for name, p in posteriors.items()}
        failing = None if failures is None else failures.posterior.more_samples(MOMENT_PATHS, own["failures"])
        weights = chebyshev_weights(MOMENT_PATHS, len(names), own["weights"])
        return UtilityPaths(drawn, failing, replace(utility, weights=weights))

    return (Constrained if one else Composite)(posteriors, utility, x, (front, reference), moments)


def _limit(given: float | None, none: float, model: Surrogate) -> float:
    return none if given is None else (given - model.offset) / model.scale


def _mean(model: Surrogate, x: Tensor) -> Tensor:  # (n, d) -> (n,)
    return model.posterior.mean(x).detach().double()


def _measured_in_all(tables: list[Table]) -> Tensor:  # -> (n, d)
    """The inputs of trials that measured every objective; of the first where there is none."""
    common = set(tables[0].ids).intersection(*(table.ids for table in tables[1:])) or set(tables[0].ids)
    return tables[0].x[torch.tensor([id in common for id in tables[0].ids])]


def _meets(limits: Sequence[Limits], parts: _Parts, x: Tensor) -> Tensor:  # (n, d) -> (n,) bool
    """Where the models' means meet every constraint."""
    met = torch.ones(len(x), dtype=torch.bool)
    for limit in limits:
        met &= limit.violation(_mean(parts.models[limit.outcome], x)) == 0
    return met


def _range(values: Tensor) -> tuple[Tensor, Tensor]:  # (n, m) -> (m,), (m,)
    """The worst values of the front, and how far the best ones are above them: those of all where it has no range."""
    front = values[non_dominated(values)]
    low, width = front.amin(0), front.amax(0) - front.amin(0)
    whole = values.amax(0) - values.amin(0)
    flat = width <= 1e-9
    low = torch.where(flat, values.amin(0), low)
    return low, torch.where(flat, torch.where(whole > 1e-9, whole, torch.ones_like(whole)), width)
