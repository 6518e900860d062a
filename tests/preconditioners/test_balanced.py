"""How the automatic preconditioner is sized, and that what it builds works."""

from __future__ import annotations

import math
import time

import gpytorch
import pytest
import torch

from sggp.errors import InputError, UnsupportedOperator
from sggp.neighbours import KernelNeighbours
from sggp.operators import KernelOperator
from sggp.preconditioners import Balanced, Given, LocalNystrom, Nystrom
from sggp.preconditioners.balanced import Rows
from sggp.preconditioners.base import LowRankPlus
from sggp.preconditioners.forecast import Forecast, NeighbourSample, RankSample, Sample, Trend
from sggp.preconditioners.local_nystrom import Interpolated
from sggp.preconditioners.low_rank import random_pivoted_cholesky
from sggp.preconditioners.neighbour import SparseInverseFactor
from sggp.preconditioners.recomputed import Recomputed
from sggp.running import deadline
from sggp.solvers import ConjugateGradients
from tests.solvers.dense import DenseOperator


def kernel(lengthscale: float) -> gpytorch.kernels.Kernel:
    base = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5)).double()
    base.base_kernel.lengthscale = lengthscale
    return base


def system(lengthscale: float, noise: float, generator, n: int = 1200, **settings) -> KernelOperator:
    x = torch.rand(n, 3, generator=generator, dtype=torch.float64)
    return KernelOperator(kernel(lengthscale), x, noise, **settings)


def sizes(operator: KernelOperator, **settings) -> tuple[int, int]:
    return Balanced(**settings).sizes(operator, torch.Generator().manual_seed(0))[0]


def test_rank_where_the_kernel_is_smooth_or_noisy_and_neighbours_where_it_is_rough(generator):
    rank, neighbours = sizes(system(2.0, 0.1, generator), columns=17)
    assert rank > 0
    assert neighbours == 0
    rank, neighbours = sizes(system(0.05, 1e-3, generator), columns=17)
    assert rank == 0
    assert neighbours > 0


def test_more_columns_and_more_solves_are_worth_a_better_one(generator):
    operator = system(0.5, 1e-4, generator)
    rhs = torch.randn(1200, 3, generator=generator, dtype=torch.float64)

    def iterations(**settings) -> int:
        solver = ConjugateGradients(Balanced(**settings))
        return solver.solve(operator, rhs, tolerance=1e-6, generator=0).iterations

    assert iterations(columns=200) < iterations(columns=1)
    assert iterations(solves=50.0) < iterations(solves=1.0)


@pytest.mark.parametrize(("lengthscale", "noise"), [(2.0, 0.1), (0.05, 1e-3), (0.5, 1e-4)])
def test_memory_is_kept_to(lengthscale, noise, generator):
    operator = system(lengthscale, noise, generator)
    free = sizes(operator, columns=200)
    n, wanted = 1200, 1200 * (16 * free[0] + 48 * free[1])
    rank, neighbours = sizes(operator, columns=200, memory_budget=0.6 * wanted)
    assert 0 < n * (16 * rank + 48 * neighbours) <= 0.6 * wanted


def test_a_trend_is_a_power_between_ranks_and_beyond_the_last():
    trend = Trend(((100, 8.0), (200, 2.0), (400, 1.0)), 1.5)
    assert trend.at(100) == pytest.approx(8.0)
    assert trend.at(141) == pytest.approx(8.0 * 1.41**-2)
    assert trend.at(300) == pytest.approx(2.0 / 1.5)
    assert trend.at(1600) == pytest.approx(0.25)
    assert Trend(((1, 16.0), (2, 1.0)), 3.0).at(4) == pytest.approx(1 / 8)  # no steeper than is believed
    assert Trend(((1, 1.0), (2, 2.0)), 3.0).at(8) == 2.0  # nor rising
    assert Trend(((5, 1.0),), 3.0).at(10) == 1.0


def test_directions_that_neighbours_miss_take_an_iteration_each():
    measured = {"largest": Trend(((100, 4.0),), 3.0), "width": 30, "alone": 0.01}
    many, missed = Forecast(**measured), Forecast(**measured, rows=5000)
    assert missed.iterations(0, 30) == pytest.approx(many.iterations(0, 30) + 50)
    assert missed.iterations(100, 0) == many.iterations(100, 0)


def test_what_rank_leaves_is_measured_as_dense_algebra_says(generator):
    """With all rows in the sample the moments are exact: tr S³/tr S² of S = Σ^-½(K − FFᵀ)Σ^-½."""
    operator = system(0.5, 1e-3, generator, n=300)
    factor = random_pivoted_cholesky(operator, 20, generator)
    values = torch.linalg.eigvalsh((operator.dense() - factor @ factor.T) / 1e-3) - 1
    exact = float(values.pow(3).sum() / values.square().sum())
    assert RankSample.draw(operator, generator).measure(factor) == pytest.approx(exact, rel=1e-8)


