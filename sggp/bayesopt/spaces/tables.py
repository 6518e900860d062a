"""The candidates of a pool as numbers, from whatever a user keeps them in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor

from sggp.arrays import fingerprint_rows
from sggp.bayesopt.spaces.columns import Categorical
from sggp.errors import DtypeError, InputError, ShapeError

Kind = Literal["counts", "numbers"]
KINDS = ("counts", "numbers")
_MANY = 100  # levels from which on a text is no category


@dataclass(frozen=True)
class Candidates:
    """A pool's table.

    Attributes:
        table: N rows by number.
        kind: "counts" (fingerprints, compared by Tanimoto) or "numbers".
        names: of the columns as the user has them, None where they have none.
        cells: the user's columns, where there are names.
        categories: how those columns are coded that hold no numbers, by position.
    """

    table: Any
    kind: Kind
    names: list[str] | None = None
    cells: list[np.ndarray] | None = None
    categories: dict[int, Categorical] | None = None

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """The coordinates that are the codes of one category each."""
        out, start = [], 0
        for j in range(len(self.names or ())):
            column = (self.categories or {}).get(j)
            size = 1 if column is None else column.size
            out += [tuple(range(start, start + size))] if column is not None else []
            start += size
        return tuple(out)

    def encode(self, cells: Sequence[Any]) -> list[float]:
        """The coordinates of one candidate, from values in the order of the columns."""
        out: list[float] = []
        for j, (name, cell) in enumerate(zip(self.names or (), cells, strict=True)):
            column = (self.categories or {}).get(j)
            out += [cell] if column is None else column.encode([column.cell(cell, name)])[0].tolist()
        return out


def read_candidates(table: Any, kind: Any, names: Sequence[str] | None) -> Candidates:
    """A table of candidates, checked.

    Raises:
        DtypeError: no numbers, and no categories of a data frame. ShapeError: not (N, d), or another number of names.
        InputError: values that are not finite, missing cells, texts that are no categories.
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"kind must be 'counts', 'numbers' or None, got {kind!r:.60}.")
    if _is_frame(table):
        found = _frame(table, kind)
        if found is not None:
            if names is not None:
                raise InputError("the columns of the data frame have names already: leave names= out.")
            return found
        names = [str(name) for name in table.columns] if names is None and kind != "counts" else names
    vectors = fingerprint_rows(table)
    kind = kind or (None if vectors is table else "counts")
    checked = _as_table(vectors)
    called = None if names is None else [str(name) for name in names]
    if not isinstance(checked, Tensor):
        if called is not None:
            raise InputError(
                "names are for the columns of arrays and lists; this table has columns of its own."
            )
        return Candidates(checked, kind or _kind_of(first_row(checked)))
    if called is not None and (len(called) != checked.shape[1] or len(set(called)) < len(called)):
        raise ShapeError(
            f"names must be {checked.shape[1]} different ones, one per column; got {len(called)}."
        )
    meant: Kind = kind or _kind_of(checked)
    if meant == "counts":
        checked = _as_counts(checked)
    cells = None if called is None else list(checked.cpu().numpy().T)
    return Candidates(checked, meant, called, cells)


def first_row(table: Any) -> Tensor:
    """(d,) features of row 0, which shows that the table gives rows as it should."""
    if len(table) == 0:
        raise InputError("the pool has no rows: there is nothing to choose from.")
    try:
        row = table[torch.tensor([0])]
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        raise DtypeError(
            f"a pool needs numbers (N, d) or a table with len() and rows by index, got {type(table).__name__} "
            f"({error})."
        ) from error
    if not isinstance(row, Tensor) or row.ndim != 2:
        shape = tuple(row.shape) if isinstance(row, Tensor) else type(row).__name__
        raise DtypeError(f"table[rows] must give a tensor (k, d); {type(table).__name__} gave {shape}.")
    return row[0]


def _kind_of(features: Tensor) -> Kind:
    """Bytes and bits are counts in memory or on disk; whole numbers of other types are settings."""
    return "counts" if features.dtype in (torch.uint8, torch.bool) else "numbers"


def _as_counts(table: Tensor) -> Tensor:
    """Whole numbers that are at least 0, kept as integers."""
    if table.is_floating_point() and not bool((table == table.round()).all()):
        raise InputError("kind='counts' is for whole numbers; this pool holds fractions.")
    if bool((table < 0).any()):
        raise InputError("kind='counts' is for numbers of at least 0; this pool holds negative ones.")
    return table.long() if table.is_floating_point() else table


def _is_frame(table: Any) -> bool:
    """Whether it has columns of types of their own, as in pandas and polars."""
    return hasattr(table, "columns") and (hasattr(table, "iloc") or hasattr(table, "get_column"))


