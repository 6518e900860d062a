"""A space of finitely many candidates, in memory or on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sggp.bayesopt.maximise import Look, Paths, as_indices, maximise_pool
from sggp.bayesopt.trials import Place, Trial
from sggp.checks import as_numbers, whole_number
from sggp.errors import DtypeError, InputError, ShapeError

_DIGEST_ROWS = 64


class Pool:
    """A finite set of N candidates, addressed by row index and read in chunks.

    Args:
        table: (N, d) numbers (tensor, NumPy array, data frame, nested lists), or a table with ``len(table)`` and
            ``table[rows] -> (k, d) tensor`` such as `sggp.molecules.FingerprintTable`, which may live on disk: only a
            chunk is ever in memory. Integers are counts (fingerprints), other numbers are real inputs.
        chunk_size: rows evaluated at once; lower it when memory is short.

    Raises:
        InputError: the table is empty or holds a value that is not finite, or `chunk_size` is not positive.
        ShapeError: an array that is not two-dimensional.
        DtypeError: the candidates are no numbers (SMILES need a `FingerprintTable`), or no table.
    """

    def __init__(self, table: Any, *, chunk_size: int = 8192) -> None:
        self.chunk_size = whole_number(chunk_size, "chunk_size")
        self.table = _as_table(table)
        if len(self.table) == 0:
            raise InputError("the pool has no rows: there is nothing to choose from.")
        self._first = _first_row(self.table)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def capacity(self) -> float:
        return len(self)

    @property
    def num_initial(self) -> int:
        return 10

    @property
    def names(self) -> list[str]:
        return ["smiles"]

    @property
    def parts(self) -> dict[str, tuple[int, int]] | None:
        """The columns of each fingerprint where the table has several side by side: a `kernel` for `fit_surrogate`."""
        return getattr(self.table, "parts", None)

    @property
    def scaled(self) -> Pool:
        """The pool itself."""
        return self

    def rows(self, rows: Any) -> Tensor:
        """(k, d) features of the given rows: float64, or integers as they are.

        Raises:
            InputError: an index outside 0..N-1.
        """
        return _wide(self.table[as_indices(rows, len(self), what="rows")])

    def chunks(self, size: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """Pairs (first row, (chunk, d) features) over the whole pool, in order."""
        step = self.chunk_size if size is None else whole_number(size, "size")
        for start in range(0, len(self), step):
            yield start, _wide(self.table[slice(start, min(start + step, len(self)))])

    def describe(self) -> dict[str, Any]:
        """What identifies this pool in a stored campaign: its shape and a digest of some of its rows."""
        n = len(self)
        probe = torch.linspace(0, n - 1, min(_DIGEST_ROWS, n), dtype=torch.float64).round().long()
        features = self.table[probe].contiguous()
        digest = hashlib.sha256(features.cpu().numpy().tobytes()).hexdigest()
        return {"kind": "pool", "rows": n, "width": int(features.shape[1]), "digest": digest}

    def label(self, row: int) -> str | None:
        """What the table calls a row (its SMILES), or None."""
        names = getattr(self.table, "smiles", None)
        return None if names is None else str(names[row])

    def start(
        self, count: int, trials: Sequence[Trial], *, seed: int, generator: torch.Generator
    ) -> list[Place]:
        """Rows drawn at random among those of no trial."""
        taken = {trial.index for trial in trials}
        order = torch.randperm(len(self), generator=generator).tolist()
        return self.places(torch.tensor([row for row in order if row not in taken][:count]))

    def place(self, x: Any) -> Place:
        """A row, a label that the table knows, or the features (d,) of a candidate outside the pool.

        A `Place` with features gives such a candidate a label.
        """
        if isinstance(x, Place) and x.x is not None:
            return replace(self.place(x.x), label=x.label)
        if isinstance(x, str):
            names = getattr(self.table, "smiles", None) or ()
            row = next((i for i, name in enumerate(names) if name == x), None)
            if row is None:
                raise InputError(f"the pool has no candidate named {x!r}: give its row or its features.")
            return Place(index=row, label=x)
        if hasattr(x, "__index__") and getattr(x, "ndim", 0) == 0:
            row = whole_number(x, "a pool row", least=None)
            as_indices([row], len(self), what="x")
            return Place(index=row, label=self.label(row))
        width, dtype = len(self._first), self._first.dtype
        expected = f"a row, a label, or the ({width},) features of a candidate"
        point = as_numbers(x, "x", expected).detach().cpu()
        if point.shape != (width,):
            raise ShapeError(f"x must be {expected}; got shape {tuple(point.shape)}.")
        kept = point.to(dtype).to(torch.float64)
        if not bool(torch.isfinite(kept).all()):
            raise InputError("the features hold a value that is not finite.")
        if not dtype.is_floating_point and not torch.equal(kept, point):
            raise InputError(f"the features of this pool are whole numbers ({dtype}); some of x do not fit.")
        return Place(x=tuple(point.tolist()))

    def places(self, choice: Tensor) -> list[Place]:
        """The rows with their labels."""
        return [Place(index=row, label=self.label(row)) for row in choice.tolist()]

    def features(self, trials: Sequence[Trial]) -> Tensor:
        """(n, d) features: of the row, or as they were attached."""
        out = _wide(self._first.new_empty(len(trials), len(self._first)))
        rows = {position: trial.index for position, trial in enumerate(trials) if trial.index is not None}
        if rows:
            out[list(rows)] = self.rows(list(rows.values()))
        for position, trial in enumerate(trials):
            if trial.index is None:
                out[position] = torch.tensor(trial.x, dtype=torch.float64).to(self._first.dtype)
        return out

    def cells(self, trial: Trial) -> list[Any]:
        return [trial.label or ("(outside the library)" if trial.index is None else f"row {trial.index}")]

    def maximise(self, paths: Paths, posterior: Any, look: Look) -> tuple[Tensor, Tensor]:
        """`maximise_pool` over the rows that are neither excluded nor pending."""
        banned = torch.cat([as_indices(getattr(look, w), len(self), what=w) for w in ("exclude", "pending")])
        return maximise_pool(paths, self, maximize=look.maximize, exclude=banned, progress=look.progress)


def _wide(features: Tensor) -> Tensor:
    """A few rows in float64, so that values at them are not rounded; integers as they are."""
    return features.double() if features.is_floating_point() else features


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
                "sggp.molecules.FingerprintTable.from_smiles, and encode other columns as numbers."
            )
        table = torch.from_numpy(
            np.require(table.astype(_kept_type(table.dtype), copy=False), requirements=["C", "W"])
        )
    if not isinstance(table, Tensor):
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


def _first_row(table: Any) -> Tensor:
    """(d,) features of row 0, which shows that the table gives rows as it should."""
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
