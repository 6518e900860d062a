"""The default choice of solver, row by row of its table, and what happens when the first choice fails."""

from __future__ import annotations

from dataclasses import replace

import gpytorch
import pytest
import torch

from sggp.errors import UnsupportedOperator
from sggp.operators import InducingOperator, KernelOperator, Operator
from sggp.solvers import AlternatingProjections, Auto, Cholesky, ConjugateGradients, Status, auto
from sggp.solvers.auto import choose
from sggp.solvers.core.limits import ENOUGH
from tests.solvers.dense import DenseOperator, residual_rounding, with_spectrum


class Described:
    """An operator of any size that holds nothing; abilities by name."""

    entries_evaluated = 0

    def __init__(self, n, *abilities, budget=4 * 2**30, device="cpu") -> None:
        self.shape, self.dtype, self.device = (n, n), torch.float32, torch.device(device)
        self.memory_budget = budget
        rows = ["rows_matmul", "columns_matmul", "block"]
        blocks = [
            "noise_variance",
            "small_blocks",
            "cross_block",
            "kernel_diagonal",
            "ordering",
            "earlier_neighbours",
        ]
        blocks.append("ordering")
        names = {"dense": ["dense"], "wide": ["matmul_wide"], "rows": rows, "blocks": [*rows, *blocks]}
        for ability in ("products", *abilities):
            for name in names.get(ability, ["matmul", "diagonal"]):
                setattr(self, name, lambda *_: None)
        if "blocks" in abilities:
            self.noise_variance, self.kernel_diagonal = torch.ones(1), lambda: torch.ones(1)


FACTOR, NARROW = Cholesky(), Cholesky(torch.float32)
WIDE = ConjugateGradients(float64_products=True)
GRADIENTS, PLAIN, BLOCKS = ConjugateGradients(), ConjugateGradients(None), AlternatingProjections()
EVERYTHING = ("dense", "blocks")


@pytest.mark.parametrize(
    ("operator", "columns", "wanted"),
    [
        (Described(3000, *EVERYTHING), 1, (FACTOR,)),
        (Described(3001, *EVERYTHING), 1, (GRADIENTS, FACTOR)),
        (Described(3001, *EVERYTHING, device="cuda"), 1, (FACTOR,)),
        (Described(20_000, *EVERYTHING), 65, (GRADIENTS, FACTOR)),
        (Described(20_000, *EVERYTHING), 700, (FACTOR,)),
        (Described(30_000, *EVERYTHING), 1, (GRADIENTS, NARROW)),
        (Described(100_000, *EVERYTHING), 65, (GRADIENTS, BLOCKS)),
        (Described(2000, *EVERYTHING, budget=4.5 * 2000**2), 1, (NARROW, GRADIENTS, BLOCKS)),
        (Described(2000, *EVERYTHING, budget=2000**2), 1, (GRADIENTS, BLOCKS)),
        (Described(5000, "dense", "rows"), 1, (PLAIN, FACTOR)),
        (Described(100_000, "dense", "rows"), 1, (PLAIN, BLOCKS)),
        (Described(100_000, "rows"), 1, (PLAIN, BLOCKS)),
        (Described(100, "rows"), 1, (PLAIN, BLOCKS)),
        (Described(100_000), 1, (PLAIN,)),
        (Described(100_000, "wide"), 1, (PLAIN, ConjugateGradients(None, float64_products=True))),
        (Described(100_000, "blocks", "wide"), 1, (GRADIENTS, WIDE, BLOCKS)),
    ],
)  # fmt: skip
def test_table(operator, columns, wanted):
    assert choose(operator, columns) == wanted


def test_real_operators_fall_where_the_table_says(generator):
    x = torch.randn(3100, 2, generator=generator, dtype=torch.float64)
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5)).double()
    assert choose(KernelOperator(kernel, x, 0.1), 1) == (GRADIENTS, FACTOR)
    assert choose(InducingOperator(kernel, x, x[:50], 0.1), 1) == (FACTOR,)


@pytest.mark.parametrize(("noise", "wide_first"), [(1e-6, False), (2e-7, True), (1e-10, True)])
def test_float64_products_come_first_where_rounding_would_drown_the_noise(generator, noise, wide_first):
    x = torch.randn(3100, 2, generator=generator, dtype=torch.float64)
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5)).double()
    kernel.outputscale = 2.0
    operator = KernelOperator(kernel, x, noise, dtype=torch.float32)
    assert choose(operator, 1) == ((WIDE, FACTOR) if wide_first else (GRADIENTS, WIDE, FACTOR))
    assert choose(KernelOperator(kernel, x, noise), 1) == (GRADIENTS, FACTOR)


def hard(generator) -> DenseOperator:
    """Condition 1e11: conjugate gradients stagnate, a factor does not."""
    values = torch.logspace(-11, 0, 200, dtype=torch.float64)
    return DenseOperator(with_spectrum(values, generator)[0])


