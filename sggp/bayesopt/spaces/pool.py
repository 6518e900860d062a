"""A space of finitely many candidates, in memory or on disk."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sggp.bayesopt.maximise import Look, Paths, as_indices, maximise_pool
from sggp.bayesopt.spaces.identity import Identity, feature_keys
from sggp.bayesopt.spaces.tables import Kind, first_row, read_candidates
from sggp.bayesopt.trials import Place, Trial
from sggp.checks import as_numbers, whole_number
from sggp.errors import InputError, ShapeError

if TYPE_CHECKING:
    from sggp.molecules.standardise import Standardiser

_DIGEST_ROWS = 64


class Pool:
    """A finite set of N candidates, addressed by row index and read in chunks.

    A pool holds *counts*, which are fingerprints and compared by Tanimoto similarity, or *numbers*, which a model sees
    between 0 and 1 over the range of the pool. By itself, counts are what a `FingerprintTable` holds, and bytes and
    truth values (uint8, bool) in any table; every other number is a number, whole ones too.

    Args:
        table: (N, d) numbers (tensor, NumPy array, data frame, nested lists), or a table with ``len(table)`` and
            ``table[rows] -> (k, d) tensor`` such as `sggp.molecules.FingerprintTable`, which may live on disk: only a
            chunk is ever in memory. Columns of texts or truth values in a data frame are categories.
        chunk_size: rows evaluated at once; lower it when memory is short.
        kind: "counts" or "numbers", where the table does not say by itself; fingerprints of larger integers need
            ``kind="counts"``.
        names: of the columns of numbers; those of a data frame by themselves.
        units: of the columns by name.

    Raises:
        InputError: the table is empty or holds a value that is not finite or missing; a setting out of range.
        ShapeError: an array that is not two-dimensional, another number of names.
        DtypeError: the candidates are no numbers (SMILES need a `FingerprintTable`), or no table.

    Example:
        >>> Pool([[20, 1], [80, 3]], names=["temperature", "equivalents"], units={"temperature": "°C"}).kind
        'numbers'
    """

    def __init__(
        self,
        table: Any,
        *,
        chunk_size: int = 8192,
        kind: Kind | None = None,
        names: Sequence[str] | None = None,
        units: Mapping[str, str] | None = None,
    ) -> None:
        self.chunk_size = whole_number(chunk_size, "chunk_size")
        self._candidates = read_candidates(table, kind, names)
        self.table, self.kind = self._candidates.table, self._candidates.kind
        self._first = first_row(self.table)
        self._identity = Identity(self.table)
        self._range: tuple[Tensor, Tensor] | None = None
        self.units = dict(units or {})
        for name in self.units:
            if name not in (self._candidates.names or ()):
                raise InputError(f"the pool has no column {name!r} to have a unit.")

    def __len__(self) -> int:
        return len(self.table)

    @property
    def capacity(self) -> float:
        """How many different candidates there are: twins count once."""
        return self._identity.distinct

    @property
    def num_initial(self) -> int:
        return 10

    @property
    def names(self) -> list[str]:
        return ["smiles"] if self._candidates.names is None else self._candidates.names

    @cached_property
    def scaled(self) -> Pool:
        """The pool in the coordinates of the model: numbers between 0 and 1 over its range, counts as they are."""
        if self.kind == "counts":
            return self
        low, high = self._first.double().clone(), self._first.double().clone()
        for _, features in self.chunks():
            low, high = torch.minimum(low, features.amin(0)), torch.maximum(high, features.amax(0))
        width = high - low
        unit = copy.copy(self)
        unit._range = low, torch.where(width > 0, width, torch.ones_like(width))
        unit.__dict__["scaled"] = unit
        return unit

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        return self._candidates.blocks

    @property
    def parts(self) -> dict[str, tuple[int, int]] | None:
        """The columns of each fingerprint where the table has several side by side: a `kernel` for `fit_surrogate`."""
        return getattr(self.table, "parts", None)

    def standardised(self, standard: Standardiser) -> Pool:
        """The same candidates; those of one parent (salts, charges, ...) have one key and are twins.

        Raises:
            InputError: the candidates are no molecules.

        Cost: of the first look at all keys, see `sggp.molecules.standardise.standardise`.
        """
        if getattr(self.table, "canonical", None) is None:
            raise InputError(
                "only molecules can be standardised: give a pool of a FingerprintTable made of SMILES."
            )
        pool = copy.copy(self)
        pool.__dict__.pop("scaled", None)
        pool._identity = Identity(self.table, standard)
        return pool

    def rows(self, rows: Any) -> Tensor:
        """(k, d) features of the given rows: numbers in float64, counts as they are.

        Raises:
            InputError: an index outside 0..N-1.
        """
        return self._features(self.table[as_indices(rows, len(self), what="rows")])

    def chunks(self, size: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """Pairs (first row, (chunk, d) features) over the whole pool, in order."""
        step = self.chunk_size if size is None else whole_number(size, "size")
        for start in range(0, len(self), step):
            yield start, self._features(self.table[slice(start, min(start + step, len(self)))])

    def _features(self, raw: Tensor) -> Tensor:
        """Rows of the table as a model sees them."""
        if self.kind == "counts":
            return raw
        wide = raw.double()
        if self._range is None:
            return wide
        low, width = self._range
        return (wide - low.to(wide.device)) / width.to(wide.device)

    def describe(self) -> dict[str, Any]:
        """What identifies this pool in a stored campaign: its shape and a digest of some of its rows."""
        n = len(self)
        probe = torch.linspace(0, n - 1, min(_DIGEST_ROWS, n), dtype=torch.float64).round().long()
        features = self.table[probe].contiguous()
        digest = hashlib.sha256(features.cpu().numpy().tobytes()).hexdigest()
        return {"kind": "pool", "rows": n, "width": int(features.shape[1]), "digest": digest}

    def key(self, row: int) -> str:
        """What the candidate in a row is: canonical SMILES, else "id:" and its id, else a digest of its features.

        Raises:
            InputError: an index outside 0..N-1.
        """
        return self.keys([row])[0]

    def keys(self, rows: Any) -> list[str]:
        """The keys of these rows (k,)."""
        return self._identity.keys(as_indices(rows, len(self), what="rows"))

    def find(self, keys: Sequence[str]) -> Tensor:
        """(k,) int64: the first row of each key, -1 where the pool has none.

        Cost: all keys of the pool are read once; then O(k log N).
        """
        return self._identity.find(list(keys))

    def closed(self, rows: Any) -> Tensor:
        """The rows not to be proposed when these (k,) are known: they, their twins, and all but one of other twins."""
        known = as_indices(rows, len(self), what="rows")
        return torch.unique(torch.cat([self._identity.twins(known), self._identity.repeats()]))

    def label(self, row: int) -> str | None:
        """What the table calls a row (its SMILES), or None."""
        names = getattr(self.table, "smiles", None)
        return None if names is None else str(names[row])

    def start(
        self, count: int, trials: Sequence[Trial], *, seed: int, generator: torch.Generator
    ) -> list[Place]:
        """Rows drawn at random among those of no trial."""
        free = torch.ones(len(self), dtype=torch.bool)
        free[self.closed([trial.index for trial in trials if trial.index is not None])] = False
        order = torch.randperm(len(self), generator=generator)
        return self.places(order[free[order]][:count])

    def place(self, x: Any) -> Place:
        """A row, a label that the table knows, or the features (d,) of a candidate, outside the pool or not.

        A `Place` with features gives such a candidate a label and a key.
        """
        if isinstance(x, Place) and x.x is not None:
            place = self.place(x.x)
            return replace(place, label=x.label, key=place.key if x.key is None else x.key)
        if isinstance(x, str):
            names = getattr(self.table, "smiles", None) or ()
            row = next((i for i, name in enumerate(names) if name == x), None)
            if row is None:
                raise InputError(f"the pool has no candidate named {x!r}: give its row or its features.")
            return Place(index=row, label=x, key=self.key(row))
        if hasattr(x, "__index__") and getattr(x, "ndim", 0) == 0:
            row = whole_number(x, "a pool row", least=None)
            as_indices([row], len(self), what="x")
            return self.places(torch.tensor([row]))[0]
        point = self._point(x)
        if self._identity.named:
            return Place(x=tuple(point.tolist()))
        key = feature_keys(point[None])[0]
        row = int(self.find([key])[0])
        return Place(x=tuple(point.tolist()), key=key) if row < 0 else Place(index=row, key=key)

    def _point(self, x: Any) -> Tensor:
        """(d,) features of a candidate as the table has them, from those or from the user's columns."""
        names, width, dtype = self._candidates.names, len(self._first), self._first.dtype
        expected = f"a row, a label, or the ({width},) features of a candidate"
        if names is not None:
            expected = f"a row, or a candidate's values of {', '.join(names)}"
            given = x.to_dict() if hasattr(x, "to_dict") else x
            if isinstance(given, Mapping):
                if set(given) != set(names):
                    raise InputError(f"x must be {expected}; got columns {', '.join(map(str, given))}.")
                x = [given[name] for name in names]
            if self._candidates.categories and isinstance(x, list | tuple) and len(x) == len(names):
                x = self._candidates.encode(x)
        point = as_numbers(x, "x", expected).detach().cpu()
        if point.shape != (width,):
            raise ShapeError(f"x must be {expected}; got shape {tuple(point.shape)}.")
        kept = point if self.kind == "numbers" else point.to(dtype).to(torch.float64)
        if not bool(torch.isfinite(kept).all()):
            raise InputError("the features hold a value that is not finite.")
        if not torch.equal(kept, point):
            raise InputError(f"the features of this pool are counts ({dtype}); some of x do not fit.")
        return point

    def places(self, choice: Tensor) -> list[Place]:
        """The rows with their labels and keys."""
        pairs = zip(choice.tolist(), self.keys(choice), strict=True)
        return [Place(index=row, label=self.label(row), key=key) for row, key in pairs]

    def features(self, trials: Sequence[Trial]) -> Tensor:
        """(n, d) features in the coordinates of the model: of the row, or as they were attached."""
        out = self.scaled._features(self._first.new_empty(len(trials), len(self._first)))
        rows = {position: trial.index for position, trial in enumerate(trials) if trial.index is not None}
        if rows:
            out[list(rows)] = self.scaled.rows(list(rows.values()))
        for position, trial in enumerate(trials):
            if trial.index is None:
                point = torch.tensor(trial.x, dtype=torch.float64)
                out[position] = self.scaled._features(point.to(out.dtype))
        return out

    def taken(self, trials: Sequence[Trial]) -> Tensor:
        """(k,) the rows of trials, one for each key."""
        rows = as_indices(
            [trial.index for trial in trials if trial.index is not None], len(self), what="rows"
        )
        return torch.unique(self.find(self.keys(torch.unique(rows))))

    def cells(self, trial: Trial) -> list[Any]:
        columns = self._candidates.cells
        if columns is not None and trial.index is not None:
            return [
                column[trial.index].item() if hasattr(column[trial.index], "item") else column[trial.index]
                for column in columns
            ]
        told = trial.label or ("(outside the library)" if trial.index is None else f"row {trial.index}")
        return [told, *[""] * (len(self.names) - 1)]

    def maximise(self, paths: Paths, posterior: Any, look: Look) -> tuple[Tensor, Tensor]:
        """`maximise_pool` over the rows that are neither excluded, nor pending, nor twins of such or of each other."""
        banned = torch.cat([as_indices(getattr(look, w), len(self), what=w) for w in ("exclude", "pending")])
        closed = self.closed(banned)
        return maximise_pool(paths, self, maximize=look.maximize, exclude=closed, progress=look.progress)
