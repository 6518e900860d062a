"""Condition a Gaussian process on data: mean and samples in one block of solves."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sggp.arrays import check_budget, working_dtype
from sggp.autograd import undisturbed
from sggp.checks import as_path, finite_number, whole_number
from sggp.defaults import MEMORY_BUDGET, NUM_FEATURES, NUM_SAMPLES
from sggp.errors import InputError
from sggp.posterior.data import Data, choose_centres, draw_prior
from sggp.posterior.posterior import Posterior
from sggp.posterior.solving import (
    NORMAL_SHARE,
    Process,
    SolveOptions,
    check_solver_argument,
)
from sggp.posterior.tolerance import noise_tolerances, posterior_tolerances
from sggp.random import as_generator, streams
from sggp.solvers import Solver
from sggp.typing import FailurePolicy, Seed


@undisturbed()
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
            the noise, within 1e-6 and 1e-3; three times that for samples; and for both less where a quarter of the
            posterior standard deviation at the rows, estimated from 512 of them, is less. With centres a thousandth of
            what the noise says, since the residual of a normal equation says less about predictions.
        max_epochs, max_seconds, on_failure: as in `Solver.solve`; the seconds are those of this call, the prior draws
            among them, but for a tenth that the solve has anyway.
        dtype: working precision of the solve; default float64 up to 3,000 distinct inputs, float32 with float64
            refinement beyond, whatever the type of x. Predictions come in the type of the points.
        memory_budget: bytes for K and its tiles.
        checkpoint: a file to save the solve in while it runs, as in `Solver.solve`: the same call after a kill goes on
            from there. Needs a seed as generator, since samples are drawn anew otherwise. `Cholesky` ignores it.

    Raises:
        CheckpointError: the checkpoint is of another call, damaged, or cannot be written.
        ShapeError, DtypeError, InputError: the data or the centres cannot be used.
        NoRandomFeatures: the kernel has no random features and num_samples > 0.

    Source: Wilson et al. 2020; Lin et al. 2023, sections 2 (solves in place of factors) and 3.2 (inducing points).
    """
    if checkpoint is not None:
        checkpoint = as_path(checkpoint, "checkpoint")
    if checkpoint is not None and generator is None:
        raise InputError(
            "checkpoint needs generator=<seed>: without one, the samples of the next call are other samples and their "
            "solve cannot go on from the file."
        )
    begin, generator = time.perf_counter(), as_generator(generator)
    data = Data.checked(x, y, noise_variance)
    mean = finite_number(mean, "mean")
    num_samples = whole_number(num_samples, "num_samples", least=0)
    num_features = whole_number(num_features, "num_features")
    check_solver_argument(solver)
    if tolerance is None:
        if centres is None:
            tolerance = posterior_tolerances(kernel, data, mean, solver)
        else:
            tolerance = noise_tolerances(data, mean) * NORMAL_SHARE
    options = SolveOptions(
        solver=solver,
        tolerance=tolerance,
        num_features=num_features,
        dtype=working_dtype(len(data.rows), dtype),
        memory_budget=check_budget(memory_budget),
        max_epochs=_limit(max_epochs, "max_epochs"),
        max_seconds=_limit(max_seconds, "max_seconds"),
        on_failure=on_failure,
    )
    draw, eps, solve, spread = streams(generator, "prior", "noise", "solver", "centres")
    prior = draw_prior(kernel, data.x, num_samples, num_features, draw) if num_samples else None
    data = data.with_noise(num_samples, eps)
    if centres is not None:
        options = replace(options, centres=choose_centres(kernel, data, centres, spread))
    process = Process(kernel, mean, prior, options)
    targets = process.targets(data)
    left = process.after(time.perf_counter() - begin)
    return Posterior(process, data, left.solve_columns(data, targets, solve, checkpoint=checkpoint))


def _limit(value: Any, name: str) -> float | None:
    if value is None:
        return None
    number = finite_number(value, name, "None sets no limit", infinite=True)
    if number < 0:
        raise InputError(f"{name} must not be negative, got {value!r}; None sets no limit.")
    return number
