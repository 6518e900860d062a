"""The model a campaign refits each round: learn hyperparameters, then condition on everything measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import gpytorch
import numpy as np
import torch
from torch import Tensor

from sggp.defaults import DIRECT_ROWS, FACTOR_ROWS, NUM_FEATURES
from sggp.errors import InputError, ShapeError
from sggp.fitting import FittedModel, ModelSettings, fit_model, with_unknown_constant
from sggp.fitting.parts import Ranges, checked_parts, parts_kernel, summed, weights_of
from sggp.hyperparameters.auto import EXACT_ROWS
from sggp.kernels import as_covariance
from sggp.linalg import cholesky
from sggp.posterior import Posterior, condition
from sggp.posterior.solving import by_factor
from sggp.random import as_generator, streams
from sggp.typing import Seed

NO_SCALE = "all measured values are equal: how far others lie is not known"
"""Why a place was chosen, in the place of what the model expects there, where `Surrogate.has_scale` is false."""
_LEARN_FROM = 4
_PRIOR_NOISE = 0.01
_LEAST_NOISE = 1e-6


@dataclass(frozen=True)
class Surrogate:
    """A posterior over standardised values, with predictions in the values' own units.

    Attributes:
        posterior: the Gaussian process conditioned on (y - offset) / scale.
        offset, scale: what was subtracted and divided.
        learned: False when there was too little data to learn hyperparameters from.
        x, target, mean: the measured inputs (n, d), their standardised values (n,) and the constant mean of the
            model in those units, repeats kept; None for a model that was loaded.
        new_noise: the noise variance of a new measurement in those units; None takes the median of the rows', which is
            the only one where it was learnt.
        kernel: as learnt, without the unknown constant that may be a part of the posterior's; None where loaded.
        weights: the share of each part of the fingerprint in the prior variance; empty where there is one kernel.
        told: (n,) float64 the values as they were told, in their own units: a bound where `side` is not 0, NaN where a
            failure stands for a bad value. None where all of `target` was measured.
        side: (n,) 1 where the truth is known to lie above `told`, -1 below, else 0; None as `told`. `target` holds
            pseudo-values there, with their noise in the posterior.
    """

    posterior: Posterior
    offset: float
    scale: float
    learned: bool
    x: Tensor | None = None
    target: Tensor | None = None
    mean: float = 0.0
    new_noise: float | None = None
    kernel: gpytorch.kernels.Kernel | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    told: Tensor | None = None
    side: Tensor | None = None

    @property
    def noise_std(self) -> float:
        """Standard deviation of a new measurement's noise, in the values' units."""
        return self.scale * self._noise_variance**0.5

    @property
    def _noise_variance(self) -> float:
        if self.new_noise is not None:
            return self.new_noise
        return float(self.posterior.data.noise_variance.median())

    @property
    def has_scale(self) -> bool:
        """Whether the values differ at all: if not, nothing is known of how far others lie, and no std says it."""
        return self.learned or self.target is None or bool((self.target != 0).any())

    @property
    def told_values(self) -> tuple[Tensor, Tensor]:
        """`told` and `side`, (n,) each, also where all of `target` was measured.

        Raises:
            InputError: the model was loaded, so its measurements are not known one by one.
        """
        if self.told is not None and self.side is not None:
            return self.told, self.side
        value = self.offset + self.scale * self._measurements()[1].double()
        return value, torch.zeros_like(value)

    def _measurements(self) -> tuple[Tensor, Tensor]:
        if self.x is None or self.target is None:
            raise InputError("leave-one-out needs the measurements; this model was loaded without them.")
        return self.x, self.target

    def predict(
        self,
        points: Tensor,
        *,
        observation_noise: bool = False,
        method: Literal["samples", "solve"] = "solve",
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (m,), float64, in the values' units."""
        points = points.double() if points.is_floating_point() else points
        noise = self._noise_variance if observation_noise else False
        mean, variance = self.posterior.mean_and_variance(points, noise, method)
        std = variance.detach().to(torch.float64).clamp_min(0.0).sqrt()
        return self.offset + self.scale * mean.detach().to(torch.float64), self.scale * std

    def leave_one_out(self) -> tuple[Tensor, Tensor]:
        """Each measurement predicted from all the others: mean and standard deviation (n,), noise included.

        With C = K + noise: mean_i = y_i - [C^-1 (y - mean)]_i / [C^-1]_ii and variance_i = 1 / [C^-1]_ii. Where only a
        bound was told, the noise is that of a new measurement, not that of the pseudo-value.

        Raises:
            InputError: the model was loaded, so its measurements are not known one by one.

        Cost: O(n^3) time, O(n^2) memory.
        Source: Rasmussen & Williams (2006), equation 5.12.
        """
        x, target = self._measurements()
        gram = as_covariance(self.posterior.kernel, dtype=torch.float64).block(x).to(torch.float64)
        noise = self.posterior.data.noise_variance
        gram.diagonal().add_(noise)
        factor = cholesky(gram, "K + noise")
        inverse = torch.cholesky_inverse(factor)
        residual = target.to(torch.float64) - self.mean
        precision = inverse.diagonal()
        mean = target.to(torch.float64) - (inverse @ residual) / precision
        own = self.own_noise
        variance = (precision.reciprocal() + (own - noise)).maximum(own)
        return self.offset + self.scale * mean, self.scale * variance.sqrt()

    @property
    def own_noise(self) -> Tensor:  # (n,)
        """Noise variances of measurements of the rows, in the model's units: where a bound was told, of a new one."""
        noise = self.posterior.data.noise_variance.double()
        return noise if self.side is None else torch.where(self.side != 0, self._noise_variance, noise)


