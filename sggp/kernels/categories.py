"""Covariances of columns that name things: tasks, and categories."""

from __future__ import annotations

import torch
from torch import Tensor

from sggp.kernels.covariance import Covariance
from sggp.kernels.points import Points
from sggp.kernels.tasks import codes_of

__all__ = ["HammingCovariance", "IndexCovariance"]


class IndexCovariance(Covariance):
    """k(s, t) = table_st, of one column of whole numbers.

    Args:
        table: (T, T) covariances. names: (T,) sorted numbers that name its rows.
        dtype, name: as of every covariance.

    Raises:
        InputError: on a call, a number that is not whole or names no row.
    """

    def __init__(
        self, table: Tensor, names: Tensor, *, dtype: torch.dtype | None = None, name: str = ""
    ) -> None:
        super().__init__(dtype=dtype, name=name)
        self.table, self.names = table.detach().double().clone(), names.detach().clone()

    @property
    def scale(self) -> float:
        return float(self.table.diagonal().max())

    def _codes(self, x: Tensor) -> Tensor:
        return codes_of(x[..., 0], self.names)

    def _block(self, x: Points, z: Points) -> Tensor:
        table = self.table.to(x.device, x.dtype)
        return _on_graph(table[self._codes(x.raw)][:, self._codes(z.raw)], x, z)

    def diagonal(self, x: Tensor | Points) -> Tensor:
        x = self.prepare(x)
        return self.table.diagonal().to(x.device, x.dtype)[self._codes(x.raw)]

    def _small_blocks(self, x: Tensor) -> Tensor:
        codes = self._codes(x)
        return self.table.to(x.device)[codes[:, :, None], codes[:, None, :]]


class HammingCovariance(Covariance):
    """k(x, z) = exp(−Σ_j w_j [x_j ≠ z_j]), of columns that name categories.

    Args:
        weights: (d,), or one for all columns together, which each gets a d-th of.
        dtype, name: as of every covariance.
    """

    def __init__(self, weights: Tensor, *, dtype: torch.dtype | None = None, name: str = "") -> None:
        super().__init__(dtype=dtype, name=name)
        self.weights = weights.detach().double().reshape(-1).clone()

    @property
    def scale(self) -> float:
        return 1.0

    def _of_columns(self, d: int) -> list[float]:
        each = self.weights.tolist()
        return each if len(each) == d else [each[0] / d] * d

    def _distance(self, x: Tensor, z: Tensor, dtype: torch.dtype) -> Tensor:  # (…, n, d), (…, m, d)
        x, z = x.detach(), z.detach()
        total = torch.zeros(*x.shape[:-1], z.shape[-2], dtype=dtype, device=x.device)
        for j, weight in enumerate(self._of_columns(x.shape[-1])):
            total += (x[..., :, None, j] != z[..., None, :, j]).to(dtype).mul_(weight)
        return total

    def _block(self, x: Points, z: Points) -> Tensor:
        return _on_graph(self._distance(x.raw, z.raw, x.dtype).neg_().exp_(), x, z)

    def diagonal(self, x: Tensor | Points) -> Tensor:
        x = self.prepare(x)
        return torch.ones(len(x), dtype=x.dtype, device=x.device)

    def _small_blocks(self, x: Tensor) -> Tensor:
        return self._distance(x, x, torch.float64).neg_().exp_()


def _on_graph(block: Tensor, x: Points, z: Points) -> Tensor:
    """The block, of gradient zero but on the graph of rows that want one."""
    for rows in (x.raw, z.raw):
        if rows.requires_grad:
            block = block + 0.0 * rows.sum().to(block)
    return block
