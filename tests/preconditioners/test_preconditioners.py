"""Preconditioners against dense algebra: exact where they must be, positive definite always."""

from __future__ import annotations

import math

import gpytorch
import pytest
import torch

from sggp.errors import InputError, UnsupportedOperator
from sggp.kernels import TanimotoMinMax
from sggp.operators import KernelOperator
from sggp.preconditioners import (
    Given,
    LocalNystrom,
    LowRankPlusNeighbour,
    NearestNeighbour,
    Nystrom,
    PivotedCholesky,
    RecomputedNystrom,
    Rooted,
)
from sggp.preconditioners.base import gram
from sggp.preconditioners.low_rank import pivoted_cholesky, random_pivoted_cholesky, uniform_nystrom
from sggp.preconditioners.recomputed import landmark_factor

ALL = [
    Nystrom(30),
    Nystrom(30, landmarks="uniform"),
    PivotedCholesky(30),
    NearestNeighbour(8),
    LowRankPlusNeighbour(30, 8),
    LocalNystrom(30, 8),
    RecomputedNystrom(30),
]
N = 120


def rbf() -> gpytorch.kernels.Kernel:
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel()).double()
    kernel.outputscale, kernel.base_kernel.lengthscale = 2.0, 0.7
    return kernel


@pytest.fixture
def operator(generator: torch.Generator) -> KernelOperator:
    x = torch.randn(N, 2, generator=generator, dtype=torch.float64)
    return KernelOperator(rbf(), x, torch.rand(N, generator=generator, dtype=torch.float64) * 0.1 + 0.01)


def as_matrix(built, dtype=torch.float64) -> torch.Tensor:
    return built.apply(torch.eye(N, dtype=dtype))


@pytest.mark.parametrize("preconditioner", ALL, ids=repr)
def test_symmetric_positive_definite_with_its_own_log_det(preconditioner, operator, generator):
    built = preconditioner.build(operator, generator)
    inverse = as_matrix(built)
    torch.testing.assert_close(inverse, inverse.T, rtol=1e-8, atol=1e-8)
    values = torch.linalg.eigvalsh(inverse)
    assert float(values.min()) > 0
    assert built.log_det == pytest.approx(-float(values.log().sum()), abs=1e-6)


@pytest.mark.parametrize("preconditioner", ALL, ids=repr)
def test_root_squares_to_the_inverse(preconditioner, operator, generator):
    built = preconditioner.build(operator, generator)
    assert isinstance(built, Rooted)
    root, identity = built.root(torch.eye(N)), torch.eye(N, dtype=torch.float64)
    torch.testing.assert_close(built.root_transpose(identity), root.T, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(root @ root.T, as_matrix(built), rtol=1e-7, atol=1e-7)


def test_a_given_preconditioner_is_used_as_it_is(operator, generator):
    built = NearestNeighbour(8).build(operator, generator)
    assert Given(built).build(operator, generator) is built


@pytest.mark.parametrize("preconditioner", ALL, ids=repr)
def test_applies_to_single_precision(preconditioner, operator, generator):
    built = preconditioner.build(operator, generator)
    single = as_matrix(built, torch.float32)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), as_matrix(built), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    "preconditioner",
    [
        Nystrom(N),
        PivotedCholesky(N),
        NearestNeighbour(N),
        LowRankPlusNeighbour(20, N),
        LocalNystrom(N, N),
        RecomputedNystrom(N),
    ],
    ids=repr,
)
def test_exact_when_nothing_is_left_out(preconditioner, operator, generator):
    built = preconditioner.build(operator, generator)
    product = as_matrix(built) @ operator.dense()
    torch.testing.assert_close(product, torch.eye(N, dtype=torch.float64), rtol=0, atol=1e-5)
    assert built.log_det == pytest.approx(float(torch.linalg.slogdet(operator.dense())[1]), abs=1e-5)


@pytest.mark.parametrize("neighbours", [6, 25])
def test_rows_are_interpolated_from_their_nearest_landmarks(neighbours, operator, generator):
    """P = WKWᵀ + D, by dense algebra: conditional means and variances given the nearest landmarks, without noise."""
    order = operator.ordering(generator)
    landmarks, kernel = order[:25], operator.dense() - torch.diag(operator.noise_variance)
    built = LocalNystrom(25, neighbours).built(operator, order)
    weights, left = torch.zeros(N, 25, dtype=torch.float64), operator.noise_variance.clone()
    for i in range(N):
        near = (operator.x[landmarks] - operator.x[i]).norm(dim=1).topk(neighbours, largest=False).indices
        some = landmarks[near]
        weights[i, near] = torch.linalg.solve(kernel[some][:, some], kernel[some, i])
        left[i] += kernel[i, i] - weights[i, near] @ kernel[some, i]
    dense = weights @ kernel[landmarks][:, landmarks] @ weights.T + torch.diag(left)
    torch.testing.assert_close(as_matrix(built) @ dense, torch.eye(N, dtype=torch.float64), rtol=0, atol=2e-4)
    assert built.log_det == pytest.approx(float(torch.linalg.slogdet(dense)[1]), abs=1e-4)


