"""Predictions mixed over draws of the hyperparameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sggp.errors import InputError, NoRandomFeatures, ShapeError
from sggp.hyperparameters.sampling.sample import HyperparameterSamples
from sggp.posterior import PathwiseSamples, Posterior, condition
from sggp.random import as_generator, draw_seed
from sggp.typing import Seed

__all__ = ["MixturePosterior", "MixtureSamples", "condition_mixture"]


@dataclass(frozen=True)
class MixtureSamples:
    """Functions drawn from a mixture of posteriors: the draws of each of them, one after another."""

    parts: tuple[PathwiseSamples, ...]

    @property
    def num_samples(self) -> int:
        """s, over all posteriors."""
        return sum(part.num_samples for part in self.parts)

    def __call__(self, points: Tensor) -> Tensor:  # (..., q, d) -> (s, ..., q)
        """All samples at shared points; differentiable in floating points."""
        return torch.cat([part(points) for part in self.parts])


@dataclass(frozen=True)
class MixturePosterior:
    """The equal mixture of D Gaussian process posteriors, one per draw of the hyperparameters.

    p(f | y) ≈ 1/D Σ_i p(f | y, theta_i). Its marginals are not Gaussian: `mean` and `variance` are its first two
    moments, `log_density` and `cdf` are its own.

    Attributes:
        posteriors: D of them.
        noises: D noise variances of new measurements, or None where the noise differs between observations.

    Cost: D times that of one posterior, for everything.
    """

    posteriors: tuple[Posterior, ...]
    noises: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.posteriors:
            raise InputError("a mixture needs at least one posterior.")
        if self.noises is not None and len(self.noises) != len(self.posteriors):
            raise ShapeError(f"{len(self.posteriors)} posteriors but {len(self.noises)} noise variances.")

    def __len__(self) -> int:
        return len(self.posteriors)

    @property
    def samples(self) -> MixtureSamples:
        """The function samples of all posteriors.

        Raises:
            InputError: they were made with num_samples=0.
        """
        return MixtureSamples(tuple(posterior.samples for posterior in self.posteriors))

    def mean(self, points: Tensor) -> Tensor:  # (..., q, d) -> (..., q)
        """1/D Σ mu_i."""
        return torch.stack([posterior.mean(points) for posterior in self.posteriors]).mean(dim=0)

    def variance(
        self,
        points: Tensor,
        observation_noise: bool = False,
        method: Literal["samples", "solve"] = "solve",
    ) -> Tensor:  # (..., q, d) -> (..., q)
        """The law of total variance: 1/D Σ v_i + 1/D Σ (mu_i - mean)²; v_i includes the noise if asked for.

        Args:
            points: (..., q, d).
            observation_noise: add each draw's noise variance, for the spread of new measurements.
            method: of each posterior's variance, "solve" (exact) or "samples".

        Raises:
            InputError: observation_noise with noise that differs between observations.
        """
        means, variances = self.moments(points, observation_noise, method)
        return variances.mean(dim=0) + means.var(dim=0, correction=0)

    def log_density(
        self, points: Tensor, y: Tensor, observation_noise: bool = True
    ) -> Tensor:  # (..., q, d), (..., q) -> (..., q)
        """log 1/D Σ N(y; mu_i, v_i) at each point: how likely the mixture held what was measured there.

        Args:
            points: (..., q, d). y: (..., q) values measured at the points; or of f itself without noise.
            observation_noise: as in `variance`.
        """
        score, scale = self._scores(points, y, observation_noise)
        terms = -0.5 * score.square() - scale.log() - 0.5 * math.log(2 * math.pi)
        return torch.logsumexp(terms, dim=0) - math.log(len(self))

    def cdf(
        self, points: Tensor, y: Tensor, observation_noise: bool = True
    ) -> Tensor:  # (..., q, d), (..., q) -> (..., q)
        """P(value at the point ≤ y); uniform over what is measured, if the mixture is calibrated."""
        score, _ = self._scores(points, y, observation_noise)
        return torch.special.ndtr(score).mean(dim=0)

    def moments(
        self,
        points: Tensor,
        observation_noise: bool = False,
        method: Literal["samples", "solve"] = "solve",
    ) -> tuple[Tensor, Tensor]:  # (D, ..., q) twice
        """Mean and variance of every component."""
        means = torch.stack([posterior.mean(points) for posterior in self.posteriors])
        variances = torch.stack([p.variance(points, method=method) for p in self.posteriors])
        if observation_noise:
            if self.noises is None:
                raise InputError(
                    "the noise differs between observations, so a new observation's is not known: add its variance to "
                    "`variance(points)` yourself."
                )
            noise = torch.tensor(self.noises, dtype=variances.dtype, device=variances.device)
            variances = variances + noise.reshape(-1, *[1] * (variances.dim() - 1))
        return means, variances

    def _scores(
        self, points: Tensor, y: Tensor, observation_noise: bool
    ) -> tuple[Tensor, Tensor]:  # (D, ..., q) twice
        means, variances = self.moments(points, observation_noise)
        if y.shape != means.shape[1:]:
            raise ShapeError(f"y must have shape {tuple(means.shape[1:])}, got {tuple(y.shape)}.")
        scale = variances.clamp_min(torch.finfo(variances.dtype).tiny).sqrt()
        return (y.to(means) - means) / scale, scale


def condition_mixture(
    draws: HyperparameterSamples,
    x: Tensor,
    y: Tensor,
    *,
    num_samples: int = 1,
    generator: Seed = None,
    callback: Callable[[int], None] | None = None,
    **settings: Any,
) -> MixturePosterior:
    """Condition on the same data once per draw of the hyperparameters, and mix.

    Args:
        draws: of `sample_hyperparameters`, with its kernel, noise variances and means.
        x: (n, d), y: (n,) the data they were drawn from.
        num_samples: pathwise samples per draw; 0 for none, and none where the kernel has no random features.
        generator: for the samples.
        callback: called with the number of draws that are done.
        settings: further arguments of `sggp.condition`, such as `solver` and `num_features`.

    Returns:
        MixturePosterior of len(draws) posteriors.

    Cost: a condition per draw: up to 3,000 rows a Cholesky factor each, kept once a variance was asked for
        (8·n² bytes).

    Source: Rasmussen & Williams 2006, section 5.2; hyperparameters as in Lalchand and Rasmussen 2020.

    Example:
        >>> import torch, gpytorch
        >>> from sggp.hyperparameters import condition_mixture, sample_hyperparameters
        >>> x = torch.linspace(0, 1, 15, dtype=torch.float64)[:, None]
        >>> y = torch.sin(6 * x[:, 0])
        >>> kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
        >>> draws = sample_hyperparameters(kernel, x, y, num_samples=2, warmup=5, generator=0)
        >>> condition_mixture(draws, x, y, generator=0).mean(x).shape
        torch.Size([15])
    """
    source = as_generator(generator)
    posteriors, noises = [], []
    for kernel, noise, mean in zip(draws.kernels(), draws.noises(), draws.mean.tolist(), strict=True):
        arguments: dict[str, Any] = {"noise_variance": noise, "mean": mean, **settings}
        seed = draw_seed(source)
        try:
            posterior = condition(kernel, x, y, num_samples=num_samples, generator=seed, **arguments)
        except NoRandomFeatures:
            posterior = condition(kernel, x, y, num_samples=0, generator=seed, **arguments)
        posteriors.append(posterior)
        noises.append(noise)
        if callback is not None:
            callback(len(posteriors))
    known = tuple(noise for noise in noises if isinstance(noise, float))
    return MixturePosterior(tuple(posteriors), known if len(known) == len(noises) else None)
