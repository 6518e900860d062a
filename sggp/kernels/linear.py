"""A linear kernel whose products with other kernels are exact."""

from __future__ import annotations

from typing import Any

from gpytorch.kernels import LinearKernel
from linear_operator import to_dense
from torch import Tensor

__all__ = ["DenseLinearKernel"]


class DenseLinearKernel(LinearKernel):
    """GPyTorch's LinearKernel as a dense matrix.

    GPyTorch multiplies low-rank kernels by way of Cholesky roots, which adds jitter to matrices that have no full rank.
    """

    def forward(
        self, x1: Tensor, x2: Tensor, diag: bool = False, last_dim_is_batch: bool = False, **params: Any
    ) -> Tensor:
        """(..., n, m) values v · x1·x2, or the (..., n) diagonal."""
        value: Tensor = to_dense(super().forward(x1, x2, diag, last_dim_is_batch, **params))
        return value
