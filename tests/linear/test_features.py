"""Features by blocks, by functions and by Jacobians: the same products as a dense matrix."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from sggp.errors import DtypeError, InputError, ShapeError
from sggp.linear import BayesianLinearModel, BlockFeatures, Features, JacobianFeatures
from sggp.linear.features import as_features
from tests.linear.dense import draw

N, OUT, P = 11, 2, 4


class Net(nn.Module):
    """A convolution, batch normalisation and two layers, one of them tied to nothing and frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.hidden = nn.Linear(12, 5)
        self.out = nn.Linear(5, OUT)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.norm(self.conv(x))).flatten(1)
        return self.out(torch.tanh(self.hidden(h)))


def network() -> Net:
    torch.manual_seed(0)
    net = Net().double()
    net(torch.randn(20, 1, 4, 4, dtype=torch.float64))  # running statistics that are not the initial ones
    return net.eval()


def dense_jacobian(net: nn.Module, x: Tensor, names: list[str]) -> Tensor:  # (n, o, D)
    every = dict(net.named_parameters())
    weights = {name: every[name].detach() for name in names}
    jacobians = jacrev(lambda w: functional_call(net, w, (x,)))(weights)
    return torch.cat([jacobians[name].flatten(2) for name in names], dim=2).detach()


def shared_blocks() -> tuple[BlockFeatures, Tensor]:
    x = draw(N, P, seed=1)
    full = torch.zeros(N, OUT, OUT, P, dtype=torch.float64)
    for i in range(OUT):
        full[:, i, i] = x
    return BlockFeatures(x, num_outputs=OUT), full.reshape(N, OUT, OUT * P)


def plain_blocks() -> tuple[BlockFeatures, Tensor]:
    full = draw(N, OUT, P, seed=2)
    return BlockFeatures(full, batch_size=4), full


def function_blocks() -> tuple[BlockFeatures, Tensor]:
    full = draw(N, OUT, P, seed=2)
    return BlockFeatures(lambda rows: full[rows], num_rows=N, batch_size=4), full


def jacobian() -> tuple[JacobianFeatures, Tensor]:
    net, x = network(), draw(N, 1, 4, 4, seed=3)
    names = [name for name, _ in net.named_parameters()]
    return JacobianFeatures(net, x, batch_size=4, columns=2, memory_budget=0), dense_jacobian(net, x, names)


def kept_jacobian() -> tuple[JacobianFeatures, Tensor]:
    net, x = network(), draw(N, 1, 4, 4, seed=3)
    names = [name for name, _ in net.named_parameters()]
    return JacobianFeatures(net, x, batch_size=4), dense_jacobian(net, x, names)


def other_inputs() -> tuple[JacobianFeatures, Tensor]:
    net, x = network(), draw(N, 1, 4, 4, seed=3)
    names = [name for name, _ in net.named_parameters()]
    features = JacobianFeatures(net, x + 1)
    features.apply(torch.zeros(features.num_weights, 1).double(), slice(0, 1))  # keeps the Jacobian at x + 1
    return features.at(x), dense_jacobian(net, x, names)


def some_weights() -> tuple[JacobianFeatures, Tensor]:
    net, x = network(), draw(N, 1, 4, 4, seed=3)
    names = ["out.weight", "conv.bias"]
    return JacobianFeatures(net, x, parameters=names, memory_budget=0), dense_jacobian(net, x, names)


def frozen_weights() -> tuple[JacobianFeatures, Tensor]:
    net, x = network(), draw(N, 1, 4, 4, seed=3)
    net.conv.requires_grad_(False)
    names = [name for name, p in net.named_parameters() if p.requires_grad]
    return JacobianFeatures(net, x), dense_jacobian(net, x, names)


MAKERS = [
    shared_blocks,
    plain_blocks,
    function_blocks,
    jacobian,
    kept_jacobian,
    other_inputs,
    some_weights,
    frozen_weights,
]
Maker = Callable[[], tuple[Features, Tensor]]


