"""`PathwiseMixedGP` and `PathwiseMultiFidelityGP` against BoTorch's models of the same kernels."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel
from torch import Tensor

pytest.importorskip("botorch", reason="the BoTorch face needs the extra botorch")

from botorch.acquisition import qLogExpectedImprovement
from botorch.acquisition.fixed_feature import FixedFeatureAcquisitionFunction
from botorch.generation import MaxPosteriorSampling
from botorch.models import MixedSingleTaskGP, SingleTaskMultiFidelityGP
from botorch.models.kernels.categorical import CategoricalKernel
from botorch.models.kernels.downsampling import DownsamplingKernel
from botorch.models.kernels.exponential_decay import ExponentialDecayKernel
from botorch.models.transforms import Normalize
from botorch.optim import optimize_acqf, optimize_acqf_mixed
from botorch.sampling.pathwise import get_matheron_path_model
from botorch.utils.datasets import SupervisedDataset

from sggp.botorch import PathwiseMixedGP, PathwiseMultiFidelityGP
from sggp.botorch.columns.categorical_kernel import KnownCategoricalKernel
from sggp.errors import DtypeError, InputError
from sggp.kernels import draw_features
from sggp.testing import check_features

NOISE = 0.1
MANY = {
    "noise_variance": NOISE,
    "optimizer": None,
    "outcome_transform": None,
    "num_samples": 1024,
    "generator": 0,
}


def mixed(n: int = 30) -> tuple[Tensor, Tensor]:
    """Rows (number, category of 3, number, category of 2)."""
    g = torch.Generator().manual_seed(4)
    x = torch.rand(n, 4, generator=g, dtype=torch.float64)
    x[:, 1], x[:, 3] = torch.arange(n) % 3, torch.arange(n) % 2
    f = torch.sin(5 * x[:, 0]) * (1 - x[:, 1]) + x[:, 2] * x[:, 3]
    return x, (f + 0.05 * torch.randn(n, generator=g, dtype=torch.float64)).unsqueeze(-1)


def fidelities(n: int = 30) -> tuple[Tensor, Tensor]:
    """Rows (number, number, data fidelity, iteration fidelity)."""
    g = torch.Generator().manual_seed(5)
    x = torch.rand(n, 4, generator=g, dtype=torch.float64)
    f = torch.sin(5 * x[:, 0]) + x[:, 1] + 0.5 * (1 - x[:, 2]) * x[:, 1] - torch.exp(-3 * x[:, 3])
    return x, f.unsqueeze(-1)


def same_posterior(found: Any, expected: Any, q: Tensor) -> None:
    with torch.no_grad():
        expected = expected.posterior(q)
    torch.testing.assert_close(found.posterior(q).mean, expected.mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found.posterior(q).variance, expected.variance, rtol=1e-5, atol=1e-7)


def right_paths(model: Any, q: Tensor) -> None:
    """The mean square distance of 1,024 paths from the mean is the variance, within a few of its standard errors."""
    posterior = model.posterior(q)
    paths = posterior.rsample(torch.Size([1024]))
    ratio = (paths - posterior.mean).square().mean(0) / posterior.variance
    assert (ratio - 1).abs().max() < 4.5 * math.sqrt(2 / 1024) + 0.1
    assert abs(float(ratio.mean()) - 1) < 0.08


class TestMixed:
    def test_it_is_botorchs_model_with_the_right_paths(self) -> None:
        x, y = mixed()
        theirs = MixedSingleTaskGP(x, y, cat_dims=[1, -1], outcome_transform=None)
        for raw in theirs.covar_module.parameters():
            raw.data += torch.linspace(0.1, 0.6, raw.numel()).reshape(raw.shape)
        theirs.likelihood.noise = NOISE
        ours = PathwiseMixedGP(x, y, cat_dims=[1, -1], covar_module=theirs.covar_module, **MANY)
        q = x[:5] + torch.tensor([0.1, 0.0, 0.1, 0.0])
        q[0, 1] = 9.0  # a category that the data lack
        same_posterior(ours, theirs, q)
        right_paths(ours, q)

    def test_what_it_learns_is_used_and_copied(self) -> None:
        x, y = mixed()
        model = PathwiseMixedGP(x, y, cat_dims=[1, -1], num_samples=16, num_features=512, generator=0)
        q = torch.rand(40, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        q[:, 1], q[:, 3] = torch.arange(40) % 3, torch.arange(40) % 2
        truth = torch.sin(5 * q[:, 0]) * (1 - q[:, 1]) + q[:, 2] * q[:, 3]
        assert (model.posterior(q).mean[:, 0] - truth).square().mean().sqrt() < 0.5 * truth.std()
        paths = model.posterior(q).rsample(torch.Size([3]))
        copied = pickle.loads(pickle.dumps(model))
        assert torch.equal(copied.posterior(q).rsample(torch.Size([3])), paths)
        updated = model.condition_on_observations(q[:2], truth[:2, None])
        assert (updated.posterior(q[:2]).mean[:, 0] - truth[:2]).abs().max() < 0.3
        gain = qLogExpectedImprovement(model, best_f=y.max())
        bounds = torch.tensor([[0.0, 0, 0, 0], [1, 2, 1, 1]]).double()
        choices = [{1: 0.0, 3: 1.0}, {1: 3.0, 3: 0.0}]  # 3 is new
        candidates, _ = optimize_acqf_mixed(
            gain, bounds, q=1, num_restarts=1, raw_samples=8, fixed_features_list=choices
        )
        assert candidates[0, 1] in (0.0, 3.0)
        assert MaxPosteriorSampling(model)(q, num_samples=2).shape == (2, 4)

    def test_categories_alone_have_exact_features(self) -> None:
        x, y = mixed()
        x, q = x[:, [1, 3]], torch.tensor([[0.0, 0.0], [2.0, 1.0], [5.0, 1.0]]).double()
        kernel = ScaleKernel(KnownCategoricalKernel([[0, 1, 2], [0, 1]], ard_num_dims=2)).double()
        kernel.outputscale, kernel.base_kernel.lengthscale = 2.0, torch.tensor([[0.5, 1.5]])
        map_ = draw_features(kernel, 2048, input_dim=2, generator=0)
        assert map_.num_features == (1 + 3 + 8) * (1 + 2 + 8)
        phi = map_.phi(torch.cat([x, q]))  # one stranger
        gram = kernel(torch.cat([x, q])).to_dense().detach()
        torch.testing.assert_close(phi @ phi.T, gram, rtol=1e-9, atol=1e-9)
        strangers = torch.tensor([[7.0, 0.0], [8.0, 0.0], [0.0, 9.0]]).double()
        assert check_features(kernel, strangers, generator=0, num_maps=60, num_features=2048) == []
        assert draw_features(kernel, 100, input_dim=2, generator=0).num_features == 100  # too few: signs
        model = PathwiseMixedGP(x, y, cat_dims=[0, 1], covar_module=kernel, **MANY)
        right_paths(model, q)
        learnt = PathwiseMixedGP(x, torch.cat([y, -y], 1), cat_dims=[0, 1], num_samples=4, generator=0)
        assert isinstance(learnt.covar_module[1].base_kernel, CategoricalKernel)
        q = q.requires_grad_()
        (learnt.posterior(q).mean.sum() + learnt.posterior(q).rsample().sum()).backward()
        assert q.grad.abs().max() == 0

    @pytest.mark.parametrize("batch", [(), (2,)])
    def test_the_kernel_is_botorchs(self, batch: tuple[int, ...]) -> None:
        options: dict[str, Any] = {"ard_num_dims": 2, "batch_shape": torch.Size(batch)}
        fast, slow = KnownCategoricalKernel(**options).double(), CategoricalKernel(**options).double()
        x = mixed(6)[0][:, [1, 3]]
        upstream = torch.arange(36.0, dtype=torch.float64).reshape(6, 6)
        for kernel in (fast, slow):
            kernel.lengthscale = torch.linspace(0.3, 1.7, kernel.lengthscale.numel()).reshape(*batch, 1, 2)
            (kernel(x).to_dense() * upstream).sum().backward()
        torch.testing.assert_close(fast(x).to_dense(), slow(x).to_dense())
        torch.testing.assert_close(fast(x, x.flip(0), diag=True), slow(x, x.flip(0), diag=True))
        torch.testing.assert_close(fast.raw_lengthscale.grad, slow.raw_lengthscale.grad)

    def test_kernels_and_names_are_botorchs(self) -> None:
        x, y = mixed()

        def factory(batch_shape: torch.Size, ard_num_dims: int, active_dims: list[int]) -> RBFKernel:
            return RBFKernel(ard_num_dims=ard_num_dims, active_dims=active_dims)

        data = SupervisedDataset(x, y, feature_names=list("abcd"), outcome_names=["y"])
        arguments = PathwiseMixedGP.construct_inputs(data, categorical_features=[1, 3])
        model = PathwiseMixedGP(**arguments, cont_kernel_factory=factory, num_samples=4, generator=0)
        numbers = model.covar_module.kernels[1].base_kernel.kernels[0]
        assert (type(numbers), numbers.active_dims.tolist()) == (RBFKernel, [0, 2])
        pickle.dumps(model)
        with pytest.raises(DtypeError, match=r"cont_kernel_factory must return.*got int"):
            PathwiseMixedGP(x, y, [1], cont_kernel_factory=lambda **_: 1)


class TestFidelities:
    @pytest.mark.parametrize(
        "kernel",
        [
            ExponentialDecayKernel(active_dims=[3]),
            DownsamplingKernel(active_dims=[2]),
            MaternKernel(active_dims=[0, 1])
            * DownsamplingKernel(active_dims=[2])
            * ExponentialDecayKernel(active_dims=[3]),
        ],
        ids=["iterations", "data", "product"],
    )
    def test_features(self, kernel: Any) -> None:
        assert check_features(kernel.double(), fidelities(5)[0], generator=0, num_maps=60) == []

    def test_it_is_botorchs_model_with_the_right_paths(self) -> None:
        x, y = fidelities()
        smooth = MaternKernel(nu=1.5, active_dims=[0, 1])
        theirs = SingleTaskMultiFidelityGP(
            x, y, None, 3, [2], linear_truncated=False, covar_module=smooth, outcome_transform=None
        )
        theirs.likelihood.noise = NOISE
        ours = PathwiseMultiFidelityGP(x, y, None, 3, [-2], MaternKernel(nu=1.5), **MANY)
        q = x[:6].clone()
        q[:, 2:] = 1.0
        same_posterior(ours, theirs, q)
        right_paths(ours, q)

    def test_what_it_learns_is_used_at_the_truth(self) -> None:
        x, y = fidelities()
        data = SupervisedDataset(x, y, feature_names=list("abcd"), outcome_names=["y"])
        arguments = PathwiseMultiFidelityGP.construct_inputs(
            data, fidelity_features=[2], iteration_fidelity=3
        )
        model = PathwiseMultiFidelityGP(**arguments, num_samples=16, generator=0)
        q = torch.rand(40, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        q[:, 2:] = 1.0
        truth = torch.sin(5 * q[:, 0]) + q[:, 1] - math.exp(-3)
        assert (model.posterior(q).mean[:, 0] - truth).square().mean().sqrt() < 0.3 * truth.std()
        gain = FixedFeatureAcquisitionFunction(
            qLogExpectedImprovement(model, best_f=1.0), 4, [2, 3], [1.0, 1.0]
        )
        bounds = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).double()
        assert optimize_acqf(gain, bounds, q=1, num_restarts=1, raw_samples=8)[0].shape == (1, 2)
        again = pickle.loads(pickle.dumps(model))
        assert torch.equal(
            again.posterior(q).rsample(torch.Size([2])), model.posterior(q).rsample(torch.Size([2]))
        )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: PathwiseMixedGP(*mixed(), cat_dims=[]),
            InputError,
            "cat_dims must be a list of columns, at least one",
        ),
        (lambda: PathwiseMixedGP(*mixed(), cat_dims=[4]), InputError, "from -4 to 3, got 4"),
        (lambda: PathwiseMixedGP(*mixed(), cat_dims=[1, -3]), InputError, "names a column twice"),
        (
            lambda: PathwiseMixedGP(*mixed(), cat_dims=[1], input_transform=Normalize(4)),
            InputError,
            "changes column 1, which names categories",
        ),
        (lambda: PathwiseMultiFidelityGP(*fidelities()), InputError, "name one or more"),
        (
            lambda: PathwiseMultiFidelityGP(*fidelities(), data_fidelities=[0, 1, 2, 3]),
            InputError,
            "and leave others",
        ),
        (
            lambda: PathwiseMultiFidelityGP(*fidelities(), None, 2, [2]),
            InputError,
            "each column has one meaning",
        ),
        (
            lambda: PathwiseMultiFidelityGP(*fidelities(), None, 2, linear_truncated=True),
            InputError,
            "LinearTruncatedFidelityKernel",
        ),
        (
            lambda: PathwiseMultiFidelityGP(2 * fidelities()[0], fidelities()[1], None, 3),
            InputError,
            r"column 3 \(iteration_fidelity\) must be from 0 to 1.*Normalize",
        ),
        (
            lambda: PathwiseMultiFidelityGP(*fidelities(), data_fidelities=torch.tensor([2, 3])),
            InputError,
            "data_fidelities must be a list of columns",
        ),
    ],
)
def test_bad_input(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda m, q: m.posterior(q),
        lambda m, q: m.gaussian().posterior(q),
        lambda m, q: get_matheron_path_model(m).posterior(q),
        lambda m, q: m.condition_on_observations(q, q[:, :1]),
        lambda m, q: m.get_fantasy_model(q, q[:, 0]),
        lambda m, q: m.gaussian().condition_on_observations(q, q[:, :1]),
        lambda m, q: m.set_train_data(q.expand(30, 4)),
    ],
)
def test_a_fidelity_out_of_range_is_refused(call: Callable[[Any, Tensor], Any]) -> None:
    x, y = fidelities()
    model = PathwiseMultiFidelityGP(
        x, y, None, None, [2], MaternKernel(), noise_variance=NOISE, optimizer=None, num_samples=2
    )
    with pytest.raises(InputError, match=r"column 2 \(data_fidelities\).*got 1\.5"):
        call(model, torch.full((1, 4), 1.5).double())
    call(model, x[:1])
