"""BoTorch's acquisition functions, samplers and strategies on a `PathwiseGPModel`, against a dense float64 GP."""

from __future__ import annotations

import math

import pytest
import torch
from gpytorch.kernels import MaternKernel, ScaleKernel
from torch import Tensor

pytest.importorskip("botorch", reason="the BoTorch face needs the extra botorch")

from botorch.acquisition import (
    ExpectedImprovement,
    LogExpectedImprovement,
    UpperConfidenceBound,
    qExpectedImprovement,
    qLogExpectedImprovement,
    qLogNoisyExpectedImprovement,
    qSimpleRegret,
    qUpperConfidenceBound,
)
from botorch.acquisition.objective import LinearMCObjective
from botorch.acquisition.thompson_sampling import PathwiseThompsonSampling
from botorch.generation import MaxPosteriorSampling
from botorch.models import ModelList, SingleTaskGP
from botorch.optim import optimize_acqf, optimize_acqf_discrete
from botorch.posteriors import TransformedPosterior
from botorch.sampling import IIDNormalSampler
from botorch.sampling.get_sampler import get_sampler
from botorch.sampling.pathwise import draw_matheron_paths

from sggp.botorch import PathSampler, PathwiseGPModel, PathwisePosterior
from sggp.errors import InputError, ShapeError

SCALE, LENGTHS, NOISE = 1.3, (0.5, 0.8), 0.1
UNIT_SQUARE = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)


def matern32(x: Tensor, z: Tensor) -> Tensor:
    """The scaled Matérn-3/2 kernel, from its formula."""
    lengths = torch.tensor(LENGTHS, dtype=x.dtype)
    r = math.sqrt(3.0) * ((x[:, None] - z[None]) / lengths).square().sum(-1).sqrt()
    return SCALE * (1 + r) * torch.exp(-r)


class DenseGP:
    """The textbook posterior of standardised targets, in raw units: mean m and covariance c at q points."""

    def __init__(self, x: Tensor, y: Tensor, noise: Tensor | float = NOISE, standardise: bool = True) -> None:
        self.x = x
        self.shift = y.mean() if standardise else torch.zeros(())
        self.unit = y.std() if standardise else torch.ones(())
        gram = matern32(x, x) + torch.as_tensor(noise, dtype=x.dtype) * torch.eye(len(x), dtype=x.dtype)
        self.inverse = torch.linalg.inv(gram)
        self.y = (y - self.shift) / self.unit

    def mean(self, q: Tensor) -> Tensor:
        return self.shift + self.unit * (matern32(q, self.x) @ self.inverse @ self.y)

    def covariance(self, q: Tensor) -> Tensor:
        cross = matern32(q, self.x)
        return self.unit**2 * (matern32(q, q) - cross @ self.inverse @ cross.T)


def kernel() -> ScaleKernel:
    out = ScaleKernel(MaternKernel(nu=1.5, ard_num_dims=2)).double()
    out.outputscale = torch.tensor(SCALE, dtype=torch.float64)
    out.base_kernel.lengthscale = torch.tensor(LENGTHS, dtype=torch.float64)
    return out


