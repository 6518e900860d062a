"""The covariance of a `TableKernel`: that of its base kernel on rows that are unpacked block by block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gpytorch.kernels import ConstantKernel, Kernel, MaternKernel, RBFKernel, ScaleKernel
from torch import Tensor

from sggp.kernels import TableKernel, TanimotoDotProduct, TanimotoMinMax, as_covariance, draw_features, lookup

N, WIDTH = 330, 40


class Counted:
    """A table of bytes that is no tensor, as a `FingerprintTable` is, and says how many rows it gave."""

    width = WIDTH

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.rows = torch.poisson(torch.rand(N, WIDTH, generator=generator), generator=generator).byte()
        self.given = self.most = 0

    def __len__(self) -> int:
        return N

    def __getitem__(self, numbers: Any) -> Tensor:
        self.given, self.most = self.given + len(numbers), max(self.most, len(numbers))
        return self.rows[numbers]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Counted:
    monkeypatch.setattr(lookup, "_ROWS", 100)
    return Counted()


def stationary() -> Kernel:
    return MaternKernel(nu=1.5)


def composed() -> Kernel:
    return ScaleKernel(TanimotoMinMax()) * RBFKernel() + ConstantKernel()


@pytest.mark.parametrize("base", [TanimotoMinMax, TanimotoDotProduct, stationary, composed])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_and_blocks_are_those_of_the_rows(base: Any, dtype: torch.dtype, table: Counted) -> None:
    kernel = base()
    of_numbers = as_covariance(ScaleKernel(TableKernel(kernel, table)) + ConstantKernel())
    of_rows = as_covariance(ScaleKernel(kernel) + ConstantKernel())
    numbers = torch.randperm(N, generator=torch.Generator().manual_seed(1))[:, None].to(dtype)
    x, z = numbers[:250], numbers[80:]
    rows, other = (table.rows[part[:, 0].long()].to(dtype) for part in (x, z))
    columns = torch.randn(len(z), 3, generator=torch.Generator().manual_seed(2), dtype=dtype)
    close = {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    pairs = [
        (of_numbers.block(x, z), of_rows.block(rows, other)),
        (of_numbers.matmul(x, z, columns), of_rows.matmul(rows, other, columns)),
        (of_numbers.matmul(x, None, columns), of_rows.matmul(rows, None, columns)),
        (of_numbers.diagonal(x), of_rows.diagonal(rows)),
        (
            of_numbers.small_blocks(x.reshape(50, 5, 1)),
            of_rows.small_blocks(rows.reshape(50, 5, WIDTH).double()),
        ),
    ]
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, **close)


def test_a_product_unpacks_every_row_once_and_never_as_floats(
    table: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    covariance = as_covariance(ScaleKernel(TableKernel(TanimotoMinMax(), table)))
    features = draw_features(
        ScaleKernel(TableKernel(TanimotoMinMax(), table)), 8, input_dim=1, generator=torch.Generator()
    )
    seen = []
    rows_of = lookup._Shared.rows

    def noted(shared: Any, numbers: Tensor, **how: Any) -> Tensor:
        seen.append(rows_of(shared, numbers, **how))
        return seen[-1]

    monkeypatch.setattr(lookup._Shared, "rows", noted)
    x, z = (torch.arange(n, dtype=torch.float64)[:, None] for n in (N, 90))
    covariance.matmul(x, z, torch.ones(90, 2, dtype=torch.float64))
    assert table.given == N + 90
    assert table.most == 100
    assert features.phi(x[:10]).dtype == torch.float64
    assert {rows.dtype for rows in seen} == {torch.uint8}
