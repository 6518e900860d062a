"""What a fit starts from: any way of naming a kernel, turned into a GPyTorch kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gpytorch.kernels import Kernel
from sklearn.gaussian_process.kernels import Kernel as ScikitLearnBase

from sggp.errors import DtypeError
from sggp.fitting.scikit_kernels import from_scikit_learn
from sggp.hyperparameters.defaults import named_kernel, noise_prior


@dataclass(frozen=True)
class StartingPoint:
    """A kernel to start from.

    Attributes:
        kernel: a GPyTorch kernel; never changed by a fit.
        standardise: whether it expects standardised inputs (kernels chosen by name, except "tanimoto").
        white_noise: noise variance that came with the kernel (a scikit-learn WhiteKernel), in units of
            normalised targets.
        white_noise_fixed: whether that noise is to stay as it is.
        noise_prior: a GPyTorch prior for a learnt noise variance, or None.
        rougher: a kernel to try beside this one where there are rows enough (`fit_smoother_or_rougher`), or None.
    """

    kernel: Kernel
    standardise: bool = False
    white_noise: float | None = None
    white_noise_fixed: bool = False
    noise_prior: Any = None
    rougher: Kernel | None = None


def starting_point(kernel: Any, input_dim: int) -> StartingPoint:
    """The starting point for None, a kernel name, a GPyTorch kernel or a scikit-learn kernel.

    Raises:
        DtypeError: anything else. InputError: an unknown name. UnsupportedKernel: a kernel that cannot be
            used.
    """
    if kernel is None or isinstance(kernel, str):
        name = "matern32" if kernel is None else kernel
        return StartingPoint(
            named_kernel(name, input_dim),
            name != "tanimoto",
            noise_prior=noise_prior(name),
            rougher=named_kernel("matern12", input_dim) if kernel is None else None,
        )
    if isinstance(kernel, Kernel):
        return StartingPoint(kernel)
    if isinstance(kernel, ScikitLearnBase):
        converted = from_scikit_learn(kernel)
        return StartingPoint(
            converted.kernel, white_noise=converted.noise_variance, white_noise_fixed=converted.noise_fixed
        )
    raise DtypeError(
        f"kernel must be None, a name, a GPyTorch kernel or a scikit-learn kernel, got {type(kernel).__name__}."
    )


_HEAVY = 10.0  # spread over that of the middle from which on the rest counts as outliers
_NORMAL_MIDDLE = 3.29  # from the 5 % to the 95 % quantile of a standard normal variable


def location_and_scale(values: np.ndarray, otherwise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation of each column; those of its middle where outliers swamp them.

    Where the standard deviation is more than ten times what the 5 % and 95 % quantiles of a normal column would make
    it, a few rows decide it, and the others would all but coincide in its units: the column gets its median, and the
    scale that its quantiles imply.

    Args:
        values: (n, d). otherwise: (d,) the scale of columns that are constant to rounding.

    Returns:
        location (d,) and scale (d,), the latter positive.
    """
    location, spread = values.mean(axis=0), values.std(axis=0)
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95], axis=0)
    middle = (high - low) / _NORMAL_MIDDLE
    constant = spread <= 1e-14 * np.abs(values).max(axis=0)
    heavy = (middle > 1e-14 * np.abs(median)) & (spread > _HEAVY * middle) & ~constant
    scale = np.where(heavy, middle, spread)
    return np.where(heavy, median, location), np.where(constant, otherwise, scale)


def target_location_and_scale(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (n, t) -> (t,), (t,)
    """Mean and standard deviation of each target.

    One without spread gets a tiny scale: it is then predicted as its constant, with next to no variance.
    """
    location = y.mean(axis=0)
    unit = np.ones(y.shape[1]) if len(y) == 1 else 1e-6 * np.maximum(np.abs(location), 1.0)
    constant = y.std(axis=0) <= 1e-14 * np.abs(y).max(axis=0)
    return location, np.where(constant, unit, y.std(axis=0))
