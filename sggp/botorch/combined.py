"""Weighted sums of what a `PathwiseGPModel` answers: BoTorch's linear posterior transforms, on paths."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from botorch.acquisition.objective import (
    ExpectationPosteriorTransform,
    PosteriorTransform,
    ScalarizedPosteriorTransform,
)
from botorch.models.transforms.outcome import OutcomeTransform, Standardize, StratifiedStandardize
from botorch.posteriors.posterior import Posterior
from botorch.posteriors.transformed import TransformedPosterior
from torch import Tensor

from sggp.botorch.output import OutputGP
from sggp.botorch.posterior import PathsOnly, PathwisePosterior, RawPosterior
from sggp.errors import ShapeError


class CombinedPosterior(PathsOnly, TransformedPosterior):
    """A posterior whose samples are linear combinations of those of another, path by path.

    Args:
        posterior: of paths, plain or transformed.
        combine: the combination, of values (*s, *b, q, m) to (*s, *b, q', m').
        variance: finds the variance (*b, q', m'). None: the mean square distance of the S paths from the mean.
        event: (*b, q', m').
        correlated: whether the m' outputs are no independent processes.
    """

    def __init__(
        self,
        posterior: Posterior,
        combine: Callable[[Tensor], Tensor],
        variance: Callable[[], Tensor] | None,
        event: Sequence[int],
        correlated: bool = False,
    ) -> None:
        super().__init__(posterior, sample_transform=combine)
        self.correlated = correlated
        self._find_variance = self._mean_square if variance is None else variance
        self._event = torch.Size(event)

    def _extended_shape(self, sample_shape: torch.Size = torch.Size()) -> torch.Size:  # noqa: B008
        return torch.Size([*sample_shape, *self._event])

    @property
    def mean(self) -> Tensor:
        """The combination of the solved means, (*b, q', m')."""
        return self._sample_transform(self._posterior.mean)

    @property
    def variance(self) -> Tensor:
        """(*b, q', m'), never negative, differentiable in the points."""
        return self._find_variance()

    def _mean_square(self) -> Tensor:
        return (self.rsample(self.base_sample_shape[-1:]) - self.mean).square().mean(0)


class PathStandardize(Standardize):
    """BoTorch's `Standardize` of posteriors of paths, which it makes no Gaussians of.

    `ModelListGP` joins Gaussians unless a transform says that it gives none, and then lists the posteriors as they are.
    """

    _is_linear = False


class PathStratifiedStandardize(StratifiedStandardize):
    """The same, by tasks."""

    _is_linear = False


_OF_PATHS: dict[type[OutcomeTransform], type[OutcomeTransform]] = {
    Standardize: PathStandardize,
    StratifiedStandardize: PathStratifiedStandardize,
}


def of_paths(outcome: OutcomeTransform) -> OutcomeTransform:
    """The transform, and its state, in the form for posteriors of paths; the one given stays what it is."""
    kind = _OF_PATHS.get(type(outcome))
    if kind is None:
        return outcome
    out: OutcomeTransform = object.__new__(kind)
    out.__dict__ = outcome.__dict__
    return out


def averaged(
    posterior: PathwisePosterior, transform: PosteriorTransform | None, outcome: OutcomeTransform | None
) -> tuple[Posterior, PosteriorTransform | None]:
    """The posterior in working units after an expectation, and the transform that is left to do in raw units.

    An expectation commutes with a transform of outcomes that is affine, and only here is the joint covariance known:
    the variance is exact where it is solved by a factor. Any other transform is left.
    """
    if not _affine(outcome) or not _is(transform, ExpectationPosteriorTransform):
        return posterior, transform
    return _expectation(posterior, transform, posterior if solved_directly(posterior.outputs) else None), None


def untransformed(posterior: Posterior, outcome: OutcomeTransform | None, X: Tensor) -> Posterior:
    """The posterior in raw units."""
    if outcome is None:
        return posterior
    if isinstance(outcome, StratifiedStandardize):
        return _of_strata(posterior, outcome, X)
    raw = outcome.untransform_posterior(posterior, X=X)
    return RawPosterior(raw, isinstance(outcome, Standardize)) if type(raw) is TransformedPosterior else raw


def transformed(posterior: Posterior, transform: PosteriorTransform | None, X: Tensor) -> Posterior:
    """`transform` of a posterior of paths in raw units; any that is not one of BoTorch's two linear ones as it is."""
    if transform is None:
        return posterior
    if _is(transform, ScalarizedPosteriorTransform):
        return _weighted_sum(posterior, transform)
    if _is(transform, ExpectationPosteriorTransform):
        return _expectation(posterior, transform, None)
    return in_type(transform, posterior.dtype)(posterior=posterior, X=X)


