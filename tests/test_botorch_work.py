"""What Thompson sampling over many candidates asks for: every candidate's features and covariances once."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from gpytorch.kernels import ScaleKernel

pytest.importorskip("botorch", reason="botorch is not installed")

from botorch.generation import MaxPosteriorSampling
from torch import Tensor

from sggp.botorch import PathwiseGPModel, PoolThompsonSampling
from sggp.kernels import TanimotoMinMax
from sggp.kernels.features import MinHashMap
from sggp.kernels.tanimoto_covariance import MinMaxCovariance

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
