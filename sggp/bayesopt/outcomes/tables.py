"""The measurements of one outcome as numbers, and the model of them with noise that is known for some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sggp.bayesopt.surrogate import Surrogate, fit_surrogate
from sggp.bayesopt.trials import Measurement, Trial
from sggp.checks import one_of
from sggp.defaults import NUM_FEATURES
from sggp.random import as_generator, streams

_ALONE = 20  # rows of unknown noise from which on it is learnt from them alone
SIDES = {None: 0.0, "above": 1.0, "below": -1.0}
"""Where the truth lies beyond a measurement's number, by its `censored`."""


@dataclass(frozen=True)
class BeliefSettings:
    """How the models of outcomes are made.

    Args:
        num_samples: paths of each.
        kernel: starting kernel of every outcome's model, as in `fit_surrogate`.
        num_features: random features of the prior draws.
        outliers: "apart" sets values that cannot belong apart, with a warning; "keep" lets all count.
        reference: what a hypervolume is measured from, a value per objective in its unit; None chooses.
        blocks: coordinates that are the codes of one category each, see `Space.blocks`.
    """

    num_samples: int = 1
    kernel: Any = None
    num_features: int = NUM_FEATURES
    outliers: str = "apart"
    reference: tuple[float, ...] | None = None
    blocks: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        one_of(self.outliers, "outliers", ("apart", "keep"))

    @property
    def of_model(self) -> dict[str, Any]:
        """Those that `fit_surrogate` takes, but for the number of paths."""
        names = ("kernel", "num_features", "blocks")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Table:
    """The measurements of one outcome.

    Attributes:
        x: (n, d) inputs of the model. value: (n,) float64 in the outcome's units, a bound where censored.
        noise_std: (n,), NaN where it is not known. side: (n,) 1 where the truth is above the value, -1 below, else 0.
        ids: the trials' numbers. positions: where their rows stand among the trials given.
    """

    x: Tensor
    value: Tensor
    noise_std: Tensor
    side: Tensor
    ids: tuple[int, ...]
    positions: Tensor

    def __len__(self) -> int:
        return len(self.value)

    @property
    def censored(self) -> Tensor:
        """(n,) bool."""
        return self.side != 0

    def part(self, rows: Tensor) -> Table:  # (n,) bool
        """Some of the rows."""
        kept = tuple(id for id, row in zip(self.ids, rows.tolist(), strict=True) if row)
        x, value, noise, side = (field[rows] for field in (self.x, self.value, self.noise_std, self.side))
        return Table(x, value, noise, side, kept, self.positions[rows])


def measurement_of(trial: Trial, name: str, first: str) -> Measurement | None:
    """What a trial measured of an outcome; trials with one unnamed value have that of the first."""
    if trial.state != "measured":
        return None
    if not trial.values and name == first and trial.value is not None:
        return Measurement(trial.value)
    return trial.values.get(name)


def table_of(x: Tensor, trials: Sequence[Trial], name: str, first: str) -> Table:
    """The measurements of an outcome.

    Args:
        x: (n, d) a row per trial. trials: measured ones, and others, which have no value.
        name: of the outcome. first: that of the campaign's first outcome.
    """
    found = [(i, trial.id, measurement_of(trial, name, first)) for i, trial in enumerate(trials)]
    rows = [(i, id, m) for i, id, m in found if m is not None]
    columns = [
        (m.value, torch.nan if m.noise_std is None else m.noise_std, SIDES[m.censored]) for _, _, m in rows
    ]
    numbers = torch.tensor(columns, dtype=torch.float64).reshape(-1, 3)
    index = torch.tensor([i for i, _, _ in rows], dtype=torch.long)
    value, noise, side = numbers.unbind(1)
    return Table(x[index], value, noise, side, tuple(id for _, id, _ in rows), index)


def fit_table(table: Table, value: Tensor, settings: BeliefSettings, generator: torch.Generator) -> Surrogate:
    """`fit_surrogate` of these values of the table's rows, with the noise that is known.

    Where some rows' noise is known, that of the others is learnt first, from them alone if they are twenty or more.
    Where none is, this is `fit_surrogate` itself.
    """
    options = settings.of_model
    unknown = table.noise_std.isnan()
    if bool(unknown.all()):
        return fit_surrogate(table.x, value, num_samples=settings.num_samples, generator=generator, **options)
    noise, new_noise = table.noise_std, None
    if bool(unknown.any()):
        first, generator = streams(as_generator(generator), "noise", "fit")
        rows = unknown if int(unknown.sum()) >= _ALONE else torch.ones_like(unknown)
        alone = fit_surrogate(table.x[rows], value[rows], num_samples=0, generator=first, **options)
        noise, new_noise = torch.where(unknown, alone.noise_std, noise), alone.noise_std
    paired = (value, noise)
    fitted = fit_surrogate(table.x, paired, num_samples=settings.num_samples, generator=generator, **options)
    return fitted if new_noise is None else replace(fitted, new_noise=(new_noise / fitted.scale) ** 2)
