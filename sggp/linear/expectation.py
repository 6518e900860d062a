"""Sample-then-optimise, and the evidence updates of prior precision and noise that its samples allow."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sggp.errors import InputError
from sggp.linear.design import Design
from sggp.linear.features import batches
from sggp.linear.operator import NormalEquation
from sggp.random import streams
from sggp.solvers import Solution, Solver, StochasticGradientDescent

__all__ = ["Step", "Target", "evidence_steps"]


@dataclass(frozen=True)
class Step:
    """One step of the evidence updates: the values solved with, and what the solution says of them.

    Attributes:
        prior_precision, noise_variance: α and σ² of this step.
        effective_dimension: γ̂, with `effective_dimension_error` its Monte Carlo standard error.
        weight_norm: ‖θ̄‖ in units of the prior scale.
        misfit: ‖y − Φθ̄‖²_B at σ² = 1; NaN where the likelihood has no targets.
        iterations: steps of the solver, fewer as warm starts get better.
        residual: the largest relative residual over the mean and all samples.
        seconds: wall time of the step.
    """

    prior_precision: float
    noise_variance: float
    effective_dimension: float
    effective_dimension_error: float
    weight_norm: float
    misfit: float
    iterations: int
    residual: float
    seconds: float


@dataclass(frozen=True)
class Target:
    """What the data say: Φ̃ᵀỹ (D,), and ỹ (n, o) itself where there is one."""

    linear: Tensor
    values: Tensor | None

    @classmethod
    def of(cls, design: Design, y: Tensor) -> Target:
        """From targets y (n, o), not yet multiplied by Lᵀ."""
        features = design.features
        y = y.to(device=features.device, dtype=features.dtype)
        whitened = torch.cat([design.whiten(y[rows, :, None], rows)[..., 0] for rows in batches(features)])
        return cls(_summed(design, whitened, design.adjoint), whitened)

    @classmethod
    def of_information(cls, design: Design, information: Tensor) -> Target:
        """From B y (n, o), for a B that may be singular."""
        information = information.to(device=design.features.device, dtype=design.features.dtype)
        return cls(_summed(design, information, design.pull), None)


def _summed(
    design: Design, v: Tensor, product: Callable[[Tensor, slice], Tensor]
) -> Tensor:  # (n, o) -> (D,)
    parts = (product(v[rows, :, None], rows).double() for rows in batches(design.features))
    total = sum(parts, torch.zeros((), dtype=torch.float64, device=v.device))[:, 0]
    if not bool(torch.isfinite(total).all()):
        raise InputError(
            "features times y are not finite: remove rows with NaN or infinity, or rescale features whose products "
            "leave the range of their dtype."
        )
    return total


@dataclass(frozen=True)
class EvidenceOptions:
    """What `evidence_steps` needs of a model; None for a variance or precision means that it is learnt."""

    prior_precision: float | None
    noise_variance: float | None
    num_samples: int
    solver: Solver
    tolerance: float
    max_steps: int
    step_tolerance: float
    start: Tensor | None = None  # (D, 1 + k) mean and samples to start from


@dataclass(frozen=True)
class Outcome:
    """The last step: mean and zero-mean samples in normalised coordinates, and how it went."""

    mean: Tensor  # (D,) float64
    samples: Tensor  # (D, k) float64
    operator: NormalEquation
    solver: Solver
    solution: Solution
    trace: tuple[Step, ...]
    settled: bool


def evidence_steps(
    design: Design, target: Target, settings: EvidenceOptions, generator: torch.Generator
) -> Outcome:
    """Solve for mean and samples, update α and σ² from them, and repeat until they settle.

    The standard draws u ~ N(0, I_D) and e = Φ̃ᵀv, v ~ N(0, I), are kept over all steps. At α and σ² the samples solve
    Hζ = e/σ + √α·u, the low-variance target αθⁿ with prior part u/√α and data part e/(ασ): so a change of α rescales
    the first by √(α/α′) and the second by α/α′, and the last samples are a close start.
    """
    weights, noise, probes = streams(generator, "weights", "noise", "probes")
    k = settings.num_samples
    u = torch.randn(design.num_weights, k, generator=weights, dtype=torch.float64).to(target.linear.device)
    e, drawn = design.noise(k, noise)
    alpha, sigma2 = _start(design, target, settings, u)
    trace: list[Step] = []
    start = settings.start
    solver = settings.solver
    if isinstance(
        solver, StochasticGradientDescent
    ):  # the penalty is known without noise, as with D features
        solver = replace(solver, num_features=max(solver.num_features, design.num_weights))
    while True:
        begin = time.perf_counter()
        operator = NormalEquation(design, sigma2, alpha, probes)
        rhs = torch.cat(
            [target.linear[:, None] / sigma2, e / math.sqrt(sigma2) + math.sqrt(alpha) * u], dim=1
        )
        solution = solver.solve(
            operator, rhs, start, tolerance=settings.tolerance, generator=probes, on_failure="return"
        )
        start = solution.x
        squares, misfit = _measure(design, target, start)
        terms = squares / sigma2
        step = Step(
            prior_precision=alpha,
            noise_variance=sigma2,
            effective_dimension=float(terms.mean()),
            effective_dimension_error=float(terms.std()) / math.sqrt(k) if k > 1 else math.inf,
            weight_norm=float(start[:, 0].norm()),
            misfit=misfit,
            iterations=solution.iterations,
            residual=float(solution.residual.max()),
            seconds=time.perf_counter() - begin,
        )
        trace.append(step)
        # ‖v − Φ̃ζ/σ‖² of every sample
        left = drawn - 2 * (e * start[:, 1:]).sum(0).cpu() / math.sqrt(sigma2) + terms
        new = _update(step, settings, design.num_observations, float(left.mean()))
        settled = all(
            abs(math.log(a / b)) <= settings.step_tolerance for a, b in zip(new, (alpha, sigma2), strict=True)
        )
        if settled or len(trace) >= settings.max_steps:
            return Outcome(start[:, 0], start[:, 1:], operator, solver, solution, tuple(trace), settled)
        alpha, sigma2 = new


def _start(design: Design, target: Target, settings: EvidenceOptions, u: Tensor) -> tuple[float, float]:
    """Where to begin: a tenth of the targets' power is noise, and the prior explains all of it."""
    features = design.features
    few = u[:, :8].to(features.dtype)
    total = sum(float(design.apply(few, rows).double().square().sum()) for rows in batches(features))
    power, count = total / few.shape[1], max(1, design.num_observations)
    size = (0.0 if target.values is None else float(target.values.double().square().sum()) / count) or 1.0
    sigma2 = settings.noise_variance or 0.1 * size
    alpha = settings.prior_precision or (power / (count * size) or 1.0)
    return alpha, sigma2


