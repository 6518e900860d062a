"""Fused conditionals as fits use them, against the torch route that they replace."""

from __future__ import annotations

from dataclasses import replace

import gpytorch
import pytest
import torch
from gpytorch.kernels import MaternKernel, RBFKernel, RQKernel, ScaleKernel

from sggp.hyperparameters import fit_nearest_neighbour
from sggp.hyperparameters.coordinates import Coordinates, copy_kernel
from sggp.hyperparameters.merged import MergedData
from sggp.hyperparameters.nearest_neighbour.fit import _Problem
from sggp.hyperparameters.nearest_neighbour.fused import fused_conditionals
from sggp.hyperparameters.nearest_neighbour.neighbourhoods import Neighbourhoods
from sggp.native import conditionals, engines, library

D = 4

needs_engine = pytest.mark.skipif(not library.available(), reason="the C++ engine is not built")


def frozen(kernel):
    kernel.raw_lengthscale.requires_grad_(False)
    return ScaleKernel(kernel)


KERNELS = {
    "rbf": lambda: ScaleKernel(RBFKernel(ard_num_dims=D)),
    "matern12": lambda: ScaleKernel(MaternKernel(nu=0.5, ard_num_dims=D)),
    "matern32": lambda: ScaleKernel(MaternKernel(nu=1.5, ard_num_dims=D)),
    "matern52": lambda: ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=D)),
    "no scale": lambda: MaternKernel(nu=1.5, ard_num_dims=D),
    "one length scale": lambda: ScaleKernel(RBFKernel()),
    "two scales": lambda: ScaleKernel(ScaleKernel(MaternKernel(nu=2.5))),
    "fixed length scale": lambda: frozen(MaternKernel(nu=1.5)),
}
CASES = ("shared noise", "known noise", "per-point noise", "known mean", "two targets", "merged")


def data(generator, n=120):
    x = torch.randn(n, D, generator=generator, dtype=torch.float64)
    y = torch.stack([torch.sin(2 * x[:, 0]), x[:, 1] * x[:, 2]], dim=1)
    return x, y + 0.1 * torch.randn(y.shape, generator=generator, dtype=torch.float64)


def problem_of(kernel, case, generator, count=11):
    x, y = data(generator)
    y = y if case in ("two targets", "merged") else y[:, :1]
    kernel, merged, noise = copy_kernel(kernel), None, None
    if case == "merged":
        x, y = torch.cat([x, x[:30]]), torch.cat([y, y[:30] + 0.1])
        merged = MergedData(x, y)
        x, y = merged.rows, merged.means(y, torch.ones_like(y[:, 0]))
    if case == "per-point noise":
        noise = torch.rand(len(x), generator=generator, dtype=torch.float64) + 0.05
    if case == "known noise":
        noise = torch.tensor(0.2, dtype=torch.float64)
    coordinates = Coordinates(
        kernel,
        initial_noise=None if noise is not None else 0.1,
        initial_mean=None if case == "known mean" else torch.full((y.shape[1],), 0.2),
    )
    mean = torch.full((y.shape[1],), 0.3, dtype=torch.float64) if case == "known mean" else None
    problem = _Problem(coordinates, Neighbourhoods(kernel, x, count), y, noise, mean, merged)
    problem.neighbourhoods.open(torch.arange(len(x)))
    return problem


@needs_engine
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_steps_are_those_of_the_torch_route(kernel, case, generator, monkeypatch):
    calls = []
    original = conditionals.log_conditionals
    spied = replace(
        engines.CPP, log_conditionals=lambda *a, **k: calls.append(k["wanted"]) or original(*a, **k)
    )
    monkeypatch.setattr(engines, "CPP", spied)
    problem = problem_of(KERNELS[kernel](), case, generator)
    u, rows = problem.coordinates.vector() + 0.1, torch.arange(0, 120, 2)
    value, gradient = problem.step(u, rows)
    with torch.no_grad():
        terms = problem.terms(rows)
    assert len(calls) == 2
    assert calls[0][0] == (kernel != "fixed length scale")
    assert calls[0][2:] == (problem.noise is None, problem.mean is None)
    assert calls[1] == (False,) * 4  # nothing is differentiated that nobody asks for
    monkeypatch.setattr(problem.neighbourhoods, "_fused", None)
    expected, slope = problem.step(u, rows)
    assert value == pytest.approx(expected, rel=1e-10)
    torch.testing.assert_close(gradient, slope, rtol=1e-8, atol=1e-8 * float(slope.abs().max()))
    with torch.no_grad():
        torch.testing.assert_close(terms, problem.terms(rows), rtol=1e-10, atol=1e-10)
    assert len(calls) == 2


@needs_engine
def test_a_fit_ends_where_that_of_the_torch_route_ends(generator, monkeypatch):
    x, y = data(generator, 400)
    options = {"generator": 3, "max_steps": 40, "batch_size": 128, "neighbours": 12}
    found = fit_nearest_neighbour(KERNELS["matern32"](), x, y, **options)
    monkeypatch.setattr(library, "available", lambda: False)
    expected = fit_nearest_neighbour(KERNELS["matern32"](), x, y, **options)
    assert found.log_marginal_likelihood == pytest.approx(expected.log_marginal_likelihood, rel=1e-8)
    assert found.noise_variance == pytest.approx(expected.noise_variance, rel=1e-7)
    lengthscales = (fit.kernel.base_kernel.lengthscale for fit in (found, expected))
    torch.testing.assert_close(*lengthscales, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "kernel",
    [
        ScaleKernel(RQKernel()),
        ScaleKernel(gpytorch.kernels.PeriodicKernel()),
        ScaleKernel(RBFKernel(active_dims=[0, 1])),
        ScaleKernel(RBFKernel()) + ScaleKernel(MaternKernel(nu=0.5)),
    ],
)
def test_other_kernels_take_the_torch_route(kernel, generator):
    x, _ = data(generator)
    assert fused_conditionals(kernel.double(), x) is None
    problem = problem_of(kernel, "shared noise", generator)
    assert bool(problem.terms(torch.arange(50)).isfinite().all())


def test_what_the_engine_cannot_take_goes_the_torch_route(generator, monkeypatch):
    x, _ = data(generator)
    kernel = KERNELS["rbf"]().double()
    assert fused_conditionals(kernel, x.float()) is None
    assert fused_conditionals(kernel.float(), x) is None
    assert fused_conditionals(kernel.double(), x.to("meta")) is None
    monkeypatch.setattr(library, "available", lambda: False)
    assert fused_conditionals(kernel, x) is None