def data(n: int = 30, seed: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    return x, (20 + 5 * torch.sin(6 * x[:, 0]) * x[:, 1] + 0.1 * noise).unsqueeze(-1)


def build(seed: int = 0, num_samples: int = 64, **settings: object) -> PathwiseGPModel:
    """A model with known hyperparameters: nothing is learned, so the oracle is exact."""
    x, y = data()
    given = {"covar_module": kernel(), "noise_variance": NOISE, "optimizer": None} | settings
    return PathwiseGPModel(x, y, num_samples=num_samples, generator=seed, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model() -> PathwiseGPModel:
    return build()


@pytest.fixture(scope="module")
def rich() -> PathwiseGPModel:
    """Enough paths for Monte Carlo comparisons."""
    return build(seed=1, num_samples=1024, num_features=16384)


@pytest.fixture(scope="module")
def exact() -> DenseGP:
    x, y = data()
    return DenseGP(x, y.squeeze(-1))


@pytest.fixture
def points(generator: torch.Generator) -> Tensor:
    return torch.rand(6, 2, generator=generator, dtype=torch.float64)


class TestPosterior:
    def test_mean_is_the_solved_one_in_raw_units(
        self, model: PathwiseGPModel, exact: DenseGP, points: Tensor
    ) -> None:
        posterior = model.posterior(points)
        assert posterior.mean.shape == (6, 1)
        torch.testing.assert_close(posterior.mean.squeeze(-1), exact.mean(points), rtol=1e-11, atol=0)
        average = posterior.rsample(torch.Size([64])).mean(0)
        assert (average - posterior.mean).abs().max() > 1e-4  # the average of paths is another number

    def test_variance_agrees_with_the_dense_gp_within_monte_carlo_error(
        self, rich: PathwiseGPModel, exact: DenseGP, points: Tensor
    ) -> None:
        ratio = rich.posterior(points).variance.squeeze(-1) / exact.covariance(points).diagonal()
        assert (ratio - 1).abs().max() < 4.5 * math.sqrt(2 / 1024)

    def test_covariance_of_paths_drawn_later_agrees_too(
        self, rich: PathwiseGPModel, exact: DenseGP, points: Tensor
    ) -> None:
        later = rich.posterior(points).rsample(torch.Size([2048]))[1024:, :, 0] - exact.mean(points)
        true = exact.covariance(points)
        error = (later.T @ later / 1024 - true).abs()
        scale = (true.diagonal()[:, None] * true.diagonal() + true**2).sqrt() / math.sqrt(1024)
        assert (error / scale).max() < 4.5

    def test_more_paths_than_num_samples_are_all_distinct(self, points: Tensor) -> None:
        posterior = build().posterior(points)
        many = posterior.rsample(torch.Size([300])).flatten(1)
        assert many.shape == (300, 6)
        assert torch.pdist(many).min() > 1e-6
        torch.testing.assert_close(posterior.rsample(torch.Size([64])).flatten(1), many[:64])

    def test_a_path_does_not_depend_on_how_many_were_asked_for_before(self, points: Tensor) -> None:
        first, second = build(), build()
        a = first.posterior(points).rsample(torch.Size([300]))
        b = torch.cat([second.posterior(points).rsample(torch.Size([k]))[-1:] for k in (5, 70, 140, 300)])
        torch.testing.assert_close(a[[4, 69, 139, 299]], b, rtol=1e-10, atol=1e-10)

    def test_same_seed_same_paths_and_another_seed_others(self, points: Tensor) -> None:
        paths = [build(seed).posterior(points).rsample(torch.Size([3])) for seed in (0, 0, 1)]
        assert torch.equal(paths[0], paths[1])
        assert (paths[0] - paths[2]).abs().min() > 0

    def test_sample_shapes(self, model: PathwiseGPModel, points: Tensor) -> None:
        posterior = model.posterior(points.reshape(3, 2, 2))
        assert posterior.rsample().shape == (1, 3, 2, 1)
        assert posterior.rsample(torch.Size([])).shape == (3, 2, 1)
        assert posterior.rsample(torch.Size([2, 3])).shape == (2, 3, 3, 2, 1)
        assert posterior.rsample(torch.Size([4])).shape == posterior._extended_shape(torch.Size([4]))
        assert model.posterior(points[:0]).rsample(torch.Size([4])).shape == (4, 0, 1)

    def test_samples_without_gradient_do_not_spoil_those_with(
        self, model: PathwiseGPModel, points: Tensor
    ) -> None:
        posterior = model.posterior(points.requires_grad_())
        assert not posterior.sample(torch.Size([4])).requires_grad
        assert posterior.rsample(torch.Size([4])).requires_grad

    def test_scaled_targets_give_scaled_posteriors(self, points: Tensor) -> None:
        x, y = data()
        settings = {"covar_module": kernel(), "noise_variance": NOISE, "optimizer": None, "generator": 3}
        one = PathwiseGPModel(x, y, **settings).posterior(points)
        other = PathwiseGPModel(x, 1e4 * y - 7, **settings).posterior(points)
        shape = torch.Size([5])
        torch.testing.assert_close(other.mean, 1e4 * one.mean - 7, rtol=1e-8, atol=0)
        torch.testing.assert_close(other.rsample(shape), 1e4 * one.rsample(shape) - 7, rtol=1e-8, atol=0)
        torch.testing.assert_close(other.variance, 1e8 * one.variance, rtol=1e-8, atol=0)

    def test_observation_noise_is_real_and_repeats(self, points: Tensor) -> None:
        model = build(num_samples=1024)
        quiet, noisy, again = (model.posterior(points, observation_noise=b) for b in (False, True, True))
        raw = NOISE * float(data()[1].var())
        shape = torch.Size([1024])
        added = noisy.rsample(shape) - quiet.rsample(shape)
        assert torch.equal(noisy.rsample(shape), again.rsample(shape))
        assert abs(float(added.square().mean()) / raw - 1) < 4.5 * math.sqrt(2 / added.numel())
        torch.testing.assert_close(noisy.variance, quiet.variance + raw)
        given = model.posterior(points, observation_noise=torch.full((6, 1), 2 * NOISE).double())
        torch.testing.assert_close(given.variance, quiet.variance + 2 * raw)


class TestBaseSamples:
    @pytest.fixture
    def posterior(self, points: Tensor) -> PathwisePosterior:
        out = build(outcome_transform=None).posterior(points)
        assert isinstance(out, PathwisePosterior)
        return out

    def test_integers_name_paths(self, posterior: PathwisePosterior) -> None:
        paths = posterior.rsample(torch.Size([64]))
        numbers = torch.tensor([[3, 63], [0, 3]])
        drawn = posterior.rsample_from_base_samples(numbers.shape, numbers)
        assert torch.equal(drawn, paths[numbers])

    def test_floats_weigh_the_distances_from_the_mean(self, posterior: PathwisePosterior) -> None:
        paths = posterior.rsample(torch.Size([64]))
        weights = torch.zeros(2, 64, dtype=torch.float64)
        weights[1, 7] = 64**0.5
        zero, seventh = posterior.rsample_from_base_samples(torch.Size([2]), weights)
        torch.testing.assert_close(zero, posterior.mean)
        torch.testing.assert_close(seventh, paths[7])

    def test_normal_samplers_find_mean_and_variance(self, posterior: PathwisePosterior) -> None:
        samples = IIDNormalSampler(torch.Size([4000]), seed=2)(posterior)
        spread = (posterior.rsample(torch.Size([64])) - posterior.mean).square().mean(0)
        error = (samples.mean(0) - posterior.mean) / (spread / 4000).sqrt()
        assert error.abs().max() < 4.5
        assert (samples.var(0) / spread - 1).abs().max() < 4.5 * math.sqrt(2 / 4000)

    @pytest.mark.parametrize(
        ("base", "error"),
        [
            (torch.tensor([64]), InputError),
            (torch.tensor([-1]), InputError),
            (torch.tensor([1, 2]), ShapeError),
            (torch.zeros(1, 3, dtype=torch.float64), ShapeError),
        ],
    )
    def test_others_are_refused(
        self, posterior: PathwisePosterior, base: Tensor, error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            posterior.rsample_from_base_samples(torch.Size([1]), base)


class TestSampler:
    def test_botorch_finds_it_behind_a_transform(self, model: PathwiseGPModel, points: Tensor) -> None:
        posterior = model.posterior(points)
        assert isinstance(posterior, TransformedPosterior)
        sampler = get_sampler(posterior, torch.Size([512]), seed=4)
        assert isinstance(sampler, PathSampler)
        samples, paths = sampler(posterior), posterior.rsample(torch.Size([64]))
        assert samples.shape == (512, 6, 1)
        torch.testing.assert_close(samples.mean(0), paths.mean(0))  # 512 = 8 * 64: each path equally often
        assert torch.equal(sampler(posterior), samples)
        sampler._update_base_samples(posterior, sampler)
        assert torch.equal(sampler(posterior), samples)

    def test_fewer_samples_are_distinct_paths_chosen_by_the_seed(self) -> None:
        numbers = [PathSampler(torch.Size([20]), 64, seed=s).base_samples for s in (0, 0, 1)]
        assert len(set(numbers[0].tolist())) == 20
        assert torch.equal(numbers[0], numbers[1])
        assert not torch.equal(numbers[0], numbers[2])

    def test_a_posterior_with_another_number_of_paths_is_refused(
        self, model: PathwiseGPModel, points: Tensor
    ) -> None:
        with pytest.raises(InputError, match="32 paths"):
            PathSampler(torch.Size([8]), 32, seed=0)(model.posterior(points))

    def test_a_candidate_has_one_value_at_every_position(
        self, model: PathwiseGPModel, points: Tensor
    ) -> None:
        best = float(data()[1].max())
        for acquisition in (qLogExpectedImprovement(model, best), qUpperConfidenceBound(model, 2.0)):
            alone = acquisition(points[:2].unsqueeze(0))
            batch = points[[0, 1, 2, 3, 0, 1, 4, 5, 0, 1]].reshape(5, 2, 2)
            values = acquisition(batch)
            torch.testing.assert_close(values[[0, 2, 4]], alone.expand(3), rtol=1e-10, atol=1e-12)
            turned = acquisition(batch[[3, 4, 1, 2, 0]])
            torch.testing.assert_close(turned, values[[3, 4, 1, 2, 0]], rtol=1e-10, atol=1e-12)
            assert values.unique().numel() > 1


class TestAcquisition:
    @pytest.mark.filterwarnings("ignore:.*has known numerical issues")
    def test_expected_improvement_agrees_with_the_dense_gp(
        self, rich: PathwiseGPModel, exact: DenseGP, points: Tensor
    ) -> None:
        mean, sd = exact.mean(points), exact.covariance(points).diagonal().sqrt()
        best = float(mean.mean())
        normal, u = torch.distributions.Normal(0.0, 1.0), (mean - best) / sd
        phi = normal.log_prob(u).exp()
        true = sd * (phi + u * normal.cdf(u))
        variance = sd**2 * ((1 + u**2) * normal.cdf(u) + u * phi) - true**2
        near = u > -2.5  # elsewhere so few of the paths improve that their average is not Gaussian
        assert int(near.sum()) >= 3
        sampler = get_sampler(rich.posterior(points), torch.Size([1024]), seed=0)
        found = qExpectedImprovement(rich, best, sampler=sampler)(points.unsqueeze(1))
        assert ((found - true).abs() / (variance / 1024).sqrt())[near].max() < 4.5
        analytic = ExpectedImprovement(rich, best)(points.unsqueeze(1))
        torch.testing.assert_close(analytic, true, rtol=0.1, atol=0.005)
        log = LogExpectedImprovement(rich, best)(points.unsqueeze(1))
        torch.testing.assert_close(log[near], analytic[near].log(), rtol=1e-6, atol=1e-6)
        upper = UpperConfidenceBound(rich, beta=4.0)(points.unsqueeze(1))
        torch.testing.assert_close(upper, mean + 2 * sd, rtol=0.02, atol=0.02)

    def test_gradient_matches_finite_differences(self, model: PathwiseGPModel, points: Tensor) -> None:
        best = float(data()[1].max()) - 1.0
        X = points.reshape(3, 2, 2).clone().requires_grad_()
        assert torch.autograd.gradcheck(qLogExpectedImprovement(model, best), (X,), eps=1e-6, atol=1e-5)
        X1 = points.unsqueeze(1).clone().requires_grad_()
        assert torch.autograd.gradcheck(UpperConfidenceBound(model, 2.0), (X1,), eps=1e-6, atol=1e-5)

    def test_optimize_acqf_improves_on_random_search_and_repeats(self, model: PathwiseGPModel) -> None:
        sampler = get_sampler(model.posterior(UNIT_SQUARE), torch.Size([64]), seed=0)
        acquisition = qLogExpectedImprovement(model, float(data()[1].max()), sampler=sampler)
        results = []
        for _ in range(2):
            with torch.random.fork_rng():
                torch.manual_seed(3)  # BoTorch chooses its starting points with the global generator
                settings = {"q": 2, "num_restarts": 4, "raw_samples": 64, "options": {"maxiter": 60}}
                results.append(optimize_acqf(acquisition, UNIT_SQUARE, **settings))
        (X, value), (_, again) = results
        assert bool(((X >= 0) & (X <= 1)).all())
        random = torch.rand(500, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        assert value >= acquisition(random).max()
        torch.testing.assert_close(value, again)
        torch.testing.assert_close(acquisition(X.unsqueeze(0)).squeeze(), value)

    def test_noisy_expected_improvement_with_pending_points(
        self, model: PathwiseGPModel, points: Tensor
    ) -> None:
        x, _ = data()
        acquisition = qLogNoisyExpectedImprovement(model, X_baseline=x, prune_baseline=True)
        free = acquisition(points.unsqueeze(1))
        acquisition.set_X_pending(points[:1])
        pending = acquisition(points.unsqueeze(1))
        assert free.shape == pending.shape == (6,)
        assert bool((pending >= free - 1e-6).all())  # two points improve at least as much as one of them

    def test_discrete_choice_is_the_best_of_all(self, model: PathwiseGPModel) -> None:
        choices = torch.rand(400, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        acquisition = qUpperConfidenceBound(model, beta=1.0)
        picked, value = optimize_acqf_discrete(acquisition, q=1, choices=choices, max_batch_size=150)
        every = acquisition(choices.unsqueeze(1))
        assert torch.equal(picked[0], choices[every.argmax()])
        torch.testing.assert_close(value.squeeze(), every.max())

    def test_float32_candidates_leave_the_model_in_float64(self, exact: DenseGP, points: Tensor) -> None:
        model, single = build(), points.float()
        mean, true = model.posterior(single.double()).mean, exact.mean(single.double())
        assert torch.equal(model.posterior(single).mean, mean)
        value = UpperConfidenceBound(model, beta=0.0)(single.unsqueeze(1))  # casts itself and the model
        assert value.dtype == torch.float32
        assert torch.equal(value, mean[:, 0].float())  # nothing but rounded
        assert model.covar_module.outputscale.dtype == torch.float64
        torch.testing.assert_close(model.posterior(single.double()).mean[:, 0], true, rtol=1e-10, atol=1e-10)

    def test_mixed_with_a_botorch_model(self, model: PathwiseGPModel, points: Tensor) -> None:
        x, y = data()
        both = ModelList(model, SingleTaskGP(x, -y))
        objective = LinearMCObjective(torch.tensor([1.0, 0.0], dtype=torch.float64))
        values = qSimpleRegret(both, objective=objective)(points.unsqueeze(1))
        paths = model.posterior(points).rsample(torch.Size([64]))
        torch.testing.assert_close(values, paths.mean(0).squeeze(-1), rtol=1e-8, atol=1e-8)
        assert both.posterior(points).mean.shape == (6, 2)
        assert both.posterior(points).variance.shape == (6, 2)


class TestThompson:
    def test_max_posterior_sampling_takes_the_best_of_each_path(self, model: PathwiseGPModel) -> None:
        pool = torch.rand(20_000, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        picks = MaxPosteriorSampling(model)(pool, num_samples=16)
        with torch.no_grad():
            paths = torch.cat(
                [model.posterior(part).rsample(torch.Size([16])) for part in pool.split(3000)], 1
            )
        assert torch.equal(picks, pool[paths.squeeze(-1).argmax(1)])
        assert len({tuple(row) for row in picks.tolist()}) >= 8

    def test_pathwise_thompson_sampling_sums_its_own_paths(self, points: Tensor) -> None:
        model = build()
        first, second = PathwiseThompsonSampling(model), PathwiseThompsonSampling(model)
        batch = points.reshape(2, 3, 2)
        paths = model.posterior(batch).rsample(torch.Size([6])).squeeze(-1)
        own = torch.arange(3)
        torch.testing.assert_close(first(batch), paths[own, :, own].sum(0))
        torch.testing.assert_close(second(batch), paths[own + 3, :, own].sum(0))
        X, _ = optimize_acqf(first, UNIT_SQUARE, q=3, num_restarts=2, raw_samples=32, options={"maxiter": 30})
        assert X.shape == (3, 2)

    def test_every_path_at_its_own_point_beyond_num_samples(self, points: Tensor) -> None:
        model = build(outcome_transform=None)
        own = torch.rand(90, 1, 2, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
        values = draw_matheron_paths(model, torch.Size([90]))(own).squeeze(-1)
        every = model.posterior(own[:, 0]).rsample(torch.Size([90])).squeeze(-1)
        torch.testing.assert_close(values, every.diagonal())

    def test_matheron_paths_broadcast_as_botorchs_do(self, points: Tensor) -> None:
        x, y = data()
        ours, theirs = build(), SingleTaskGP(x, y)
        for shape in ([], [4], [2, 3]):
            for batch in ([], [1], shape, [5, *shape], [5, *[1] * len(shape)]):
                X = points[:1].expand(*batch, 6, 2)
                sample_shape = torch.Size(shape)
                expected = draw_matheron_paths(theirs, sample_shape)(X).shape
                assert draw_matheron_paths(ours, sample_shape)(X).shape == expected, (shape, batch)
