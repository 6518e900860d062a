"""A kernel whose values come with the points."""

from __future__ import annotations

from typing import Any

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from sggp.errors import InputError
from sggp.kernels.convert import register
from sggp.kernels.generic import GenericCovariance
from sggp.kernels.points import Points

__all__ = ["PrecomputedKernel"]


class PrecomputedKernel(Kernel):
    """k(x_i, z) as read from z, which brings its covariances with the n points x_1 … x_n along.

    A point is (2 + n,) numbers: i for the point x_i, −1 for any other z; k(z, z); k(z, x_1) … k(z, x_n). So of two
    points at least one must be one of the n; of one point with itself, `diag` gives k(z, z).

    Raises:
        InputError: on a call, two sets of points that both have others among them.

    Cost: a look-up for every entry.
    """

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        """(…, a, 2 + n) and (…, b, 2 + n) to (…, a, b), or to (…, a) with `diag`."""
        first, second = x1[..., 0].long(), x2[..., 0].long()
        if diag and torch.equal(x1, x2):
            return x1[..., 1]
        if bool((second >= 0).all()):
            return _picked(x1, second, diag)
        if bool((first >= 0).all()):
            return _picked(x2, first, diag).transpose(-1, -2) if not diag else _picked(x2, first, diag)
        raise InputError(
            "the covariances of new rows among each other are not known to a precomputed kernel, only those with the "
            "training rows: pass a kernel object for joint covariances and samples."
        )


def _picked(points: Tensor, index: Tensor, diag: bool) -> Tensor:
    """Covariances of points (…, a, 2 + n) with the ones numbered index (…, b): (…, a, b), or pair by pair (…, a)."""
    values = points[..., 2:]
    if diag:
        return values.gather(-1, index.unsqueeze(-1)).squeeze(-1)
    return values.gather(-1, index.unsqueeze(-2).expand(*values.shape[:-1], index.shape[-1]))


class _PrecomputedCovariance(GenericCovariance):
    """Tiles of the kernel, whose entries do not depend on the company: not tried, since new rows have no block."""

    def _check(self, x: Points, z: Points) -> None:
        self._checked = True

    def _check_diagonal(self, a: Tensor) -> None:
        self._diagonal_checked = True


@register(PrecomputedKernel)
def _covariance(kernel: PrecomputedKernel, dtype: torch.dtype | None) -> _PrecomputedCovariance:
    return _PrecomputedCovariance(kernel, dtype=dtype)
