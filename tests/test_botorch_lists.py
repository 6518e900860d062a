"""`PathwiseGPModel`s in BoTorch's lists of models, beside a `SingleTaskGP`."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.mlls import SumMarginalLogLikelihood
from torch import Tensor

pytest.importorskip("botorch", reason="the BoTorch face needs the extra botorch")

from botorch.acquisition import qLogExpectedImprovement
from botorch.acquisition.multi_objective import logei
from botorch.acquisition.objective import LearnedObjective, LinearMCObjective
from botorch.fit import fit_gpytorch_mll
from botorch.models import ModelList, ModelListGP, SingleTaskGP
from botorch.models.deterministic import GenericDeterministicModel
from botorch.models.transforms import Normalize, Standardize
from botorch.optim import optimize_acqf
from botorch.posteriors import PosteriorList
from botorch.sampling import IIDNormalSampler, SobolQMCNormalSampler
from botorch.sampling.pathwise import draw_matheron_paths, get_matheron_path_model
from botorch.utils.multi_objective.box_decompositions.non_dominated import FastNondominatedPartitioning

from sggp.botorch import PathwiseGPModel
from sggp.errors import NoJointGaussian, ShapeError

UNIT_SQUARE = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
LISTS = pytest.mark.parametrize("kind", [ModelListGP, ModelList])


def data(n: int = 20) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 2, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    return x, torch.stack([x.sum(-1), 30 + torch.sin(5 * x[:, 0])], dim=-1)


def ours(output: int, **settings: Any) -> PathwiseGPModel:
    x, y = data()
    given = {
        "covar_module": ScaleKernel(MaternKernel(nu=2.5)),
        "noise_variance": 0.01,
        "optimizer": None,
        "num_samples": 16,
        "generator": output,
    }
    return PathwiseGPModel(x, y[:, [output]], **(given | settings))


def theirs() -> SingleTaskGP:
    x, y = data()
    return SingleTaskGP(x, y[:, 1:]).eval()


@LISTS
def test_the_posterior_lists_those_of_the_models(kind: Any) -> None:
    first, second, (x, _) = ours(0), theirs(), data()
    both = kind(first, second)
    posterior = both.posterior(x[:3])
    assert isinstance(posterior, PosteriorList)
    torch.testing.assert_close(posterior.mean[:, :1], first.posterior(x[:3]).mean)
    torch.testing.assert_close(posterior.variance[:, 1:], second.posterior(x[:3]).variance)
    paths = posterior.rsample(torch.Size([5]))
    assert torch.equal(paths[..., 0], first.posterior(x[:3]).rsample(torch.Size([5]))[..., 0])
    assert both.subset_output([0]) is first
    swapped = both.subset_output([1, 0])  # BoTorch keeps the order asked for
    assert type(swapped) is kind
    noisy = both.posterior(x[:3], observation_noise=True).variance
    assert bool((noisy > posterior.variance).all())
    copied = pickle.loads(pickle.dumps(both))
    assert torch.equal(copied.posterior(x[:3]).rsample(torch.Size([5]))[..., 0], paths[..., 0])


@LISTS
def test_acquisition_functions(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        logei, "_load_attempted", True, raising=False
    )  # else half a minute of compiling it in C++
    both, (x, y) = kind(ours(0), theirs()), data()
    partitioning = FastNondominatedPartitioning(torch.tensor([0.0, 28.0]).double(), y)
    gain = logei.qLogExpectedHypervolumeImprovement(both, [0.0, 28.0], partitioning)
    candidates, value = optimize_acqf(gain, UNIT_SQUARE, q=2, num_restarts=1, raw_samples=4)
    assert candidates.shape == (2, 2)
    assert value >= gain(x[:2])
    total = LinearMCObjective(torch.ones(2, dtype=torch.float64))
    gain = qLogExpectedImprovement(both, best_f=32.0, objective=total)
    together = gain(x[:4].unsqueeze(-2))
    torch.testing.assert_close(together[2], gain(x[2:3].unsqueeze(-2))[0])  # whatever its position


@LISTS
def test_path_models(kind: Any) -> None:
    first, (x, _) = ours(0), data()
    both = kind(first, ours(1))
    every = both.posterior(x[:4]).rsample(torch.Size([6]))
    torch.testing.assert_close(get_matheron_path_model(both)(x[:4]), every[0])
    torch.testing.assert_close(get_matheron_path_model(both, torch.Size([3]))(x[:4]), every[1:4])
    parts = draw_matheron_paths(both, torch.Size([2]))(x[:4])
    torch.testing.assert_close(torch.stack(parts, dim=-1), every[4:6])
    mixed = get_matheron_path_model(kind(first, theirs()))
    assert mixed(x.expand(3, 20, 2)).shape == (3, 20, 2)
    best, _ = optimize_acqf(
        qLogExpectedImprovement(
            mixed, best_f=31.0, objective=LinearMCObjective(torch.ones(2, dtype=torch.float64))
        ),
        UNIT_SQUARE,
        q=1,
        num_restarts=1,
        raw_samples=4,
    )
    assert best.shape == (1, 2)


def test_path_models_beside_a_known_function() -> None:
    first, (x, _) = ours(0), data()
    both = ModelList(first, GenericDeterministicModel(lambda x: x.prod(-1, keepdim=True)))
    every = first.posterior(x[:4]).rsample(torch.Size([4]))[..., 0]
    one, several = get_matheron_path_model(both)(x[:4]), get_matheron_path_model(both, torch.Size([3]))(x[:4])
    torch.testing.assert_close(one, torch.stack([every[0], x[:4].prod(-1)], dim=-1))
    torch.testing.assert_close(several, torch.stack([every[1:], x[:4].prod(-1).expand(3, 4)], dim=-1))


class TestConditioning:
    @pytest.mark.parametrize("transform", [None, Normalize(2, bounds=torch.tensor([[0.0, 0.0], [2.0, 2.0]]))])
    def test_observations_reach_every_model(self, transform: Any) -> None:
        first, second = ours(0, input_transform=transform), ours(1)
        (x, _), new = data(), torch.full((2, 2), 0.3, dtype=torch.float64)
        new[0] = 0.9
        values = torch.tensor([[5.0, 31.0], [4.0, 29.0]], dtype=torch.float64)
        more = ModelListGP(first, second).condition_on_observations([new, new], values)
        for j, model in enumerate((first, second)):
            alone = model.condition_on_observations(new, values[:, j : j + 1]).posterior(x).mean
            torch.testing.assert_close(more.posterior(x).mean[:, j : j + 1], alone)
        noise = torch.full((2, 2), 1e4, dtype=torch.float64)
        doubted = ModelListGP(first, second).condition_on_observations([new, new], values, noise=noise)
        torch.testing.assert_close(
            doubted.posterior(x).mean[:, 0], first.posterior(x).mean[:, 0], rtol=1e-2, atol=1e-2
        )
        beside = ModelListGP(first, theirs())
        beside.posterior(x)  # BoTorch conditions models that were asked before
        assert beside.condition_on_observations([new, new], values).models[0].train_inputs[0].shape == (22, 2)

    def test_batches_of_targets_are_refused(self) -> None:
        with pytest.raises(ShapeError, match="conditioning is unbatched"):
            ours(0).get_fantasy_model(torch.rand(3, 2).double(), torch.rand(4, 3).double())

    @LISTS
    def test_fantasies(self, kind: Any) -> None:
        both, (x, _) = kind(ours(0), theirs()), data()
        fantasies = both.fantasize(x[:2], SobolQMCNormalSampler(torch.Size([3])))
        assert fantasies.posterior(x[:4]).mean.shape == (3, 4, 2)


def test_fit_gpytorch_mll_learns_every_model() -> None:
    both = ModelListGP(ours(0, noise_variance=0.5), theirs().train())
    before = [model.covar_module.state_dict() for model in both.models]
    before = [{name: value.clone() for name, value in state.items()} for state in before]
    fit_gpytorch_mll(SumMarginalLogLikelihood(both.likelihood, both))
    for model, state in zip(both.models, before, strict=True):
        changed = model.covar_module.state_dict()
        assert any(not torch.equal(changed[name], value) for name, value in state.items())


def test_a_standardize_of_ones_own_stays_what_it_is() -> None:
    own = Standardize(m=1)
    model = ours(1, outcome_transform=own)
    assert type(own) is Standardize
    assert own._is_linear
    assert isinstance(model.outcome_transform, Standardize)
    assert torch.equal(own.means, model.outcome_transform.means)
    x, _ = data()
    assert ModelListGP(model).posterior(x[:3]).mean.shape == (3, 1)


def test_a_list_of_gaussians_names_what_it_needs() -> None:
    both = ModelListGP(ours(0, outcome_transform=None), theirs())
    with pytest.raises(
        NoJointGaussian, match="ModelListGP the models need an outcome_transform; a ModelList takes any"
    ):
        both.posterior(data()[0][:3])


@pytest.mark.parametrize("kept", [(0, -2), (1, -1), (0, -1)])
def test_samplers_may_keep_other_dimensions(kept: tuple[int, int]) -> None:
    """As that of `LearnedObjective` does: normal numbers with a batch range of its own."""
    x, _ = data(6)
    model, points = ours(0), x.expand(3, 2, 6, 2)
    posterior = model.posterior(points)
    plain, other = (IIDNormalSampler(torch.Size([5]), seed=1) for _ in range(2))
    other.batch_range_override = kept
    assert torch.equal(other(posterior), plain(posterior))
    assert LearnedObjective(model, torch.Size([5]), seed=1)(points).shape == (15, 2, 6)
    assert posterior.batch_shape == (3, 2)
