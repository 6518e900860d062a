"""Cases of the Triton engine, on the GPU or in the interpreter; run by test_triton.py, which sets TRITON_INTERPRET.

Oracles: extended precision in numpy (tests/oracles.py), integers for counts.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from sggp.errors import DtypeError, InputError, MemoryBudgetError, ShapeError
from sggp.native import reference, triton
from sggp.native.engines import TRITON
from sggp.native.reference import Profile, Source
from sggp.native.triton import host, tanimoto
from tests import oracles

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LIMIT = {torch.float32: 5e-7, torch.float64: 1e-14}
UNIT = {torch.float32: 6e-8, torch.float64: 2e-16}
PROFILES = [
    (Profile("rbf", 1.7), oracles.rbf),
    (Profile("matern12", 0.6), oracles.matern12),
    (Profile("matern32", 2.1), oracles.matern32),
    (Profile("matern52", 1.2), oracles.matern52),
    (Profile("rq", 0.9, 0.3), lambda r: oracles.rational_quadratic(r, 0.3)),
    (Profile("rq", 1.1, 4e4), lambda r: oracles.rational_quadratic(r, 4e4)),
]
every_profile = pytest.mark.parametrize(
    ("profile", "formula"), PROFILES, ids=lambda p: getattr(p, "family", "")
)
pytestmark = (
    pytest.mark.filterwarnings(  # of numpy in the interpreter, where the GPU rounds to 0 or ∞ without a word
        "ignore:(overflow|underflow|invalid value|divide by zero) encountered:RuntimeWarning"
    )
)


def cloud(n: int, d: int, spread: float, dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) * spread / d**0.5).to(dtype)


def block(a: torch.Tensor, b: torch.Tensor, profile: Profile, **settings: object) -> torch.Tensor:
    return triton.stationary_block(a.to(DEVICE), b.to(DEVICE), profile, **settings).cpu()


def matmul(
    a: torch.Tensor, b: torch.Tensor, v: torch.Tensor, profile: Profile, *budget: int, **settings: object
) -> torch.Tensor:
    moved = (x.to(DEVICE) for x in (a, b, v))
    return triton.stationary_matmul(*moved, profile, *budget, **settings).cpu()


def exact(
    a: torch.Tensor, b: torch.Tensor, profile: Profile, formula, lengthscale: float = 1.0
) -> np.ndarray:
    return profile.scale * formula(oracles.distances(a.numpy(), b.numpy(), np.full(1, lengthscale)))


def worst(found: torch.Tensor, expected: np.ndarray, profile: Profile) -> float:
    return float(np.abs(found.numpy().astype(np.longdouble) - expected).max()) / profile.scale


def same(found: torch.Tensor, expected: torch.Tensor, bound: np.ndarray | torch.Tensor) -> None:
    """Bit for bit on a GPU; numpy, which interprets, sums the rows of a tile in orders of its own."""
    if DEVICE == "cuda":
        assert torch.equal(found, expected)
    else:
        assert bool(((found - expected).abs() <= torch.as_tensor(bound)).all())


# --- stationary kernels -----------------------------------------------------------------------------------------


@every_profile
def test_stationary_entries(profile, formula, dtype):
    shapes = [(1, 1, 1), (5, 70, 2), (33, 35, 3), (4, 40, 5)]
    if profile is PROFILES[0][0]:  # distances are found before there is a family
        shapes += [(33, 67, 12), (7, 65, 13), (4, 40, 31), (3, 9, 70)]
    for (n, m, d), spread in zip(shapes, itertools.cycle((1.0, 0.05, 4.0, 40.0)), strict=False):
        a, b = cloud(n, d, spread, dtype, d), cloud(m, d, spread, dtype, 100 + d)
        rows = min(n, m, 3)
        b[:rows] = a[:rows]  # repeats
        b[-rows:] = (a[-rows:].double() + 1e-6).to(dtype)  # near-repeats
        found = block(a, b, profile)
        assert found.dtype == dtype
        assert worst(found, exact(a, b, profile, formula), profile) < LIMIT[dtype], (n, m, d, spread)


@every_profile
def test_stationary_values_over_forty_orders_of_magnitude(profile, formula, dtype):
    r = np.concatenate([[0.0], np.logspace(-20, 18, 130)])
    found = block(torch.zeros(1, 1, dtype=torch.float64), torch.tensor(r)[:, None], profile, dtype=dtype)[0]
    expected = profile.scale * formula(r.astype(np.longdouble))
    assert found.dtype == dtype
    assert torch.isfinite(found).all()
    assert worst(found, expected, profile) < LIMIT[dtype]


def test_stationary_slow_tails_beyond_the_range_of_float32():
    profile = Profile("rq", 1.3, 0.02)
    r = np.logspace(14, 30, 30).astype(np.float32)
    found = block(torch.zeros(1, 1), torch.tensor(r)[:, None], profile)[0]
    expected = 1.3 * oracles.rational_quadratic(r.astype(np.longdouble), 0.02)
    assert float(expected[-1]) > 0.05
    assert worst(found, expected, profile) < LIMIT[torch.float32]


@every_profile
def test_stationary_square_blocks_are_symmetric_with_an_exact_diagonal(profile, formula, dtype):
    n = 70 if dtype == torch.float32 else 40  # two tiles
    a = cloud(n, 3, 2.0, dtype, 1)
    found = block(a, a, profile)
    assert torch.equal(found, found.T)
    assert torch.equal(found.diagonal(), torch.full((n,), profile.scale, dtype=dtype))


def test_stationary_extremes_and_nan(dtype):
    far = 1e30 if dtype == torch.float32 else 1e250
    a = torch.tensor([[0.0, 0.0], [300.0, 0.0], [far, -far]], dtype=dtype)
    spoilt = torch.cat([a, torch.tensor([[0.0, torch.nan]], dtype=dtype)])
    for profile, _ in PROFILES[:5]:
        found = block(a, a, profile)
        assert torch.isfinite(found).all()
        assert float(found[0, 2]) < 1e-9
        found = block(spoilt, a, profile)
        assert found[3].isnan().all()
        assert found[:3].isfinite().all()


@pytest.mark.parametrize("given", [torch.float32, torch.float64])
def test_stationary_far_from_the_centre_takes_the_unscaled_rows(given):
    profile, formula = PROFILES[1]
    x = (cloud(20, 3, 2.0, torch.float64, 0) + 1e3).to(given)
    z = torch.cat([x[:10] + 1e-3, (cloud(30, 3, 2.0, torch.float64, 1) + 1e3).to(given)])
    weights = torch.full((3,), 1 / 0.3, dtype=torch.float64)
    a, b = x.double() * weights, z.double() * weights
    expected = exact(x, z, profile, formula, 0.3)
    source = Source(x.to(DEVICE), z.to(DEVICE), weights.to(DEVICE))
    for found in (
        block(a, b, profile, dtype=torch.float32, source=source),
        matmul(a, b, torch.eye(40), profile, source=source),
    ):
        assert found.dtype == torch.float32
        assert worst(found, expected, profile) < LIMIT[torch.float32]
    without = block(a.float(), b.float(), profile)
    assert worst(without, expected, profile) > 1e-5
    if given == torch.float64:
        assert worst(block(a, b, profile, source=source), expected, profile) < 1e-13
        assert worst(block(a, b, profile, dtype=torch.float32), expected, profile) < LIMIT[torch.float32]


@pytest.mark.parametrize("s", [1, 2, 3, 8, 15, 16, 65, 130])
def test_stationary_products(s, dtype):
    profile, formula = PROFILES[s % 6]
    for n, m, d in ((1, 1, 1), (35, 75, 3)):
        a, b = cloud(n, d, 1.0, dtype, s), cloud(m, d, 1.0, dtype, 50 + s)
        v = torch.randn(m, s, generator=torch.Generator().manual_seed(s), dtype=dtype)
        k, columns = exact(a, b, profile, formula), v.numpy().astype(np.longdouble)
        found = matmul(a, b, v, profile)
        assert found.shape == (n, s)
        assert found.dtype == dtype
        assert (np.abs(found.numpy() - k @ columns) <= 40 * UNIT[dtype] * (k @ np.abs(columns))).all()


@pytest.mark.parametrize("s", [1, 4, 16])
def test_stationary_rows_do_not_depend_on_their_company_nor_on_the_budget(s, monkeypatch):
    monkeypatch.setattr(host, "SPAN", 64)
    profile, formula = PROFILES[2]
    m = host.SPAN * 2 + 6
    a, b = cloud(70, 2, 1.0, torch.float32, 0), cloud(m, 2, 1.0, torch.float32, 1)
    v = torch.ones(m, s)
    whole = matmul(a, b, v, profile)
    expected = exact(a, b, profile, formula).sum(1)[:, None]
    assert float(np.abs(whole.numpy() / expected - 1).max()) < 1e-6
    bound = 40 * UNIT[torch.float32] * expected.astype(float)
    same(matmul(a[3:40], b, v, profile), whole[3:40], bound[3:40])
    smallest = 64 * (3 * 4 + 8) * s  # one block of rows at a time
    same(matmul(a, b, v, profile, smallest), whole, bound)
    with pytest.raises(MemoryBudgetError, match="raise memory_budget to at least"):
        matmul(a, b, v, profile, 100)
    if s == 1:
        moved = (x.to(DEVICE) for x in (a[:2], b, v))
        fallen = TRITON.stationary_matmul(*moved, profile, 2**15)
        assert torch.allclose(fallen.cpu(), whole[:2], rtol=1e-5)


def test_stationary_strided_input_and_other_precisions():
    profile, formula = PROFILES[3]
    base = cloud(40, 12, 2.0, torch.float64, 0)
    a, b = base[::2, ::3], base.T[:4].T[5:30]
    v = torch.randn(3, 25, generator=torch.Generator().manual_seed(1), dtype=torch.float64).T
    assert not any(x.is_contiguous() for x in (a, b, v))
    k = exact(a, b, profile, formula)
    assert worst(block(a, b, profile), k, profile) < 1e-14
    assert np.abs(matmul(a, b, v, profile).numpy() - k @ v.numpy()).max() < 1e-13
    assert worst(block(a, b, profile, dtype=torch.float32), k, profile) < LIMIT[torch.float32]
    assert worst(block(a.float(), a, profile), exact(a.float(), a, profile, formula), profile) < 5e-7


def test_stationary_empty_shapes():
    profile = Profile("rbf", 1.7)
    for n, m, d, s in ((0, 3, 2, 1), (3, 0, 2, 1), (3, 4, 2, 0), (3, 4, 0, 2), (0, 0, 0, 0)):
        a, b, v = torch.zeros(n, d), torch.zeros(m, d), torch.ones(m, s)
        assert torch.equal(block(a, b, profile), torch.full((n, m), 1.7))
        assert torch.allclose(matmul(a, b, v, profile), torch.full((n, s), 1.7 * m))
        moved = (x.to(DEVICE) for x in (a, b, torch.ones(n, s), v))
        lengths, scale = triton.stationary_gradient(*moved, profile)
        assert torch.equal(lengths.cpu(), torch.zeros(d, dtype=torch.float64))
        assert float(scale) == pytest.approx(n * m * s)


# --- gradient ---------------------------------------------------------------------------------------------------


@every_profile
def test_gradient_is_that_of_finite_differences(profile, formula, dtype):
    generator = torch.Generator().manual_seed(3)
    for n, m, d, s in ((1, 1, 1, 1), (33, 40, 3, 2), (5, 35, 13, 3)):
        a, b = cloud(n, d, 1.5, dtype, 1), cloud(m, d, 1.5, dtype, 2)
        left, right = (torch.randn(k, s, generator=generator, dtype=dtype) for k in (n, m))
        lengths, scale = (
            x.cpu() for x in triton.stationary_gradient(*(x.to(DEVICE) for x in (a, b, left, right)), profile)
        )
        outer = left.numpy().astype(np.longdouble) @ right.numpy().astype(np.longdouble).T

        def value(log_lengthscale, a=a, b=b, outer=outer):
            r = oracles.distances(a.numpy(), b.numpy(), np.exp(log_lengthscale))
            return (outer * profile.scale * formula(r)).sum()

        size, step = float(np.abs(outer).sum()), np.longdouble(1e-6)
        assert lengths.dtype == scale.dtype == torch.float64
        limit = (1e-6 if dtype == torch.float32 else 1e-9) * size
        for k in range(d):
            shift = np.zeros(d, np.longdouble)
            shift[k] = step
            assert abs(float(lengths[k]) - (value(shift) - value(-shift)) / (2 * step)) < limit, (n, m, k)
        assert abs(float(scale) - value(np.zeros(d)) / profile.scale) < limit


def test_gradient_at_repeated_rows_over_spans_and_within_a_budget(monkeypatch):
    monkeypatch.setattr(host, "SPAN", 64)
    for profile, _ in PROFILES[:5]:
        a = torch.zeros(6, 2, device=DEVICE)
        ones = torch.ones(6, 1, device=DEVICE)
        lengths, scale = triton.stationary_gradient(a, a, ones, ones, profile)
        assert torch.equal(lengths.cpu(), torch.zeros(2, dtype=torch.float64))
        assert float(scale) == pytest.approx(36.0)
    a, b = cloud(40, 2, 1.0, torch.float64, 0), cloud(host.SPAN + 10, 2, 1.0, torch.float64, 1)
    generator = torch.Generator().manual_seed(0)
    sides = [torch.randn(len(x), 1, generator=generator, dtype=torch.float64) for x in (a, b)]
    whole = reference.stationary_gradient(a, b, *sides, PROFILES[0][0])
    moved = [x.to(DEVICE) for x in (a, b, *sides)]
    for budget in (2**20, 64):  # 64: a block of 32 rows at a time
        found = triton.stationary_gradient(*moved, PROFILES[0][0], memory_budget=budget)
        for x, y in zip(found, whole, strict=True):
            torch.testing.assert_close(x.cpu(), y, rtol=1e-11, atol=1e-11)
    with pytest.raises(MemoryBudgetError, match="memory_budget"):
        triton.stationary_gradient(*moved, PROFILES[0][0], memory_budget=8)


# --- counts -----------------------------------------------------------------------------------------------------


def counts(n: int, d: int, largest: int, density: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(1, largest + 1, (n, d), generator=generator)
    return (drawn * (torch.rand(n, d, generator=generator) < density)).to(torch.uint8)


def quotient(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> np.ndarray:
    x, z = a.numpy().astype(np.int64)[:, None, :], b.numpy().astype(np.int64)[None, :, :]
    low, high = np.minimum(x, z).sum(2), np.maximum(x, z).sum(2)
    kind = np.float32 if dtype == torch.float32 else np.float64
    return np.where(high == 0, kind(1), low.astype(kind) / np.maximum(high, 1).astype(kind))


@pytest.mark.parametrize(("largest", "density"), [(1, 0.05), (1, 0.9), (4, 0.3), (20, 1.0), (255, 0.5)])
def test_tanimoto_blocks_are_the_correctly_rounded_quotients(largest, density, dtype):
    for n, m, d in ((1, 1, 1), (3, 70, 31), (65, 33, 32), (9, 20, 45)):
        a, b = counts(n, d, largest, density, d), counts(m, d, largest, density, 50 + d)
        b[0] = a[0]
        found = triton.tanimoto_block(a.to(DEVICE), b.to(DEVICE), dtype=dtype)
        assert found.dtype == dtype
        assert np.array_equal(found.cpu().numpy(), quotient(a, b, dtype)), (n, m, d)


@pytest.mark.parametrize("s", [1, 3, 16, 130])
def test_tanimoto_products(s, dtype, monkeypatch):
    monkeypatch.setattr(host, "SPAN", 64)
    m, block_n = 70, 32 if s == 3 or dtype == torch.float64 else 64
    a, b = counts(40, 12, 3, 0.3, 0), counts(m, 12, 3, 0.3, 1)
    a[3] = b[7] = 0
    v = torch.randn(m, s, generator=torch.Generator().manual_seed(0), dtype=dtype)
    k, moved = quotient(a, b, torch.float64), [x.to(DEVICE) for x in (a, b, v)]
    found = triton.tanimoto_matmul(*moved)
    assert found.dtype == dtype
    bound = 40 * UNIT[dtype] * (k @ np.abs(v.numpy().astype(np.float64)))
    assert (np.abs(found.cpu().numpy() - k @ v.numpy().astype(np.float64)) <= bound).all()
    same(triton.tanimoto_matmul(moved[0][5:20], *moved[1:]), found[5:20], bound[5:20])
    smallest = block_n * (2 * found.element_size() + 8) * s  # a block of rows at a time
    same(triton.tanimoto_matmul(*moved, smallest), found, bound)
    with pytest.raises(MemoryBudgetError, match="raise memory_budget"):
        triton.tanimoto_matmul(*moved, 10)


def test_tanimoto_code_sets_every_bit_and_cuts_no_total(monkeypatch):
    a = torch.tensor([[200, 3], [1, 0]], dtype=torch.uint8, device=DEVICE)
    bits, sums = tanimoto._pack(a, torch.tensor([2, 1], device=DEVICE))
    assert sums.tolist() == [203, 1]
    assert bits.tolist() == [[0b111, 0b001]]
    full = torch.ones(3, 32 * 40, dtype=torch.uint8, device=DEVICE)  # words of 32 set bits
    monkeypatch.setattr(tanimoto, "_PACK_BYTES", 1)  # one row at a time
    assert torch.equal(triton.tanimoto_block(full, full).cpu(), torch.ones(3, 3))
    one = torch.full((2, 60), 255, dtype=torch.uint8, device=DEVICE)
    one[:, 6:] = 1  # the widest code of a position, in narrow company
    half = one.clone()
    half[:, :6] = 127
    expected = (127 * 6 + 54) / (255 * 6 + 54)
    assert torch.equal(triton.tanimoto_block(one, half).cpu(), torch.full((2, 2), expected))


def test_tanimoto_bool_strided_disjoint_and_empty_input():
    base = counts(40, 90, 1, 0.3, 0)
    a, b = base[::2, ::3].bool(), base[1::3, 30:60].bool()
    found = triton.tanimoto_block(a.to(DEVICE), b.to(DEVICE)).cpu()
    assert np.array_equal(found.numpy(), quotient(a, b, torch.float32))
    a, b = counts(3, 8, 2, 1.0, 0), counts(4, 8, 2, 1.0, 1)
    a[:, :4] = b[:, 4:] = a[2] = b[3] = 0
    found = triton.tanimoto_block(a.to(DEVICE), b.to(DEVICE)).cpu()
    assert np.array_equal(found.numpy(), quotient(a, b, torch.float32))
    for n, m, d, s in ((0, 3, 4, 2), (3, 0, 4, 2), (3, 4, 0, 2), (3, 4, 5, 0)):
        x, z = (torch.zeros(k, d, dtype=torch.uint8, device=DEVICE) for k in (n, m))
        v = torch.ones(m, s, device=DEVICE)
        assert torch.equal(triton.tanimoto_block(x, z).cpu(), torch.ones(n, m))
        assert torch.equal(triton.tanimoto_matmul(x, z, v).cpu(), torch.full((n, s), float(m)))


# --- misuse -----------------------------------------------------------------------------------------------------


def test_host_refuses_misuse_with_typed_errors(monkeypatch):
    a, profile = torch.zeros(3, 2, device=DEVICE), Profile("rbf")
    with pytest.raises(ShapeError, match=r"expected \(n, d\) and \(m, d\)"):
        triton.stationary_block(a, a[:, :1], profile)
    with pytest.raises(ShapeError, match=r"v has shape \(4, 1\)"):
        triton.stationary_matmul(a, a, torch.zeros(4, 1, device=DEVICE), profile)
    with pytest.raises(ShapeError, match="left has 2 columns"):
        triton.stationary_gradient(a, a, a, a[:, :1], profile)
    with pytest.raises(DtypeError, match="float16"):
        triton.stationary_block(a.half(), a.half(), profile)
    with pytest.raises(DtypeError, match=r"v is torch\.int64"):
        triton.tanimoto_matmul(a.byte(), a.byte(), a.long(), 10)
    with pytest.raises(InputError, match="expected one device"):
        triton.stationary_block(a, a.to("meta"), profile)
    with pytest.raises(DtypeError, match="Counts above 255 do not fit"):
        triton.tanimoto_block(a.int(), a.int())
    with pytest.raises(ShapeError, match=r"expected \(n, d\) and \(m, d\)"):
        triton.tanimoto_block(a.byte(), a.byte()[:, :1])
    with pytest.raises(DtypeError, match=r"the result cannot be torch\.float16"):
        triton.tanimoto_block(a.byte(), a.byte(), dtype=torch.float16)
    monkeypatch.setattr(host, "_GRID", 0)
    with pytest.raises(InputError, match="too many columns"):
        triton.stationary_block(a, a, profile)
