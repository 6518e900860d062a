"""A function at many points, from its values at nodes of boxes."""

from __future__ import annotations

import math

import gpytorch
import pytest
import torch
from torch import Tensor

from sggp import condition
from sggp.posterior.variance.interpolation import interpolate


class Wave:
    """sin of a frequency times the sum of the coordinates, beside a constant; counts its points."""

    def __init__(self, frequency: float) -> None:
        self.frequency, self.points = frequency, 0

    def at(self, points: Tensor) -> Tensor:
        return torch.sin(self.frequency * points.double().sum(-1))

    def __call__(self, points: Tensor, everywhere: int) -> Tensor:
        assert everywhere >= points.shape[0] * points.shape[1]
        self.points += points.shape[0] * points.shape[1]
        value = self.at(points)
        return torch.stack([value, torch.full_like(value, 3.0)], -1)


def uniform(q: int, d: int, generator: torch.Generator) -> Tensor:
    return torch.rand(q, d, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("d", "frequency"), [(1, 40.0), (2, 4.0), (3, 1.0)])
def test_smooth_functions_take_few_values(d: int, frequency: float, generator: torch.Generator) -> None:
    points, wave = uniform(30_000, d, generator), Wave(frequency)
    found = interpolate(points, points, wave, 1e-2)
    assert bool(found.done.all())
    assert found.evaluations == wave.points <= len(points) / 8
    wrong = found.values[:, 0] - wave.at(points)
    assert float(wrong.square().mean().sqrt()) <= 1e-2
    assert float(wrong.abs().max()) <= 3e-2
    torch.testing.assert_close(found.values[:, 1], torch.full((len(points),), 3.0, dtype=torch.float64))
    assert float(found.error.max()) <= 1e-2


def test_rough_functions_are_left_after_a_look(generator: torch.Generator) -> None:
    points, wave = uniform(30_000, 3, generator), Wave(1000.0)
    found = interpolate(points, points, wave, 1e-2)
    assert not bool(found.done.any())
    assert len(found.values) == len(found.error) == 0
    assert found.evaluations == wave.points <= len(points) / 20


@pytest.mark.parametrize("q", [1, 2, 1000])
def test_few_points_are_not_looked_at(q: int, generator: torch.Generator) -> None:
    points, wave = uniform(q, 2, generator), Wave(1.0)
    assert not bool(interpolate(points, points, wave, 1.0).done.any())
    assert wave.points == 0


def test_where_a_function_changes_quickly_boxes_are_small_or_left(generator: torch.Generator) -> None:
    points = uniform(40_000, 1, generator)
    points[:20_000] *= 1e-3

    class Edge(Wave):
        def at(self, points: Tensor) -> Tensor:
            return torch.tanh((points[..., 0] - 5e-4) * 2e3)

    edge = Edge(0.0)
    found = interpolate(points, points, edge, 1e-3)
    assert float(found.done.double().mean()) > 0.99
    assert float((found.values[:, 0] - edge.at(points[found.done])).abs().max()) < 1e-2


def test_a_jump_is_left(generator: torch.Generator) -> None:
    points = uniform(40_000, 1, generator)

    class Jump(Wave):
        def at(self, points: Tensor) -> Tensor:
            return (points[..., 0] > 0.3).double()

    jump = Jump(0.0)
    found = interpolate(points, points, jump, 1e-2)
    beside = (points[:, 0] - 0.3).abs() > 0.01
    assert bool(found.done[beside].all())
    assert not bool(found.done.all())


@pytest.mark.parametrize(
    "kind", ["one point", "a line", "a constant column", "whole numbers", "four columns"]
)
def test_points_that_do_not_fill_a_cube(kind: str, generator: torch.Generator) -> None:
    points = uniform(30_000, 3, generator)
    if kind == "one point":
        points = points[:1].expand(len(points), -1).clone()
    elif kind == "a line":
        points = points[:, :1] * torch.tensor([1.0, -0.5, 2.0]) + torch.tensor([0.0, 1.0, -7.0])
    elif kind == "a constant column":
        points[:, 1] = 1e6
    elif kind == "whole numbers":
        points[:, 2] = (3 * points[:, 2]).floor()
    else:
        points = torch.cat([points, uniform(len(points), 1, generator)], 1)
    wave = Wave(0.3)
    found = interpolate(points, points[:, :3], wave, 1e-2)
    assert bool(found.done.all()) == (kind != "four columns")
    if kind == "four columns":
        assert wave.points == 0
    else:
        assert float((found.values[:, 0] - wave.at(points)).square().mean().sqrt()) <= 1e-2


@pytest.mark.parametrize("name", ["rbf", "matern52"])
def test_variances_of_many_points(
    name: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those one by one to a part of their standard error, and the means are what they were."""
    base = gpytorch.kernels.RBFKernel() if name == "rbf" else gpytorch.kernels.MaternKernel(nu=2.5)
    kernel = gpytorch.kernels.ScaleKernel(base).double()
    kernel.outputscale, base.lengthscale = 2.0, 0.4
    x, queries = uniform(200, 2, generator), uniform(6_000, 2, generator)
    y = torch.sin(5 * x.sum(1)) + 0.1 * torch.randn(200, generator=generator, dtype=torch.float64)
    posterior = condition(kernel, x, y, noise_variance=0.05, num_samples=64, generator=0)
    done: list[float] = []

    def watched(*arguments: object) -> object:
        found = interpolate(*arguments)  # type: ignore[arg-type]
        done.append(float(found.done.double().mean()))
        return found

    monkeypatch.setattr("sggp.posterior.variance.sampled.interpolate", watched)
    mean, variance = posterior.mean_and_variance(queries, method="samples")
    assert done[0] > 0.8
    few = queries[:2000]
    singly = posterior.variance(few, method="samples")
    assert len(done) == 1  # so few are not looked at
    torch.testing.assert_close(mean[:2000], posterior.mean(few))
    plain = math.sqrt(2 / 64)
    wrong = (variance[:2000] / singly).log()
    assert float(wrong.square().mean().sqrt()) <= plain / 4
    error = posterior.variance_error(queries)
    assert bool((error > 0).all())
    assert float((error / variance).max()) <= 1.1 * plain
    assert torch.equal(posterior.variance(queries, method="samples"), variance)
