"""Several targets of which not every row has all: what is learnt from which rows, and each target's posterior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sggp.fitting.model import FittedModel, ModelSettings, fit_model, no_limits
from sggp.fitting.scaling import target_location_and_scale
from sggp.posterior import Posterior
from sggp.typing import Seed

_ENOUGH = 0.5  # share of rows with all targets from which on those are learnt from


def fit_measured(x: Tensor, y: Tensor, settings: ModelSettings, generator: Seed) -> FittedModel:
    """`fit_model` of targets with missing cells.

    The hyperparameters, which all targets share, are learnt from the rows where all targets are present if these are at
    least half; else from the target with the most rows (the first of those), alone. Targets that nothing was learnt
    from are scaled by the mean and spread of their own rows.

    Args:
        x: (n, d). y: (n, t), NaN where a target was not measured; every row and every target has a number.
        settings, generator: as of `fit_model`; a noise variance per row is one for each of the n.
    """
    present = ~y.isnan()
    if bool(present.all()):
        return fit_model(x, y, settings, generator)
    rows, targets = _learnt_from(present)
    own = replace(settings, noise_variance=_of_rows(settings.noise_variance, rows), noise="constant")
    model = fit_model(x[rows], y[rows][:, targets], own, generator)
    scaling, t = model.scaling, y.shape[1]
    offset, scale = np.zeros(t), np.full(t, scaling.y_scale[0])
    mean = np.zeros(t)
    for j in range(t):
        known = _numbers(y[present[:, j], j : j + 1])
        if j in targets:
            i = targets.index(j)
            offset[j], scale[j] = scaling.y_offset[i], scaling.y_scale[i]
            mean[j] = float(torch.as_tensor(model.fit.mean, dtype=torch.float64).reshape(-1)[i])
        elif scaling.normalised:
            offset[j : j + 1], scale[j : j + 1] = target_location_and_scale(known)
        elif settings.optimizer is not None:
            offset[j] = known.mean()  # in whose units the learnt mean is then zero
    return replace(
        model,
        settings=settings,
        scaling=replace(scaling, y_offset=offset, y_scale=scale),
        fit=replace(model.fit, mean=torch.from_numpy(mean), posterior=None),
    )


def condition_measured(
    model: FittedModel,
    x: Tensor,
    y: Tensor,
    generator: Seed,
    limits: Callable[[int], Mapping[str, Any]] = no_limits,
) -> list[Posterior]:
    """`FittedModel.condition` of targets with missing cells: each on the rows where it was measured.

    Args:
        model: of `fit_measured`. x: (n, d), y: (n, t): the table given to it. limits: as of `FittedModel.condition`.
    """
    present = ~y.isnan()
    if bool(present.all()):
        return model.condition(x, y, generator, limits)
    out = []
    for j, rows in enumerate(present.unbind(dim=1)):
        one = replace(
            model,
            settings=replace(model.settings, noise_variance=_of_rows(model.settings.noise_variance, rows)),
            scaling=replace(
                model.scaling,
                y_offset=model.scaling.y_offset[j : j + 1],
                y_scale=model.scaling.y_scale[j : j + 1],
            ),
            fit=replace(model.fit, mean=torch.as_tensor(model.fit.mean, dtype=torch.float64).reshape(-1)[j]),
        )
        out += one.condition(x[rows], y[rows, j : j + 1], generator, partial(_of_column, limits, j))
    return out


def _of_column(limits: Callable[[int], Mapping[str, Any]], column: int, _: int) -> Mapping[str, Any]:
    return limits(column)


def _learnt_from(present: Tensor) -> tuple[Tensor, list[int]]:  # (n, t) -> (n,) bool, targets
    complete = present.all(dim=1)
    if float(complete.double().mean()) >= _ENOUGH:
        return complete, list(range(present.shape[1]))
    most = int(present.sum(dim=0).argmax())
    return present[:, most], [most]


def _of_rows(noise: Any, rows: Tensor) -> Any:
    """A noise variance per row, of some rows; anything else as it is."""
    if np.size(noise) == len(rows) > 1:
        return np.asarray(noise, dtype=float).reshape(-1)[rows.cpu().numpy()]
    return noise


def _numbers(values: Tensor) -> np.ndarray:
    return values.detach().cpu().double().numpy()
