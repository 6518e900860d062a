"""What `PathwiseGPModel` cannot do is refused with a message that names what can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gpytorch.kernels import InducingPointKernel, MaternKernel, RBFKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from torch import Tensor

pytest.importorskip("botorch", reason="the BoTorch face needs the extra botorch")

from botorch.acquisition.analytic import qAnalyticProbabilityOfImprovement
from botorch.acquisition.joint_entropy_search import qJointEntropySearch
from botorch.acquisition.max_value_entropy_search import qLowerBoundMaxValueEntropy, qMaxValueEntropy
from botorch.acquisition.predictive_entropy_search import qPredictiveEntropySearch
from botorch.models.transforms import Log
from botorch.models.transforms.input import InputStandardize, Log10

from sggp.botorch import PathwiseGPModel
from sggp.errors import InputError, NoJointGaussian, SggpError, UnsupportedKernel
from tests.test_botorch import build, data

X, Y = data()
Maker = Callable[[Any], Any]

NEED_A_GAUSSIAN: dict[str, Maker] = {
    "MES": lambda model: qMaxValueEntropy(model, X),
    "PES": lambda model: qPredictiveEntropySearch(model, optimal_inputs=X[:3]),
    "JES": lambda model: qJointEntropySearch(model, optimal_inputs=X[:3], optimal_outputs=Y[:3]),
    "GIBBON with pending points": lambda model: qLowerBoundMaxValueEntropy(model, X, X_pending=X[:2]),
    "qAnalyticPI": lambda model: qAnalyticProbabilityOfImprovement(model, best_f=20.0),
}


@pytest.mark.filterwarnings("ignore:Sparse invariant")  # torch's own, the first time it makes a sparse tensor
@pytest.mark.parametrize("name", NEED_A_GAUSSIAN)
@pytest.mark.parametrize("settings", [{}, {"outcome_transform": None}, {"outcome_transform": Log()}], ids=str)
def test_functions_of_a_joint_gaussian_name_the_model_that_has_one(
    name: str, settings: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    make, asked, model = (
        NEED_A_GAUSSIAN[name],
        X[:3].unsqueeze(1),
        build(num_samples=8, num_features=64, **settings),
    )
    with pytest.raises(SggpError, match=r"model\.gaussian\(\)"):
        make(model)(asked)
    if not settings:
        assert make(model.gaussian())(asked).isfinite().all()


def test_a_model_is_not_called() -> None:
    model = build(num_samples=8, num_features=64)
    for mode in (model.eval(), model.train()):
        with pytest.raises(NoJointGaussian, match=r"model\.posterior\(X\).*model\.gaussian\(\)"):
            mode(X)


def test_posteriors_answer_hasattr_as_python_has_it() -> None:
    posterior = build(num_samples=8, num_features=64).posterior(X[:2])
    assert not hasattr(posterior, "distribution")
    assert not hasattr(posterior, "posteriors")
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = posterior.colour


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_here() -> None:
    with pytest.raises(InputError, match=r"cannot be moved there.*Leave it on cpu"):
        build(num_samples=8, num_features=64).to("cuda")


@pytest.mark.parametrize("scaled", [False, True])
def test_inducing_point_kernels_are_refused(scaled: bool) -> None:
    kernel: Any = InducingPointKernel(MaternKernel(), X[:5].clone(), GaussianLikelihood())
    kernel = ScaleKernel(kernel) if scaled else kernel
    with pytest.raises(UnsupportedKernel, match=r"InducingPointKernel.*base_kernel.*centres"):
        PathwiseGPModel(X, Y, covar_module=kernel.double(), noise_variance=0.1, optimizer=None)


def test_the_mean_costs_no_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    """BoTorch's own posterior after an outcome transform asks for the variance, too: n² flops a point for nothing."""
    model = build(num_samples=8, num_features=64)
    expected = model.posterior(X).mean
    asked: list[Tensor] = []
    monkeypatch.setattr(type(model.output_models[0]), "variance", lambda self, points: asked.append(points))
    assert torch.equal(model.posterior(X).mean, expected)
    assert asked == []


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize(
    ("noise", "why"),
    [
        (torch.ones(7), r"broadcastable to \(3, 1\)"),
        (torch.ones(2, 3, 1), r"broadcastable to \(3, 1\)"),
        (torch.full((3, 1), torch.nan), "NaN"),
        (torch.full((3, 1), -1.0), "negative"),
        (0.1, "True, False or a tensor"),
        (None, "True, False or a tensor"),
    ],
    ids=lambda value: str(getattr(value, "shape", value))[:20],
)
def test_noise_to_add_that_is_none(joint: bool, noise: Any, why: str) -> None:
    model = build(num_samples=8, num_features=64)
    with pytest.raises(SggpError, match=why):
        (model.gaussian() if joint else model).posterior(X[:3], observation_noise=noise)


def test_outputs_by_a_tensor_and_noise_by_a_numpy_bool() -> None:
    model, given = build(num_samples=8, num_features=64), torch.tensor([0])
    posterior = model.posterior(X[:3], output_indices=given, observation_noise=np.bool_(True))
    torch.testing.assert_close(posterior.variance, model.posterior(X[:3], observation_noise=True).variance)


@pytest.mark.filterwarnings("ignore:std_mean")
@pytest.mark.parametrize("optimizer", ["auto", None])
@pytest.mark.parametrize(
    ("settings", "rows", "why"),
    [
        ({"input_transform": Log10([0])}, 4, r"input_transform Log10 .* of train_X in rows \[1\]"),
        ({"input_transform": InputStandardize(1)}, 1, r"input_transform InputStandardize .* \[0\]"),
        ({"outcome_transform": Log()}, 4, r"outcome_transform Log .* of train_Y in rows \[0, 1\]"),
    ],
    ids=["log of inputs", "one row", "log of outcomes"],
)
def test_a_transform_that_is_not_defined_for_the_data_is_named(
    settings: dict[str, Any], rows: int, why: str, optimizer: Any
) -> None:
    X = torch.tensor([[0.5], [-1.0], [2.0], [3.0]], dtype=torch.float64)[:rows]
    known = {} if optimizer else {"covar_module": RBFKernel(), "noise_variance": 0.1}
    with pytest.raises(InputError, match=why):
        PathwiseGPModel(X, X - 0.7, optimizer=optimizer, **known, **settings)
