"""The torch engine by itself: profiles, distances, tiles, thermometer codes, the bilinear gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sggp.errors import InputError, MemoryBudgetError
from sggp.native import engine, reference
from sggp.native.engines import TORCH
from sggp.native.reference import Profile, Source
from sggp.native.thermometer import intersections, tanimoto_block, tanimoto_matmul
from sggp.native.tiling import tile_shape, tiles
from tests import oracles

PROFILES = [
    (Profile("rbf", 1.7), oracles.rbf),
    (Profile("matern12", 0.6), oracles.matern12),
    (Profile("matern32", 2.1), oracles.matern32),
    (Profile("matern52", 1.2), oracles.matern52),
    (Profile("rq", 0.9, 0.3), lambda r: oracles.rational_quadratic(r, 0.3)),
    (Profile("rq", 1.1, 40.0), lambda r: oracles.rational_quadratic(r, 40.0)),
]
every_profile = pytest.mark.parametrize(
    ("profile", "formula"), PROFILES, ids=lambda p: getattr(p, "family", None)
)


@every_profile
def test_values_over_forty_orders_of_magnitude(profile, formula, dtype):
    r = np.concatenate([[0.0], np.logspace(-20, 18, 400)])
    a, b = torch.zeros(1, 1, dtype=torch.float64), torch.tensor(r)[:, None]
    exact = np.asarray(profile.scale * formula(r.astype(np.longdouble)), dtype=np.float64)
    block = reference.stationary_block(a, b, profile, dtype=dtype)[0]
    assert block.dtype == dtype
    assert torch.isfinite(block).all()
    limit = 5e-7 if dtype == torch.float32 else 1e-14
    assert np.abs(block.double().numpy() - exact).max() <= limit * profile.scale


@every_profile
@pytest.mark.parametrize(("d", "offset"), [(1, 0), (4, 3e3), (5, 0), (40, 3e3), (300, 1e3)])
def test_entries_of_random_duplicate_and_nearly_duplicate_points(
    profile, formula, d, offset, dtype, generator
):
    a = torch.randn(19, d, dtype=torch.float64, generator=generator) * 3 / d**0.5 + offset
    nudge = torch.randn(3, 19, d, dtype=torch.float64, generator=generator)
    scales = torch.tensor([1e-12, 1e-6, 1e-2], dtype=torch.float64)[:, None, None]
    b = torch.cat([a, (a + scales * nudge).reshape(-1, d)])
    block = reference.stationary_block(a, b, profile, dtype=dtype)
    exact = profile.scale * formula(oracles.distances(a.numpy(), b.numpy(), np.ones(1)))
    limit = 5e-7 if dtype == torch.float32 else 1e-13
    assert np.abs(block.double().numpy() - exact).max() <= limit * profile.scale


def test_source_recovers_what_rounding_the_points_lost(generator):
    x = torch.randn(30, 7, dtype=torch.float64, generator=generator) + 1e7
    weights = torch.full((7,), 1 / 0.3, dtype=torch.float64)
    a = x * weights
    exact = oracles.matern12(oracles.distances(x.numpy(), x.numpy(), np.full(1, 0.3)))
    profile = Profile("matern12")
    with_source = reference.stationary_block(a, a, profile, source=Source(x, x, weights))
    without = reference.stationary_block(a, a, profile)
    assert np.abs(with_source.numpy() - exact).max() < 1e-12
    assert np.abs(without.numpy() - exact).max() > 5e-12


@every_profile
def test_slope_is_the_derivative_in_squared_distance(profile, formula):
    r2 = torch.logspace(-3, 2, 60, dtype=torch.float64)
    step = 1e-5 * r2
    up, down = (reference.profile_values(r2 + s, profile) for s in (step, -step))
    slope = reference.profile_slope(r2.clone(), profile)
    torch.testing.assert_close(slope, (up - down) / (2 * step), rtol=1e-6, atol=1e-9)
    assert torch.isfinite(reference.profile_slope(torch.zeros(1), profile)).all()


@every_profile
def test_bilinear_gradient(profile, formula, generator):
    a, b = torch.randn(2, 40, 5, dtype=torch.float64, generator=generator)
    b = torch.cat([a[:10], b])
    left = torch.randn(40, 3, dtype=torch.float64, generator=generator)
    right = torch.randn(50, 3, dtype=torch.float64, generator=generator)
    by_lengthscale, by_scale = reference.stationary_gradient(a, b, left, right, profile, memory_budget=2**17)

    def value(log_lengthscale: np.ndarray, scale: float) -> float:
        r = oracles.distances(a.numpy(), b.numpy(), np.exp(log_lengthscale))
        return float((left.numpy() * (scale * formula(r) @ right.numpy())).sum())

    step = 1e-6
    for k in range(5):
        shift = np.zeros(5)
        shift[k] = step
        difference = (value(shift, profile.scale) - value(-shift, profile.scale)) / (2 * step)
        assert by_lengthscale[k].item() == pytest.approx(difference, rel=1e-6, abs=1e-7)
    assert by_scale.item() == pytest.approx(value(np.zeros(5), 1.0), rel=1e-12)


@pytest.mark.parametrize("columns", [1, 130])
def test_product_over_ragged_tiles_and_strided_input(columns, dtype, generator):
    a = torch.randn(6, 83, dtype=torch.float64, generator=generator).T
    b = torch.randn(140, 6, dtype=torch.float64, generator=generator)[::2]
    v = torch.randn(columns, 70, dtype=dtype, generator=generator).T
    profile = Profile("matern52", 1.4)
    product = reference.stationary_matmul(a, b, v, profile, 2**17)
    exact = 1.4 * oracles.matern52(oracles.distances(a.numpy(), b.numpy(), np.ones(1))) @ v.double().numpy()
    assert product.dtype == dtype
    np.testing.assert_allclose(
        product.double().numpy(), exact.astype(float), atol=1e-4 if dtype == torch.float32 else 1e-12
    )


@pytest.mark.parametrize(("family", "alpha"), [("cosine", None), ("rq", None), ("rbf", 1.0)])
def test_impossible_profiles_are_refused(family, alpha):
    with pytest.raises(InputError, match=r"expected one of|alpha"):
        Profile(family, 1.0, alpha)


# --- counts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("largest", [1, 4, 255])
def test_intersections_are_sums_of_minima(largest, generator):
    a = torch.randint(0, largest + 1, (13, 40), generator=generator).to(torch.uint8)
    b = torch.randint(0, largest // 2 + 2, (11, 40), generator=generator).to(torch.uint8)
    minima = torch.minimum(a[:, None].long(), b[None].long()).sum(-1)
    assert torch.equal(intersections(a, b).long(), minima)


def test_wide_rows_of_large_counts_stay_exact():
    d = 70_000
    a = torch.full((2, d), 255, dtype=torch.uint8)
    a[1, 0] = 254
    shared = intersections(a, a)
    assert shared[0, 0].item() == 255 * d
    assert shared[0, 1].item() == 255 * d - 1


def test_count_product_is_the_dense_product(dtype, generator):
    a = torch.randint(0, 5, (70, 33), generator=generator).to(torch.uint8)
    b = torch.randint(0, 5, (55, 33), generator=generator).to(torch.uint8)
    a[3], b[7] = 0, 0
    v = torch.randn(55, 4, dtype=dtype, generator=generator)
    exact = oracles.tanimoto_minmax(a.numpy(), b.numpy())
    np.testing.assert_allclose(tanimoto_block(a, b, dtype=dtype).double().numpy(), exact, atol=1e-7)
    product = tanimoto_matmul(a, b, v, 2**17)
    assert product.dtype == dtype
    np.testing.assert_allclose(product.double().numpy(), exact @ v.double().numpy(), atol=1e-5)


def test_rows_without_positions_and_empty_sets():
    none = torch.zeros(3, 0, dtype=torch.uint8)
    assert torch.equal(tanimoto_block(none, none), torch.ones(3, 3))
    assert torch.equal(tanimoto_matmul(none, none, torch.ones(3, 2), 2**20), torch.full((3, 2), 3.0))
    zeros = torch.zeros(2, 4, dtype=torch.uint8)
    assert torch.equal(tanimoto_block(zeros, zeros), torch.ones(2, 2))
    assert tanimoto_block(zeros[:0], zeros).shape == (0, 2)
    assert torch.equal(tanimoto_matmul(zeros, zeros[:0], torch.ones(0, 3), 2**20), torch.zeros(2, 3))


# --- tiles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(1, 1), (7, 100_000), (100_000, 3), (5000, 5000)])
@pytest.mark.parametrize("budget", [2**16, 2**24, 2**34])
def test_tiles_fit_and_cover(n, m, budget):
    rows, cols = tile_shape(n, m, budget, per_entry=32, per_row=100)
    assert 1 <= rows <= n
    assert 1 <= cols <= m
    assert rows * cols * 32 + (rows + cols) * 100 <= budget
    covered = sum((r.stop - r.start) * (c.stop - c.start) for r, c in tiles(n, m, (rows, cols)))
    assert covered == n * m


def test_a_budget_below_one_tile_names_the_setting():
    with pytest.raises(MemoryBudgetError, match="memory_budget"):
        tile_shape(100, 100, 100, per_entry=32)


def test_engine_choice_is_the_reference_where_there_is_no_other():
    assert engine("meta", torch.float32) is TORCH
    assert engine("cpu", torch.float16) is TORCH
    for name in (
        "stationary_block",
        "stationary_matmul",
        "stationary_gradient",
        "tanimoto_block",
        "tanimoto_matmul",
    ):
        assert callable(getattr(engine("cpu", torch.float64), name))
