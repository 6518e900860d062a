"""Condition a Gaussian process on data: mean and samples in one block of solves."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sggp.defaults import DIRECT_ROWS, MEMORY_BUDGET, NUM_FEATURES, NUM_SAMPLES
from sggp.errors import InputError, ShapeError
from sggp.kernels import as_covariance
from sggp.operators import InducingOperator, KernelOperator
from sggp.posterior.data import Data, Prior, check_data, choose_centres, draw_prior
from sggp.posterior.paths import PathwiseSamples
from sggp.posterior.posterior import Posterior
from sggp.random import as_generator, streams
from sggp.solvers import Auto, Cholesky, Solution, Solver
from sggp.typing import FailurePolicy, Seed

__all__ = ["Settings", "condition", "default_tolerances", "solve_posterior"]

NORMAL_SHARE = 1e-3
"""Default tolerances with centres, as a share of those without: a normal equation squares the condition."""
MEAN_TOLERANCE = 1e-3
SAMPLE_TOLERANCE = 1e-2
LEAST_TOLERANCE = 1e-6
NOISE_SHARE = 0.1
"""The residual of the mean is kept below this share of the noise, where that is less than `MEAN_TOLERANCE`."""


@dataclass(frozen=True)
class Settings:
    """How a posterior is solved; kept so that `update` and further samples do the same."""

    solver: Solver | None
    tolerance: float | Tensor
    num_features: int
    dtype: torch.dtype
    memory_budget: float
    max_epochs: float | None
    max_seconds: float | None
    on_failure: FailurePolicy
    centres: Tensor | None = None

    def solver_for(self, n: int) -> Solver:
        if self.solver is not None:
            return self.solver
        return Cholesky() if n <= DIRECT_ROWS and self.centres is None else Auto()

    def tolerances(self, samples: int, with_mean: bool) -> Tensor:
        """One tolerance per column, the mean's first."""
        means = 1 if with_mean else 0
        given = torch.as_tensor(self.tolerance, dtype=torch.float64).reshape(-1)
        if len(given) == 1:
            return given.expand(means + samples).clone()
        if len(given) == 2:
            return torch.cat([given[:1].expand(means), given[1:].expand(samples)])
        raise ShapeError(
            f"tolerance must be one number, or two (mean, samples), or None; got {len(given)} numbers."
        )


