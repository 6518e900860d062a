"""`kernel="precomputed"`: X is a matrix of covariances, as scikit-learn's `KernelRidge` and `SVR` have it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gpytorch.kernels import ScaleKernel

from sggp.defaults import DIRECT_ROWS
from sggp.errors import InputError, ShapeError
from sggp.fitting import ModelSettings
from sggp.kernels.precomputed import PrecomputedKernel

__all__ = ["PRECOMPUTED", "is_precomputed", "precomputed_settings", "query_points", "training_points"]

PRECOMPUTED = "precomputed"
_ROUNDING = {True: 1e-6, False: 1e-5}  # of the largest entry, in float64 and in other types


def is_precomputed(kernel: Any) -> bool:
    """Whether X is a matrix of covariances."""
    return isinstance(kernel, str) and kernel == PRECOMPUTED


def training_points(matrix: np.ndarray) -> np.ndarray:  # (n, n) -> (n, 2 + n)
    """The rows of a kernel matrix as points of a `PrecomputedKernel`.

    Raises:
        ShapeError, InputError: it is not square, of numbers, symmetric, positive semi-definite, or of too many rows.

    Cost: n³/3 flops.
    """
    n = len(matrix)
    if matrix.shape != (n, n):
        raise ShapeError(
            f"kernel='precomputed' takes a square matrix of covariances, (n, n), for X, got shape {matrix.shape}."
        )
    if n > DIRECT_ROWS:
        raise InputError(
            f"kernel='precomputed' takes up to {DIRECT_ROWS} rows, got {n}: pass a kernel object, whose matrix is not "
            "held."
        )
    share = _ROUNDING[matrix.dtype.itemsize >= 8 or matrix.dtype.kind != "f"]
    matrix = matrix.astype(float)
    largest = float(np.abs(matrix).max())
    if (apart := float(np.abs(matrix - matrix.T).max())) > share * largest:
        raise InputError(
            f"X is not symmetric: entries that should be equal differ by up to {apart:.3g}. A kernel matrix has "
            "k(x, z) = k(z, x); pass (X + X.T) / 2 where that is rounding."
        )
    matrix = (matrix + matrix.T) / 2
    ridge = torch.from_numpy(matrix + share * largest * np.eye(n))
    if largest == 0 or bool(torch.linalg.cholesky_ex(ridge).info):
        least = float(np.linalg.eigvalsh(matrix)[0])
        raise InputError(
            f"X is not positive semi-definite: its smallest eigenvalue is {least:.3g}, beside entries up to "
            f"{largest:.3g}. Distances and many similarities are no covariances; exp(−distance²) often is one."
        )
    return np.column_stack([np.arange(n), np.diag(matrix), matrix])


def query_points(matrix: np.ndarray, diagonal: Any, wanted: str | None) -> np.ndarray:  # (q, n) -> (q, 2 + n)
    """Covariances of new rows with the training rows as points of a `PrecomputedKernel`.

    Args:
        matrix: (q, n). diagonal: (q,) k(x, x) of the new rows, or None. wanted: what is asked for beside the mean.

    Raises:
        InputError: k(x, x) is needed and was not given, or is not positive; covariances among the rows are needed.
    """
    if wanted in ("return_cov", "sample_y"):
        raise InputError(
            f"{wanted} needs the covariances of the new rows among each other, K_qq, which kernel='precomputed' does "
            "not know: ask for return_std with diagonal=, or pass a kernel object."
        )
    if diagonal is None:
        if wanted is not None:
            raise InputError(
                f"{wanted} needs the prior variances of the new rows, k(x, x), which kernel='precomputed' does not "
                f"know: pass diagonal=, ({len(matrix)},) numbers."
            )
        diagonal = np.zeros(len(matrix))
    own = np.asarray(diagonal, dtype=float)
    if own.shape != (len(matrix),) or not (np.isfinite(own) & (own >= 0)).all():
        raise ShapeError(
            f"diagonal must be ({len(matrix)},) finite variances, not negative, got shape {own.shape}."
        )
    return np.column_stack([np.full(len(matrix), -1.0), own, matrix.astype(float)])


def precomputed_settings(settings: ModelSettings, points: np.ndarray) -> ModelSettings:
    """Of a scale times the matrix, with one normal noise: no input is left that noise or samples could depend on."""
    kernel = ScaleKernel(PrecomputedKernel()).double()
    kernel.outputscale = 1.0 / float(points[:, 1].mean())
    noise = "constant" if settings.noise == "auto" else settings.noise
    return replace(settings, kernel=kernel, num_samples=0, noise=noise)
