"""Cholesky factors by panels do what LAPACK's does on the whole matrix, in half the memory."""

from __future__ import annotations

import pytest
import torch

from sggp.errors import MemoryBudgetError, SolverFailure
from sggp.operators import KernelOperator
from sggp.solvers import Cholesky, triangle
from sggp.solvers.cholesky import factorise
from sggp.solvers.triangle import factor_panels, panels_of
from tests.memory import peak_bytes
from tests.solvers.dense import matern, with_spectrum


@pytest.fixture
def panels(monkeypatch):
    """Panels of forty rows."""
    monkeypatch.setattr(triangle, "_WHOLE", 50)
    monkeypatch.setattr(triangle, "_PANEL", 40)


def make_operator(generator, n=230, noise=0.05, **options):
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return KernelOperator(matern(2), x, noise, **options)


def test_panels_cover_every_row_once(panels):
    assert panels_of(50) == [(0, 50)]
    assert panels_of(90) == [(0, 40), (40, 80), (80, 90)]


def test_the_factor_is_that_of_the_whole_matrix(panels, generator):
    operator = make_operator(generator)
    factor, jitter = factorise(operator)
    exact = torch.linalg.cholesky(operator.dense())
    assert jitter == 0.0
    assert [panel.shape for panel in factor.panels] == [(40, k) for k in (40, 80, 120, 160, 200)] + [
        (30, 230)
    ]
    for panel in factor.panels:
        size, stop = panel.shape
        torch.testing.assert_close(
            panel.tril(stop - size), exact[stop - size : stop, :stop], rtol=0, atol=1e-12
        )
    torch.testing.assert_close(factor.diagonal(), exact.diagonal(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("columns_first", [False, True])
def test_substitutions_and_their_derivatives(panels, generator, columns_first):
    operator = make_operator(generator)
    factor, exact = factorise(operator)[0], torch.linalg.cholesky(operator.dense())
    v = torch.randn(230, 3, generator=generator, dtype=torch.float64)
    v = (v.T.contiguous().T if columns_first else v).requires_grad_()
    for found, expected in (
        (factor.half(v), torch.linalg.solve_triangular(exact, v, upper=False)),
        (factor.half(v, transposed=True), torch.linalg.solve_triangular(exact.T, v, upper=True)),
        (factor.solve(v), torch.cholesky_solve(v, exact)),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
        weight = torch.randn(230, 3, generator=generator, dtype=torch.float64)
        slopes = [
            torch.autograd.grad((weight * out.square()).sum(), v, create_graph=True)[0]
            for out in (found, expected)
        ]
        torch.testing.assert_close(*slopes, rtol=0, atol=1e-8)
        second = [torch.autograd.grad(slope.sum(), v)[0] for slope in slopes]
        torch.testing.assert_close(*second, rtol=0, atol=1e-7)


@pytest.mark.parametrize("factor_dtype", [torch.float32, torch.float64])
def test_a_solve_by_panels_is_as_good(panels, generator, factor_dtype):
    operator = make_operator(generator)
    rhs = torch.randn(230, 3, generator=generator, dtype=torch.float64)
    solution = Cholesky(factor_dtype=factor_dtype).solve(operator, rhs, tolerance=1e-10)
    assert solution.converged
    expected = torch.linalg.solve(operator.dense(), rhs)
    torch.testing.assert_close(solution.x, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


def test_half_the_entries_and_half_the_bytes(panels, generator):
    operator = make_operator(generator, n=1400)
    before = operator.entries_evaluated
    factor, _ = factorise(operator)
    assert operator.entries_evaluated - before == sum(panel.numel() for panel in factor.panels) == 1_008_000
    # the panels, and what evaluating one of them takes: a dozen of its size at most
    assert peak_bytes(lambda: factorise(operator)) < 8 * (1_008_000 + 12 * 40 * 1400)
    assert peak_bytes(operator.dense) >= 8 * 1400**2


def test_a_jitter_is_found_and_told(panels, generator):
    x = torch.randn(300, 1, generator=generator, dtype=torch.float64)
    operator = KernelOperator(matern(1), x.repeat(2, 1), 0.0)
    factor, jitter = factorise(operator)
    assert jitter == pytest.approx(1e-12) or jitter == pytest.approx(1e-10)
    lower = torch.zeros(600, 600, dtype=torch.float64)
    for panel in factor.panels:
        size, stop = panel.shape
        lower[stop - size : stop, :stop] = panel.tril(stop - size)
    raised = operator.dense() + jitter * torch.eye(600, dtype=torch.float64)
    torch.testing.assert_close(lower @ lower.T, raised, rtol=0, atol=1e-12)


def test_what_has_no_factor_is_refused(panels, generator, monkeypatch):
    matrix, _ = with_spectrum(torch.linspace(-1, 9, 120, dtype=torch.float64), generator)
    assert factor_panels(lambda start, stop: matrix[start:stop, :stop].clone(), 120, 0.0) is None
    assert factor_panels(lambda start, stop: matrix[start:stop, :stop].clone(), 120, 1.1) is not None
    operator = make_operator(generator)
    monkeypatch.setattr(
        operator,
        "dense_rows",
        lambda start, stop, dtype: matrix[:1, :1].expand(stop - start, stop) * torch.nan,
    )
    with pytest.raises(SolverFailure, match="positive semi-definite"):
        factorise(operator)
    with pytest.raises(MemoryBudgetError, match="lower triangle"):
        factorise(make_operator(generator, memory_budget=100_000))