def in_type(transform: PosteriorTransform, dtype: torch.dtype) -> PosteriorTransform:
    """`transform` with its weights in the type of the answers; a copy where they are of another."""
    if all(tensor.dtype == dtype for tensor in (*transform.buffers(), *transform.parameters())):
        return transform
    return copy.deepcopy(transform).to(dtype)


def solved_directly(outputs: Sequence[OutputGP]) -> bool:
    """Whether joint covariances cost no iterative solve."""
    return all(output.posterior.direct for output in outputs)


def _of_strata(posterior: Posterior, outcome: StratifiedStandardize, X: Tensor) -> RawPosterior:
    """Each point in the units of its stratum; BoTorch does that for Gaussian posteriors only."""
    shift, scale, square = outcome._get_per_input_means_stdvs(X=X, include_stdvs_sq=True)
    raw = TransformedPosterior(
        posterior,
        sample_transform=lambda values: shift + scale * values,
        mean_transform=lambda mean, variance: shift + scale * mean,
        variance_transform=lambda mean, variance: square * variance,
    )
    return RawPosterior(raw, True)


def _affine(outcome: OutcomeTransform | None) -> bool:
    """Whether means go to means and variances to multiples of them."""
    return outcome is None or type(outcome) in (Standardize, PathStandardize)


def _is(transform: PosteriorTransform | None, kind: Any) -> bool:
    """Whether `transform` does what `kind` does, so that a class of the user's own is not taken for it."""
    return isinstance(transform, kind) and type(transform).forward is kind.forward


def _weighted_sum(posterior: Posterior, transform: Any) -> CombinedPosterior:
    """offset + Σ_j w_j f_j: of independent outputs, the variance is Σ_j w_j² var_j; of others, that of the paths."""
    *batch, m = posterior._extended_shape()
    weights: Tensor = transform.weights
    if len(weights) != m:
        raise ShapeError(
            f"the model has {m} outputs, but ScalarizedPosteriorTransform has {len(weights)} weights."
        )

    def combine(values: Tensor) -> Tensor:
        return (values @ weights.to(values) + transform.offset).unsqueeze(-1)

    def variance() -> Tensor:
        each: Tensor = posterior.variance
        return (each @ weights.to(each).square()).unsqueeze(-1)

    exact = None if getattr(posterior, "correlated", False) else variance
    return CombinedPosterior(posterior, combine, exact, (*batch, 1))


def _expectation(posterior: Posterior, transform: Any, exact: PathwisePosterior | None) -> CombinedPosterior:
    """Σ_i w_i f(x_i) over each block of n_w points; variance wᵀCw by the joint covariance, or from the paths."""
    *batch, q, m = posterior._extended_shape()
    size = transform.n_w
    if q % size:
        raise ShapeError(
            f"ExpectationPosteriorTransform got {q} points, which is no multiple of {size} (its n_w)."
        )

    def combine(values: Tensor) -> Tensor:
        blocks = values.reshape(*values.shape[:-2], q // size, size, m)
        return (blocks * transform.weights.to(values)).sum(-2)

    def variance() -> Tensor:
        blocks = exact.joint_blocks(size)  # type: ignore[union-attr]
        weights = transform.weights.to(blocks).expand(size, m)
        return torch.einsum("...jik,ij,kj->...j", blocks, weights, weights).clamp_min(0.0)

    return CombinedPosterior(posterior, combine, None if exact is None else variance, (*batch, q // size, m))