def _measure(design: Design, target: Target, x: Tensor) -> tuple[Tensor, float]:
    """‖Φ̃ζ_j‖² of every sample, and ‖ỹ − Φ̃θ̄‖²: half an epoch."""
    features = design.features
    squares = torch.zeros(x.shape[1] - 1, dtype=torch.float64)
    misfit = 0.0 if target.values is not None else math.nan
    for rows in batches(features):
        out = design.apply(x.to(features.dtype), rows).double()
        squares += out[..., 1:].square().sum((0, 1)).cpu()
        if target.values is not None:
            misfit += float((out[..., 0] - target.values[rows].double()).square().sum())
    return squares, misfit


def _update(step: Step, settings: EvidenceOptions, count: int, left: float) -> tuple[float, float]:
    """α ← γ̂/‖θ̄‖² and σ² ← ‖y − Φθ̄‖²/(n·o)·(γ̂ + ρ̂)/ρ̂; a value that is given, or cannot be updated, stays.

    γ̂ = mean ‖Φ̃ζ_j‖²/σ² and ρ̂ = mean ‖v_j − Φ̃ζ_j/σ‖² are independent estimates of γ and n·o − γ. Where the weights
    explain nearly all, n·o − γ̂ is the difference of two large numbers, and noise that it makes too small makes it
    smaller still; their ratio is right to √(2/k) wherever it lies.
    """
    alpha, sigma2, gamma = step.prior_precision, step.noise_variance, step.effective_dimension
    if settings.prior_precision is None and gamma > 0 and step.weight_norm > 0:
        alpha = gamma / step.weight_norm**2
    if settings.noise_variance is None and step.misfit > 0 and left > 0:
        sigma2 = step.misfit / count * (gamma + left) / left
    return alpha, sigma2