def fit_surrogate(
    x: Tensor,
    y: Tensor | tuple[Tensor, Tensor],
    *,
    num_samples: int,
    kernel: gpytorch.kernels.Kernel | str | Ranges | None = None,
    blocks: tuple[tuple[int, ...], ...] = (),
    num_features: int = NUM_FEATURES,
    generator: Seed = None,
) -> Surrogate:
    """Standardise the values, learn kernel, noise and mean by marginal likelihood, condition on all the data.

    Args:
        x: (n, d) measured inputs; integer counts are fingerprints.
        y: (n,) measured values, any units; repeats of an input are kept as repeats. Or a pair of these and the (n,)
            known standard deviations of their noise, in the same units, of which variances below 1e-6 of that of the
            values count as this; otherwise one noise is learnt.
        num_samples: sample paths to carry, as the rule says: `Rule.paths_for`.
        kernel: starting kernel, copied, or the name of one; None is the default of `sggp.GPRegressor`, and "tanimoto"
            for integer counts. Learnt as `sggp.GPRegressor` learns it. Of several fingerprints side by side, their
            columns: from the name of each to its first column and the one after its last (`FingerprintTable.parts`,
            `Pool.parts`). The model is then the sum of one kernel for each, `sggp.fitting.parts.parts_kernel`, its
            weights learnt with scale and noise by the exact marginal likelihood of up to 1,500 rows, drawn at random
            where there are more.
        blocks: input columns that are the codes of one category each; they share a length scale.
        num_features: random features of the prior draws.
        generator: seed or generator.

    Raises:
        ShapeError: lengths differ.
        InputError: nothing was measured, a value is not finite, or a noise is not finite or negative.
    """
    values, errors = y if isinstance(y, tuple) else (y, None)
    x, y = _checked(x, values)
    learn, draw = streams(as_generator(generator), "hyperparameters", "posterior")
    constant = bool(y.amax() == y.amin())
    usable = len(y) >= _LEARN_FROM and not constant
    offset = float(y[0]) if constant else 0.0
    # near one by a power of two, so that squares stay in the range of float64 and nothing is rounded
    unit = 2.0 ** min(max(math.frexp(float(y.abs().max()))[1], -1000), 1000)
    y = (y[:, None] - offset) / unit
    ranges = checked_parts(kernel, x.shape[1]) if isinstance(kernel, Mapping) else None
    if ranges is not None:
        kernel = parts_kernel(ranges)
    elif kernel is None and not x.is_floating_point():
        kernel = "tanimoto"
    spread = 1.0 if constant else float(y.var(correction=0))
    known = None if errors is None else _known_noise(errors, unit, _LEAST_NOISE * spread, len(y))
    settings = ModelSettings(
        kernel=kernel,
        noise_variance=None if usable else _PRIOR_NOISE * spread,
        optimizer=None if not usable else "auto" if ranges is None else "exact",
        num_samples=num_samples,
        num_features=num_features,
        normalise=not constant,
        blocks=blocks,
    )
    some = torch.arange(len(x))
    if ranges is not None and len(x) > EXACT_ROWS:
        (choose,) = streams(learn, "rows to learn from")
        some = torch.randperm(len(x), generator=choose)[:EXACT_ROWS].sort().values
    if known is not None:
        settings = replace(settings, noise_variance=known[some])
    model = fit_model(x[some], y[some], settings, learn)
    target = model.scaling.targets(y)[:, 0]
    learned = model.in_units(targets=False)
    noise = learned.noise_variance if known is None else model.scaling.noise(known, 0)
    prior = learned.kernel if ranges is None else summed(model.kernel)
    return Surrogate(
        posterior := _conditioned(model, x, target, draw, prior, noise),
        offset + unit * float(model.scaling.y_offset[0]),
        unit * float(model.scaling.y_scale[0]),
        usable,
        x,
        target,
        posterior.prior_mean,
        weights={} if ranges is None else weights_of(model.kernel, ranges),
        kernel=prior,
    )


