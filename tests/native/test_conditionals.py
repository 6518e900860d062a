"""Fused conditionals against joint densities under autograd, on every instruction set."""

from __future__ import annotations

import math

import pytest
import torch

from sggp.errors import DtypeError, InputError, ShapeError, UnsupportedKernel
from sggp.native import conditionals, library
from sggp.native.families import Profile

if not library.available():
    pytest.skip("the C++ engine is not built", allow_module_level=True)

FAMILIES = ("rbf", "matern12", "matern32", "matern52")
SHAPES = [
    (1, 1, 1),
    (2, 1, 1),
    (3, 2, 2),
    (8, 5, 1),
    (9, 40, 3),
    (5, 2, 40),
    (16, 3, 2),
    (31, 26, 1),
    (33, 9, 1),
    (65, 4, 3),
]


def correlation(family: str, square: torch.Tensor) -> torch.Tensor:
    if family == "rbf":
        return torch.exp(-square / 2)
    apart = square > 0
    r = torch.where(apart, square, 1.0).sqrt() * apart  # no infinite slope where rows coincide
    if family == "matern12":
        return torch.exp(-r)
    if family == "matern32":
        return (1 + math.sqrt(3) * r) * torch.exp(-math.sqrt(3) * r)
    return (1 + math.sqrt(5) * r + 5 * r.square() / 3) * torch.exp(-math.sqrt(5) * r)


def log_density(covariance: torch.Tensor, residuals: torch.Tensor) -> torch.Tensor:
    if not len(residuals):
        return covariance.new_zeros(())
    factor = torch.linalg.cholesky(covariance)
    whitened = torch.linalg.solve_triangular(factor, residuals, upper=False)
    logs = factor.diagonal().log().sum() + 0.5 * len(residuals) * math.log(2 * math.pi)
    return -0.5 * whitened.square().sum() - residuals.shape[1] * logs


def term(problem: dict, family: str, i: int) -> torch.Tensor:
    """log p(y_i, y_N) − log p(y_N)."""
    index, noise = problem["index"][i], problem["noise"]
    here = index >= 0
    z = problem["x"][index[here]] / problem["lengthscale"]
    square = (z[:, None] - z[None]).square().sum(-1)
    own = noise.expand(len(z)) if noise.dim() == 0 else noise[i, here]
    covariance = problem["scale"] * correlation(family, square) + torch.diag(own)
    residuals = problem["residuals"][i, here]
    return log_density(covariance, residuals) - log_density(covariance[:-1, :-1], residuals[:-1])


