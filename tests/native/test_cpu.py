"""The C++ engine against oracles that share nothing with it: numpy long doubles and Python integers."""

from __future__ import annotations

import functools
import logging
import pathlib
from typing import Any

import numpy as np
import pytest
import torch

from sggp.errors import DtypeError, InputError, MemoryBudgetError, ShapeError
from sggp.native import cpu, library
from sggp.native.reference import Profile, Source

ISAS = cpu.instruction_sets()
needs_library = pytest.mark.skipif(
    not ISAS, reason=f"the C++ engine is not built: {cpu.unavailable_reason()}"
)
each_isa = pytest.mark.parametrize("isa", ISAS or [None])

FAMILIES = ("rbf", "matern12", "matern32", "matern52", "rq")
LIMIT = {torch.float32: 3e-7, torch.float64: 2e-15}  # the contract is 5e-7 and 1e-14
Long = np.longdouble


def profile_of(family: str, scale: float = 1.7, alpha: float = 0.8) -> Profile:
    return Profile(family, scale, alpha if family == "rq" else None)


def oracle(
    a: torch.Tensor, b: torch.Tensor, profile: Profile, weights: torch.Tensor | None = None
) -> np.ndarray:
    x, z = (np.asarray(points).astype(Long) for points in (a, b))
    q = np.zeros((len(x), len(z)), Long)
    for k in range(x.shape[1]):
        w = Long(1) if weights is None else Long(float(weights[k]))
        q += ((x[:, k, None] - z[None, :, k]) * w) ** 2
    r = np.sqrt(q)
    if profile.family == "rbf":
        phi = np.exp(-q / 2)
    elif profile.family == "matern12":
        phi = np.exp(-r)
    elif profile.family == "matern32":
        phi = (1 + np.sqrt(Long(3)) * r) * np.exp(-np.sqrt(Long(3)) * r)
    elif profile.family == "matern52":
        phi = (1 + np.sqrt(Long(5)) * r + 5 * q / 3) * np.exp(-np.sqrt(Long(5)) * r)
    else:
        alpha = Long(profile.alpha)
        phi = np.exp(-alpha * np.log1p(q / (2 * alpha)))
    return phi * Long(profile.scale)


def worst(found: torch.Tensor, expected: np.ndarray, profile: Profile) -> float:
    return float(np.abs(found.numpy().astype(Long) - expected).max()) / profile.scale


def cloud(n: int, d: int, spread: float, dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) * spread / d**0.5).to(dtype)


# --- stationary kernels: entries --------------------------------------------------------------------------------


@needs_library
@each_isa
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_entries_are_within_a_few_units_in_the_last_place(family: str, dtype: torch.dtype, isa: str) -> None:
    profile = profile_of(family)
    for seed, (n, m, d) in enumerate(((1, 1, 1), (7, 300, 2), (50, 257, 31), (13, 70, 33), (6, 65, 300))):
        for spread in (0.05, 1.0, 4.0, 40.0):
            a, b = cloud(n, d, spread, dtype, seed), cloud(m, d, spread, dtype, 100 + seed)
            rows = min(n, m, 3)
            b[:rows] = a[:rows]  # repeats
            b[-rows:] = (a[-rows:].double() + 1e-6).to(dtype)  # near-repeats
            found = cpu.stationary_block(a, b, profile, isa=isa)
            assert found.dtype == dtype
            assert worst(found, oracle(a, b, profile), profile) < LIMIT[dtype], (n, m, d, spread)


@needs_library
def test_a_large_block_is_made_of_its_parts_bit_for_bit() -> None:
    profile = profile_of("matern32")
    a, b = cloud(1600, 2, 1.0, torch.float32, 0), cloud(2999, 2, 1.0, torch.float32, 1)
    whole = cpu.stationary_block(a, b, profile)
    assert whole.nbytes > 2**24  # from here on written past the caches
    for columns in (slice(0, 1300), slice(1300, None)):
        assert torch.equal(whole[:, columns], cpu.stationary_block(a, b[columns], profile))


@needs_library
@each_isa
@pytest.mark.parametrize("alpha", [0.05, 2.0, 1e5])
def test_rational_quadratic_of_any_shape(alpha: float, isa: str) -> None:
    profile = profile_of("rq", alpha=alpha)
    for dtype in (torch.float32, torch.float64):
        for spread in (1e-3, 1.0, 1e3):
            a, b = cloud(5, 4, spread, dtype, 0), cloud(90, 4, spread, dtype, 1)
            found = cpu.stationary_block(a, b, profile, isa=isa)
            assert worst(found, oracle(a, b, profile), profile) < LIMIT[dtype]


