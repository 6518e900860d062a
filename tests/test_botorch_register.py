"""`register()`: paths of BoTorch's own models of several outputs, categories and tasks, against their posteriors."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from gpytorch.kernels import Kernel, LinearKernel, MaternKernel, PeriodicKernel, RQKernel, ScaleKernel
from torch import Tensor

pytest.importorskip("botorch", reason="the BoTorch face needs the extra botorch")

from botorch.models import MixedSingleTaskGP, MultiTaskGP, SingleTaskGP
from botorch.models.deterministic import MatheronPathModel
from botorch.models.model import Model
from botorch.sampling.pathwise.features import gen_kernel_features

from sggp.botorch import register
from sggp.kernels import TanimotoMinMax

PATHS = 600
TWO = torch.Size([2])


def table(n: int, columns: int) -> tuple[Tensor, Tensor]:
    """Points whose last column counts 0, 1, 2, 0, ...; two outcomes that depend on it."""
    g = torch.Generator().manual_seed(n)
    x = torch.rand(n, columns, generator=g, dtype=torch.float64)
    x[:, -1] = torch.arange(n) % 3
    y = torch.stack([x.sum(-1), torch.sin(4 * x[:, 0]) * x[:, -1]], dim=-1)
    return x, 10 * y + torch.randn(n, 2, generator=g, dtype=torch.float64)


def compare(model: Model, query: Tensor) -> None:
    """Mean and deviation of many paths are those of the posterior, output by output."""
    torch.manual_seed(3)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of linear_operator's sparse tensors
        draws = MatheronPathModel(model, torch.Size([PATHS]))(query)
        posterior = model.eval().posterior(query)
        mean, deviation = posterior.mean, posterior.variance.sqrt()
    assert draws.shape == (PATHS, *mean.shape)
    assert ((draws.mean(0) - mean) / deviation).abs().max() < 4.5 / math.sqrt(PATHS) + 0.02
    assert (draws.std(0) / deviation - 1).abs().max() < 0.2


def scaled(kernel: Kernel) -> ScaleKernel:
    return ScaleKernel(kernel, batch_shape=TWO)


@pytest.mark.parametrize(
    "make",
    [
        lambda: scaled(RQKernel(batch_shape=TWO, active_dims=[0])),
        lambda: MaternKernel(batch_shape=TWO) + scaled(LinearKernel(batch_shape=TWO)),
        lambda: MaternKernel(batch_shape=TWO) * PeriodicKernel(batch_shape=TWO, active_dims=[1]),
        lambda: scaled(TanimotoMinMax()) + MaternKernel(),
    ],
)
def test_two_outputs_have_kernels_of_their_own(make: Callable[[], Kernel]) -> None:
    register()
    kernel = make().double()
    for raw in kernel.parameters():  # another one for each output
        raw.data += torch.linspace(-0.5, 0.5, raw.numel()).reshape(raw.shape)
    x, y = table(12, 2)
    model = SingleTaskGP(x, y, covar_module=kernel)
    model.likelihood.noise = torch.full((2, 1), 0.1)
    compare(model, x[:4] + 0.1)


def test_every_kernel_of_a_batch_has_its_features() -> None:
    register()
    kernel = (RQKernel(batch_shape=torch.Size([3, 2])) + LinearKernel(batch_shape=TWO)).double()
    kernel.kernels[0].lengthscale = torch.linspace(0.2, 2, 6).reshape(3, 2, 1, 1)
    x = table(5, 2)[0]
    phi = gen_kernel_features(kernel, num_inputs=2, num_outputs=8192)(x)
    assert phi.shape[:-1] == (3, 2, 5)
    gram = kernel(x).to_dense()
    assert (phi @ phi.mT - gram).abs().max() < 6 * gram.max() / math.sqrt(4096)


@pytest.mark.parametrize("outputs", [1, 2])
def test_categories(outputs: int) -> None:
    register()
    x, y = table(15, 3)
    model = MixedSingleTaskGP(x, y[:, :outputs], cat_dims=[-1])
    query = x[:4] + torch.tensor([0.1, 0, 0])
    query[0, -1] = 7  # a category that the data lack
    compare(model, query)


@pytest.mark.parametrize("numbers", [[0, 1, 2], [1, 4, 9]])
def test_tasks_by_their_numbers(numbers: list[int]) -> None:
    register()
    x, y = table(18, 3)
    x[:, -1] = torch.tensor(numbers).double()[x[:, -1].long()]
    noise = 0.1 + x[:, :1] if numbers[0] else None
    torch.manual_seed(0)  # BoTorch draws the covariances of the tasks
    model = MultiTaskGP(x, y[:, :1], task_feature=-1, train_Yvar=noise, output_tasks=[numbers[1]])
    model.mean_module.base_means[2].constant.data += 0.5
    if noise is None:  # one for each task; BoTorch counts them from 0, whatever their numbers
        model.likelihood.noise = torch.tensor([0.05, 0.1, 0.2])
    compare(model, x[:4] + torch.tensor([0.1, 0, 0]))
