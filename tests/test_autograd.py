"""Models made or asked in `torch.no_grad`, `torch.inference_mode` or `torch.autocast` are those made outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gpytorch.kernels as gk
import pytest
import torch
from torch import Tensor

from sggp import condition
from sggp.hyperparameters import learn_hyperparameters
from sggp.kernels import kernel_gradient

MODES = pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])


def data() -> tuple[Tensor, Tensor]:
    x = torch.rand(12, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, torch.sin(6 * x[:, 0])


def kernel() -> gk.Kernel:
    return (gk.ScaleKernel(gk.MaternKernel(nu=2.5)) + gk.PeriodicKernel()).double()


def slopes(*functions: Callable[[Tensor], Tensor]) -> Tensor:
    points = torch.linspace(0, 1, 4, dtype=torch.float64)[:, None].requires_grad_()
    return torch.autograd.grad(sum(f(points).sum() for f in functions), points)[0]


@MODES
@pytest.mark.parametrize("inside", ["made", "asked"])
def test_slopes_of_a_posterior(mode: Any, inside: str) -> None:
    x, y = data()

    def make() -> Any:
        return condition(
            kernel(), x.clone(), y.clone(), noise_variance=0.01, num_samples=4, num_features=32, generator=0
        )

    def ask(found: Any) -> tuple[Callable[[Tensor], Tensor], ...]:
        return found.mean, found.variance, found.samples, lambda p: found.variance(p, method="samples")

    with mode():
        found = make() if inside == "made" else None
    found = found or make()
    with mode():
        for function in ask(found):
            function(x)
    torch.testing.assert_close(slopes(*ask(found)), slopes(*ask(make())), rtol=1e-9, atol=1e-9)


@MODES
def test_learning(mode: Any) -> None:
    x, y = data()
    with mode():
        found = learn_hyperparameters(gk.ScaleKernel(gk.MaternKernel(nu=1.5)).double(), x, y)
        part = kernel_gradient(kernel(), x, y[:, None], y[:, None])
    expected = learn_hyperparameters(gk.ScaleKernel(gk.MaternKernel(nu=1.5)).double(), x, y)
    assert found.noise_variance == pytest.approx(expected.noise_variance, rel=1e-9)
    for name, value in kernel_gradient(kernel(), x, y[:, None], y[:, None]).items():
        torch.testing.assert_close(part[name], value)


@MODES
def test_a_botorch_model(mode: Any) -> None:
    pytest.importorskip("botorch", reason="the BoTorch face needs the extra botorch")
    from sggp.botorch import PathwiseGPModel

    x, y = data()

    def model() -> Any:
        return PathwiseGPModel(x.clone(), y[:, None].clone(), generator=0, num_samples=4, num_features=32)

    with mode():
        found = model()
        found.posterior(x).rsample(torch.Size([6]))
    each = [
        slopes(*(lambda p, m=m, k=k: getattr(m.posterior(p), k) for k in ("mean", "variance")))
        for m in (found, model())
    ]
    torch.testing.assert_close(*each, rtol=1e-7, atol=1e-9)
    paths = slopes(lambda p: found.posterior(p).rsample(torch.Size([6])))
    assert paths.isfinite().all()


@pytest.mark.parametrize("inside", ["made", "asked"])
def test_autocast_rounds_nothing(inside: str) -> None:
    x, y = data()

    def make() -> Any:
        return condition(
            kernel(),
            x,
            y,
            noise_variance=0.01,
            num_samples=4,
            num_features=32,
            generator=0,
            dtype=torch.float32,
        )

    def answers(found: Any) -> list[Tensor]:
        points = x[:5].float().requires_grad_()
        values = [found.mean(points), found.samples(points), found.variance(points, method="samples")]
        return [*values, torch.autograd.grad(values[0].sum(), points)[0]]

    expected = answers(make())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = make() if inside == "made" else None
    found = found or make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = answers(found)
    for value, right in zip(given, expected, strict=True):
        torch.testing.assert_close(value, right, rtol=1e-5, atol=1e-5)
