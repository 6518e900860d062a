"""The exact log marginal likelihood, maximised by L-BFGS."""

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

from sggp.errors import InputError, MemoryBudgetError
from sggp.hyperparameters.coordinates import Coordinates, copy_kernel
from sggp.hyperparameters.gram import GramFunction, gram_function, log_two_pi
from sggp.hyperparameters.inputs import (
    check_data,
    check_mean,
    check_noise,
    public_mean,
    public_noise,
    target_scale,
    unidentified_columns,
)
from sggp.hyperparameters.result import FitResult
from sggp.random import as_generator
from sggp.typing import Seed

_log = logging.getLogger(__name__)
_JITTERS = (0.0, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4)


@dataclass(frozen=True)
class _Evaluation:
    value: float  # log marginal likelihood, summed over targets
    mean: Tensor  # (t,)
    weights: Tensor  # (n, t) H^-1 (y - mean)
    factor: Tensor  # (n, n) Cholesky factor


def _factorise(gram: Tensor) -> Tensor:
    """Cholesky factor, with the smallest relative jitter that makes it exist."""
    scale = gram.diagonal().mean()
    for jitter in _JITTERS:
        shifted = (
            gram
            if jitter == 0.0
            else gram + jitter * scale * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        )
        factor, info = torch.linalg.cholesky_ex(shifted)
        if int(info) == 0:
            return factor
    raise InputError(
        "K + noise is not positive definite even with a jitter of 1e-4 of its diagonal: the kernel returned NaN or is "
        "not a covariance function on these inputs."
    )


def _evaluate(covariance: Tensor, y: Tensor, mean: Tensor | None) -> _Evaluation:
    """log N(y; mean, covariance), the mean by generalised least squares where it is not given."""
    factor = _factorise(covariance)
    if mean is None:
        ones = torch.ones_like(y[:, :1])
        solved = torch.cholesky_solve(torch.cat([ones, y], dim=1), factor)
        mean = solved[:, 1:].sum(dim=0) / solved[:, 0].sum()
        weights = solved[:, 1:] - solved[:, :1] * mean
    else:
        weights = torch.cholesky_solve(y - mean, factor)
    n, t = y.shape
    value = (
        -0.5 * ((y - mean) * weights).sum() - t * factor.diagonal().log().sum() - 0.5 * n * t * log_two_pi()
    )
    return _Evaluation(float(value), mean, weights, factor)


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
        covariance = gram_function(duplicate)(x).to(torch.float64)
        covariance.diagonal().add_(noise.to(x.device))
        return _evaluate(covariance, y, _on(check_mean(mean, y.shape[1]), x.device)).value


