"""The linearised Laplace approximation of a network, by Jacobian products and samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from sggp.checks import flag, one_of
from sggp.errors import DtypeError, InputError, ShapeError
from sggp.linear.expectation import Target
from sggp.linear.features import batches, real_targets
from sggp.linear.jacobian import JacobianFeatures
from sggp.linear.model import BayesianLinearModel
from sggp.linear.posterior import LinearPosterior
from sggp.linear.refinement import refine_softmax, softmax_root
from sggp.random import as_generator, draw_seed, streams
from sggp.solvers import ConjugateGradients, Solver
from sggp.typing import FailurePolicy, Seed

__all__ = ["LaplacePosterior", "LinearisedLaplace"]


@dataclass(frozen=True, eq=False)
class LinearisedLaplace:
    """Uncertainty for a trained network: f(x, θ) ≈ f(x, θ*) + J(x)(θ − θ*), θ Gaussian.

    The posterior covariance is H⁻¹ = (α diag(s)⁻² + Σ_i J_iᵀB_iJ_i)⁻¹ with B_i = I/σ² for regression and
    B_i = diag(p_i) − p_ip_iᵀ for classification; predictions stay centred at the network's own. α, and σ² for
    regression, are learnt from the linear model, whose targets are y − f(x, θ*) + J(x)θ* for regression. For
    classification it is a generalised linear model, brought to its own optimum by Newton steps with
    B_iỹ_i = B_iJ_iw + onehot(y_i) − p_i, and B_i is taken there: at the weights of a network trained to certainty B_i
    is next to nothing, and says nothing.

    Args:
        network: a trained module in evaluation mode, (b, …) to (b, o). It is copied.
        likelihood: "gaussian", or "softmax" for logits of o ≥ 2 classes.
        prior_precision, noise_variance: α and σ²; None learns them. "softmax" has no noise_variance.
        g_prior: whether the prior is scaled by the Fisher information of every weight (see `BayesianLinearModel`).
        refine: for "softmax", whether the linear model is brought to its optimum (True) or takes one Newton step from
            θ*, with B_i there. Leave it on unless the network was trained with the prior it is now given.
        parameters: names of the weights that are uncertain; None takes all that require gradients.
        num_samples: k, also the number of functions that predictions use.
        solver, tolerance, max_steps, step_tolerance: as in `BayesianLinearModel`.
        batch_size, columns: rows and columns of one Jacobian product.
        memory_budget: bytes that the Jacobian may take; where it takes more it is never formed.

    Raises:
        InputError: a setting is out of range, or the network is in training mode.

    Cost:
        Each iteration of the solver is one forward and one reverse product per column with all n inputs; memory is that
        of batch_size·columns activations, and about 6·D·(1 + k) numbers. No (D, D) matrix is formed.

    Source: Antorán et al. 2023, sections 3 and 4; Immer et al. 2021 for predictions by the linearised network.
    Departures: 1. Predictions stay centred at the network where B_i is taken at the optimum of the linear model. 2. As
    `BayesianLinearModel`.
    """

    network: nn.Module
    likelihood: Literal["gaussian", "softmax"] = "gaussian"
    prior_precision: float | None = None
    noise_variance: float | None = None
    g_prior: bool = False
    refine: bool = True
    parameters: Sequence[str] | None = None
    num_samples: int = 32
    solver: Solver = field(default_factory=lambda: ConjugateGradients(preconditioner=None))
    tolerance: float = 1e-3
    max_steps: int = 50
    step_tolerance: float = 1e-2
    batch_size: int = 256
    columns: int = 64
    memory_budget: float = 2**28

    def __post_init__(self) -> None:
        one_of(self.likelihood, "likelihood", ("gaussian", "softmax"))
        for name in ("g_prior", "refine"):
            flag(getattr(self, name), name)
        if self.likelihood == "softmax" and self.noise_variance is not None:
            raise InputError('likelihood="softmax" has no noise_variance; leave it None.')
        self._model()

    def fit(
        self, x: Tensor, y: Tensor, *, generator: Seed = None, on_failure: FailurePolicy = "warn"
    ) -> LaplacePosterior:
        """The posterior given the training data.

        Args:
            x: (n, …) inputs of the network.
            y: (n, o) or (n,) targets, or (n,) integer classes.
            generator: seed or generator of all draws.
            on_failure: as in `BayesianLinearModel.fit`.

        Raises:
            ShapeError, DtypeError, InputError: an argument cannot be used.
        """
        features = JacobianFeatures(
            self.network,
            x,
            parameters=self.parameters,
            batch_size=self.batch_size,
            columns=self.columns,
            memory_budget=self.memory_budget,
        )
        model = self._model()
        centre = torch.cat([features.outputs(rows) for rows in batches(features)])
        weights = features.weights[:, None]
        moved = torch.cat([features.apply(weights, rows)[..., 0] for rows in batches(features)])
        if self.likelihood == "gaussian":
            values = real_targets(y)
            if values.shape != centre.shape:
                raise ShapeError(
                    f"y must be as the network's output, {tuple(centre.shape)}, got {tuple(y.shape)}."
                )
            moved += values.to(centre) - centre
            found = model.fit(features, moved, generator=generator, on_failure=on_failure)
            return LaplacePosterior(features, found, "gaussian")
        classes = _classes(y, centre)
        draw, samples = streams(as_generator(generator), "scale", "samples")
        if self.refine:
            seeds = draw_seed(draw), draw_seed(samples)
            design, outcome = refine_softmax(model, features, classes, model._settings(), seeds)
            return LaplacePosterior(features, model._found(design, outcome, on_failure), "softmax")
        p = centre.softmax(1)
        design = model._design(features, softmax_root(p), draw)
        information = p * moved - p * (p * moved).sum(1, keepdim=True) + classes - p
        found = model._fit(design, Target.of_information(design, information), samples, on_failure)
        return LaplacePosterior(features, found, "softmax")

    def _model(self) -> BayesianLinearModel:
        return BayesianLinearModel(
            prior_precision=self.prior_precision,
            noise_variance=1.0 if self.likelihood == "softmax" else self.noise_variance,
            prior_scale="g-prior" if self.g_prior else "ones",
            num_samples=self.num_samples,
            solver=self.solver,
            tolerance=self.tolerance,
            max_steps=self.max_steps,
            step_tolerance=self.step_tolerance,
        )


def _classes(y: Tensor, centre: Tensor) -> Tensor:
    if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise DtypeError('y must be a torch.Tensor of integer classes for likelihood="softmax".')
    n, o = centre.shape
    if y.shape != (n,):
        raise ShapeError(f"y must be ({n},), got shape {tuple(y.shape)}.")
    if o < 2 or bool((y < 0).any()) or bool((y >= o).any()):
        raise InputError(
            f"classes must be 0, …, {o - 1} for {o} ≥ 2 outputs of the network, got {int(y.min())} to {int(y.max())}."
        )
    return torch.nn.functional.one_hot(y.long(), o).to(centre)


@dataclass(frozen=True, eq=False)
class LaplacePosterior:
    """Predictions of a linearised network: centred at the network, with samples for the uncertainty.

    Attributes:
        features: J at the training inputs.
        linear: the `LinearPosterior` of the weights, with what was learnt and its trace. Its mean is that of the linear
            model, not the network's.
        likelihood: "gaussian" or "softmax".
    """

    features: JacobianFeatures
    linear: LinearPosterior
    likelihood: Literal["gaussian", "softmax"]

    @property
    def prior_precision(self) -> float:
        return self.linear.prior_precision

    @property
    def noise_variance(self) -> float:
        return self.linear.noise_variance

    @property
    def effective_dimension(self) -> float:
        return self.linear.effective_dimension

    @property
    def converged(self) -> bool:
        return self.linear.converged

    def mean(self, x: Tensor) -> Tensor:  # -> (m, o)
        """The network's output f(x, θ*): means, or logits."""
        features = self.features.at(x)
        return torch.cat([features.outputs(rows) for rows in batches(features)])

    def samples(self, x: Tensor) -> Tensor:  # -> (k, m, o)
        """f(x, θ*) + J(x)ζ_j: functions drawn from the posterior, the same at every call."""
        deviations = self.linear._product(self.features.at(x), self.linear.deviations)
        return (self.mean(x).double()[..., None] + deviations).permute(2, 0, 1)

    def covariance(
        self, x: Tensor, *, method: Literal["samples", "solve"] = "samples"
    ) -> Tensor:  # -> (m, o, o)
        """J(x)H⁻¹J(x)ᵀ for every input; `method` as in `LinearPosterior.variance`."""
        return self.linear.covariance(self.features.at(x), method=method)

    def variance(
        self,
        x: Tensor,
        *,
        method: Literal["samples", "solve"] = "samples",
        observation_noise: bool = False,
    ) -> Tensor:  # -> (m, o)
        """The variance of every output, or logit; `observation_noise` is for regression.

        Raises:
            InputError: observation_noise with a softmax likelihood.
        """
        if observation_noise and self.likelihood == "softmax":
            raise InputError("a softmax likelihood has no observation noise; use predict_proba.")
        return self.linear.variance(self.features.at(x), method=method, observation_noise=observation_noise)

    def predict_proba(
        self, x: Tensor, *, method: Literal["samples", "probit"] = "samples"
    ) -> Tensor:  # -> (m, o)
        """Class probabilities.

        Args:
            x: (m, …).
            method: "samples", the mean over functions of their softmax, or "probit", softmax(f/√(1 + πv/8)) with v the
                variance of each logit (MacKay 1992), which needs no integral but neglects correlations.

        Raises:
            InputError: the likelihood is Gaussian, or the method unknown.
        """
        if self.likelihood != "softmax":
            raise InputError('predict_proba needs likelihood="softmax".')
        if one_of(method, "method", ("samples", "probit")) == "samples":
            return self.samples(x).softmax(-1).mean(0)
        return (self.mean(x).double() / (1 + math.pi / 8 * self.variance(x)).sqrt()).softmax(-1)
