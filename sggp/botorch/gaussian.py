"""A `PathwiseGPModel` seen as a joint Gaussian over few points: covariances, conditioning and fantasies."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from botorch.acquisition.objective import PosteriorTransform
from botorch.models.model import FantasizeMixin, Model
from botorch.posteriors.gpytorch import GPyTorchPosterior
from botorch.posteriors.posterior import Posterior
from gpytorch.distributions import MultitaskMultivariateNormal, MultivariateNormal
from gpytorch.likelihoods import Likelihood
from linear_operator import to_linear_operator
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor

from sggp.botorch.base import OutputsModel
from sggp.botorch.checks import check_observations
from sggp.botorch.combined import in_type
from sggp.botorch.output import OutputGP
from sggp.botorch.posterior import RoundedPosterior
from sggp.errors import MemoryBudgetError

_BUDGET = 2**30


@dataclass(frozen=True)
class Observations:
    """Observations beside the data of the model, in its working units; batch dimensions broadcast.

    Attributes:
        x: (*b, k, d) after the input transform. y: (*f, *b, k, m) after the outcome transform.
        noise: variances, broadcastable to y.
    """

    x: Tensor
    y: Tensor
    noise: Tensor

    def joined(self, other: Observations) -> Observations:
        """These observations followed by others."""
        names = ("x", "y", "noise")
        return Observations(*(_joined(getattr(self, name), getattr(other, name)) for name in names))


class JointGaussianModel(Model, FantasizeMixin):
    """The posterior of a `PathwiseGPModel` as multivariate normal distributions; `PathwiseGPModel.gaussian()` makes it.

    It shares what the model has learned and solved. `posterior(X)` is BoTorch's `GPyTorchPosterior` of the q points of
    each t-batch, with the exact mean and joint covariance, computed in float64, in the dtype of the training data,
    differentiable in X. New observations, in batches too, condition that distribution: with C the covariance of the k
    new points and the q points asked for,

        mean + C_qk (C_kk + noise)⁻¹ (y − mean_k),    C_qq − C_qk (C_kk + noise)⁻¹ C_kq,

    so that a fantasy costs a system of k rows, not one of n + k. No draw of paths plays a part.

    Args:
        model: the model. added: observations beside its data.

    Cost: n² (k + q) flops for each t-batch and output while the model has up to 3,000 distinct rows; beyond, an
        iterative solve of (k + q) columns.
    """

    _supports_cache_root = False

    def __init__(self, model: OutputsModel, added: Observations | None = None) -> None:
        super().__init__()
        self.model = model
        self._added = added
        self.eval()

    @property
    def num_outputs(self) -> int:
        """Number m of outputs."""
        return self.model.num_processes

    @property
    def batch_shape(self) -> torch.Size:
        """Batch shape of the observations that were added: (num_fantasies, *b) after `fantasize`."""
        added = self._added
        return (
            torch.Size() if added is None else torch.broadcast_shapes(added.x.shape[:-2], added.y.shape[:-2])
        )

    @property
    def likelihood(self) -> Likelihood:
        """That of the model."""
        return self.model.likelihood

    @property
    def train_inputs(self) -> tuple[Tensor]:
        """Those of the model, without what was added."""
        return self.model.train_inputs

    @property
    def train_targets(self) -> Tensor:
        """Those of the model, without what was added."""
        return self.model.train_targets

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        """Joint posterior of the q points of each t-batch, (*b, q, d); the arguments of `PathwiseGPModel.posterior`.

        Raises:
            MemoryBudgetError: the joint covariances would not fit into 1 GiB, as those of 200 points in 3,000 t-batches
                would.
        """
        self.eval()
        X = self.model.completed(X)
        x = self.model.candidates(X).to(self.model.output_models[0].x.device, torch.float64)
        chosen = self.model.output_numbers(output_indices)
        self._check_size(x, len(chosen))
        batch = torch.broadcast_shapes(self.batch_shape, x.shape[:-2])
        noise = self.model.noise_to_add(observation_noise, chosen, (*batch, x.shape[-2]))
        normals = []
        for i, j in enumerate(chosen):
            mean, covariance = self._moments(self.model.output_models[j], j, x)
            if noise is not None:
                each = noise.double().expand(*mean.shape, len(chosen))[..., i]
                covariance = covariance + torch.diag_embed(each)
            normals.append(
                MultivariateNormal(mean, to_linear_operator(covariance))
            )  # a tensor would be factorised
        joint = (
            normals[0] if len(normals) == 1 else MultitaskMultivariateNormal.from_independent_mvns(normals)
        )
        posterior: Posterior = GPyTorchPosterior(joint)
        if hasattr(self.model, "outcome_transform"):
            transform = copy.deepcopy(self.model.outcome_transform).double()
            transform = transform if output_indices is None else transform.subset_output(chosen)
            posterior = transform.untransform_posterior(posterior, X=X)
        if (dtype := self.model.answers_in(X, self.train_inputs[0].dtype)) != torch.float64:
            posterior = _rounded(posterior, dtype)
        if posterior_transform is None:
            return posterior
        return in_type(posterior_transform, posterior.dtype)(posterior=posterior, X=X)

    def forward(self, X: Tensor) -> Any:
        """The distribution of `posterior(X)`, for which BoTorch's GIBBON calls the model where points are pending."""
        return self.posterior(X).distribution

    def condition_on_observations(
        self, X: Tensor, Y: Tensor, noise: Tensor | None = None, **kwargs: Any
    ) -> JointGaussianModel:
        """The distribution given further observations, which may come in batches.

        Args:
            X: new inputs (*b, k, d), in the units of `train_X`.
            Y: new outcomes (*f, *b, k, m), in raw units; differentiable, as X is.
            noise: noise variances broadcastable to Y, in *transformed* units, as BoTorch has it; None repeats the
                model's own (the mean one where it is known per row).
            **kwargs: accepted for BoTorch's sake and ignored.

        Raises:
            ShapeError, DtypeError, InputError: the observations cannot be used.
        """
        X = self.model.completed(X)
        check_observations(X, Y, noise, self.model.input_dim, self.num_outputs)
        x = self.model.inside(X).double()
        self.model.check_columns(x)
        if hasattr(self.model, "outcome_transform"):
            Y, _ = copy.deepcopy(self.model.outcome_transform).eval().double()(Y=Y.double(), X=X)
        own = self.model.mean_noise(range(self.num_outputs)) if noise is None else noise
        new = Observations(x, Y.double(), own.double().expand(Y.shape))
        return JointGaussianModel(self.model, new if self._added is None else self._added.joined(new))

    def subset_output(self, idcs: list[int]) -> JointGaussianModel:
        """The model of the outputs numbered `idcs`, sharing what was solved."""
        numbers, added = self.model.output_numbers(idcs), self._added
        if added is not None:
            added = Observations(added.x, added.y[..., numbers], added.noise[..., numbers])
        return JointGaussianModel(self.model.subset_output(numbers), added)

    def _moments(self, output: OutputGP, number: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and joint covariance of one output at x (*b, q, d), in working units."""
        added, posterior = self._added, output.posterior
        points = x if added is None else _joined(added.x, x)
        mean, covariance = posterior.mean(points), posterior.covariance_matrix(points)
        if added is None:
            return mean, covariance
        k = added.x.shape[-2]
        noise, y = torch.diag_embed(added.noise[..., number]), added.y[..., number]
        lower = psd_safe_cholesky(covariance[..., :k, :k] + noise)
        half = torch.linalg.solve_triangular(lower, covariance[..., :k, k:], upper=False)
        gap = torch.linalg.solve_triangular(lower, (y - mean[..., :k])[..., None], upper=False)
        new = mean[..., k:] + (half.mT @ gap)[..., 0]
        rest = covariance[..., k:, k:] - half.mT @ half
        return new, rest.expand(*new.shape, new.shape[-1])

    def _check_size(self, x: Tensor, outputs: int) -> None:
        batch, q = torch.broadcast_shapes(self.batch_shape, x.shape[:-2]), x.shape[-2]
        k = 0 if self._added is None else self._added.x.shape[-2]
        size = 8 * batch.numel() * (q + k) ** 2 * outputs
        if size > _BUDGET:
            raise MemoryBudgetError(
                f"the joint covariance of {q} points{f' and {k} observations' if k else ''}, {batch.numel()} times, "
                f"needs {size / 2**30:.1f} GiB, more than 1 GiB: ask for fewer points (up to about 200) at a time, or "
                "use the PathwiseGPModel itself, whose paths and variances need no matrix over the points."
            )


def _rounded(posterior: Posterior, dtype: torch.dtype) -> Posterior:
    """The same distribution in another type."""
    if not isinstance(posterior, GPyTorchPosterior):
        return RoundedPosterior(posterior, dtype)
    normal = posterior.distribution
    kind = {"interleaved": normal._interleaved} if isinstance(normal, MultitaskMultivariateNormal) else {}
    covariance = normal.lazy_covariance_matrix.to(dtype)
    return GPyTorchPosterior(type(normal)(normal.mean.to(dtype), covariance, **kind))


def _joined(first: Tensor, second: Tensor) -> Tensor:
    """Rows of both, (*b, k, d) and (*c, l, d), along the last dimension but one, their batches broadcast."""
    batch = torch.broadcast_shapes(first.shape[:-2], second.shape[:-2])
    return torch.cat([t.expand(*batch, *t.shape[-2:]) for t in (first, second)], dim=-2)