@pytest.mark.parametrize(
    "rows", [slice(0, N), slice(3, 7), torch.tensor([8, 1, 5])], ids=["all", "slice", "index"]
)
@pytest.mark.parametrize("make", MAKERS)
def test_products_are_those_of_the_dense_features(make: Maker, rows: slice | Tensor) -> None:
    features, full = make()
    assert isinstance(features, Features)
    assert (features.num_rows, features.num_outputs, features.num_weights) == tuple(full.shape)
    part = full[rows]
    w, v = draw(full.shape[2], 3, seed=4), draw(len(part), OUT, 3, seed=5)
    torch.testing.assert_close(features.apply(w, rows), part @ w)
    torch.testing.assert_close(features.adjoint(v, rows), torch.einsum("bod,bos->ds", part, v))


@pytest.mark.parametrize("make", MAKERS)
def test_a_model_on_any_features_is_the_model_on_their_matrix(make: Maker) -> None:
    features, full = make()
    y = draw(N, OUT, seed=6)
    model = BayesianLinearModel(prior_precision=5.0, noise_variance=0.5, num_samples=3, tolerance=1e-8)
    found, dense = model.fit(features, y, generator=0), model.fit(full, y, generator=0)
    torch.testing.assert_close(found.weights, dense.weights, rtol=1e-6, atol=1e-7)
    some = features.at(features.inputs[:3]) if isinstance(features, JacobianFeatures) else full[:3]
    variance = found.variance(some, method="solve")
    torch.testing.assert_close(variance, dense.variance(full[:3], method="solve"), rtol=1e-5, atol=1e-8)


def test_targets_of_one_output_may_be_a_vector() -> None:
    x, y = draw(N, P, seed=1), draw(N, seed=2)
    model = BayesianLinearModel(prior_precision=1.0, noise_variance=0.5, num_samples=3)
    found = model.fit(x, y, generator=0)
    torch.testing.assert_close(found.weights, model.fit(x[:, None], y[:, None], generator=0).weights)
    assert found.mean(x).shape == (N, 1)


def test_the_jacobian_stays_where_the_network_was() -> None:
    net, x = network(), draw(N, 1, 4, 4, seed=3)
    features = JacobianFeatures(net, x, memory_budget=0)
    before = (
        features.outputs(slice(0, N)),
        features.apply(torch.ones(features.num_weights, 1).double(), slice(0, N)),
    )
    with torch.no_grad():
        for tensor in [*net.parameters(), *(b for b in net.buffers() if b.is_floating_point())]:
            tensor.add_(1.0)
    after = (
        features.outputs(slice(0, N)),
        features.apply(torch.ones(features.num_weights, 1).double(), slice(0, N)),
    )
    torch.testing.assert_close(before, after, rtol=0, atol=0)


def test_the_weights_are_in_the_order_of_the_columns() -> None:
    """f is linear in its last layer, so J of that layer times its weights is f less the bias."""
    net, x = network(), draw(N, 1, 4, 4, seed=3)
    features = JacobianFeatures(net, x, parameters=["out.bias", "out.weight"])
    product = features.apply(features.weights[:, None], slice(0, N))[..., 0]
    torch.testing.assert_close(product, net(x).detach())


def test_bad_features_are_refused() -> None:
    net, x = network(), draw(N, 1, 4, 4, seed=3)
    with pytest.raises(InputError, match=r"network\.eval"):
        JacobianFeatures(network().train(), x)
    with pytest.raises(InputError, match="unknown"):
        JacobianFeatures(net, x, parameters=["head.weight"])
    with pytest.raises(ShapeError, match="must map"):
        JacobianFeatures(nn.Sequential(nn.Linear(3, 3)).eval(), torch.ones(2, 4, 3))
    with pytest.raises(ShapeError, match="inputs must be"):
        JacobianFeatures(net, x).at(x[:, 0])
    with pytest.raises(InputError, match="num_rows"):
        BlockFeatures(lambda rows: x[rows])
    with pytest.raises(DtypeError, match="floating"):
        BlockFeatures(torch.ones(3, 2, dtype=torch.long))
    with pytest.raises(ShapeError, match="must be"):
        BlockFeatures(torch.ones(3))
    with pytest.raises(ShapeError, match="outputs"):
        as_features(BlockFeatures(torch.ones(3, 2)), 2)