def _checked(x: Tensor, y: Any) -> tuple[Tensor, Tensor]:  # (n, d), (n,)
    """Inputs and values in float64; integer inputs as they are."""
    x = x.double() if x.is_floating_point() else x
    y = torch.as_tensor(y, dtype=torch.float64).flatten()
    if x.ndim != 2 or x.shape[0] != y.shape[0]:
        raise ShapeError(f"x must be (n, d), one value per row; got {tuple(x.shape)} and {len(y)} values.")
    if y.numel() == 0:
        raise InputError("there is no measurement yet: a model needs at least one.")
    if not bool(torch.isfinite(y).all()):
        raise InputError("a measured value is not finite; report failed measurements as failures instead.")
    return x, y


def _known_noise(noise_std: Any, unit: float, least: float, rows: int) -> np.ndarray | None:  # (n,)
    """Noise variances of values that were divided by `unit`, checked; None for None."""
    if noise_std is None:
        return None
    std = torch.as_tensor(noise_std, dtype=torch.float64).flatten()
    if len(std) != rows:
        raise ShapeError(f"standard deviations must be one number per value, {rows}; got {len(std)}.")
    if not bool(torch.isfinite(std).all()) or bool((std < 0).any()):
        raise InputError(
            "standard deviations of noise must be finite and not negative, in the units of the values."
        )
    return (std / unit).square().clamp_min(least).numpy()


def _conditioned(
    model: FittedModel,
    x: Tensor,
    target: Tensor,
    generator: torch.Generator,
    kernel: gpytorch.kernels.Kernel,
    noise_variance: float | Tensor,
) -> Posterior:
    """The posterior for inputs in their own units, (n, d), and normalised targets, (n,), with this kernel and noise."""
    settings = model.settings
    if model.learnt_mean:
        kernel = with_unknown_constant(kernel, len(x), settings.solver)
    factor = not x.is_floating_point() and DIRECT_ROWS < len(x) <= FACTOR_ROWS
    return condition(
        kernel,
        x,
        target,
        noise_variance=noise_variance,
        mean=model.in_units(targets=False).mean,
        **(by_factor(len(x)) if factor else {"solver": settings.solver}),
        num_samples=settings.num_samples,
        num_features=settings.num_features,
        generator=generator,
    )
