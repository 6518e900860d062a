"""The posterior of a `PathwiseGPModel` and the sampler that BoTorch uses for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from botorch.posteriors.posterior import Posterior
from botorch.posteriors.transformed import TransformedPosterior
from botorch.sampling.base import MCSampler
from botorch.sampling.get_sampler import GetSampler
from torch import Tensor
from torch.distributions import Normal

from sggp.botorch.output import OutputGP
from sggp.checks import as_numbers
from sggp.errors import InputError, NoJointGaussian, ShapeError


class PathsOnly:
    """Part of posteriors of paths: normal marginals, and what to use where a joint normal distribution is asked for."""

    _posterior: Any
    _affine = True

    @property
    def batch_shape(self) -> torch.Size:
        """The t-batch shape b of what was transformed."""
        return torch.Size(self._posterior.batch_shape)

    def quantile(self, value: Tensor) -> Tensor:
        """Quantiles of the marginal distributions, which are normal.

        Args:
            value: one probability between 0 and 1, or (k,) of them.

        Returns:
            (*b, q, m); (k, *b, q, m) for several.

        Raises:
            InputError: no probability. NotImplementedError: an outcome transform makes the marginals other than normal.
        """
        levels = as_numbers(value, "value", "probabilities strictly between 0 and 1")
        if not bool(((levels > 0) & (levels < 1)).all()):
            raise InputError(
                f"value must hold probabilities strictly between 0 and 1, got {levels.tolist()}."
            )
        return self._marginal(levels, lambda normal, level: normal.icdf(level))

    def density(self, value: Tensor) -> Tensor:
        """Densities of the marginal distributions, which are normal, at one value or (k,) of them; as `quantile`."""
        values = as_numbers(value, "value", "values of the outcome")
        return self._marginal(values, lambda normal, at: normal.log_prob(at).exp())

    def _marginal(self: Any, values: Tensor, of: Callable[[Normal, Tensor], Tensor]) -> Tensor:
        if not self._affine:
            raise NotImplementedError(
                "after this outcome transform marginals are not normal: transform quantiles of "
                "model.posterior(X) without the transform, or take those of posterior.rsample."
            )
        normal = Normal(self.mean, self.variance.sqrt(), validate_args=False)
        values = values.to(self.mean)
        if values.numel() == 1:
            return of(normal, values.reshape(()))
        return torch.stack([of(normal, one) for one in values.reshape(-1)])

    def __getattr__(self, name: str) -> Any:
        if name in ("distribution", "mvn", "covariance_matrix"):
            raise NoJointGaussian(
                f"a posterior of function samples has no {name}: build the acquisition function with "
                "model.gaussian() in place of the model, whose posteriors are joint Gaussians of few points. In a "
                "ModelListGP the models need an outcome_transform; a ModelList takes any."
            )
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")


class PathwisePosterior(PathsOnly, Posterior):
    """Posterior over `X`, represented by its solved mean and by distinct function samples ("paths").

    Nothing is computed before it is asked for, and only as many paths are evaluated as a call needs. Path number i is
    the same function in every call and for every `X`, so a candidate has the same value wherever it stands in a
    t-batch, and sample average approximations are deterministic.

    Args:
        outputs: the m conditioned outputs.
        X: points in the model's input space (after its input transform), (*b, q, d), of any real dtype.
        noise_variance: None for the latent function; otherwise the observation noise to add, broadcastable to
            (*b, q, m), in the units of the outputs.

    Cost: mean O(n b q d); variance O(n^2 b q) where it is solved; k paths O((n + p) b q (d + k)) for n rows of data
        and p features.
    """

    def __init__(self, outputs: Sequence[OutputGP], X: Tensor, noise_variance: Tensor | None = None) -> None:
        self.X = X
        self._outputs = tuple(outputs)
        self._noise_variance = noise_variance
        self._mean: Tensor | None = None
        self._latent: Tensor | None = None

    @property
    def device(self) -> torch.device:
        return self.X.device

    @property
    def dtype(self) -> torch.dtype:
        return self._outputs[0].x.dtype

    @property
    def num_paths(self) -> int:
        """Number S of paths behind `variance` and behind the registered sampler."""
        return self._outputs[0].num_samples

    @property
    def batch_shape(self) -> torch.Size:
        """The t-batch shape b."""
        return self.X.shape[:-2]

    @property
    def base_sample_shape(self) -> torch.Size:
        """One weight per path, (1, S), independent of `X`.

        Of two dimensions as any posterior's of q points and m outputs, so that samplers with a `batch_range_override`
        (`LearnedObjective`, `qMultiStepLookahead`) find the dimensions that they keep.
        """
        return torch.Size([1, self.num_paths])

    @property
    def batch_range(self) -> tuple[int, int]:
        """(0, 0): no dimension of the base samples belongs to the t-batch."""
        return (0, 0)

    def _extended_shape(self, sample_shape: torch.Size = torch.Size()) -> torch.Size:  # noqa: B008
        return torch.Size([*sample_shape, *self.X.shape[:-1], len(self._outputs)])

    @property
    def mean(self) -> Tensor:
        """The mean found by the solver (not an average of paths), (*b, q, m)."""
        if self._mean is None or self._lacks_graph(self._mean):
            self._mean = torch.stack([output.mean(self.X) for output in self._outputs], dim=-1)
        return self._mean

    @property
    def variance(self) -> Tensor:
        """Variance of the process, plus the noise if asked for; (*b, q, m), never negative, differentiable in `X`.

        Exact, by the Cholesky factor, up to 3,000 distinct rows of data. Beyond, the mean square distance of S paths
        from `mean`, sharpened by a local posterior: unbiased, with a relative standard error of at most sqrt(2 / S).
        """
        variance = torch.stack([output.variance(self.X) for output in self._outputs], dim=-1)
        return variance if self._noise_variance is None else variance + self._noise_variance

    @property
    def outputs(self) -> tuple[OutputGP, ...]:
        """The m conditioned outputs."""
        return self._outputs

    def joint_blocks(self, size: int) -> Tensor:
        """Joint covariance of each `size` consecutive points, noise included, (*b, q / size, m, size, size)."""
        points = self.X.reshape(*self.X.shape[:-2], -1, size, self.X.shape[-1])
        blocks = torch.stack([output.covariance_matrix(points) for output in self._outputs], dim=-3)
        if self._noise_variance is None:
            return blocks
        noise = self._noise_variance.expand(*self.X.shape[:-1], len(self._outputs))
        return blocks + torch.diag_embed(noise.reshape(*points.shape[:-1], -1).mT)

    def rsample(self, sample_shape: torch.Size | None = None) -> Tensor:
        """The first `sample_shape.numel()` paths, all distinct; further ones are drawn when S is not enough.

        Args:
            sample_shape: leading shape of the result; None means one sample.

        Returns:
            (*sample_shape, *b, q, m), differentiable in `X`.
        """
        shape = torch.Size([1]) if sample_shape is None else torch.Size(sample_shape)
        return self._values(shape.numel()).reshape(self._extended_shape(shape))

    def rsample_from_base_samples(self, sample_shape: torch.Size, base_samples: Tensor) -> Tensor:
        """Samples determined by `base_samples`.

        Args:
            sample_shape: leading shape of the result.
            base_samples: integers in [0, S) of shape `sample_shape`: the paths with these numbers, exactly. Or
                standard normal numbers z of shape (*sample_shape, 1, S) or (*sample_shape, S):
                mean + sum_i z_i (path_i - mean) / sqrt(S), a Gaussian whose mean is `mean` and whose covariance is
                that of the S paths.

        Returns:
            (*sample_shape, *b, q, m), differentiable in `X`.

        Raises:
            ShapeError: the shape of `base_samples` is neither of these.
            InputError: a path number is out of range.
        """
        shape = torch.Size(sample_shape)
        base = base_samples.to(self.device)
        if not base.is_floating_point():
            return self._indexed(shape, base)
        base = base.reshape(base.shape[: len(shape)] + base.shape[-1:]) if base.ndim > len(shape) else base
        expected = torch.Size([*shape, self.num_paths])
        if base.shape != expected:
            raise ShapeError(
                f"float base samples must have shape {tuple(expected)} (sample shape, then one "
                f"weight per path), got {tuple(base_samples.shape)}."
            )
        centred = self._values(self.num_paths) - self.mean
        weights = base.to(self.dtype) / self.num_paths**0.5
        return self.mean + torch.tensordot(weights, centred, dims=1)

    def _indexed(self, shape: torch.Size, index: Tensor) -> Tensor:
        if index.shape != shape:
            raise ShapeError(
                f"integer base samples must have the sample shape {tuple(shape)}, got {tuple(index.shape)}."
            )
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < self.num_paths:
            raise InputError(
                f"path numbers must lie in [0, {self.num_paths}), got values from {int(index.min())} to "
                f"{int(index.max())}: build the sampler with botorch.sampling.get_sampler for this model."
            )
        values = self._values(int(index.max()) + 1 if index.numel() else 0)
        return values[index.long()]

    def _values(self, count: int) -> Tensor:
        """The first `count` paths with observation noise where asked for, (count, *b, q, m)."""
        latent = self._paths(count)
        if self._noise_variance is None:
            return latent
        draws = [output.noise(self.X.shape[-2], count).to(latent) for output in self._outputs]
        standard = _last_stacked(draws)  # (count, q, m): shared by the t-batch, as base samples are
        standard = standard.reshape(count, *[1] * (self.X.ndim - 2), *standard.shape[1:])
        return torch.addcmul(latent, self._noise_variance.sqrt(), standard)

    def _paths(self, count: int) -> Tensor:
        """The first `count` latent paths, (count, *b, q, m); kept, and extended when more are asked for."""
        kept = self._latent
        if kept is not None and self._lacks_graph(kept):
            kept = None
        have = 0 if kept is None else len(kept)
        if kept is None or have < count:
            fresh = _last_stacked([o.evaluate(self.X, have, count) for o in self._outputs])
            kept = self._latent = fresh if kept is None else torch.cat([kept, fresh])
        return kept[:count]

    def _lacks_graph(self, kept: Tensor) -> bool:
        """True when `kept` was computed without gradients and they are wanted now."""
        return torch.is_grad_enabled() and self.X.requires_grad and not kept.requires_grad


class RawPosterior(PathsOnly, TransformedPosterior):
    """A posterior of paths after the outcome transform: BoTorch's, with a mean that costs no variance it does not need.

    Args:
        posterior: what an outcome transform made. affine: whether its mean is a function of the mean alone.
    """

    def __init__(self, posterior: TransformedPosterior, affine: bool) -> None:
        super().__init__(
            posterior._posterior,
            posterior._sample_transform,
            posterior._mean_transform,
            posterior._variance_transform,
        )
        self._affine = affine

    @property
    def mean(self) -> Tensor:
        """The mean in raw units, (*b, q, m)."""
        return self._mean_transform(self._posterior.mean, None) if self._affine else super().mean


class RoundedPosterior(PathsOnly, TransformedPosterior):
    """A posterior whose answers are rounded to another type, which is no part of how they are computed."""

    def __init__(self, posterior: Posterior, dtype: torch.dtype) -> None:
        def rounded(values: Tensor) -> Tensor:
            return values.to(dtype)

        super().__init__(
            posterior,
            sample_transform=rounded,
            mean_transform=lambda mean, variance: rounded(mean),
            variance_transform=lambda mean, variance: rounded(variance),
        )
        self._rounded_to = dtype
        self._affine = getattr(posterior, "_affine", not isinstance(posterior, TransformedPosterior))

    @property
    def mean(self) -> Tensor:
        """The mean, rounded, (*b, q, m)."""
        return self._posterior.mean.to(self._rounded_to)

    @property
    def dtype(self) -> torch.dtype:
        return self._rounded_to


def _last_stacked(tensors: list[Tensor]) -> Tensor:
    """The tensors along a new last dimension; one alone is not copied."""
    return tensors[0].unsqueeze(-1) if len(tensors) == 1 else torch.stack(tensors, dim=-1)


class PathSampler(MCSampler):
    """Sampler of fixed paths: the same functions at every call, each used equally often.

    With `sample_shape.numel()` = k S every path is used exactly k times, so the average over samples is the average
    over paths. Where the number asked for is not a multiple of S, the seed decides which paths are used once more.

    Args:
        sample_shape: shape of the samples (BoTorch's acquisition functions ask for 512 unless told otherwise).
        num_paths: number S of paths of the posteriors that will be sampled. It is fixed here because a later call may
            pass a transformed posterior, which does not say.
        seed: decides the order of the paths; None draws one from torch's global generator, as BoTorch's samplers do.
    """

    def __init__(self, sample_shape: torch.Size, num_paths: int, seed: int | None = None) -> None:
        super().__init__(sample_shape=sample_shape, seed=seed)
        self.num_paths = num_paths
        order = torch.randperm(num_paths, generator=torch.Generator().manual_seed(self.seed))
        numbers = order[torch.arange(sample_shape.numel()) % num_paths]
        self.register_buffer("base_samples", numbers.reshape(sample_shape))

    def forward(self, posterior: Posterior) -> Tensor:
        """Samples of `posterior` (plain or transformed), (*sample_shape, *b, q, m).

        Raises:
            InputError: the posterior has another number of paths than this sampler was built for.
        """
        if posterior.base_sample_shape != torch.Size([1, self.num_paths]):
            raise InputError(
                f"this sampler was built for posteriors of {self.num_paths} paths, got one whose base samples have "
                f"shape {tuple(posterior.base_sample_shape)}: build it with botorch.sampling.get_sampler."
            )
        return posterior.rsample_from_base_samples(self.sample_shape, self.base_samples)

    def _update_base_samples(self, posterior: Posterior, base_sampler: MCSampler) -> None:
        """Nothing to do: paths do not depend on the points they are evaluated at."""


@GetSampler.register(PathwisePosterior)
def _path_sampler(
    posterior: PathwisePosterior, sample_shape: torch.Size, *, seed: int | None = None
) -> PathSampler:
    return PathSampler(sample_shape, num_paths=posterior.num_paths, seed=seed)
