"""What operators have by default, and operators of a user's own that satisfy a protocol only."""

from __future__ import annotations

import math

import gpytorch
import pytest
import torch

from sggp.operators import (
    InducingOperator,
    KernelOperator,
    LinearOperator,
    NeighbourOperator,
    Operator,
    RowOperator,
    completed,
)


class Diagonal:
    """A diagonal matrix that offers `LinearOperator` and nothing more."""

    def __init__(self, n: int) -> None:
        self.values = torch.arange(1.0, n + 1)
        self.entries_evaluated = 0

    @property
    def shape(self) -> tuple[int, int]:
        return (len(self.values), len(self.values))

    dtype, device = torch.float32, torch.device("cpu")

    def matmul(self, v: torch.Tensor) -> torch.Tensor:
        self.entries_evaluated += len(self.values) ** 2
        return self.values[:, None] * v

    def diagonal(self) -> torch.Tensor:
        return self.values


class Blocked(Diagonal):
    """The same with rows, a budget and a dense form."""

    memory_budget = 1e3

    def rows_matmul(self, rows, v):
        return self.values[rows, None] * v[rows]

    def columns_matmul(self, cols, v):
        return torch.zeros(len(self.values), v.shape[1]).index_add_(0, cols, self.values[cols, None] * v)

    def block(self, rows, cols):
        return torch.where(rows[:, None] == cols, self.values[rows, None], 0.0)

    def dense(self, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        return torch.diag(self.values.to(dtype))


def test_an_operator_that_offers_products_only_gets_the_defaults():
    own = Diagonal(4)
    operator = completed(own)
    assert isinstance(operator, LinearOperator)
    assert not isinstance(operator, RowOperator)
    assert operator.memory_budget == math.inf
    assert operator.entries_per_epoch == 16
    assert operator.rounds_inputs is False
    assert operator.matmul_wide is None
    assert operator.dense is None
    assert operator.sparse_columns is None
    assert torch.equal(operator.matmul(torch.ones(4, 1))[:, 0], own.values)
    assert operator.entries_evaluated == own.entries_evaluated == 16
    operator.entries_evaluated = 3
    assert own.entries_evaluated == 3
    assert type(operator).__name__ == "Diagonal"  # what errors say


def test_what_an_operator_offers_is_kept():
    operator = completed(Blocked(4))
    assert isinstance(operator, RowOperator)
    assert not isinstance(operator, NeighbourOperator)
    assert operator.memory_budget == 1e3
    assert torch.equal(operator.dense(torch.float32), torch.diag(torch.arange(1.0, 5.0)))


@pytest.mark.parametrize("kind", ["kernel", "inducing"])
def test_operators_of_the_package_are_complete(kind):
    x = torch.linspace(0.0, 1.0, 6)[:, None]
    kernel = gpytorch.kernels.RBFKernel()
    own = KernelOperator(kernel, x, 0.1) if kind == "kernel" else InducingOperator(kernel, x, x[:2], 0.1)
    assert isinstance(own, Operator)
    assert completed(own) is own
    assert own.entries_per_epoch == (36 if kind == "kernel" else 2 * 8)
    assert own.dense is not None
    assert own.matmul_wide is not None
