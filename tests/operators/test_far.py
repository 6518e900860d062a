"""Products of kernel operators, solves and predictions by far fields, against the same without."""

from __future__ import annotations

from typing import Any, ClassVar

import gpytorch
import pytest
import torch
from torch import Tensor

from sggp import condition
from sggp.kernels import as_covariance
from sggp.operators import KernelOperator, far
from sggp.operators.far import FarMatrix, far_matrix, far_product
from sggp.solvers import ConjugateGradients


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far fields from few rows on, whatever they cost."""
    monkeypatch.setattr(far, "FAR_ROWS", 300)
    monkeypatch.setattr(far, "PAYS", 1e9)
    monkeypatch.setattr(far, "_LEAST_QUERIES", 50)
    monkeypatch.setattr(far, "CAPACITIES", (20, 30))
    monkeypatch.setattr(far, "TOLERANCES", (1e-4, 1e-5, 1e-7))
    monkeypatch.setattr(far, "_SETUP_WORK", (0.0, 0.0, 0.0))
    monkeypatch.setattr("sggp.posterior.solving.DIRECT_ROWS", 10)


class Counted:
    """A method that counts its calls."""

    def __init__(self, method: Any) -> None:
        self.method, self.calls = method, 0

    def __get__(self, instance: Any, owner: type) -> Any:
        def call(*arguments: Any) -> Any:
            self.calls += 1
            return self.method(instance, *arguments)

        return call


def matern(nu: float = 1.5, scale: float = 2.0, **options: Any) -> gpytorch.kernels.Kernel:
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=nu, **options))
    kernel.outputscale, kernel.base_kernel.lengthscale = scale, 0.3
    return kernel


def rows(n: int = 400, d: int = 2) -> Tensor:
    return torch.rand(n, d, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def operators(
    kernel: Any, x: Tensor, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> list[KernelOperator]:
    """With a far field, and without."""
    with_field = KernelOperator(kernel, x, 0.1, dtype=dtype, memory_budget=2**19)
    assert with_field.approximates
    monkeypatch.setenv("SGGP_FAR_FIELD", "0")
    without = KernelOperator(kernel, x, 0.1, dtype=dtype, memory_budget=2**19)
    assert not without.approximates
    return [with_field, without]


def test_exact_products_come_first_where_they_are_less_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fields of a smaller tolerance are made once exact products have taken as long as that, and are kept."""
    monkeypatch.setattr(FarMatrix, "_fields", counted := Counted(FarMatrix._fields))
    monkeypatch.setattr(far, "_SETUP_WORK", (0.0, 2.5 * 400**2 * (1 + 1 / 22), 1e99))
    quick, exact = operators(matern(0.5), rows(), torch.float64, monkeypatch)
    v = torch.randn(400, 1, generator=torch.Generator().manual_seed(0)).double()
    expected, made = exact.matmul(v), []
    for _ in range(5):
        assert float((quick.matmul(v) - expected).norm()) <= 1e-6 * float(expected.norm())
        made.append(counted.calls)
    assert made == [1, 1, 2, 2, 2]  # one is for float32, whose entries are what an epoch counts


def test_the_tolerance_that_was_enough_is_begun_with(monkeypatch: pytest.MonkeyPatch) -> None:
    quick, _ = operators(matern(0.5), rows(), torch.float32, monkeypatch)
    v = torch.randn(400, 1, generator=torch.Generator().manual_seed(0)).double()
    allowed, spent = torch.zeros(1, dtype=torch.float64), []
    for _ in range(3):
        before = quick.entries_evaluated
        quick.product_within(v, allowed)
        spent.append(quick.entries_evaluated - before)
    assert spent[0] > spent[1] == spent[2]