def make(generator: torch.Generator, k: int, d: int, t: int, *, shared: bool, rows: int = 6) -> dict:
    """Rows with missing neighbours, with none, and with members that are equal or differ in one coordinate."""
    n = 90
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) + 3.0
    x[1] = x[0]
    x[2, 1:] = x[0, 1:]
    index = torch.stack([torch.randperm(n - 3, generator=generator)[:k] + 3 for _ in range(rows)])
    if k > 3:
        index[1, 1 : k // 2] = -1
        index[2, :3] = torch.arange(3)
        index[3, k - 3 :] = torch.arange(3)
        index[4, 0] = index[4, -1]
    index[-1, :-1] = -1
    noise = torch.rand((rows, k), generator=generator, dtype=torch.float64) + 0.1
    return {
        "x": x,
        "lengthscale": (0.5 + torch.rand(d, generator=generator, dtype=torch.float64)) * math.sqrt(d),
        "scale": torch.tensor(1.7, dtype=torch.float64),
        "index": index,
        "residuals": torch.randn(rows, k, t, generator=generator, dtype=torch.float64),
        "noise": torch.tensor(0.3, dtype=torch.float64) if shared else noise,
    }


def call(problem: dict, family: str, **options) -> conditionals.Terms:
    return conditionals.log_conditionals(
        problem["x"],
        problem["lengthscale"],
        Profile(family, float(problem["scale"].detach()), 1.0 if family == "rq" else None),
        conditionals.Rows(problem["index"], problem["residuals"], problem["noise"]),
        **options,
    )


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    """Of one shape, and apart by no more than that share of the entry or of the largest one, together."""
    bound = tolerance * (expected.abs() + expected.abs().max())
    return found.shape == expected.shape and bool(((found - expected).abs() <= bound).all())


@pytest.mark.parametrize("isa", library.instruction_sets())
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per-point"])
@pytest.mark.parametrize(("k", "d", "t"), SHAPES)
def test_values_and_gradients_are_those_of_joint_densities(isa, family, shared, k, d, t, generator):
    problem = make(generator, k, d, t, shared=shared)
    learnt = [problem[name].requires_grad_() for name in ("lengthscale", "scale", "noise", "residuals")]
    found = call(problem, family, isa=isa)
    for i in range(len(problem["index"])):
        value = term(problem, family, i)
        gradient = torch.autograd.grad(value, learnt, allow_unused=True, materialize_grads=True)
        assert close(found.value[i], value.detach(), 1e-10)
        assert close(found.lengthscale[i], gradient[0], 1e-8)
        assert close(found.scale[i], gradient[1], 1e-8)
        assert close(found.noise[i], gradient[2] if shared else gradient[2][i], 1e-8)
        assert close(found.residuals[i], gradient[3][i], 1e-8)


@pytest.mark.parametrize("family", FAMILIES)
def test_threads_and_what_is_wanted_change_no_bit(family, generator):
    problem = make(generator, 31, 7, 2, shared=False, rows=100)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(call(problem, family))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    for name in conditionals.Terms._fields:
        wanted = tuple(field == name for field in conditionals.Terms._fields[1:])
        alone = call(problem, family, wanted=wanted)
        assert torch.equal(alone.value, results[0].value)
        for field in conditionals.Terms._fields[1:]:
            part = getattr(alone, field)
            assert (part is not None) == (field == name)
            assert part is None or torch.equal(part, getattr(results[0], field))


@pytest.mark.parametrize("isa", library.instruction_sets())
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_far_from_the_origin_lose_nothing(isa, family, generator):
    """Coordinates in steps of 2^-20, so that moving all rows by 2^20 is exact."""
    problem = make(generator, 12, 3, 1, shared=True)
    problem["x"] = (problem["x"] * 2**20).round() / 2**20
    here = call(problem, family, isa=isa)
    there = call({**problem, "x": problem["x"] + 2**20}, family, isa=isa)
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_rows_without_noise_get_a_jitter_not_a_failure(family):
    problem = make(torch.Generator().manual_seed(0), 4, 2, 1, shared=True)
    problem["x"] = torch.zeros_like(problem["x"])
    problem["noise"] = torch.zeros((), dtype=torch.float64)
    found = call(problem, family)
    assert all(bool(part.isfinite().all()) for part in found)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_neighbour_tells_exactly_keeps_a_variance(family, generator):
    """A row and its only neighbour are one point without noise: 1e-14 of the scale is left."""
    problem = make(generator, 2, 3, 1, shared=True)
    problem["index"] = torch.tensor([[0, 1]])
    problem["residuals"] = torch.full((1, 2, 1), 0.7, dtype=torch.float64)
    problem["noise"] = torch.zeros((), dtype=torch.float64)
    found = call(problem, family)
    assert float(found.value) == pytest.approx(-0.5 * math.log(2 * math.pi * 1e-14 * float(problem["scale"])))
    assert all(bool(part.isfinite().all()) for part in found)


def test_what_has_no_factor_is_not_a_number_and_harms_no_other_row(generator):
    problem = make(generator, 6, 2, 1, shared=False)
    good = call(problem, "matern32")
    problem["noise"][0, 2] = math.nan
    found = call(problem, "matern32")
    for before, after in zip(good, found, strict=True):
        assert bool(after[0].isnan().all())
        assert torch.equal(before[1:], after[1:])


def test_arguments_that_cannot_be_used_are_typed_errors(generator):
    problem = make(generator, 4, 2, 1, shared=True)
    with pytest.raises(UnsupportedKernel, match="family"):
        call(problem, "rq")
    with pytest.raises(DtypeError, match="float64"):
        call({**problem, "x": problem["x"].float()}, "rbf")
    with pytest.raises(ShapeError, match="lengthscale"):
        call({**problem, "lengthscale": problem["lengthscale"][:1]}, "rbf")
    with pytest.raises(ShapeError, match="residuals"):
        call({**problem, "residuals": problem["residuals"][:, 1:]}, "rbf")
    with pytest.raises(ShapeError, match="members"):
        call({**problem, "index": problem["index"][:, :0], "residuals": problem["residuals"][:, :0]}, "rbf")
    for bad in (len(problem["x"]), -1):
        index = problem["index"].clone()
        index[1, -1] = bad
        with pytest.raises(InputError, match="index must hold"):
            call({**problem, "index": index}, "rbf")
    empty = {**problem, "index": problem["index"][:0], "residuals": problem["residuals"][:0]}
    assert call(empty, "rbf").value.shape == (0,)
