"""Kernels of some columns of a table, and the checks of which columns these are."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from gpytorch.kernels import Kernel, ScaleKernel
from torch import Tensor

from sggp import fitting
from sggp.errors import InputError


def column_number(value: Any, d: int, name: str) -> int:
    """A column of d, counted from 0, or from the end where negative.

    Raises:
        InputError: naming the argument, there is no such column.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or not -d <= int(value) < d:
        raise InputError(f"{name} must be the number of a column, from {-d} to {d - 1}, got {value!r}.")
    return int(value) % d


def column_numbers(values: Any, d: int, name: str) -> list[int]:
    """Different columns of d, at least one, in their order.

    Raises:
        InputError: naming the argument.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence) or not len(values):
        raise InputError(f"{name} must be a list of columns, at least one, got {values!r}.")
    columns = [column_number(value, d, name) for value in values]
    if len(set(columns)) < len(columns):
        raise InputError(f"{name} names a column twice: {list(values)}.")
    return sorted(columns)


def check_untouched(given: Tensor, x: Tensor, columns: list[int], what: str) -> None:
    """Columns (n, d) that an input transform has left as they were.

    Raises:
        InputError: it has not.
    """
    bad = columns if x.shape != given.shape else [j for j in columns if not torch.equal(x[:, j], given[:, j])]
    if bad:
        raise InputError(
            f"input_transform changes column {bad[0]}, which {what}: leave it out, as with "
            f"Normalize(d={given.shape[-1]}, indices=[...])."
        )


def default_on_columns(x: Tensor, y: Tensor, columns: list[int]) -> ScaleKernel:
    """The scaled Matérn kernel where learning with the default kernel starts, of some columns of x (n, d)."""
    return _on_columns(fitting.default_kernel(x[:, columns], y), columns)


def copied_on_columns(kernel: Kernel, columns: list[int]) -> Kernel:
    """A copy that sees some columns, unless the kernel says itself what it sees."""
    kernel = copy.deepcopy(kernel)
    return kernel if kernel.active_dims is not None else _on_columns(kernel, columns)


def _on_columns(kernel: Any, columns: list[int]) -> Any:
    """The kernel itself, restricted; GPyTorch has a ScaleKernel and its base see the same columns."""
    part = kernel
    while True:
        part.active_dims = torch.tensor(columns)
        if not isinstance(part, ScaleKernel):
            return kernel
        part = part.base_kernel
