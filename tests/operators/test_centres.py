"""Centres: spread by k-means or thinned out, in the kernel's own metric."""

from __future__ import annotations

import gpytorch
import pytest
import torch

from sggp.errors import InputError, ShapeError, UnsupportedKernel
from sggp.kernels import TanimotoDotProduct, TanimotoMinMax
from sggp.operators import centres as module
from sggp.operators import select_centres

LENGTHS = torch.tensor([0.5, 4.0], dtype=torch.float64)


def matern() -> gpytorch.kernels.Kernel:
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=2)).double()
    kernel.base_kernel.lengthscale = LENGTHS
    return kernel


def fingerprints(generator, n=200) -> torch.Tensor:
    return torch.poisson(torch.full((n, 15), 0.3), generator=generator).to(torch.uint8)


def test_kmeans_finds_clusters_in_the_kernels_own_units(generator):
    """Groups that are far apart in length scales though not in x: the centres are the groups' means."""
    middle = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 9.0]], dtype=torch.float64)
    noise = torch.randn(90, 2, generator=generator, dtype=torch.float64) * torch.tensor([0.05, 0.4])
    x = 1000.0 + middle.repeat(30, 1) + noise
    found = select_centres(matern(), x, 3, generator=0)
    wanted = x.reshape(30, 3, 2).mean(0)
    apart = torch.cdist(found / LENGTHS, wanted / LENGTHS)
    assert float(apart.min(0).values.max()) < 1e-6
    # one long direction is one short length scale: unscaled distances would split it first
    line = torch.cat([middle[:2] * 0.1, torch.tensor([[0.0, 3.0], [1.0, 3.0]], dtype=torch.float64)])
    two = select_centres(matern(), line, 2, generator=0)
    assert sorted(two[:, 0].tolist()) == pytest.approx([0.0, 1.0])


def test_kmeans_on_mini_batches(monkeypatch, generator):
    monkeypatch.setattr(module, "_FULL_ROWS", 100)
    x = torch.rand(2000, 2, generator=generator, dtype=torch.float32)
    found = select_centres(matern(), x, 25, generator=0)
    assert found.dtype == torch.float32
    assert 20 <= len(found) <= 25
    assert float(torch.cdist(x.double() / LENGTHS, found.double() / LENGTHS).min(1).values.max()) < 0.8


def test_same_seed_same_centres(generator):
    x = torch.rand(300, 2, generator=generator, dtype=torch.float64)
    for method in ("kmeans", "pruning"):
        one, two, other = (select_centres(matern(), x, 20, method=method, generator=s) for s in (1, 1, 2))
        assert torch.equal(one, two)
        assert one.shape != other.shape or not torch.equal(one, other)


def test_fewer_distinct_rows_than_centres(generator):
    x = torch.rand(7, 2, generator=generator, dtype=torch.float64)
    found = select_centres(matern(), x.repeat(4, 1), 10, generator=0)
    assert torch.equal(found, torch.unique(x, dim=0))


@pytest.mark.parametrize("tile", [7, 1024])
def test_pruning_covers_every_row_and_keeps_none_too_many(tile, monkeypatch, generator):
    monkeypatch.setattr(module, "_TILE_ROWS", tile)
    x = 4 * torch.rand(400, 2, generator=generator, dtype=torch.float64)
    for share in (0.1, 0.5):
        kept = select_centres(matern(), x, method="pruning", share=share, generator=0)
        scaled = kept / LENGTHS
        assert float(torch.cdist(x / LENGTHS, scaled).min(1).values.max()) < share
        between = torch.cdist(scaled, scaled)
        between.fill_diagonal_(torch.inf)
        assert float(between.min()) >= share
    few = select_centres(matern(), x, 30, method="pruning", generator=0)
    assert 10 <= len(few) <= 30


@pytest.mark.parametrize("base", [TanimotoMinMax, TanimotoDotProduct])
def test_fingerprints_are_thinned_by_similarity(base, generator):
    kernel = gpytorch.kernels.ScaleKernel(base()).double()
    kernel.outputscale = 3.0
    x = fingerprints(generator)
    kept = select_centres(kernel, x, method="pruning", share=0.46, generator=0)
    assert kept.dtype == torch.uint8
    assert 1 < len(kept) < len(x)
    similarity = kernel(kept.double()).to_dense().detach() / 3.0
    similarity.fill_diagonal_(0)
    assert float(similarity.max()) <= 0.54
    cover = kernel(x.double(), kept.double()).to_dense().detach() / 3.0
    assert float(cover.max(1).values.min()) > 0.54


def test_misuse_is_told(generator):
    x = torch.rand(20, 2, generator=generator, dtype=torch.float64)
    with pytest.raises(UnsupportedKernel, match="pruning"):
        select_centres(TanimotoMinMax(), fingerprints(generator), 5, generator=0)
    with pytest.raises(UnsupportedKernel, match="pruning"):
        select_centres(matern() + gpytorch.kernels.LinearKernel().double(), x, 5, generator=0)
    with pytest.raises(InputError, match="needs num_centres"):
        select_centres(matern(), x)
    with pytest.raises(InputError, match="num_centres"):
        select_centres(matern(), x, 0)
    with pytest.raises(InputError, match="share"):
        select_centres(matern(), x, method="pruning", share=0.0)
    with pytest.raises(InputError, match="method"):
        select_centres(matern(), x, 5, method="best")
    with pytest.raises(ShapeError, match="x must be"):
        select_centres(matern(), x[0], 5)
    with pytest.raises(InputError, match="below 1"):
        select_centres(TanimotoMinMax(), fingerprints(generator), method="pruning", share=2.0)
    unrelated = torch.eye(12, dtype=torch.uint8)
    with pytest.raises(InputError, match="unrelated"):
        select_centres(TanimotoMinMax(), unrelated, 5, method="pruning", generator=0)
