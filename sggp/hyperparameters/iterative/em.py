"""Output scale and noise variance from posterior samples: expectation maximisation in function space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from gpytorch.kernels import Kernel, ScaleKernel
from torch import Tensor

from sggp.autograd import with_gradients
from sggp.defaults import MEMORY_BUDGET, NUM_FEATURES, NUM_SAMPLES
from sggp.errors import InputError, UnsupportedKernel
from sggp.hyperparameters.coordinates import Coordinates, copy_kernel
from sggp.hyperparameters.iterative.posterior import posterior_of
from sggp.hyperparameters.iterative.probes import Probes
from sggp.hyperparameters.iterative.warm_start import WarmSolves
from sggp.hyperparameters.merged import MergedData
from sggp.hyperparameters.problem import FitProblem, Options, at_least
from sggp.hyperparameters.result import FitResult
from sggp.random import streams
from sggp.running import stop_asked, time_is_up
from sggp.solvers import Solver

__all__ = ["PosteriorMoments", "fit_em", "updated"]


@dataclass(frozen=True)
class EmSettings:
    """Settings of `fit_em`, where they are explained."""

    solver: Solver | None = None
    num_samples: int = NUM_SAMPLES
    num_features: int = NUM_FEATURES
    max_steps: int = 30
    tolerance: float = 1e-2
    max_epochs: float | None = None
    dtype: torch.dtype | None = None
    memory_budget: float = MEMORY_BUDGET

    def __post_init__(self) -> None:
        at_least(self, num_samples=2, num_features=1, max_steps=1, tolerance=0, max_epochs=0, memory_budget=0)


OPTIONS = Options("fit_em", EmSettings, without=("noise_prior",))


@dataclass(frozen=True)
class PosteriorMoments:
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
    outputscale: float | None, noise_variance: float | None, moments: PosteriorMoments, n: int
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


@OPTIONS.shown
@with_gradients()
def fit_em(kernel: Kernel, x: Tensor, y: Tensor, **options: Any) -> FitResult:
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
        initial_noise_variance, noise_floor: as in `learn_hyperparameters`.
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
    return refine_em(*OPTIONS.read(kernel, x, y, options))


def refine_em(problem: FitProblem, settings: EmSettings) -> FitResult:
    """`fit_em` of a checked problem."""
    noise = problem.noise
    if noise is not None and (noise.dim() or float(noise) == 0):
        raise InputError(
            "fit_em needs one positive noise variance for all rows, known or refined; got "
            f"{'0' if not noise.dim() else f'{len(noise)} of them'}: pass a number or None, or use fit_iterative."
        )
    if problem.y.shape[1] != 1:
        raise InputError(
            f"fit_em needs one target, got {problem.y.shape[1]}: refine for each of them on its own."
        )
    if not isinstance(problem.kernel, ScaleKernel):
        raise UnsupportedKernel(
            f"fit_em refines the output scale of a ScaleKernel, got {type(problem.kernel).__name__}: wrap it in one."
        )
    refinement = _Expectation(problem, settings)
    return refinement.result(refinement.run())


class _Expectation:
    """The values, the draws and the solves of one refinement."""

    def __init__(self, problem: FitProblem, settings: EmSettings) -> None:
        self.problem, self.settings = problem, settings
        self.kernel: Any = copy_kernel(problem.kernel, problem.x.device)
        self.data = MergedData(problem.x, problem.y)
        self.moves_scale = bool(self.kernel.raw_outputscale.requires_grad)
        self.noise = problem.starting_noise if problem.noise is None else float(problem.noise)
        drawing, solving, self.ending = streams(problem.generator, "probes", "solver", "posterior")
        samples = settings.num_samples
        self.probes = Probes(
            self.kernel, self.data, samples, settings.num_features, drawing, need_features=True
        )
        self.solves = WarmSolves(
            settings.solver,
            self.data.rows,
            samples + 2,
            dtype=problem.precision(settings.dtype),
            memory_budget=settings.memory_budget,
            max_epochs=settings.max_epochs,
            generator=solving,
        )
        self.trace = problem.trace()
        self.mean = 0.0

    def run(self) -> bool:
        """Steps until they settle; the solves are those of the values left in place."""
        for step in range(self.settings.max_steps):
            moments = self._moments()
            scale = float(self.kernel.outputscale.detach())
            new_scale, new_noise = updated(
                scale if self.moves_scale else None,
                self.noise if self.problem.noise is None else None,
                moments,
                self.data.n,
            )
            new_noise = None if new_noise is None else max(new_noise, self.problem.noise_floor)
            pairs = ((new_scale, scale), (new_noise, self.noise))
            moved = max(0.0 if new is None else abs(math.log(new / old)) for new, old in pairs)
            self._record(step, moments)
            last = step == self.settings.max_steps - 1 or stop_asked() is not None or time_is_up()
            if moved <= self.settings.tolerance or last:
                return moved <= self.settings.tolerance
            if new_scale is not None:
                constraint = self.kernel.raw_outputscale_constraint
                low, high = float(constraint.lower_bound.min()), float(constraint.upper_bound.max())
                margin = 1e-9 * max(abs(new_scale), 1e-300)
                self.kernel.outputscale = min(max(new_scale, low + margin), high - margin)
            if new_noise is not None:
                self.noise = new_noise
        return False

    def _moments(self) -> PosteriorMoments:
        data = self.data
        row_noise = data.row_noise(data.y.new_tensor(self.noise))
        noise = data.groups.noise(row_noise)
        operator = self.solves.operator(self.kernel, noise)
        targets, z = data.means(data.y, row_noise), self.probes.at(self.kernel, row_noise)
        place = torch.tensor([float(self.kernel.outputscale.detach()), self.noise], dtype=torch.float64)
        self.solved = self.solves.solve(operator, targets, z, self.problem.mean, place.log())
        self.mean = float(self.solved.mean)
        alpha, centred = self.solved.targets[:, 0], targets[:, 0] - self.mean
        misses = noise * alpha  # Hα = b, so that b − Kα = Σα
        duals = self.probes.duals(self.kernel, row_noise, z)
        if duals is None:
            raise InputError("a noise variance of 0 has no effective dimension: raise noise_floor above 0.")
        # γ = n − tr(ΣH⁻¹), the trace as the mean of v_jᵀΣw_j over samples; αᵀKα = αᵀ(b − Σα)
        terms = data.size - (noise[:, None] * self.solved.probes * duals).sum(dim=0)
        return PosteriorMoments(
            effective_dimension=float(terms.mean()),
            fit_norm=float(alpha @ (centred - misses)),
            misfit=data.sum_of_squares(row_noise) + float((data.counts * misses.square()).sum()),
            effective_dimension_error=float(terms.std()) / len(terms) ** 0.5,
        )

    def _record(self, step: int, moments: PosteriorMoments) -> None:
        target, _, sample = self.solved.residuals
        self.trace.add(
            step,
            math.nan,
            math.nan,
            {**Coordinates(self.kernel).values(), "noise_variance": self.noise, "mean": self.mean},
            effective_dimension=moments.effective_dimension,
            effective_dimension_error=moments.effective_dimension_error,
            residual={"target": target, "sample": sample},
            epochs=self.solves.epochs,
        )
        self.trace.report()

    def result(self, settled: bool) -> FitResult:
        """The last values, and the posterior that their solves are."""
        self.kernel.requires_grad_(False)
        row_noise = self.data.row_noise(self.data.y.new_tensor(self.noise))
        records = self.trace.records
        state, last = "settled" if settled else "budget of steps spent", records[-1]
        return self.problem.result(
            "em",
            self.kernel,
            self.noise,
            self.solved.mean,
            trace=records,
            log_marginal_likelihood=math.nan,
            log_marginal_likelihood_error=math.nan,
            converged=settled,
            message=(
                f"{state} after {len(records)} steps; effective dimension {last['effective_dimension']:.4g} ± "
                f"{last['effective_dimension_error']:.2g}"
            ),
            unidentified_columns=(),
            steps=len(records),
            posterior=posterior_of(
                self.problem, self.kernel, row_noise, self.solved, self.probes, self.solves, self.ending
            ),
        )
