"""Predictive densities of an estimator: quantiles, intervals, and left-out predictions of its own rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sggp.analysis.calibration import conformal_factor
from sggp.checks import as_numbers, flag, whole_number
from sggp.defaults import DIRECT_ROWS
from sggp.errors import InputError, MemoryBudgetError, ShapeError
from sggp.estimator.progress import watching
from sggp.estimator.tables import in_blocks
from sggp.evidence.leave_one_out import NEIGHBOURS, Observed
from sggp.evidence.spread import NoiseModel, leave_out_with
from sggp.hyperparameters.coordinates import copy_kernel
from sggp.parallel import current
from sggp.posterior import Posterior
from sggp.predictive import PredictiveDistribution, checked_coverage, generalized_t
from sggp.random import numpy_state

JUDGED = 10_000  # rows to judge calibration by: coverages are then known to half a per cent
_CHECKED = 300  # left-out rows that are predicted from twice as many neighbours, to see how much that changes
COVARIANCE_BYTES = 2**30
_LEAST_SPREAD = 1e-145  # of y, for covariances: their small entries are to be held as well


@dataclass(frozen=True)
class LeaveOneOutPredictions:
    """Predictions of training rows, each by the model without that row.

    Attributes:
        rows: (m,) positions in the training table. y: (m,) their targets.
        distribution: of a measurement at each row, in units of y.
        error: how far the centres are from those given all other rows, root mean square in units of their scales: 0
            where the predictions are exact, else what twice as many neighbours change, measured on 300 rows.
    """

    rows: np.ndarray
    y: np.ndarray
    distribution: PredictiveDistribution = field(repr=False)
    error: float = 0.0

    def drawn(self, most: int) -> LeaveOneOutPredictions:
        """At most so many of these rows: of all rows of a table those that `loo_predict(most)` draws by its seed 0."""
        if most >= len(self.rows):
            return self
        order = torch.randperm(len(self.rows), generator=generator_of(0))[:most].sort().values.numpy()
        return LeaveOneOutPredictions(self.rows[order], self.y[order], self.distribution[order], self.error)

    @property
    def mean(self) -> np.ndarray:  # (m,)
        """Centres, in units of y."""
        return self.distribution.mean()

    @property
    def std(self) -> np.ndarray:  # (m,)
        """Standard deviations of a measurement."""
        return self.distribution.std()

    @property
    def log_density(self) -> np.ndarray:  # (m,)
        """Log density of each measured value under its prediction."""
        return self.distribution.logpdf(self.y)


def generator_of(random_state: Any) -> torch.Generator:
    """A generator for a seed, a NumPy RandomState or None."""
    number = int(numpy_state(random_state).randint(2**31 - 1))
    return torch.Generator().manual_seed(current().agreed(number))


class PredictiveDensities:
    """What `GPRegressor` says about new measurements beyond mean and standard deviation."""

    noise_model_: NoiseModel
    scaling_: Any
    y_train_: np.ndarray
    # of the estimator
    _checked: Any
    _inputs: Any
    X_train_: np.ndarray
    verbose: Any
    _posteriors: Any
    _measurement_noise: Any
    _squeeze: Any
    posterior_: Any

    def predict_dist(
        self, X: Any, noise_variance: Any = None, diagonal: Any = None
    ) -> PredictiveDistribution:
        """The predictive distribution of a measurement at each row, noise included.

        Args:
            X: (q, d). noise_variance: that of the new measurements, a number or (q,), in squared units of y; needed
                where the noise was given per training row, and adjusted as that was (`noise_adjustment_`). diagonal: as
                in `predict`, for kernel="precomputed".

        Returns:
            A `PredictiveDistribution` with `loc` (q,) or (q, t): normal, or Student-t where left-out rows asked for
            heavier tails, or generalised t where they asked for another shape; `logpdf`, `cdf`, `ppf`, `interval`,
            `crps` and `rvs` work on it.

        Raises:
            InputError: a noise per training row, and none for the new rows.
        """
        check_is_fitted(self, "posterior_")
        rows = self._checked(X, diagonal, "predict_dist")
        noise = self._new_noise(noise_variance, len(rows))  # (t,) or (q, t)

        def located(part: np.ndarray, cut: slice) -> tuple[np.ndarray, np.ndarray]:
            x, scale = self._inputs(part), self.scaling_.y_scale
            mean, latent = (torch.stack(part, dim=1) for part in zip(*self._moments(x), strict=True))
            factor = self._squared_scale(x, mean, latent).cpu().numpy()
            variance = (latent.cpu().numpy() + (noise if noise.ndim < 2 else noise[cut])) * factor
            spread = np.sqrt(variance + self._solve_error()) * scale
            return mean.cpu().numpy() * scale + self.scaling_.y_offset, spread

        loc, spread = in_blocks(located, rows)
        spread, tail = np.maximum(spread, np.finfo(float).tiny), self.noise_model_.tail
        return PredictiveDistribution(self._squeeze(loc), self._squeeze(spread), **tail.law)

    def predict_quantiles(self, X: Any, quantiles: Any = (0.05, 0.5, 0.95)) -> np.ndarray:
        """Quantiles of a measurement at each row.

        Args:
            X: (q, d). quantiles: (k,) probabilities between 0 and 1.

        Returns:
            (q, k), in the order given; (q, t, k) for several targets.
        """
        levels = np.atleast_1d(as_numbers(quantiles, "quantiles", "probabilities between 0 and 1").numpy())
        return np.moveaxis(self.predict_dist(X).ppf(levels), 0, -1)

    def predict_interval(
        self, X: Any, coverage: float = 0.95, *, conformal: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends of the central interval that holds a new measurement with this probability.

        Args:
            X: (q, d). coverage: between 0 and 1.
            conformal: False takes the ends from `predict_dist`; True loc ± q · scale of it, where q is what this share
                of at most 10,000 training rows lies within, each predicted without itself: right on average over rows
                like these whatever the shape of the noise (uniform, skewed), where hyperparameters from the same rows
                matter little. Lei et al. 2018 with leave-one-out for the second half of the rows.

        Returns:
            (q,) lower and (q,) upper ends, in units of y; (q, t) for several targets.

        Raises:
            InputError: conformal intervals of several targets, or from too few rows (19 for 95 %).

        Cost: that of `predict_dist`; conformal, once after a fit, that of `loo_predict(10_000)` as well.
        """
        check_is_fitted(self, "posterior_")
        if not flag(conformal, "conformal"):
            return self.predict_dist(X).interval(coverage)
        factor, distribution = self._conformal_factor(coverage), self.predict_dist(X)
        half = factor * distribution.scale
        return distribution.loc - half, distribution.loc + half

    def _conformal_factor(self, coverage: float) -> float:
        """Half the width of conformal intervals, in scales."""
        level = checked_coverage(coverage)
        if len(posteriors := self._posteriors()) > 1:
            raise InputError(
                f"conformal intervals know one target, and this model has {len(posteriors)}: fit each."
            )
        held = self.__dict__.get("_conformal_scores")
        if held is None or held[0] is not self.posterior_:
            left = self._left_out_rows(JUDGED)
            held = self._conformal_scores = (self.posterior_, np.abs(left.distribution.z(left.y)))
        factor = conformal_factor(held[1], level)
        if not np.isfinite(factor):
            least = math.ceil(level / (1 - level) - 1e-9)
            raise InputError(
                f"conformal intervals of {level:.4g} need {least} training rows or more, and the model has "
                f"{len(held[1])}: leave out conformal=True, or ask for a smaller coverage."
            )
        return factor

    def loo_predict(self, max_rows: int | None = None, random_state: Any = 0) -> LeaveOneOutPredictions:
        """Predict training rows, each by the fitted model without that row (its hyperparameters stay).

        Exact up to 3,000 rows; beyond, each row is predicted from its 128 nearest others, and `error` says how much
        that matters.

        Args:
            max_rows: at most so many rows, drawn at random; None for all. random_state: seed of the draw.

        Returns:
            LeaveOneOutPredictions, ordered by row.

        Raises:
            InputError: a model of several targets.

        Cost: n³ flops up to 3,000 rows, else some 10⁴ rows a second.
        """
        check_is_fitted(self, "posterior_")
        posteriors = self._posteriors()
        if len(posteriors) > 1:
            raise InputError(f"loo_predict knows one target, and this model has {len(posteriors)}: fit each.")
        n = len(self.y_train_)
        rows = torch.arange(n)
        if max_rows is not None and whole_number(max_rows, "max_rows") < n:
            rows = torch.randperm(n, generator=generator_of(random_state))[:max_rows].sort().values
        observed = self._observed(posteriors[0])
        distribution = self._left_out(observed, rows)
        error = 0.0
        if n > DIRECT_ROWS:
            few = torch.randperm(len(rows), generator=generator_of(random_state))[:_CHECKED]
            closer = self._left_out(observed, rows[few], 2 * NEIGHBOURS)
            here = distribution[few.numpy()]
            error = float(np.sqrt(np.mean(((closer.loc - here.loc) / here.scale) ** 2)))
        y = np.asarray(self.y_train_, dtype=float).reshape(n)
        found = LeaveOneOutPredictions(rows.numpy(), y[rows.numpy()], distribution, error)
        if len(rows) == n:
            self._left_out_all = (self.posterior_, found)
        return found

    def _left_out_rows(self, most: int) -> LeaveOneOutPredictions:
        """`loo_predict(most)`; from what `loo_predict()` of all rows gave after this fit, where it did."""
        held = self.__dict__.get("_left_out_all")
        if held is None or held[0] is not self.posterior_:
            return self.loo_predict(most)
        return held[1].drawn(most)

    def noise_std(self, X: Any) -> np.ndarray:
        """Standard deviation of the noise of a measurement at each row of X (q, d): (q,) or (q, t), in units of y.

        Its square and that of the latent deviation add up to that of a measurement, or to more where errors are smaller
        than the learnt noise: left-out rows do not tell one from the other, and each is given what may be its own.

        Raises:
            InputError: a noise per training row: that of other rows is not known.
        """
        check_is_fitted(self, "posterior_")
        x = self._inputs(self._checked(X))
        mean, latent = (torch.stack(part, dim=1) for part in zip(*self._moments(x), strict=True))
        factor = self._variance_factor(x, mean, latent)
        return self._squeeze(np.sqrt(self._measurement_noise() * factor) * self.scaling_.y_scale)

    @property
    def _solves_otherwise(self) -> bool:
        """Whether rows may count in the solve with a noise that is not that of a measurement before the noise model."""
        return self.noise_model_.row_noise is not None or self.noise_model_.surface is not None

    def _observed(self, posterior: Posterior) -> Observed:
        """The table as the posterior has it, with the noise of a measurement and not that of the solve."""
        data = posterior.data
        noise = data.noise_variance.double().cpu()
        if self._solves_otherwise:
            noise = noise.new_tensor(float(self._base_noise())).expand(len(data.x))
        residual = data.y.double().cpu()[:, None] - posterior.prior_mean
        kernel = copy_kernel(posterior.kernel, torch.device("cpu"))
        return Observed(kernel, data.x.cpu(), residual, noise)

    def _left_out(
        self, observed: Observed, rows: Tensor, neighbours: int = NEIGHBOURS
    ) -> PredictiveDistribution:
        posterior, model = self._posteriors()[0], self.noise_model_
        if self._solves_otherwise:  # further rows included
            model = replace(model, row_noise=posterior.data.noise_variance.double().cpu())
        left, log_scale = leave_out_with(model, observed, rows, neighbours)
        mean = left.mean[:, 0] + posterior.prior_mean
        offset, unit = float(self.scaling_.y_offset[0]), float(self.scaling_.y_scale[0])
        scale = (left.variance * log_scale.exp()).sqrt().cpu().numpy() * unit
        scale = np.maximum(scale, np.finfo(float).tiny)
        tail = self.noise_model_.tail
        return PredictiveDistribution(mean.cpu().numpy() * unit + offset, scale, **tail.law)

    def _moments(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:  # (q, d) -> (q,), (q,) per target
        """Mean and latent variance of each posterior, float64."""
        out = []
        with watching(self.verbose):
            for p in self._posteriors():
                exact = len(p.x) <= DIRECT_ROWS or p.num_samples == 0
                mean, variance = p.mean_and_variance(x, method="solve" if exact else "samples")
                out.append((mean.detach().double(), variance.detach().double()))
        return out

    def _check_covariance_range(self) -> None:
        extreme = [s for s in self.scaling_.y_scale if not _LEAST_SPREAD < s < 1 / _LEAST_SPREAD]
        if extreme:
            raise InputError(
                f"return_cov: the spread of y is {extreme[0]:.3g}, and float64 does not hold its square to rounding: "
                "ask for return_std, or multiply y by a constant."
            )

    def _check_covariance_size(self, q: int) -> None:
        needed = 8 * q * (q + len(self.X_train_)) * len(self._posteriors())
        if needed > COVARIANCE_BYTES:
            raise MemoryBudgetError(
                f"the covariance of {q} rows given {len(self.X_train_)} needs {needed / 2**30:.1f} GiB, more than "
                "1 GiB: ask for fewer rows, for return_std, or for sample_y, whose functions carry the covariance."
            )

    def _solve_error(self) -> np.ndarray:  # (t,)
        """Mean square of what the solves left open, in squared units of the posterior; it counts beside tiny noise."""
        out = []
        for p in self._posteriors():
            size = float((p.data.y.double() - p.prior_mean).square().mean())
            out.append(float(p.solution.residual[0]) ** 2 * size)
        return np.array(out)

    def _base_noise(self) -> float:
        """The learnt noise variance that all rows share, in units of the posterior."""
        if self.noise_model_.row_noise is None:
            return float(self._posteriors()[0].data.noise_variance[0])  # further rows may have told their own
        return self.noise_model_.noise_variance

    def _squared_scale(
        self, x: Tensor, mean: Tensor, latent: Tensor
    ) -> Tensor:  # (q, d), (q, t) twice -> (q, t)
        """What the noise model multiplies the variance of a measurement by, to get the squared scale."""
        model = self.noise_model_
        if model.surface is None:
            return torch.full_like(latent, np.exp(model.tail.log_scale))
        prior = self._posteriors()[0].prior_mean
        given = (x.cpu(), mean[:, 0].cpu() - prior, latent[:, 0].cpu() + self._base_noise())
        return model.log_scale(*given).exp()[:, None]

    def _variance_factor(self, x: Tensor, mean: Tensor, latent: Tensor) -> np.ndarray:  # -> (q, t)
        """What the noise model multiplies variances by."""
        tail = self.noise_model_.tail
        heavy = generalized_t(tail.df, tail.power).std() ** 2
        return heavy * self._squared_scale(x, mean, latent).cpu().numpy()

    def _latent_factor(self, factor: np.ndarray, latent: np.ndarray) -> np.ndarray:  # (q, t) twice -> (q, t)
        """What latent variances are multiplied by, where the noise model multiplies those of measurements by `factor`.

        Where errors are smaller than told the noise is taken to be less first: all errors of a function without noise
        are those of the mean. Where they are larger, both are, for the mean follows noise.
        """
        if not self.noise_model_.changes or (factor >= 1.0).all():
            return factor
        whole = factor * (latent + self._base_noise())
        least = np.minimum(latent, whole) / np.maximum(latent, np.finfo(float).tiny)
        return np.where(factor < 1.0, least, factor)

    def _new_noise(self, noise_variance: Any, rows: int) -> np.ndarray:  # -> (t,) or (q, t)
        if noise_variance is None:
            return self._measurement_noise()
        noise = np.asarray(noise_variance, dtype=float)
        if noise.shape not in ((), (rows,)) or not (np.isfinite(noise) & (noise >= 0)).all():
            raise ShapeError(
                f"noise_variance must be a number or one per row ({rows}), finite and not negative, got shape "
                f"{noise.shape}."
            )
        unit = self.scaling_.y_scale
        model = self.noise_model_
        return model.factor * (noise.reshape(-1, 1) / unit / unit) + model.added


__all__ = ["LeaveOneOutPredictions", "PredictiveDensities"]
