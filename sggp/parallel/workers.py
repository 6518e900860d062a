"""What shares work: one process on its own, which the ranks of a run and the devices of a host specialise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

__all__ = ["Compute", "Part", "Workers", "by_ranks", "current", "entered"]

T = TypeVar("T")

_LEAST_ROWS = 16


class Part(NamedTuple):
    """One worker's share of n rows: its number, the rows, and the device to compute on (None: where the data are)."""

    number: int
    rows: slice
    device: torch.device | None = None

    def here(self, value: Any) -> Any:
        """A tensor, or prepared rows, on the device of this part."""
        return value if self.device is None else value.to(self.device)


Compute = Callable[[Part], Tensor]


class Workers:
    """One process on its own, and the interface of several workers that run the same program on the same data.

    Every rank of a run holds the same inputs and the same vectors, bit for bit, and takes the same decisions; what is
    shared out is the work of a product, by rows of its result (`gather`) or by terms of its sum (`total`). So a solver
    is the same program on one process and on many.

    Attributes:
        size: how many workers there are. ranks: how many of them are processes that run this program.
        rank: the number of this process among them.
    """

    size = 1
    ranks = 1
    rank = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @property
    def first(self) -> bool:
        """Whether this process writes files and prints: rank 0, or the only process."""
        return self.rank == 0

    def gather(self, n: int, compute: Compute, alike: Iterable[Tensor] = ()) -> Tensor:
        """The n rows of a result of which `compute` gives a part's.

        Args:
            n: rows. compute: from a part to its rows, (rows of the part, ...).
            alike: what every rank must hold alike for the result to be one.
        """
        return compute(Part(0, slice(0, n)))

    def total(self, n: int, compute: Compute, alike: Iterable[Tensor] = ()) -> Tensor:
        """The sum over parts of n rows of what `compute` gives for each, all of one shape."""
        return compute(Part(0, slice(0, n)))

    def agreed(self, number: Any) -> Any:
        """A number (bool, int of 63 bits or float) that hangs on a clock or on chance: everybody's is the first's."""
        return number

    def shared(self, make: Callable[[], T]) -> T:
        """What `make` returns on the first; it, or its exception, is pickled for the others."""
        return make()

    def same(self, what: str, *tensors: Tensor) -> None:
        """Raise `RanksDiverged`, which names `what`, unless all hold the same tensors."""

    def map(self, function: Callable[..., T], *items: Iterable[Any]) -> list[T]:
        """`function` of every item, as `map` of Python, shared out; every rank gets all results, in order.

        The products of a call are its rank's own. Results are pickled; an exception is raised on every rank.
        """
        return [function(*arguments) for arguments in zip(*items, strict=True)]

    def require_open(self) -> None:
        """Raise where these workers are gone."""


_ALONE = Workers()
_CURRENT: ContextVar[Workers] = ContextVar("sggp.parallel", default=_ALONE)


def current() -> Workers:
    """The workers of the `with sggp.distributed()` that this thread is in; one process on its own outside."""
    return _CURRENT.get()


@contextmanager
def entered(workers: Workers) -> Iterator[Workers]:
    """Let `current` give these workers inside a `with` block."""
    token = _CURRENT.set(workers)
    try:
        yield workers
    finally:
        _CURRENT.reset(token)


def by_ranks(n: int, compute: Compute, alike: Iterable[Tensor] = ()) -> Tensor:
    """`gather` where this thread is among several ranks and each has some rows; else all rows by this process.

    For work on one device: what several devices of a process do is left to the threads of its engine.
    """
    workers = current()
    if workers.ranks == 1 or n < _LEAST_ROWS * workers.ranks:
        return compute(Part(0, slice(0, n)))
    return workers.gather(n, compute, alike)


def share(n: int, index: int, size: int) -> slice:
    """Part `index` of n rows: parts differ by one row at most."""
    return slice(index * n // size, (index + 1) * n // size)