def test_landmarks_need_a_metric(generator):
    counts = torch.randint(0, 3, (20, 30), generator=generator)
    operator = KernelOperator(TanimotoMinMax(), counts, 0.1, dtype=torch.float64)
    with pytest.raises(UnsupportedOperator, match=r"KernelOperator.*use Nystrom"):
        LocalNystrom(5, 3).build(operator, generator)


def test_landmarks_are_for_the_cpu(operator, generator, monkeypatch):
    monkeypatch.setattr(operator, "device", torch.device("cuda"))
    with pytest.raises(UnsupportedOperator, match="for the CPU, got cuda"):
        LocalNystrom(5, 3).built(operator, torch.arange(N))


def test_both_parts_beat_either_alone(operator, generator):
    dense = operator.dense()

    def condition(preconditioner):
        values = torch.linalg.eigvals(as_matrix(preconditioner.build(operator, generator)) @ dense).real
        return float(values.max() / values.min())

    both = condition(LowRankPlusNeighbour(20, 8))
    assert both < condition(NearestNeighbour(8))
    assert both < condition(Nystrom(20))


def test_gram_is_the_product_by_tiles(generator):
    for rank in (0, 5, 256, 600):
        a = torch.randn(40, rank, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(gram(a), a.T @ a)


@pytest.mark.parametrize("lost", [0.0, math.inf], ids=["divided", "as a whole"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_columns_evaluated_anew_are_the_uniform_factor(dtype, lost, operator, generator, monkeypatch):
    """P = K_XL K_LL⁻¹ K_LX + Σ by dense algebra, from the rows as given and summed over several blocks."""
    monkeypatch.setattr("sggp.preconditioners.recomputed._ROWS", 50)
    monkeypatch.setattr("sggp.preconditioners.recomputed._LOST", lost)
    operator = KernelOperator(rbf(), operator.x, operator.noise_variance, dtype=dtype)
    some = torch.randperm(N, generator=generator)
    kernel = operator.dense() - torch.diag(operator.noise_variance)
    columns = kernel[:, some[:20]]
    low_rank = columns @ torch.linalg.solve(columns[some[:20]], columns.T)
    dense = low_rank + torch.diag(operator.noise_variance)
    built = RecomputedNystrom(20).built(operator, some)
    torch.testing.assert_close(as_matrix(built) @ dense, torch.eye(N, dtype=torch.float64), rtol=0, atol=1e-6)
    assert built.log_det == pytest.approx(float(torch.linalg.slogdet(dense)[1]), abs=1e-6)


def test_landmarks_that_nearly_repeat_are_divided_block_by_block(generator):
    """Pairs of rows 1e-4 apart: the sum of all blocks would be divided by eigenvalues that are lost in its rounding."""
    x = 3 * torch.randn(N // 2, 2, generator=generator, dtype=torch.float64)
    operator = KernelOperator(rbf(), torch.cat([x, x + 1e-4]), 1e-5)
    apart = RecomputedNystrom(N // 2).built(operator, torch.arange(N))
    near = RecomputedNystrom(N).built(operator, torch.arange(N))
    assert (apart._divided, near._divided) == (False, True)
    product = as_matrix(near) @ operator.dense()
    torch.testing.assert_close(product, torch.eye(N, dtype=torch.float64), rtol=0, atol=1e-2)


def test_columns_evaluated_anew_need_products_with_blocks(operator, generator, monkeypatch):
    monkeypatch.setattr(KernelOperator, "cross_matmul", None)
    with pytest.raises(UnsupportedOperator, match=r"KernelOperator does not offer; use Nystrom"):
        RecomputedNystrom(5).build(operator, generator)


def test_pivots_follow_what_is_left(operator, generator):
    """Greedy pivots: the error of the diagonal equals that of a textbook pivoted Cholesky."""
    kernel = operator.dense() - torch.diag(operator.noise_variance)
    factor = pivoted_cholesky(operator, 15)
    left = kernel.clone()
    for _ in range(15):
        pivot = int(left.diagonal().argmax())
        left = left - torch.outer(left[pivot], left[pivot]) / left[pivot, pivot]
    torch.testing.assert_close(
        (factor @ factor.T).diagonal(), (kernel - left).diagonal(), rtol=1e-8, atol=1e-8
    )


def test_landmarks_go_where_nothing_is_explained_yet(generator):
    """A crowd in one place and a few outliers: uniform landmarks miss the outliers, the others find them."""
    crowd = 0.05 * torch.randn(N - 12, 2, generator=generator, dtype=torch.float64)
    outliers = 8 * torch.randn(12, 2, generator=generator, dtype=torch.float64)
    operator = KernelOperator(rbf(), torch.cat([crowd, outliers]), 0.01)
    kernel = operator.dense() - torch.diag(operator.noise_variance)

    def left(factor):
        return float((kernel - factor @ factor.T).trace() / kernel.trace())

    assert left(pivoted_cholesky(operator, 18)) < 0.01
    assert left(random_pivoted_cholesky(operator, 18, generator)) < 0.05
    assert left(uniform_nystrom(operator, 18, generator)) > 0.05


def test_repeated_rows_do_no_harm(generator):
    x = torch.randn(60, 2, generator=generator, dtype=torch.float64)
    operator = KernelOperator(rbf(), torch.cat([x, x]), 1e-4)
    for preconditioner in ALL:
        inverse = as_matrix(preconditioner.build(operator, generator))
        assert bool(inverse.isfinite().all())
        assert float(torch.linalg.eigvalsh(0.5 * (inverse + inverse.T)).min()) > 0


def test_fingerprints(generator):
    counts = torch.poisson(torch.full((N, 64), 0.3), generator=generator).to(torch.uint8)
    operator = KernelOperator(
        gpytorch.kernels.ScaleKernel(TanimotoMinMax()), counts, 0.05, dtype=torch.float64
    )
    dense = operator.dense()
    plain = torch.linalg.cond(dense)
    for preconditioner in (p for p in ALL if not isinstance(p, LocalNystrom)):
        inverse = as_matrix(preconditioner.build(operator, generator))
        values = torch.linalg.eigvals(inverse @ dense).real
        assert float(values.max() / values.min()) < float(plain)


def test_more_rank_than_the_kernel_has(generator):
    """A kernel of rank 3 asked for 30 columns."""
    kernel = gpytorch.kernels.LinearKernel().double()
    x = torch.randn(N, 3, generator=generator, dtype=torch.float64)
    operator = KernelOperator(kernel, x, 0.1)
    assert pivoted_cholesky(operator, 30).shape[1] == 3
    for preconditioner in (Nystrom(30), RecomputedNystrom(30)):
        product = as_matrix(preconditioner.build(operator, generator)) @ operator.dense()
        torch.testing.assert_close(product, torch.eye(N, dtype=torch.float64), rtol=0, atol=1e-5)


def test_pivots_are_not_taken_where_only_the_errors_of_entries_are_left():
    """A smooth kernel whose entries are right to 1e-9: so is the factor; such pivots would multiply errors."""
    n, error, generator = 100, 1e-9, torch.Generator().manual_seed(1)
    kernel = gpytorch.kernels.RBFKernel().double()
    kernel.lengthscale = 0.1
    exact = KernelOperator(kernel, torch.rand(n, 1, generator=generator, dtype=torch.float64), 0.0).dense()
    wrong = error * torch.randn(n, n, generator=generator, dtype=torch.float64)
    entries = exact + wrong + wrong.T

    class Inexact:
        def kernel_diagonal(self):
            return entries.diagonal().clone()

        def cross_block(self, rows, columns):
            return entries[rows][:, columns]

    greedy, drawn = pivoted_cholesky(Inexact(), n), random_pivoted_cholesky(Inexact(), n // 2, generator)
    assert float((greedy @ greedy.T - exact).abs().max()) < 100 * error
    assert float((drawn @ drawn.T - exact).abs().max()) < 1e5 * error


def test_a_kernel_that_returns_nan_is_an_error(generator):
    """Of the low-rank factor; it raised its jitter for ever."""

    class Broken:
        shape, device = (20, 20), torch.device("cpu")

        def kernel_diagonal(self):
            return torch.ones(20, dtype=torch.float64)

        def cross_block(self, rows, columns):
            return torch.full((len(rows), len(columns)), torch.nan, dtype=torch.float64)

    for approximate in (random_pivoted_cholesky, uniform_nystrom):
        with pytest.raises(InputError, match="NaN"):
            approximate(Broken(), 5, generator)
    with pytest.raises(InputError, match="NaN"):
        landmark_factor(Broken(), torch.arange(5))