def condition(
    kernel: Any,
    x: Tensor,
    y: Tensor,
    *,
    noise_variance: float | Tensor,
    mean: float = 0.0,
    solver: Solver | None = None,
    num_samples: int = NUM_SAMPLES,
    num_features: int = NUM_FEATURES,
    centres: Tensor | int | None = None,
    generator: Seed = None,
    tolerance: float | Tensor | None = None,
    max_epochs: float | None = None,
    max_seconds: float | None = None,
    on_failure: FailurePolicy = "warn",
    dtype: torch.dtype | None = None,
    memory_budget: float = MEMORY_BUDGET,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Posterior:
    """The posterior of f ~ GP(mean, kernel) given y = f(x) + ε, ε ~ N(0, noise_variance).

    One linear system with several right-hand sides, (K + Σ)[α_mean, α_1 … α_s] = [y − μ, f⁰_i(x) + ε_i], gives the mean
    μ + K(·, x)α_mean and s pathwise samples f⁰_i(·) + K(·, x)(α_mean − α_i). Exact repeats of an input are merged first
    (mean target, noise σ²/r), which leaves the posterior as it is.

    Args:
        kernel: any GPyTorch kernel; its hyperparameters are used as they are.
        x: (n, d) inputs; float, or integer counts for Tanimoto kernels.
        y: (n,) targets.
        noise_variance: a number or (n,), in squared units of y.
        mean: constant prior mean μ, in units of y.
        solver: default `Cholesky` up to 3,000 distinct inputs, `Auto` beyond and with centres.
        num_samples: s; 0 for a posterior with exact variance only.
        num_features: random features of the prior draws.
        centres: inducing points Z: (m, d) rows, or a number, for that many k-means centres (random distinct rows for
            kernels without length scales; see `sggp.operators.select_centres`). Mean and samples are then written on Z:
            (K_ZX Σ⁻¹ K_XZ + K_ZZ)α = K_ZX Σ⁻¹ b for each right-hand side b above, and K(·, Z) in place of K(·, x). Away
            from Z they fall back to the prior. Needs positive noise.
        generator: seed or generator; None draws fresh entropy.
        tolerance: relative residual, one number or a pair (mean, samples). The default for the mean is a tenth of the
            noise's standard deviation over the root mean square of y, so that what the solve leaves open drowns in
            the noise, within 1e-6 and 1e-3; ten times that for samples. With centres a thousandth of both, since the
            residual of a normal equation says less about predictions.
        max_epochs, max_seconds, on_failure: as in `Solver.solve`.
        dtype: working precision of the solve; default that of x (of y for integer x).
        memory_budget: bytes for K and its tiles.
        checkpoint: a file to save the solve in while it runs, as in `Solver.solve`: the same call after a kill goes on
            from there. Needs a seed as generator, since samples are drawn anew otherwise. `Cholesky` ignores it.

    Raises:
        CheckpointError: the checkpoint is of another call, damaged, or cannot be written.
        ShapeError, DtypeError, InputError: the data or the centres cannot be used.
        NoRandomFeatures: the kernel has no random features and num_samples > 0.

    Source: Wilson et al. 2020; Lin et al. 2023, sections 2 (solves in place of factors) and 3.2 (inducing points).
    """
    if checkpoint is not None and generator is None:
        raise InputError(
            "checkpoint needs generator=<seed>: without one, the samples of the next call are other samples and their "
            "solve cannot go on from the file."
        )
    generator = as_generator(generator)
    x, y, noise = check_data(x, y, noise_variance)
    if num_samples < 0 or num_features < 1:
        raise InputError(
            f"num_samples must be ≥ 0 and num_features ≥ 1, got {num_samples} and {num_features}."
        )
    work = dtype if dtype is not None else (x.dtype if x.is_floating_point() else torch.float32)
    if tolerance is None:
        tolerance = default_tolerances(y - mean, noise) * (1.0 if centres is None else NORMAL_SHARE)
    settings = Settings(
        solver, tolerance, num_features, work, float(memory_budget), max_epochs, max_seconds, on_failure
    )
    draw, eps, solve, spread = streams(generator, "prior", "noise", "solver", "centres")
    prior = draw_prior(kernel, x, num_samples, num_features, draw) if num_samples else None
    data = Data(x, y, noise, draw_noise(noise, num_samples, eps))
    if centres is not None:
        settings = replace(settings, centres=choose_centres(kernel, data, centres, spread))
    return solve_posterior(kernel, data, float(mean), prior, settings, None, solve, checkpoint)


def default_tolerances(target: Tensor, noise_variance: Tensor) -> Tensor:  # -> (2,)
    """For the mean and for samples; see `condition`."""
    size = float(target.square().mean().sqrt())
    share = NOISE_SHARE * float(noise_variance.mean().sqrt()) / size if size > 0 else MEAN_TOLERANCE
    mean = min(MEAN_TOLERANCE, max(LEAST_TOLERANCE, share))
    return torch.tensor([mean, mean * SAMPLE_TOLERANCE / MEAN_TOLERANCE], dtype=torch.float64)


def draw_noise(
    noise_variance: Tensor, num_samples: int, generator: torch.Generator
) -> Tensor:  # (n,) -> (n, s)
    """ε ~ N(0, Σ), one column per sample."""
    unit = torch.randn(len(noise_variance), num_samples, generator=generator, dtype=torch.float64)
    return noise_variance.sqrt()[:, None] * unit.to(noise_variance.device)


def solve_posterior(
    kernel: Any,
    data: Data,
    mean: float,
    prior: Prior | None,
    settings: Settings,
    x0: Tensor | None,
    generator: torch.Generator,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Posterior:
    """Merge repeats, solve for mean and samples together, and put the posterior together."""
    groups = data.groups()
    noise = groups.noise(data.noise_variance)
    x = data.x[groups.first]
    columns = [groups.mean(data.y[:, None] - mean, data.noise_variance)]
    if prior is not None:
        columns.append(prior.features.apply(x, prior.weights) + groups.mean(data.noise, data.noise_variance))
    rhs = torch.cat([c.double() for c in columns], 1)
    solution = solve_columns(kernel, x, noise, rhs, settings, x0, generator, checkpoint=checkpoint)
    return Posterior(
        kernel=kernel,
        covariance=as_covariance(kernel, dtype=None if x.is_floating_point() else settings.dtype),
        data=data,
        groups=groups,
        noise_variance=noise,
        mean=mean,
        prior=prior,
        solution=solution,
        settings=settings,
    )


def solve_columns(
    kernel: Any,
    x: Tensor,
    noise: Tensor,
    rhs: Tensor,
    settings: Settings,
    x0: Tensor | None,
    generator: torch.Generator,
    *,
    with_mean: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Solution:
    """Solve (K + Σ) A = rhs, or the normal equation on the centres, as the settings say."""
    operator: KernelOperator | InducingOperator
    if settings.centres is None:
        operator = KernelOperator(
            kernel, x, noise, dtype=settings.dtype, memory_budget=settings.memory_budget
        )
    else:
        operator = InducingOperator(
            kernel, x, settings.centres, noise, dtype=settings.dtype, memory_budget=settings.memory_budget
        )
        rhs = operator.normal_rhs(rhs)
    samples = rhs.shape[1] - (1 if with_mean else 0)
    return settings.solver_for(len(x)).solve(
        operator,
        rhs,
        x0,
        tolerance=settings.tolerances(samples, with_mean),
        max_epochs=settings.max_epochs,
        max_seconds=settings.max_seconds,
        generator=generator,
        on_failure=settings.on_failure,
        checkpoint=checkpoint,
    )


def more_samples(posterior: Posterior, num_samples: int, generator: Seed) -> PathwiseSamples:
    """Further independent samples: fresh features, fresh noise, one more block of solves."""
    draw, eps, solve = streams(as_generator(generator), "prior", "noise", "solver")
    data, settings, groups = posterior.data, posterior.settings, posterior.groups
    prior = draw_prior(posterior.kernel, data.x, num_samples, settings.num_features, draw)
    noise = groups.mean(draw_noise(data.noise_variance, num_samples, eps), data.noise_variance)
    rhs = prior.features.apply(posterior.x, prior.weights).double() + noise
    solution = solve_columns(
        posterior.kernel, posterior.x, posterior.noise_variance, rhs, settings, None, solve, with_mean=False
    )
    return PathwiseSamples(
        covariance=posterior.covariance,
        x=posterior.points,
        features=prior.features,
        weights=prior.weights,
        update=posterior.mean_weights[:, None] - solution.x.double(),
        mean=posterior.prior_mean,
    )
