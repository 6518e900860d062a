"""Our Tanimoto kernels inside the models of GPyTorch and BoTorch, and what loops with our model leave in memory."""

from __future__ import annotations

import gc
from typing import Any

import gpytorch
import pytest
import torch
from gpytorch.distributions import MultivariateNormal
from gpytorch.kernels import ScaleKernel
from torch import Tensor

from sggp.kernels import TanimotoDotProduct, TanimotoMinMax

both = pytest.mark.parametrize("base", [TanimotoMinMax, TanimotoDotProduct])


@pytest.fixture(scope="module")
def table() -> tuple[Tensor, Tensor]:
    """Counts (40, 24) of four kinds, and a value that a kind has."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.arange(40) % 4
    rates = 4 * torch.rand(4, 24, generator=generator, dtype=torch.float64) ** 3
    return torch.poisson(rates[kinds], generator=generator), (kinds.double() - 1.5)[:, None]


@both
def test_a_sparse_variational_model_learns(base: Any, table: tuple[Tensor, Tensor]) -> None:
    x, y = table[0], table[1][:, 0]

    class Sparse(gpytorch.models.ApproximateGP):
        def __init__(self) -> None:
            distribution = gpytorch.variational.CholeskyVariationalDistribution(12)
            super().__init__(
                gpytorch.variational.VariationalStrategy(
                    self, x[:12], distribution, learn_inducing_locations=False
                )
            )
            self.mean_module = gpytorch.means.ConstantMean()
            self.covar_module = ScaleKernel(base())

        def forward(self, rows: Tensor) -> MultivariateNormal:
            return MultivariateNormal(self.mean_module(rows), self.covar_module(rows))

    model, likelihood = Sparse().double(), gpytorch.likelihoods.GaussianLikelihood().double()
    objective = gpytorch.mlls.VariationalELBO(likelihood, model, len(x))
    optimizer = torch.optim.Adam([*model.parameters(), *likelihood.parameters()], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        loss = -objective(model(x), y)
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        assert float((model(x).mean - y).square().mean()) < 0.3 * float(y.var())


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # of GPyTorch's task kernel
@both
def test_botorchs_models_learn(base: Any, table: tuple[Tensor, Tensor]) -> None:
    pytest.importorskip("botorch", reason="the extra botorch is not installed")
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import MultiTaskGP, SingleTaskGP

    x, y = table
    single = SingleTaskGP(x, y, covar_module=ScaleKernel(base()))
    tasks = torch.cat([x, (torch.arange(40) // 20)[:, None].double()], 1)
    several = MultiTaskGP(tasks, y, task_feature=-1, covar_module=ScaleKernel(base()), output_tasks=[0])
    for model, rows in ((single, x), (several, x)):
        before = model.likelihood.noise.detach().clone()
        fit_gpytorch_mll(gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model))
        assert not torch.equal(before, model.likelihood.noise)
        with torch.no_grad():
            assert float((model.posterior(rows).mean - y).square().mean()) < 0.3 * float(y.var())


def test_a_loop_leaves_no_more_tensors_behind_the_longer_it_runs() -> None:
    pytest.importorskip("botorch", reason="the extra botorch is not installed")
    from botorch.acquisition import qLogExpectedImprovement

    from sggp.botorch import PathwiseGPModel

    kernel = ScaleKernel(gpytorch.kernels.RBFKernel())
    settings = {"covar_module": kernel, "noise_variance": 0.1, "optimizer": None, "num_samples": 4}
    X = torch.rand(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def rounds(count: int) -> int:
        for number in range(count):
            model = PathwiseGPModel(X, X.sum(1, keepdim=True), num_features=16, generator=number, **settings)
            points = X[:3, None].clone().requires_grad_()
            qLogExpectedImprovement(model, best_f=1.0)(points).sum().backward()
            model.condition_on_observations(X[:1], X[:1, :1]).posterior(X).rsample(torch.Size([6]))
        del model, points
        gc.collect()
        return sum(issubclass(type(each), Tensor) for each in gc.get_objects())

    rounds(2)  # what is made once
    few = rounds(2)
    assert rounds(5) <= few + 2
