"""`PathwiseGPModel` as a BoTorch `Model`: data, transforms, hyperparameters, updates, registrations, bad input."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpytorch.kernels import LinearKernel, MaternKernel, PeriodicKernel, RQKernel, ScaleKernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood, GaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from torch import Tensor

pytest.importorskip("botorch", reason="the BoTorch face needs the extra botorch")

from botorch.acquisition import UpperConfidenceBound, qLogExpectedImprovement
from botorch.acquisition.objective import LinearMCObjective
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.deterministic import MatheronPathModel
from botorch.models.transforms import Log, Normalize, Standardize
from botorch.sampling.pathwise import get_matheron_path_model
from botorch.sampling.pathwise.features.generators import GenKernelFeatures, gen_kernel_features
from botorch.utils.datasets import SupervisedDataset

from sggp.botorch import PathwiseGPModel, PoolThompsonSampling, register
from sggp.errors import DtypeError, InputError, ShapeError
from sggp.kernels import TanimotoMinMax
from tests.scripts import Scripts
from tests.test_botorch import NOISE, DenseGP, build, data, kernel

FIXED: dict[str, Any] = {"noise_variance": NOISE, "optimizer": None, "num_samples": 32}


@pytest.fixture
def points(generator: torch.Generator) -> Tensor:
    return torch.rand(5, 2, generator=generator, dtype=torch.float64)


def paths(model: PathwiseGPModel, X: Tensor) -> Tensor:
    with torch.no_grad():
        return model.posterior(X).rsample(torch.Size([32]))


class TestHyperparameters:
    def test_default_kernel_is_learned(self, points: Tensor) -> None:
        x, y = data(60)
        # one input in other units: a kernel that is not learned and scaled would see no correlation along it
        stretch = torch.tensor([1.0, 1e4], dtype=torch.float64)
        model = PathwiseGPModel(x * stretch, y, generator=0)
        assert isinstance(model.covar_module, ScaleKernel)
        assert isinstance(model.covar_module.base_kernel, MaternKernel)
        assert model.covar_module.base_kernel.nu in (1.5, 2.5)
        lengths = model.covar_module.base_kernel.lengthscale.flatten()
        assert lengths.shape == (2,)
        assert lengths[1] > 1e3
        assert isinstance(model.likelihood, GaussianLikelihood)
        truth = 20 + 5 * torch.sin(6 * points[:, :1]) * points[:, 1:]
        error = model.posterior(points * stretch).mean - truth
        assert error.square().mean().sqrt() < 0.5  # the noise has standard deviation 0.1, the targets about 2

    def test_given_kernel_and_noise_are_used_as_they_are(self) -> None:
        given = kernel()
        before = copy.deepcopy(given.state_dict())
        model = PathwiseGPModel(*data(), covar_module=given, **FIXED)
        assert torch.equal(model.covar_module.outputscale, given.outputscale)
        assert model.likelihood.noise.item() == pytest.approx(NOISE)
        assert model.covar_module is not given
        assert all(torch.equal(v, before[k]) for k, v in given.state_dict().items())

    def test_fit_gpytorch_mll_learns_what_was_not_learned(self) -> None:
        model = PathwiseGPModel(*data(), covar_module=kernel(), **FIXED)
        before = model.covar_module.outputscale.item()
        mll = ExactMarginalLogLikelihood(model.likelihood, model)
        assert fit_gpytorch_mll(mll) is mll
        after = model.covar_module.outputscale.item()
        assert after != before
        assert model.likelihood.noise.item() == pytest.approx(NOISE)  # it was given
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        assert model.covar_module.outputscale.item() == after  # learned on these data already

    def test_known_noise_per_row(self, points: Tensor) -> None:
        x, y = data()
        variances = torch.linspace(0.01, 4.0, len(y), dtype=torch.float64).unsqueeze(-1)
        model = PathwiseGPModel(x, y, variances, covar_module=kernel(), optimizer=None)
        unit = float(y.std())
        oracle = DenseGP(x, y.squeeze(-1), noise=variances.squeeze(-1) / unit**2)
        torch.testing.assert_close(model.posterior(points).mean.squeeze(-1), oracle.mean(points))
        assert isinstance(model.likelihood, FixedNoiseGaussianLikelihood)
        extra = model.posterior(points, observation_noise=True).variance - model.posterior(points).variance
        torch.testing.assert_close(extra, variances.mean().expand(5, 1))


class TestData:
    def test_condition_on_observations_is_the_posterior_of_all_data(self, points: Tensor) -> None:
        x, y = data()
        X, Y = points, 20 + points.sum(-1, keepdim=True)
        model = build(num_samples=32)
        before = paths(model, points)
        updated = model.condition_on_observations(X, Y)
        assert type(updated) is PathwiseGPModel
        unit, shift = y.std(), y.mean()
        oracle = DenseGP(torch.cat([x, X]), torch.cat([y - shift, Y - shift])[:, 0] / unit, standardise=False)
        query = torch.rand(7, 2, dtype=torch.float64)
        expected = shift + unit * oracle.mean(query)
        torch.testing.assert_close(updated.posterior(query).mean[:, 0], expected, rtol=1e-6, atol=1e-6)
        assert updated.train_inputs[0].shape == (35, 2)
        assert updated.train_targets.shape == (35,)
        assert torch.equal(paths(model, points), before)  # the old model is as it was
        more = updated.posterior(query).rsample(torch.Size([100]))  # further paths know the new data, too
        assert torch.pdist(more.flatten(1)).min() > 0

    def test_update_keeps_the_prior_draws(self) -> None:
        # far from all data a path is its prior draw, which the update must not change
        x, y = data()
        far = torch.full((1, 2), 40.0, dtype=torch.float64)
        model = PathwiseGPModel(x, y, covar_module=kernel(), generator=0, **FIXED)
        updated = model.condition_on_observations(x[:2] + 0.01, y[:2])
        torch.testing.assert_close(paths(model, far), paths(updated, far), rtol=1e-8, atol=1e-8)
        # at a new observation without noise every path takes its value, first paths and later ones alike
        exact_row = torch.zeros(1, 1, dtype=torch.float64)
        Y = torch.full((1, 1), 33.0, dtype=torch.float64)
        pinned = model.condition_on_observations(far, Y, noise=exact_row)
        values = pinned.posterior(far).rsample(torch.Size([80]))
        torch.testing.assert_close(values, Y.expand(80, 1, 1), rtol=1e-3, atol=0)

    def test_condition_with_noise(self, points: Tensor) -> None:
        x, y = data()
        model = build(outcome_transform=None)
        Y = 20 + points.sum(-1, keepdim=True)
        noise = torch.full((5, 1), 3.0, dtype=torch.float64)
        updated = model.condition_on_observations(points, Y, noise=noise)
        each = torch.cat([torch.full((30,), NOISE, dtype=torch.float64), noise[:, 0]])
        oracle = DenseGP(torch.cat([x, points]), torch.cat([y, Y])[:, 0], noise=each, standardise=False)
        mean = updated.posterior(points).mean[:, 0]
        torch.testing.assert_close(mean, oracle.mean(points), rtol=1e-6, atol=1e-6)

    def test_batches_of_observations_are_refused(self, points: Tensor) -> None:
        model = build()
        with pytest.raises(ShapeError, match=r"unbatched.*gaussian\(\)"):
            model.condition_on_observations(points.expand(3, 5, 2), torch.zeros(3, 5, 1))
        with pytest.raises(ShapeError, match="Y must have shape"):
            model.condition_on_observations(points, torch.zeros(4, 1))
        with pytest.raises(InputError, match="variances"):
            model.condition_on_observations(points, torch.zeros(5, 1), noise=-torch.ones(5, 1))

    def test_input_transform(self, points: Tensor) -> None:
        x, y = data()
        wide = torch.tensor([[-50.0, 10.0], [150.0, 12.0]], dtype=torch.float64)
        plain = PathwiseGPModel(x, y, covar_module=kernel(), generator=0, **FIXED)
        unit = Normalize(2, bounds=wide)
        stretched = PathwiseGPModel(
            unit.untransform(x), y, covar_module=kernel(), generator=0, input_transform=unit, **FIXED
        )
        X = unit.untransform(points)
        torch.testing.assert_close(paths(stretched, X), paths(plain, points), rtol=1e-6, atol=1e-6)
        assert torch.allclose(stretched.train_inputs[0], x)
        stretched.train()
        assert torch.equal(stretched.train_inputs[0], unit.untransform(x))
        draws = get_matheron_path_model(stretched, torch.Size([2]))(X)
        torch.testing.assert_close(draws, paths(plain, points)[:2], rtol=1e-6, atol=1e-6)
        updated = stretched.condition_on_observations(X, torch.full((5, 1), 20.0, dtype=torch.float64))
        other = plain.condition_on_observations(points, torch.full((5, 1), 20.0, dtype=torch.float64))
        a, b = updated.posterior(X).mean, other.posterior(points).mean
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)

    def test_normalize_learns_its_bounds_from_the_data(self) -> None:
        x, y = data()
        model = PathwiseGPModel(50 * x, y, covar_module=kernel(), input_transform=Normalize(2), **FIXED)
        assert torch.equal(model.input_transform.bounds, 50 * torch.stack([x.amin(0), x.amax(0)]))
        assert float(model.train_inputs[0].max()) == pytest.approx(1.0)

    def test_nonlinear_outcome_transform(self, points: Tensor) -> None:
        x, y = data()
        settings: dict[str, Any] = {"covar_module": kernel(), "generator": 0} | FIXED
        logged = PathwiseGPModel(x, y, outcome_transform=Log(), **settings)
        plain = PathwiseGPModel(x, y.log(), outcome_transform=None, **settings)
        torch.testing.assert_close(paths(logged, points), paths(plain, points).exp())
        assert qLogExpectedImprovement(logged, 20.0)(points.unsqueeze(1)).shape == (5,)

    def test_set_train_data(self, points: Tensor) -> None:
        x, y = data()
        model = build(outcome_transform=None, num_samples=32)
        model.set_train_data((points,), points.sum(-1), strict=False)
        fresh = DenseGP(points, points.sum(-1), standardise=False)
        torch.testing.assert_close(model.posterior(x).mean[:, 0], fresh.mean(x))
        with pytest.raises(ShapeError, match="expected inputs"):
            model.set_train_data(x, y[:, 0])

    def test_construct_inputs(self) -> None:
        x, y = data()
        dataset = SupervisedDataset(X=x, Y=y, Yvar=0.1 + 0 * y, feature_names=["a", "b"], outcome_names=["y"])
        given = PathwiseGPModel.construct_inputs(dataset)
        assert set(given) == {"train_X", "train_Y", "train_Yvar"}
        model = PathwiseGPModel(**given, covar_module=kernel(), optimizer=None)
        assert model.posterior(x).mean.shape == (30, 1)

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
    def test_copies_hold_the_same_paths(self, copied: Callable[..., Any], points: Tensor) -> None:
        model = build(num_samples=32)
        assert torch.equal(paths(copied(model), points), paths(model, points))

    def test_state_dict_carries_the_hyperparameters(self, points: Tensor) -> None:
        x, y = data()
        model = build(num_samples=32)
        other = PathwiseGPModel(
            x, y, covar_module=ScaleKernel(MaternKernel(nu=1.5, ard_num_dims=2)), generator=0, **FIXED
        )
        assert not torch.allclose(paths(other, points), paths(model, points))
        other.load_state_dict(model.state_dict())
        torch.testing.assert_close(paths(other, points), paths(model, points))


class TestOutputs:
    @pytest.fixture
    def two(self) -> PathwiseGPModel:
        x, y = data()
        return PathwiseGPModel(x, torch.cat([y, -100 * y], 1), covar_module=kernel(), generator=0, **FIXED)

    def test_several_outputs(self, two: PathwiseGPModel, points: Tensor) -> None:
        assert (two.num_outputs, two.batch_shape) == (2, torch.Size([]))
        posterior = two.posterior(points)
        torch.testing.assert_close(posterior.mean[:, 1], -100 * posterior.mean[:, 0])
        samples = posterior.rsample(torch.Size([32])) - posterior.mean
        assert samples.shape == (32, 5, 2)
        joint = torch.stack([samples[:, 0, 0], samples[:, 0, 1]]).corrcoef()[0, 1]
        assert joint.abs() < 4.5 / math.sqrt(32)  # the outputs have their own random numbers
        assert two.train_targets.shape == (2, 30)
        objective = LinearMCObjective(torch.tensor([1.0, 0.0], dtype=torch.float64))
        acquisition = qLogExpectedImprovement(two, best_f=20.0, objective=objective)
        assert acquisition(points.unsqueeze(1)).shape == (5,)

    def test_subsets(self, two: PathwiseGPModel, points: Tensor) -> None:
        every = paths(two, points)
        assert torch.equal(paths(two.subset_output([1]), points), every[..., [1]])
        chosen = two.posterior(points, output_indices=[1, 0]).rsample(torch.Size([32]))
        assert torch.equal(chosen, every[..., [1, 0]])
        assert UpperConfidenceBound(two.subset_output([-1]), 1.0)(points.unsqueeze(1)).shape == (5,)
        with pytest.raises(InputError, match="output numbers"):
            two.subset_output([2])

    def test_matheron_path_model(self, two: PathwiseGPModel, points: Tensor) -> None:
        every = paths(two, points)
        path = MatheronPathModel(two)
        assert path(points).shape == (5, 2)
        torch.testing.assert_close(path(points), every[0])
        batch = get_matheron_path_model(two, torch.Size([3]))
        torch.testing.assert_close(batch(points), every[1:4])


class TestRegister:
    def test_features_for_kernels_botorch_lacks(self) -> None:
        own = GenKernelFeatures.funcs[(MaternKernel,)]
        kinds = register()
        assert register() == kinds
        assert {TanimotoMinMax, RQKernel, PeriodicKernel} <= set(kinds)
        assert GenKernelFeatures.funcs[(MaternKernel,)] is own
        torch.manual_seed(0)
        x = torch.randint(0, 4, (6, 12)).double()
        tanimoto = ScaleKernel(TanimotoMinMax()).double()
        tanimoto.outputscale = 2.0
        columns = RQKernel(active_dims=[1, 3]).double()
        columns.lengthscale = 3.0
        for k in (tanimoto, columns, ScaleKernel(columns), LinearKernel().double(), columns + tanimoto):
            gram = k(x).to_dense()
            features = gen_kernel_features(k, num_inputs=12, num_outputs=8192)
            phi = features(x)
            assert phi.shape == (6, features.num_outputs)
            assert (phi @ phi.T - gram).abs().max() < 6 * gram.max() / math.sqrt(8192), k

    def test_a_rule_that_is_there_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        register()
        rule = object()
        monkeypatch.setitem(GenKernelFeatures.funcs, (PeriodicKernel,), rule)
        assert PeriodicKernel not in register()
        assert GenKernelFeatures.funcs[(PeriodicKernel,)] is rule

    def test_paths_of_botorchs_own_model(self) -> None:
        register()
        torch.manual_seed(1)
        x = torch.randint(0, 4, (25, 16)).double()
        covar = ScaleKernel(TanimotoMinMax()).double()
        model = SingleTaskGP(x, x[:, :1] + x[:, 1:2], covar_module=covar, outcome_transform=Standardize(1))
        model.likelihood.noise = 0.1
        query = torch.randint(0, 4, (4, 16)).double()
        with torch.no_grad():
            draws = get_matheron_path_model(model, torch.Size([512]))(query).squeeze(-1)
            posterior = model.eval().posterior(query)
            mean, sd = posterior.mean.squeeze(-1), posterior.variance.squeeze(-1).sqrt()
        assert ((draws.mean(0) - mean) / sd).abs().max() < 4.5 / math.sqrt(512) + 0.02
        assert (draws.std(0) / sd - 1).abs().max() < 0.2


class TestPool:
    def test_each_path_takes_its_best_free_candidate(self) -> None:
        model = build(num_samples=32)
        pool = torch.rand(3000, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        exclude = torch.zeros(3000, dtype=torch.bool)
        exclude[::2] = True
        strategy = PoolThompsonSampling(model, maximize=False, block_size=700)
        picked = strategy.indices(pool, 40, exclude)
        with torch.no_grad():
            values = model.posterior(pool).rsample(torch.Size([40])).squeeze(-1)
        taken = exclude.clone()
        for path, pick in enumerate(picked.tolist()):
            assert pick == int(values[path].masked_fill(taken, float("inf")).argmin())
            taken[pick] = True
        assert strategy(pool, num_samples=3).shape == (3, 2)
        with pytest.raises(InputError, match="asked for 3 picks among 2"):
            strategy(pool[:2], num_samples=3)


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"train_Y": torch.zeros(30, dtype=torch.float64)}, ShapeError, "unsqueeze"),
            ({"train_X": torch.zeros(2, 30, 2, dtype=torch.float64)}, ShapeError, "train_X must have shape"),
            ({"train_Y": torch.zeros(29, 1, dtype=torch.float64)}, ShapeError, "30 rows"),
            ({"train_X": torch.zeros(30, 2, dtype=torch.int64)}, DtypeError, "floating-point"),
            ({"train_X": torch.full((30, 2), math.nan, dtype=torch.float64)}, InputError, "rows \\[0, 1"),
            ({"train_X": torch.zeros(0, 2, dtype=torch.float64)}, ShapeError, "at least one row"),
            ({"train_Yvar": torch.ones(30, 2, dtype=torch.float64)}, ShapeError, "train_Yvar"),
            ({"train_Yvar": -torch.ones(30, 1, dtype=torch.float64)}, InputError, "negative"),
            ({"train_Yvar": torch.ones(30, 1, dtype=torch.float64), "noise_variance": 1.0}, InputError, "not both"),
            ({"optimizer": None}, InputError, "optimizer=None"),
            ({"noise_variance": -1.0}, InputError, "noise_variance must be finite"),
            ({"noise_variance": [0.1, 0.2]}, ShapeError, "one value per output"),
            ({"num_samples": 1}, InputError, "num_samples"),
            ({"covar_module": [kernel(), kernel()]}, ShapeError, "one value per output"),
        ],
    )  # fmt: skip
    def test_construction(self, change: dict[str, Any], error: type[Exception], message: str) -> None:
        x, y = data()
        with pytest.raises(error, match=message):
            PathwiseGPModel(**({"train_X": x, "train_Y": y} | change))

    def test_constant_target(self, points: Tensor) -> None:
        x, y = data()
        model = PathwiseGPModel(x, 0 * y + 3, generator=0)
        torch.testing.assert_close(model.posterior(points).mean, torch.full((5, 1), 3.0, dtype=torch.float64))

    def test_points(self) -> None:
        with pytest.raises(ShapeError, match="\\(\\*b, q, 2\\)"):
            build().posterior(torch.zeros(3, 5))


def test_without_botorch_the_extra_is_named(scripts: Scripts) -> None:
    done = scripts.run(
        "-c",
        "import sys; sys.modules['botorch'] = None\n"
        "from sggp.errors import MissingExtra\n"
        "try:\n    import sggp.botorch\n"
        "except MissingExtra as error:\n    print(error)",
        anew=("sggp", "botorch"),
    )
    assert 'pip install "sggp[botorch]"' in done.stdout, done.stderr
