"""Output scale and noise variance from posterior samples: expectation maximisation in function space."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gpytorch.kernels import Kernel, ScaleKernel
from torch import Tensor

from sggp.defaults import MEMORY_BUDGET, NUM_FEATURES, NUM_SAMPLES
from sggp.errors import InputError, UnsupportedKernel
from sggp.hyperparameters.coordinates import Coordinates, copy_kernel
from sggp.hyperparameters.iterative.probes import Probes
from sggp.hyperparameters.iterative.warm_start import WarmSolves, default_tolerances
from sggp.hyperparameters.merged import MergedData
from sggp.hyperparameters.problem import check_data, check_mean, check_noise, public_mean, target_scale
from sggp.hyperparameters.result import FitResult
from sggp.posterior import Posterior
from sggp.posterior.data import Data
from sggp.posterior.solving import Process, SolveOptions, posterior_tolerances
from sggp.random import as_generator, streams
from sggp.solvers import Solver
from sggp.typing import Seed

__all__ = ["Moments", "fit_em", "updated"]


@dataclass(frozen=True)
class Moments:
    """What the posterior says of scale and noise.

    Attributes:
        effective_dimension: γ = tr(K H⁻¹), with `effective_dimension_error` its Monte Carlo standard error.
        fit_norm: αᵀKα of the mean, α = H⁻¹(y − m). misfit: ‖y − μ(X)‖².
    """

    effective_dimension: float
    fit_norm: float
    misfit: float
    effective_dimension_error: float = 0.0


def updated(
    outputscale: float | None, noise_variance: float | None, moments: Moments, n: int
) -> tuple[float | None, float | None]:
    """s²·αᵀKα/γ and ‖y − μ(X)‖²/(n − γ); None stays None, and a value that cannot be updated stays.

    An estimate of γ that leaves nothing for the noise keeps one degree of freedom for it.
    """
    gamma = moments.effective_dimension
    if outputscale is not None and gamma > 0 and moments.fit_norm > 0:
        outputscale = outputscale * moments.fit_norm / gamma
    if noise_variance is not None and moments.misfit > 0:
        noise_variance = moments.misfit / max(n - gamma, 1.0)
    return outputscale, noise_variance


def fit_em(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    *,
    noise_variance: float | None = None,
    mean: float | None = None,
    initial_noise_variance: float | None = None,
    noise_floor: float | None = None,
    solver: Solver | None = None,
    num_samples: int = NUM_SAMPLES,
    num_features: int = NUM_FEATURES,
    max_steps: int = 30,
    tolerance: float = 1e-2,
    max_epochs: float | None = None,
    dtype: torch.dtype | None = None,
    memory_budget: float = MEMORY_BUDGET,
    generator: Seed = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
) -> FitResult:
    """Refine output scale s² and noise variance λ by posterior samples, at the length scales that the kernel has.

    Zero-mean posterior samples g_j have covariance λKH⁻¹ at the rows, so γ = tr(KH⁻¹) = E‖g_j(X)‖²/λ, and

        s² ← s² αᵀKα / γ,    λ ← ‖y − μ(X)‖² / (n − γ),    α = H⁻¹(y − m),

    stands still exactly where the log marginal likelihood does. K times a representer weight is known from its solve,
    so a step needs no product beside it. Every solve starts from the last, and the samples are re-parametrised as
    in `fit_iterative`. Convergence is linear, and slow where γ is close to n or to 0.

    Args:
        kernel: a `ScaleKernel` around any kernel with random features, Tanimoto kernels included. It is copied, never
            changed; what is below the scale stays, and so does a scale with `requires_grad=False`.
        x: (n, d) rows; exact repeats are merged. y: (n,) targets.
        noise_variance: a known noise variance that stays; None refines it.
        mean: a known constant mean; None takes the generalised least-squares one of every step.
        initial_noise_variance: where the noise starts; default a tenth of the variance of y.
        noise_floor: refined noise stays above it; default 1e-6 of the variance of y.
        solver, max_epochs, dtype, memory_budget: as in `fit_iterative`.
        num_samples: s; the standard error of γ is in the trace.
        num_features: of the prior draws.
        max_steps: budget.
        tolerance: stop once neither value moves by more than this share of itself.
        generator: seed or generator of all draws.
        callback: called with every record of the trace: `values`, `effective_dimension` with its standard error,
            `residual` (worst target, worst sample), `epochs`, `seconds`; `value` is NaN.

    Returns:
        FitResult with the posterior of the last step; priors are not used. `log_marginal_likelihood` is NaN: see
        `log_marginal_likelihood`.

    Raises:
        InputError: per-point noise (there is no single value to refine), several targets, unusable data.
        UnsupportedKernel: the outermost kernel is not a `ScaleKernel`. NoRandomFeatures: it has none.

    Cost: a solve of 2 + s columns a step.

    Source: MacKay 1992 (effective dimension); Antorán et al. 2023, section 3.3 (by samples). Departures: 1. In function
        space, where sums over rows take the place of sums over weights. 2. γ = n − tr(ΣH⁻¹) by the samples' weights and
        their duals (`iterative.probes`): the mean of ‖g_j(X)‖²/λ carries the error of the random features.

    Example:
        >>> import torch, gpytorch
        >>> from sggp.hyperparameters import fit_em
        >>> x = torch.linspace(0, 1, 40, dtype=torch.float64)[:, None]
        >>> kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5))
        >>> fit_em(kernel, x, torch.sin(6 * x[:, 0]), noise_variance=0.01, generator=0).method
        'em'
    """
    began = time.perf_counter()
    raw, (x, y) = x, check_data(x, y)
    noise = check_noise(noise_variance, len(x))
    if noise is not None and (noise.dim() or float(noise) == 0):
        raise InputError(
            "fit_em needs one positive noise variance for all rows, known or refined; got "
            f"{'0' if not noise.dim() else f'{len(noise)} of them'}: pass a number or None, or use fit_iterative."
        )
    if y.shape[1] != 1 or num_samples < 2 or max_steps < 1:
        raise InputError(
            "fit_em needs one target, num_samples ≥ 2 and max_steps ≥ 1; got "
            f"{y.shape[1]}, {num_samples} and {max_steps}."
        )
    if not isinstance(kernel, ScaleKernel):
        raise UnsupportedKernel(
            f"fit_em refines the output scale of a ScaleKernel, got {type(kernel).__name__}: wrap it in one."
        )
    em = _Expectation(
        copy_kernel(kernel, x.device),
        MergedData(x, y),
        noise,
        check_mean(mean, 1),
        _Options(solver, num_samples, num_features, max_steps, tolerance, max_epochs, float(memory_budget)),
        dtype if dtype is not None else raw.dtype if raw.is_floating_point() else torch.float32,
        as_generator(generator),
    )
    em.noise = float(initial_noise_variance or 0.1 * em.scale) if noise is None else float(noise)
    em.floor = 1e-6 * em.scale if noise_floor is None else noise_floor
    settled = em.run(callback, began)
    return em.result(raw, settled, began)


@dataclass(frozen=True)
class _Options:
    solver: Solver | None
    num_samples: int
    num_features: int
    max_steps: int
    tolerance: float
    max_epochs: float | None
    memory_budget: float


class _Expectation:
    """The values, the draws and the solves of one refinement."""

    def __init__(
        self,
        kernel: ScaleKernel,
        data: MergedData,
        noise: Tensor | None,
        mean: Tensor | None,
        options: _Options,
        dtype: torch.dtype,
        generator: torch.Generator,
    ) -> None:
        self.kernel, self.data, self.options = kernel, data, options
        self.known_noise, self.known_mean = noise is not None, mean
        self.moves_scale = bool(kernel.raw_outputscale.requires_grad)
        self.scale = max(target_scale(data.y, mean), 1e-300)
        self.noise, self.floor = 0.0, 0.0
        drawing, solving, self.ending = streams(generator, "probes", "solver", "posterior")
        self.probes = Probes(
            kernel, data, options.num_samples, options.num_features, drawing, need_features=True
        )
        self.solves = WarmSolves(
            options.solver,
            data.rows,
            options.num_samples + 2,
            dtype=dtype,
            memory_budget=options.memory_budget,
            max_epochs=options.max_epochs,
            generator=solving,
        )
        self.trace: list[dict[str, Any]] = []
        self.mean = 0.0

    def run(self, callback: Callable[[dict[str, Any]], None] | None, began: float) -> bool:
        """Steps until they settle; the solves are those of the values left in place."""
        for step in range(self.options.max_steps):
            moments = self._moments()
            scale = float(self.kernel.outputscale.detach())
            new_scale, new_noise = updated(
                scale if self.moves_scale else None,
                None if self.known_noise else self.noise,
                moments,
                self.data.n,
            )
            new_noise = None if new_noise is None else max(new_noise, self.floor)
            moved = max(_move(new_scale, scale), _move(new_noise, self.noise))
            self._record(step, moments, began)
            if callback is not None:
                callback(self.trace[-1])
            if moved <= self.options.tolerance or step == self.options.max_steps - 1:
                return moved <= self.options.tolerance
            if new_scale is not None:
                _set_outputscale(self.kernel, new_scale)
            if new_noise is not None:
                self.noise = new_noise
        return False

    def _moments(self) -> Moments:
        data = self.data
        row_noise = data.row_noise(data.y.new_tensor(self.noise))
        noise = data.groups.noise(row_noise)
        operator = self.solves.operator(self.kernel, noise)
        targets, z = data.means(data.y, row_noise), self.probes.at(self.kernel, row_noise)
        first = torch.ones_like(targets) if self.known_mean is None else targets[:, :0]
        given = targets if self.known_mean is None else targets - self.known_mean.to(targets)
        tight, loose = default_tolerances(noise, operator.diagonal().double())
        tolerance = torch.full((first.shape[1] + 1 + z.shape[1],), loose, dtype=torch.float64)
        tolerance[: first.shape[1] + 1] = tight
        place = torch.tensor([float(self.kernel.outputscale.detach()), self.noise], dtype=torch.float64)
        x = self.solves.solve(
            operator, torch.cat([first, given, z], dim=1), tolerance, place.log()
        ).x.double()
        x = torch.nan_to_num(x)
        if self.known_mean is None:
            self.mean = float(x[:, 1].sum() / x[:, 0].sum())
            self.weights = torch.cat([x[:, 1:2] - self.mean * x[:, :1], x[:, 2:]], dim=1)
        else:
            self.mean, self.weights = float(self.known_mean), x
        alpha, centred = self.weights[:, 0], targets[:, 0] - self.mean
        misses = noise * alpha  # Hα = b, so that b − Kα = Σα
        duals = self.probes.duals(self.kernel, row_noise, z)
        if duals is None:
            raise InputError("a noise variance of 0 has no effective dimension: raise noise_floor above 0.")
        terms = data.size - (noise[:, None] * self.weights[:, 1:] * duals).sum(dim=0)
        return Moments(
            effective_dimension=float(terms.mean()),
            fit_norm=float(alpha @ (centred - misses)),
            misfit=data.sum_of_squares(row_noise) + float((data.counts * misses.square()).sum()),
            effective_dimension_error=float(terms.std()) / len(terms) ** 0.5,
        )

    def _record(self, step: int, moments: Moments, began: float) -> None:
        solution = self.solves.last
        residual = torch.zeros(1) if solution is None else solution.residual
        targets = len(residual) - self.options.num_samples
        self.trace.append(
            {
                "step": step,
                "value": math.nan,
                "effective_dimension": moments.effective_dimension,
                "effective_dimension_error": moments.effective_dimension_error,
                "residual": {
                    "target": float(residual[:targets].max()),
                    "sample": float(residual[targets:].max()),
                },
                "epochs": self.solves.epochs,
                "seconds": time.perf_counter() - began,
                "values": {
                    **Coordinates(self.kernel).values(),
                    "noise_variance": self.noise,
                    "mean": self.mean,
                },
            }
        )

    def result(self, raw: Tensor, settled: bool, began: float) -> FitResult:
        """The last values, and the posterior that their solves are."""
        options, y = self.options, self.data.y[:, 0]
        self.kernel.requires_grad_(False)
        row_noise = self.data.row_noise(self.data.y.new_tensor(self.noise)).contiguous()
        solving = SolveOptions(
            solver=options.solver,
            tolerance=posterior_tolerances(y - self.mean, row_noise),
            num_features=options.num_features,
            dtype=self.solves.dtype,
            memory_budget=options.memory_budget,
        )
        posterior = Posterior.from_weights(
            Process(self.kernel, self.mean, self.probes.prior(self.kernel), solving),
            Data(raw.detach(), y, row_noise, self.probes.noise(row_noise)),
            self.weights,
            self.ending,
            solver=self.solves.solver,
        )
        last, state = self.trace[-1], "settled" if settled else "budget of steps spent"
        return FitResult(
            kernel=self.kernel,
            noise_variance=self.noise,
            mean=public_mean(torch.tensor([self.mean], dtype=torch.float64)),
            trace=self.trace,
            log_marginal_likelihood=math.nan,
            method="em",
            seconds=time.perf_counter() - began,
            converged=settled,
            log_marginal_likelihood_error=math.nan,
            message=(
                f"{state} after {len(self.trace)} steps; effective dimension {last['effective_dimension']:.4g} ± "
                f"{last['effective_dimension_error']:.2g}"
            ),
            steps=len(self.trace),
            posterior=posterior,
        )


def _move(new: float | None, old: float) -> float:
    return 0.0 if new is None else abs(math.log(new / old))


def _set_outputscale(kernel: ScaleKernel, value: float) -> None:
    """Set the scale, within its constraint."""
    constraint = kernel.raw_outputscale_constraint
    low, high = float(constraint.lower_bound.min()), float(constraint.upper_bound.max())
    margin = 1e-9 * max(abs(value), 1e-300)
    kernel.outputscale = min(max(value, low + margin), high - margin)
