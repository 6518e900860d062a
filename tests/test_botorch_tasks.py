"""`PathwiseMultiTaskGP` against BoTorch's `MultiTaskGP` and dense float64 algebra."""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpytorch.kernels import MaternKernel, ScaleKernel
from torch import Tensor

pytest.importorskip("botorch", reason="the BoTorch face needs the extra botorch")

from botorch.acquisition import qLogExpectedImprovement
from botorch.acquisition.objective import ScalarizedPosteriorTransform
from botorch.acquisition.thompson_sampling import PathwiseThompsonSampling
from botorch.fit import fit_gpytorch_mll
from botorch.generation import MaxPosteriorSampling
from botorch.models import MultiTaskGP
from botorch.models.deterministic import MatheronPathModel
from botorch.models.transforms import Normalize
from botorch.optim import optimize_acqf, optimize_acqf_mixed
from botorch.sampling import SobolQMCNormalSampler
from gpytorch.mlls import ExactMarginalLogLikelihood

from sggp.botorch import PathwiseMultiTaskGP
from sggp.errors import InputError, NoJointGaussian, ShapeError
from sggp.kernels import TaskKernel

NUMBERS = (0, 3, 5)
FACTOR = [[1.0, 0.0, 0.0], [-0.8, 0.5, 0.0], [0.3, 0.2, 0.7]]
NOISE = 0.05
UNKNOWN = (
    (torch.tensor([0, 1.0, 0]), "task 1 is not among the known ones"),
    (torch.tensor([0, 9.0, 0]), "task 9 is not among the known ones"),
    (torch.tensor([0, 0.5, 0]), "tasks are named by whole numbers"),
)
UNIT_SQUARE = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)


def table(n: int = 24) -> tuple[Tensor, Tensor]:
    """Rows (x, task, z): tasks 0, 3, 5 in turn, two of which are opposite, in units of their own."""
    g = torch.Generator().manual_seed(1)
    x = torch.rand(n, 3, generator=g, dtype=torch.float64)
    x[:, 1] = torch.tensor(NUMBERS).double()[torch.arange(n) % 3]
    f = torch.sin(5 * x[:, 0]) + x[:, 2]
    y = torch.where(x[:, 1] == 0, f, torch.where(x[:, 1] == 3, 100 - 20 * f, x[:, 0]))
    return x, (y + 0.05 * torch.randn(n, generator=g, dtype=torch.float64)).unsqueeze(-1)


def kernel() -> Any:
    tasks = TaskKernel(NUMBERS, active_dims=[1]).double()
    tasks.initialize(
        covar_factor=torch.tensor(FACTOR, dtype=torch.float64),
        var=torch.full((3,), 0.01, dtype=torch.float64),
    )
    smooth = ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=2, active_dims=[0, 2])).double()
    smooth.outputscale, smooth.base_kernel.lengthscale = (
        torch.tensor(1.4, dtype=torch.float64),
        torch.tensor([0.6, 1.1], dtype=torch.float64),
    )
    return smooth * tasks


def build(**settings: Any) -> PathwiseMultiTaskGP:
    given = {"covar_module": kernel(), "noise_variance": NOISE, "optimizer": None, "generator": 0} | settings
    return PathwiseMultiTaskGP(*table(), task_feature=1, **given)


def scales() -> tuple[Tensor, Tensor]:
    """Mean and deviation of each task's outcomes, by hand."""
    x, y = table()
    parts = [y[x[:, 1] == number, 0] for number in NUMBERS]
    return torch.stack([p.mean() for p in parts]), torch.stack([p.std() for p in parts])


