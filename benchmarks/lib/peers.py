"""What others would do, written as they would: GPyTorch's conjugate gradients, a dense factor, textbook SDD.

Each takes a `System` and (n, s) right-hand sides and gives the predictions K(xs, x) A on its test rows, (m, s).
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable
from unittest.mock import patch

import gpytorch
import linear_operator
import torch
from torch import Tensor

from lib.systems import System

__all__ = ["dense_bytes", "dense_cholesky", "gpytorch_columns", "gpytorch_mean", "matern32", "textbook_sdd"]

_TILE_BYTES = 256 * 2**20


def matern32(a: Tensor, b: Tensor, outputscale: float) -> Tensor:  # (n, d), (m, d) -> (n, m)
    """Matérn-3/2 of rows already divided by their length scales."""
    distance = math.sqrt(3.0) * torch.cdist(a, b)
    return outputscale * (1.0 + distance) * torch.exp(-distance)


def _scaled(system: System, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, float]:
    return (x / system.kernel.base_kernel.lengthscale).to(dtype), float(system.kernel.outputscale)


def _predict(system: System, weights: Tensor) -> Tensor:
    x, scale = _scaled(system, system.x, weights.dtype)
    xs, _ = _scaled(system, system.xs, weights.dtype)
    rows = max(1, _TILE_BYTES // (8 * len(x)))
    return torch.cat([matern32(tile, x, scale) @ weights for tile in xs.split(rows)]).double()


def dense_bytes(system: System, dtype: torch.dtype) -> int:
    """Bytes of K and of its factor beside it."""
    return 2 * system.n**2 * (torch.finfo(dtype).bits // 8)


def dense_cholesky(system: System, rhs: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """A dense factor in the given precision, K filled by tiles."""
    x, scale = _scaled(system, system.x, dtype)
    dense = torch.empty(len(x), len(x), dtype=dtype)
    for rows in torch.arange(len(x)).split(max(1, _TILE_BYTES // (8 * len(x)))):
        dense[rows] = matern32(x[rows], x, scale)
    dense.diagonal().copy_(scale + system.noise_vector.to(dtype))
    factor = torch.linalg.cholesky(dense)
    return _predict(system, torch.cholesky_solve(rhs.to(dtype), factor))


class _ExactModel(gpytorch.models.ExactGP):
    def __init__(self, x, y, likelihood, kernel) -> None:
        super().__init__(x, y, likelihood)
        self.mean_module = gpytorch.means.ZeroMean()
        self.covar_module = kernel

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


class _Counted:
    """GPyTorch's conjugate gradients for everything above one row, its products counted, its warning kept."""

    def __init__(self, tolerance: float, rank: int) -> None:
        self.tolerance, self.rank, self.products, self.unfinished = tolerance, rank, 0, False

    def __call__(self, work: Callable[[], Tensor]) -> Tensor:
        plain = linear_operator.utils.linear_cg

        def counting(closure, *args, **kwargs):
            product = closure.matmul if isinstance(closure, torch.Tensor) else closure

            def counted(v):
                self.products += 1
                return product(v)

            return plain(counted, *args, **kwargs)

        settings = gpytorch.settings
        with (
            torch.no_grad(),
            settings.max_cholesky_size(1),
            settings.eval_cg_tolerance(self.tolerance),
            settings.cg_tolerance(self.tolerance),
            settings.max_cg_iterations(1000),
            settings.max_preconditioner_size(self.rank),
            settings.skip_posterior_variances(True),
            patch("linear_operator.utils.linear_cg", new=counting),
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always")
            found = work()
        self.unfinished = any("CG terminated" in str(w.message) for w in caught)
        return found

    @property
    def note(self) -> str:
        return "stopped at 1000 steps" if self.unfinished else "its own tolerance met"


def gpytorch_mean(system: System, tolerance: float, rank: int) -> tuple[Tensor, int, str]:
    """GPyTorch's exact prediction, float32, conjugate gradients forced: (m,) mean, products with K, a note."""
    counted, kernel = _Counted(tolerance, rank), copy.deepcopy(system.kernel).float()

    def work() -> Tensor:
        above = gpytorch.constraints.GreaterThan(1e-8)  # its default bound is above some published noises
        likelihood = gpytorch.likelihoods.GaussianLikelihood(noise_constraint=above)
        likelihood.noise = float(system.noise)
        model = _ExactModel(system.x.float(), system.y.float(), likelihood, kernel).eval()
        likelihood.eval()
        return model(system.xs.float()).mean.double()

    return counted(work), counted.products, counted.note


def gpytorch_columns(system: System, rhs: Tensor, tolerance: float, rank: int) -> tuple[Tensor, int, str]:
    """The same conjugate gradients on given columns and any noise: (m, s) predictions, products, a note."""
    counted, kernel = _Counted(tolerance, rank), copy.deepcopy(system.kernel).float()

    def work() -> Tensor:
        x = system.x.float()
        noise = linear_operator.operators.DiagLinearOperator(system.noise_vector.float())
        weights = (kernel(x) + noise).solve(rhs.float())
        return (kernel(system.xs.float(), x).to_dense() @ weights).double()

    return counted(work), counted.products, counted.note


def textbook_sdd(
    system: System,
    rhs: Tensor,
    measure: Callable[[Tensor], float],
    targets: tuple[float, ...],
    *,
    scaled_step: float,
    cap_seconds: float,
    steps: int = 100_000,
    batch: int = 512,
    momentum: float = 0.9,
) -> tuple[dict[float, tuple[float, int]], int, str]:
    """Stochastic dual descent at its published setting: βn = `scaled_step`, r = 100/steps, no stopping rule.

    The predictions are measured with the clock stopped, at steps that grow by 5 %.

    Args:
        measure: the error of (m, s) predictions. targets: errors to reach.
        cap_seconds: seconds of work allowed.

    Returns:
        target -> (seconds, steps) for those reached, the steps done, and a note.

    Source: Lin et al. 2024 (arXiv 2310.20581), algorithm 1.
    """
    x, scale = _scaled(system, system.x, torch.float32)
    n, target, noise = len(x), rhs.float(), system.noise_vector.float()
    batch, beta, keep = min(batch, n), scaled_step / n, 100.0 / steps
    weights, velocity, average = (torch.zeros_like(target) for _ in range(3))
    generator = torch.Generator().manual_seed(0)
    reached: dict[float, tuple[float, int]] = {}
    spent, check = 0.0, 20
    for step in range(1, steps + 1):
        begin = time.perf_counter()
        rows = torch.randint(n, (batch,), generator=generator)
        probe = weights + momentum * velocity
        gradient = matern32(x[rows], x, scale) @ probe + noise[rows, None] * probe[rows] - target[rows]
        velocity *= momentum
        velocity.index_add_(0, rows, gradient, alpha=-beta * n / batch)
        weights += velocity
        average.lerp_(weights, keep)
        spent += time.perf_counter() - begin
        if step >= check or spent > cap_seconds or step == steps:
            check = math.ceil(1.05 * step)
            error = measure(_predict(system, average))
            reached.update({t: (spent, step) for t in targets if t not in reached and error <= t})
            if not math.isfinite(error):
                return reached, step, "diverged"
            if len(reached) == len(targets):
                return reached, step, ""
            if spent > cap_seconds:
                return reached, step, f"> {cap_seconds:.3g} s, at {error:.1e}"
    return reached, steps, f"all {steps} steps done in {spent:.3g} s, at {error:.1e}"
