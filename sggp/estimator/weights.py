"""Noise variances and weights that come with the rows of a fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from sggp.arrays import check_noise, real_numbers
from sggp.errors import InputError, ShapeError
from sggp.fitting import FittedModel, ModelSettings
from sggp.fitting.measured import fit_measured
from sggp.fitting.selection import observed
from sggp.fitting.start import starting_point
from sggp.hyperparameters.defaults import noise_floor
from sggp.kernels import as_covariance
from sggp.linalg import cholesky
from sggp.running import time_is_up

_ROUNDS = 5
_SETTLED = 0.01  # change of the logarithm of the noise variance from one round to the next
_ROWS = 1500  # that the noise variance of a given kernel is learnt from
_LEAST, _MOST = 1e-12, 1e300  # noise variances of rows, the former of k(x, x): those beyond say as much
_RANGE = 12.0  # how far the logarithm of the noise variance moves in a round


@dataclass(frozen=True)
class RowNoise:
    """What is known of the noise of n rows.

    Attributes:
        variance: a number, or one for each row, in squared units of y; None where it is to be learnt.
        weights: (n,) positive: the noise of row i is variance/weights[i]. None for ones.
        rows: (n,) bool, those that are used: the others have weight zero. None for all.
    """

    variance: Any = None
    weights: np.ndarray | None = None
    rows: np.ndarray | None = None

    @property
    def of_rows(self) -> Any:
        """The noise variances of the rows that are used, None where they are to be learnt."""
        if self.variance is None or self.weights is None:
            return self.variance
        return np.asarray(self.variance, dtype=float) / self.weights


def row_noise(n: int, variance: Any, sample_weight: Any) -> RowNoise:
    """The noise of the rows of a table, checked.

    Args:
        n: rows. variance: a number, (n,) or None. sample_weight: (n,) or a number, not negative; None for ones. Rows of
            weight zero are left out.

    Raises:
        ShapeError, InputError: they do not go with the rows, are negative or not finite; no row has a weight.
    """
    if variance is not None:
        check_noise(variance, n)
    if sample_weight is None:
        return RowNoise(variance)
    weights = real_numbers(sample_weight, "sample_weight", f"one weight for each of the {n} rows").numpy()
    weights = np.full(n, float(weights)) if weights.ndim == 0 else weights
    if weights.shape != (n,):
        raise ShapeError(f"sample_weight must have one weight per row, ({n},), got shape {weights.shape}.")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise InputError("sample_weight must be finite and not negative.")
    rows = weights > 0
    if not rows.any():
        raise InputError("every sample_weight is zero: no row is left to fit to.")
    kept = np.asarray(variance, dtype=float) if variance is not None and np.ndim(variance) else variance
    kept = kept[rows] if isinstance(kept, np.ndarray) and len(kept) == n else kept
    return RowNoise(kept, weights[rows], None if rows.all() else rows)


def fit_weighted(
    x: Tensor, y: Tensor, settings: ModelSettings, noise: RowNoise, seed: int
) -> tuple[FittedModel, Any]:
    """`fit_measured` with the noise of the rows, and the noise variance of a row of weight one where it is one number.

    Where it is to be learnt with weights that differ, kernel and noise variance take turns: the kernel is learnt with
    the noise known for each row, then the noise variance that makes the targets most likely under that kernel, until
    it moves by less than a hundredth, at most five times.

    Args:
        x: (n, d), y: (n, t): the rows that are used. settings: of which `noise_variance` is replaced.

    Raises:
        InputError: several targets with weights that differ and a noise to be learnt.

    Cost: one fit; where the noise is learnt with weights up to six, and some 150 factors of up to 1,500 rows.
    """
    weights = noise.weights
    if noise.variance is not None or weights is None:
        model = fit_measured(x, y, replace(settings, noise_variance=noise.of_rows), seed)
        return model, noise.variance
    if bool((weights == weights[0]).all()):
        model = fit_measured(x, y, replace(settings, noise_variance=None), seed)
        return model, None if weights[0] == 1 else weights[0] * _variance(model)
    if y.shape[1] > 1:
        raise InputError(
            f"sample_weight with a noise that is to be learnt knows one target, got {y.shape[1]}: give noise_variance, "
            "or fit each target (sklearn.multioutput.MultiOutputRegressor)."
        )
    plain = replace(settings, noise="constant", noise_variance=None)
    model = fit_measured(x, y, plain, seed)
    found, relative = _variance(model), torch.from_numpy(1.0 / weights)
    learns = model.fit.method not in ("fixed", "constant target")
    start = starting_point(settings.kernel, x, settings.blocks)
    if start.white_noise_fixed or not learns:
        return fit_measured(x, y, replace(plain, noise_variance=found / weights), seed), found
    for _ in range(_ROUNDS):
        before, found = found, _likeliest(model, x, y, relative, found, start.noise_prior, seed)
        model = fit_measured(x, y, replace(plain, noise_variance=found / weights), seed)
        if abs(np.log(found / before)) < _SETTLED or time_is_up():
            break
    return model, found


def _variance(model: FittedModel) -> float:
    return float(model.fit.noise_variance) * _unit(model)


def _unit(model: FittedModel) -> float:
    """Squared units of y in one of the model's."""
    return float(model.scaling.y_scale[0]) ** 2


def _likeliest(
    model: FittedModel, x: Tensor, y: Tensor, relative: Tensor, start: float, prior: Any, seed: int
) -> float:
    """The a for which the targets are most likely with noise variances a · `relative`, the kernel as learnt.

    Of K + aD, D = diag(relative), as that of I + N⁻½KN⁻½ with N = aD: it has a factor however much weights differ.
    """
    n = len(x)
    table = observed(model.fit, model.scaling.inputs(x), model.scaling.targets(y))
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:_ROWS]
    gram = as_covariance(table.kernel, dtype=torch.float64).block(table.x[rows]).double()
    least = _LEAST * float(gram.diagonal().mean())

    def loss(u: float) -> float:
        spread = (np.exp(u) * relative[rows]).clamp(least, _MOST)
        root = spread.rsqrt()
        matrix = root[:, None] * gram * root[None]
        matrix.diagonal().add_(1.0)
        factor = cholesky(matrix, "K + noise of the weighted rows")
        white = torch.linalg.solve_triangular(factor, (root * table.residual[rows, 0])[:, None], upper=False)
        logs = factor.diagonal().log().sum() + 0.5 * spread.log().sum()
        value = float(logs + 0.5 * white.square().sum()) * n / len(rows)
        return value - (0.0 if prior is None else float(prior.log_prob(torch.tensor(u).double().exp())))

    unit, relative_unit = _unit(model), float(relative.median())
    middle, floor = np.log(start / unit), np.log(noise_floor(table.x) / relative_unit)
    low = max(middle - _RANGE, floor)
    found = minimize_scalar(
        loss, bounds=(low, max(middle, low) + _RANGE), method="bounded", options={"xatol": 1e-4}
    )
    return float(np.exp(found.x) * unit)
