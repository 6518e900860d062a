"""What a fitted regressor says about itself: calibration on left-out rows, and what drives its predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from sggp.analysis import (
    CalibrationReport,
    FeatureImportance,
    LeaveOneOut,
    SobolIndices,
    permutation_importance,
    prior_importance,
    sobol_indices,
)
from sggp.analysis.columns import named_columns
from sggp.analysis.importance import Slopes, covariance_slope, function_slope
from sggp.defaults import DIRECT_ROWS
from sggp.errors import InputError
from sggp.estimator.densities import JUDGED
from sggp.estimator.modes.precomputed import is_precomputed
from sggp.kernels import as_covariance

_ROWS = 400  # to shuffle: their importance is then known to some hundredths
_FEWEST_FUNCTIONS = 8  # that slopes can be taken from


class Insight:
    """The methods of `GPRegressor` that judge and explain a fit; they need left-out rows, and the posterior."""

    X_train_: Any
    kernel: Any
    posterior_: Any
    kernel_: Any
    scaling_: Any
    columns_: Any
    _left_out_rows: Any
    _inputs: Any

    def calibration_report(self) -> CalibrationReport:
        """Coverage, PIT, NLL and CRPS on at most 10,000 left-out rows, with split-conformal intervals beside.

        Raises:
            InputError: several targets.

        Cost: that of `loo_predict`.
        """
        self._check_single("calibration_report")
        found = self._left_out_rows(JUDGED)
        how = "each predicted from all others"
        if found.error > 0:
            how = f"each predicted from its nearest others, off by {found.error:.1%} of its scale for that"
        return CalibrationReport.of(found.y, found.distribution, note=how)

    def sobol_indices(self, n: int = 1024) -> SobolIndices:
        """First-order and total Sobol indices of the posterior mean, over columns that are taken as independent.

        Each column is distributed as in the training table; see `sggp.analysis.sobol_indices`.

        Args:
            n: points, a power of two: standard errors fall as 1/√n.

        Raises:
            InputError: several targets, or n is no power of two.

        Cost: (d + 2) · n predictions.
        """
        self._check_single("sobol_indices", of_columns=True)
        names, groups = self._columns()
        return sobol_indices(self._means, self.X_train_, n=n, names=names, groups=groups)

    @property
    def feature_importance_(self) -> FeatureImportance:
        """Importance of the input columns, by permutation of left-out rows and by the learnt kernel.

        Computed at the first use after a fit, on at most 400 rows; `sggp.analysis.permutation_importance` says how a
        row is predicted without itself at a place where it never was.

        Raises:
            InputError: several targets; or more than 3,000 rows without posterior functions (num_samples).

        Cost: 5 d shuffles of 400 rows, each of two covariances of 400 rows up to 3,000 training rows, and of the
            `num_samples` posterior functions there beyond.
        """
        self._check_single("feature_importance_", of_columns=True)
        posterior, held = self.posterior_, self.__dict__.get("_importance")
        if held is None or held[0] is not posterior:
            held = self._importance = (posterior, self._importance_of_columns())
        return held[1]

    @property
    def feature_importances_(self) -> np.ndarray:
        """Importance by permutation as (d,) shares that add up to 1: what `RFE` and `SelectFromModel` read.

        Zero where shuffling a column does no harm. See `feature_importance_` for errors, raised alike, and cost.
        """
        harm = np.maximum(self.feature_importance_.permutation, 0.0)
        total = harm.sum()
        return harm / total if total > 0 else harm

    def _importance_of_columns(self) -> FeatureImportance:
        found, (names, groups) = self._left_out_rows(_ROWS), self._columns()
        rows = self.X_train_[found.rows]
        growth, error = permutation_importance(
            self._means,
            rows,
            found.y,
            left_out=LeaveOneOut(found.distribution.loc, self._slope(rows)),
            groups=groups,
        )
        kernel = as_covariance(self.kernel_, dtype=torch.float64)

        def values(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return kernel.block(self._inputs(a), self._inputs(b)).detach().cpu().double().numpy()

        return FeatureImportance(names, growth, error, prior_importance(values, self.X_train_, groups=groups))

    def _slope(self, rows: np.ndarray) -> Slopes:
        """Of posterior functions at other rows on their values at these."""
        posterior = self.posterior_
        if len(posterior.x) <= DIRECT_ROWS:
            return covariance_slope(
                lambda q: posterior.covariance_matrix(self._inputs(q)).cpu().double().numpy(), rows
            )
        if posterior.num_samples < _FEWEST_FUNCTIONS:
            raise InputError(
                f"feature_importance_ of more than {DIRECT_ROWS} rows needs posterior functions: fit with num_samples "
                f"of {_FEWEST_FUNCTIONS} or more, and a kernel that has random features."
            )
        return function_slope(lambda q: posterior.samples(self._inputs(q)).detach().cpu().numpy().T, rows)

    def _means(self, q: np.ndarray) -> np.ndarray:  # (q, d') -> (q,)
        """Predictions of rows of numbers, as in `X_train_`, whatever table they came from."""
        means = self.posterior_.mean(self._inputs(q)).detach().cpu().double().numpy()
        return means * self.scaling_.y_scale[0] + self.scaling_.y_offset[0]

    def _columns(self) -> tuple[tuple[str, ...], list[list[int]] | None]:
        """Names of the table's columns, and which columns of `X_train_` each of them became; None for themselves."""
        encoder = self.columns_
        if encoder is None:
            return named_columns(getattr(self, "feature_names_in_", None), self.X_train_.shape[1]), None
        ends = np.cumsum([len(column.names) for column in encoder.columns])
        groups = [list(range(end - len(c.names), end)) for c, end in zip(encoder.columns, ends, strict=True)]
        return named_columns([column.name for column in encoder.columns], len(groups)), groups

    def _check_single(self, name: str, of_columns: bool = False) -> None:
        check_is_fitted(self, "posterior_")
        if of_columns and is_precomputed(self.kernel):
            raise InputError(f"{name} is of input columns, and kernel='precomputed' has none.")
        if isinstance(self.posterior_, list):
            raise InputError(
                f"{name} is of one target, but the model has {len(self.posterior_)}: fit one for each."
            )
