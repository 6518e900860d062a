"""Features that cannot be used are refused in words, whenever they turn up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sggp.errors import DtypeError, InputError, ShapeError
from sggp.linear import BayesianLinearModel, BlockFeatures, JacobianFeatures, LinearisedLaplace
from sggp.linear.features import RowIndex
from tests.linear.dense import draw

MODEL = BayesianLinearModel(prior_precision=1.0, noise_variance=0.1, num_samples=2)
X, Y = draw(30, 4, seed=0), draw(30, seed=1)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("name", ["to_sparse", "to_sparse_csr"])
def test_sparse_features_are_refused(name: str) -> None:
    with pytest.raises(DtypeError, match="dense"):
        MODEL.fit(getattr(X, name)(), Y)


def later(other: Callable[[RowIndex], Tensor]) -> BlockFeatures:
    """Features whose later blocks are not as the first row was."""
    return BlockFeatures(
        lambda rows: X[rows] if isinstance(rows, slice) and rows.stop == 1 else other(rows),
        num_rows=30,
        batch_size=7,
    )


@pytest.mark.parametrize(
    "other",
    [
        lambda rows: X[rows].float(),
        lambda rows: X[rows][:, :3],
        lambda rows: X[rows][:, None, :],
        lambda rows: X,
        lambda rows: X[:1],
    ],
    ids=["dtype", "width", "outputs", "more rows", "fewer rows"],
)
def test_a_function_whose_blocks_change_is_refused(other: Callable[[RowIndex], Tensor]) -> None:
    with pytest.raises(ShapeError, match="features"):
        MODEL.fit(later(other), Y, generator=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", [0, 29])
def test_features_that_are_not_finite_are_refused(value: float, where: int) -> None:
    x = X.clone()
    x[where, 2] = value
    with pytest.raises(InputError, match="not finite"):
        MODEL.fit(x, Y, generator=0)


@pytest.mark.parametrize("name", ["num_rows", "num_outputs", "batch_size"])
@pytest.mark.parametrize("value", ["30", 30.0, 0])
def test_numbers_of_rows_and_outputs_are_whole(name: str, value: object) -> None:
    given = {"num_rows": 30, name: value}
    with pytest.raises(InputError, match=name):
        BlockFeatures(lambda rows: X[rows], **given)


def test_a_complex_prior_scale_is_refused() -> None:
    model = BayesianLinearModel(prior_scale=torch.ones(4, dtype=torch.complex64))
    with pytest.raises(DtypeError, match="real"):
        model.fit(X, Y)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double().eval()


class Pair(nn.Module):
    """A network with two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner(x), x


def test_a_network_that_cannot_be_called_on_the_inputs_is_said() -> None:
    for x in (X.float(), X[:, :3]):
        with pytest.raises(InputError, match="cannot be called on rows"):
            LinearisedLaplace(network()).fit(x, Y[:, None])
    with pytest.raises(ShapeError, match="tuple"):
        JacobianFeatures(Pair().eval(), X)
    with pytest.raises(InputError, match=r"\['0.weight'\]"):
        JacobianFeatures(network(), X, parameters="0.weight")


def test_inputs_of_a_network_are_checked_at_the_fit_and_after() -> None:
    bad = X.clone()
    bad[3, 1] = float("nan")
    laplace = LinearisedLaplace(network(), prior_precision=1.0, noise_variance=0.1, num_samples=2)
    with pytest.raises(InputError, match="x, the inputs"):
        laplace.fit(bad, Y[:, None])
    found = laplace.fit(X, Y[:, None], generator=0)
    with pytest.raises(InputError, match="x, the inputs"):
        found.variance(bad)
    for other in (X.float(), X.numpy()):
        with pytest.raises(DtypeError, match="as those of the fit"):
            found.mean(other)
