"""A linear system made ready for a solver: checked, columns scaled, trivial columns set aside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sggp.arrays import check_plain
from sggp.errors import DtypeError, InputError, ShapeError, UnsupportedOperator
from sggp.operators.base import LinearOperator, RowOperator, completed
from sggp.random import as_generator
from sggp.typing import Seed

__all__ = ["Problem", "System", "check_operator", "check_system", "few", "require_rows"]

_COPIED = 2**16  # entries of columns that are read at once: half a megabyte


@dataclass
class Problem:
    """What a solver is given: A x = b from x = 0, with unit columns, only those that need work.

    Attributes:
        operator: A.
        rhs: (n, s) unit columns in the operator's dtype.
        tolerance: (s,) relative, float64.
        columns: (s,) their places among all columns given.
        generator: the source of all randomness of the solve.
    """

    operator: Any
    rhs: Tensor
    tolerance: Tensor
    columns: Tensor
    generator: torch.Generator

    @property
    def n(self) -> int:
        return self.operator.shape[0]


@dataclass(frozen=True)
class Columns:
    """Some columns of a block, read in float64 and divided by powers of two as they are asked for: no copy is kept.

    Attributes:
        block: (n, s_all) as given. places: (s,) of the columns. scale: (s,) what they are divided by.
    """

    block: Tensor
    places: Tensor
    scale: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.block), len(self.places)

    @property
    def device(self) -> torch.device:
        return self.block.device

    def take(self, columns: Tensor | None = None) -> Tensor:  # (c,) -> (n, c)
        """A new tensor of these of the columns, None for all; made a few at a time."""
        columns = torch.arange(len(self.places)) if columns is None else columns
        out = self.block.new_empty(len(self.block), len(columns), dtype=torch.float64)
        parts = few(columns, len(self.block))
        for own, part in zip(parts, out.split([len(own) for own in parts], dim=1), strict=True):
            torch.div(self.block[:, self.places[own]].double(), self.scale[own].to(out), out=part)
        return out

    def rows(self, rows: Tensor, columns: Tensor) -> Tensor:  # (b,), (c,) -> (b, c)
        """These entries of these columns."""
        return Columns(self.block[rows], self.places, self.scale).take(columns)

    def norms(self) -> Tensor:  # -> (s,)
        """Of the columns, on the CPU."""
        parts = few(torch.arange(len(self.places)), len(self.block))
        return torch.cat([torch.linalg.vector_norm(self.take(own), dim=0).cpu() for own in parts])


def few(columns: Tensor, rows: int) -> tuple[Tensor, ...]:
    """Columns, by as many as are a small copy of so many rows, one at least."""
    return columns.split(max(1, _COPIED // max(1, rows)))


@dataclass(frozen=True)
class System:
    """The checked arguments of a solve.

    Attributes:
        operator: A.
        rhs: (n, s) the columns that need work, divided by powers of two.
        x0: (n, s) the start, divided by the same.
        tolerance: (s,) relative, float64.
        columns: (s,) their places among all columns given.
        norms: (s,) float64 norms of `rhs`.
        scale: (s_all,) the powers of two that all columns given were divided by, so that no norm overflows and scaling
            back is exact; 0 for zero columns, NaN for non-finite ones.
        all_tolerances: (s_all,) of all columns given.
        generator: the source of all randomness of the solve.
        vector: whether the right-hand side was one-dimensional.
        dtype: that of the right-hand side as given.
    """

    operator: Any
    rhs: Columns
    x0: Tensor | None
    tolerance: Tensor
    columns: Tensor
    norms: Tensor
    scale: Tensor
    all_tolerances: Tensor
    generator: torch.Generator
    vector: bool
    dtype: torch.dtype


def check_operator(operator: Any) -> Any:
    """The operator with the defaults of `sggp.operators.Operator`; `UnsupportedOperator` where it is none."""
    if not isinstance(operator, LinearOperator):
        raise UnsupportedOperator(
            f"{type(operator).__name__} is not a LinearOperator: it must offer shape, dtype, device, matmul(v), "
            "diagonal() and entries_evaluated."
        )
    return completed(operator)


def require_rows(operator: Any, solver: Any) -> None:
    """Raise `UnsupportedOperator` unless it offers the rows that a solver needs."""
    if not isinstance(operator, RowOperator):
        raise UnsupportedOperator(
            f"{type(solver).__name__} needs rows_matmul, columns_matmul and block, which {type(operator).__name__} "
            "does not offer; use ConjugateGradients."
        )


def check_system(
    operator: Any, rhs: Tensor, x0: Tensor | None, tolerance: float | Tensor, generator: Seed
) -> System:
    """Check the arguments of a solve, scale its columns, and set trivial ones aside.

    Raises:
        UnsupportedOperator, ShapeError, DtypeError, InputError: an argument cannot be used.
    """
    operator = check_operator(operator)
    n = operator.shape[0]
    rhs = _columns("rhs", rhs, n, operator)
    operator.workers.same("right-hand sides", rhs)
    block = rhs[:, None] if rhs.ndim == 1 else rhs
    s = block.shape[1]
    limits = torch.as_tensor(tolerance, dtype=torch.float64).detach().cpu()
    if limits.ndim > 1 or (limits.ndim == 1 and len(limits) not in (1, s)):
        raise ShapeError(f"tolerance must be a number or ({s},), got shape {tuple(limits.shape)}.")
    if not bool((limits > 0).all()):
        raise InputError(f"tolerance must be positive, got {tolerance}.")
    limits = limits.reshape(-1).expand(s).clone() if limits.numel() == 1 else limits.clone()
    scale = _powers_of_two(block)
    work = (scale > 0).nonzero()[:, 0]
    sides = Columns(block, work, scale[work])
    start = None
    if x0 is not None:
        x0 = _columns("x0", x0, n, operator)
        if x0.shape != rhs.shape:
            raise ShapeError(f"x0 must have the shape of rhs, {tuple(rhs.shape)}, got {tuple(x0.shape)}.")
        if not bool(torch.isfinite(x0).all()):
            raise InputError("x0 holds NaN or infinity; pass None to start from zero.")
        start = Columns(x0.reshape(n, s), work, scale[work]).take()
    return System(
        operator=operator,
        rhs=sides,
        x0=start,
        tolerance=limits[work],
        columns=work,
        norms=sides.norms(),
        scale=scale,
        all_tolerances=limits,
        generator=as_generator(generator),
        vector=rhs.ndim == 1,
        dtype=rhs.dtype,
    )


def _powers_of_two(block: Tensor) -> Tensor:  # (n, s) -> (s,)
    """The power of two below the largest entry of each column; 0 for zeros, NaN where an entry is not finite."""
    largest = torch.zeros(block.shape[1], dtype=torch.float64)
    if len(block):
        largest = torch.maximum(block.amax(0), -block.amin(0)).double().cpu()
    mantissa, _ = torch.frexp(largest)
    power = torch.where(largest > 0, largest / (2 * mantissa), 0.0)
    return torch.where(torch.isfinite(largest), power, float("nan"))


def _columns(name: str, value: Tensor, n: int, operator: LinearOperator) -> Tensor:
    if not isinstance(value, Tensor):
        raise DtypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}.")
    check_plain(value, name)
    if value.ndim not in (1, 2) or value.shape[0] != n:
        raise ShapeError(f"{name} must be ({n},) or ({n}, s), got shape {tuple(value.shape)}.")
    if not value.is_floating_point():
        raise DtypeError(f"{name} must be floating point, got {value.dtype}.")
    return value.detach().to(operator.device)
