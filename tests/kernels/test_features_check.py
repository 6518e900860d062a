"""`check_features` must find what is wrong with maps that are broken on purpose."""

from __future__ import annotations

import dataclasses
from typing import Any

import gpytorch.kernels as gk
import pytest
import torch
from torch import Tensor

from sggp.errors import DtypeError, InputError, ShapeError
from sggp.kernels import FeatureMap, TanimotoMinMax, draw_features
from sggp.kernels.features import MinHashMap
from sggp.testing.features import check_features


@pytest.fixture
def kernel() -> gk.Kernel:
    kernel = gk.ScaleKernel(gk.MaternKernel(1.5))
    kernel.outputscale = 1.8
    return kernel


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return torch.randn(4, 2, generator=generator, dtype=torch.float64)


class _Wrapped(FeatureMap):
    def __init__(self, base: FeatureMap) -> None:
        self.base, self.input_dim, self.dtype = base, base.input_dim, base.dtype

    @property
    def num_features(self) -> int:
        return self.base.num_features

    def _evaluate(self, x: Tensor) -> Tensor:
        return self.base.phi(x)


class BatchDependent(_Wrapped):
    """Fault: a row alone gets other features than the same row in company."""

    def _evaluate(self, x: Tensor) -> Tensor:
        return self.base.phi(x) * (1.1 if len(x) == 1 else 1.0)


class SinglePrecision(_Wrapped):
    """Fault: everything comes out in float32."""

    def _evaluate(self, x: Tensor) -> Tensor:
        return self.base.phi(x).float()


class Detached(_Wrapped):
    """Fault: says it is differentiable, and is not."""

    def _evaluate(self, x: Tensor) -> Tensor:
        return self.base.phi(x).detach()


class Alive(_Wrapped):
    """Fault: reads the kernel's length scale at every call."""

    def __init__(self, base: FeatureMap, kernel: gk.ScaleKernel) -> None:
        super().__init__(base)
        self.kernel = kernel

    def _evaluate(self, x: Tensor) -> Tensor:
        return self.base.phi(x / self.kernel.base_kernel.lengthscale.detach().to(x.dtype))


def test_a_correct_map_has_no_violations(kernel: gk.Kernel, x: Tensor, generator: torch.Generator) -> None:
    assert check_features(kernel, x, generator=generator) == []


def test_a_forgotten_scale_is_one_violation(kernel: gk.Kernel, x: Tensor, generator: torch.Generator) -> None:
    def unscaled(kernel: gk.ScaleKernel, *args: Any, **kwargs: Any) -> FeatureMap:
        return draw_features(kernel.base_kernel, *args, **kwargs)

    (found,) = check_features(kernel, x, generator=generator, draw=unscaled)
    assert "biased" in found
    assert "1.8" in found


def test_an_ignored_generator_is_found(kernel: gk.Kernel, x: Tensor, generator: torch.Generator) -> None:
    def seeded(*args: Any, **kwargs: Any) -> FeatureMap:
        return draw_features(*args, **(kwargs | {"generator": 0}))

    found = check_features(kernel, x, generator=generator, draw=seeded)
    assert any("generator is not used" in violation for violation in found)


def test_dependence_on_batch_mates_is_found(kernel: gk.Kernel, x: Tensor, generator: torch.Generator) -> None:
    def broken(*args: Any, **kwargs: Any) -> FeatureMap:
        return BatchDependent(draw_features(*args, **kwargs))

    found = check_features(kernel, x, generator=generator, draw=broken)
    assert any("depend on the other rows" in violation for violation in found)
    assert not any("biased" in violation for violation in found)


def test_lost_precision_is_found(kernel: gk.Kernel, x: Tensor, generator: torch.Generator) -> None:
    def broken(*args: Any, **kwargs: Any) -> FeatureMap:
        return SinglePrecision(draw_features(*args, **kwargs))

    assert check_features(kernel, x, generator=generator, draw=broken) == [
        "phi of torch.float64 points is torch.float32"
    ]


def test_a_false_claim_of_gradients_is_found(
    kernel: gk.Kernel, x: Tensor, generator: torch.Generator
) -> None:
    def broken(*args: Any, **kwargs: Any) -> FeatureMap:
        return Detached(draw_features(*args, **kwargs))

    (found,) = check_features(kernel, x, generator=generator, draw=broken)
    assert "carries no gradient" in found


def test_a_wrong_exact_diagonal_is_found(generator: torch.Generator) -> None:
    """Where all maps agree there is no standard error to hide behind."""

    def halved(*args: Any, **kwargs: Any) -> FeatureMap:
        features = draw_features(*args, **kwargs)
        return (
            dataclasses.replace(features, scale=features.scale / 2)
            if isinstance(features, MinHashMap)
            else features
        )

    counts = torch.tensor([[0, 0, 0], [1, 3, 0], [2, 1, 1]], dtype=torch.float64)
    (found,) = check_features(TanimotoMinMax(), counts, generator=generator, draw=halved)
    assert "the kernel is 1" in found


def test_a_map_that_follows_the_kernel_is_found(kernel: gk.Kernel, x: Tensor) -> None:
    def alive(kernel: gk.ScaleKernel, *args: Any, **kwargs: Any) -> FeatureMap:
        unit = draw_features(gk.ScaleKernel(gk.MaternKernel(1.5)).double(), *args, **kwargs)
        return Alive(unit, kernel)

    found = check_features(kernel, x, generator=0, draw=alive)
    assert any("changes with the parameters" in violation for violation in found)


def test_a_rule_that_seeds_the_global_generator_is_found(kernel: gk.Kernel, x: Tensor) -> None:
    def seeding(*args: Any, **kwargs: Any) -> FeatureMap:
        torch.manual_seed(3)
        return draw_features(*args, **kwargs)

    torch.manual_seed(12345)
    (found,) = check_features(kernel, x, generator=0, draw=seeding)
    assert "global random numbers" in found


def test_a_rule_that_draws_no_map_is_found(kernel: gk.Kernel, x: Tensor) -> None:
    (found,) = check_features(kernel, x, generator=0, draw=lambda *_, **__: None)
    assert "NoneType" in found


def test_arguments_that_cannot_be_used_are_refused(kernel: gk.Kernel, x: Tensor) -> None:
    for points in (x[:0], x[:, 0], x.numpy()):
        with pytest.raises(ShapeError, match="x must be"):
            check_features(kernel, points, generator=0)
    with pytest.raises(DtypeError, match="kernel must be"):
        check_features(None, x, generator=0)
    with pytest.raises(InputError, match="num_maps"):
        check_features(kernel, x, generator=0, num_maps=1)
