"""The marginal likelihood of all the data, climbed by gradients from iterative solves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.defaults import DIRECT_ROWS, MEMORY_BUDGET, NUM_FEATURES, NUM_SAMPLES
from sggp.errors import InputError
from sggp.hyperparameters.coordinates import Coordinates, copy_kernel
from sggp.hyperparameters.exact.fit import exact_log_marginal_likelihood
from sggp.hyperparameters.iterative.ascent import Ascent, AscentSettings
from sggp.hyperparameters.iterative.gradient import Estimate, PathwiseGradient
from sggp.hyperparameters.iterative.lanczos import log_marginal_likelihood
from sggp.hyperparameters.iterative.probes import Probes
from sggp.hyperparameters.iterative.warm_start import WarmSolves
from sggp.hyperparameters.merged import MergedData
from sggp.hyperparameters.nearest_neighbour.fit import fit_nearest_neighbour
from sggp.hyperparameters.problem import (
    check_data,
    check_mean,
    check_noise,
    public_mean,
    public_noise,
    target_scale,
    unidentified_columns,
)
from sggp.hyperparameters.result import FitResult
from sggp.hyperparameters.unidentified import settle_unidentified
from sggp.posterior import Posterior
from sggp.posterior.data import Data
from sggp.posterior.solving import Process, SolveOptions, posterior_tolerances
from sggp.random import as_generator, streams
from sggp.solvers import Solver
from sggp.typing import Seed

__all__ = ["fit_iterative"]

Start = Literal["auto", "nearest-neighbour"] | None
_NEAR = (30, 0.03)
_FAR = (100, 0.1)
"""Steps and step size from the nearest-neighbour optimum, and from anywhere else."""


@dataclass(frozen=True)
class _Options:
    solver: Solver | None
    num_probes: int
    num_features: int
    solve_tolerance: float | tuple[float, float] | None
    max_epochs: float | None
    dtype: torch.dtype
    memory_budget: float
    evaluate: bool


@dataclass(frozen=True)
class _Given:
    """What the caller knows or supposes of noise and mean."""

    noise_variance: float | Tensor | None
    mean: float | Tensor | None
    initial_noise_variance: float | None
    noise_floor: float | None
    noise_prior: Any


def fit_iterative(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    *,
    noise_variance: float | Tensor | None = None,
    mean: float | Tensor | None = None,
    initial_noise_variance: float | None = None,
    noise_floor: float | None = None,
    noise_prior: Any = None,
    solver: Solver | None = None,
    num_probes: int = NUM_SAMPLES,
    num_features: int = NUM_FEATURES,
    start: Start = "auto",
    max_steps: int | None = None,
    learning_rate: float | None = None,
    tolerance: float = 1.0,
    solve_tolerance: float | tuple[float, float] | None = None,
    max_epochs: float | None = None,
    evaluate: bool = True,
    dtype: torch.dtype | None = None,
    memory_budget: float = MEMORY_BUDGET,
    generator: Seed = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
) -> FitResult:
    """Maximise the log marginal likelihood of all rows plus log priors; the solves of the last step are the posterior.

    ∂L = ½ vᵀ∂H v − (1/2s) Σ_j v_jᵀ∂H w_j with v = H⁻¹(y − m), v_j = H⁻¹z_j and z_j = f⁰_j(X) + ε_j: the v_j are the
    representer weights of posterior samples. With w_j = C⁻¹z_j for the covariance C = ΦΦᵀ + Σ that z_j has given its
    random features, E[v_j w_jᵀ] = H⁻¹: unbiased whatever the features. The draws behind z_j are made
    once and re-parametrised with the hyperparameters, so the estimate is a smooth function of them, every solve starts
    from the last solution, and what a budget (`max_epochs`) leaves open in one step is made up in the next. Adam in log
    coordinates; the constant mean is the generalised least-squares one.

    The optimum of the estimate differs from that of the likelihood by what the choice of probes does: about p/(2s) nats
    for p hyperparameters and s probes. Steps end when the mean squared z-score of the gradient is below `tolerance`.

    Args:
        kernel: any GPyTorch kernel. It is copied, never changed. Without random features it is fitted all the same, by
            the estimator tr(H⁻¹∂H) ≈ (1/s) Σ v_jᵀ∂H z_j with z_j ~ N(0, I), and the result carries no posterior.
        x: (n, d) rows; exact repeats are merged, their share of the likelihood being exact. y: (n,) targets or (n, t)
            sharing the hyperparameters (then without a posterior).
        noise_variance: a known noise variance, a number or (n,); None learns one.
        mean: a known constant mean; None learns it.
        initial_noise_variance: where the search starts; default a tenth of the variance of y.
        noise_floor: the learnt noise stays above it; default 1e-6 of the variance of y.
        noise_prior: a GPyTorch prior on the noise variance.
        solver: any solver; default `Cholesky` up to 3,000 distinct inputs, else `ConjugateGradients`, its
            preconditioner kept until a coordinate has moved by 0.2.
        num_probes: s, and samples of the posterior. num_features: of the prior draws.
        start: "nearest-neighbour" runs `fit_nearest_neighbour` first; None starts from the kernel's values; "auto" is
            the former above 3,000 distinct inputs.
        max_steps, learning_rate: of Adam; default 30 steps of 0.03 from the nearest-neighbour optimum, 100 of 0.1 else.
        tolerance: of the stopping rule; 1 moves on until only the probes' own error is left.
        solve_tolerance: relative residual, one number or (targets, probes). The default for probes is
            0.1·√(noise/diag H), within 1e-6 and 1e-2, and a tenth of that for targets.
        max_epochs: budget of each solve, in passes over K. Residuals it leaves are in the trace: quadratic forms of an
            unfinished solve are biased low.
        evaluate: whether to estimate the value at the end (`log_marginal_likelihood`; exact up to 3,000 rows).
        dtype: working precision of the solves; default that of x, float32 for integer x.
        memory_budget: bytes for K and its tiles.
        generator: seed or generator of all draws.
        callback: called with every record of the trace.

    Returns:
        FitResult, `posterior` being that of `sggp.condition` at the result. A record of the trace also holds
        `gradient_error` (largest standard error, scaled as `gradient_norm`; of the last step that measured it),
        `z_square`, `residual` (worst target, mean and worst probe) and `epochs` so far. `value` is integrated along the
        path from the gradients and, at the end, anchored at the value estimated there; a callback sees it as the gain
        since the start.

    Raises:
        InputError, ShapeError, DtypeError: unusable data or settings.

    Cost: a step is one solve of 2 + s columns, a few gradients of quadratic forms, O(n²·(d + s)) each, and n·p² flops
        for p features; memory O(n·(d + s) + p²) beside the solver's.

    Source: Lin et al. 2024 (pathwise estimator, warm starts, budgets). Departures: 1. w_j in place of
        v_j on one side, which takes the error of the features out of the gradient (`iterative.probes`).
        2. The mean is profiled out. 3. The stopping rule. 4. Repeats are merged. 5. The preconditioner is kept while
        it is close.

    Example:
        >>> import torch, gpytorch
        >>> from sggp.hyperparameters import fit_iterative
        >>> x = torch.linspace(0, 1, 40, dtype=torch.float64)[:, None]
        >>> kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
        >>> fit = fit_iterative(kernel, x, torch.sin(6 * x[:, 0]), noise_variance=0.01, max_steps=5, generator=0)
        >>> fit.posterior.samples(x).shape
        torch.Size([64, 40])
    """
    if num_probes < 2 or (max_steps is not None and max_steps < 1) or not tolerance > 0:
        raise InputError(
            f"num_probes ≥ 2, max_steps ≥ 1 and tolerance > 0 are needed, got {num_probes}, {max_steps}, {tolerance}."
        )
    if start not in ("auto", "nearest-neighbour", None):
        raise InputError(f"start must be 'auto', 'nearest-neighbour' or None, got {start!r}.")
    began = time.perf_counter()
    raw, (x, y) = x, check_data(x, y)
    data = MergedData(x, y)
    near = start == "nearest-neighbour" or (start == "auto" and data.size > DIRECT_ROWS)
    steps, rate = _NEAR if near else _FAR
    options = _Options(
        solver,
        num_probes,
        num_features,
        solve_tolerance,
        max_epochs,
        dtype if dtype is not None else raw.dtype if raw.is_floating_point() else torch.float32,
        float(memory_budget),
        evaluate,
    )
    given = _Given(noise_variance, mean, initial_noise_variance, noise_floor, noise_prior)
    generator = as_generator(generator)
    (beginning,) = streams(generator, "start")
    coordinates = _set_out(kernel, data, given, beginning if near else None)
    climb = AscentSettings(
        steps if max_steps is None else max_steps, rate if learning_rate is None else learning_rate, tolerance
    )
    ascent = Ascent(_gradient(coordinates, data, given, options, generator), climb, callback, began)
    ascent.run()
    return _result(ascent, kernel, raw, options, generator)


def _gradient(
    coordinates: Coordinates, data: MergedData, given: _Given, options: _Options, generator: torch.Generator
) -> PathwiseGradient:
    drawing, solving = streams(generator, "probes", "solver")
    noise, mean = check_noise(given.noise_variance, data.n), check_mean(given.mean, data.y.shape[1])
    solves = WarmSolves(
        options.solver,
        data.rows,
        options.num_probes + data.y.shape[1] + 1,
        dtype=options.dtype,
        memory_budget=options.memory_budget,
        max_epochs=options.max_epochs,
        generator=solving,
    )
    return PathwiseGradient(
        coordinates,
        data,
        Probes(coordinates.kernel, data, options.num_probes, options.num_features, drawing),
        solves,
        noise=None if noise is None else noise.to(data.y.device),
        mean=None if mean is None else mean.to(data.y.device),
        tolerance=options.solve_tolerance,
    )


def _set_out(
    kernel: Kernel, data: MergedData, given: _Given, beginning: torch.Generator | None
) -> Coordinates:
    """Coordinates of a private copy, at the nearest-neighbour optimum where a generator for it is given."""
    duplicate = copy_kernel(kernel, data.x.device)
    scale = max(target_scale(data.y, check_mean(given.mean, data.y.shape[1])), 1e-300)
    initial = given.initial_noise_variance or 0.1 * scale
    if beginning is not None:
        found = fit_nearest_neighbour(
            kernel,
            data.x,
            data.y,
            noise_variance=given.noise_variance,
            mean=given.mean,
            initial_noise_variance=given.initial_noise_variance,
            noise_floor=given.noise_floor,
            noise_prior=given.noise_prior,
            generator=beginning,
        )
        duplicate.load_state_dict(found.kernel.state_dict())
        initial = float(found.noise_variance) if given.noise_variance is None else initial
    return Coordinates(
        duplicate,
        initial_noise=None if given.noise_variance is not None else initial,
        noise_floor=1e-6 * scale if given.noise_floor is None else given.noise_floor,
        noise_prior=given.noise_prior,
    )


def _result(
    ascent: Ascent, start: Kernel, raw: Tensor, options: _Options, generator: torch.Generator
) -> FitResult:
    """The posterior at the last place, the value there, and how the ascent ended."""
    found, gradient = ascent.last, ascent.gradient
    if found is None:
        raise InputError("the gradient was never estimated.")
    coordinates = gradient.coordinates
    valuing, ending = streams(generator, "value", "posterior")
    noise = coordinates.noise().detach() if gradient.noise is None else gradient.noise
    kernel = coordinates.kernel
    log_prior = float(coordinates.log_prior().detach())
    kernel.requires_grad_(False)
    unidentified = unidentified_columns(kernel, gradient.data.x)
    settle_unidentified(start, kernel, gradient.data.x, unidentified)
    value, error = (math.nan, math.nan)
    if options.evaluate:
        value, error = _value(kernel, raw, gradient, noise, found.mean, options, valuing)
        count = gradient.data.y.numel()
        lift = (value + log_prior) / count - ascent.trace[-1]["value"]
        for record in ascent.trace:
            record["value"] += lift
    posterior = None
    if gradient.probes.pathwise and gradient.data.y.shape[1] == 1:
        posterior = _posterior(gradient, found, raw, options, ending)
    state = "settled" if ascent.settled else "budget of steps spent"
    return FitResult(
        kernel=kernel,
        noise_variance=public_noise(noise),
        mean=public_mean(found.mean.cpu()),
        trace=ascent.trace,
        log_marginal_likelihood=value,
        method="iterative",
        seconds=time.perf_counter() - ascent.began,
        converged=ascent.settled,
        gradient_norm=ascent.trace[-1]["gradient_norm"],
        log_marginal_likelihood_error=error,
        message=(
            f"{state} after {len(ascent.trace)} steps and {gradient.solves.epochs:.3g} epochs; mean squared z-score of "
            f"the gradient {ascent.z_square:.2f}, worst residual {max(found.residuals):.1e}"
        ),
        unidentified=unidentified,
        steps=len(ascent.trace),
        posterior=posterior,
    )


def _value(
    kernel: Kernel,
    raw: Tensor,
    gradient: PathwiseGradient,
    noise: Tensor,
    mean: Tensor,
    options: _Options,
    generator: torch.Generator,
) -> tuple[float, float]:
    data = gradient.data
    if data.n <= DIRECT_ROWS:
        return exact_log_marginal_likelihood(kernel, data.x, data.y, noise_variance=noise, mean=mean), 0.0
    found = log_marginal_likelihood(
        kernel,
        raw,
        data.y,
        noise_variance=noise,
        mean=mean,
        generator=generator,
        memory_budget=options.memory_budget,
        dtype=options.dtype,
    )
    return found.value, found.standard_error


def _posterior(
    gradient: PathwiseGradient,
    found: Estimate,
    raw: Tensor,
    options: _Options,
    generator: torch.Generator,
) -> Posterior:
    """The posterior whose weights the last step solved for; the solver only measures them, and goes on if it must."""
    kernel, y, mean = gradient.coordinates.kernel, gradient.data.y[:, 0], float(found.mean)
    data = Data(raw.detach(), y, found.row_noise.contiguous(), gradient.probes.noise(found.row_noise))
    solving = SolveOptions(
        solver=options.solver,
        tolerance=posterior_tolerances(y - mean, found.row_noise),
        num_features=options.num_features,
        dtype=options.dtype,
        memory_budget=options.memory_budget,
    )
    process = Process(kernel, mean, gradient.probes.prior(kernel), solving)
    weights = torch.cat([found.weights, found.probe_weights], dim=1)
    return Posterior.from_weights(process, data, weights, generator, solver=gradient.solves.solver)
