"""The posterior that the solves of a fit already are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.hyperparameters.iterative.probes import Probes
from sggp.hyperparameters.iterative.warm_start import WarmSolves
from sggp.hyperparameters.problem import FitProblem
from sggp.posterior import Posterior
from sggp.posterior.conditioning import Settings, default_tolerances, solve_posterior
from sggp.posterior.data import Data

__all__ = ["Solved", "posterior_of"]


@dataclass(frozen=True)
class Solved:
    """What the last solve was of, and what it gave: weights (g, 1 + s), of the mean and of each probe.

    Attributes:
        row_noise: (n,) noise variances of the rows before merging.
    """

    kernel: Kernel
    mean: float
    row_noise: Tensor
    weights: Tensor


def posterior_of(
    problem: FitProblem, solved: Solved, probes: Probes, solves: WarmSolves, generator: torch.Generator
) -> Posterior:
    """The posterior of one target whose samples are the probes.

    The solver starts from the weights: it measures their residuals, and takes further steps only where one is above the
    tolerance of `sggp.condition`. What the posterior solves later it solves with the solver that was asked for.
    """
    y, noise = problem.y[:, 0], solved.row_noise.contiguous()
    settings = Settings(
        solver=solves.asked,
        tolerance=default_tolerances(y - solved.mean, noise),
        num_features=probes.num_features,
        dtype=solves.dtype,
        memory_budget=solves.memory_budget,
        max_epochs=None,
        max_seconds=None,
        on_failure="warn",
    )
    posterior = solve_posterior(
        solved.kernel,
        Data(problem.given_x, y, noise, probes.noise(solved.row_noise)),
        solved.mean,
        probes.prior(solved.kernel),
        replace(settings, solver=solves.solver),
        solved.weights,
        generator,
    )
    posterior.settings = settings
    return posterior
