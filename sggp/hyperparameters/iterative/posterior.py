"""The posterior that the solves of a fit already are."""

from __future__ import annotations

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.hyperparameters.iterative.probes import Probes
from sggp.hyperparameters.iterative.warm_start import WarmSolves, Weights
from sggp.hyperparameters.problem import FitProblem
from sggp.posterior import Posterior
from sggp.posterior.data import Data
from sggp.posterior.solving import Process, SolveOptions
from sggp.posterior.tolerance import posterior_tolerances

__all__ = ["posterior_of"]


def posterior_of(
    problem: FitProblem,
    kernel: Kernel,
    row_noise: Tensor,
    solved: Weights,
    probes: Probes,
    solves: WarmSolves,
    generator: torch.Generator,
) -> Posterior:
    """The posterior of one target whose samples are the probes, where kernel and row_noise (n,) were solved for.

    The solver starts from the weights: it measures their residuals, and takes further steps only where one is above the
    tolerance of `sggp.condition`. What the posterior solves later it solves with the solver that was asked for.
    """
    y, mean, noise = problem.y[:, 0], float(solved.mean), row_noise.contiguous()
    data = Data(problem.x, y, noise, probes.noise(row_noise))
    options = SolveOptions(
        solver=solves.asked,
        tolerance=posterior_tolerances(kernel, data, mean, solves.asked),
        num_features=probes.num_features,
        dtype=solves.dtype,
        memory_budget=solves.memory_budget,
    )
    return Posterior.from_weights(
        Process(kernel, mean, probes.prior(kernel), options),
        data,
        torch.cat([solved.targets, solved.probes], dim=1),
        generator,
        solver=solves.solver,
    )
