"""Posterior transforms, copies and types: what hosts do to a `PathwiseGPModel` beside asking for its posterior."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import joblib
import pytest
import torch
from gpytorch.kernels import LinearKernel, PeriodicKernel, ScaleKernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood, SumMarginalLogLikelihood
from gpytorch.priors import GammaPrior
from torch import Tensor

pytest.importorskip("botorch", reason="the BoTorch face needs the extra botorch")

from botorch.acquisition import (
    LogExpectedImprovement,
    qLogExpectedImprovement,
    qLogNoisyExpectedImprovement,
    qSimpleRegret,
)
from botorch.acquisition.analytic import ScalarizedPosteriorMean
from botorch.acquisition.objective import ExpectationPosteriorTransform, ScalarizedPosteriorTransform
from botorch.acquisition.risk_measures import Expectation
from botorch.fit import fit_gpytorch_mll
from botorch.generation import MaxPosteriorSampling
from botorch.models import SingleTaskGP
from botorch.models.transforms import ChainedInputTransform, Log, Normalize
from botorch.models.transforms.input import AppendFeatures, InputPerturbation, Warp
from botorch.optim import optimize_acqf
from botorch.sampling import SobolQMCNormalSampler
from botorch.sampling.get_sampler import get_sampler

from sggp.botorch import PathSampler, PathwiseGPModel
from sggp.botorch import combined as combined_file
from sggp.errors import InputError, ShapeError
from tests.test_botorch import NOISE, UNIT_SQUARE, DenseGP, build, data, kernel

WEIGHTS = torch.tensor([-1.0, 0.25], dtype=torch.float64)
MINIMISE = ScalarizedPosteriorTransform(torch.tensor([-1.0], dtype=torch.float64))
EXACT: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-9}


def two_outputs(**settings: Any) -> tuple[PathwiseGPModel, list[DenseGP]]:
    """A model of two outcomes of unlike scale, and the textbook posterior of each."""
    x, y = data()
    both = torch.cat([y, 30 * y.square() - 7], 1)
    given = {"covar_module": kernel(), "noise_variance": NOISE, "optimizer": None, "generator": 0} | settings
    return PathwiseGPModel(x, both, **given), [DenseGP(x, both[:, j]) for j in range(2)]


@pytest.fixture
def points(generator: torch.Generator) -> Tensor:
    return torch.rand(4, 3, 2, generator=generator, dtype=torch.float64)


class TestScalarized:
    def test_mean_and_variance_are_those_of_the_weighted_sum(self, points: Tensor) -> None:
        model, exact = two_outputs()
        transform = ScalarizedPosteriorTransform(WEIGHTS, offset=3.0)
        posterior = model.posterior(points, posterior_transform=transform)
        flat = points.reshape(-1, 2)
        mean = 3.0 + sum(w * dense.mean(flat) for w, dense in zip(WEIGHTS, exact, strict=True))
        variance = sum(
            w**2 * dense.covariance(flat).diagonal() for w, dense in zip(WEIGHTS, exact, strict=True)
        )
        assert posterior.mean.shape == posterior.variance.shape == (4, 3, 1)
        torch.testing.assert_close(posterior.mean.reshape(-1), mean, **EXACT)
        torch.testing.assert_close(posterior.variance.reshape(-1), variance, **EXACT)

    def test_samples_are_weighted_sums_of_the_paths(self, points: Tensor) -> None:
        model, _ = two_outputs()
        transform = ScalarizedPosteriorTransform(WEIGHTS, offset=3.0)
        posterior = model.posterior(points, observation_noise=True, posterior_transform=transform)
        plain = model.posterior(points, observation_noise=True)
        shape = torch.Size([5, 2])
        expected = (plain.rsample(shape) @ WEIGHTS + 3.0).unsqueeze(-1)
        torch.testing.assert_close(posterior.rsample(shape), expected)
        assert posterior._extended_shape(shape) == (5, 2, 4, 3, 1)
        sampler = get_sampler(posterior, torch.Size([64]), seed=0)
        assert isinstance(sampler, PathSampler)
        assert sampler(posterior).shape == (64, 4, 3, 1)

    def test_weights_of_another_type_or_number(self, points: Tensor) -> None:
        model, _ = two_outputs()
        single = model.posterior(points, posterior_transform=ScalarizedPosteriorTransform(WEIGHTS.float()))
        double = model.posterior(points, posterior_transform=ScalarizedPosteriorTransform(WEIGHTS))
        assert torch.equal(single.mean, double.mean)
        with pytest.raises(ShapeError, match=r"2 outputs.*3 weights"):
            model.posterior(points, posterior_transform=ScalarizedPosteriorTransform(torch.ones(3)))

    def test_the_gaussian_mode_is_exact(self, points: Tensor) -> None:
        model, exact = two_outputs()
        transform = ScalarizedPosteriorTransform(WEIGHTS.float(), offset=3.0)
        posterior = model.gaussian().posterior(points, posterior_transform=transform)
        covariance = sum(w**2 * dense.covariance(points[1]) for w, dense in zip(WEIGHTS, exact, strict=True))
        mean = 3.0 + sum(w * dense.mean(points[1]) for w, dense in zip(WEIGHTS, exact, strict=True))
        torch.testing.assert_close(posterior.mean[1, :, 0], mean, **EXACT)
        torch.testing.assert_close(
            posterior.distribution.covariance_matrix[1], covariance, rtol=1e-7, atol=1e-7
        )

    def test_minimising(self, points: Tensor) -> None:
        """The stock way: -1 in front of every answer. At a candidate it is the same as a model of -y."""
        x, y = data()
        model = build()
        mirrored = PathwiseGPModel(
            x, -y, covar_module=kernel(), noise_variance=NOISE, optimizer=None, generator=0
        )
        one, best = points[:, :1], float(-y.min())
        values = [
            LogExpectedImprovement(model, best_f=best, posterior_transform=MINIMISE)(one),
            LogExpectedImprovement(mirrored, best_f=best)(one),
        ]
        torch.testing.assert_close(*values, rtol=1e-7, atol=1e-9)
        for function in (
            qLogExpectedImprovement(model, best_f=best, posterior_transform=MINIMISE),
            qLogNoisyExpectedImprovement(model, X_baseline=x, posterior_transform=MINIMISE),
        ):
            candidates, value = optimize_acqf(function, UNIT_SQUARE, q=2, num_restarts=2, raw_samples=16)
            assert candidates.shape == (2, 2)
            assert value.isfinite()
        grid = torch.cartesian_prod(*[torch.linspace(0, 1, 21, dtype=torch.float64)] * 2)
        pick = MaxPosteriorSampling(model, posterior_transform=MINIMISE)(grid, num_samples=3)
        lowest = model.posterior(grid).rsample(torch.Size([3])).squeeze(-1).argmin(1)
        assert torch.equal(pick, grid[lowest])


class TestExpectation:
    @pytest.mark.parametrize("gaussian", [False, True])
    def test_it_averages_blocks_of_points_exactly(self, points: Tensor, gaussian: bool) -> None:
        model, exact = two_outputs()
        own = torch.tensor([[1.0, 2.0], [3.0, 0.5], [0.0, 1.0]], dtype=torch.float64)
        transform = ExpectationPosteriorTransform(3, weights=own)
        asked = points.reshape(2, 6, 2)  # two expectations over three points each, in two t-batches
        host = model.gaussian() if gaussian else model
        posterior = host.posterior(asked, posterior_transform=transform)
        assert posterior.mean.shape == posterior.variance.shape == (2, 2, 2)
        weights = own / own.sum(0)
        for j, dense in enumerate(exact):
            for b, block in ((0, 0), (1, 1)):
                rows = asked[b, 3 * block : 3 * block + 3]
                mean = weights[:, j] @ dense.mean(rows)
                variance = weights[:, j] @ dense.covariance(rows) @ weights[:, j]
                torch.testing.assert_close(posterior.mean[b, block, j], mean, **EXACT)
                torch.testing.assert_close(posterior.variance[b, block, j], variance, rtol=1e-7, atol=1e-9)

    def test_noise_and_samples(self, points: Tensor) -> None:
        model, exact = two_outputs()
        transform = ExpectationPosteriorTransform(3)
        posterior = model.posterior(points, observation_noise=True, posterior_transform=transform)
        latent = model.posterior(points, posterior_transform=transform)
        extra = torch.stack([NOISE * dense.unit**2 / 3 for dense in exact]).expand(4, 1, 2)
        torch.testing.assert_close(posterior.variance - latent.variance, extra, rtol=1e-7, atol=1e-7)
        paths = model.posterior(points, observation_noise=True).rsample(torch.Size([7]))
        torch.testing.assert_close(posterior.rsample(torch.Size([7])), paths.mean(-2, keepdim=True))

    def test_gradients(self, points: Tensor) -> None:
        model, transform = build(), ExpectationPosteriorTransform(3)
        asked = points[:2].clone().requires_grad_()
        assert torch.autograd.gradcheck(
            lambda x: model.posterior(x, posterior_transform=transform).variance, asked
        )

    def test_without_a_factor_or_with_a_nonlinear_outcome_the_variance_is_that_of_paths(
        self, points: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        transform = ExpectationPosteriorTransform(3)
        model = build(num_samples=1024, num_features=4096)
        exact = model.posterior(points, posterior_transform=transform).variance
        with monkeypatch.context() as patch:
            patch.setattr(combined_file, "solved_directly", lambda outputs: False)
            sampled = model.posterior(points, posterior_transform=transform).variance
        assert not torch.equal(sampled, exact)
        torch.testing.assert_close(sampled, exact, rtol=5 * (2 / 1024) ** 0.5, atol=0)
        x, y = data()
        logged = PathwiseGPModel(
            x,
            y,
            covar_module=kernel(),
            noise_variance=1e-2,
            optimizer=None,
            generator=0,
            outcome_transform=Log(),
        )
        posterior = logged.posterior(points, posterior_transform=transform)
        paths = logged.posterior(points).rsample(torch.Size([64])).mean(-2, keepdim=True)
        torch.testing.assert_close(posterior.rsample(torch.Size([64])), paths)
        distance = (paths - posterior.mean).square().mean(0)
        torch.testing.assert_close(posterior.variance, distance, rtol=1e-5, atol=0)

    def test_a_number_of_points_that_is_no_multiple(self, points: Tensor) -> None:
        with pytest.raises(ShapeError, match=r"3 points.*multiple of 2"):
            build().posterior(points, posterior_transform=ExpectationPosteriorTransform(2))

    def test_float_base_samples(self, points: Tensor) -> None:
        posterior = build().posterior(points, posterior_transform=ExpectationPosteriorTransform(3))
        assert SobolQMCNormalSampler(torch.Size([16]), seed=0)(posterior).shape == (16, 4, 1, 1)


class TestTypes:
    @pytest.mark.parametrize("gaussian", [False, True])
    def test_functions_with_weights_of_their_own_at_float32_points(
        self, points: Tensor, gaussian: bool
    ) -> None:
        """`ScalarizedPosteriorMean` casts itself, with its weights, to the type of X, and the model with it."""
        model = build().gaussian() if gaussian else build()
        weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
        expected = model.posterior(points.float().double()).mean.squeeze(-1) @ weights
        value = ScalarizedPosteriorMean(model, weights=weights)(points.float())
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected.float(), rtol=1e-5, atol=1e-4)
        again = ScalarizedPosteriorMean(model, weights=weights)(points.float().double())
        torch.testing.assert_close(again, expected, rtol=1e-6, atol=1e-6)  # the weights were rounded, no more
        assert model.posterior(points).mean.dtype == torch.float64

    def test_joint_gaussians_of_several_outputs(self, points: Tensor) -> None:
        model, _ = two_outputs()
        double = model.gaussian().posterior(points.float().double())
        single = model.gaussian().to(torch.float32).posterior(points.float())
        assert single.mean.dtype == single.variance.dtype == torch.float32
        torch.testing.assert_close(single.mean, double.mean.float())
        torch.testing.assert_close(
            single.distribution.covariance_matrix, double.distribution.covariance_matrix.float()
        )


class TestCopies:
    """A copy answers as the model does: before and after it was asked for anything, and when it is extended."""

    @staticmethod
    def through_torch(model: Any) -> Any:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        return torch.load(file, weights_only=False)

    @staticmethod
    def through_joblib(model: Any) -> Any:
        file = io.BytesIO()
        joblib.dump(model, file)
        file.seek(0)
        return joblib.load(file)

    @staticmethod
    def through_pickle(model: Any) -> Any:
        return pickle.loads(pickle.dumps(model))

    @staticmethod
    def with_priors() -> Any:
        """GPyTorch registers these by functions that Python does not pickle."""
        kernel = ScaleKernel(
            PeriodicKernel() + LinearKernel(variance_prior=GammaPrior(2.0, 1.0)), GammaPrior(2.0, 0.5)
        )
        kernel.base_kernel.kernels[0].register_prior(
            "period_length_prior", GammaPrior(3.0, 3.0), "period_length"
        )
        return kernel.double()

    @pytest.mark.parametrize(
        "settings",
        [{}, {"covar_module": "priors", "noise_variance": NOISE, "optimizer": None}],
        ids=["learnt", "priors"],
    )
    def test_every_way_of_copying(self, settings: dict[str, Any], points: Tensor) -> None:
        x, y = data()
        if "covar_module" in settings:
            settings = settings | {"covar_module": self.with_priors()}
        model = PathwiseGPModel(x, y, generator=0, num_samples=8, num_features=64, **settings)
        copies = [f(model) for f in self.ways()]
        expected = self.answers(model, points)  # draws further paths, and keeps them
        copies += [f(model) for f in self.ways()]
        for copied in copies:
            assert all(map(torch.equal, self.answers(copied, points), expected))
            assert all(map(torch.equal, self.answers(self.through_pickle(copied), points), expected))
            names = [[p[0] for p in m.covar_module.named_priors()] for m in (model, copied)]
            assert names[0] == names[1]
            assert names[0]
            values = [[p[3](p[1]) for p in m.covar_module.named_priors()] for m in (model, copied)]
            assert all(map(torch.equal, *values))

    def ways(self) -> list[Any]:
        return [copy.deepcopy, self.through_pickle, self.through_torch, self.through_joblib]

    @staticmethod
    def answers(model: PathwiseGPModel, points: Tensor) -> list[Tensor]:
        with torch.no_grad():
            posterior = model.posterior(points)
            conditioned = model.condition_on_observations(points[0], torch.full((3, 1), 20.0)).posterior(
                points
            )
            found = [
                posterior.mean,
                posterior.variance,
                posterior.rsample(torch.Size([20])),
                conditioned.mean,
            ]
            return [*found, model.gaussian().posterior(points).distribution.covariance_matrix]


class TestHosts:
    def test_fit_gpytorch_mll_with_two_outputs(self, points: Tensor) -> None:
        x, y = data()
        for door in (ExactMarginalLogLikelihood, SumMarginalLogLikelihood):
            model, _ = two_outputs()
            before = model.covar_module[1].outputscale.item()
            mll = door(model.likelihood, model)
            assert fit_gpytorch_mll(mll) is mll
            assert model.covar_module[1].outputscale.item() != before
            each = [output.likelihood.noise for output in model.output_models]
            assert torch.equal(mll.likelihood.noise, torch.stack(each))
            assert mll.likelihood.noise.shape == SingleTaskGP(x, torch.cat([y, -y], 1)).likelihood.noise.shape
        known = torch.rand(30, 2, dtype=torch.float64)
        fixed = PathwiseGPModel(x, torch.cat([y, -y], 1), known, covar_module=kernel(), optimizer=None)
        assert isinstance(fixed.likelihood, FixedNoiseGaussianLikelihood)
        assert torch.allclose(fixed.likelihood.noise.T * y.std() ** 2, known)

    def test_a_warp_is_never_left_at_identity_without_a_word(self, points: Tensor) -> None:
        x, y = data()

        def warp() -> Warp:
            return Warp(d=2, indices=[0, 1])

        with pytest.raises(
            InputError, match=r"input_transform: Warp .*concentration.*requires_grad_\(False\)"
        ):
            PathwiseGPModel(x, y, covar_module=kernel(), input_transform=warp())
        with pytest.raises(InputError, match="ChainedInputTransform"):
            PathwiseGPModel(x, y, input_transform=ChainedInputTransform(a=Normalize(2), b=warp()))
        held = warp().requires_grad_(False)
        held.concentration0.fill_(2.0)
        settings: dict[str, Any] = {"covar_module": kernel(), "noise_variance": NOISE, "optimizer": None}
        model = PathwiseGPModel(x, y, input_transform=held, **settings)
        dense = DenseGP(held(x), y[:, 0])
        torch.testing.assert_close(
            model.posterior(points[0]).mean[:, 0], dense.mean(held(points[0])), **EXACT
        )
        other = PathwiseGPModel(x, y, input_transform=warp().requires_grad_(False), **settings)
        other.load_state_dict(model.state_dict())  # the rows, too, are warped as it says
        torch.testing.assert_close(other.posterior(points).mean, model.posterior(points).mean)
        plain = PathwiseGPModel(
            x, y, input_transform=warp(), **settings
        )  # as they are, as optimizer=None says
        with pytest.raises(InputError, match="Warp"):
            fit_gpytorch_mll(ExactMarginalLogLikelihood(plain.likelihood, plain))

    @pytest.mark.parametrize("gaussian", [False, True])
    def test_inputs_that_make_several_rows(self, points: Tensor, gaussian: bool) -> None:
        """Environmental variables appended to a design, and perturbations of it: three points for each candidate."""
        x, y = data()
        extra = torch.tensor([[0.1], [0.5], [0.8]], dtype=torch.float64)
        shifts = torch.tensor([[0.0, 0.0], [0.01, 0.0], [0.0, -0.02]], dtype=torch.float64)
        dense = DenseGP(x, y[:, 0])
        for transform, asked, rows in (
            (AppendFeatures(extra), points[0, :, :1], points[0, :, None, :1].expand(3, 3, 1)),
            (InputPerturbation(shifts), points[0], points[0][:, None] + shifts),
        ):
            if rows.shape[-1] == 1:
                rows = torch.cat([rows, extra.expand(3, 3, 1)], -1)
            model = build(input_transform=transform)
            host = model.gaussian() if gaussian else model
            mean = host.posterior(asked).mean[:, 0]
            torch.testing.assert_close(mean, dense.mean(rows.reshape(9, 2)), **EXACT)
            averaged = host.posterior(asked, posterior_transform=ExpectationPosteriorTransform(3))
            torch.testing.assert_close(averaged.mean[:, 0], mean.reshape(3, 3).mean(1))
            risk = qSimpleRegret(host, objective=Expectation(3))(asked[:, None])
            assert risk.shape == (3,)
        with pytest.raises(ShapeError, match=r"AppendFeatures makes 3 columns.*given 2.*leave out"):
            build(input_transform=AppendFeatures(extra)).posterior(points)
