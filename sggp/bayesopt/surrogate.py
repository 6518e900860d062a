"""The model a campaign refits each round: learn hyperparameters, then condition on everything measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import gpytorch
import torch
from torch import Tensor

from sggp.defaults import NUM_FEATURES
from sggp.errors import InputError, ShapeError
from sggp.fitting import FittedModel, ModelSettings, fit_model, with_unknown_constant
from sggp.fitting.parts import Ranges, checked_parts, parts_kernel, summed, weights_of
from sggp.hyperparameters.auto import EXACT_ROWS
from sggp.kernels import as_covariance
from sggp.linalg import cholesky
from sggp.posterior import Posterior, condition
from sggp.random import as_generator, streams
from sggp.typing import Seed

_LEARN_FROM = 4
_PRIOR_NOISE = 0.01


@dataclass(frozen=True)
class Surrogate:
    """A posterior over standardised values, with predictions in the values' own units.

    Attributes:
        posterior: the Gaussian process conditioned on (y - offset) / scale.
        offset, scale: what was subtracted and divided.
        learned: False when there was too little data to learn hyperparameters from.
        x, target, mean: the measured inputs (n, d), their standardised values (n,) and the constant mean of the
            model in those units, repeats kept; None for a model that was loaded.
        weights: the share of each part of the fingerprint in the prior variance; empty where there is one kernel.
    """

    posterior: Posterior
    offset: float
    scale: float
    learned: bool
    x: Tensor | None = None
    target: Tensor | None = None
    mean: float = 0.0
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def noise_std(self) -> float:
        """Standard deviation of one measurement's noise, in the values' units."""
        return self.scale * float(torch.as_tensor(self.posterior.noise_variance).max()) ** 0.5

    def predict(
        self,
        points: Tensor,
        *,
        observation_noise: bool = False,
        method: Literal["samples", "solve"] = "solve",
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (m,), float64, in the values' units."""
        points = points.double() if points.is_floating_point() else points
        mean, variance = self.posterior.mean_and_variance(points, observation_noise, method)
        std = variance.detach().to(torch.float64).clamp_min(0.0).sqrt()
        return self.offset + self.scale * mean.detach().to(torch.float64), self.scale * std

    def leave_one_out(self) -> tuple[Tensor, Tensor]:
        """Each measurement predicted from all the others: mean and standard deviation (n,), noise included.

        With C = K + noise: mean_i = y_i - [C^-1 (y - mean)]_i / [C^-1]_ii and variance_i = 1 / [C^-1]_ii.

        Raises:
            InputError: the model was loaded, so its measurements are not known one by one.

        Cost: O(n^3) time, O(n^2) memory.
        Source: Rasmussen & Williams (2006), equation 5.12.
        """
        if self.x is None or self.target is None:
            raise InputError("leave-one-out needs the measurements; this model was loaded without them.")
        gram = as_covariance(self.posterior.kernel, dtype=torch.float64).block(self.x).to(torch.float64)
        noise = torch.as_tensor(self.posterior.noise_variance, dtype=torch.float64).max()
        gram.diagonal().add_(noise)
        factor = cholesky(gram, "K + noise")
        inverse = torch.cholesky_inverse(factor)
        residual = self.target.to(torch.float64) - self.mean
        precision = inverse.diagonal()
        mean = self.target.to(torch.float64) - (inverse @ residual) / precision
        return self.offset + self.scale * mean, self.scale * precision.rsqrt()


