"""Several targets at the same inputs, with the same kernel and noise: one block of solves for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sggp.arrays import working_dtype
from sggp.autograd import undisturbed
from sggp.defaults import MEMORY_BUDGET
from sggp.posterior.data import Data, draw_prior
from sggp.posterior.posterior import Posterior
from sggp.posterior.solving import Process, SolveOptions, check_solver_argument
from sggp.posterior.tolerance import posterior_tolerances
from sggp.random import as_generator, streams
from sggp.solvers import Solver
from sggp.typing import FailurePolicy, Seed


@dataclass(frozen=True)
class Solving:
    """`num_features`, `solver`, `tolerance` and `on_failure` of `condition`."""

    num_features: int
    solver: Solver | None = None
    tolerance: Any = None
    on_failure: FailurePolicy = "warn"


@undisturbed()
def condition_together(
    kernel: Any,
    x: Tensor,
    y: Tensor,
    *,
    noise_variance: float | Tensor,
    priors: Sequence[tuple[float, Seed]],
    num_samples: int,
    how: Solving,
) -> list[Posterior]:
    """`condition` on each column of y, (n, m): the same m posteriors, to the solver's tolerance, from one solve.

    The systems differ in their right-hand sides only, so that the kernel matrix is evaluated, and factorised or
    preconditioned, once. The posteriors share what later variances need of it.

    Args:
        kernel, x, noise_variance, num_samples: as in `condition`.
        priors: of each column the prior mean and a seed, of which the first decides what is random in the solver.
        how: features of the prior draws, and how the solve goes.

    Cost: of `condition` with m (1 + s) right-hand sides.
    """
    check_solver_argument(how.solver)
    parts: list[tuple[Process, Data]] = []
    solving: list[torch.Generator] = []
    for j, (mean, seed) in enumerate(priors):
        data = Data.checked(x, y[:, j], noise_variance)
        draw, eps, solve, _ = streams(as_generator(seed), "prior", "noise", "solver", "centres")
        allowed = (
            posterior_tolerances(kernel, data, mean, how.solver) if how.tolerance is None else how.tolerance
        )
        options = SolveOptions(
            how.solver,
            allowed,
            how.num_features,
            working_dtype(len(data.rows), None),
            MEMORY_BUDGET,
            on_failure=how.on_failure,
        )
        prior = draw_prior(kernel, data.x, num_samples, how.num_features, draw)
        parts.append((Process(kernel, mean, prior, options), data.with_noise(num_samples, eps)))
        solving.append(solve)
    process, data = parts[0]
    solution = process.options.solver_for(len(data.rows)).solve(
        process.operator(data),
        torch.cat([process.targets(data) for process, data in parts], 1),
        tolerance=torch.cat([process.options.tolerances(num_samples, True) for process, _ in parts]),
        generator=solving[0],
        on_failure=how.on_failure,
    )
    width = 1 + num_samples
    found = [
        Posterior(process, data, solution.columns(width * j, width * (j + 1)))
        for j, (process, data) in enumerate(parts)
    ]
    for other in found[1:]:
        other.share(found[0])
    return found
