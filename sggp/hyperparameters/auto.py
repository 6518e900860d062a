"""Which recipe learns the hyperparameters: a documented function of n and the kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.arrays import mean_and_std
from sggp.autograd import with_gradients
from sggp.errors import InputError
from sggp.hyperparameters.coordinates import copy_kernel
from sggp.hyperparameters.exact import fit as exact
from sggp.hyperparameters.exact import subset
from sggp.hyperparameters.iterative import fit as iterative
from sggp.hyperparameters.nearest_neighbour import fit as nearest_neighbour
from sggp.hyperparameters.problem import FitProblem, Options, split_common
from sggp.hyperparameters.result import FitResult
from sggp.hyperparameters.unidentified import settle_unidentified
from sggp.hyperparameters.units import TargetUnits, halved

Recipe = Literal["exact", "nearest-neighbour", "subset", "iterative"]
Optimizer = Literal["auto"] | Recipe | None
RECIPES: dict[str, tuple[Options[Any], Callable[[FitProblem, Any], FitResult]]] = {
    "exact": (exact.OPTIONS, exact.maximise_exact),
    "nearest-neighbour": (nearest_neighbour.OPTIONS, nearest_neighbour.maximise_nearest_neighbour),
    "subset": (subset.OPTIONS, subset.average_subsets),
    "iterative": (iterative.OPTIONS, iterative.maximise_iterative),
}
"""What `optimizer=` can name beside "auto" and None: the options of a recipe, and the recipe for a checked problem."""
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


@dataclass(frozen=True)
class _NoSettings:
    """Keeping everything as given needs none."""


_KEEP = Options("optimizer=None", _NoSettings)


@with_gradients()
def learn_hyperparameters(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    *,
    optimizer: Optimizer = "auto",
    scale_free: bool = True,
    **options: Any,
) -> FitResult:
    """Learn a kernel's parameters, the noise variance and a constant mean from data.

    Args:
        kernel: any GPyTorch kernel; its present values are the start. It is copied, never changed. Output scales that
            are learnt without bounds and priors start at so many variances of y, so that y times c gives the same model
            in the units of c; all others count in squared units of y.
        x: (n, d) rows; y: (n,) targets, or (n, t) sharing the hyperparameters.
        scale_free: False takes the output scales of every kernel in squared units of y.
        optimizer: "exact" (`fit_exact`), "nearest-neighbour" (`fit_nearest_neighbour`), "subset" (`fit_subset`),
            "iterative" (`fit_iterative`), "auto" (see `choose_optimizer`), or None: keep everything as given (mean 0
            unless given, noise_variance required).
        noise_variance: a known noise variance, a number or (n,), in squared units of y; None (default) learns one.
        mean: a known constant mean, a number or (t,), in units of y; None (default) learns it.
        initial_noise_variance: where the search for the noise starts; default a tenth of the variance of y.
        noise_floor: a learnt noise stays above it; default 1e-6 of the variance of y.
        noise_prior: a GPyTorch prior on a learnt noise variance; default none.
        generator: needed for reproducible nearest-neighbour fits; exact fits are deterministic.
        callback: called with records of the trace.
        options: the above, and settings of the chosen recipe; see there.

    Length scales of columns that the data say nothing (or nothing separate) about are settled after the fit, see
    `sggp.hyperparameters.unidentified`; the columns are in `FitResult.unidentified`.

    Returns:
        FitResult. From a target without spread nothing can be learnt: the kernel is returned as it is, method
        "constant target".

    Raises:
        InputError: unknown optimizer, an option that the recipe does not know, unusable data, or no noise variance
            with optimizer=None.

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
    given, settings = split_common(options)
    problem = FitProblem.checked(kernel, x, y, given)
    if optimizer is None:
        _KEEP.split(settings)
        return _as_given(problem, "fixed")
    known, recipe = RECIPES[choose_optimizer(len(problem.x)) if optimizer == "auto" else optimizer]
    _, chosen = known.split(settings)
    y, centre = problem.y, problem.mean
    if centre is None:
        centre = torch.from_numpy(np.array(mean_and_std(y.cpu().numpy())[0])).to(y)
    half = halved(y)
    if bool((half * y - half * centre).abs().max() <= 1e-14 * half * y.abs().max()):
        noise = y.new_tensor(1e-6) if problem.noise is None else problem.noise
        return _as_given(replace(problem, noise=noise, mean=centre), "constant target")
    units = TargetUnits.of(y, problem.mean, kernel) if scale_free else None
    fit = recipe(problem if units is None else problem.scaled(units), chosen)
    if units is not None:
        fit = units.outer(fit, y.numel())
    if fit.posterior is None:
        settle_unidentified(kernel, fit.kernel, problem.x, fit.unidentified_columns)
    return fit


def _as_given(problem: FitProblem, method: str) -> FitResult:
    """A FitResult that changes nothing; a mean that is not given is 0."""
    if problem.noise is None:
        raise InputError(
            "optimizer=None keeps everything as given, so a noise_variance is needed: pass one (in squared "
            "units of y), or choose optimizer='auto'."
        )
    mean = problem.y.new_zeros(problem.y.shape[1]) if problem.mean is None else problem.mean
    duplicate = copy_kernel(problem.kernel, problem.x.device).requires_grad_(False)
    value = float("nan")
    if len(problem.x) <= _VALUE_ROWS and method == "fixed":
        value = exact.log_density(duplicate, replace(problem, mean=mean))
    return problem.result(
        method,
        duplicate,
        problem.noise,
        mean,
        trace=[],
        log_marginal_likelihood=value,
        converged=True,
        message="nothing to learn",
    )
