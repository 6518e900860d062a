"""Paths of BoTorch's own `MultiTaskGP`, which BoTorch draws for no such model."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from botorch.models.multitask import MultiTaskGP, _compute_multitask_mean
from botorch.sampling.pathwise.paths import SamplePath
from botorch.sampling.pathwise.posterior_samplers import DrawMatheronPaths
from gpytorch.kernels import IndexKernel, Kernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
from gpytorch.models import ExactGP
from linear_operator.operators import DiagLinearOperator
from torch import Tensor

from sggp.kernels import TaskKernel


class _GivenTasks(TaskKernel):
    """The covariances of an `IndexKernel` for tasks by the numbers that the model knows them by."""

    def __init__(self, kernel: IndexKernel, tasks: list[int]) -> None:
        super().__init__(tasks, active_dims=tuple(kernel.active_dims.tolist()))
        self.register_buffer("matrix", kernel._eval_covar_matrix().detach())
        self.to(kernel.raw_var)

    def _eval_covar_matrix(self) -> Any:
        return self.matrix


class _TaskMean(torch.nn.Module):
    """The mean of a `MultiTaskGP` at points that name their task."""

    def __init__(self, model: MultiTaskGP) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:  # (*b, n, d) -> (*b, n)
        return _compute_multitask_mean(self.model.mean_module, *self.model._split_inputs(x))


def register_multitask_paths() -> None:
    """Teach `draw_matheron_paths` the `MultiTaskGP`, unless it knows it."""
    if (MultiTaskGP,) not in DrawMatheronPaths.funcs:
        DrawMatheronPaths.register(MultiTaskGP)(_draw_paths)


def _draw_paths(
    model: MultiTaskGP, *, sample_shape: torch.Size, prior_sampler: Any, update_strategy: Any
) -> SamplePath:
    """BoTorch's paths of a model with the same mean and covariances, of points that name their task by its number."""
    model.eval()
    plain = copy.copy(model)
    plain._modules = dict(model._modules)
    plain.mean_module = _TaskMean(model)
    plain.covar_module = _of_numbers(model.covar_module, sorted(model._expected_task_values))
    plain._num_outputs = 1
    if not isinstance(model.likelihood, FixedNoiseGaussianLikelihood):
        (x,) = model.train_inputs
        noise = model.likelihood._shaped_noise_covar(x.shape[:-1], x).diagonal(dim1=-1, dim2=-2)
        update_strategy = partial(update_strategy, noise_covariance=DiagLinearOperator(noise.detach()))
    draw = DrawMatheronPaths.funcs[(ExactGP,)]
    return draw(
        plain, sample_shape=sample_shape, prior_sampler=prior_sampler, update_strategy=update_strategy
    )


def _of_numbers(kernel: Kernel, tasks: list[int]) -> Kernel:
    """A copy whose index kernels take the numbers of the tasks."""
    if isinstance(kernel, IndexKernel):
        return _GivenTasks(kernel, tasks)
    kernel = copy.deepcopy(kernel)
    for part in list(kernel.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, IndexKernel):
                setattr(part, name, _GivenTasks(child, tasks))
    return kernel