@needs_library
@each_isa
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_square_blocks_are_symmetric_bit_for_bit_with_an_exact_diagonal(
    family: str, dtype: torch.dtype, isa: str
) -> None:
    profile = profile_of(family, scale=0.3)
    for d in (1, 5, 70):
        a = cloud(83, d, 2.0, dtype, d)
        found = cpu.stationary_block(a, a, profile, isa=isa)
        assert torch.equal(found, found.T)
        assert torch.equal(found.diagonal(), torch.full((83,), 0.3, dtype=dtype))


@needs_library
@each_isa
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_extreme_distances_give_zero_or_the_scale_and_never_nan(
    family: str, dtype: torch.dtype, isa: str
) -> None:
    profile = profile_of(family, alpha=3.0)
    far = 1e30 if dtype == torch.float32 else 1e250  # its square overflows
    tiny = 1e-30 if dtype == torch.float32 else 1e-250
    a = torch.tensor([[0.0, 0.0], [tiny, 0.0], [300.0, 0.0], [far, -far]], dtype=dtype)
    found = cpu.stationary_block(a, a, profile, isa=isa)
    assert bool(torch.isfinite(found).all())
    assert torch.equal(found.diagonal(), torch.full((4,), 1.7, dtype=dtype))
    assert float(found[0, 1]) == pytest.approx(1.7, rel=1e-6)
    assert bool((found[:3, 3] <= 1e-30).all())
    if family != "rq":
        assert float(found[0, 2]) < 1e-35


@needs_library
@each_isa
def test_nan_input_gives_nan_in_its_own_row_only(isa: str) -> None:
    for family in FAMILIES:
        a = cloud(9, 3, 1.0, torch.float32, 0)
        a[4, 1] = torch.nan
        found = cpu.stationary_block(a, cloud(20, 3, 1.0, torch.float32, 1), profile_of(family), isa=isa)
        assert bool(found[4].isnan().all())
        assert bool(found[[0, 1, 2, 3, 5, 6, 7, 8]].isfinite().all())


@needs_library
def test_far_from_the_centre_entries_come_from_the_unscaled_rows() -> None:
    weights = torch.tensor([31.7, 0.9, 3.3], dtype=torch.float64)
    for x_dtype in (torch.float32, torch.float64):
        x = (cloud(40, 3, 2.0, torch.float64, 0) + 5.0).to(x_dtype)
        z = torch.cat([x[:20] + 1e-5, (cloud(50, 3, 2.0, torch.float64, 1) + 5.0).to(x_dtype)])
        source = Source(x, z, weights)
        a, b = ((rows.double() - 5.0) * weights for rows in (x, z))
        assert float(a.norm(dim=1).max()) > 20
        profile = profile_of("matern12")
        expected = oracle(x, z, profile, weights)
        found = cpu.stationary_block(a, b, profile, dtype=torch.float32, source=source)
        assert found.dtype == torch.float32
        assert worst(found, expected, profile) < 5e-7
        v = torch.eye(70, dtype=torch.float32)
        product = cpu.stationary_matmul(a, b, v, profile, source=source)
        assert worst(product, expected, profile) < 5e-7


# --- stationary kernels: products -------------------------------------------------------------------------------


@needs_library
@each_isa
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_over_ragged_shapes(dtype: torch.dtype, isa: str) -> None:
    generator = torch.Generator().manual_seed(7)
    unit = 6e-8 if dtype == torch.float32 else 2e-16
    shapes = [(1, 1, 1, 1), (5, 700, 3, 1), (97, 255, 2, 17), (49, 513, 40, 130)]
    shapes += [(33, 300, 1, s) for s in (2, 3, 4, 5, 7, 8, 9, 12, 13, 15, 16, 31, 33, 48, 63, 64, 65, 80, 81)]
    for seed, (n, m, d, s) in enumerate(shapes):
        profile = profile_of(FAMILIES[seed % 5])
        a, b = cloud(n, d, 1.0, dtype, seed), cloud(m, d, 1.0, dtype, 50 + seed)
        v = torch.randn(m, s, generator=generator, dtype=dtype)
        k = oracle(a, b, profile)
        error = np.abs(cpu.stationary_matmul(a, b, v, profile, isa=isa).numpy() - k @ v.numpy().astype(Long))
        bound = 40 * unit * (k @ np.abs(v.numpy()).astype(Long))
        assert bool((error <= bound).all()), (n, m, d, s)


@needs_library
def test_long_sums_keep_their_accuracy() -> None:
    n, m = 3, 60_000
    a, b = cloud(n, 2, 0.3, torch.float32, 0), cloud(m, 2, 0.3, torch.float32, 1)
    for s in (1, 20):
        v = torch.ones(m, s)
        expected = oracle(a, b, profile_of("rbf")).sum(1)
        found = cpu.stationary_matmul(a, b, v, profile_of("rbf")).numpy()
        assert float(np.abs(found - expected[:, None]).max() / expected.max()) < 1e-6


