"""Far fields in plans, against the count of a far field itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sggp.native.families import Profile
from sggp.operators.far import FarMatrix
from sggp.planning import Device, plan_fit, product_seconds
from sggp.planning.far import far_work
from sggp.preconditioners import Balanced
from sggp.preconditioners.balanced import Rows

ROUND = Device("round", evaluation=1e9, flops=1e11, flops64=5e10, systems=1e5, memory=1e10, link=1e9)


def refused(rows, v):
    raise AssertionError("nothing is multiplied")


@pytest.mark.parametrize(
    ("n", "d", "kernel", "extent"),
    [(20_000, 1, "matern32", 3), (20_000, 2, "matern32", 3), (35_000, 2, "rbf", 5), (40_000, 3, "rbf", 4)],
)
def test_work_is_that_of_a_far_field(n, d, kernel, extent):
    x = extent * torch.rand(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    real = FarMatrix([(x, None, Profile(kernel))], refused)
    planned = far_work(n, d, kernel, extent)
    assert planned.near + planned.coefficients == pytest.approx(real.entries_per_product, rel=0.3)
    for columns in (1, 17, 65):
        assert planned.entries(columns) == pytest.approx(real.work(columns), rel=0.3)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_products_take_longer_with_more_rows_and_far_less_than_pairs(d):
    sizes = [50_000 * 2**i for i in range(11)]
    seconds = [product_seconds(ROUND, n, d, 17) for n in sizes]
    assert seconds == sorted(seconds)
    pairs = product_seconds(replace(ROUND, kind="cuda"), sizes[-1], d, 17)
    assert seconds[-1] < pairs / 1000


def test_no_far_field_where_there_is_none():
    cuda = replace(ROUND, kind="cuda")
    assert product_seconds(cuda, 200_000, 3, 1) == pytest.approx(4 * product_seconds(cuda, 100_000, 3, 1))
    assert product_seconds(ROUND, 200_000, 4, 1) == pytest.approx(4 * product_seconds(ROUND, 100_000, 4, 1))
    assert far_work(11_999, 2) is None
    assert far_work(12_000, 3, "matern12") is None  # it would not pay
    assert "far field" not in str(plan_fit(1e6, 3, device=cuda))


def test_a_far_field_is_not_shared_by_devices():
    several = replace(ROUND, count=4)
    assert product_seconds(several, 100_000, 3, 17) == product_seconds(ROUND, 100_000, 3, 17)
    assert plan_fit(1e5, 3, device=several).parts[2].waiting == 0


def test_landmarks_are_planned_where_rank_is_too_little():
    two, three = (plan_fit(1e5, d, samples=0, device=ROUND) for d in (2, 3))
    assert two.parts[1].what == "rank 200, 0 neighbours"
    assert three.parts[1].what.startswith("LocalNystrom(rank=")
    assert "by a far field" in three.parts[2].what
    assert plan_fit(1e5, 3, samples=0, device=ROUND, passes=40).parts[2].seconds > 4 * three.parts[2].seconds


def test_landmarks_are_evaluated_anew_where_memory_does_not_hold_the_rank():
    held, not_held = (plan_fit(n, 10, samples=0, device=ROUND) for n in (2e4, 1e6))
    assert held.parts[1].what.startswith("rank ")
    assert not_held.parts[1].what.startswith("RecomputedNystrom(rank=")
    assert not_held.memory < 4 * 2**30


def test_a_grid_orders_without_looking_at_pairs():
    def work(n: int, columns: int | None = None) -> float:
        return Balanced.setup_work(Rows(n, n, columns), (0, 20), 0)

    assert work(100_000) - work(100_000, 3) == 1.5 * 100_000
    assert work(100_000, 4) == work(100_000)
    assert work(60_000, 3) == work(60_000)
