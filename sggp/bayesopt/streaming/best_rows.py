"""The best rows of a table of numbers for every path of a posterior: shard by shard, reduced."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sggp.checks import flag, whole_number
from sggp.errors import DataFileError, InputError, ShapeError

__all__ = ["Best", "PathSearch"]

_BLOCK = 16_384


@dataclass(frozen=True)
class Best:
    """The best rows of some shards: small, picklable, and joined by `PathSearch.reduce`.

    Attributes:
        values: (s, c) float64 of each path, the best first; c is k, or all rows where there are fewer.
        rows: (s, c) their numbers in the whole table; of equal values the lower row comes first. (Equal rows of the
            table may have values that differ in the last digit, where they stand in blocks of different sizes.)
    """

    values: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class PathSearch:
    """Look for the k best rows of each posterior path in a table that lies in shards.

    `shard` is a pure function from some rows to the best among them and `reduce` joins what was found, in any order. So
    `map` of Python, `workers.map` under torchrun, joblib, Dask, Ray or any executor does the work, and what travels is
    the posterior, once, and s·k numbers per shard, never s values of every row.

    Args:
        samples: such as `posterior.samples`: (q, d) → (s, q).
        k: rows to keep for each path.
        maximize: whether larger values are better.
        block: rows at a time.

    Raises:
        InputError: a setting that cannot be used.

    Cost: of evaluating the paths once at every row; memory of a block, whatever the number of rows.

    Example:
        >>> import numpy as np, torch
        >>> from sggp.bayesopt.streaming import PathSearch
        >>> search = PathSearch(lambda points: torch.stack([points[:, 0], -points[:, 0]]), k=2)
        >>> table = np.arange(10.0)[:, None]
        >>> search.reduce(*map(search.shard, [table[:5], table[5:]], [0, 5])).rows
        array([[9, 8],
               [0, 1]])
    """

    samples: Callable[[Tensor], Tensor]
    k: int = 1
    maximize: bool = True
    block: int = _BLOCK

    def __post_init__(self) -> None:
        whole_number(self.k, "k")
        whole_number(self.block, "block")
        flag(self.maximize, "maximize")
        if not callable(self.samples):
            raise InputError(f"samples must be functions such as posterior.samples, got {self.samples!r}.")

    def shard(self, rows: Any, start: int = 0) -> Best:
        """The best of some rows.

        Args:
            rows: (n, d), a tensor, an array or the path of a .npy file, which is mapped and never read whole. A shard
                without rows has no best.
            start: the number of the first of them in the whole table.

        Raises:
            DataFileError: there is no such file, or it is none. ShapeError: no rows of numbers.
            InputError: a value of a path is not finite.
        """
        table, begin = _opened(rows), whole_number(start, "start", least=0)
        if not len(table):
            nothing = self._values(np.zeros((1, table.shape[1])))[:, :0]
            return Best(nothing, np.zeros(nothing.shape, dtype=np.int64))
        found: list[Best] = []
        for first in range(0, len(table), self.block):
            values = self._values(table[first : first + self.block])
            if not np.isfinite(values).all():
                raise InputError("a path gave a value that is not finite: see posterior.solution for why.")
            here = np.arange(begin + first, begin + first + values.shape[1])
            found = [self.reduce(*found, Best(values, np.broadcast_to(here, values.shape)))]
        return found[0]

    def _values(self, rows: np.ndarray) -> np.ndarray:  # (m, d) -> (s, m)
        with torch.no_grad():
            return self.samples(torch.from_numpy(_native(rows))).to(torch.float64).cpu().numpy()

    def reduce(self, *parts: Best) -> Best:
        """The best of several shards; the order of the parts does not matter."""
        if not parts:
            raise InputError("there is nothing to join: give what `shard` found.")
        if len(counts := {len(part.values) for part in parts}) > 1:
            listed = " and ".join(f"of {count}" for count in sorted(counts, reverse=True))
            raise InputError(f"these parts are {listed} paths: join what one search found.")
        values = np.concatenate([part.values for part in parts], axis=1)
        rows = np.concatenate([part.rows for part in parts], axis=1)
        order = np.lexsort((rows, -values if self.maximize else values), axis=1)[:, : self.k]
        return Best(np.take_along_axis(values, order, 1), np.take_along_axis(rows, order, 1))


def _opened(rows: Any) -> Any:
    """The rows as something to take pieces of."""
    if isinstance(rows, str | os.PathLike):
        try:
            rows = np.load(rows, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataFileError(f"cannot map {os.fspath(rows)} as a .npy file: {error}") from error
    try:
        table = rows.detach().cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"a shard must be (n, d) numbers: {error}.") from error
    if table.ndim != 2 or table.dtype.kind not in "fiub":
        raise ShapeError(f"a shard must be (n, d) numbers, got {table.dtype} of shape {table.shape}.")
    return table


def _native(rows: np.ndarray) -> np.ndarray:
    """A copy in a type of numbers that torch has."""
    if rows.dtype.kind == "b":
        return rows.astype(np.uint8)
    long = rows.dtype.kind == "f" and rows.dtype.itemsize > 8
    return np.array(rows, dtype=np.float64 if long else rows.dtype.newbyteorder("="))
