"""A dense operator that counts what is asked of it."""

from __future__ import annotations

import gpytorch
import torch
from torch import Tensor


class DenseOperator:
    """A matrix held in memory; `columns_seen` adds up the widths of the blocks it was multiplied with."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.entries_evaluated = 0
        self.columns_seen = 0

    @property
    def shape(self) -> tuple[int, int]:
        return (len(self.matrix), len(self.matrix))

    @property
    def dtype(self) -> torch.dtype:
        return self.matrix.dtype

    @property
    def device(self) -> torch.device:
        return self.matrix.device

    def matmul(self, v: Tensor) -> Tensor:
        self.entries_evaluated += self.matrix.numel()
        self.columns_seen += v.shape[1]
        return self.matrix @ v

    def rows_matmul(self, rows: Tensor, v: Tensor) -> Tensor:
        self.entries_evaluated += len(rows) * len(self.matrix)
        return self.matrix[rows] @ v

    def columns_matmul(self, cols: Tensor, v: Tensor) -> Tensor:
        self.entries_evaluated += len(cols) * len(self.matrix)
        return self.matrix[:, cols] @ v

    def block(self, rows: Tensor, cols: Tensor) -> Tensor:
        self.entries_evaluated += len(rows) * len(cols)
        return self.matrix[rows][:, cols]

    def diagonal(self) -> Tensor:
        return self.matrix.diagonal().clone()

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        self.entries_evaluated += self.matrix.numel()
        return self.matrix.to(dtype).clone()


def residual_rounding(matrix: Tensor, x: Tensor, rhs: Tensor) -> Tensor:
    """How far two computations of |b − A x|/|b| may be apart, per column: 2 γ |(|A||x| + |b|)|/|b| with γ = (n + 2) ε.

    A backward stable solver leaves a residual of n + 1 times that at most (Higham, Accuracy and Stability, 3.12, 10.4).
    """
    gamma = (len(matrix) + 2) * torch.finfo(matrix.dtype).eps
    return 2 * gamma * (matrix.abs() @ x.abs() + rhs.abs()).norm(dim=0) / rhs.norm(dim=0)


def with_spectrum(eigenvalues: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A symmetric matrix with these eigenvalues, and its eigenvectors."""
    n = len(eigenvalues)
    vectors = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
    matrix = (vectors * eigenvalues) @ vectors.T
    return 0.5 * (matrix + matrix.T), vectors


def matern(d: int) -> gpytorch.kernels.Kernel:
    """A scaled Matérn-3/2 kernel with a length scale per dimension."""
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=d)).double()
    kernel.outputscale = 0.7
    kernel.base_kernel.lengthscale = torch.linspace(0.5, 1.5, d, dtype=torch.float64)
    return kernel
