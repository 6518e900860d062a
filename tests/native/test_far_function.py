"""Sums with fixed weights as functions: against dense matrices, wherever values are asked for."""

from __future__ import annotations

import pytest
import torch

from sggp.native.families import Profile
from sggp.native.far import FarFunction
from sggp.native.far import function as module
from sggp.native.reference import stationary_block
from tests.native.test_far import rows


@pytest.mark.parametrize(
    ("kind", "d"),
    [
        ("spread", 1),
        ("spread", 2),
        ("clustered", 1),
        ("clustered", 3),
        ("collinear", 2),
        ("thin", 2),
        ("thin", 3),
    ],
)
def test_values_are_those_of_dense_sums(kind: str, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among the sources, between them and half their extent outside; with groups and blocks of a few points."""
    monkeypatch.setattr(module, "_GROUP", 7)
    monkeypatch.setattr(module, "_ROWS", 150)
    b, profile = 4 * rows(kind, 400, d), Profile("matern32", scale=2.0)
    function = FarFunction(b, profile, 1e-4, capacity=20)
    low, high = b.min(0).values, b.max(0).values
    x = torch.cat([low + (high - low) * (2 * rows("spread", 200, d, seed=4) - 0.5), b[:60]])
    assert bool(function.inside(x).all())
    assert not bool(function.inside(high[None] + 0.6 * (high - low)).any())
    dense = stationary_block(x, b, profile, dtype=torch.float64)
    v = torch.randn(400, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v[0, 0], v[1:, 0] = 1.0, 0.0  # one entry of each row
    function.weigh(v)
    wide = function(x)
    wrong = wide - dense @ v
    assert float(wrong[:, 0].abs().max()) <= 1e-4 * profile.scale
    assert float(wrong.norm()) <= 1e-4 * profile.scale * float(v.norm()) * len(x) ** 0.5
    assert function.near_rows < len(b)
    function.weigh(v.float())
    assert function(x).dtype == torch.float32
    assert torch.allclose(function(x).double(), wide, atol=1e-3)


def test_no_weights_and_few_points() -> None:
    function = FarFunction(rows("spread", 50, 2), Profile("rbf"), 1e-5, capacity=10)
    assert function(rows("spread", 3, 2)).shape == (3, 0)
    function.weigh(torch.ones(50, 1, dtype=torch.float64))
    assert function(rows("spread", 0, 2)).shape == (0, 1)
    one = FarFunction(torch.zeros(5, 2, dtype=torch.float64), Profile("rbf"), 1e-5, capacity=10)
    one.weigh(torch.ones(5, 1, dtype=torch.float64))
    assert torch.equal(one(torch.zeros(1, 2, dtype=torch.float64)), torch.full((1, 1), 5.0).double())