def dense(q: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance at points with their task, in raw units, by a dense solve."""
    x, y = table()
    shift, scale = scales()
    of = {number: i for i, number in enumerate(NUMBERS)}
    own, asked = (torch.tensor([of[int(t)] for t in rows[:, 1]]) for rows in (x, q))

    def covariance(a: Tensor, b: Tensor, s: Tensor, t: Tensor) -> Tensor:
        lengths = torch.tensor([0.6, 1.1], dtype=torch.float64)
        r = math.sqrt(5) * ((a[:, None, [0, 2]] - b[None, :, [0, 2]]) / lengths).square().sum(-1).sqrt()
        factor = torch.tensor(FACTOR, dtype=torch.float64)
        matrix = factor @ factor.T + 0.01 * torch.eye(3).double()
        return 1.4 * (1 + r + r.square() / 3) * torch.exp(-r) * matrix[s][:, t]

    inverse = torch.linalg.inv(covariance(x, x, own, own) + NOISE * torch.eye(len(x)).double())
    cross = covariance(q, x, asked, own)
    mean = cross @ inverse @ ((y[:, 0] - shift[own]) / scale[own])
    rest = covariance(q, q, asked, asked) - cross @ inverse @ cross.T
    return shift[asked] + scale[asked] * mean, rest * scale[asked][:, None] * scale[asked]


@pytest.fixture(scope="module")
def model() -> PathwiseMultiTaskGP:
    return build()


@pytest.fixture
def points(generator: torch.Generator) -> Tensor:
    q = torch.rand(6, 3, generator=generator, dtype=torch.float64)
    q[:, 1] = torch.tensor(NUMBERS * 2).double()
    return q


def without_task(q: Tensor) -> Tensor:
    return q[..., [0, 2]]


class TestPosterior:
    def test_it_is_the_dense_one_at_points_with_and_without_their_task(
        self, model: PathwiseMultiTaskGP, points: Tensor
    ) -> None:
        mean, covariance = dense(points)
        posterior = model.posterior(points)
        torch.testing.assert_close(posterior.mean[:, 0], mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(posterior.variance[:, 0], covariance.diagonal(), rtol=1e-7, atol=1e-9)
        joint = model.gaussian().posterior(points).distribution
        torch.testing.assert_close(joint.covariance_matrix, covariance, rtol=1e-7, atol=1e-9)
        every = model.posterior(without_task(points).expand(2, 6, 2))
        assert every.mean.shape == every.variance.shape == (2, 6, 3)
        for j, number in enumerate(NUMBERS):
            q = points.clone()
            q[:, 1] = number
            torch.testing.assert_close(every.mean[1, :, j], dense(q)[0], rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(every.variance[0, :, j], dense(q)[1].diagonal(), rtol=1e-7, atol=1e-9)
        chosen = model.posterior(without_task(points), output_indices=[5, 0])
        torch.testing.assert_close(chosen.mean, every.mean[0][:, [2, 0]])

    def test_it_is_that_of_botorchs_model(self, points: Tensor) -> None:
        x, y = table()
        x, q = (
            torch.cat(
                [
                    r[:, :1],
                    torch.searchsorted(torch.tensor(NUMBERS).double(), r[:, 1:2].contiguous()),
                    r[:, 2:],
                ],
                1,
            )
            for r in (x, points)
        )  # BoTorch learns no noise for tasks that are not numbered 0, 1, 2
        y = y / 10
        torch.manual_seed(0)
        theirs = MultiTaskGP(x, y, task_feature=1, outcome_transform=None)
        for mean in theirs.mean_module.base_means:
            mean.constant.data.zero_()
        theirs.likelihood.noise = torch.full((3,), NOISE)
        ours = PathwiseMultiTaskGP(
            x,
            y,
            1,
            None,
            theirs.covar_module,
            noise_variance=NOISE,
            optimizer=None,
            outcome_transform=None,
            generator=0,
        )
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of linear_operator's sparse tensors
            for where in (q, without_task(q)):
                expected, found = theirs.posterior(where), ours.posterior(where)
                torch.testing.assert_close(found.mean, expected.mean, rtol=1e-6, atol=1e-6)
                torch.testing.assert_close(found.variance, expected.variance, rtol=1e-5, atol=1e-6)

    def test_paths_have_its_covariances_between_tasks(self, points: Tensor) -> None:
        many = build(num_samples=1024, num_features=4096)
        mean, covariance = dense(points)
        paths = many.posterior(points).rsample(torch.Size([1024]))[..., 0] - mean
        error = (paths.T @ paths / 1024 - covariance).abs()
        spread = (covariance.diagonal()[:, None] * covariance.diagonal() + covariance**2).sqrt() / 32
        assert (error / spread).max() < 4.5
        same = many.posterior(without_task(points)).rsample(torch.Size([8]))  # the same functions
        long = many.posterior(points).rsample(torch.Size([8]))
        torch.testing.assert_close(same[:, 4, 1], long[:, 4, 0])

    def test_noise_is_that_of_the_task(self, points: Tensor) -> None:
        x, y = table()
        known = (1 + x[:, 1:2]) * (1 + x[:, :1])
        model = PathwiseMultiTaskGP(
            x, y, 1, known, kernel(), optimizer=None, outcome_transform=None, num_samples=2, generator=0
        )
        added = [
            (model.posterior(q, observation_noise=True).variance - model.posterior(q).variance)
            for q in (points, without_task(points))
        ]
        mean = torch.stack([known[x[:, 1] == number].mean() for number in NUMBERS])
        torch.testing.assert_close(added[0][:, 0], mean.repeat(2))
        torch.testing.assert_close(added[1], mean.expand(6, 3))
        given = torch.tensor([0.1, 0.2, 0.3]).double()
        more = model.posterior(without_task(points), observation_noise=given).variance
        torch.testing.assert_close(more - model.posterior(without_task(points)).variance, given.expand(6, 3))

    def test_weighted_sums_of_tasks_know_their_correlation(self, points: Tensor) -> None:
        many = build(num_samples=1024)
        weights = ScalarizedPosteriorTransform(torch.tensor([20.0, 1.0, 0.0]).double())
        total = many.posterior(without_task(points[:1]), posterior_transform=weights)
        q = points[:1].repeat(2, 1)
        q[:, 1] = torch.tensor([0.0, 3.0])
        mean, covariance = dense(q)
        w = torch.tensor([20.0, 1.0]).double()
        assert float(total.mean) == pytest.approx(float(w @ mean))
        assert float(total.variance / (w @ covariance @ w)) == pytest.approx(1, abs=0.13)
        assert (
            float(w.square() @ covariance.diagonal() / (w @ covariance @ w)) > 1.25
        )  # the tasks are opposite


class TestLearning:
    def test_opposite_tasks_in_other_units_are_found(self) -> None:
        x, y = table(60)
        model = PathwiseMultiTaskGP(x, y, task_feature=-2, output_tasks=[3], generator=0)
        matrix = model.task_covariances
        assert matrix[0, 1] / (matrix[0, 0] * matrix[1, 1]).sqrt() < -0.9
        q = torch.rand(40, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        truth = 100 - 20 * (torch.sin(5 * q[:, 0]) + q[:, 1])
        posterior = model.posterior(q)
        assert (posterior.mean[:, 0] - truth).square().mean().sqrt() < 1.5
        before = model.task_covariances
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        assert torch.equal(before, model.task_covariances)  # learnt already

    def test_rank_tasks_without_data_and_a_kernel_of_ones_own(self) -> None:
        x, y = table()
        smooth = ScaleKernel(MaternKernel(nu=0.5))
        model = PathwiseMultiTaskGP(x, y, 1, None, smooth, rank=1, all_tasks=[0, 3, 5, 8], generator=0)
        assert smooth.active_dims is None
        learnt, tasks = model.covar_module.kernels
        assert (learnt.base_kernel.nu, learnt.active_dims.tolist()) == (0.5, [0, 2])
        assert tasks.covar_factor.shape == (4, 1)
        matrix = model.task_covariances  # of a task without data, as of the others on average
        torch.testing.assert_close(matrix[3, 3], matrix.diagonal()[:3].mean())
        torch.testing.assert_close(
            matrix[3, :3].mean(), (tasks.covar_factor @ tasks.covar_factor.T)[:3, :3].mean()
        )
        without = model.posterior(
            torch.full((1, 2), 1e6).double(), output_indices=[8]
        )  # in the units of all data
        ratio = (
            without.variance / model.posterior(torch.full((1, 2), 1e6).double(), output_indices=[0]).variance
        )
        assert float(ratio) > 100


class TestUse:
    def test_acquisition_functions_of_one_task(self, model: PathwiseMultiTaskGP, points: Tensor) -> None:
        one = model.subset_output([1])
        assert (one.output_tasks, one.num_outputs, model.num_outputs) == ([3], 1, 3)
        torch.testing.assert_close(
            one.posterior(without_task(points)).mean[:, 0], model.posterior(without_task(points)).mean[:, 1]
        )
        gain = qLogExpectedImprovement(one, best_f=100.0)
        candidates, value = optimize_acqf(gain, UNIT_SQUARE, q=2, num_restarts=1, raw_samples=8)
        assert candidates.shape == (2, 2)
        assert value > gain(torch.rand(2, 2, dtype=torch.float64))
        pool = torch.rand(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        best = MaxPosteriorSampling(one, replacement=False)(pool, num_samples=2)
        assert best.shape == (2, 2)
        sampling = PathwiseThompsonSampling(one)
        assert optimize_acqf(sampling, UNIT_SQUARE, q=1, num_restarts=1, raw_samples=8)[0].shape == (1, 2)
        fantasies = one.fantasize(pool[:2], SobolQMCNormalSampler(torch.Size([3])))
        assert fantasies.posterior(pool[:5]).mean.shape == (3, 5, 1)

    def test_the_task_as_one_of_the_choices(self, points: Tensor) -> None:
        gain = qLogExpectedImprovement(build(output_tasks=[0]), best_f=1.0)
        bounds = torch.tensor([[0.0, 0.0, 0.0], [1.0, 5.0, 1.0]], dtype=torch.float64)
        choices = [{1: 0.0}, {1: 3.0}]
        candidates, _ = optimize_acqf_mixed(
            gain, bounds, q=1, num_restarts=1, raw_samples=8, fixed_features_list=choices
        )
        assert candidates[0, 1] == 3.0  # its outcomes are near 100

    def test_path_models(self, points: Tensor) -> None:
        model = build()
        every = model.posterior(without_task(points)).rsample(torch.Size([8]))
        torch.testing.assert_close(MatheronPathModel(model)(without_task(points)), every[0])
        several = MatheronPathModel(model, torch.Size([3]))  # the next three
        torch.testing.assert_close(several(without_task(points)), every[1:4])
        torch.testing.assert_close(several(points)[:, 4], every[1:4, 4, 1:2])
        one = MatheronPathModel(build(output_tasks=[5]))
        torch.testing.assert_close(one(without_task(points)), every[0, :, 2:])

    def test_further_observations(self, model: PathwiseMultiTaskGP, points: Tensor) -> None:
        more = model.condition_on_observations(points[:2], torch.tensor([[1.0], [90.0]]).double())
        short = model.subset_output([0]).condition_on_observations(
            without_task(points[:1]), torch.ones(1, 1).double()
        )
        joint = model.gaussian().condition_on_observations(points[:2], torch.tensor([[1.0], [90.0]]).double())
        torch.testing.assert_close(
            more.posterior(points).mean, joint.posterior(points).mean, rtol=1e-6, atol=1e-6
        )
        alone = model.gaussian().condition_on_observations(points[:1], torch.ones(1, 1).double())
        torch.testing.assert_close(
            short.posterior(points).mean, alone.posterior(points).mean, rtol=1e-6, atol=1e-6
        )
        assert short.output_tasks == [0]

    def test_copies(self, model: PathwiseMultiTaskGP, points: Tensor) -> None:
        paths = model.posterior(points).rsample(torch.Size([3]))
        assert torch.equal(
            pickle.loads(pickle.dumps(model)).posterior(points).rsample(torch.Size([3])), paths
        )
        other = kernel()
        other.kernels[1].var = torch.full((3,), 0.5)
        again = build(covar_module=other, noise_variance=0.3)
        again.load_state_dict(model.state_dict())
        torch.testing.assert_close(again.posterior(points).mean, model.posterior(points).mean)

    def test_an_input_transform_of_the_other_columns(self, points: Tensor) -> None:
        transform = Normalize(3, indices=[0, 2], bounds=torch.tensor([[0.0, 0, 0], [1, 1, 1]]))
        given, plain = build(input_transform=transform), build()
        torch.testing.assert_close(given.posterior(points).mean, plain.posterior(points).mean)
        assert given.posterior(points.float()).mean.dtype == torch.float64

    @pytest.mark.parametrize("shape", [(), (4,)])
    def test_float32_data(self, shape: tuple[int, ...], points: Tensor) -> None:
        x, y = (t.float() for t in table())
        model = PathwiseMultiTaskGP(
            x, y, 1, None, kernel(), noise_variance=NOISE, optimizer=None, generator=0
        )
        found = model.posterior(without_task(points).float().expand(*shape, 6, 2))
        assert found.mean.dtype == found.variance.dtype == torch.float32
        torch.testing.assert_close(
            found.mean.double(),
            build().posterior(without_task(points)).mean.expand(*shape, 6, 3),
            rtol=1e-4,
            atol=1e-3,
        )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda m, q: m.posterior(q + torch.tensor([0, 1.0, 0])),
            InputError,
            r"task 1 is not among.*\[0, 3, 5\]",
        ),
        (lambda m, q: m.posterior(q + 0.5), InputError, r"whole numbers, got 0\.5.*task_feature"),
        (lambda m, q: m.posterior(q[:, :1]), ShapeError, r"must have shape \(\*b, q, 3\)"),
        (lambda m, q: m.posterior(q, output_indices=[0]), InputError, "X names the task of each point"),
        (
            lambda m, q: m.posterior(q[:, :2], output_indices=[1]),
            InputError,
            r"some of the tasks \[0, 3, 5\], got \[1\]",
        ),
        (lambda m, q: m.gaussian().posterior(q[:, :2]), NoJointGaussian, r"subset_output\(\[i\]\)"),
        (lambda m, q: m.subset_output([3]), InputError, "output numbers"),
        (lambda m, q: MatheronPathModel(m)._path(q[:, :2]), NoJointGaussian, "add the column"),
        (lambda m, q: build(output_tasks=[]), InputError, "some of the tasks"),
        (lambda m, q: build(all_tasks=[0, 3]), InputError, "task 5 is not among the known ones"),
        (lambda m, q: build(rank=4, covar_module=None, optimizer="auto"), InputError, "rank must be from 1"),
        (lambda m, q: build(rank=1), InputError, "set the rank there"),
        (lambda m, q: build(input_transform=Normalize(3)), InputError, r"changes column 1.*indices"),
        (
            lambda m, q: PathwiseMultiTaskGP(*table(), task_feature=0),
            InputError,
            "tasks are named by whole numbers",
        ),
        (lambda m, q: build(output_tasks=3), InputError, r"some of the tasks \[0, 3, 5\], got 3"),
        (lambda m, q: build(all_tasks=3), InputError, "tasks must be a list of whole numbers"),
        (
            lambda m, q: build(rank=1.5, covar_module=None, optimizer="auto"),
            InputError,
            "rank must be an int",
        ),
        *(
            (lambda m, q, w=w, k=k: k(m).condition_on_observations(q[:1] + w, q[:1, :1]), InputError, said)
            for w, said in UNKNOWN
            for k in (lambda m: m, lambda m: m.gaussian())
        ),
        (lambda m, q: PathwiseMultiTaskGP(*table(), task_feature=3), InputError, "from -3 to 2, got 3"),
        (lambda m, q: PathwiseMultiTaskGP(table()[0], table()[0], 1), ShapeError, "a row of its own"),
        (lambda m, q: PathwiseMultiTaskGP(-table()[0], table()[1], 1), InputError, "task -5 is negative"),
    ],
)
def test_bad_input(
    model: PathwiseMultiTaskGP,
    points: Tensor,
    call: Callable[[PathwiseMultiTaskGP, Tensor], Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        call(model, points)
