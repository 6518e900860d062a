"""Bayesian linear models on any features, by samples."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from sggp.checks import finite_number, one_of, whole_number
from sggp.errors import DtypeError, InputError, NotConverged, ShapeError, SolverFailure
from sggp.linear.design import Design, precision_root
from sggp.linear.expectation import EvidenceOptions, Outcome, Target, evidence_steps
from sggp.linear.features import Features, as_features, real_targets
from sggp.linear.posterior import LinearPosterior
from sggp.random import as_generator, streams
from sggp.solvers import ConjugateGradients, Solver
from sggp.typing import FailurePolicy, Seed

__all__ = ["BayesianLinearModel"]


@dataclass(frozen=True, eq=False)
class BayesianLinearModel:
    """y_i = φ(x_i)θ + η_i with θ ~ N(0, A⁻¹) and η_i ~ N(0, B_i⁻¹), by its mean and posterior samples.

    θ̄ = H⁻¹ΦᵀBy with H = A + ΦᵀBΦ. A sample minimises ½‖Φz‖²_B + ½‖z − θⁿ‖²_A with θⁿ = θ⁰ + A⁻¹ΦᵀBε, θ⁰ ~ N(0, A⁻¹),
    ε ~ N(0, B⁻¹); mean and samples are columns of one linear system, and only products with Φ and Φᵀ are used. Here
    A = α diag(s)⁻² and B_i = B⁰_i/σ², and α and σ² are learnt: γ̂ = (1/k)Σ_j‖Φζ_j‖²_B, α ← γ̂/‖θ̄‖²_{diag(s)⁻²},
    σ² ← ‖y − Φθ̄‖²_{B⁰}/(n·o − γ̃), until neither moves. Fixed points are stationary points of the marginal likelihood,
    up to the Monte Carlo error of γ̂ and of n·o − γ̃ = n·o·ρ̂/(γ̂ + ρ̂), ρ̂ being the mean square of B^½(ε_j − Φζ_j), what
    weights leave of data drawn from the prior: right to √(2/k) of itself also where the weights explain nearly all.

    Args:
        prior_precision: α > 0; None learns it.
        noise_variance: σ² > 0; None learns it.
        prior_scale: s: "ones", a tensor (D,) of positive numbers, or "g-prior" for s_d = [ΦᵀB⁰Φ]_dd^(-1/2), which makes
            one α fit features of any scale, and conditions the system as Jacobi's preconditioner does. None: "g-prior"
            where α is learnt, "ones" where it is given.
        num_samples: k.
        solver: any of `sggp.solvers` that needs products only (`ConjugateGradients`), or `StochasticGradientDescent`
            for minibatches with momentum and averaging, whose step is found by power iteration.
        tolerance: relative residual of mean and samples.
        max_steps: the most evidence updates.
        step_tolerance: α and σ² have settled once neither changes by more than this share.
        probes: columns that estimate the scale of the g-prior, to a relative standard error of √(2/probes).

    Raises:
        InputError: a setting is out of range.

    Cost:
        An evidence update solves 1 + k columns; each product is 4·n·o·D·(1 + k) flops with dense features. Memory about
        6·D·(1 + k) numbers beside the features.

    Source: Antorán et al. 2023 (Sampling-based inference for large linear models), section 3 and its low-variance
    objective; MacKay 1992 for the updates. Departures:
        1. Conjugate gradients on the normal equation by default: no step size and a residual that is measured. 2. With
        `StochasticGradientDescent`, anchors that follow the average take the place of a fixed target, so that a
        constant step converges. 3. The random numbers are kept over all updates, so that the updates settle. 4. Scales
        of the g-prior are bounded from above by 10³ times the one of mean Fisher information.
    """

    prior_precision: float | None = None
    noise_variance: float | None = None
    prior_scale: Tensor | Literal["g-prior", "ones"] | None = None
    num_samples: int = 32
    solver: Solver = field(default_factory=lambda: ConjugateGradients(preconditioner=None))
    tolerance: float = 1e-4
    max_steps: int = 100
    step_tolerance: float = 1e-3
    probes: int = 64

    def __post_init__(self) -> None:
        for name in ("prior_precision", "noise_variance", "tolerance", "step_tolerance"):
            value = getattr(self, name)
            learnt = value is None and name in ("prior_precision", "noise_variance")
            if not learnt and finite_number(value, name) <= 0:
                raise InputError(f"{name} must be positive and finite, got {value}.")
        for name in ("num_samples", "max_steps", "probes"):
            whole_number(getattr(self, name), name)
        scale = self.prior_scale
        if not (scale is None or isinstance(scale, Tensor)):
            one_of(scale, "prior_scale, unless it is None or a tensor,", ("g-prior", "ones"))
        if not isinstance(self.solver, Solver):
            raise DtypeError(
                f"solver must be a solver of sggp.solvers, as in ConjugateGradients(), got {self.solver!r}."
            )

    def fit(
        self,
        features: Any,
        y: Tensor,
        *,
        precision: Tensor | None = None,
        generator: Seed = None,
        on_failure: FailurePolicy = "warn",
    ) -> LinearPosterior:
        """Mean, samples, and what was to be learnt.

        Args:
            features: `Features` (of blocks, of a function, of a Jacobian), a tensor (n, o, D), or a tensor (n, p)
                shared by all outputs, each output then having p weights of its own.
            y: (n, o), or (n,) for one output. The model has no constant of its own: centre y, or add a feature of ones.
            precision: B⁰, (n,), (n, o) or (n, o, o) symmetric positive semi-definite; None for the identity. With
                noise_variance=1 it is B itself.
            generator: seed or generator of all draws.
            on_failure: what to do where a column misses its tolerance or α and σ² do not settle: "warn"
                (`NotConverged`), "raise" (`SolverFailure`) or "return" in silence, with `converged` False.

        Returns:
            A `LinearPosterior`.

        Raises:
            ShapeError, DtypeError, InputError: an argument cannot be used.
        """
        one_of(on_failure, "on_failure", ("warn", "raise", "return"))
        block = real_targets(y)
        given = as_features(features, block.shape[1])
        if given.num_rows != len(block):
            raise ShapeError(f"features and y must have as many rows, got {given.num_rows} and {len(block)}.")
        root = precision_root(precision, len(block), block.shape[1])
        draw, samples = streams(as_generator(generator), "scale", "samples")
        design = self._design(given, root, draw)
        return self._fit(design, Target.of(design, block), samples, on_failure)

    def _design(self, features: Features, root: Tensor | None, generator: torch.Generator) -> Design:
        """The design in units of the prior scale."""
        if isinstance(self.prior_scale, Tensor):
            scale = self.prior_scale.detach()
            if scale.is_complex():
                raise DtypeError(f"prior_scale must be real, got {scale.dtype}.")
            positive = (scale > 0) & torch.isfinite(scale)
            if scale.shape != (features.num_weights,) or not bool(positive.all()):
                raise ShapeError(
                    f"prior_scale must hold {features.num_weights} positive numbers, got {tuple(scale.shape)}."
                )
            return Design(features, root, scale)
        if self.prior_scale == "ones" or (self.prior_scale is None and self.prior_precision is not None):
            return Design(features, root)
        return Design(features, root).normalised(self.probes, generator)

    def _fit(
        self, design: Design, target: Target, generator: torch.Generator, on_failure: FailurePolicy
    ) -> LinearPosterior:
        return self._found(design, evidence_steps(design, target, self._settings(), generator), on_failure)

    def _settings(self) -> EvidenceOptions:
        return EvidenceOptions(
            self.prior_precision,
            self.noise_variance,
            self.num_samples,
            self.solver,
            self.tolerance,
            self.max_steps,
            self.step_tolerance,
        )

    def _found(self, design: Design, outcome: Outcome, on_failure: FailurePolicy) -> LinearPosterior:
        last = outcome.trace[-1]
        ones = torch.ones(design.num_weights, dtype=torch.float64, device=design.features.device)
        scale = ones if design.scale is None else design.scale[:, 0].double()
        found = LinearPosterior(
            weights=scale * outcome.mean,
            deviations=scale[:, None] * outcome.samples,
            prior_precision=last.prior_precision,
            prior_scale=scale,
            noise_variance=last.noise_variance,
            effective_dimension=last.effective_dimension,
            effective_dimension_error=last.effective_dimension_error,
            trace=outcome.trace,
            converged=outcome.settled and outcome.solution.converged,
            solution=outcome.solution,
            num_outputs=design.features.num_outputs,
            _outcome=outcome,
            _solver=outcome.solver,
            _tolerance=self.tolerance,
        )
        if not found.converged and on_failure != "return":
            _report(found, outcome, on_failure)
        return found


def _report(found: LinearPosterior, outcome: Outcome, on_failure: FailurePolicy) -> None:
    if outcome.solution.converged:
        message = (
            f"prior_precision and noise_variance have not settled after {len(outcome.trace)} updates (now "
            f"{found.prior_precision:.3g} and {found.noise_variance:.3g}): raise max_steps, or fix one of them."
        )
    else:
        message = f"BayesianLinearModel: {outcome.solution.describe_failure()}"
    if on_failure == "raise":
        raise SolverFailure(message, outcome.solution)
    warnings.warn(message, NotConverged, stacklevel=5)