def test_products_are_those_without(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.cat([rows(), torch.full((400, 3), 7.0).double()], 1)  # constant columns move no distance
    total = matern() + matern(2.5, 0.5, active_dims=(0,))
    for dtype, error in ((torch.float32, 1e-4), (torch.float64, 1e-7)):
        quick, exact = operators(total, x, dtype, monkeypatch)
        v = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
        expected = exact.matmul_wide(v)
        assert float((quick.matmul(v) - expected).norm()) <= error * float(expected.norm())
        assert float((quick.matmul_wide(v) - expected).norm()) <= 2e-7 * float(expected.norm())
        assert quick.entries_per_epoch != 400**2 == exact.entries_per_epoch
        monkeypatch.delenv("SGGP_FAR_FIELD")


def test_errors_are_measured_and_kept_to_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    v = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)).double()
    found, spent = [], []
    for allowed in (1.0, 1e-4, 0.0):
        quick, exact = operators(matern(0.5), rows(), torch.float32, monkeypatch)
        expected = exact.matmul_wide(v)
        product, error = quick.product_within(v, torch.full((2,), allowed, dtype=torch.float64))
        wrong = (product - expected).norm(dim=0)
        assert bool((wrong <= 2 * error + 1e-12 * expected.norm()).all())
        assert bool((error <= max(allowed, 1e-7 * float(expected.norm(dim=0).max()))).all())
        found.append(float(wrong.max()))
        spent.append(quick.entries_evaluated)
        monkeypatch.delenv("SGGP_FAR_FIELD")
    assert found[0] > found[1] >= found[2]
    assert spent[0] < spent[1] <= spent[2]
    assert spent[0] == quick.entries_per_epoch + 128 * 400


def test_solves_are_those_without(monkeypatch: pytest.MonkeyPatch) -> None:
    quick, exact = operators(matern(), rows(), torch.float32, monkeypatch)
    b = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)).double()
    first, second = (
        ConjugateGradients(None).solve(op, b, tolerance=1e-4, generator=0) for op in (quick, exact)
    )
    assert first.converged
    assert float((first.x - second.x).norm()) <= 1e-3 * float(second.x.norm())
    left = (b - exact.matmul_wide(first.x)).norm(dim=0) / b.norm(dim=0)
    assert bool(
        (left <= first.residual * (1 + 1e-9)).all()
    )  # what is said allows for the error of the product


def test_predictions_are_those_without(monkeypatch: pytest.MonkeyPatch) -> None:
    x, q = rows(), 1.2 * rows(900)
    y = torch.sin(5 * x[:, 0]) + 0.1 * torch.randn(400, generator=torch.Generator().manual_seed(0)).double()
    found = []
    for setting in ("1", "0"):
        monkeypatch.setenv("SGGP_FAR_FIELD", setting)
        posterior = condition(matern(), x, y, noise_variance=0.01, num_samples=3, tolerance=1e-4, generator=5)
        found.append(torch.cat([posterior.mean(q)[None], posterior.samples(q), posterior.variance(q)[None]]))
    assert float((found[0] - found[1]).abs().max()) <= 2e-3


def test_what_far_fields_are_not_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(kernel: Any, x: Tensor) -> Any:
        return far_matrix(as_covariance(kernel).prepare(x))

    assert of(matern(), rows(d=3)) is not None
    assert of(matern(), rows(d=4)) is None
    assert of(matern(), rows(n=200)) is None
    assert of(gpytorch.kernels.LinearKernel(), rows()) is None
    assert of(matern() * matern(), rows()) is None
    covariance, z = as_covariance(matern()), rows()
    q = rows(500).requires_grad_()
    v = torch.ones(400, 1, dtype=torch.float64)
    gradient = torch.autograd.grad(far_product(covariance, q, covariance.prepare(z), v).sum(), q)[0]
    assert gradient.shape == q.shape
    monkeypatch.setattr(far, "PAYS", 0.0)
    assert of(matern(), rows(d=3)) is None


def test_work_grows_with_columns_and_caps_with_what_an_epoch_is_less(monkeypatch: pytest.MonkeyPatch) -> None:
    quick, exact = operators(matern(), rows(), torch.float32, monkeypatch)
    assert quick.work(1) < quick.work(64) < quick.entries_per_epoch
    assert exact.work(1) == exact.work(64) == 400**2

    class Tenth(KernelOperator):
        entries_per_epoch = property(lambda self: 400**2 // 10)

    class Few(ConjugateGradients):
        default_max_epochs: ClassVar[float] = 1.5

    b = torch.randn(400, generator=torch.Generator().manual_seed(0)).double()
    for kind in (Tenth, KernelOperator):  # a pass and a half over K, whatever an epoch is
        found = Few(None).solve(
            kind(matern(), rows(), 1e-3), b, tolerance=1e-12, generator=0, on_failure="return"
        )
        assert found.iterations == 2
