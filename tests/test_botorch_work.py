"""What Thompson sampling over many candidates asks for: every candidate's features and covariances once."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel

pytest.importorskip("botorch", reason="botorch is not installed")

from botorch.generation import MaxPosteriorSampling
from torch import Tensor

from sggp.botorch import PathwiseGPModel, PoolThompsonSampling
from sggp.kernels import TableKernel, TanimotoMinMax
from sggp.kernels.features import MinHashMap
from sggp.kernels.tanimoto_covariance import MinMaxCovariance
from sggp.operators import KernelOperator
from sggp.solvers import ConjugateGradients

ROWS, WIDTH, SAMPLES = 40, 64, 16


def fingerprints(n: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 2, (n, WIDTH), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture
def model() -> PathwiseGPModel:
    x = fingerprints(ROWS).double()
    kernel = ScaleKernel(TanimotoMinMax()).double()
    given = {"covar_module": kernel, "noise_variance": 0.01, "optimizer": None, "generator": 0}
    return PathwiseGPModel(x, x[:, :3].sum(1, keepdim=True), num_samples=SAMPLES, num_features=128, **given)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Rows of which features were evaluated, and entries of K that products evaluated."""
    seen: Counter[str] = Counter()
    features, product = MinHashMap._evaluate, MinMaxCovariance._matmul

    def evaluate(self, x):
        seen["features"] += len(x)
        return features(self, x)

    def matmul(self, x, z, v, memory_budget):
        seen["entries"] += len(x) * len(z)
        return product(self, x, z, v, memory_budget)

    monkeypatch.setattr(MinHashMap, "_evaluate", evaluate)
    monkeypatch.setattr(MinMaxCovariance, "_matmul", matmul)
    return seen


@pytest.mark.parametrize("door", [MaxPosteriorSampling, PoolThompsonSampling])
def test_any_number_of_picks_takes_each_candidate_once(door, model, counted) -> None:
    """100 paths of a model of 16: chunks of 16, 16, 32 and 64, which had features and a product each."""
    pool = fingerprints(1000, seed=1)
    model.posterior(pool[:1]).rsample(torch.Size([100]))  # draws and solves for what is missing
    counted.clear()
    door(model)(pool, num_samples=100)
    assert counted == {"features": 1000, "entries": 1000 * ROWS}


def test_paths_paired_with_points_are_evaluated_together(model, counted) -> None:
    (output,) = model.output_models
    own = fingerprints(90, seed=2)[:, None].double()
    every = output.evaluate(own[:, 0], 5, 95)
    counted.clear()
    paired = output.evaluate_paired(own, 5)
    assert counted["features"] == 90
    torch.testing.assert_close(paired[:, 0], every.diagonal())


def test_picks_are_those_of_the_paths_in_float64(model) -> None:
    pool = fingerprints(500, seed=3)
    picks = MaxPosteriorSampling(model)(pool, num_samples=40)
    values = model.posterior(pool.double()).rsample(torch.Size([40])).squeeze(-1)
    assert torch.equal(picks, pool[values.argmax(1)])


class TestOneSolveForOutputs:
    """Outputs that share kernel and noise: what eight of them evaluate of the kernel matrix, beside one."""

    @pytest.fixture
    def entries(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
        made: list[KernelOperator] = []
        start = KernelOperator.__init__

        def remembered(self, *args, **kwargs):
            start(self, *args, **kwargs)
            made.append(self)

        monkeypatch.setattr(KernelOperator, "__init__", remembered)

        def count() -> int:
            total = sum(operator.entries_evaluated for operator in made)
            made.clear()
            return total

        return count

    @staticmethod
    def outputs(m: int, solver=None, lengthscales=None) -> PathwiseGPModel:
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(80, 2, generator=generator, dtype=torch.float64)
        y = torch.sin(6 * x @ torch.rand(2, 8, generator=generator, dtype=torch.float64))[:, :m]
        kernels = []
        for lengthscale in lengthscales or [0.5] * m:
            kernels.append(ScaleKernel(MaternKernel(nu=1.5)).double())
            kernels[-1].base_kernel.lengthscale = lengthscale
        return PathwiseGPModel(
            x, y, covar_module=kernels, noise_variance=0.01, optimizer=None, generator=0, num_samples=8,
            num_features=64, solver=solver, tolerance=1e-10,
        )  # fmt: skip

    @pytest.mark.parametrize("solver", [None, ConjugateGradients()], ids=["factor", "iterations"])
    def test_eight_cost_hardly_more_than_one(self, solver, entries) -> None:
        self.outputs(1, solver)
        one = entries()
        model = self.outputs(8, solver)
        assert one > 0
        assert entries() <= 1.5 * one
        model.posterior(model.train_inputs[0][:5]).variance  # noqa: B018
        assert solver is not None or entries() <= 1.5 * one  # one factor for all
        for output in model.output_models:
            output.invalidate()
        model.posterior(model.train_inputs[0][:5]).mean  # noqa: B018
        assert entries() <= 1.5 * one

    @pytest.mark.parametrize("solver", [None, ConjugateGradients()], ids=["factor", "iterations"])
    def test_the_posteriors_are_those_of_outputs_alone(self, solver) -> None:
        model = self.outputs(3, solver)
        asked = torch.rand(7, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        together = model.posterior(asked)
        samples = together.rsample(torch.Size([12]))
        for output in model.output_models:
            output.invalidate()
            _ = output.posterior  # alone
        alone = model.posterior(asked)
        torch.testing.assert_close(together.mean, alone.mean, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(together.variance, alone.variance, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(samples, alone.rsample(torch.Size([12])), rtol=1e-6, atol=1e-6)

    def test_outputs_with_other_kernels_have_solves_of_their_own(self, entries) -> None:
        self.outputs(1)
        one = entries()
        model = self.outputs(3, lengthscales=[0.5, 0.2, 0.5])
        assert entries() == 2 * one
        asked = model.train_inputs[0][:4]
        variance = model.subset_output([1]).posterior(asked).variance
        assert not torch.allclose(variance, model.subset_output([0]).posterior(asked).variance)

    def test_kernels_that_differ_in_no_parameter_are_not_taken_for_one(self) -> None:
        (output,) = self.outputs(1).output_models
        tables = [torch.rand(80, 2, generator=torch.Generator().manual_seed(i)) for i in range(2)]
        pairs = [
            (MaternKernel(nu=1.5), MaternKernel(nu=2.5)),
            (TableKernel(RBFKernel(), tables[0]), TableKernel(RBFKernel(), tables[1])),
            (RBFKernel(active_dims=[0]), RBFKernel(active_dims=[1])),
            (RBFKernel(), MaternKernel()),
        ]
        for first, second in pairs:
            for kernel, same in ((first, True), (second, False)):
                output.covar_module, other = first, copy.copy(output)
                other._modules = {**output._modules, "covar_module": copy.deepcopy(kernel)}
                assert output.same_system(other) is same