def test_lost_columns_go_to_the_next_solver(generator):
    operator = hard(generator)
    top = torch.linalg.eigh(operator.matrix)[1][:, -1]
    rhs = torch.stack([top, torch.randn(200, generator=generator, dtype=torch.float64)], 1)
    alone = ConjugateGradients(None).solve(operator, rhs, tolerance=1e-9, on_failure="return", generator=0)
    assert alone.status[0] is Status.CONVERGED
    assert alone.status[1] is not Status.CONVERGED
    solution = Auto(direct_rows=0).solve(operator, rhs, tolerance=1e-2, generator=0)
    strict = Auto(direct_rows=0).solve(operator, rhs, tolerance=1e-9, on_failure="return", generator=0)
    assert solution.converged
    for found in (solution, strict):
        true = (rhs - operator.matrix @ found.x).norm(dim=0) / rhs.norm(dim=0)
        assert bool(((true - found.residual).abs() <= residual_rounding(operator.matrix, found.x, rhs)).all())
    assert float(strict.residual[1]) <= 201 * float(residual_rounding(operator.matrix, strict.x, rhs)[1])
    assert "ConjugateGradients(preconditioner=None), then Cholesky()" in strict.method
    assert any("1 of 2 columns ended as" in note and "Cholesky() took over" in note for note in strict.notes)


@pytest.mark.parametrize("factor", [2.0, 0.99, float("nan")], ids=["worse", "rounding", "nan"])
def test_what_was_found_is_kept_where_the_next_solver_is_not_clearly_better(factor, generator, monkeypatch):
    operator = hard(generator)
    rhs = torch.randn(200, generator=generator, dtype=torch.float64)
    first = ConjugateGradients(None).solve(operator, rhs, tolerance=1e-9, on_failure="return", generator=0)

    def other(self, operator, rhs, x0, limits, setup):
        solution = ConjugateGradients(None)._solve(operator, rhs, x0, limits)
        return replace(solution, residual=factor * solution.residual)

    monkeypatch.setattr(Cholesky, "_solve", other)
    solution = Auto(direct_rows=0).solve(operator, rhs, tolerance=1e-9, on_failure="return", generator=0)
    assert torch.equal(solution.x, first.x)
    assert any("improved 0" in note for note in solution.notes)


def test_budget_holds_for_all_solvers_together(generator):
    operator = hard(generator)
    rhs = torch.randn(200, generator=generator, dtype=torch.float64)
    solution = Auto(direct_rows=0).solve(
        operator, rhs, tolerance=1e-12, max_epochs=30, on_failure="return", generator=0
    )
    assert solution.status == (Status.BUDGET_SPENT,)
    assert solution.method.endswith(", then StochasticDualDescent()")  # what there is helps no solver
    assert solution.epochs <= 30


def test_a_matrix_that_float32_makes_indefinite(generator):
    """Clusters of near-duplicates at a noise below the rounding of float32 products."""
    centres = torch.randn(30, 2, generator=generator, dtype=torch.float64)
    x = (centres[:, None] + 1e-4 * torch.randn(30, 30, 2, generator=generator, dtype=torch.float64)).reshape(
        -1, 2
    )
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=2.5)).double()
    operator = KernelOperator(kernel, x, 1e-8, dtype=torch.float32)
    rhs = torch.randn(900, 2, generator=generator, dtype=torch.float64)
    alone = ConjugateGradients().solve(operator, rhs, tolerance=1e-3, on_failure="return", generator=0)
    assert not alone.converged
    solution = Auto(direct_rows=0).solve(operator, rhs, tolerance=1e-3, generator=0)
    assert solution.converged
    assert "float64_products=True" in solution.method
    dense = operator.dense()
    true = (rhs - dense @ solution.x).norm(dim=0) / rhs.norm(dim=0)
    assert bool((true <= 1e-3 + residual_rounding(dense, solution.x, rhs)).all())


class ProductsOnly(Operator):
    """2·1, with the defaults of `Operator` for whatever else a solver may ask."""

    def __init__(self, n: int, dtype: torch.dtype) -> None:
        self.shape, self.dtype, self.device, self.entries_evaluated = (n, n), dtype, torch.device("cpu"), 0

    def matmul(self, v):
        self.entries_evaluated += self.shape[0] ** 2
        return 2 * v

    def diagonal(self):
        return torch.full((self.shape[0],), 2.0, dtype=self.dtype)