class _Objective:
    """Minus (log marginal likelihood + log prior) per value, with its gradient, for scipy."""

    def __init__(
        self,
        coordinates: Coordinates,
        gram: GramFunction,
        x: Tensor,
        y: Tensor,
        noise: Tensor | None,
        mean: Tensor | None,
    ) -> None:
        self.coordinates, self.gram = coordinates, gram
        self.x, self.y, self.noise, self.mean = x, y, noise, mean
        self.trace: list[dict[str, Any]] = []
        self.started = time.perf_counter()
        self.last: _Evaluation | None = None

    def value_only(self) -> float:
        """The objective at the present values, where there is nothing to differentiate."""
        with torch.no_grad():
            covariance = self.gram(self.x).clone()
            covariance.diagonal().add_(self.coordinates.noise() if self.noise is None else self.noise)
            self.last = _evaluate(covariance, self.y, self.mean)
        return -self.last.value / self.y.numel()

    def __call__(self, u: np.ndarray) -> tuple[float, np.ndarray]:
        coordinates = self.coordinates
        vector = torch.as_tensor(u, dtype=torch.float64)
        coordinates.assign(vector)
        with torch.enable_grad():
            gram = self.gram(self.x)
            noise = coordinates.noise() if self.noise is None else self.noise
        with torch.no_grad():
            covariance = gram.detach().clone()
            covariance.diagonal().add_(noise.detach())
            try:
                found = _evaluate(covariance, self.y, self.mean)
            except InputError:
                if not self.trace:
                    raise
                # a trial step out to where the matrix has no factor: worse than all so far, so the step is cut
                return 1e6 - min(record["value"] for record in self.trace), np.zeros_like(u)
            sensitivity = torch.cholesky_inverse(found.factor).mul_(-0.5 * self.y.shape[1])  # d value / d H
            sensitivity.addmm_(found.weights, found.weights.T, alpha=0.5)
        with torch.enable_grad():
            prior = coordinates.log_prior()
            if gram.requires_grad:
                torch.autograd.backward(gram, sensitivity)
            if self.noise is None:
                torch.autograd.backward(noise, sensitivity.diagonal().sum())
            if prior.requires_grad:
                prior.backward()
        count = self.y.numel()
        value = (found.value + float(prior.detach())) / count
        gradient = coordinates.gradient(vector) / count
        self.last = found
        self.trace.append(
            {
                "step": len(self.trace),
                "value": value,
                "gradient_norm": float(gradient.abs().max()),
                "seconds": time.perf_counter() - self.started,
                "values": coordinates.values(),
            }
        )
        return -value, -gradient.numpy()


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
    memory_budget: int = 4 * 2**30,
    generator: Seed = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
) -> FitResult:
    """Maximise the exact log marginal likelihood plus log priors over a kernel's parameters and the noise variance.

    The constant mean is profiled out: at every step it is the generalised least-squares mean, which
    maximises the likelihood, so its gradient vanishes. GPyTorch priors enter as log densities of the
    constrained values (as in `gpytorch.mlls.ExactMarginalLogLikelihood`), constraints are never left,
    parameters with `requires_grad=False` stay.

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
        max_iterations: L-BFGS iterations per start.
        tolerance: stop when the largest entry of the gradient per row, in log coordinates, is below it.
        memory_budget: bytes; about ten (n, n) float64 matrices must fit.
        generator: needed only for restarts.
        callback: called with every record of the trace.

    Returns:
        FitResult; `converged` is false when the iterations ran out.

    Raises:
        MemoryBudgetError: n is too large for the budget; use `fit_nearest_neighbour`.
        InputError, ShapeError: unusable data.

    Cost: per evaluation n^3 flops and about ten (n, n) matrices.

    Example:
        >>> import torch, gpytorch
        >>> from sggp.hyperparameters import fit_exact
        >>> x = torch.linspace(0, 1, 40, dtype=torch.float64)[:, None]
        >>> fit = fit_exact(gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel()), x, torch.sin(6 * x[:, 0]))
        >>> fit.converged
        True
    """
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
    objective = _Objective(coordinates, gram_function(duplicate), x, y, noise, given_mean)
    best = _minimise(objective, coordinates, restarts, max_iterations, tolerance, generator, callback)
    _log.info("exact marginal likelihood: %s after %d evaluations", best.message, len(objective.trace))
    return FitResult(
        kernel=duplicate.requires_grad_(False),
        noise_variance=public_noise(coordinates.noise().detach() if noise is None else noise),
        mean=public_mean(best.mean.cpu()),
        trace=objective.trace,
        log_marginal_likelihood=best.value,
        method="exact",
        seconds=time.perf_counter() - objective.started,
        converged=best.converged,
        gradient_norm=best.gradient_norm,
        message=best.message,
        unidentified=unidentified_columns(duplicate, x),
        steps=len(objective.trace),
    )


@dataclass(frozen=True)
class _Optimum:
    objective: float
    value: float
    mean: Tensor
    gradient_norm: float
    converged: bool
    message: str


def _minimise(
    objective: _Objective,
    coordinates: Coordinates,
    restarts: int,
    max_iterations: int,
    tolerance: float,
    generator: Seed,
    callback: Callable[[dict[str, Any]], None] | None,
) -> _Optimum:
    """L-BFGS-B from the present values and from scattered ones; the best end is left in the kernel."""
    start = coordinates.vector()
    starts = [start]
    if restarts > 0:
        source = as_generator(generator)
        starts += [
            start + torch.randn(start.shape, generator=source, dtype=start.dtype) for _ in range(restarts)
        ]
    best: tuple[float, np.ndarray, bool, str] | None = None
    for u in starts:
        if coordinates.size == 0:
            best = (0.0, u.numpy(), True, "nothing to learn")
            break
        lower, upper = coordinates.bounds()
        found = minimize(
            objective,
            u.clamp(lower, upper).numpy(),
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(lower.tolist(), upper.tolist(), strict=True)),
            callback=None if callback is None else (lambda _: callback(objective.trace[-1])),
            options={"maxiter": max_iterations, "gtol": tolerance, "ftol": 1e-10, "maxcor": 20},
        )
        if best is None or found.fun < best[0]:
            best = (float(found.fun), found.x, bool(found.success), str(found.message))
    if best is None:
        raise InputError("no start to optimise from.")
    if coordinates.size:
        end, gradient = objective(best[1])
        slope = float(np.abs(gradient).max())
    else:
        end, slope = objective.value_only(), 0.0
    last = objective.last
    if last is None:
        raise InputError("the marginal likelihood was never evaluated.")
    return _Optimum(end, last.value, last.mean, slope, best[2], best[3])