def fit_surrogate(
    x: Tensor,
    y: Tensor,
    *,
    num_samples: int,
    kernel: gpytorch.kernels.Kernel | str | None = None,
    blocks: tuple[tuple[int, ...], ...] = (),
    num_features: int = NUM_FEATURES,
    solver: Any = None,
    generator: Seed = None,
    parts: Ranges | None = None,
) -> Surrogate:
    """Standardise the values, learn kernel, noise and mean by marginal likelihood, condition on all the data.

    Args:
        x: (n, d) measured inputs; integer counts are fingerprints.
        y: (n,) measured values, any units; repeats of an input are kept as repeats.
        num_samples: sample paths to carry, one per batch slot.
        kernel: starting kernel, copied, or the name of one; None is the default of `sggp.GPRegressor`, and "tanimoto"
            for integer counts. Learnt as `sggp.GPRegressor` learns it.
        blocks: input columns that are the codes of one category each; they share a length scale.
        num_features: random features of the prior draws.
        solver: passed to `condition`; None chooses by size.
        generator: seed or generator.
        parts: for fingerprints of several parts side by side, from the name of each to its first column and the one
            after its last (`FingerprintTable.parts`, `Pool.parts`). Without a `kernel` the model is then the sum of one
            kernel for each, `sggp.fitting.parts.parts_kernel`, the weights learnt with scale and noise by the exact
            marginal likelihood of up to 1,500 rows, drawn at random where there are more.

    Raises:
        ShapeError: lengths differ.
        InputError: nothing was measured, or a value is not finite.
    """
    x = x.double() if x.is_floating_point() else x
    y = torch.as_tensor(y, dtype=torch.float64).flatten()
    if x.ndim != 2 or x.shape[0] != y.shape[0]:
        raise ShapeError(f"x must be (n, d), one value per row; got {tuple(x.shape)} and {len(y)} values.")
    if y.numel() == 0:
        raise InputError("there is no measurement yet: a model needs at least one.")
    if not bool(torch.isfinite(y).all()):
        raise InputError("a measured value is not finite; report failed measurements as failures instead.")
    learn, draw = streams(as_generator(generator), "hyperparameters", "posterior")
    constant = bool(y.amax() == y.amin())
    usable = len(y) >= _LEARN_FROM and not constant
    offset = float(y[0]) if constant else 0.0
    # near one by a power of two, so that squares stay in the range of float64 and nothing is rounded
    unit = 2.0 ** min(max(math.frexp(float(y.abs().max()))[1], -1000), 1000)
    y = (y[:, None] - offset) / unit
    ranges = None if parts is None or kernel is not None else checked_parts(parts, x.shape[1])
    if ranges is not None:
        kernel = parts_kernel(ranges)
    elif kernel is None and not x.is_floating_point():
        kernel = "tanimoto"
    settings = ModelSettings(
        kernel=kernel,
        noise_variance=None if usable else _PRIOR_NOISE * (1.0 if constant else float(y.var(correction=0))),
        optimizer=None if not usable else "auto" if ranges is None else "exact",
        solver=solver,
        num_samples=num_samples,
        num_features=num_features,
        normalise=not constant,
        blocks=blocks,
    )
    some = slice(None)
    if ranges is not None and len(x) > EXACT_ROWS:
        (choose,) = streams(learn, "rows to learn from")
        some = torch.randperm(len(x), generator=choose)[:EXACT_ROWS].sort().values
    model = fit_model(x[some], y[some], settings, learn)
    target = model.scaling.targets(y)[:, 0]
    posterior = _conditioned(model, x, target, draw, None if ranges is None else summed(model.kernel))
    return Surrogate(
        posterior,
        offset + unit * float(model.scaling.y_offset[0]),
        unit * float(model.scaling.y_scale[0]),
        usable,
        x,
        target,
        posterior.prior_mean,
        {} if ranges is None else weights_of(model.kernel, ranges),
    )


def _conditioned(
    model: FittedModel,
    x: Tensor,
    target: Tensor,
    generator: torch.Generator,
    kernel: gpytorch.kernels.Kernel | None = None,
) -> Posterior:
    """The posterior for inputs in their own units, (n, d), and normalised targets, (n,); `kernel` in another form."""
    learned, settings = model.in_units(targets=False), model.settings
    kernel = learned.kernel if kernel is None else kernel
    if model.learnt_mean:
        kernel = with_unknown_constant(kernel, len(x), settings.solver)
    return condition(
        kernel,
        x,
        target,
        noise_variance=learned.noise_variance,
        mean=learned.mean,
        solver=settings.solver,
        num_samples=settings.num_samples,
        num_features=settings.num_features,
        generator=generator,
    )
