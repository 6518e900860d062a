"""Far fields: tolerances against dense matrices, trees and lists that leave nothing out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sggp.native.cpu import available, instruction_sets
from sggp.native.families import Profile
from sggp.native.far import FarField
from sggp.native.far.lists import far_and_near
from sggp.native.far.near import near_products, near_products_in_torch
from sggp.native.far.tree import enclosing, grow
from sggp.native.reference import stationary_block

FAMILIES = ("rbf", "matern12", "matern32", "matern52")


def rows(kind: str, n: int, d: int, seed: int = 0) -> Tensor:
    """Points within a cube of side one, spread, clustered, repeated or on a line."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, d, generator=generator, dtype=torch.float64)
    if kind == "clustered":
        centre = torch.rand(7, d, generator=generator, dtype=torch.float64)
        x = centre[torch.arange(n) % 7] + 0.01 * (x - 0.5) ** 3
        x[: n // 20] = torch.rand(n // 20, d, generator=generator, dtype=torch.float64)
    elif kind == "repeated":
        x = x[torch.arange(n) % (n // 3)]
    elif kind == "collinear":
        x = x[:, :1] * torch.linspace(1, 0.3, d, dtype=torch.float64)
    elif kind == "thin":
        x[:, -1] *= 0.02
    return x


def dense(a: Tensor, b: Tensor, profile: Profile) -> Tensor:
    return stationary_block(a, b, profile, dtype=torch.float64)


@pytest.mark.parametrize(
    ("d", "lengthscale", "tolerance"),
    [
        *((d, 0.03, 1e-4) for d in (1, 2, 3)),
        *((1, 0.3, 1e-7), (2, 0.3, 1e-7), (3, 0.3, 1e-4)),
        *((1, 3.0, 1e-5), (2, 3.0, 1e-5), (3, 3.0, 1e-3)),
    ],
)
def test_entries_are_within_the_tolerance(d: int, lengthscale: float, tolerance: float) -> None:
    """Of short and long length scales, in either precision, for one column and for many.

    Of one family each: test_far_tolerance.py has all of them in every dimension.
    """
    n, family = 400, list(FAMILIES)[(d + round(lengthscale)) % len(FAMILIES)]
    a, profile = rows("spread", n, d) / lengthscale, Profile(family, scale=2.5)
    field = FarField(a, None, profile, tolerance, capacity=30)
    assert field.near.entries < n**2
    columns = torch.eye(n, dtype=torch.float64)[:, :: 8 if d == 3 else 1]
    wrong = field.matmul(columns) - dense(a, a, profile) @ columns
    assert float(wrong.abs().max()) <= tolerance * profile.scale
    v = torch.randn(n, 1, dtype=torch.float32, generator=torch.Generator().manual_seed(1))
    near = (field.matmul(v).double() - dense(a, a, profile) @ v.double()).norm()
    assert float(near) <= (tolerance + 1e-6) * profile.scale * n**0.5 * float(v.norm())


@pytest.mark.parametrize(
    ("kind", "lengthscale"),
    [("clustered", 0.02), ("clustered", 0.5), ("repeated", 0.5), ("collinear", 0.02), ("thin", 0.5)],
)
def test_points_may_lie_anyhow(kind: str, lengthscale: float) -> None:
    a = rows(kind, 400, 3) / lengthscale
    field = FarField(a, None, Profile("matern32"), 1e-4, capacity=40)
    columns = torch.eye(400, dtype=torch.float64)[:, ::8]
    wrong = field.matmul(columns) - dense(a, a, Profile("matern32")) @ columns
    assert float(wrong.abs().max()) <= 1e-4


@pytest.mark.parametrize("kind", ["spread", "clustered"])
def test_two_sets_of_points(kind: str) -> None:
    """Trees of different depth, with points of one where the other has none."""
    profile = Profile("matern52")
    for n, m in ((900, 150), (150, 900), (3, 900)):
        a, b = 4 * rows("spread", n, 2, seed=1), 5 * rows(kind, m, 2) - 1.5
        field = FarField(a, b, profile, 1e-6, capacity=10)
        wrong = field.matmul(torch.eye(m, dtype=torch.float64)) - dense(a, b, profile)
        assert field.shape == (n, m)
        assert float(wrong.abs().max()) <= 1e-6


def test_points_that_cannot_be_divided() -> None:
    """One place for all, and places so close that keys do not tell them apart."""
    for a in (torch.zeros(80, 2, dtype=torch.float64), 1e-12 * rows("spread", 80, 2) + 1.0):
        field = FarField(a, None, Profile("rbf"), 1e-6, capacity=8)
        assert torch.allclose(
            field.matmul(torch.ones(80, 1, dtype=torch.float64)), torch.full((80, 1), 80.0).double()
        )
    a = torch.cat([torch.zeros(80, 1), torch.ones(3, 1)]).double()
    field = FarField(a, None, Profile("matern12"), 1e-6, capacity=8)
    wrong = field.matmul(torch.eye(83, dtype=torch.float64)) - dense(a, a, Profile("matern12"))
    assert float(wrong.abs().max()) <= 1e-6


def test_a_pair_of_points_is_met_once() -> None:
    """With every coupling left in, near entries and coupled pairs of boxes add up to all pairs of points."""
    a = rows("clustered", 500, 2)
    field = FarField(a, None, Profile("matern12"), 1e-4, capacity=10)
    coupled = 0
    for level, pairs in enumerate(field.far):
        sizes = field.targets.levels[level].stop - field.targets.levels[level].start
        coupled += sum(int((sizes[p.targets] * sizes[p.sources]).sum()) for p in pairs)
    assert coupled + field.near.entries == 500**2


def test_products_are_symmetric() -> None:
    a, u = (
        rows("spread", 400, 3) * 3,
        torch.randn(400, 2, generator=torch.Generator().manual_seed(0)).double(),
    )
    product = FarField(a, None, Profile("matern32"), 1e-4, capacity=20).matmul(u)
    assert abs(float(u[:, 0] @ product[:, 1] - u[:, 1] @ product[:, 0])) <= 1e-12 * float(
        u.norm() * product.norm()
    )


@pytest.mark.skipif(not available(), reason="the C++ engine is not here")
def test_near_products_of_all_instruction_sets() -> None:
    a, profile = rows("clustered", 300, 3) * 50, Profile("matern12", scale=3.0)
    tree = grow(a, enclosing(a), 20)
    near = far_and_near(tree, tree, lambda level, offsets: torch.ones(len(offsets), dtype=torch.bool))[1]
    for dtype, error in ((torch.float32, 3e-5), (torch.float64, 1e-12)):
        v = torch.randn(300, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
        expected = near_products_in_torch(tree.rows, tree.rows, v.double(), profile, near)
        for isa in instruction_sets():
            found = near_products(tree.rows, tree.rows, v, profile, near, isa=isa)
            assert found.dtype == dtype
            assert float((found - expected).abs().max()) <= error
