"""What a Bayesian linear model asks of its features: products with rows of Φ, and with their transpose.

n is the number of data points, o of outputs per point, D of weights, s of columns, b of rows in a batch. Φ has one
(o, D) block φ(x_i) per data point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from sggp.checks import whole_number
from sggp.errors import DtypeError, InputError, ShapeError

__all__ = ["BlockFeatures", "Features", "RowIndex", "as_features"]

RowIndex: TypeAlias = slice | Tensor
_BLOCK_NUMBERS = 2**23
"""Numbers that a batch of feature blocks may hold where nothing else is said."""


@runtime_checkable
class Features(Protocol):
    """Rows of Φ as something that multiplies; Φ itself need never be formed."""

    @property
    def num_rows(self) -> int: ...

    @property
    def num_outputs(self) -> int: ...

    @property
    def num_weights(self) -> int: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def batch_size(self) -> int:
        """The most rows that one product should be asked for."""
        ...

    def apply(self, weights: Tensor, rows: RowIndex) -> Tensor:  # (D, s) -> (b, o, s)
        """φ(x_i) w for the rows asked for."""
        ...

    def adjoint(self, v: Tensor, rows: RowIndex) -> Tensor:  # (b, o, s) -> (D, s)
        """Σ_i φ(x_i)ᵀ v_i over the rows asked for."""
        ...


class BlockFeatures:
    """Features given as numbers: a matrix, or a function that makes blocks of it.

    Args:
        blocks: a tensor (n, o, D); a tensor (n, p) of features shared by all outputs, each output then having weights
            of its own, D = o·p, output by output; or a function from rows (a slice or a tensor of indices) to such a
            block.
        num_outputs: o; needed where features are shared and o > 1.
        num_rows: n; needed where `blocks` is a function.
        batch_size: rows of one block; None lets a block hold 2²³ numbers.

    Raises:
        ShapeError, InputError, DtypeError: the features cannot be used.

    Cost:
        2·b·o·D·s flops a product (2·b·o·p·s where shared), and the block.
    """

    def __init__(
        self,
        blocks: Tensor | Callable[[RowIndex], Tensor],
        *,
        num_outputs: int | None = None,
        num_rows: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        if num_outputs is not None:
            num_outputs = whole_number(num_outputs, "num_outputs")
        if isinstance(blocks, Tensor):
            detached = self._checked(blocks).detach()
            self._make: Callable[[RowIndex], Tensor] = lambda rows: detached[rows]
            if num_rows not in (None, len(blocks)):
                raise ShapeError(f"the matrix has {len(blocks)} rows, but num_rows is {num_rows}.")
            num_rows = len(blocks)
        elif callable(blocks):
            self._make = blocks
        else:
            raise DtypeError(
                f"features must be a torch.Tensor, a function of rows or Features, got {type(blocks).__name__}."
            )
        if num_rows is None:
            raise InputError("features given by a function need num_rows.")
        num_rows = whole_number(num_rows, "num_rows")
        first = self._checked(self._make(slice(0, 1)), 1)
        self._inner, self._shared, self._width = first.shape[1:], first.ndim == 2, first.shape[-1]
        self.num_rows, self.dtype, self.device = num_rows, first.dtype, first.device
        self.num_outputs = (1 if num_outputs is None else num_outputs) if self._shared else first.shape[1]
        if num_outputs not in (None, self.num_outputs):
            raise ShapeError(
                f"the features have {self.num_outputs} outputs, but num_outputs is {num_outputs}."
            )
        self.num_weights = self._width * (self.num_outputs if self._shared else 1)
        if batch_size is not None:
            batch_size = whole_number(batch_size, "batch_size")
        self.batch_size = batch_size or max(1, _BLOCK_NUMBERS // max(1, first.numel()))

    @staticmethod
    def _checked(block: Tensor, expected: int | None = None) -> Tensor:
        if not isinstance(block, Tensor) or not block.is_floating_point():
            raise DtypeError("a block of features must be a floating-point torch.Tensor.")
        if block.layout != torch.strided:
            raise DtypeError(
                f"features must be dense, got a tensor of {block.layout}: give x.to_dense(), or BlockFeatures of a "
                "function that makes dense blocks of rows."
            )
        if block.ndim not in (2, 3) or 0 in block.shape or expected not in (None, len(block)):
            b = "n" if expected is None else expected
            raise ShapeError(
                f"features must be ({b}, p) or ({b}, o, D) in {b} rows, got {tuple(block.shape)}."
            )
        return block

    def _block(self, rows: RowIndex) -> Tensor:
        """The block of these rows, which must be as the first one was."""
        expected = len(range(self.num_rows)[rows]) if isinstance(rows, slice) else len(rows)
        block = self._checked(self._make(rows), expected).detach()
        if (block.shape[1:], block.dtype, block.device) != (self._inner, self.dtype, self.device):
            raise ShapeError(
                f"the function of features gave a block {tuple(block.shape)} of {block.dtype} on {block.device}, its "
                f"first row was {(1, *self._inner)} of {self.dtype} on {self.device}."
            )
        return block

    def apply(self, weights: Tensor, rows: RowIndex) -> Tensor:  # (D, s) -> (b, o, s)
        block = self._block(rows)
        if not self._shared:
            return block @ weights
        columns = weights.reshape(self.num_outputs, self._width, -1)
        return torch.einsum("bp,ops->bos", block, columns)

    def adjoint(self, v: Tensor, rows: RowIndex) -> Tensor:  # (b, o, s) -> (D, s)
        block = self._block(rows)
        if not self._shared:
            return block.reshape(-1, self._width).T @ v.reshape(-1, v.shape[-1])
        return torch.einsum("bp,bos->ops", block, v).reshape(-1, v.shape[-1])


def as_features(features: Any, num_outputs: int | None = None) -> Features:
    """`features` itself, or `BlockFeatures` of a tensor.

    Raises:
        DtypeError: neither features nor a tensor.
        ShapeError: as many outputs as features and targets say do not agree.
    """
    if isinstance(features, Tensor):
        return BlockFeatures(features, num_outputs=num_outputs)
    if not isinstance(features, Features):
        raise DtypeError(
            f"features must be a torch.Tensor (n, p) or (n, o, D), or offer sggp.linear.Features; a function of rows "
            f"goes into BlockFeatures(function, num_rows=n). Got {type(features).__name__}."
        )
    if num_outputs not in (None, features.num_outputs):
        raise ShapeError(f"the features have {features.num_outputs} outputs, the targets {num_outputs}.")
    return features


def real_targets(y: Any) -> Tensor:  # -> (n, o)
    """Targets (n, o) or (n,), floating-point and finite, detached."""
    if not isinstance(y, Tensor) or not y.is_floating_point():
        raise DtypeError(
            f"y must be a floating-point torch.Tensor (n, o) or (n,), got {type(y).__name__}; convert it."
        )
    if y.ndim not in (1, 2) or y.shape[-1] == 0:
        raise ShapeError(f"y must be (n, o) or (n,), got shape {tuple(y.shape)}.")
    if not bool(torch.isfinite(y).all()):
        raise InputError("y holds NaN or infinity; remove those rows.")
    return y.detach()[:, None] if y.ndim == 1 else y.detach()


def batches(features: Features) -> Iterator[slice]:
    """Slices that cover all rows, none longer than `features.batch_size`."""
    for begin in range(0, features.num_rows, features.batch_size):
        yield slice(begin, min(begin + features.batch_size, features.num_rows))
