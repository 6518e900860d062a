"""Fused small systems against the batched torch route and dense algebra, on every instruction set."""

from __future__ import annotations

import pytest
import torch

from sggp.native import library, neighbours
from sggp.native.reference import Profile

if not library.available():
    pytest.skip("the C++ engine is not built", allow_module_level=True)

FAMILIES = {
    "rbf": lambda q: torch.exp(-q / 2),
    "matern12": lambda q: torch.exp(-q.sqrt()),
    "matern32": lambda q: (1 + (3 * q).sqrt()) * torch.exp(-(3 * q).sqrt()),
    "matern52": lambda q: (1 + (5 * q).sqrt() + 5 * q / 3) * torch.exp(-(5 * q).sqrt()),
    "rq": lambda q: (1 + q / (2 * 1.7)) ** -1.7,
}


def dense(points: torch.Tensor, family: str, scale: float) -> torch.Tensor:
    return scale * FAMILIES[family]((points[:, None] - points[None]).square().sum(-1))


@pytest.mark.parametrize("isa", library.instruction_sets())
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("width", "d", "rank"), [(1, 1, 0), (2, 3, 1), (9, 26, 5), (41, 4, 33), (48, 2, 0)])
def test_columns_of_the_inverse_factor(isa, family, width, d, rank, generator):
    n, scale = 60, 1.3
    points = torch.randn(n, d, generator=generator, dtype=torch.float64)
    profile = Profile(family, scale, 1.7 if family == "rq" else None)
    kernel = dense(points, family, scale)
    low_rank = None
    if rank:
        low_rank = torch.linalg.cholesky(kernel + 1e-9 * torch.eye(n))[:, :rank].contiguous()
        kernel = kernel - low_rank @ low_rank.T
    noise = torch.rand(n, generator=generator, dtype=torch.float64) * 0.2 + 0.05
    index = torch.stack([torch.randperm(n, generator=generator)[:width] for _ in range(7)])
    real = torch.rand(7, width, generator=generator) > 0.3
    real[:, -1] = True
    found = neighbours.sparse_columns(points, profile, noise, low_rank, index, real, isa=isa)
    for i in range(7):
        rows = index[i, real[i]]
        system = kernel[rows][:, rows] + torch.diag(noise[rows])
        last = torch.linalg.inv(system)[:, -1]
        torch.testing.assert_close(found[i, real[i]], last / last[-1].sqrt(), rtol=1e-7, atol=1e-8)
        assert bool((found[i, ~real[i]] == 0).all())


@pytest.mark.parametrize("isa", library.instruction_sets())
@pytest.mark.parametrize(("count", "d", "rank"), [(1, 1, 1), (13, 5, 40), (24, 30, 129)])
def test_residual_scores(isa, count, d, rank, generator):
    points = torch.randn(50, d, generator=generator, dtype=torch.float64)
    low_rank = 0.1 * torch.randn(50, rank, generator=generator)
    weight = torch.rand(50, generator=generator)
    own = torch.randperm(50, generator=generator)[:9]
    candidates = torch.randint(-1, 50, (9, count), generator=generator)
    found = neighbours.residual_scores(
        points, Profile("matern32", 0.7, None), low_rank, weight, own, candidates, isa=isa
    )
    residual = dense(points, "matern32", 0.7) - low_rank.double() @ low_rank.double().T
    wanted = residual[own[:, None], candidates].abs() * weight[candidates]
    wanted = torch.where(candidates >= 0, wanted, -1.0)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)


def test_equal_rows_get_a_jitter_not_a_failure():
    points = torch.zeros(3, 2, dtype=torch.float64)
    index, real = torch.tensor([[0, 1, 2]]), torch.ones(1, 3, dtype=torch.bool)
    found = neighbours.sparse_columns(
        points, Profile("rbf", 1.0, None), torch.zeros(3, dtype=torch.float64), None, index, real
    )
    assert bool(found.isfinite().all())


def test_what_has_no_factor_is_an_error():
    points = torch.zeros(2, 1, dtype=torch.float64)
    huge = torch.full((2, 1), 1e3, dtype=torch.float64)
    index, real = torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool)
    noise = torch.full((2,), float("nan"), dtype=torch.float64)
    with pytest.raises(library.NativeError):
        neighbours.sparse_columns(points, Profile("rbf", 1.0, None), noise, huge, index, real)


@pytest.mark.parametrize("isa", library.instruction_sets())
@pytest.mark.parametrize(
    ("n", "d", "k"), [(1, 3, 2), (5, 1, 9), (300, 2, 7), (1000, 26, 40), (700, 90, 300), (3000, 1, 7)]
)
def test_nearest_rows_are_the_nearest(isa, n, d, k, generator):
    """Against a sort of all distances in float64; whole coordinates, so that no distance is rounded."""
    points = torch.randint(-50, 50, (n, d), generator=generator).float()
    queries = torch.randint(-50, 50, (17, d), generator=generator).float()
    everything = torch.cdist(queries.double(), points.double()).square().round()
    found = neighbours.nearest(points, queries, k, isa=isa)
    some = min(k, n)
    assert bool((found[:, some:] == -1).all())
    assert torch.equal(found[:, :some], everything.sort(stable=True).indices[:, :some])  # of equals the first
    among = torch.cdist(points.double(), points.double()).square().round()
    some = torch.arange(0, n, 3)
    for rows in (torch.arange(n), some, some[torch.randperm(len(some), generator=generator)]):
        earlier = neighbours.nearest(points, points[rows], k, before=rows, isa=isa)
        for row, found in list(zip(rows.tolist(), earlier, strict=True))[:: max(1, len(rows) // 20)]:
            real = found[found >= 0]
            assert len(real) == min(row, k)
            assert bool((found[len(real) :] == -1).all())
            assert bool((real < row).all())
            assert torch.equal(among[row, real], among[row, :row].sort().values[:k])


@pytest.mark.parametrize("isa", library.instruction_sets())
@pytest.mark.parametrize("columns", [1, 8, 13, 130])
def test_square_of_a_sparse_factor(isa, columns, generator):
    n, width = 120, 6
    index = torch.stack([torch.randperm(n, generator=generator)[:width] for _ in range(n)])
    values = torch.randn(n, width, generator=generator, dtype=torch.float64)
    values[::3, 2] = 0.0
    dense = torch.zeros(n, n, dtype=torch.float64)
    for column in range(n):
        dense[index[column], column] = values[column]
    v = torch.randn(columns, n, generator=generator, dtype=torch.float64).T
    found = neighbours.sparse_square(index, values, v, isa=isa)
    torch.testing.assert_close(found, dense @ (dense.T @ v), rtol=0, atol=1e-11)
