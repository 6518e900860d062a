"""Tanimoto in the C++ engine against integer arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sggp.errors import DtypeError, InputError, MemoryBudgetError, ShapeError
from sggp.native import cpu, cpu_tanimoto, library

ISAS = cpu.instruction_sets()
pytestmark = pytest.mark.skipif(not ISAS, reason=f"the C++ engine is not built: {cpu.unavailable_reason()}")
each_isa = pytest.mark.parametrize("isa", ISAS or [None])


def integers(a: torch.Tensor, b: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Σ min and Σ max as whole numbers, (n, m)."""
    x, z = a.numpy().astype(np.int64)[:, None, :], b.numpy().astype(np.int64)[None, :, :]
    return np.minimum(x, z).sum(2), np.maximum(x, z).sum(2)


def quotient(a: torch.Tensor, b: torch.Tensor, dtype: type) -> np.ndarray:
    low, high = integers(a, b)
    return np.where(high == 0, dtype(1), low.astype(dtype) / np.maximum(high, 1).astype(dtype))


def rows(n: int, d: int, largest: int, density: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, largest + 1, (n, d), generator=generator)
    kept = torch.rand(n, d, generator=generator) < density
    return (counts * kept).to(torch.uint8)


SHAPES = [(1, 1, 1), (3, 300, 7), (40, 70, 64), (130, 33, 65), (9, 260, 1000), (5, 4, 2049)]


@each_isa
@pytest.mark.parametrize(
    ("largest", "density"), [(1, 0.02), (1, 0.6), (4, 0.03), (4, 0.7), (255, 0.1), (255, 1.0)]
)
def test_blocks_are_the_correctly_rounded_quotients(largest: int, density: float, isa: str) -> None:
    for seed, (n, m, d) in enumerate(SHAPES):
        a, b = rows(n, d, largest, density, seed), rows(m, d, largest, density, 50 + seed)
        b[0] = a[0]
        for torch_dtype, dtype in ((torch.float32, np.float32), (torch.float64, np.float64)):
            found = cpu.tanimoto_block(a, b, dtype=torch_dtype, isa=isa)
            assert found.dtype == torch_dtype
            assert np.array_equal(found.numpy(), quotient(a, b, dtype)), (n, m, d)


def by_bits(a: torch.Tensor, b: torch.Tensor, v: torch.Tensor | None, dtype: torch.dtype, isa: str):
    """Blocks and products by codes whatever they cost."""
    levels = torch.minimum(a.amax(0), b.amax(0))
    codes = cpu.thermometer(a, levels), cpu.thermometer(b, levels)
    return cpu_tanimoto._from_bits(*codes, v, dtype, library.PACK_BYTES, isa)


@each_isa
def test_bits_and_thermometer_codes_are_exact(isa: str) -> None:
    for n, m, d in [*SHAPES, (2, 3, 64 * 31), (2, 3, 64 * 70)]:
        a, b = rows(n, d, 1, 0.5, n), rows(m, d, 1, 0.5, m)
        found = by_bits(a, b, None, torch.float32, isa)
        assert np.array_equal(found.numpy(), quotient(a, b, np.float32))
        for top in ((9, 5), (255, 200)):  # the second fills whole words
            a, b = rows(n, d, top[0], 0.5, n), rows(m, d, top[1], 0.5, m)
            found = by_bits(a, b, None, torch.float64, isa)
            assert np.array_equal(found.numpy(), quotient(a, b, np.float64))
            v = torch.randn(m, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            product = by_bits(a, b, v, torch.float64, isa)
            assert np.abs(product.numpy() - quotient(a, b, np.float64) @ v.numpy()).max() < 1e-12


@each_isa
def test_full_rows_overflow_no_partial_count(isa: str) -> None:
    full = torch.ones(3, 64 * 70, dtype=torch.uint8)
    assert torch.equal(by_bits(full, full, None, torch.float32, isa), torch.ones(3, 3))
    large = torch.full((2, 3000), 255, dtype=torch.uint8)  # sums of 765,000 by lists and by codes
    half = torch.full((2, 3000), 127, dtype=torch.uint8)
    assert torch.equal(cpu.tanimoto_block(large, half, isa=isa), torch.full((2, 2), 127 / 255))


@each_isa
@pytest.mark.parametrize(("largest", "density"), [(1, 0.05), (3, 0.05), (3, 0.9)])
def test_products_of_sparse_and_dense_rows(largest: int, density: float, isa: str) -> None:
    for n, m, d, s in ((1, 1, 5, 1), (200, 300, 64, 5), (10, 530, 300, 33)):
        a, b = rows(n, d, largest, density, n), rows(m, d, largest, density, m)
        v = torch.randn(m, s, generator=torch.Generator().manual_seed(0))
        k = quotient(a, b, np.float64)
        found = cpu.tanimoto_matmul(a, b, v, isa=isa).numpy()
        bound = 3e-6 * (k @ v.abs().double().numpy()) + 1e-12
        assert bool((np.abs(found - k @ v.double().numpy()) <= bound).all())


@each_isa
@pytest.mark.parametrize("density", [0.03, 0.8])
def test_bits_against_counts(density: float, isa: str) -> None:
    bits, counts = rows(40, 200, 1, density, 0), rows(300, 200, 5, density, 1)
    for a, b in ((bits, counts), (counts, bits)):
        assert np.array_equal(cpu.tanimoto_block(a, b, isa=isa).numpy(), quotient(a, b, np.float32))


def test_both_methods_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    original = cpu_tanimoto._from_bits

    def spy(*arguments: object) -> torch.Tensor:
        taken.append("bits")
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cpu_tanimoto, "_from_bits", spy)
    cpu.tanimoto_block(rows(30, 2048, 2, 0.01, 0), rows(30, 2048, 2, 0.01, 1))
    assert taken == []
    cpu.tanimoto_block(rows(30, 2048, 1, 0.7, 0), rows(30, 2048, 1, 0.7, 1))
    assert taken == ["bits"]


