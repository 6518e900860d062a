"""Checks of tables of numbers."""

from __future__ import annotations

import pytest
import torch

from sggp.arrays import all_finite


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_all_finite_agrees_with_a_look_at_every_number(dtype):
    largest = torch.finfo(dtype).max
    infinite, nan = float("inf"), float("nan")
    for row in ([0.0, -1.5], [largest, largest], [-largest, largest], [], [nan, 1.0], [largest, infinite]):
        assert all_finite(torch.tensor(row, dtype=dtype)) == bool(
            torch.tensor(row, dtype=dtype).isfinite().all()
        )
    for row in ([infinite, -infinite], [largest, largest, nan], [1.0, -infinite]):
        assert not all_finite(torch.tensor(row, dtype=dtype))


def test_all_finite_of_integers_and_of_what_has_a_gradient():
    assert all_finite(torch.tensor([3, -3]))
    assert all_finite(torch.ones(3, requires_grad=True))
