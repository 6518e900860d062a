"""What the methods of a solver give the driver, checked: a mistake in one is said of it, not of the driver."""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor

from sggp.errors import DtypeError, InputError, ShapeError
from sggp.typing import ResidualKind

__all__ = ["checked_failures", "checked_iterate", "checked_residual", "checked_stalled"]

_HINT = "; fields of the state that run over columns are named in its `per_column`"


def checked_iterate(solver: Any, found: Any, rows: int, columns: int) -> Tensor:  # -> (n, s)
    """What `iterate` gave.

    Raises:
        DtypeError, ShapeError: it is no tensor (n, s) of the open columns.
    """
    return _block(found, (rows, columns), f"{type(solver).__name__}.iterate")


def checked_residual(solver: Any, found: Any, columns: int) -> tuple[Tensor, ResidualKind] | None:
    """What `residual` gave.

    Raises:
        DtypeError, ShapeError, InputError: it is neither None nor residuals (s,) of the open columns and their kind.
    """
    if found is None:
        return None
    name = f"{type(solver).__name__}.residual"
    if not (isinstance(found, tuple) and len(found) == 2):
        raise DtypeError(f"{name} must give (residuals, kind) or None, got {type(found).__name__}.")
    if found[1] not in get_args(ResidualKind):
        raise InputError(f"the kind of {name} must be one of {get_args(ResidualKind)}, got {found[1]!r}.")
    return _block(found[0], (columns,), name), found[1]


def checked_stalled(solver: Any, found: Any, columns: int) -> Tensor:  # -> (s,)
    """What `stalled` gave; the same errors."""
    return _block(found, (columns,), f"{type(solver).__name__}.stalled")


def checked_failures(solver: Any, found: Any, columns: int) -> Any:
    """What `failures` gave; the same errors."""
    if not isinstance(found, list | tuple) or len(found) != columns:
        raise ShapeError(
            f"{type(solver).__name__}.failures must give a list of {columns}, a Status or None for each open column, "
            f"got {found!r:.80}."
        )
    return found


def _block(found: Any, shape: tuple[int, ...], name: str) -> Tensor:
    if not isinstance(found, torch.Tensor):
        raise DtypeError(f"{name} must give a torch.Tensor {shape}, got {type(found).__name__}.")
    if tuple(found.shape) != shape:
        raise ShapeError(f"{name} must give {shape} for the open columns, got {tuple(found.shape)}{_HINT}.")
    return found
