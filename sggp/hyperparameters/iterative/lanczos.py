"""The value of the log marginal likelihood at any n, by preconditioned stochastic Lanczos quadrature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.arrays import checked_dtype
from sggp.defaults import MEMORY_BUDGET
from sggp.errors import InputError, UnsupportedOperator
from sggp.hyperparameters.coordinates import copy_kernel
from sggp.hyperparameters.gram import LOG_TWO_PI
from sggp.hyperparameters.iterative.quadrature import trace_of_log
from sggp.hyperparameters.merged import MergedData, mean_and_weights, right_sides
from sggp.hyperparameters.problem import FitProblem, Options, at_least
from sggp.operators import KernelOperator
from sggp.preconditioners import Given, NearestNeighbour, Preconditioner, Rooted
from sggp.random import streams
from sggp.solvers import ConjugateGradients

__all__ = ["LogMarginalLikelihood", "log_marginal_likelihood"]

_DEFAULT_NEIGHBOURS = 100
_LEAST_TOLERANCE = 1e-10
_NATS = 0.05
"""What the solve of the data term may leave open of the value, in nats, where the noise allows that bound."""


@dataclass(frozen=True)
class LogMarginalLikelihood:
    """log p(y) = −½ (y − m)ᵀH⁻¹(y − m) − ½ log|H| − ½ n log 2π, and how well it is known.

    Attributes:
        value: summed over rows and targets.
        standard_error: of `value`, over the probes; the only random part.
        log_det: log|H| of the distinct inputs, H = K + Σ. log_det_error: its standard error.
        quadratic: (y − m)ᵀH⁻¹(y − m) of the distinct inputs, summed over targets: from below.
        quadratic_bound: what `quadratic` can be short of at most, ‖r‖²/min σ² for the residual r of its solve.
        mean: the constant mean, (t,).
        residual: largest relative residual of the solve.
        passes: products with K, of all columns at once, and the set-up, in units of n² entries.
        steps: Lanczos steps. num_probes: of them.
    """

    value: float
    standard_error: float
    log_det: float
    log_det_error: float
    quadratic: float
    quadratic_bound: float
    mean: Tensor
    residual: float
    passes: float
    steps: int
    num_probes: int

    def __repr__(self) -> str:
        return (
            f"LogMarginalLikelihood({self.value:.6g} ± {self.standard_error:.2g}, residual {self.residual:.1e}, "
            f"{self.passes:.3g} passes)"
        )


@dataclass(frozen=True)
class LikelihoodSettings:
    """Settings of `log_marginal_likelihood`, where they are explained."""

    preconditioner: Preconditioner | Literal["auto"] | None = "auto"
    num_probes: int = 16
    max_steps: int = 60
    tolerance: float | None = None
    memory_budget: float = MEMORY_BUDGET
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        at_least(self, num_probes=2, max_steps=1, tolerance=0, memory_budget=0)
        known = self.preconditioner in (None, "auto") or isinstance(self.preconditioner, Preconditioner)
        if not known:
            raise InputError(
                f'preconditioner must be "auto", None or one of sggp.preconditioners, got {self.preconditioner!r}.'
            )


OPTIONS = Options(
    "log_marginal_likelihood",
    LikelihoodSettings,
    without=("initial_noise_variance", "noise_floor", "noise_prior", "callback"),
    mean=0.0,
)


@OPTIONS.shown
def log_marginal_likelihood(kernel: Kernel, x: Tensor, y: Tensor, **options: Any) -> LogMarginalLikelihood:
    """The log marginal likelihood by products with K, with its standard error: for comparing fits at any n.

    With P⁻¹ = WWᵀ, log|H| = log|P| + tr log WᵀHW. The first term is exact, the second the mean of uᵀ log(WᵀHW) u over
    random signs u, each by Lanczos quadrature; where tr WᵀHW is known exactly (it is n for neighbour factors), the part
    of the logarithm that is linear in WᵀHW carries no noise. The data term comes from one solve, second order in its
    residual.

    Args:
        kernel: any GPyTorch kernel. x: (n, d) rows. y: (n,) targets, or (n, t) whose values are added.
        noise_variance: a number or (n,). Exact repeats of an input are merged; their share of the value is exact.
        mean: constant mean, default 0; None takes the best one (generalised least squares).
        preconditioner: P; "auto" takes `NearestNeighbour(100)`. None takes the diagonal of H, at the cost of steps and
            of a larger standard error.
        num_probes: random signs; the standard error falls with their square root.
        max_steps: Lanczos steps; they end once five more would move the value by less than a tenth of its standard
            error.
        tolerance: relative residual of the data term; None takes what leaves at most 0.05 nats open, 1e-10 at least.
        generator: seed or generator of the probes and the preconditioner.
        memory_budget: bytes for tiles, and for the Lanczos vectors: 8·n·steps a probe.
        dtype: working precision of products with K; default float64. The Lanczos vectors are
            float64, and kept orthogonal.

    Raises:
        InputError: the data or settings cannot be used.
        UnsupportedOperator: a preconditioner without a square root.

    Cost: about 20 passes over K with `num_probes` columns and those of the solve with 1 + t; memory as above.

    Source: Ubaru, Chen and Saad 2017 (stochastic Lanczos quadrature); Wenger, Pleiss, Hennig, Cunningham and Gardner
        2022 (log|P| exact, the correction estimated). Departures: 1. The square root of a neighbour factor in place of
        a low-rank one. 2. The control by tr WᵀHW. 3. Full orthogonalisation in float64.

    Example:
        >>> import torch, gpytorch
        >>> from sggp.hyperparameters import log_marginal_likelihood
        >>> x = torch.linspace(0, 1, 200, dtype=torch.float64)[:, None]
        >>> kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5)).double()
        >>> found = log_marginal_likelihood(kernel, x, torch.sin(6 * x[:, 0]), noise_variance=0.1, generator=0)
        >>> found.standard_error < 0.01 * abs(found.value)
        True
    """
    return estimate_value(*OPTIONS.read(kernel, x, y, options))


def estimate_value(problem: FitProblem, settings: LikelihoodSettings) -> LogMarginalLikelihood:
    """`log_marginal_likelihood` of a checked problem."""
    work = checked_dtype(settings.dtype) or torch.float64  # nothing refines what rounding does to a trace
    data = MergedData(problem.x, problem.y)
    row_noise = data.row_noise(problem.known_noise())
    operator = KernelOperator(
        copy_kernel(problem.kernel, problem.x.device).requires_grad_(False),
        data.rows,
        data.groups.noise(row_noise),
        dtype=work,
        memory_budget=settings.memory_budget,
    )
    setting, probing, solving = streams(problem.generator, "preconditioner", "probes", "solver")
    built, exact_trace = _build(settings.preconditioner, operator, setting)
    targets = data.means(data.y, row_noise)
    term = _data_term(operator, built, targets, problem.mean, settings.tolerance, solving)
    bits = torch.randint(2, (data.size, settings.num_probes), generator=probing, dtype=torch.float64)
    trace = trace_of_log(
        lambda v: built.root_transpose(operator.matmul(built.root(v).to(work)).double()),
        (2.0 * bits - 1.0).to(problem.x.device),
        settings.max_steps,
        exact_trace=exact_trace,
        memory_budget=settings.memory_budget,
    )
    t, g = data.y.shape[1], data.size
    total = built.log_det + trace.value  # log|H| = log|P| + tr log WᵀHW
    value = -0.5 * (term.quadratic + t * total + t * g * LOG_TWO_PI) + float(data.within(row_noise))
    return LogMarginalLikelihood(
        value=value,
        standard_error=0.5 * t * trace.error,
        log_det=total,
        log_det_error=trace.error,
        quadratic=term.quadratic,
        quadratic_bound=term.bound,
        mean=term.mean.cpu(),
        residual=term.residual,
        passes=operator.entries_evaluated / g**2,
        steps=trace.steps,
        num_probes=trace.num_probes,
    )


@dataclass(frozen=True)
class _DataTerm:
    quadratic: float
    bound: float
    mean: Tensor
    residual: float


class _Diagonal:
    """P = diag(H)."""

    def __init__(self, diagonal: Tensor) -> None:
        self._scale = diagonal.double().rsqrt()[:, None]
        self.log_det = float(-2 * self._scale.log().sum())

    def apply(self, v: Tensor) -> Tensor:
        return (self._scale.square() * v.double()).to(v.dtype)

    def root(self, v: Tensor) -> Tensor:
        return self._scale * v.double()

    root_transpose = root


def _build(
    preconditioner: Preconditioner | Literal["auto"] | None,
    operator: KernelOperator,
    generator: torch.Generator,
) -> tuple[Rooted, bool]:
    """P, and whether tr WᵀHW = n: for the diagonal, and for neighbour factors, whose columns solve w = H_SS⁻¹e."""
    if preconditioner is None:
        return _Diagonal(operator.kernel_diagonal() + operator.noise_variance), True
    if isinstance(preconditioner, str):
        preconditioner = NearestNeighbour(_DEFAULT_NEIGHBOURS)
    built = preconditioner.build(operator, generator)
    if not isinstance(built, Rooted):
        raise UnsupportedOperator(
            f"{type(preconditioner).__name__} offers no square root of its inverse (root, root_transpose), which a log "
            "determinant needs; use NearestNeighbour or LowRankPlusNeighbour."
        )
    return built, isinstance(preconditioner, NearestNeighbour)


def _data_term(
    operator: KernelOperator,
    built: Rooted,
    targets: Tensor,
    mean: Tensor | None,
    tolerance: float | None,
    generator: torch.Generator,
) -> _DataTerm:
    """2bᵀv − vᵀHv ≤ bᵀH⁻¹b, short of it by rᵀH⁻¹r with r = b − Hv."""
    t, least = targets.shape[1], float(operator.noise_variance.min())
    if tolerance is None:
        size = float((targets - targets.mean(dim=0)).square().sum().sqrt())
        open_ = math.sqrt(2 * _NATS * least / t) / size if size > 0 else 1.0
        tolerance = min(1e-3, max(_LEAST_TOLERANCE, open_))
    solution = ConjugateGradients(Given(built)).solve(
        operator, right_sides(targets, mean), tolerance=tolerance, generator=generator, on_failure="return"
    )
    mean, v = mean_and_weights(torch.nan_to_num(solution.x.double()), mean)
    centred = targets - mean
    product = operator.matmul_wide(v)
    residual = float((centred - product).square().sum())
    return _DataTerm(
        quadratic=float((v * (2 * centred - product)).sum()),
        bound=residual / least if least > 0 else math.inf if residual > 0 else 0.0,
        mean=mean,
        residual=float(torch.nan_to_num(solution.residual, nan=math.inf).max()),
    )
