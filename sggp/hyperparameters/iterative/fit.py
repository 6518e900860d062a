"""The marginal likelihood of all the data, climbed by gradients from iterative solves."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.autograd import with_gradients
from sggp.checks import one_of
from sggp.defaults import DIRECT_ROWS, MEMORY_BUDGET, NUM_FEATURES, NUM_SAMPLES
from sggp.errors import InputError
from sggp.hyperparameters.coordinates import Coordinates
from sggp.hyperparameters.exact.fit import log_density
from sggp.hyperparameters.iterative.ascent import Ascent, AscentSettings
from sggp.hyperparameters.iterative.gradient import Estimate, PathwiseGradient
from sggp.hyperparameters.iterative.lanczos import LikelihoodSettings, estimate_value
from sggp.hyperparameters.iterative.posterior import posterior_of
from sggp.hyperparameters.iterative.probes import Probes
from sggp.hyperparameters.iterative.warm_start import WarmSolves
from sggp.hyperparameters.merged import MergedData
from sggp.hyperparameters.nearest_neighbour.fit import NearestNeighbourSettings, maximise_nearest_neighbour
from sggp.hyperparameters.problem import FitProblem, Options, at_least
from sggp.hyperparameters.result import FitResult
from sggp.hyperparameters.unidentified import settle_unidentified, unidentified_columns
from sggp.random import streams
from sggp.solvers import Solver

__all__ = ["fit_iterative"]

Start = Literal["auto", "nearest-neighbour"] | None
_NEAR = (30, 0.03)
_FAR = (100, 0.1)
"""Steps and step size from the nearest-neighbour optimum, and from anywhere else."""


@dataclass(frozen=True)
class IterativeSettings:
    """Settings of `fit_iterative`, where they are explained."""

    solver: Solver | None = None
    num_probes: int = NUM_SAMPLES
    num_features: int = NUM_FEATURES
    start: Start = "auto"
    max_steps: int | None = None
    learning_rate: float | None = None
    tolerance: float = 1.0
    solve_tolerance: float | tuple[float, float] | None = None
    max_epochs: float | None = None
    evaluate: bool = True
    dtype: torch.dtype | None = None
    memory_budget: float = MEMORY_BUDGET

    def __post_init__(self) -> None:
        at_least(self, num_probes=2, num_features=1, max_steps=1)
        at_least(self, learning_rate=0, max_epochs=0, memory_budget=0)
        if not self.tolerance > 0:
            raise InputError(f"tolerance must be above 0, got {self.tolerance!r}.")
        if self.start is not None:
            one_of(self.start, "start, unless None,", ("auto", "nearest-neighbour"))

    def starts_near(self, distinct: int) -> bool:
        """Whether the nearest-neighbour fit of so many distinct inputs goes first."""
        return self.start == "nearest-neighbour" or (self.start == "auto" and distinct > DIRECT_ROWS)

    def ascent(self, near: bool) -> AscentSettings:
        """Of Adam, from the nearest-neighbour optimum or from elsewhere."""
        steps, rate = _NEAR if near else _FAR
        return AscentSettings(
            steps if self.max_steps is None else self.max_steps,
            rate if self.learning_rate is None else self.learning_rate,
            self.tolerance,
        )


OPTIONS = Options("fit_iterative", IterativeSettings)


@OPTIONS.shown
@with_gradients()
def fit_iterative(kernel: Kernel, x: Tensor, y: Tensor, **options: Any) -> FitResult:
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
        noise_variance, mean, initial_noise_variance, noise_floor, noise_prior: as in `learn_hyperparameters`.
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
        dtype: working precision of the solves; default float64 up to 3,000 rows, float32 with refinement beyond.
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
    return maximise_iterative(*OPTIONS.read(kernel, x, y, options))


def maximise_iterative(problem: FitProblem, settings: IterativeSettings) -> FitResult:
    """`fit_iterative` of a checked problem."""
    data = MergedData(problem.x, problem.y)
    near = settings.starts_near(data.size)
    (beginning,) = streams(problem.generator, "start")
    coordinates = _near_optimum(problem, beginning) if near else problem.coordinates()
    ascent = Ascent(_gradient(problem, settings, coordinates, data), settings.ascent(near), problem.trace())
    return _result(problem, settings, ascent, ascent.run())


def _near_optimum(problem: FitProblem, generator: torch.Generator) -> Coordinates:
    quiet = replace(problem, generator=generator, callback=None)
    found = maximise_nearest_neighbour(quiet, NearestNeighbourSettings())
    start = None if problem.noise is not None else float(found.noise_variance)
    coordinates = replace(problem, initial_noise_variance=start).coordinates()
    coordinates.kernel.load_state_dict(found.kernel.state_dict())
    return coordinates


def _gradient(
    problem: FitProblem, settings: IterativeSettings, coordinates: Coordinates, data: MergedData
) -> PathwiseGradient:
    drawing, solving = streams(problem.generator, "probes", "solver")
    solves = WarmSolves(
        settings.solver,
        data.rows,
        settings.num_probes + data.y.shape[1] + 1,
        dtype=problem.precision(settings.dtype),
        memory_budget=settings.memory_budget,
        max_epochs=settings.max_epochs,
        generator=solving,
    )
    return PathwiseGradient(
        coordinates,
        data,
        Probes(coordinates.kernel, data, settings.num_probes, settings.num_features, drawing),
        solves,
        noise=problem.noise,
        mean=problem.mean,
        tolerance=settings.solve_tolerance,
    )


def _result(problem: FitProblem, settings: IterativeSettings, ascent: Ascent, found: Estimate) -> FitResult:
    """The posterior at the last place, the value there, and how the ascent ended."""
    gradient, records = ascent.gradient, ascent.trace.records
    kernel, coordinates = gradient.coordinates.kernel, gradient.coordinates
    valuing, ending = streams(problem.generator, "value", "posterior")
    log_prior = coordinates.log_prior(coordinates.vector())[0]
    unidentified = unidentified_columns(kernel, problem.x)
    settle_unidentified(problem.kernel, kernel, problem.x, unidentified)
    kernel.requires_grad_(False)
    noise = coordinates.noise().detach() if problem.noise is None else problem.noise
    value, error, mean = math.nan, math.nan, found.solved.mean
    if settings.evaluate:
        learnt = replace(problem, kernel=kernel, noise=noise, mean=mean, generator=valuing)
        value, error = _value(learnt, settings)
        count = problem.y.numel()
        lift = (value + log_prior) / count - records[-1]["value"]
        for record in records:
            record["value"] += lift
    posterior = None
    if gradient.probes.pathwise and problem.y.shape[1] == 1:
        solves = found.solved, gradient.probes, gradient.solves
        posterior = posterior_of(problem, kernel, found.row_noise, *solves, ending)
    state = "settled" if ascent.settled else "budget of steps spent"
    return problem.result(
        "iterative",
        kernel,
        noise,
        mean,
        trace=records,
        log_marginal_likelihood=value,
        log_marginal_likelihood_error=error,
        converged=ascent.settled,
        gradient_norm=records[-1]["gradient_norm"],
        message=(
            f"{state} after {len(records)} steps and {gradient.solves.epochs:.3g} epochs; mean squared z-score of "
            f"the gradient {ascent.z_square:.2f}, worst residual {max(found.solved.residuals):.1e}"
        ),
        unidentified_columns=unidentified,
        steps=len(records),
        posterior=posterior,
    )


def _value(learnt: FitProblem, settings: IterativeSettings) -> tuple[float, float]:
    """The log marginal likelihood at the values learnt, and its standard error."""
    if len(learnt.x) <= DIRECT_ROWS:
        return log_density(learnt.kernel, learnt), 0.0
    dtype, budget = learnt.precision(settings.dtype), settings.memory_budget
    found = estimate_value(learnt, LikelihoodSettings(dtype=dtype, memory_budget=budget))
    return found.value, found.standard_error