def test_empty_rows_are_alike_and_square_blocks_symmetric() -> None:
    a = rows(50, 300, 3, 0.05, 0)
    a[3] = a[7] = 0
    found = cpu.tanimoto_block(a, a)
    assert torch.equal(found, found.T)
    assert torch.equal(found.diagonal(), torch.ones(50))
    assert float(found[3, 7]) == 1.0
    assert float(found[3, 8]) == 0.0


def test_bool_strided_and_empty_input() -> None:
    base = rows(40, 90, 1, 0.3, 0)
    a, b = base[::2, ::3].bool(), base[1::3, 30:60].bool()
    assert np.array_equal(cpu.tanimoto_block(a, b).numpy(), quotient(a, b, np.float32))
    for n, m, d, s in ((0, 3, 4, 2), (3, 0, 4, 2), (3, 4, 0, 2), (3, 4, 5, 0)):
        x, z = torch.zeros(n, d, dtype=torch.uint8), torch.zeros(m, d, dtype=torch.uint8)
        assert torch.equal(cpu.tanimoto_block(x, z), torch.ones(n, m))
        assert torch.equal(cpu.tanimoto_matmul(x, z, torch.ones(m, s)), torch.full((n, s), float(m)))


def test_totals_of_a_code_are_not_cut_by_its_levels() -> None:
    a = torch.tensor([[200, 3], [1, 0]], dtype=torch.uint8)
    code = cpu.thermometer(a, torch.tensor([2, 1]))
    assert code.sums.tolist() == [203, 1]
    assert code.bits.tolist() == [[0b111], [0b001]]


def test_misuse_is_a_typed_error() -> None:
    a = rows(3, 5, 2, 0.5, 0)
    with pytest.raises(DtypeError, match=r"Counts above 255 do not fit"):
        cpu.tanimoto_block(a.to(torch.int32), a)
    with pytest.raises(ShapeError, match=r"expected \(n, d\) and \(m, d\)"):
        cpu.tanimoto_block(a, a[:, :4])
    with pytest.raises(DtypeError, match="float16"):
        cpu.tanimoto_block(a, a, dtype=torch.float16)
    with pytest.raises(ShapeError, match=r"expected \(5,\), one per position"):
        cpu.thermometer(a, torch.ones(4))
    with pytest.raises(InputError, match=r"0\.\.255"):
        cpu.thermometer(a, torch.full((5,), 300))
    codes = cpu.thermometer(a, torch.ones(5)), cpu.thermometer(rows(2, 100, 1, 0.5, 0), torch.ones(100))
    with pytest.raises(ShapeError, match="same code"):
        cpu_tanimoto._from_bits(*codes, None, torch.float32, 1, None)
    with pytest.raises(MemoryBudgetError, match="raise memory_budget"):
        cpu.tanimoto_matmul(a, a, torch.ones(3, 1), 10)
