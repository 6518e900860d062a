"""What was measured, as it may be said: best trials, fronts, and bounds that are called bounds.

A censored value is no measured one. Where the truth is on the better side of its bound (">10" where larger is better),
the trial is at least as good as the bound, by which it is ranked; where it is on the worse side ("<0.1"), nothing is
guaranteed and it comes after all others. `stated` writes the sign with the number, everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sggp.bayesopt.outcomes.define import Constraint, Objective, Outcomes
from sggp.bayesopt.outcomes.fronts import hypervolume, non_dominated, reference_point
from sggp.bayesopt.outcomes.tables import measurement_of
from sggp.bayesopt.trials import SIGNS, Measurement, Trial
from sggp.checks import as_numbers
from sggp.errors import InputError, ShapeError

_TOLD = 12
"""More significant digits than anybody tells; computed numbers have 15 to 17."""


@dataclass(frozen=True)
class Front:
    """The trials that no other beats in every objective.

    Attributes:
        objectives: the columns.
        trials: by the first objective, best first.
        values: (k, m) of the trials in their own units; a bound where it is censored on the better side.
        reference: (m,) what the hypervolume is measured from, in the same units. hypervolume: of the front, in the
            product of the units; None for more than three objectives, or without trials.
        left_out: trials that cannot be compared: an objective is missing, is known only to be worse than its bound, or
            a constraint is not met for certain.
    """

    objectives: tuple[Objective, ...]
    trials: tuple[Trial, ...]
    values: Tensor
    reference: Tensor | None
    hypervolume: float | None
    left_out: tuple[Trial, ...]

    def rows(self) -> list[list[str]]:
        """One row of text per trial: its number, then each objective as `stated`."""
        first = self.objectives[0].name
        return [
            [str(trial.id)] + [stated(measurement_of(trial, o.name, first), o.unit) for o in self.objectives]
            for trial in self.trials
        ]


def told_digits(value: float) -> str:
    """A number with the digits that it was told with, six of them where a computation made more than anybody tells."""
    text = repr(value)
    digits = text.partition("e")[0].lstrip("-0.").replace(".", "")
    return text if len(digits) <= _TOLD else f"{value:.6g}"


def stated(measurement: Measurement | None, unit: str = "") -> str:
    """A measurement as text, for people: a bound with its sign, "-" where there is none, digits as `told_digits`.

    Example:
        >>> stated(Measurement(10.0, censored="above"), "nM")
        '>10.0 nM'
    """
    if measurement is None:
        return "-"
    return f"{SIGNS[measurement.censored]}{told_digits(measurement.value)} {unit}".rstrip()


def guaranteed(measurement: Measurement | None, objective: Objective) -> float:
    """The value that a trial has at least, larger being better; -inf where nothing is known."""
    if measurement is None:
        return -math.inf
    worse = "below" if objective.maximize else "above"
    return -math.inf if measurement.censored == worse else objective.sign * measurement.value


def feasible(trial: Trial, outcomes: Outcomes) -> bool:
    """Whether a measured trial meets every constraint for certain: a constraint that was not measured is not met."""
    return all(_met(measurement_of(trial, c.name, outcomes.names[0]), c) for c in outcomes.constraints)


def standing(trial: Trial, outcomes: Outcomes) -> bool | None:
    """Whether a measured trial meets every constraint (True) or violates one (False), for certain; None otherwise."""
    found = [(measurement_of(trial, c.name, outcomes.names[0]), c) for c in outcomes.constraints]
    if all(_met(*pair) for pair in found):
        return True
    return False if any(_violated(*pair) for pair in found) else None


def ranked(trials: Sequence[Trial], outcomes: Outcomes) -> list[Trial]:
    """The measured trials, best first by the first objective.

    Those that meet all constraints come first, then those of which it is not certain; each in order of what is
    guaranteed, a bound before an equal value, ties in order of id.
    """
    first, name = outcomes.objectives[0], outcomes.names[0]

    def key(trial: Trial) -> tuple[bool, float, bool, int]:
        found = measurement_of(trial, first.name, name)
        exact = found is None or found.censored is None
        return not feasible(trial, outcomes), -guaranteed(found, first), exact, trial.id

    return sorted((t for t in trials if measurement_of(t, first.name, name) is not None), key=key)


def pareto(trials: Sequence[Trial], outcomes: Outcomes, reference: Sequence[float] | None = None) -> Front:
    """The front of the measured trials, and its hypervolume.

    Args:
        trials: of a campaign; those that are not measured are passed over.
        outcomes: its objectives and constraints.
        reference: a value per objective, in its unit; None takes one that is a tenth of the front's range worse than
            the front's worst values, which depends on the front: state one to compare campaigns.

    Raises:
        InputError, ShapeError: the reference is not one finite number per objective.

    Cost: n² comparisons, and the boxes of `free_boxes`.
    """
    objectives, name = outcomes.objectives, outcomes.names[0]
    measured = [trial for trial in trials if trial.state == "measured"]
    table = torch.tensor(
        [[guaranteed(measurement_of(t, o.name, name), o) for o in objectives] for t in measured],
        dtype=torch.float64,
    ).reshape(len(measured), len(objectives))
    allowed = torch.tensor([feasible(trial, outcomes) for trial in measured], dtype=torch.bool)
    allowed &= table.isfinite().all(1)
    sign = torch.tensor([o.sign for o in objectives], dtype=torch.float64)
    kept, values = [t for t, ok in zip(measured, allowed.tolist(), strict=True) if ok], table[allowed]
    left_out = tuple(t for t, ok in zip(measured, allowed.tolist(), strict=True) if not ok)
    base = None if reference is None else sign * checked_reference(reference, objectives)
    front = non_dominated(values).nonzero().flatten().tolist()
    front.sort(key=lambda i: (-float(values[i, 0]), kept[i].id))
    volume = None
    if front and base is None:
        base = reference_point(values)
    if front and base is not None and len(objectives) <= 3:
        volume = hypervolume(values[front], base)
    return Front(
        objectives,
        tuple(kept[i] for i in front),
        sign * values[front],
        None if base is None else sign * base,
        volume,
        left_out,
    )


def checked_reference(reference: Sequence[float], objectives: Sequence[Objective]) -> Tensor:  # -> (m,)
    """A reference point given by a user, in the objectives' units."""
    names = ", ".join(repr(objective.name) for objective in objectives)
    expected = f"one finite number for each objective ({names})"
    point = as_numbers(reference, "reference", expected).flatten()
    if len(point) != len(objectives):
        raise ShapeError(f"reference must hold {expected}; got {len(point)}.")
    if not bool(point.isfinite().all()):
        raise InputError(f"reference must hold {expected}; got {point.tolist()}.")
    return point


def _violated(measurement: Measurement | None, constraint: Constraint) -> bool:
    """For certain: a bound violates only the limit beyond which it lies."""
    if measurement is None:
        return False
    low, high = constraint.at_least, constraint.at_most
    below = low is not None and measurement.value < low and measurement.censored != "above"
    return below or (high is not None and measurement.value > high and measurement.censored != "below")


def _met(measurement: Measurement | None, constraint: Constraint) -> bool:
    if measurement is None or not constraint.met(measurement.value):
        return False
    beyond = {None: None, "above": constraint.at_most, "below": constraint.at_least}
    return beyond[measurement.censored] is None
