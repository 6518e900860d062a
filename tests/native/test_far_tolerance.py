"""The tolerance of far fields as products take it, 5e-7 of the scale, measured entry by entry in three dimensions."""

from __future__ import annotations

import pytest
import torch

from sggp.native.families import Profile
from sggp.native.far import FarField
from sggp.native.reference import stationary_block
from sggp.operators.far import TOLERANCES
from tests.native.test_far import rows

ROUNDING = 64 * 2**-24
"""Of an entry in float32: it is a sum over some hundred nodes, of weights whose sizes add up to fifty at most."""


@pytest.mark.parametrize("family", ["rbf", "matern32"])
def test_entries_in_three_dimensions(family: str) -> None:
    """Some columns of K as products with unit vectors; boxes of three length scales, where RBF hardly crosses one."""
    n, columns = 500, 16
    profile = Profile(family, scale=2.5, alpha=0.7 if family == "rq" else None)
    unit = torch.zeros(n, columns, dtype=torch.float64)
    chosen = torch.arange(0, 30 * columns, 30)
    unit[chosen, torch.arange(columns)] = 1.0
    for kind in ("spread", "clustered"):
        x = rows(kind, n, 3)
        x[:2] = torch.tensor([[0.0], [1.0]], dtype=torch.float64)  # the same boxes for both
        a = x / 0.08
        field = FarField(a, None, profile, TOLERANCES[0], capacity=40)
        assert field.near.entries < 0.9 * n * n
        dense = stationary_block(a, a[chosen], profile, dtype=torch.float64)
        wrong = (field.matmul(unit) - dense).abs() / profile.scale
        assert float(wrong.max()) <= TOLERANCES[0]
        narrow = (field.matmul(unit.float()).double() - dense).abs() / profile.scale
        assert float(narrow.max()) <= TOLERANCES[0] + ROUNDING