def _frame(table: Any, kind: Any) -> Candidates | None:
    """A data frame with columns that hold no numbers, coded; None where all hold numbers."""
    names = [str(name) for name in table.columns]
    columns = [
        np.asarray(table.iloc[:, j] if hasattr(table, "iloc") else table.get_column(name))
        for j, name in enumerate(table.columns)
    ]
    if not columns or all(column.dtype.kind in "iuf" for column in columns):
        return None
    if all(column.dtype.kind == "b" for column in columns) and kind != "numbers":
        return None
    if kind == "counts":
        raise DtypeError("kind='counts' is for whole numbers; this data frame holds other columns.")
    parts, categories = [], {}
    for j, (name, column) in enumerate(zip(names, columns, strict=True)):
        if column.dtype.kind in "iuf":
            parts.append(_finite_column(name, column)[:, None])
            continue
        levels = _levels(name, column)
        categories[j] = Categorical(levels)
        parts.append(categories[j].encode(column.tolist()))
    if not len(parts[0]):
        raise InputError("the pool has no rows: there is nothing to choose from.")
    return Candidates(torch.cat(parts, dim=1), "numbers", names, columns, categories)


def _finite_column(name: str, column: np.ndarray) -> Tensor:
    values = torch.from_numpy(column.astype(np.float64))
    if not bool(torch.isfinite(values).all()):
        row = int((~torch.isfinite(values)).nonzero()[0])
        raise InputError(
            f"column {name!r} of the pool is missing or not finite in row {row}: leave such rows out."
        )
    return values


def _levels(name: str, column: np.ndarray) -> tuple[Any, ...]:
    """The texts or truth values of a column, sorted."""
    cells = column.tolist()
    for row, cell in enumerate(cells):
        if not isinstance(cell, str | bool):
            raise DtypeError(
                f"column {name!r} of the pool holds {cell!r:.40} in row {row}: a pool needs numbers, texts or truth "
                "values, of one type per column and none missing."
            )
    levels = sorted(set(cells), key=lambda cell: (str(type(cell)), cell))
    many = len(levels) > _MANY or (len(levels) > 10 and 2 * len(levels) > len(cells))
    if many or (len(levels) > 2 and len(levels) == len(cells)):
        raise DtypeError(
            f"column {name!r} of the pool holds {len(levels)} different texts in {len(cells)} rows: names, and "
            "no categories: leave it out; for SMILES use sggp.molecules.FingerprintTable.from_smiles."
        )
    if len(levels) < 2:
        raise InputError(f"column {name!r} of the pool has the same value in every row: leave it out.")
    return tuple(levels)


def _as_table(table: Any) -> Any:
    """A tensor of the numbers in an array, frame or nested lists; any other table as it is."""
    if hasattr(table, "to_numpy"):  # a data frame or series
        table = table.to_numpy()
    if isinstance(table, list | tuple):
        try:
            table = np.asarray(table)
        except ValueError as error:
            raise ShapeError(f"a pool of points must be (N, d), one row per candidate: {error}.") from error
    if isinstance(table, np.ndarray):
        if table.dtype.kind not in "buif":
            raise DtypeError(
                f"a pool needs numbers, got an array of {table.dtype}: fingerprint SMILES by "
                "sggp.molecules.FingerprintTable.from_smiles, and give categories as columns of a data frame."
            )
        table = torch.from_numpy(
            np.require(table.astype(_kept_type(table.dtype), copy=False), requirements=["C", "W"])
        )
    if not isinstance(table, Tensor):
        if issparse(table):
            raise DtypeError(
                "a pool needs a table with rows, got a sparse matrix: give table.toarray(), or fingerprints of at most "
                "255 as sggp.molecules.FingerprintTable.from_counts(table.toarray()), which keeps them sparse."
            )
        if not hasattr(table, "__len__") or not hasattr(table, "__getitem__"):
            raise DtypeError(f"a pool needs numbers (N, d) or a table of them, got {type(table).__name__}.")
        return table
    if table.ndim != 2 or table.shape[1] == 0:
        raise ShapeError(f"a pool of points must be (N, d), got shape {tuple(table.shape)}.")
    if table.is_complex() or table.layout != torch.strided:
        raise DtypeError(f"a pool needs a dense tensor of real numbers, got {table.dtype}, {table.layout}.")
    if table.is_floating_point() and not bool(torch.isfinite(table).all()):
        raise InputError("the pool holds a value that is not finite: leave those rows out.")
    return table.detach()


def _kept_type(dtype: np.dtype) -> Any:
    """The type that PyTorch computes with: bits as uint8, other integers as int64, floats of at most 64 bits."""
    if dtype.kind == "b" or dtype == np.uint8:
        return np.uint8
    if dtype.kind in "ui":
        return np.int64
    return np.float64 if dtype.itemsize > 8 else dtype.newbyteorder("=")
