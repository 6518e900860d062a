"""The exact log marginal likelihood, maximised by quasi-Newton steps, on few rows first."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gpytorch.kernels import Kernel
from scipy.optimize import minimize
from torch import Tensor

from sggp.defaults import MEMORY_BUDGET
from sggp.errors import InputError, MemoryBudgetError
from sggp.hyperparameters.coordinates import Coordinates, copy_kernel
from sggp.hyperparameters.exact.objective import Objective, Trace, evaluate
from sggp.hyperparameters.exact.quasi_newton import descend, differenced_hessian, positive_part
from sggp.hyperparameters.gram import gram_function
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
from sggp.posterior.merge import group_rows
from sggp.random import as_generator
from sggp.typing import Seed

_log = logging.getLogger(__name__)
_PART, _PART_ROWS = 0.3, 150  # of the distinct rows a search starts on this share, if it is this many
_GAIN = 1e3  # times the tolerance: nats to be won in all below which a search is over
_PART_GAIN = 0.1  # nats, on the part
_LEAST_NOISE = 1.6  # below e^-this of the initial noise variance, all rows choose between the two
_PART_TOLERANCE = 1e-3  # of the gradient there
_DIFFERENCES = 200  # learnt coordinates up to which the Hessian is differenced on the part


def _on(value: Tensor | None, device: torch.device) -> Tensor | None:
    return None if value is None else value.to(device)


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
    x, y = check_data(x, y)
    noise = check_noise(noise_variance, len(x))
    if noise is None:
        raise InputError("noise_variance is needed: a number or one per row.")
    duplicate = copy_kernel(kernel, x.device)
    with torch.no_grad():
        covariance = gram_function(duplicate)(x).to(torch.float64).clone()
        covariance.diagonal().add_(noise.to(x.device))
        return evaluate(covariance, y, _on(check_mean(mean, y.shape[1]), x.device)).value


def fit_exact(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    *,
    noise_variance: float | Tensor | None = None,
    mean: float | Tensor | None = None,
    initial_noise_variance: float | None = None,
    noise_floor: float | None = None,
    noise_prior: Any = None,
    restarts: int = 0,
    max_iterations: int = 200,
    tolerance: float = 1e-5,
    memory_budget: float = MEMORY_BUDGET,
    generator: Seed = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
) -> FitResult:
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
        noise_variance: a known noise variance, a number or (n,); None learns one.
        mean: a known constant mean; None learns it.
        initial_noise_variance: where the search for the noise starts; default a tenth of the variance of y.
        noise_floor: the learnt noise stays above it; default 1e-6 of the variance of y.
        noise_prior: a GPyTorch prior on the noise variance.
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
    started = time.perf_counter()
    x, y = check_data(x, y)
    n = len(x)
    needed = 10 * 8 * n * n
    if needed > memory_budget:
        raise MemoryBudgetError(
            f"an exact marginal likelihood of {n} rows needs about {needed / 2**30:.1f} GiB, the budget is "
            f"{memory_budget / 2**30:.1f} GiB: use fit_nearest_neighbour, or raise memory_budget."
        )
    given_mean = _on(check_mean(mean, y.shape[1]), x.device)
    noise = _on(check_noise(noise_variance, n), x.device)
    scale = max(target_scale(y, given_mean), 1e-300)
    duplicate = copy_kernel(kernel, x.device)
    coordinates = Coordinates(
        duplicate,
        initial_noise=None if noise is not None else (initial_noise_variance or 0.1 * scale),
        noise_floor=1e-6 * scale if noise_floor is None else noise_floor,
        noise_prior=noise_prior,
    )
    trace = Trace(started=started)
    whole = Objective(coordinates, x, y, noise, given_mean, trace=trace)
    part = _part(whole, x, y, noise, given_mean)
    found = _minimise(whole, part, coordinates, restarts, max_iterations, tolerance, generator, callback)
    _log.info("exact marginal likelihood: %s after %d evaluations", found.message, len(trace.records))
    return FitResult(
        kernel=duplicate.requires_grad_(False),
        noise_variance=public_noise(coordinates.noise().detach() if noise is None else noise),
        mean=public_mean(found.mean.cpu()),
        trace=trace.records,
        log_marginal_likelihood=found.value,
        method="exact",
        seconds=time.perf_counter() - started,
        converged=found.converged,
        gradient_norm=found.gradient_norm,
        message=found.message,
        unidentified=unidentified_columns(duplicate, x),
        steps=len(trace.records),
    )


@dataclass(frozen=True)
class _Optimum:
    value: float
    mean: Tensor
    gradient_norm: float
    converged: bool
    message: str


def _part(
    whole: Objective, x: Tensor, y: Tensor, noise: Tensor | None, mean: Tensor | None
) -> Objective | None:
    """The objective of a random choice of the distinct inputs, with all repeats; None where all of them are few."""
    size = int(_PART * whole.size)
    if whole.coordinates.size == 0 or size < _PART_ROWS:
        return None
    member = group_rows(x).member
    order = torch.randperm(int(member.max()) + 1, generator=torch.Generator().manual_seed(0))
    own = torch.isin(member, order[:size].to(x.device))
    known = noise if noise is None or noise.dim() == 0 else noise[own]
    return Objective(whole.coordinates, x[own], y[own], known, mean, trace=whole.trace, whole=y.numel())


def _minimise(
    whole: Objective,
    part: Objective | None,
    coordinates: Coordinates,
    restarts: int,
    max_iterations: int,
    tolerance: float,
    generator: Seed,
    callback: Callable[[dict[str, Any]], None] | None,
) -> _Optimum:
    """Searches from the present values and from scattered ones; the best end is left in the kernel."""
    if coordinates.size == 0:
        return _Optimum(*whole.value_only(), 0.0, True, "nothing to learn")
    start = coordinates.vector()
    starts = [start]
    if restarts > 0:
        source = as_generator(generator)
        starts += [
            start + torch.randn(start.shape, generator=source, dtype=start.dtype) for _ in range(restarts)
        ]
    lower, upper = coordinates.bounds()
    search = _Search(max_iterations, tolerance, lower.numpy(), upper.numpy(), whole.trace, callback)
    ends: list[tuple[float, bool, str]] = []
    for u in starts:
        converged, message = search.through(whole, part, u.clamp(lower, upper).numpy())
        if whole.best is not None and (not ends or whole.best.objective < ends[-1][0]):
            ends.append((whole.best.objective, converged, message))
    best = whole.best
    if best is None:
        raise InputError("the marginal likelihood was never evaluated.")
    coordinates.assign(torch.as_tensor(best.u))
    slope = float(np.abs(best.gradient).max())
    return _Optimum(best.value, best.mean, slope, *ends[-1][1:])


@dataclass(frozen=True)
class _Search:
    """How each start is searched from."""

    max_iterations: int
    tolerance: float
    lower: np.ndarray
    upper: np.ndarray
    trace: Trace
    callback: Callable[[dict[str, Any]], None] | None

    def report(self) -> None:
        if self.callback is not None and self.trace.records:
            self.callback(self.trace.records[-1])

    def plain(
        self, objective: Objective, u: np.ndarray, tolerance: float, progress: float
    ) -> tuple[np.ndarray, bool, str]:
        """L-BFGS-B, which needs nothing to start from."""
        found = minimize(
            objective,
            u,
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(self.lower, self.upper, strict=True)),
            callback=lambda _: self.report(),
            options={"maxiter": self.max_iterations, "gtol": tolerance, "ftol": progress, "maxcor": 20},
        )
        return found.x, bool(found.success), str(found.message)

    def through(self, whole: Objective, part: Objective | None, u: np.ndarray) -> tuple[bool, str]:
        """From u on the part to the end on all rows; whether it converged, and why it stopped."""
        if part is None:
            return self.plain(whole, u, self.tolerance, 1e-10)[1:]
        end = self.plain(part, u, _PART_TOLERANCE, _PART_GAIN / part.count)[0]
        hessian = self._hessian(part, end)
        if part.learns_noise and end[-1] < u[-1] - _LEAST_NOISE:
            # few rows are easily explained without noise, and from there no slope leads back
            noisy = np.append(end[:-1], u[-1] - _LEAST_NOISE)
            end = min(noisy, end, key=lambda start: whole(start)[0])
        found = descend(
            whole,
            end,
            hessian,
            self.lower,
            self.upper,
            gain=_GAIN * self.tolerance / whole.count,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            callback=self.report,
        )
        if not found.stuck:
            return found.converged, found.message
        return self.plain(whole, found.u, self.tolerance, 1e-10)[1:]

    def _hessian(self, part: Objective, u: np.ndarray) -> np.ndarray:
        if len(u) > _DIFFERENCES:
            return np.eye(len(u))
        part.recording = False
        found = differenced_hessian(part, u, part(u)[1], self.upper)
        part.recording = True
        return positive_part(found)