def test_rank_measured_on_a_sample_is_near_that_of_all_rows(generator):
    """400 of 3,000 rows; the largest eigenvalue of the sampled block alone is several times too large or small."""
    operator = system(0.4, 1e-2, generator, n=3000)
    factor = random_pivoted_cholesky(operator, 100, generator)
    left = (operator.dense() - factor @ factor.T) / 1e-2 - torch.eye(3000, dtype=torch.float64)
    exact = float((left @ left).mul_(left).sum() / left.square().sum())
    assert RankSample.draw(operator, generator).measure(factor) == pytest.approx(exact, rel=0.35)


@pytest.mark.parametrize("rank", [0, 20])
def test_what_neighbours_leave_is_measured_as_dense_algebra_says(rank, generator):
    """With all rows as columns g is exact: ‖UᵀRU − 1‖²_F/n of the factor that is built."""
    n, m = 200, 6
    operator = system(0.5, 1e-3, generator, n=n)
    factor = random_pivoted_cholesky(operator, rank, generator) if rank else None
    order = operator.ordering(generator)
    built = SparseInverseFactor(operator, m, generator, factor, order)
    identity = torch.eye(n, dtype=torch.float64)
    rest = operator.dense() if factor is None else operator.dense() - factor @ factor.T
    gram_ = built.root_transpose(rest @ built.root(identity))
    found = operator.earlier_neighbours(order, m, factor)
    row, real = order[:, None], found >= 0
    known = torch.where(real, order[found.clamp_min(0)], row)
    sample = NeighbourSample.of(operator, known, real, row)
    assert sample.width == m
    exact = float((gram_ - identity).square().sum()) / n
    assert sample.measure(factor) == pytest.approx(exact, rel=1e-6)
    assert sample.measure(factor, 2) > sample.measure(factor)


def test_what_landmarks_leave_is_measured_as_dense_algebra_says(generator):
    """With all rows in the sample and all landmarks near, the share r is that of the conditional variances."""
    n, m = 300, 30
    operator = system(0.5, 1e-2, generator, n=n)
    order = operator.ordering(generator)
    kernel = operator.dense() - 1e-2 * torch.eye(n, dtype=torch.float64)
    some = kernel[order[:m]]
    left = kernel.diagonal() - (some * torch.linalg.solve(some[:, order[:m]], some)).sum(0)
    share = float((left / (left + 1e-2)).mean())
    expected = 1 + 3.2 * math.sqrt((1 + share * n / m) / (1 - share))
    found = Sample(operator, generator, 100).landmarks(LocalNystrom(m, m), order)
    assert found == pytest.approx(expected, rel=1e-4)


def test_landmarks_are_taken_where_they_are_the_least_work(generator, monkeypatch):
    operator = system(0.5, 1e-2, generator, n=1500)
    rhs = torch.randn(1500, 2, generator=generator, dtype=torch.float64)
    for steps, kind in ((1.0, Interpolated), (1e4, (LowRankPlus, SparseInverseFactor))):
        monkeypatch.setattr(Sample, "landmarks", lambda *_, steps=steps: steps)
        built = Balanced(columns=500).build(operator, generator)
        assert isinstance(built, kind)
        solution = ConjugateGradients(Given(built)).solve(operator, rhs, tolerance=1e-8, generator=0)
        torch.testing.assert_close(solution.x, torch.linalg.solve(operator.dense(), rhs), rtol=0, atol=1e-5)


def test_landmarks_are_for_few_columns(generator, monkeypatch):
    x = torch.rand(1500, 4, generator=generator, dtype=torch.float64)
    x[:, 1] = 0.5  # does not count
    monkeypatch.setattr(Sample, "landmarks", lambda *_: 1.0)
    for columns, taken in ((x, True), (torch.cat([x, x[:, :1].square()], 1), False)):
        built = Balanced(columns=500).build(KernelOperator(kernel(0.5), columns, 1e-2), generator)
        assert isinstance(built, Interpolated) == taken


def smooth(generator, n: int = 5000) -> KernelOperator:
    """Five columns in which a thousand landmarks leave little, and a hundred much."""
    x = torch.rand(n, 5, generator=generator, dtype=torch.float64)
    return KernelOperator(kernel(1.0), x, 1e-2, dtype=torch.float32)


def test_rank_that_memory_does_not_hold_is_evaluated_anew(generator, monkeypatch):
    """23 MB hold a factor of rank 287, and 500 landmarks whose columns are not kept."""
    operator = smooth(generator)
    rhs = torch.randn(5000, 2, generator=generator)
    bounded = Balanced(columns=500, memory_budget=23e6)
    monkeypatch.setattr(Balanced, "looks_further", lambda *_: False)
    built = bounded.build(operator, torch.Generator().manual_seed(0))
    assert isinstance(built, Recomputed)
    solved = {
        kind: ConjugateGradients(preconditioner).solve(operator, rhs, tolerance=1e-3, generator=0)
        for kind, preconditioner in (("anew", Given(built)), ("kept", Nystrom(287)))
    }
    assert solved["anew"].converged
    assert solved["anew"].iterations < solved["kept"].iterations
    gap = rhs - operator.matmul_wide(solved["anew"].x)
    assert float((gap.norm(dim=0) / rhs.norm(dim=0)).max()) < 2e-3


