"""How a fingerprint table is computed from SMILES, and the key under which a finished one is kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sggp.checks import as_path, flag, one_of
from sggp.errors import DataFileError, InputError, MoleculeError
from sggp.molecules.featurise import encode_all
from sggp.molecules.files import MoleculeFile
from sggp.molecules.fingerprinter import SmilesFingerprinter, build_report
from sggp.molecules.packed import PackedCounts, PackedStrings
from sggp.molecules.report import InvalidMolecule

_KEY_VERSION = 3


@dataclass(frozen=True)
class Request:
    """Settings and policies of one table."""

    fingerprinter: SmilesFingerprinter
    on_invalid: str
    on_duplicate: str
    progress: bool

    def check(self) -> None:
        """Raise `InputError` for a policy or setting that does not exist."""
        if not isinstance(self.fingerprinter, SmilesFingerprinter):
            raise InputError(
                f"fingerprinter must be a SmilesFingerprinter, got {type(self.fingerprinter).__name__}."
            )
        _ = self.fingerprinter.settings
        one_of(self.on_invalid, "on_invalid of a table", ("raise", "drop"))
        one_of(self.on_duplicate, "on_duplicate", ("keep", "drop", "raise"))
        flag(self.progress, "progress")

    def key(self) -> bytes:
        """All that changes the result, RDKit's version included."""
        from sggp.molecules._rdkit import VERSION  # RDKit is an extra

        settings = self.fingerprinter.settings.plain().values()
        return json.dumps([_KEY_VERSION, VERSION, *settings, self.on_invalid, self.on_duplicate]).encode()


def build(
    smiles: Sequence[Any],
    ids: Sequence[str] | None,
    request: Request,
    *,
    rows: np.ndarray | None = None,
    lines: np.ndarray | None = None,
    source: str = "",
    broken: tuple[InvalidMolecule, ...] = (),
) -> dict[str, Any]:
    """Arguments of a `FingerprintTable` of these SMILES.

    Args:
        smiles: n entries.
        ids: n texts or None.
        request: settings and policies.
        rows: (n,) row number of each entry in its source, default 0 … n−1.
        lines: line number of each row of the source, or None.
        source: name of the file.
        broken: rows of the source that are not among the n entries and count as invalid.

    Raises:
        MoleculeError: invalid or repeated entries, where the policy says so.
        InputError: no molecule is left.
    """
    settings = request.fingerprinter.settings
    jobs = request.fingerprinter.n_jobs
    found = encode_all(smiles, settings, canonical=True, n_jobs=jobs, progress=request.progress)
    report = build_report(len(smiles) + len(broken), found, rows=rows, lines=lines, source=source)
    if broken:
        entries = tuple(sorted((*report.invalid, *broken), key=lambda entry: entry.row))
        report = replace(report, invalid=entries)
    unwanted = report.duplicates and request.on_duplicate == "raise"
    if unwanted or (report.invalid and request.on_invalid == "raise"):
        raise MoleculeError(report.describe(), report)
    source_rows = np.arange(len(smiles)) if rows is None else np.asarray(rows, dtype=np.int64)
    keep = np.ones(len(smiles), dtype=bool)
    keep[[position for position, _, _ in found.invalid]] = False
    if request.on_duplicate == "drop":
        keep &= ~np.isin(source_rows, report.duplicate_rows)
    kept = np.flatnonzero(keep)
    order = kept.tolist()
    if not order:
        raise MoleculeError(f"no usable molecule is left: {report.describe()}", report)
    own = np.repeat(keep, found.sizes)
    packed = found.sizes[kept], found.columns[own], found.counts[own], settings.width
    names = found.canonical or []
    return {
        "fingerprints": PackedCounts.pack(*packed),
        "smiles": PackedStrings.pack(smiles[i].strip() for i in order),
        "canonical": PackedStrings.pack(names[i] for i in order),
        "ids": None if ids is None else PackedStrings.pack(ids[i] for i in order),
        "source_rows": source_rows[kept],
        "report": report,
        "settings": settings.plain(),
    }


def cached(folder: str | os.PathLike[str] | None, key: Callable[[], str]) -> Path | None:
    """The file a finished table is kept in, or None without a folder (which is created if it is missing)."""
    if folder is None:
        return None
    place = as_path(folder, "cache")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataFileError(f"cannot use {place} as a cache: {error.strerror or error}.") from error
    return place / f"fingerprints-{key()}.sggp"


def smiles_key(smiles: Sequence[Any], ids: Sequence[str] | None, request: Request) -> str:
    """Digest of the SMILES, the ids and the request."""
    digest = hashlib.blake2b(request.key(), digest_size=16)
    for text in smiles:
        digest.update(repr(text).encode() + b"\n")
    digest.update(b"ids" if ids is not None else b"none")
    for text in ids or ():
        digest.update(repr(text).encode() + b"\n")
    return digest.hexdigest()


def molecules_key(data: MoleculeFile, request: Request) -> str:
    """Digest of molecules read from a file, of their lines and of the rows left out."""
    digest = hashlib.blake2b(smiles_key(data.smiles, data.ids, request).encode(), digest_size=16)
    digest.update(os.fsencode(data.path.name) + data.rows.tobytes() + data.lines.tobytes())
    digest.update(repr([(r.row, r.line, r.content, r.reason) for r in data.rejected]).encode())
    return digest.hexdigest()


def file_key(
    path: str | os.PathLike[str], smiles_column: str | None, id_column: str | None, request: Request
) -> str:
    """Digest of the bytes of a file, its name's ending, the columns asked for and the request."""
    name = as_path(path, "path").name
    digest = hashlib.blake2b(request.key() + repr((name, smiles_column, id_column)).encode(), digest_size=16)
    try:
        with Path(path).open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    except OSError as error:
        raise DataFileError(f"cannot read {path}: {error.strerror or error}.") from error
    return digest.hexdigest()
