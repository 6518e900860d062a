"""What every compiled engine refuses, said once."""

from __future__ import annotations

import torch
from torch import Tensor

from sggp.errors import DtypeError, InputError, ShapeError

__all__ = ["check_columns", "check_counts", "check_cpu", "check_pair", "check_points"]

DTYPES = (torch.float32, torch.float64)


def check_cpu(*tensors: Tensor) -> None:
    """Refuse tensors that are not on the CPU."""
    for x in tensors:
        if x.device.type != "cpu":
            raise InputError(f"the C++ engine needs tensors on the CPU; got one on {x.device}. Use .cpu().")


def _check_pair_of_rows(a: Tensor, b: Tensor, what: str) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ShapeError(
            f"{what} of shapes {tuple(a.shape)} and {tuple(b.shape)}; expected (n, d) and (m, d)."
        )


def check_points(a: Tensor, b: Tensor, dtype: torch.dtype) -> None:
    """Refuse points that are not (n, d) and (m, d), float32 or float64."""
    _check_pair_of_rows(a, b, "points")
    for x in (a.dtype, b.dtype, dtype):
        if x not in DTYPES:
            raise DtypeError(f"the engines compute in float32 and float64; got {x}. Convert the tensors.")


def check_columns(v: Tensor, rows: int, name: str) -> None:
    """Refuse columns that are not (rows, s), float32 or float64."""
    if v.ndim != 2 or v.shape[0] != rows:
        raise ShapeError(f"{name} has shape {tuple(v.shape)}; expected ({rows}, s).")
    if v.dtype not in DTYPES:
        raise DtypeError(f"{name} is {v.dtype}; expected float32 or float64.")


def check_pair(a: Tensor, b: Tensor, left: Tensor, right: Tensor) -> None:
    """Refuse columns `left` (n, s) and `right` (m, s) of a bilinear form that do not fit points a (n, d), b (m, d)."""
    check_points(a, b, a.dtype)
    check_columns(left, a.shape[0], "left")
    check_columns(right, b.shape[0], "right")
    if left.shape[1] != right.shape[1]:
        raise ShapeError(
            f"left has {left.shape[1]} columns and right has {right.shape[1]}; expected as many."
        )


def check_counts(a: Tensor, b: Tensor, dtype: torch.dtype) -> None:
    """Refuse counts that are not (n, d) and (m, d), uint8 or bool, and results that are not floating."""
    _check_pair_of_rows(a, b, "counts")
    for x in (a, b):
        if x.dtype not in (torch.uint8, torch.bool):
            raise DtypeError(
                f"counts are {x.dtype}; expected uint8 (0..255) or bool. Counts above 255 do not fit: cut them with "
                ".clamp(max=255) or fold the fingerprint wider, then convert with .to(torch.uint8)."
            )
    if dtype not in DTYPES:
        raise DtypeError(f"the result cannot be {dtype}; expected float32 or float64.")