def test_a_number_of_seconds_is_not_for_the_set_up_of_landmarks():
    """A million rows on which each landmark helps: all that fit, and with a deadline two products' worth of them."""
    rows, free = Rows(1_000_000, 1e6), Balanced(memory_budget=2**31)
    found = [free.least_rank_recomputed(rows, lambda rank: 1e9 / rank**2)]
    with deadline(time.perf_counter() + 1e6):
        found.append(free.least_rank_recomputed(rows, lambda rank: 1e9 / rank**2))
    assert found[0][1] == 8000
    assert 0 < free.recomputed_work(rows.n, found[1][1]) < 2.1 * rows.entries


def test_what_landmarks_evaluated_anew_leave_is_measured_as_dense_algebra_says(generator):
    operator = smooth(generator, 300)
    sample = Sample(operator, generator, 100)
    found = sample.recomputed(60)
    some = sample.shuffled[:60]
    kernel = operator.dense() - 1e-2 * torch.eye(300, dtype=torch.float64)
    columns = kernel[:, some]
    left = torch.linalg.eigvalsh((kernel - columns @ torch.linalg.solve(columns[some], columns.T)) / 1e-2)
    largest = float((left**3).sum() / (left**2).sum())  # tr S³/tr S²
    assert found == pytest.approx(1 + 2.1 * math.sqrt(largest), rel=1e-4)


def test_many_rows_are_not_ordered_for_a_look_at_neighbours(generator, monkeypatch):
    monkeypatch.setattr("sggp.preconditioners.balanced._ORDERED", 1000)
    operator, asked = smooth(generator), []
    monkeypatch.setattr(KernelNeighbours, "ordering", lambda *_: asked.append(1))
    monkeypatch.setattr(Balanced, "looks_further", lambda *_: True)
    chosen, _, order = Balanced().sizes(operator, generator)
    assert chosen[0] > 0
    assert chosen[1] == 0
    assert order is None
    assert not asked


@pytest.mark.parametrize(
    ("lengthscale", "kind"), [(3.0, LowRankPlus), (0.05, SparseInverseFactor)], ids=["smooth", "rough"]
)
def test_builds_what_the_sizes_say(lengthscale, kind, generator):
    operator = system(lengthscale, 1e-2, generator, n=800)
    built = Balanced().build(operator, generator)
    assert isinstance(built, kind)
    rhs = torch.randn(800, 3, generator=generator, dtype=torch.float64)
    solution = ConjugateGradients(Given(built)).solve(operator, rhs, tolerance=1e-8, generator=0)
    assert solution.converged
    torch.testing.assert_close(solution.x, torch.linalg.solve(operator.dense(), rhs), rtol=0, atol=1e-5)


def test_few_rows_are_solved_at_once(generator):
    for n in (1, 2, 40):
        operator = system(0.5, 1e-2, generator, n=n)
        inverse = Balanced().build(operator, generator).apply(torch.eye(n, dtype=torch.float64))
        torch.testing.assert_close(inverse @ operator.dense(), torch.eye(n, dtype=torch.float64))


def test_a_kernel_of_low_rank_takes_no_more_than_it_has(generator):
    x = torch.randn(1200, 3, generator=generator, dtype=torch.float64)
    operator = KernelOperator(gpytorch.kernels.LinearKernel().double(), x, 1e-6)
    (rank, _), factor, _ = Balanced(columns=100).sizes(operator, generator)
    assert rank == factor.shape[1] < 20  # a block of pivots at most


def test_memory_without_a_bound_is_a_budget(generator):
    x = torch.rand(300, 2, generator=generator, dtype=torch.float64)
    operator = KernelOperator(kernel(0.5), x, 1e-2, memory_budget=math.inf)
    rhs = torch.randn(300, 1, generator=generator, dtype=torch.float64)
    assert ConjugateGradients("auto").solve(operator, rhs, tolerance=1e-6, generator=0).converged


def test_a_factor_is_gone_on_from(generator):
    """The first columns stay, and together they explain no less than a factor drawn at once."""
    x = torch.rand(500, 2, generator=generator, dtype=torch.float64)
    operator = KernelOperator(kernel(0.5), x, 1e-2)
    start = random_pivoted_cholesky(operator, 40, generator)
    longer = random_pivoted_cholesky(operator, 100, generator, start)
    assert longer.shape == (500, 100)
    assert torch.equal(longer[:, :40], start)
    gap = operator.dense() - 1e-2 * torch.eye(500, dtype=torch.float64) - longer @ longer.T
    assert float(torch.linalg.eigvalsh(gap).min()) > -1e-8
    once = random_pivoted_cholesky(operator, 100, generator)
    assert float(gap.trace()) < 1.5 * float(500 - once.square().sum())


def test_misuse(generator):
    for settings in ({"columns": 0}, {"solves": 0.0}, {"memory_budget": 0.0}):
        with pytest.raises(InputError, match=next(iter(settings))):
            Balanced(**settings)
    with pytest.raises(UnsupportedOperator, match="preconditioner=None"):
        Balanced().build(DenseOperator(torch.eye(3, dtype=torch.float64)), generator)
