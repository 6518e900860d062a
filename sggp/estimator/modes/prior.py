"""What an estimator predicts before any fit: the prior, as scikit-learn's `GaussianProcessRegressor` has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gpytorch.kernels import Kernel
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_array
from torch import Tensor

from sggp.checks import whole_number
from sggp.errors import InputError, MemoryBudgetError
from sggp.estimator.densities import COVARIANCE_BYTES, generator_of
from sggp.estimator.tables import as_array, dense_rows
from sggp.fitting.start import starting_point
from sggp.hyperparameters.coordinates import copy_kernel
from sggp.kernels import as_covariance, draw_features
from sggp.random import draw_seed, streams

__all__ = ["predict_prior", "sample_prior"]

_DENSE_ROWS = 1000  # up to which samples have the exact covariance, by its eigenvectors


def predict_prior(
    model: Any, X: Any, return_std: bool, return_cov: bool, include_noise: bool
) -> Any:  # (q,), or with (q,) or (q, q)
    """Mean 0, and the standard deviation or covariance of the kernel; see `GPRegressor.predict`.

    Raises:
        InputError: include_noise, and no number for the noise. MemoryBudgetError: a covariance above 1 GiB.
    """
    kernel, white, x = _prior(model, X)
    mean = np.zeros(len(x))
    if not (return_std or return_cov):
        return mean
    noise = _noise(model, white) if include_noise else 0.0
    covariance = as_covariance(kernel, dtype=torch.float64)
    if return_std:
        return mean, (covariance.diagonal(x).double() + noise).sqrt().cpu().numpy()
    if 8 * len(x) ** 2 > COVARIANCE_BYTES:
        raise MemoryBudgetError(
            f"the covariance of {len(x)} rows needs {8 * len(x) ** 2 / 2**30:.1f} GiB, more than 1 GiB: ask for fewer "
            "rows, for return_std, or for sample_y."
        )
    return mean, covariance.block(x, x).double().cpu().numpy() + noise * np.eye(len(x))


def sample_prior(model: Any, X: Any, n_samples: int, random_state: Any) -> np.ndarray:  # (q, s)
    """Values of prior functions at X, up to 1,000 rows by the exact covariance, beyond by random features.

    Raises:
        NoRandomFeatures: more rows, and a kernel that has none.

    Cost: q³ flops up to 1,000 rows; beyond, q · num_features features and their products.
    """
    kernel, _, x = _prior(model, X)
    features, normal = streams(generator_of(random_state), "features", "weights")
    count = whole_number(n_samples, "n_samples")
    if len(x) <= _DENSE_ROWS:
        values, vectors = torch.linalg.eigh(as_covariance(kernel, dtype=torch.float64).block(x, x).double())
        unit = torch.randn(len(x), count, generator=normal, dtype=torch.float64).to(x.device)
        return (vectors @ (values.clamp_min(0.0).sqrt()[:, None] * unit)).cpu().numpy()
    p = whole_number(model.num_features, "num_features")
    seed = torch.Generator().manual_seed(draw_seed(features))
    drawn = draw_features(kernel, p, input_dim=x.shape[1], generator=seed)
    weights = torch.randn(drawn.num_features, count, generator=normal, dtype=torch.float64).to(x.device)
    return drawn.apply(x, weights).double().cpu().numpy()


def _prior(model: Any, X: Any) -> tuple[Kernel, float | None, Tensor]:
    """The kernel as given, the noise that came with it, and X (q, d) as numbers.

    A kernel that is None or a name has unit scale and length scales.
    """
    given = model.kernel
    if isinstance(given, str) and given == "precomputed":
        raise NotFittedError("kernel='precomputed' has no prior before a fit: call fit(K, y) first.")
    rows = check_array(dense_rows(as_array(X), given), dtype="numeric", estimator=model)
    start = starting_point(given, rows)
    kernel = copy_kernel(start.kernel).double()
    if given is None or isinstance(given, str):
        for part in kernel.modules():
            if isinstance(part, Kernel) and part.has_lengthscale:
                part.lengthscale = 1.0
    return kernel.requires_grad_(False), start.white_noise, model._tensor(rows)


def _noise(model: Any, white: float | None) -> float:
    """The noise variance of a measurement."""
    given = white if model.noise_variance is None else model.noise_variance
    if given is None or np.ndim(given):
        raise InputError(
            "include_noise before a fit needs noise_variance as one number, or a WhiteKernel: nothing is learnt yet."
        )
    return float(given)
