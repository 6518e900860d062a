"""Files that the commands write: never in the place of one that they read, of each other, or of a user's own."""

from __future__ import annotations

import json
import os
import unicodedata
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from sggp.errors import DataFileError, InputError
from sggp.files import check_target
from sggp.persistence import is_safetensors, read_labels

_BESIDE = ("", "-wal", "-shm", "-journal")
"""Endings of the files that SQLite keeps beside a database."""
_PACKED = (".gz", ".bz2", ".xz")
_KINDS = {
    b"SQLite format 3\x00": "a campaign or another database",
    b"PK\x03\x04": "an archive, an Excel file or a model",
    b"PAR1": "a Parquet file",
    b"SGGPTAB1": "a table of fingerprints",
    b"\x1f\x8b": "a packed file",
    b"%PDF": "a PDF",
}
_NEVER = (
    *_PACKED,
    ".zip",
    ".xlsx",
    ".xlsm",
    ".xls",
    ".ods",
    ".parquet",
    ".arrow",
    ".feather",
    ".sdf",
    ".pdf",
)
"""Endings of formats that no command writes: a table of that name would be text, and other programs refuse it."""
REJECTED_HEADER = "file,line,reason,content"


def check_output(path: Path, *inputs: Path, model: bool = False) -> None:
    """Refuse an output path before any work is done; as `check_outputs`."""
    check_outputs({"": path}, inputs, models=("",) if model else ())


def check_outputs(
    outputs: Mapping[str, Path | None],
    inputs: Iterable[Path | None] = (),
    *,
    models: Iterable[str] = (),
    resumed: Iterable[str] = (),
) -> None:
    """Refuse output paths that would replace an input, each other, or a file of another kind.

    So is a path whose ending stands for a format that no command writes, as .xlsx. The same file is found by path,
    symbolic and hard link, other case of letters, the packed form of its name, and among the files that SQLite keeps
    beside a database.

    Args:
        outputs: option → path, None where the option is not given.
        inputs: files that are read; None is skipped.
        models: options whose files are models of `sggp fit`, which replace an older model only.
        resumed: options whose files are read before they are written, and refused where they are of another kind.

    Raises:
        DataFileError: as above, or `check_target` refuses the path. InputError: two outputs are one file.
    """
    given = [(name, path) for name, path in outputs.items() if path is not None]
    for position, (name, path) in enumerate(given):
        for source in inputs:
            if source is not None and _meets(path, source):
                raise DataFileError(
                    f"cannot write {path}: it is read as an input ({source}); choose another name."
                )
        for other, earlier in given[:position]:
            if same_file(path, earlier):
                raise InputError(
                    f"{other} and {name} would be the same file, {path}; choose another name for one."
                )
        check_target(path)
        if name not in resumed:
            _check_kind(path, model=name in models)
        if path.suffix.lower() in _NEVER:
            raise DataFileError(
                f"cannot write {path}: sggp writes no {path.suffix} files, and tables as CSV; choose another ending, "
                "such as .csv."
            )


def rejected_path(out: Path, *others: Path | None) -> Path:
    """Where the rows that could not be used are listed: next.csv → next.rejected.csv, m.gp → m.gp.rejected.csv.

    A file of that name which is no such list, or one of `others`, stays; the list then gets the first free number.
    """
    stem = out.with_suffix("") if out.suffix.lower() == ".csv" else out
    for number in range(1, 1000):
        path = stem.with_name(f"{stem.name}.rejected{'' if number == 1 else f'-{number}'}.csv")
        taken = any(other is not None and _meets(path, other) for other in others)
        if not taken and (not os.path.lexists(path) or _is_list(path)):
            return path
    raise DataFileError(f"no free name for the list of unused rows of {out}: delete old ones.")


def same_file(one: Path, two: Path) -> bool:
    """Whether two paths lead to one file, or would on a system that ignores the case of letters."""
    with suppress(OSError):
        if one.samefile(two):
            return True
    first, second = one.resolve(), two.resolve()
    if _folded(first.name) != _folded(second.name):
        return False
    if first.parent == second.parent:
        return True
    with suppress(OSError):
        return first.parent.samefile(second.parent)
    return False


def _meets(path: Path, source: Path) -> bool:
    places = [place for place in (source, source.resolve()) if place.name]  # "." has none
    named = {place.with_name(place.name + end) for place in places for end in _BESIDE}
    named |= {place.with_name(place.name.removesuffix(end)) for place in places for end in _PACKED}
    named |= {place.with_name(place.name + end) for place in places for end in _PACKED}
    return any(same_file(path, place) for place in named)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _is_list(path: Path) -> bool:
    """Whether a file is a list of unused rows that sggp wrote."""
    try:
        with path.open("rb") as stream:
            return stream.readline(200).strip().decode(errors="replace") == REJECTED_HEADER
    except OSError:
        return False


def _check_kind(path: Path, *, model: bool) -> None:
    if not path.is_file():
        if os.path.lexists(path) and path.exists():
            raise DataFileError(f"cannot write {path}: it is no regular file; choose another name.")
        return
    try:
        with path.open("rb") as stream:
            start = stream.read(16)
    except OSError:
        return
    kind = next((words for magic, words in _KINDS.items() if start.startswith(magic)), None)
    if model and (not start or _is_model(path)):
        return
    if is_safetensors(start):
        kind = "a model, or another file of safetensors"
    if model and kind is None:
        kind = "no model"
    if kind is not None:
        raise DataFileError(
            f"cannot write {path}: what is there is {kind}; choose another name, or delete it first."
        )


def _is_model(path: Path) -> bool:
    try:
        labels = read_labels(path)
        if labels.get("kind") == "estimator":
            return json.loads(labels["content"])["table"] is not None
        with zipfile.ZipFile(path) as archive:  # of before models were safetensors
            return {"model.json", "posterior"} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile, LookupError, TypeError, ValueError):
        return False