@needs_library
def test_a_row_does_not_depend_on_its_company_nor_on_the_threads() -> None:
    a, b = cloud(200, 5, 1.0, torch.float32, 0), cloud(9000, 5, 1.0, torch.float32, 1)
    threads = torch.get_num_threads()
    try:
        for s in (1, 5, 33):
            v = torch.randn(9000, s, generator=torch.Generator().manual_seed(s))
            torch.set_num_threads(1)
            whole = cpu.stationary_matmul(a, b, v, profile_of("matern32"))
            for count in (1, 2, 5):
                torch.set_num_threads(count)
                assert torch.equal(cpu.stationary_matmul(a, b, v, profile_of("matern32")), whole)
                for rows in (slice(0, 1), slice(3, 50), slice(101, 104)):
                    part = cpu.stationary_matmul(a[rows], b, v, profile_of("matern32"))
                    assert torch.equal(part, whole[rows])
    finally:
        torch.set_num_threads(threads)


@functools.cache
def square_product(n: int, d: int, s: int, seed: int, dtype: torch.dtype) -> tuple[Any, ...]:
    """Points, a matrix, the profile, and their product with its rounding: the same for every instruction set."""
    profile = profile_of(FAMILIES[seed])
    a = cloud(n, d, 1.0, dtype, seed)
    v = torch.randn(n, s, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    k, unit = oracle(a, a, profile), 6e-8 if dtype == torch.float32 else 2e-16
    return a, v, profile, k @ v.numpy().astype(Long), 40 * unit * (k @ np.abs(v.numpy()).astype(Long))


@needs_library
@each_isa
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_square_product_uses_half_of_k(dtype: torch.dtype, isa: str) -> None:
    threads = torch.get_num_threads()
    try:
        for seed, (*shape, count) in enumerate(
            ((513, 3, 1, 1), (700, 2, 17, 3), (1025, 35, 5, 2), (800, 1, 65, 7), (600, 4, 130, 2))
        ):
            torch.set_num_threads(count)
            a, v, profile, expected, bound = square_product(*shape, seed, dtype)
            found = cpu.stationary_matmul(a, a.clone(), v, profile, isa=isa)
            assert bool((np.abs(found.numpy() - expected) <= bound).all()), shape
            assert torch.equal(found, cpu.stationary_matmul(a, a, v, profile, isa=isa))
            part = cpu.stationary_matmul(a[:-1], a, v, profile, isa=isa)  # not square: whole rows of K
            assert bool((np.abs(part.numpy() - found[:-1].numpy()) <= bound[:-1]).all())
    finally:
        torch.set_num_threads(threads)


@needs_library
def test_strided_input_is_read_as_it_looks() -> None:
    base = cloud(40, 12, 2.0, torch.float64, 0)
    a, b = base[::2, ::3], base.T[:4].T[5:30]
    v = torch.randn(3, 25, generator=torch.Generator().manual_seed(1), dtype=torch.float64).T
    profile = profile_of("matern52")
    assert not a.is_contiguous()
    assert not v.is_contiguous()
    k = oracle(a, b, profile)
    assert worst(cpu.stationary_block(a, b, profile), k, profile) < 1e-14
    assert np.abs(cpu.stationary_matmul(a, b, v, profile).numpy() - k @ v.numpy()).max() < 1e-13


@needs_library
def test_empty_shapes() -> None:
    profile = profile_of("rbf")
    for n, m, d, s in ((0, 3, 2, 1), (3, 0, 2, 1), (3, 4, 2, 0), (3, 4, 0, 2), (0, 0, 0, 0)):
        a, b, v = torch.zeros(n, d), torch.zeros(m, d), torch.ones(m, s)
        block, product = cpu.stationary_block(a, b, profile), cpu.stationary_matmul(a, b, v, profile)
        assert torch.equal(block, torch.full((n, m), 1.7))
        assert torch.allclose(product, torch.full((n, s), 1.7 * m))
        lengths, scale = cpu.stationary_gradient(a, b, torch.ones(n, s), v, profile)
        assert torch.equal(lengths, torch.zeros(d, dtype=torch.float64))
        assert float(scale) == pytest.approx(n * m * s)


@needs_library
def test_a_small_memory_budget_changes_little_and_a_tiny_one_is_refused() -> None:
    a, b = cloud(100, 30, 1.0, torch.float32, 0), cloud(12_000, 30, 1.0, torch.float32, 1)
    v = torch.randn(12_000, 9, generator=torch.Generator().manual_seed(0))
    whole = cpu.stationary_matmul(a, b, v, profile_of("rbf"))
    small = cpu.stationary_matmul(a, b, v, profile_of("rbf"), 2**20)
    assert torch.allclose(small, whole, rtol=0, atol=2e-5 * float(whole.abs().max()))
    with pytest.raises(MemoryBudgetError, match="raise memory_budget to at least"):
        cpu.stationary_matmul(a, b, v, profile_of("rbf"), 1000)


# --- gradient ---------------------------------------------------------------------------------------------------


def gradient_oracle(
    a: torch.Tensor, b: torch.Tensor, left: torch.Tensor, right: torch.Tensor, profile: Profile
) -> tuple[np.ndarray, float]:
    """Central differences of the bilinear form in long double arithmetic: another route than φ'."""
    outer = left.numpy().astype(Long) @ right.numpy().astype(Long).T
    lengths = []
    for k in range(a.shape[1]):
        values = []
        for sign in (1, -1):
            x, z = a.numpy().astype(Long), b.numpy().astype(Long)
            x[:, k], z[:, k] = (y[:, k] * np.exp(-sign * Long(1e-6)) for y in (x, z))
            values.append((outer * oracle(x, z, profile)).sum())
        lengths.append((values[0] - values[1]) / Long(2e-6))
    return np.array(lengths), float((outer * oracle(a, b, profile)).sum() / profile.scale)


@functools.cache
def gradients_by_differences(family: str, dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """Points, factors and what `gradient_oracle` says: the same for every instruction set."""
    found, generator = [], torch.Generator().manual_seed(3)
    for n, m, d, s in ((1, 1, 1, 1), (9, 300, 3, 2), (50, 70, 35, 5)):
        a, b = cloud(n, d, 1.5, dtype, 1), cloud(m, d, 1.5, dtype, 2)
        if family != "matern12":
            b[0] = a[0]  # matern12 has no derivative there
        factors = [torch.randn(rows, s, generator=generator, dtype=dtype) for rows in (n, m)]
        found.append((a, b, *factors, *gradient_oracle(a, b, *factors, profile_of(family))))
    return found


@needs_library
@each_isa
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_is_that_of_finite_differences(family: str, isa: str) -> None:
    for dtype, tolerance in ((torch.float32, 3e-6), (torch.float64, 1e-9)):
        for a, b, left, right, expected, expected_scale in gradients_by_differences(family, dtype):
            lengths, scale = cpu.stationary_gradient(a, b, left, right, profile_of(family), isa=isa)
            size = float((left.double().abs() @ right.double().abs().T).sum())
            assert lengths.dtype == scale.dtype == torch.float64
            assert float(np.abs(lengths.numpy() - expected).max()) < tolerance * size
            assert abs(float(scale) - expected_scale) < tolerance * size


@needs_library
def test_gradient_at_repeated_rows_is_finite() -> None:
    a = torch.zeros(6, 2)
    for family in FAMILIES:
        lengths, scale = cpu.stationary_gradient(a, a, torch.ones(6, 1), torch.ones(6, 1), profile_of(family))
        assert torch.equal(lengths, torch.zeros(2, dtype=torch.float64))
        assert float(scale) == pytest.approx(36.0)


# --- misuse -----------------------------------------------------------------------------------------------------


@needs_library
def test_misuse_is_a_typed_error() -> None:
    a, profile = torch.zeros(3, 2), profile_of("rbf")
    with pytest.raises(ShapeError, match=r"expected \(n, d\) and \(m, d\)"):
        cpu.stationary_block(a, torch.zeros(3, 4), profile)
    with pytest.raises(ShapeError, match=r"v has shape \(4, 1\)"):
        cpu.stationary_matmul(a, a, torch.zeros(4, 1), profile)
    with pytest.raises(ShapeError, match="left has 2 columns"):
        cpu.stationary_gradient(a, a, torch.zeros(3, 2), torch.zeros(3, 1), profile)
    with pytest.raises(DtypeError, match="float16"):
        cpu.stationary_block(a.half(), a.half(), profile)
    with pytest.raises(InputError, match="on meta"):
        cpu.stationary_block(a.to("meta"), a, profile)
    with pytest.raises(InputError, match="cannot run here"):
        cpu.stationary_block(a, a, profile, isa="vax")


def test_a_missing_library_is_said_once_and_not_at_import(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    monkeypatch.delenv("SGGP_NATIVE", raising=False)
    library._loaded.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert not cpu.available()
            assert not cpu.available()
            assert "no compiler" in cpu.unavailable_reason()
            with pytest.raises(library.NativeError, match=r"sggp\.native\.reference"):
                cpu.stationary_block(torch.zeros(1, 1), torch.zeros(1, 1), profile_of("rbf"))
        assert len(caplog.records) == 1
        assert "computes kernels with torch" in caplog.text
    finally:
        library._loaded.cache_clear()
