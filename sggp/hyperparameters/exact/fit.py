"""The exact log marginal likelihood, maximised by quasi-Newton steps, on few rows first."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gpytorch.kernels import Kernel
from scipy.optimize import OptimizeResult
from torch import Tensor

from sggp.autograd import with_gradients
from sggp.defaults import MEMORY_BUDGET
from sggp.errors import InputError
from sggp.hyperparameters.coordinates import copy_kernel
from sggp.hyperparameters.exact.objective import Best, Objective, evaluate
from sggp.hyperparameters.exact.quasi_newton import (
    OUT_OF_TIME,
    Box,
    StoppingRule,
    descend,
    differenced_hessian,
    lbfgs,
    positive_part,
)
from sggp.hyperparameters.problem import CommonOptions, FitProblem, Options, at_least
from sggp.hyperparameters.result import FitResult, Trace
from sggp.kernels import as_covariance
from sggp.posterior.merge import group_rows
from sggp.running import time_is_up

_log = logging.getLogger(__name__)
_PART, _PART_ROWS = 0.3, 150  # of the distinct rows a search starts on this share, if it is this many
_GAIN = 1e3  # times the tolerance: nats to be won in all below which a search is over
_PART_GAIN = 0.1  # nats, on the part
_LEAST_NOISE = 1.6  # below e^-this of the initial noise variance, all rows choose between the two
_PART_TOLERANCE = 1e-3  # of the gradient there
_PROGRESS = 1e-10  # per row: a search on all rows ends where a step wins less
_STEEP = 30.0  # times the tolerance: a slope at which a search that ended begins anew
_LEAST_WIN = 1e-3  # nats that it must win by that to begin once more
_SAME = 1e-8  # nats per value: a further start that wins less is no better, so that rounding chooses nothing
_DIFFERENCES = 200  # learnt coordinates up to which the Hessian is differenced on the part


@dataclass(frozen=True)
class ExactSettings:
    """Settings of `fit_exact`, where they are explained."""

    restarts: int = 0
    max_iterations: int = 200
    tolerance: float = 1e-5
    memory_budget: float = MEMORY_BUDGET

    def __post_init__(self) -> None:
        at_least(self, restarts=0, max_iterations=0, tolerance=0, memory_budget=0)


OPTIONS = Options("fit_exact", ExactSettings)


def exact_log_marginal_likelihood(
    kernel: Kernel, x: Tensor, y: Tensor, *, noise_variance: float | Tensor, mean: float | Tensor | None = 0.0
) -> float:
    """The log marginal likelihood of a Gaussian process, by a float64 Cholesky factor.

    log p(y) = -1/2 (y - m)^T H^-1 (y - m) - 1/2 log |H| - n/2 log 2 pi, with H = K + Sigma.

    Args:
        kernel: any GPyTorch kernel.
        x: (n, d) rows.
        y: (n,) targets, or (n, t): independent targets with one covariance, whose values are added.
        noise_variance: a number or (n,).
        mean: constant mean; None takes the best one (generalised least squares).

    Cost: n^3/3 flops, two (n, n) matrices. Source: Rasmussen & Williams 2006, equation 2.30.
    """
    problem = FitProblem.checked(kernel, x, y, CommonOptions(noise_variance=noise_variance, mean=mean))
    return log_density(copy_kernel(kernel, x.device), problem)


@torch.no_grad()
def log_density(kernel: Kernel, problem: FitProblem) -> float:
    """`exact_log_marginal_likelihood` of a float64 kernel, at the noise and mean that the problem knows."""
    # of differences of coordinates, whatever the kernel: products would lose rows that are near but far from others
    covariance = as_covariance(kernel, dtype=torch.float64).block(problem.x)
    covariance.diagonal().add_(problem.known_noise())
    return evaluate(covariance, problem.y, problem.mean).value


@OPTIONS.shown
@with_gradients()
def fit_exact(kernel: Kernel, x: Tensor, y: Tensor, **options: Any) -> FitResult:
    """Maximise the exact log marginal likelihood plus log priors over a kernel's parameters and the noise variance.

    The constant mean is profiled out: at every step it is the generalised least-squares mean, which
    maximises the likelihood, so its gradient vanishes. GPyTorch priors enter as log densities of the
    constrained values (as in `gpytorch.mlls.ExactMarginalLogLikelihood`), constraints are never left,
    parameters with `requires_grad=False` stay. Repeated inputs are merged first, with the same likelihood.

    From 500 distinct inputs on, each search starts on a random 30 % of them (with all repeats; always the same ones).
    Where that ends, with the Hessian there from one more gradient per parameter, quasi-Newton steps on all rows begin:
    about a dozen evaluations instead of some thirty.

    Args:
        kernel: any GPyTorch kernel; its present values are the start. It is copied, never changed.
        x: (n, d) rows. y: (n,) targets or (n, t) independent targets that share the hyperparameters.
        noise_variance, mean, initial_noise_variance, noise_floor, noise_prior: as in `learn_hyperparameters`.
        restarts: further starts, each scattered by a factor e^(normal) around the first; the best end is
            kept.
        max_iterations: of every search, on the part and on all rows.
        tolerance: stop when the largest entry of the gradient per row, in log coordinates, is below it. A search that
            started on a part also stops when that is below 100 times it and the quadratic model expects to win no
            more than 1,000 times it in all (0.01 nats by default).
        memory_budget: bytes; about ten (n, n) float64 matrices must fit.
        generator: needed only for restarts.
        callback: called with every record of the trace.

    Returns:
        FitResult; `converged` is false when the iterations ran out. Records of its trace have `rows`, the number they
        were evaluated on; those of a part precede those of all rows.

    Raises:
        MemoryBudgetError: n is too large for the budget; use `fit_nearest_neighbour`.
        InputError, ShapeError: unusable data.

    Cost: per evaluation n^3 flops; five (n, n) matrices for (scaled) RBF and Matérn kernels, about ten for others.

    Example:
        >>> import torch, gpytorch
        >>> from sggp.hyperparameters import fit_exact
        >>> x = torch.linspace(0, 1, 40, dtype=torch.float64)[:, None]
        >>> fit = fit_exact(gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel()), x, torch.sin(6 * x[:, 0]))
        >>> fit.converged
        True
    """
    return maximise_exact(*OPTIONS.read(kernel, x, y, options))


def maximise_exact(problem: FitProblem, settings: ExactSettings) -> FitResult:
    """`fit_exact` of a checked problem."""
    problem.check_memory(settings.memory_budget, "use fit_nearest_neighbour, or raise memory_budget")
    coordinates, trace = problem.coordinates(), problem.trace()
    whole = Objective(coordinates, problem, trace)
    found = _minimise(problem, settings, whole, _part(whole, problem))
    _log.info("exact marginal likelihood: %s after %d evaluations", found.message, len(trace.records))
    return problem.result(
        "exact",
        coordinates.kernel,
        coordinates.noise().detach() if problem.noise is None else problem.noise,
        found.mean,
        trace=trace.records,
        log_marginal_likelihood=found.value,
        converged=found.converged,
        gradient_norm=found.gradient_norm,
        message=found.message,
        steps=len(trace.records),
    )


@dataclass(frozen=True)
class _Optimum:
    value: float
    mean: Tensor
    gradient_norm: float
    converged: bool
    message: str


def _part(whole: Objective, problem: FitProblem) -> Objective | None:
    """The objective of a random choice of the distinct inputs, with all repeats; None where all of them are few."""
    size = int(_PART * whole.size)
    if whole.coordinates.size == 0 or size < _PART_ROWS:
        return None
    member = group_rows(problem.x).member
    order = torch.randperm(int(member.max()) + 1, generator=torch.Generator().manual_seed(0))
    own = torch.isin(member, order[:size].to(member.device))
    return Objective(whole.coordinates, problem.part(own), whole.trace, whole=problem.y.numel())


def _minimise(
    problem: FitProblem, settings: ExactSettings, whole: Objective, part: Objective | None
) -> _Optimum:
    """Searches from the present values and from scattered ones; the best end is left in the kernel."""
    coordinates = whole.coordinates
    if coordinates.size == 0:
        return _Optimum(*whole.value_only(), 0.0, True, "nothing to learn")
    start = coordinates.vector()
    scattered = [
        start + torch.randn(start.shape, generator=problem.generator, dtype=start.dtype)
        for _ in range(settings.restarts)
    ]
    search = _Search(settings, Box.of(coordinates), whole.trace)
    best: Best | None = None
    for u in [start, *scattered]:
        converged, message = search.through(whole, part, search.box.clip(u.numpy()))
        found = whole.best
        if found is not None and (best is None or found.objective < best.objective - _SAME):
            best, ended = found, (converged, message)
        whole.best = best
        if time_is_up():
            break
    if best is None:
        raise InputError("the marginal likelihood was never evaluated.")
    coordinates.assign(torch.as_tensor(best.u))
    return _Optimum(best.value, best.mean, float(np.abs(best.gradient).max()), *ended)


@dataclass(frozen=True)
class _Search:
    """How each start is searched from."""

    settings: ExactSettings
    box: Box
    trace: Trace

    def plain(
        self, objective: Objective, u: np.ndarray, tolerance: float, progress: float, most: int | None = None
    ) -> OptimizeResult:
        """L-BFGS from u, of the settings' iterations or at most these."""
        most = self.settings.max_iterations if most is None else most
        return lbfgs(
            objective, u, self.box, self.trace.report, maxiter=most, gtol=tolerance, ftol=progress, maxcor=20
        )

    def thorough(self, whole: Objective, u: np.ndarray) -> tuple[bool, str]:
        """L-BFGS from u on all rows; whether it converged, and why it stopped.

        A line search that ends at a bound, or in a narrow valley, wins next to nothing although the slope is not small.
        From there the search begins anew, without its memory, until that wins nothing either.
        """
        tolerance, left = self.settings.tolerance, self.settings.max_iterations
        found = self.plain(whole, u, tolerance, _PROGRESS)
        while (left := left - found.nit) > 0 and not time_is_up():
            free = self.box.free(found.x, found.jac)
            if np.abs(found.jac[free]).max(initial=0.0) <= _STEEP * tolerance:
                break
            again = self.plain(whole, found.x, tolerance, _PROGRESS, left)
            won = found.fun - again.fun
            found = again if won > 0 else found
            if not won * whole.count > _LEAST_WIN:
                break
        return bool(found.success), str(found.message)

    def through(self, whole: Objective, part: Objective | None, u: np.ndarray) -> tuple[bool, str]:
        """From u on the part to the end on all rows; whether it converged, and why it stopped."""
        tolerance = self.settings.tolerance
        if part is None:
            return self.thorough(whole, u)
        end = self.plain(part, u, _PART_TOLERANCE, _PART_GAIN / part.count).x
        if time_is_up():
            whole(end)
            return False, OUT_OF_TIME
        hessian = self._hessian(part, end)
        if part.learns_noise and end[-1] < u[-1] - _LEAST_NOISE:
            # few rows are easily explained without noise, and from there no slope leads back
            noisy = np.append(end[:-1], u[-1] - _LEAST_NOISE)
            end = min(noisy, end, key=lambda start: whole(start)[0])
        rule = StoppingRule(tolerance, _GAIN * tolerance / whole.count, self.settings.max_iterations)
        found = descend(whole, end, hessian, self.box, rule, self.trace.report)
        if not found.stuck:
            return found.converged, found.message
        return self.thorough(whole, found.u)

    def _hessian(self, part: Objective, u: np.ndarray) -> np.ndarray:
        if len(u) > _DIFFERENCES:
            return np.eye(len(u))
        part.recording = False
        found = differenced_hessian(part, u, part(u)[1], self.box.upper)
        part.recording = True
        return positive_part(found)
