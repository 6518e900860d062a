"""What a solver may ask of a linear operator: small protocols, nothing about kernels.

n is the number of rows, s the number of columns of a right-hand side, b the size of a batch of rows. All products
return the operator's dtype on the operator's device. `entries_evaluated` counts kernel entries that were computed or
read since construction; n² of them are one epoch, the common currency of all solvers, unless the operator states
`entries_per_epoch`.

What goes beyond the protocols has a default in `Operator`: subclass it, or let `completed` add the defaults.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from sggp.parallel import Workers, current


@runtime_checkable
class LinearOperator(Protocol):
    """A symmetric positive definite (n, n) matrix known by its products."""

    entries_evaluated: int

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def matmul(self, v: Tensor) -> Tensor:  # (n, s) -> (n, s)
        """The product with a block of columns; n² entries."""
        ...

    def diagonal(self) -> Tensor:  # (n,)
        """The diagonal, noise included."""
        ...


@runtime_checkable
class RowOperator(LinearOperator, Protocol):
    """Adds products with a few rows: what stochastic and block solvers need."""

    def rows_matmul(self, rows: Tensor, v: Tensor) -> Tensor:  # (b,), (n, s) -> (b, s)
        """Rows of the matrix times a block of columns, noise included; b·n entries."""
        ...

    def columns_matmul(self, cols: Tensor, v: Tensor) -> Tensor:  # (b,), (b, s) -> (n, s)
        """Columns of the matrix times a block with one row per column, noise included; b·n entries."""
        ...

    def block(self, rows: Tensor, cols: Tensor) -> Tensor:  # (b,), (c,) -> (b, c)
        """A dense block, noise included where a row meets itself; b·c entries."""
        ...


@runtime_checkable
class NeighbourOperator(RowOperator, Protocol):
    """Adds what nearest-neighbour preconditioners need: small float64 blocks and rows that are close."""

    @property
    def noise_variance(self) -> Tensor:  # (n,)
        """The diagonal Σ of K + Σ, float64."""
        ...

    def small_blocks(self, index: Tensor) -> Tensor:  # (b, m) -> (b, m, m)
        """Noise-free blocks K[index_i, index_i] in float64; b·m² entries."""
        ...

    def cross_block(self, rows: Tensor, cols: Tensor) -> Tensor:  # (b,), (c,) -> (b, c)
        """A noise-free dense block in float64; b·c entries."""
        ...

    def kernel_diagonal(self) -> Tensor:  # (n,)
        """The noise-free diagonal of K in float64."""
        ...

    def ordering(self, generator: torch.Generator) -> Tensor:  # -> (n,)
        """A permutation of the rows from coarse to fine, random within a level: see `sggp.neighbours`."""
        ...

    def earlier_neighbours(
        self, order: Tensor, k: int, low_rank: Tensor | None = None
    ) -> Tensor:  # (n,) -> (n, k)
        """For each position i of `order`, up to k positions j < i whose rows are closest; -1 where there are fewer.

        With a low-rank part F (n, r), closest means of largest residual correlation under K − FFᵀ + Σ.
        """
        ...


@runtime_checkable
class LeastSquaresOperator(LinearOperator, Protocol):
    """Adds what stochastic gradient descent needs: A u = r as regularised least squares over n observations.

    The objective is ½(y − Du)ᵀΣ⁻¹(y − Du) + ½uᵀPu with a design D (n, m) and a penalty P (m, m). Its gradient is
    estimated around an anchor δ (m, s), any at all, as `data_gradient` + `penalty_estimate(u − δ)`: for every δ that is
    unbiased, and its variance vanishes at the solution once δ is the solution too.
    """

    @property
    def noise_variance(self) -> Tensor:  # (n,)
        """The diagonal Σ, float64, one entry per observation."""
        ...

    def require_noise(self) -> None:
        """Raise `InputError` unless every noise variance is positive in the working precision."""
        ...

    @property
    def draws_features(self) -> bool:
        """Whether `penalty_estimate` draws random features; otherwise it samples columns of P."""
        ...

    def anchored_target(self, anchor: Tensor, gap: Tensor) -> Tensor:  # (m, s), (m, s) -> (m, s)
        """What `data_gradient` needs of an anchor δ and a right-hand side r, computed once for many steps."""
        ...

    def data_gradient(
        self, rows: Tensor, u: Tensor, anchor: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor | None]:  # (b,), (m, s), (m, s), (m, s) -> (m, s), (b, s) | None
        """The data part of the gradient at u from the observations `rows`, scaled to all of them.

        With it come the rows of A u − r that it saw on the way; None where observations are not rows of A, and then
        `anchored_target` is r − A δ.
        """
        ...

    def penalty_estimate(
        self, u: Tensor, num_features: int, generator: torch.Generator
    ) -> Tensor:  # (m, s) -> (m, s)
        """An unbiased estimate of P u: ΦΦᵀu with fresh random features Φ (m, p), or (m/p) P[:, J] u_J."""
        ...

    def design_norms(self, rows: Tensor) -> Tensor:  # (b,) -> (b,)
        """Squared norms of rows of D, float64; b·m entries."""
        ...

    def cross_block(self, rows: Tensor, cols: Tensor) -> Tensor:  # (b,), (c,) -> (b, c)
        """A dense block of P in float64; b·c entries."""
        ...

    def kernel_diagonal(self) -> Tensor:  # (m,)
        """The diagonal of P in float64."""
        ...


class _Current:
    """An attribute that is `current()` until an instance has its own."""

    def __get__(self, instance: Any, owner: type) -> Workers:
        return current()


class Operator:
    """Defaults of everything a solver may ask beyond a protocol; the operators of this package are subclasses.

    A solver calls `operator = completed(operator)` once and then reads plain attributes: `operator.memory_budget`,
    `operator.dense is None`. Nothing has to be probed with `hasattr`. What an operator can *do* beyond that is asked of
    the protocols: `isinstance(operator, RowOperator)`.

    Attributes:
        workers: who shares its products; a solver lets them agree on what hangs on a clock.
        memory_budget: bytes that a product or a dense block may take.
        rounds_inputs: whether products see inputs that were rounded; `matmul_wide` then sees them as given.
        matmul_wide: (n, s) float64 → (n, s) float64 whatever the working precision; None where there is none.
        product_within: (v, allowed (s,)) → `matmul_wide(v)` with no more error than allowed, as 2-norms of the columns,
            and that error (s,); None where `approximates` is False.
        dense: (dtype=torch.float64) → the matrix as a new tensor, the caller's to overwrite; None where there is none.
        dense_rows: (start, stop, dtype) → rows of the matrix from `start` to before `stop`, and the columns before
            `stop`, as a new tensor; None where only the whole can be had.
        sparse_columns: (index, real, low_rank) → columns of a sparse inverse factor in one call, or None for this
            kernel; None where there is no such function. See `sggp.native.reference.sparse_columns`.
        nearest_chosen: (chosen (m,), rows (b,), k) → (b, k) places among `chosen` of those nearest to the rows; None
            where no metric says which are near.
        metric_columns: columns of that metric in which rows differ; None where there is none.
        cross_matmul: (v (c, s), rows (b,), cols (c,)) → `K[rows][:, cols] v`, (b, s) float64 without noise, all rows or
            columns for None; None where there is no such function.
        with_noise: Σ (n,) float64 → the same K with this noise; None where there is no such function.
    """

    workers: Workers = _Current()  # type: ignore[assignment]
    memory_budget: float = math.inf
    rounds_inputs: bool = False
    matmul_wide: Callable[[Tensor], Tensor] | None = None
    product_within: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    dense: Callable[..., Tensor] | None = None
    dense_rows: Callable[..., Tensor] | None = None
    sparse_columns: Callable[[Tensor, Tensor, Tensor | None], Tensor | None] | None = None
    nearest_chosen: Callable[[Tensor, Tensor, int], Tensor] | None = None
    metric_columns: int | None = None
    cross_matmul: Callable[..., Tensor] | None = None
    with_noise: Callable[[Tensor], NeighbourOperator] | None = None

    @property
    def approximates(self) -> bool:
        """Whether products are wrong by more than rounding; residuals are then measured by `product_within`."""
        return False

    @property
    def entries_per_epoch(self) -> int:
        """Entries of one product: what an epoch counts."""
        rows, columns = self.shape  # type: ignore[attr-defined]
        return rows * columns

    def work(self, columns: float) -> float:
        """Entries whose evaluation and multiplication take as long as a product with so many columns."""
        return self.entries_per_epoch

    def earlier_of(self, order: Tensor, rows: Tensor, k: int) -> Tensor:  # (n,), (r,) -> (r, k)
        """`NeighbourOperator.earlier_neighbours(order, k)` at these positions of the order alone, ascending."""
        return self.earlier_neighbours(order, k)[rows]  # type: ignore[attr-defined]


class Forwarded:
    """An attribute of a part, read and set as one of the whole; `part` names the attribute that holds the part."""

    def __init__(self, part: str) -> None:
        self.part = part

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else getattr(getattr(instance, self.part), self.name)

    def __set__(self, instance: Any, value: Any) -> None:
        setattr(getattr(instance, self.part), self.name, value)


def completed(operator: Any) -> Any:
    """The operator itself where it is an `Operator`, else a view of it with the defaults of `Operator` for the rest.

    The view has the public attributes of the operator, none copied, and so satisfies the same protocols; its type has
    the operator's name.
    """
    if isinstance(operator, Operator):
        return operator
    names = [name for name in dir(operator) if not name.startswith("_")]
    kind = type(type(operator).__name__, (Operator,), {name: Forwarded("inner") for name in names})
    view = kind()
    view.inner = operator
    return view
