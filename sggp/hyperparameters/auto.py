"""Which recipe learns the hyperparameters: a documented function of n and the kernel."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.errors import InputError
from sggp.hyperparameters.coordinates import copy_kernel
from sggp.hyperparameters.exact.fit import exact_log_marginal_likelihood, fit_exact
from sggp.hyperparameters.exact.subset import fit_subset
from sggp.hyperparameters.iterative.fit import fit_iterative
from sggp.hyperparameters.nearest_neighbour.fit import fit_nearest_neighbour
from sggp.hyperparameters.problem import (
    check_data,
    check_mean,
    check_noise,
    public_mean,
    public_noise,
    unidentified_columns,
)
from sggp.hyperparameters.result import FitResult
from sggp.hyperparameters.unidentified import settle_unidentified
from sggp.random import as_generator
from sggp.typing import Seed

Recipe = Literal["exact", "nearest-neighbour", "subset", "iterative"]
Optimizer = Literal["auto"] | Recipe | None
RECIPES: dict[str, Callable[..., FitResult]] = {
    "exact": fit_exact,
    "nearest-neighbour": fit_nearest_neighbour,
    "subset": fit_subset,
    "iterative": fit_iterative,
}
"""What `optimizer=` can name beside "auto" and None; all are called alike."""
EXACT_ROWS = 1500
_VALUE_ROWS = 2000  # above this, the exact value of given hyperparameters is not computed


def choose_optimizer(n: int) -> Recipe:
    """The recipe that "auto" stands for, as a function of the number of rows.

    | rows | recipe |
    |---|---|
    | n ≤ 1,500 | "exact": the marginal likelihood itself, by L-BFGS |
    | beyond | "nearest-neighbour": Vecchia's likelihood, by stochastic gradients |

    At 1,500 rows one exact evaluation costs about a tenth of a second of one core and a fit about a dozen of them on
    all rows, n³ each; the stochastic likelihood's cost per step hardly depends on n. The other recipes are for those
    who ask for them: see `learn_hyperparameters`.
    """
    return "exact" if n <= EXACT_ROWS else "nearest-neighbour"


def learn_hyperparameters(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    *,
    optimizer: Optimizer = "auto",
    noise_variance: float | Tensor | None = None,
    mean: float | Tensor | None = None,
    initial_noise_variance: float | None = None,
    noise_prior: Any = None,
    generator: Seed = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    **settings: Any,
) -> FitResult:
    """Learn a kernel's parameters, the noise variance and a constant mean from data.

    Args:
        kernel: any GPyTorch kernel; its present values are the start. It is copied, never changed.
        x: (n, d) rows; y: (n,) targets, or (n, t) sharing the hyperparameters.
        optimizer: "exact" (`fit_exact`), "nearest-neighbour" (`fit_nearest_neighbour`), "subset" (`fit_subset`),
            "iterative" (`fit_iterative`), "auto" (see `choose_optimizer`), or None: keep everything as given (mean 0
            unless given, noise_variance required).
        noise_variance, mean: known values; None learns them.
        initial_noise_variance, noise_prior: start and GPyTorch prior of a learnt noise variance.
        generator: needed for reproducible nearest-neighbour fits; exact fits are deterministic.
        callback: called with records of the trace.
        settings: further arguments of the chosen fit.

    Length scales of columns that the data say nothing (or nothing separate) about are settled after the fit, see
    `sggp.hyperparameters.unidentified`; the columns are in `FitResult.unidentified`.

    Returns:
        FitResult. A target without spread teaches nothing: the kernel is returned as it is, method
        "constant target".

    Raises:
        InputError: unknown optimizer, unusable data, or no noise variance with optimizer=None.

    Example:
        >>> import torch, gpytorch
        >>> from sggp.hyperparameters import learn_hyperparameters
        >>> x = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
        >>> kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5))
        >>> learn_hyperparameters(kernel, x, torch.cos(5 * x[:, 0])).method
        'exact'
    """
    if optimizer is not None and optimizer not in ("auto", *RECIPES):
        names = ", ".join(repr(name) for name in ("auto", *RECIPES))
        raise InputError(f"unknown optimizer {optimizer!r}; expected {names} or None.")
    x, y = check_data(x, y)
    if optimizer is None:
        return _as_given(kernel, x, y, noise_variance, 0.0 if mean is None else mean, "fixed")
    centre = check_mean(mean, y.shape[1])
    centre = y.mean(dim=0) if centre is None else centre
    if bool((y - centre).abs().max() <= 1e-14 * y.abs().max()):
        floor = 1e-6 if noise_variance is None else noise_variance
        return _as_given(kernel, x, y, floor, centre, "constant target")
    recipe = choose_optimizer(len(x)) if optimizer == "auto" else optimizer
    fit = RECIPES[recipe](
        kernel,
        x,
        y,
        noise_variance=noise_variance,
        mean=mean,
        initial_noise_variance=initial_noise_variance,
        noise_prior=noise_prior,
        generator=generator if generator is None else as_generator(generator),
        callback=callback,
        **settings,
    )
    if fit.unidentified and fit.posterior is None:
        settle_unidentified(kernel, fit.kernel, x, fit.unidentified)
    return fit


def _as_given(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    noise_variance: float | Tensor | None,
    mean: float | Tensor,
    method: str,
) -> FitResult:
    """A FitResult that changes nothing."""
    started = time.perf_counter()
    noise = check_noise(noise_variance, len(x))
    if noise is None:
        raise InputError(
            "optimizer=None keeps everything as given, so a noise_variance is needed: pass one (in squared "
            "units of y), or choose optimizer='auto'."
        )
    centre = check_mean(mean, y.shape[1])
    duplicate = copy_kernel(kernel, x.device).requires_grad_(False)
    value = float("nan")
    if len(x) <= _VALUE_ROWS and method == "fixed":
        value = exact_log_marginal_likelihood(duplicate, x, y, noise_variance=noise, mean=centre)
    return FitResult(
        kernel=duplicate,
        noise_variance=public_noise(noise),
        mean=public_mean(centre if centre is not None else torch.zeros(1, dtype=torch.float64)),
        trace=[],
        log_marginal_likelihood=value,
        method=method,
        seconds=time.perf_counter() - started,
        converged=True,
        message="nothing to learn",
        unidentified=unidentified_columns(duplicate, x),
    )
