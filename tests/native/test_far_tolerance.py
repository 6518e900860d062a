"""The tolerance of far fields as products take it, 5e-7 of the scale, entry by entry, for every family."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sggp.native.families import FAMILIES, Profile
from sggp.native.far import FarField
from sggp.native.reference import stationary_block
from sggp.operators.far import TOLERANCES
from tests.native.test_far import rows

ROUNDING = 64 * 2**-24
"""Of an entry in float32: it is a sum over some hundred nodes, of weights whose sizes add up to fifty at most."""
SIDE = 0.25
"""Of the boxes of the first level that is coupled."""


def points(n: int, d: int) -> Tensor:
    """Spread over a unit cube, clustered in part, and some of them in the corners of boxes."""
    x = torch.cat([rows("spread", n // 2, d), rows("clustered", n - n // 2, d)])
    x[:2] = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    corners = x[n // 4 : n // 2]
    corners[:] = (corners / SIDE).round() * SIDE + 1e-3 * SIDE * (corners - 0.5).sign()
    return x.clamp_(0, 1)


CUBES = {"rbf": (0.5, 2.5), "matern12": (0.5,), "matern32": (2.5,), "matern52": (0.5,), "rq": (0.5, 2.5)}
"""Sides of boxes in length scales, in three dimensions, where nodes take a second to choose; both in fewer."""


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_entries_are_within_the_tolerance_of_products(family: str, d: int) -> None:
    """Some columns of K, for boxes of half a length scale and wide ones, where RBF hardly crosses one."""
    n, columns = 320, 8 if d == 3 else 320
    profile = Profile(family, scale=2.5, alpha=0.7 if family == "rq" else None)
    chosen = torch.arange(columns) * (n // columns)
    unit = torch.zeros(n, columns, dtype=torch.float64)
    unit[chosen, torch.arange(columns)] = 1.0
    for boxes in CUBES[family] if d == 3 else (0.5, 2.5):
        a = points(n, d) * (boxes / SIDE)
        field = FarField(a, None, profile, TOLERANCES[0], capacity=30 if d == 3 else 60)
        assert field.near.entries < 0.95 * n * n
        dense = stationary_block(a, a[chosen], profile, dtype=torch.float64)
        wrong = (field.matmul(unit) - dense).abs() / profile.scale
        assert float(wrong.max()) <= TOLERANCES[0]
        narrow = (field.matmul(unit.float()).double() - dense).abs() / profile.scale
        assert float(narrow.max()) <= TOLERANCES[0] + ROUNDING


def test_boxes_too_wide_to_be_coupled_leave_their_pairs_to_their_children() -> None:
    """Of five length scales, whose kernels are not negligible: no entry is lost, and few are met one by one."""
    n, profile = 600, Profile("rbf", scale=1.0)
    a = rows("spread", n, 2) * 20.0
    a[::40] = a[0]  # a deep leaf
    field = FarField(a, None, profile, 1e-10, capacity=4)
    chosen = torch.arange(0, n, 30)
    unit = torch.zeros(n, len(chosen), dtype=torch.float64)
    unit[chosen, torch.arange(len(chosen))] = 1.0
    dense = stationary_block(a, a[chosen], profile, dtype=torch.float64)
    assert float((field.matmul(unit) - dense).abs().max()) <= 1e-10
    assert field.near.entries < 0.3 * n * n