class ProductsOf(ProductsOnly):
    """Another operator, of which only products are offered."""

    def __init__(self, operator: KernelOperator) -> None:
        super().__init__(operator.shape[0], operator.dtype)
        self.whole = operator

    def matmul(self, v):
        self.entries_evaluated += self.shape[0] ** 2
        return self.whole.matmul(v)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_an_operator_leaves_at_its_default_is_not_asked_for(dtype, generator):
    operator, rhs = ProductsOnly(20, dtype), torch.randn(20, 2, generator=generator, dtype=dtype)
    assert choose(operator, 2) == (PLAIN,)
    solution = Auto().solve(operator, rhs, tolerance=1e-5, generator=0)
    assert solution.converged
    torch.testing.assert_close(solution.x, rhs / 2, rtol=1e-5, atol=1e-5)
    with pytest.raises(UnsupportedOperator, match="dense"):
        Cholesky().solve(operator, rhs)
    with pytest.raises(UnsupportedOperator, match="float64_products"):
        WIDE.solve(operator, rhs)


@pytest.fixture
def slow(generator, monkeypatch):
    """A system on which conjugate gradients, left without a preconditioner, get nowhere for long."""
    x = torch.randn(2000, 6, generator=generator, dtype=torch.float64)
    kernel = gpytorch.kernels.MaternKernel(nu=1.5).double()
    kernel.lengthscale = 2.0
    monkeypatch.setattr(auto, "choose", lambda *_: (PLAIN, BLOCKS))
    rhs = torch.sin(2 * x[:, :2].sum(1)) + 0.1 * torch.randn(2000, generator=generator, dtype=torch.float64)
    return KernelOperator(kernel, x, 1e-2, dtype=torch.float32), rhs


def test_a_budget_too_small_for_conjugate_gradients_is_spent_on_dual_descent(slow):
    operator, rhs = slow
    options = {"max_epochs": 20, "tolerance": 1e-4, "on_failure": "return", "generator": 0}
    alone, both = (solver.solve(operator, rhs, **options) for solver in (PLAIN, Auto()))
    assert both.method == "Auto() → ConjugateGradients(preconditioner=None), then StochasticDualDescent()"
    assert both.epochs <= 20 + 0.06  # and a twentieth of the rows, by which the residual is estimated
    true = float((rhs - operator.dense() @ both.x).norm() / rhs.norm())
    assert abs(true - float(both.residual)) < 5 * float(both.residual_error)
    assert true < 0.8 * float(alone.residual)
    assert any("StochasticDualDescent() took over and improved 1" in note for note in both.notes)


@pytest.mark.parametrize("budget", [{"max_epochs": 10}, {"max_seconds": 1e-3}], ids=str)
def test_many_rows_go_to_dual_descent_at_once_where_passes_are_few(budget, slow, monkeypatch, tmp_path):
    operator, rhs = slow
    options = {"tolerance": 0.6, "on_failure": "return", "generator": 0}
    plenty = {name: 1e4 * most for name, most in budget.items()}

    def method(**limits) -> str:
        return Auto().solve(operator, rhs, **options, **limits).method

    assert method(**budget).startswith("Auto() → ConjugateGradients(preconditioner=None)")
    monkeypatch.setattr(auto, "_MANY_ROWS", 2000)
    assert method(**budget) == "Auto() → StochasticDualDescent()"
    kept = method(**budget, checkpoint=tmp_path / "solve.pt")
    assert kept.startswith(
        "Auto() → ConjugateGradients(preconditioner=None)"
    )  # a later budget may be another
    for limits in (plenty, {}):
        assert method(**limits) == "Auto() → ConjugateGradients(preconditioner=None)"


def test_what_comes_to_nothing_is_measured_by_some_rows(slow):
    operator, rhs = slow
    for answer, epochs, kind in ((True, 2.0, "true"), (ENOUGH, 1.05, "estimated")):
        found = PLAIN.solve(
            operator, rhs, callback=lambda _, answer=answer: answer, on_failure="return", generator=0
        )
        assert found.epochs == pytest.approx(epochs)
        assert found.residual_kind == kind


def test_products_alone_have_the_whole_budget(slow, monkeypatch):
    """Dual descent needs rows: without them conjugate gradients go on to the end of a budget."""
    operator, rhs = slow
    monkeypatch.setattr(auto, "choose", lambda *_: (PLAIN,))
    alone = ProductsOf(operator)
    found = Auto().solve(alone, rhs, max_epochs=10, tolerance=1e-4, on_failure="return", generator=0)
    assert float(found.residual) > 0.5
    assert found.iterations == 10


def test_without_a_budget_or_where_the_user_stops_nothing_takes_over(slow):
    operator, rhs = slow
    options = {"tolerance": 0.6, "on_failure": "return", "generator": 0}
    unlimited = Auto().solve(operator, rhs, **options)
    assert unlimited.converged
    seen = []

    def stop(progress):
        seen.append(progress.iterations)
        return len(seen) == 3

    stopped = Auto().solve(operator, rhs, **(options | {"max_epochs": 20, "callback": stop}))
    assert seen == [1, 2, 3]
    for solution in (unlimited, stopped):
        assert "StochasticDualDescent" not in solution.method
