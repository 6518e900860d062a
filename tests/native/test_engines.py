"""Properties of every engine of the catalogue, over random shapes: one row there, and an engine is held to them.

Oracles: tests/oracles.py in extended precision, whole numbers for counts.
"""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from sggp.native.reference import Profile
from tests import oracles
from tests.catalogue import ENGINES, FAMILIES, EngineRow

LIMIT = {torch.float32: 5e-7, torch.float64: 1e-14}  # of the scale, per entry
UNIT = {torch.float32: 6e-8, torch.float64: 1.2e-16}
FORMULAS = {row.name: row.formula for row in FAMILIES}
SPREADS = (1e-8, 1e-3, 0.1, 1.0, 3.0, 30.0, 1e4, 1e12)

every_engine = pytest.mark.parametrize("row", ENGINES, ids=str)
every_family = pytest.mark.parametrize("family", FORMULAS)
pytestmark = pytest.mark.filterwarnings(  # of numpy in Triton's interpreter, where a GPU rounds to 0 or ∞
    "ignore:(overflow|underflow|invalid value|divide by zero) encountered:RuntimeWarning"
)


def profile_of(family: str) -> Profile:
    return Profile(family, 1.3, next(row.alpha for row in FAMILIES if row.name == family))


def shape_of(draw: random.Random, row: EngineRow, largest_d: int = 300) -> tuple[int, int, int, int]:
    """(n, m, d, s), small ones as likely as large ones, a multiple of nothing in particular."""
    if row.most < 10**6:  # an interpreter takes as long for each coordinate as for all entries of a tile
        largest_d = 30

    def up_to(most: int) -> int:
        return round(math.exp(draw.uniform(0.0, math.log(most))))

    d, s = up_to(largest_d), up_to(130)
    m = min(up_to(700), max(1, row.most // d // 4))
    n = min(up_to(200), max(1, row.most // d // m))
    return n, m, d, s


def strided(x: torch.Tensor, draw: random.Random) -> torch.Tensor:
    """The same values, perhaps as every other column of a wider tensor or as a transpose."""
    kind = draw.randrange(3)
    if kind == 0:
        return x
    if kind == 1:
        return x.T.contiguous().T
    wide = torch.full((x.shape[0], 2 * x.shape[1]), float("nan") if x.is_floating_point() else 7).to(x.dtype)
    wide[:, ::2] = x
    return wide[:, ::2]


def points(
    n: int, m: int, d: int, dtype: torch.dtype, draw: random.Random
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets that share rows and have near-duplicates, at some spread."""
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    spread = draw.choice(SPREADS)
    a = torch.randn(n, d, generator=generator, dtype=torch.float64) * spread / d**0.5
    b = torch.randn(m, d, generator=generator, dtype=torch.float64) * spread / d**0.5
    some = min(n, m, 1 + draw.randrange(4))
    b[:some] = a[:some]
    near = min(n, m - some)  # every row of `a` again, further away each time
    if near > 0:
        apart = torch.logspace(-8, 0, near, dtype=torch.float64)[:, None] * spread / d**0.5
        b[m - near :] = a[:near] + apart * torch.randn(near, d, generator=generator, dtype=torch.float64)
    return strided(a.to(dtype), draw), strided(b.to(dtype), draw)


def exact(a: torch.Tensor, b: torch.Tensor, family: str) -> np.ndarray:
    return 1.3 * FORMULAS[family](oracles.distances(a.numpy(), b.numpy(), np.ones(1)))


@every_engine
@every_family
def test_entries_and_products_of_stationary_kernels(row, family, dtype):
    draw = random.Random(f"{family} {dtype}")
    for _ in range(12 if row.most > 10**6 else 4):
        n, m, d, s = shape_of(draw, row)
        a, b = points(n, m, d, dtype, draw)
        k = exact(a, b, family)
        x, z = a.to(row.device), b.to(row.device)
        found = row.module.stationary_block(x, z, profile_of(family), **row.settings).cpu()
        assert found.dtype == dtype
        assert float(np.abs(found.numpy() - k).max()) <= LIMIT[dtype] * 1.3, (n, m, d)
        v = strided(torch.randn(m, s, generator=torch.Generator().manual_seed(s), dtype=dtype), draw)
        product = row.module.stationary_matmul(
            x, z, v.to(row.device), profile_of(family), **row.settings
        ).cpu()
        assert product.shape == (n, s)
        assert product.dtype == dtype
        size = np.abs(v.numpy().astype(np.longdouble))
        slack = LIMIT[dtype] * 1.3 * size.sum(0) + (20 + m**0.5) * UNIT[dtype] * (k @ size)
        assert (np.abs(product.numpy() - k @ v.numpy()) <= slack).all(), (n, m, d, s)


@every_engine
@every_family
def test_square_blocks_are_symmetric_to_rounding_with_the_scale_on_the_diagonal(row, family, dtype):
    draw = random.Random(f"square {family} {dtype}")
    for _ in range(3):
        n, _, d, _ = shape_of(draw, row)
        n = min(n, math.isqrt(row.most // d))
        a, _ = points(n, n, d, dtype, draw)
        x = a.to(row.device)
        found = row.module.stationary_block(x, x, profile_of(family), **row.settings).cpu()
        assert float((found - found.T).abs().max()) <= 2 * UNIT[dtype] * 1.3
        assert torch.equal(found.diagonal(), torch.full((n,), 1.3, dtype=dtype))


def counts_of(n: int, d: int, largest: int, density: float, draw: random.Random) -> torch.Tensor:
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    drawn = torch.randint(1, largest + 1, (n, d), generator=generator)
    return (drawn * (torch.rand(n, d, generator=generator) < density)).to(torch.uint8)


@every_engine
@pytest.mark.parametrize(("largest", "density"), [(1, 0.03), (1, 0.6), (3, 0.05), (6, 0.8), (255, 0.3)])
def test_counts_are_correctly_rounded_quotients_of_whole_numbers(row, largest, density, dtype):
    draw = random.Random(f"{largest} {density} {dtype}")
    number = np.float32 if dtype == torch.float32 else np.float64
    for _ in range(3):
        n, m, d, s = shape_of(draw, row, largest_d=2100)
        a, b = counts_of(n, d, largest, density, draw), counts_of(m, d, largest, density, draw)
        b[0] = a[0]
        a[n // 2], b[m // 2] = 0, 0
        low = np.stack([np.minimum(z, a.numpy()).sum(1, dtype=np.int64) for z in b.numpy()], 1)
        high = np.stack([np.maximum(z, a.numpy()).sum(1, dtype=np.int64) for z in b.numpy()], 1)
        k = np.where(high == 0, number(1), low.astype(number) / np.maximum(high, 1).astype(number))
        x, z = strided(a, draw).to(row.device), strided(b, draw).to(row.device)
        assert np.array_equal(
            row.module.tanimoto_block(x, z, dtype=dtype, **row.settings).cpu().numpy(), k
        ), (n, m, d)
        v = torch.randn(m, s, generator=torch.Generator().manual_seed(s), dtype=dtype)
        found = row.module.tanimoto_matmul(x, z, v.to(row.device), **row.settings).cpu().numpy()
        wide = k.astype(np.longdouble)
        slack = (20 + m**0.5) * UNIT[dtype] * (wide @ np.abs(v.numpy()).astype(np.longdouble))
        assert (np.abs(found - wide @ v.numpy().astype(np.longdouble)) <= slack).all(), (n, m, d, s)


def test_every_engine_of_this_machine_has_a_row():
    """The table is not empty for want of an import."""
    from sggp.native import cpu

    names = {row.name for row in ENGINES}
    assert "reference" in names
    assert {f"cpp-{isa}" for isa in cpu.instruction_sets()} <= names
