"""A library of molecules as packed count fingerprints, by row number, in memory or mapped from a file."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sggp.checks import whole_number
from sggp.defaults import MEMORY_BUDGET
from sggp.errors import (
    DataFileError,
    DtypeError,
    InputError,
    MemoryBudgetError,
    MoleculeWarning,
    ShapeError,
)
from sggp.molecules.build import Request, build, cached, file_key, molecules_key, smiles_key
from sggp.molecules.encoding.parts import COMBINED, FingerprintSettings
from sggp.molecules.files import MoleculeFile, read_molecules
from sggp.molecules.fingerprinter import SmilesFingerprinter, as_smiles_list
from sggp.molecules.packed import PackedCounts, PackedStrings, as_texts
from sggp.molecules.properties import property_of_each
from sggp.molecules.report import InvalidMolecule, InvalidReport
from sggp.molecules.storage import read_arrays, write_arrays

_LOGGER = logging.getLogger(__name__)
_FORMAT = 1


class FingerprintTable:
    """n fingerprints of `width` columns, with their SMILES and ids.

    Unless other fingerprints are asked for, five parts stand side by side: Morgan counts of radius 2, atom pairs,
    topological torsions and paths, 2,048 positions each, and twelve descriptors (see `SmilesFingerprinter`);
    `parts` says which columns are which. Campaigns and screenings weigh them by evidence. For a single kernel of your
    own, take a table of one part: `SmilesFingerprinter()` is Morgan's alone, and `table.part("morgan2")` that part of a
    table there is.

    Stored sparse and exact: per row its non-zero columns (uint16, or uint32 above 65,536) and counts (uint8), three
    bytes per entry: 250,000 drug-like molecules take about 315 MB, 35 MB as Morgan counts alone, and not 2 GB. Build
    one with `from_smiles`, `from_csv`, `from_counts` or `open`.

    `table[rows]` is a (k, width) uint8 tensor for a slice, a sequence of integers or a boolean mask, and a (width,)
    one for an integer: O(k · width) bytes.

    Attributes:
        smiles: n texts as they were given (None for a table `from_counts` without any).
        canonical: n canonical SMILES (None where there are none).
        ids: n texts, or None.
        source_rows: (n,) int64, the 0-based row of the list or file each molecule came from.
        report: what was invalid, repeated or saturated in the source.
        settings: the fingerprint as a dict: fp_size, counts, and radius or the columns of the parts; empty for
            `from_counts`.
    """

    def __init__(
        self,
        fingerprints: PackedCounts,
        *,
        smiles: PackedStrings | None = None,
        canonical: PackedStrings | None = None,
        ids: PackedStrings | None = None,
        source_rows: np.ndarray | None = None,
        report: InvalidReport | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        n = len(fingerprints)
        for name, texts in (("smiles", smiles), ("canonical", canonical), ("ids", ids)):
            if texts is not None and len(texts) != n:
                raise ShapeError(f"{name} has {len(texts)} entries for {n} fingerprints.")
        self._fingerprints = fingerprints
        self.width = int(fingerprints.width)
        self.smiles, self.canonical, self.ids = smiles, canonical, ids
        self.source_rows = np.arange(n) if source_rows is None else source_rows
        self.report = report if report is not None else InvalidReport(total=n, duplicates_checked=False)
        self.settings = dict(settings or {})

    # ---- making one -------------------------------------------------------------------------------------------

    @classmethod
    def from_smiles(
        cls,
        smiles: Any,
        fingerprinter: SmilesFingerprinter | None = None,
        *,
        ids: Sequence[str] | None = None,
        on_invalid: Literal["raise", "drop"] = "raise",
        on_duplicate: Literal["keep", "drop", "raise"] = "keep",
        progress: bool = False,
        cache: str | os.PathLike[str] | None = None,
    ) -> FingerprintTable:
        """Fingerprints of a list of SMILES.

        Args:
            smiles: n SMILES (list, array, Series, one-column frame).
            fingerprinter: settings and `n_jobs`; by default the five parts. Its own policies are not used.
            ids: n texts.
            on_invalid: "raise" for a `MoleculeError` that lists all invalid entries, "drop" to leave them out with a
                warning; `source_rows` then says which rows are left.
            on_duplicate: what to do about repeats (equal canonical SMILES): "keep" them (they are in the report),
                "drop" all but the first, or "raise".
            progress: show a bar if tqdm is installed.
            cache: folder of finished tables; the same SMILES with the same settings are then read, not recomputed.

        Raises:
            MoleculeError: see `on_invalid`, `on_duplicate`; `error.report` lists every row.
            InputError, ShapeError: no list of SMILES; a setting out of range; lengths that do not match.

        Cost: 1.1 s per 1,000 drug-like molecules and process, 0.2 for Morgan counts alone; memory about 1.5 kB per
        molecule while it is built.
        """
        entries, texts = as_smiles_list(smiles), as_texts(ids, "ids")
        if texts is not None and len(texts) != len(entries):
            raise ShapeError(f"got {len(texts)} ids for {len(entries)} SMILES.")
        request = Request(
            fingerprinter or SmilesFingerprinter(parts=COMBINED), on_invalid, on_duplicate, progress
        )
        request.check()
        path = cached(cache, lambda: smiles_key(entries, texts, request))
        return cls._finish(path, lambda: build(entries, texts, request))

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike[str] | MoleculeFile,
        smiles_column: str | None = None,
        fingerprinter: SmilesFingerprinter | None = None,
        *,
        id_column: str | None = None,
        on_invalid: Literal["raise", "drop"] = "raise",
        on_duplicate: Literal["keep", "drop", "raise"] = "keep",
        progress: bool = False,
        cache: str | os.PathLike[str] | None = None,
    ) -> FingerprintTable:
        """Fingerprints of the molecules in a file as `read_table` reads it, or in one that `read_molecules` has read.

        As `from_smiles`; the columns are guessed where they are not named, and the report also has line numbers and
        the rows with a wrong number of cells. `cache` is keyed by the content of the file and all settings.

        Raises:
            DataFileError: the file is missing, empty, damaged, has no header, or no column of SMILES.
            MoleculeError: as in `from_smiles`.
        """
        request = Request(
            fingerprinter or SmilesFingerprinter(parts=COMBINED), on_invalid, on_duplicate, progress
        )
        request.check()
        if isinstance(path, MoleculeFile):
            read = path
            stored = cached(cache, lambda: molecules_key(read, request))
        else:
            stored = cached(cache, lambda: file_key(path, smiles_column, id_column, request))

        def make() -> dict[str, Any]:
            data = path
            if not isinstance(data, MoleculeFile):
                data = read_molecules(data, smiles_column=smiles_column, id_column=id_column)
            broken = tuple(InvalidMolecule(r.row, r.line, r.content, r.reason) for r in data.rejected)
            return build(
                data.smiles,
                data.ids,
                request,
                rows=data.rows,
                lines=data.lines,
                source=data.path.name,
                broken=broken,
            )

        return cls._finish(stored, make)

    @classmethod
    def from_counts(
        cls, counts: Any, *, smiles: Sequence[str] | None = None, ids: Sequence[str] | None = None
    ) -> FingerprintTable:
        """A table of given counts, (n, width) whole numbers from 0 to 255 (array or tensor); all-zero rows are legal.

        Raises:
            ShapeError: not a matrix. InputError: negative, fractional, non-finite or above 255; nothing at all.
        """
        return cls(
            PackedCounts.of(counts),
            smiles=None if smiles is None else PackedStrings.pack(as_texts(smiles, "smiles") or ()),
            ids=None if ids is None else PackedStrings.pack(as_texts(ids, "ids") or ()),
        )

    @classmethod
    def _finish(cls, stored: Path | None, make: Any) -> FingerprintTable:
        table = None
        if stored is not None and stored.exists():
            try:
                table = cls.open(stored, verify=True)
            except DataFileError as error:
                _LOGGER.warning("%s; the cached table is computed again", error)
        if table is None:
            table = cls(**make())
            if stored is not None:
                try:
                    table.save(stored)
                    table = cls.open(stored)
                except DataFileError as error:  # what was computed is not lost with the cache
                    _LOGGER.warning("%s; the table is not kept", error)
        if table.report.invalid or table.report.saturated:
            warnings.warn(table.report.describe(), MoleculeWarning, stacklevel=3)
        return table

    # ---- reading it -------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._fingerprints)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, width)."""
        return len(self), self.width

    @property
    def nbytes(self) -> int:
        """Bytes of fingerprints, texts and row numbers, in memory or mapped."""
        texts = [
            t.data.nbytes + t.offsets.nbytes for t in (self.smiles, self.canonical, self.ids) if t is not None
        ]
        return int(self._fingerprints.nbytes + self.source_rows.nbytes + sum(texts))

    def __getitem__(self, rows: Any) -> Tensor:
        if isinstance(rows, int | np.integer) and not isinstance(rows, bool):
            return self.dense([rows])[0]
        return self.dense(rows)

    def dense(self, rows: Any, *, memory_budget: int = MEMORY_BUDGET) -> Tensor:
        """Fingerprints of some rows, (k, width) uint8.

        Args:
            rows: slice, integers (negative ones count from the end) or a boolean mask of length n.
            memory_budget: largest result in bytes.

        Raises:
            MemoryBudgetError: the result would be larger; raised before it is allocated.
            IndexError: a row is out of range.
        """
        positions = self._positions(rows)
        if positions.size * self.width > whole_number(memory_budget, "memory_budget", least=0):
            raise MemoryBudgetError(
                f"{positions.size} rows of {self.width} bytes exceed memory_budget={memory_budget}: read the table in "
                "pieces with table.chunks(size), or raise memory_budget in table.dense(rows, memory_budget=...)."
            )
        return torch.from_numpy(self._fingerprints.dense(positions))

    def _positions(self, rows: Any) -> np.ndarray:
        n = len(self)
        if isinstance(rows, slice):
            return np.arange(*rows.indices(n))
        array = rows.detach().cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
        if array.size == 0 and array.ndim <= 1:
            return np.zeros(0, dtype=np.int64)
        if array.ndim != 1:
            raise ShapeError(f"rows must be a slice or one-dimensional, got shape {array.shape}.")
        if array.dtype.kind == "b":
            if len(array) != n:
                raise ShapeError(f"a mask of {len(array)} entries does not fit a table of {n} molecules.")
            return np.flatnonzero(array)
        if array.dtype.kind not in "iu":
            raise DtypeError(f"rows must be integers, a slice or a mask, got {array.dtype}.")
        array = array.astype(np.int64)
        if array.min() < -n or array.max() >= n:
            raise IndexError(
                f"rows {array.min()} … {array.max()} are out of range for a table of {n} molecules."
            )
        return np.where(array < 0, array + n, array)

    def chunks(self, size: int = 4096) -> Iterator[tuple[slice, Tensor]]:
        """(slice, (k, width) uint8 tensor) of consecutive runs of at most `size` rows: size · width bytes at a time."""
        size = whole_number(size, "size")
        for start in range(0, len(self), size):
            part = slice(start, min(start + size, len(self)))
            yield part, self.dense(part)

    def take(self, rows: Any) -> FingerprintTable:
        """A table of some rows, in memory; `source_rows` still refers to the original source."""
        positions = self._positions(rows)
        return FingerprintTable(
            self._fingerprints.take(positions),
            smiles=None if self.smiles is None else self.smiles.take(positions),
            canonical=None if self.canonical is None else self.canonical.take(positions),
            ids=None if self.ids is None else self.ids.take(positions),
            source_rows=np.asarray(self.source_rows[positions]),
            report=self.report,
            settings=self.settings,
        )

    @property
    def parts(self) -> dict[str, tuple[int, int]] | None:
        """The columns of each part, (first, one after the last) by name; None where there are no parts."""
        own = self.settings.get("parts")
        return None if own is None else {name: (start, stop) for name, (start, stop) in own.items()}

    def part(self, name: str) -> FingerprintTable:
        """A table of one part, in memory: the same molecules, fewer columns.

        Raises:
            InputError: the table has no such part.

        Example:
            >>> FingerprintTable.from_smiles(["CCO", "CCN"]).part("morgan2").shape
            (2, 2048)
        """
        parts = self.parts or {}
        if name not in parts:
            raise InputError(f"this table has no part {name!r}; its parts are {list(parts)}.")
        settings = FingerprintSettings(**{**self.settings, "parts": (name,)})
        return FingerprintTable(
            self._fingerprints.columns_between(*parts[name]),
            smiles=self.smiles,
            canonical=self.canonical,
            ids=self.ids,
            source_rows=self.source_rows,
            report=self.report,
            settings=settings.plain(),
        )

    def fingerprinter(self, **policies: Any) -> SmilesFingerprinter:
        """A transformer with the settings of this table, for molecules that are to be compared with it."""
        if not self.settings:
            raise InputError("this table was made from given counts: it has no settings to fingerprint by.")
        return SmilesFingerprinter(**self.settings, **policies)

    def locate(self, smiles: Sequence[str]) -> np.ndarray:
        """First row of each molecule by canonical SMILES, −1 where it is not in the table: (k,) int64.

        Args:
            smiles: k SMILES in any form.

        Raises:
            MoleculeError: some of them cannot be parsed. InputError: the table has no canonical SMILES.

        Cost: reads all n canonical SMILES once.
        """
        if self.canonical is None:
            raise InputError("this table was made from given counts: it has no canonical SMILES to search.")
        forms = property_of_each(smiles, "canonical SMILES")
        wanted = set(forms)
        first: dict[str, int] = {}
        for row, name in enumerate(self.canonical):
            if name in wanted:
                first.setdefault(name, row)
        return np.asarray([first.get(form, -1) for form in forms], dtype=np.int64)

    # ---- keeping it -------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table to one file, whole or not at all (a file that exists is replaced).

        Raises:
            DataFileError: the folder does not exist or cannot be written.
        """
        packed = self._fingerprints
        arrays = {"pointers": packed.pointers, "columns": packed.columns, "counts": packed.counts}
        arrays["source_rows"] = self.source_rows
        for name in ("smiles", "canonical", "ids"):
            texts = getattr(self, name)
            if texts is not None:
                arrays[f"{name}_data"], arrays[f"{name}_offsets"] = texts.data, texts.offsets
        meta = {"format": _FORMAT, "width": self.width, "settings": self.settings}
        write_arrays(path, meta | {"report": self.report.to_dict()}, arrays)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, mmap: bool = True, verify: bool = False
    ) -> FingerprintTable:
        """Read a table that `save` wrote; with `mmap` nothing is read before it is used, and it cannot be changed.

        Raises:
            DataFileError: missing, cut short, no such table; if all is read, as `verify` asks for too, also damaged.
        """
        meta, arrays = read_arrays(path, mmap=mmap, verify=verify)

        def texts(name: str) -> PackedStrings | None:
            data = arrays.get(f"{name}_data")
            return None if data is None else PackedStrings(data, arrays[f"{name}_offsets"])

        return cls(
            PackedCounts(arrays["pointers"], arrays["columns"], arrays["counts"], meta["width"]),
            smiles=texts("smiles"),
            canonical=texts("canonical"),
            ids=texts("ids"),
            source_rows=arrays["source_rows"],
            report=InvalidReport.from_dict(meta["report"]),
            settings=meta["settings"],
        )

    def __repr__(self) -> str:
        return f"FingerprintTable({len(self)} molecules, width={self.width}, {self.nbytes / 1e6:.1f} MB)"
