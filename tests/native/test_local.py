"""Small Gram matrices and local posteriors against dense algebra, on every instruction set."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sggp.errors import DtypeError, InputError, ShapeError
from sggp.native import library, local
from sggp.native.families import Profile

if not library.available():
    pytest.skip("the C++ engine is not built", allow_module_level=True)

ISAS = library.instruction_sets()
ALPHA = 0.7


def correlation(family: str, r: Tensor) -> Tensor:
    a = {"matern32": math.sqrt(3), "matern52": math.sqrt(5)}.get(family, 1.0) * r
    return {
        "rbf": lambda: torch.exp(-(r**2) / 2),
        "matern12": lambda: torch.exp(-a),
        "matern32": lambda: (1 + a) * torch.exp(-a),
        "matern52": lambda: (1 + a + a**2 / 3) * torch.exp(-a),
        "rq": lambda: (1 + r**2 / (2 * ALPHA)) ** -ALPHA,
    }[family]()


def profile(family: str, scale: float = 1.7) -> Profile:
    return Profile(family, scale=scale, alpha=ALPHA) if family == "rq" else Profile(family, scale=scale)


def gram(x: Tensor, weights: Tensor, family: str = "matern32", scale: float = 1.7) -> Tensor:
    return scale * correlation(family, ((x[:, :, None] - x[:, None]) * weights).norm(dim=-1))


def float64(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("family", ["rbf", "matern12", "matern32", "matern52", "rq"])
@pytest.mark.parametrize("shape", [(3, 1, 1), (2, 3, 2), (5, 8, 4), (17, 9, 3), (2, 65, 8), (2, 30, 40)])
def test_small_grams(isa, family, shape, generator):
    x, weights = (
        float64(*shape, generator=generator),
        torch.rand(shape[2], generator=generator).double() + 0.2,
    )
    x[0, -1] = x[0, 0]  # an exact repeat
    found = local.small_stationary(x, weights, profile(family), isa=isa)
    torch.testing.assert_close(found, gram(x, weights, family), rtol=0, atol=1.7e-14)
    assert torch.equal(found, found.transpose(1, 2))
    assert bool((found.diagonal(dim1=1, dim2=2) == 1.7).all())


def test_small_grams_far_from_the_origin(generator):
    """Rows a millionth apart at 1e6: only their differences count, and these are exact."""
    near = torch.randint(-4, 5, (4, 12, 3), generator=generator).double() * 2.0**-20
    weights = torch.full((3,), 2.0**20, dtype=torch.float64)
    found = local.small_stationary(near + 2.0**20, weights, profile("matern12"))
    torch.testing.assert_close(found, gram(near, weights, "matern12"), rtol=0, atol=1.7e-14)


def problem(generator: torch.Generator, queries: int, width: int, targets: int) -> tuple[Tensor, ...]:
    """Blocks, index, noise, targets and prior; the rows of a query among 90."""
    x = float64(90, 3, generator=generator)
    index = torch.stack([torch.randperm(90, generator=generator)[:width] for _ in range(queries)])
    own = torch.cat([x[index], float64(queries, 1, 3, generator=generator)], 1)
    noise = torch.rand(90, generator=generator, dtype=torch.float64) * 0.1 + 0.01
    z, prior = float64(90, targets, generator=generator), float64(queries, targets, generator=generator)
    return gram(own, torch.ones(3, dtype=torch.float64)), index, noise, z, prior


def dense(blocks: Tensor, index: Tensor, noise: Tensor, z: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    cross = blocks[:, :-1, -1]
    weights = torch.linalg.solve(blocks[:, :-1, :-1] + torch.diag_embed(noise[index]), cross)
    return blocks[:, -1, -1] - (weights * cross).sum(1), prior - torch.einsum("qm,qms->qs", weights, z[index])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("width", [1, 2, 7, 8, 9, 16, 31, 64, 65])
@pytest.mark.parametrize("targets", [0, 1, 8, 13, 40])
def test_local_posteriors(isa, width, targets, generator):
    given = problem(generator, 19, width, targets)
    variance, deviations = local.local_posteriors(*given, isa=isa)
    expected = dense(*given)
    # condition numbers are below 65 · 1.7/0.01, so that backward stable solves agree to 1e-10
    torch.testing.assert_close(variance, expected[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(deviations, expected[1], rtol=0, atol=1e-10)


def test_the_prior_is_left_as_it_was_and_may_be_float32(generator):
    *given, prior = problem(generator, 5, 6, 3)
    kept = prior.clone()
    variance, deviations = local.local_posteriors(*given, prior)
    assert torch.equal(prior, kept)
    single, other = local.local_posteriors(*given, prior.float())
    assert torch.equal(single, variance)
    torch.testing.assert_close(other, deviations + (prior.float().double() - prior), rtol=0, atol=1e-14)


def test_repeats_without_noise_take_the_jitter_of_linalg(generator):
    """A block of rank one has a factor with 1e-12 of its diagonal: the variance at the row itself is of that order."""
    blocks = torch.full((1, 5, 5), 2.0, dtype=torch.float64)
    zero, z = torch.zeros(4, dtype=torch.float64), torch.ones(4, 1, dtype=torch.float64)
    variance, deviations = local.local_posteriors(blocks, torch.arange(4)[None], zero, z, torch.ones(1, 1))
    assert 0 <= float(variance) < 1e-10
    assert abs(float(deviations)) < 1e-3  # rounding over jitter, 1e-16/1e-12


@pytest.mark.parametrize("harm", ["indefinite", "nan"])
def test_without_a_factor_the_prior_is_left(harm, generator):
    blocks, *given, prior = problem(generator, 3, 12, 4)
    right = local.local_posteriors(blocks, *given, prior)
    blocks[1, :-1, :-1] = torch.nan if harm == "nan" else blocks[1, :-1, :-1] - 3
    variance, deviations = local.local_posteriors(blocks, *given, prior)
    assert float(variance[1]) == 1.7
    assert torch.equal(deviations[1], prior[1])
    assert torch.equal(variance[[0, 2]], right[0][[0, 2]])
    assert torch.equal(deviations[[0, 2]], right[1][[0, 2]])


def test_variances_are_never_negative(generator):
    blocks, *rest = problem(generator, 4, 5, 1)
    blocks[2, -1, -1] = 1e-3
    variance, _ = local.local_posteriors(blocks, *rest)
    assert float(variance[2]) == 0


def test_what_does_not_fit_is_refused(generator):
    blocks, index, noise, z, prior = problem(generator, 4, 5, 2)
    for wrong in (index + 90, index - 90):
        with pytest.raises(InputError, match="0 to 89"):
            local.local_posteriors(blocks, wrong, noise, z, prior)
    with pytest.raises(ShapeError, match=r"\(4, 5, 6\)"):
        local.local_posteriors(blocks[:, :5], index, noise, z, prior)
    with pytest.raises(DtypeError, match="float32"):
        local.local_posteriors(blocks.float(), index, noise, z, prior)
    with pytest.raises(ShapeError, match=r"\(2,\)"):
        local.small_stationary(float64(2, 3, 4, generator=generator), noise[:2], profile("rbf"))
    with pytest.raises(DtypeError, match="float32"):
        local.small_stationary(torch.ones(2, 3, 4), torch.ones(4, dtype=torch.float64), profile("rbf"))
