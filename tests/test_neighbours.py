"""Neighbour search against brute force over all distances."""

from __future__ import annotations

import sys

import pytest
import torch

from sggp import neighbours
from sggp.errors import InputError, MissingExtra, ShapeError
from sggp.neighbours import earlier_neighbours, max_min_ordering, nearest
from sggp.neighbours.ordering import grid_ordering


def brute_earlier(points: torch.Tensor, order: torch.Tensor, k: int) -> torch.Tensor:
    ordered = points[order].double()
    distance = (ordered[:, None] - ordered[None]).square().sum(-1).sqrt()
    distance[torch.ones_like(distance, dtype=torch.bool).triu()] = torch.inf
    value, index = distance.topk(k, largest=False)
    return torch.where(value < torch.inf, index, -1)


@pytest.mark.parametrize(("n", "d"), [(300, 2), (300, 9), (5000, 2)], ids=["small", "tiles", "trees"])
def test_earlier_neighbours_are_the_nearest_earlier_rows(n, d, generator):
    points = torch.randn(n, d, generator=generator, dtype=torch.float64)
    order = torch.randperm(n, generator=generator)
    found = earlier_neighbours(points, order, 7)
    wanted = brute_earlier(points, order, 7)
    assert torch.equal(found.sort(1).values, wanted.sort(1).values)
    assert bool((found < torch.arange(n)[:, None]).all())
    assert bool((found[0] == -1).all())


def test_far_from_the_origin(generator):
    points = torch.randn(200, 8, generator=generator, dtype=torch.float64)
    order = torch.arange(200)
    assert torch.equal(
        earlier_neighbours(points + 1e6, order, 5).sort(1).values,
        brute_earlier(points, order, 5).sort(1).values,
    )


@pytest.mark.parametrize("d", [3, 12])
def test_nearest(d, generator):
    points = torch.randn(400, d, generator=generator, dtype=torch.float64)
    queries = torch.randn(31, d, generator=generator, dtype=torch.float64)
    wanted = torch.cdist(queries, points).topk(6, largest=False).indices
    assert torch.equal(nearest(points, queries, 6), wanted)
    assert nearest(points[:3], queries, 6).shape == (31, 3)


@pytest.mark.parametrize(("n", "d"), [(9000, 3), (4200, 9)])
def test_the_tree_is_exact_when_asked_for(n, d, generator):
    points = torch.randn(n, d, generator=generator)
    order = torch.randperm(n, generator=generator)
    found = earlier_neighbours(points, order, 5, method="tree")
    assert torch.equal(
        found.sort(1).values, earlier_neighbours(points, order, 5, method="exact").sort(1).values
    )


def recall(found: torch.Tensor, wanted: torch.Tensor) -> float:
    known = wanted >= 0
    return float(((wanted[:, :, None] == found[:, None]).any(2) & known).sum() / known.sum())


@pytest.mark.parametrize("ordering", ["random", "sorted", "two clusters"])
def test_approximate_neighbours_find_nine_in_ten(ordering, generator):
    pytest.importorskip("faiss")
    n, d, k = 9000, 8, 10
    points = torch.randn(n, d, generator=generator)
    order = torch.randperm(n, generator=generator) if ordering == "random" else points[:, 0].argsort()
    if (
        ordering == "two clusters"
    ):  # of the first rows of the second one, thousands of the nearest rows are later
        points[order[4100:]] += 100.0
    found = earlier_neighbours(points, order, k, method="approximate")
    assert bool((found < torch.arange(n)[:, None]).all())
    ranks = found.sort(1).values
    assert not bool(((ranks[:, 1:] == ranks[:, :-1]) & (ranks[:, 1:] >= 0)).any())
    assert torch.equal((found >= 0).sum(1), torch.arange(n).clamp(max=k))
    distance = (points[order][found.clamp_min(0)] - points[order][:, None]).square().sum(2)
    assert bool((distance.diff(dim=1)[k:] >= -1e-4).all())
    assert recall(found, earlier_neighbours(points, order, k, method="exact")) >= 0.9


def test_without_faiss_only_approximate_neighbours_fail(monkeypatch, generator):
    monkeypatch.setitem(sys.modules, "faiss", None)
    points, order = torch.randn(5000, 2, generator=generator), torch.arange(5000)
    assert earlier_neighbours(points, order, 3).shape == (5000, 3)
    with pytest.raises(MissingExtra, match=r"sggp\[neighbours\]"):
        earlier_neighbours(points, order, 3, method="approximate")


def test_bad_arguments():
    points = torch.zeros(4, 2)
    with pytest.raises(InputError):
        nearest(points, points, 0)
    with pytest.raises(ShapeError):
        nearest(points, torch.zeros(4, 3), 1)
    with pytest.raises(ShapeError):
        earlier_neighbours(torch.zeros(4), torch.arange(4), 1)
    with pytest.raises(InputError, match="method"):
        earlier_neighbours(points, torch.arange(4), 1, method="kd")


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("n", "d"), [(1, 2), (2, 1), (700, 1), (900, 3), (400, 30)])
def test_coarse_to_fine_keeps_rows_apart(n, d, compiled, generator, monkeypatch):
    """A permutation in which each row is at least half as far from all earlier ones as any later row."""
    if not compiled:
        monkeypatch.setattr("sggp.native.library.available", lambda: False)
    points = torch.randn(n, d, generator=generator, dtype=torch.float64)
    order = neighbours.coarse_to_fine(points, generator)
    assert torch.equal(order.sort().values, torch.arange(n))
    gaps = torch.cdist(points[order], points[order])
    for i in range(1, n, max(1, n // 60)):
        nearest_earlier = gaps[i:, :i].amin(1)
        assert float(nearest_earlier[0]) >= 0.499 * float(nearest_earlier.max())


def test_coarse_to_fine_puts_repeats_last(generator):
    points = torch.randn(50, 2, generator=generator, dtype=torch.float64).repeat(3, 1)
    order = neighbours.coarse_to_fine(points, generator)
    assert len(set((order[:50] % 50).tolist())) == 50


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("kind", ["uniform", "clustered", "repeated"])
def test_a_grid_orders_from_coarse_to_fine(d: int, kind: str, generator: torch.Generator) -> None:
    """The first points are one of each occupied cell, whatever the width of the cells."""
    x = torch.rand(3000, d, generator=generator)
    if kind == "clustered":
        x[500:] = 0.3 + 0.01 * x[500:]
    if kind == "repeated":
        x[1000:] = x[:2000].clone()
    order = grid_ordering(x)
    assert sorted(order.tolist()) == list(range(3000))
    z = (x - x.amin(0)).double()
    for level in range(8):
        cell = (z / z.max() * 2**level).long().clamp_(max=2**level - 1)
        occupied = len(cell.unique(dim=0))
        assert len(cell[order[:occupied]].unique(dim=0)) == occupied


def test_many_rows_in_few_columns_are_ordered_by_a_grid(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    monkeypatch.setattr("sggp.neighbours.ordering._GRID_ROWS", 500)
    seen: list[int] = []
    monkeypatch.setattr(
        "sggp.neighbours.ordering.grid_ordering",
        lambda points: seen.append(points.shape[1]) or grid_ordering(points),
    )
    x = torch.rand(500, 5, generator=generator)
    max_min_ordering(x, generator)
    assert seen == []
    x[:, [1, 4]] = 0.5  # three columns are left
    order = max_min_ordering(x, generator)
    assert seen == [3]
    assert sorted(order.tolist()) == list(range(500))
