"""What every map promises, what is refused and how, and how others register a kernel of their own."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import gpytorch.kernels as gk
import pytest
import torch
from torch import Tensor

from sggp.errors import DtypeError, InputError, NoRandomFeatures, ShapeError, UnsupportedKernel
from sggp.kernels import FeatureMap, TanimotoDotProduct, TanimotoMinMax, draw_features
from sggp.kernels.features import DrawFeatures

RBF = gk.ScaleKernel(gk.RBFKernel())


class Unknown(gk.Kernel):
    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        return torch.ones(len(x1)) if diag else torch.ones(len(x1), len(x2))


class ChangedRBF(gk.RBFKernel):
    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        return super().forward(x1, x2, diag=diag, **params) ** 2


class RenamedRBF(gk.RBFKernel):
    """The same covariance under another name."""


@pytest.mark.parametrize(
    "kernel",
    [
        Unknown(),
        gk.ScaleKernel(Unknown()),
        gk.RBFKernel() + Unknown(),
        gk.ScaleKernel(gk.RBFKernel() * Unknown(active_dims=[0])),
    ],
    ids=["bare", "scaled", "sum", "product"],
)
def test_an_unknown_kernel_is_named_with_what_to_do(kernel: gk.Kernel, generator: torch.Generator) -> None:
    with pytest.raises(NoRandomFeatures, match=r"Unknown.*register.*method=\"solve\""):
        draw_features(kernel, 8, input_dim=2, generator=generator)


def test_a_subclass_that_changes_the_kernel_does_not_inherit_the_rule(generator: torch.Generator) -> None:
    with pytest.raises(NoRandomFeatures, match=r"ChangedRBF.*overrides forward of RBFKernel"):
        draw_features(ChangedRBF(), 8, input_dim=2, generator=generator)
    assert draw_features(RenamedRBF(), 8, input_dim=2, generator=generator).num_features == 8


@pytest.mark.parametrize(
    ("kernel", "message"),
    [(gk.RBFKernel(batch_shape=torch.Size([2])), "batch_shape"), (gk.RBFKernelGrad(), "outputs per input")],
)
def test_batches_and_several_outputs_are_refused(
    kernel: gk.Kernel, message: str, generator: torch.Generator
) -> None:
    with pytest.raises(UnsupportedKernel, match=message):
        draw_features(kernel, 8, input_dim=2, generator=generator)


def test_bad_arguments(generator: torch.Generator) -> None:
    for bad in (0, -3, 2.5, True):
        with pytest.raises(InputError, match="num_features"):
            draw_features(RBF, bad, input_dim=2, generator=generator)
    with pytest.raises(InputError, match="input_dim"):
        draw_features(RBF, 8, input_dim=0, generator=generator)
    with pytest.raises(InputError, match="generator"):
        draw_features(RBF, 8, input_dim=2, generator=None)
    with pytest.raises(DtypeError, match="Kernel"):
        draw_features("rbf", 8, input_dim=2, generator=generator)
    with pytest.raises(ShapeError, match="active_dims"):
        draw_features(gk.RBFKernel(active_dims=[0, 4]), 8, input_dim=2, generator=generator)
    with pytest.raises(ShapeError, match="ard_num_dims=2"):
        draw_features(gk.RBFKernel(ard_num_dims=3), 8, input_dim=2, generator=generator)


def test_bad_points_and_weights(generator: torch.Generator) -> None:
    features = draw_features(RBF, 8, input_dim=2, generator=generator)
    for shape in ((3, 4), (2,), ()):
        with pytest.raises(ShapeError, match=r"\(\.\.\., n, 2\)"):
            features.phi(torch.zeros(shape))
    for bad in ([[1.0, 2.0]], torch.zeros(1, 2, dtype=torch.complex64)):
        with pytest.raises(DtypeError, match="real torch tensor"):
            features.phi(bad)
    with pytest.raises(ShapeError, match=r"\(8, s\)"):
        features.apply(torch.zeros(3, 2), torch.zeros(7, 1))
    with pytest.raises(ShapeError, match="centre"):
        features.centred(torch.zeros(3))
    with pytest.raises(DtypeError, match="floating"):
        features.to(dtype=torch.int32)


def test_an_int_seed_is_a_generator() -> None:
    x = torch.randn(3, 2)
    first = draw_features(RBF, 8, input_dim=2, generator=7).phi(x)
    assert torch.equal(
        first, draw_features(RBF, 8, input_dim=2, generator=torch.Generator().manual_seed(7)).phi(x)
    )


def test_the_map_is_frozen_and_does_not_follow_the_kernel(generator: torch.Generator) -> None:
    kernel = gk.ScaleKernel(gk.RBFKernel())
    x = torch.randn(3, 2)
    features = draw_features(kernel, 8, input_dim=2, generator=generator)
    before = features.phi(x)
    kernel.outputscale, kernel.base_kernel.lengthscale = 9.0, 0.1
    assert torch.equal(features.phi(x), before)
    assert not before.requires_grad
    with pytest.raises(dataclasses.FrozenInstanceError):
        features.scale = 2.0


@pytest.mark.parametrize("base", [gk.RBFKernel(), TanimotoMinMax(), TanimotoDotProduct(), gk.LinearKernel()])
def test_dtypes_and_shapes(base: gk.Kernel, dtype: torch.dtype, generator: torch.Generator) -> None:
    kernel = gk.ScaleKernel(base) + gk.ScaleKernel(type(base)() * gk.RBFKernel(active_dims=[1]))
    features = draw_features(kernel, 24, input_dim=3, generator=generator)
    counts = torch.randint(0, 4, (2, 5, 3), generator=generator)
    phi = features.phi(counts.to(dtype))
    assert phi.shape == (2, 5, features.num_features)
    assert phi.dtype == dtype
    assert features.phi(counts.to(torch.uint8)).dtype == torch.float32
    doubled = features.to(dtype=torch.float64)
    assert doubled.phi(counts.to(torch.uint8)).dtype == torch.float64
    assert pickle.loads(pickle.dumps(doubled)).dtype == torch.float64
    torch.testing.assert_close(doubled.phi(counts), features.phi(counts.double()))


@pytest.mark.parametrize("budget", [1, 1000, 2**30])
def test_apply_is_the_product_whatever_the_budget(budget: int, generator: torch.Generator) -> None:
    kernel = gk.ScaleKernel(gk.MaternKernel(1.5)) + gk.LinearKernel()
    features = draw_features(kernel, 22, input_dim=3, generator=generator)
    x = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(features.num_features, 4, generator=generator, dtype=torch.float64)
    out = features.apply(x, weights, memory_budget=budget)
    torch.testing.assert_close(out, features.phi(x) @ weights)
    torch.testing.assert_close(features.apply(x, weights[:, 0], memory_budget=budget), out[..., 0])
    assert features.apply(x, weights.float()).dtype == torch.float64
    (gradient,) = torch.autograd.grad(out.sum(), x)
    (expected,) = torch.autograd.grad((features.phi(x) @ weights).sum(), x)
    torch.testing.assert_close(gradient, expected)


def test_maps_without_gradients_say_so_and_detach(generator: torch.Generator) -> None:
    kernel = gk.ScaleKernel(TanimotoMinMax()) * gk.RBFKernel() + gk.MaternKernel(0.5)
    features = draw_features(kernel, 8, input_dim=2, generator=generator)
    assert not features.differentiable
    assert not features.phi(torch.ones(2, 2, requires_grad=True)).requires_grad


def test_parts_of_one_draw_use_streams_of_their_own(generator: torch.Generator) -> None:
    """Two equal terms, or factors, must not share their randomness."""
    x = torch.randn(4, 2, generator=generator)
    terms = draw_features(gk.RBFKernel() + gk.RBFKernel(), 16, input_dim=2, generator=generator).terms
    assert not torch.equal(terms[0].phi(x), terms[1].phi(x))
    product = draw_features(gk.RBFKernel() * gk.RBFKernel(), 16, input_dim=2, generator=generator)
    assert not torch.equal(product.terms[0].frequencies, product.terms[1].frequencies)


def test_a_rule_of_ones_own(generator: torch.Generator) -> None:
    draw = DrawFeatures()

    @dataclasses.dataclass(frozen=True, eq=False)
    class Ones(FeatureMap):
        input_dim: int
        dtype: torch.dtype = torch.float32
        num_features = 1

        def _evaluate(self, x: Tensor) -> Tensor:
            return torch.ones(*x.shape[:-1], 1, dtype=self._output_dtype(x))

    seen = []

    @draw.register(Unknown)
    def rule(kernel: Unknown, num_features: int, *, input_dim: int, generator: torch.Generator) -> Ones:
        seen.append((num_features, input_dim))
        return Ones(input_dim)

    x = torch.randn(3, 4, dtype=torch.float64)
    features = draw(Unknown(active_dims=[1, 3]), 5, input_dim=4, generator=generator)
    assert seen == [(5, 2)]
    assert torch.equal(features.phi(x) @ features.phi(x).T, torch.ones(3, 3, dtype=torch.float64))
    assert torch.equal(features.rescaled(4.0).phi(x), torch.full((3, 1), 2.0, dtype=torch.float64))
    with pytest.raises(NoRandomFeatures):
        draw_features(Unknown(), 5, input_dim=4, generator=generator)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "kernel", [RBF, TanimotoMinMax(), TanimotoDotProduct(), RBF * TanimotoMinMax() + RBF]
)
def test_the_same_map_on_another_device(kernel: gk.Kernel, generator: torch.Generator) -> None:
    features = draw_features(kernel, 64, input_dim=6, generator=generator)
    x = torch.poisson(torch.full((50, 6), 0.8, dtype=torch.float64), generator=generator)
    x[::3] *= 1.5
    moved = features.to("cuda").phi(x.to("cuda"))
    assert moved.is_cuda
    torch.testing.assert_close(moved.cpu(), features.phi(x))
