"""Users' molecule files on the command line: columns guessed or named, bad rows kept for the list of rejects."""

from __future__ import annotations

import math
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from torch import Tensor

from sggp.cli.console import csv_text, say, stderr
from sggp.errors import DataFileError, MoleculeError, MoleculeWarning
from sggp.files import write_whole
from sggp.molecules import (
    FingerprintTable,
    MoleculeFile,
    SmilesFingerprinter,
    guess_columns,
    read_molecules,
    read_table,
)
from sggp.molecules.files import DataTable
from sggp.molecules.files.columns import plain
from sggp.molecules.files.numbers import Censored

Sheet = Annotated[str | None, typer.Option("--sheet", help="Sheet of an .xlsx file; default: the first.")]
Decimal = Annotated[str | None, typer.Option("--decimal", help="Decimal sign, . or , where it is in doubt.")]


_NONE = torch.empty(0, dtype=torch.float64)


class Reject(NamedTuple):
    """A row of a user's file that was not used."""

    file: str
    line: int
    reason: str
    content: str


@dataclass(frozen=True)
class Measured:
    """Usable measurements: fingerprints (n, width) uint8, values (n,), their SMILES, and the rows not used.

    `censored[i]` is "above" for a bound such as `>10`, whose value is 10, "below" for `<0.1`, None for a measurement;
    `lines[i]` is the line in the file, `errors` (n,) the standard errors, NaN where none was told.
    """

    counts: Tensor
    values: Tensor
    smiles: list[str]
    canonical: list[str]
    rejects: list[Reject]
    censored: tuple[Censored | None, ...] = ()
    lines: tuple[int, ...] = ()
    errors: Tensor = _NONE

    def __len__(self) -> int:
        return len(self.smiles)

    @property
    def exact(self) -> list[int]:
        """Positions of the measurements that are no bounds."""
        return [i for i, side in enumerate(self.censored) if side is None]

    def part(self, keep: Sequence[int]) -> Measured:
        """Some of the measurements."""
        if len(keep) == len(self):
            return self
        return Measured(
            self.counts[keep],
            self.values[keep],
            [self.smiles[i] for i in keep],
            [self.canonical[i] for i in keep],
            self.rejects,
            tuple(self.censored[i] for i in keep),
            tuple(self.lines[i] for i in keep),
            self.errors[keep],
        )


def default_cache() -> Path:
    """Where fingerprints are kept between calls: the user's cache folder of this system."""
    home = Path(os.path.expanduser("~"))  # unlike Path.home() no error where nobody has a home
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    elif sys.platform == "darwin":
        root = home / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME", home / ".cache"))
    return root / "sggp" / "fingerprints"


def usable_cache(folder: Path | None) -> Path | None:
    """The folder, made if need be; None, said on stderr, where it cannot be made or written."""
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        stderr().print(
            f"note: no fingerprints are kept: the folder {folder} cannot be used ({error.strerror or error}); "
            "choose another by --cache, or --no-cache"
        )
        return None


def check_columns(table: DataTable, names: Iterable[str]) -> None:
    """Refuse, by a DataFileError, a table without one of these columns."""
    for name in names:
        if name not in table.columns:
            raise DataFileError(
                f"{table.path}: there is no column {name!r}; the columns are {', '.join(table.header)}."
            )


def load_library(
    path: Path,
    *,
    smiles_column: str | None,
    id_column: str | None,
    cache: Path | None,
    sheet: str | None = None,
    fingerprinter: SmilesFingerprinter | None = None,
) -> tuple[FingerprintTable, list[Reject]]:
    """A library file as fingerprints (by default those of a `FingerprintTable`), each molecule once, and
    the rows that were left out.

    Raises:
        DataFileError: unreadable or empty file, no SMILES column, or no usable row.
    """
    data = read_table(path, sheet=sheet)
    guess = guess_columns(data, smiles=smiles_column, id=id_column)
    if guess.smiles is None:
        raise DataFileError(f"{path}: no SMILES column ({guess.reasons['smiles']}); name it by an option.")
    stderr().print(
        f"library {path.name}: SMILES column {guess.smiles!r} ({guess.reasons['smiles']}), ", end=""
    )
    stderr().print("no id column" if guess.id is None else f"id column {guess.id!r} ({guess.reasons['id']})")
    molecules = read_molecules(data, smiles_column=guess.smiles, id_column=guess.id)
    say(path.name, molecules.notes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MoleculeWarning)
            table = FingerprintTable.from_csv(
                molecules,
                fingerprinter=fingerprinter,
                on_invalid="drop",
                on_duplicate="drop",
                progress=True,
                cache=usable_cache(cache),
            )
    except MoleculeError as error:  # not one of them can be parsed
        count = len(getattr(error.report, "invalid", ()))
        raise DataFileError(f"{path}: no row holds a usable SMILES ({count} rows are unusable).") from error
    shared = [one for one, count in Counter(table.ids or ()).items() if count > 1 and one]
    if shared:
        words = f"{len(shared)} ids are of several molecules, which cannot be told by them; the first is {shared[0]!r}"
        say(path.name, [words])
    rejects = [
        Reject(path.name, int(e.row + 1 if e.line is None else e.line), e.reason, e.smiles)
        for e in table.report.invalid
    ]
    position = {int(row): i for i, row in enumerate(data.rows)} if table.report.duplicates else {}
    for group in table.report.duplicates:
        first = int(data.lines[group.rows[0]])
        for row in group.rows[1:]:
            content = data.columns[guess.smiles][position[row]]
            rejects.append(Reject(path.name, int(data.lines[row]), f"same molecule as line {first}", content))
    return table, rejects


def load_measured(
    path: Path | DataTable,
    *,
    smiles_column: str | None,
    value_column: str | None,
    fingerprinter: SmilesFingerprinter,
    bounds: bool = False,
) -> Measured:
    """Measurements from a file, with their fingerprints; repeats of a molecule stay repeats.

    Args:
        path: the file, or a table that `read_table` has read from one, whose column of standard errors is used then.
        bounds: take `>10` as the value 10 with `censored` set; otherwise such rows are rejected.

    Raises:
        DataFileError: unreadable or empty file, or a column is missing or ambiguous.
    """
    data = read_molecules(
        path, smiles_column=smiles_column, value_column=value_column, need_values=True, bounds=bounds
    )
    reasons, name = data.guess.reasons, data.path.name
    stderr().print(
        f"measured {name}: SMILES column {data.guess.smiles!r} ({reasons['smiles']}), "
        f"value column {data.guess.value!r} ({reasons['value']})"
    )
    say(name, data.notes)
    rejects = [Reject(name, r.line, r.reason, r.content) for r in data.rejected]
    nothing = Measured(
        torch.empty(0, fingerprinter.settings.width, dtype=torch.uint8), torch.empty(0), [], [], rejects
    )
    if not data.smiles:
        return nothing
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MoleculeWarning)
            table = FingerprintTable.from_smiles(data.smiles, fingerprinter, on_invalid="drop")
    except MoleculeError as error:  # not one of them can be parsed
        rejects += _invalid(data, error.report)
        return nothing
    rejects += _invalid(data, table.report)
    rows = np.asarray(table.source_rows)
    errors, refused = _errors(path, data) if isinstance(path, DataTable) else (data.errors, {})
    rejects += refused.values()
    known = Measured(
        table[:],
        torch.from_numpy(np.asarray(data.values, dtype=np.float64)[rows]),
        list(table.smiles or []),
        list(table.canonical or []),
        rejects,
        tuple(data.censored[i] for i in rows.tolist()),
        tuple(int(data.lines[int(data.rows[i])]) for i in rows.tolist()),
        torch.from_numpy(np.asarray(errors, dtype=np.float64)[rows]),
    )
    return known.part([i for i, row in enumerate(rows.tolist()) if row not in refused])


def _errors(table: DataTable, data: MoleculeFile) -> tuple[np.ndarray, dict[int, Reject]]:
    """Standard errors (m,), of `5±0.2` or of the column that tells them, and molecules whose one is none."""
    column, told = told_errors(table, str(data.guess.value))
    found = np.array(data.errors, dtype=np.float64)
    refused = {}
    for i, row in enumerate(data.rows.tolist()):
        if math.isnan(found[i]) and row in told:
            found[i] = told[row]
            if not 0 <= told[row] < math.inf:
                reason = f"{column}: a standard error is a number of at least 0, got {told[row]:g}"
                refused[i] = Reject(data.path.name, int(data.lines[row]), reason, data.smiles[i])
    if told:
        say(data.path.name, [f"standard errors of {len(told)} values from column {column!r}"])
    return found, refused


def named(table: DataTable, name: str) -> str | None:
    """The column of a name, else the one that differs in case, blanks and punctuation only."""
    if name in table.columns:
        return name
    alike = [column for column in table.columns if plain(name) and plain(column) == plain(name)]
    return alike[0] if len(alike) == 1 else None


def told_errors(table: DataTable, *outcomes: str) -> tuple[str | None, dict[int, float]]:
    """The column of standard errors, an outcome's name with "_std" or else "noise_std", and what it tells by row.

    Raises:
        DataFileError: a cell of it is no number.
    """
    name = error_column(table, *outcomes)
    return name, {} if name is None else filled_numbers(table, name)


def error_column(table: DataTable, *outcomes: str) -> str | None:
    """The column of standard errors of an outcome, which is not its own; None without one."""
    names = (named(table, one) for one in (*(f"{outcome}_std" for outcome in outcomes), "noise_std"))
    return next((one for one in names if one is not None and one not in outcomes), None)


def filled_numbers(table: DataTable, name: str) -> dict[int, float]:
    """The numbers of a column by row, empty cells left out.

    Raises:
        DataFileError: a cell is no number.
    """
    read = table.numbers(name, mostly=False)
    wrong = [i for i, reason in read.reasons.items() if not reason.startswith("no value")]
    if wrong:
        raise DataFileError(
            f"{table.path} line {table.line(wrong[0])}, column {name!r}: {read.reasons[wrong[0]]}. Correct the cell or "
            "leave it empty; nothing was stored."
        )
    return {i: float(read.values[i]) for i in range(len(table)) if i not in read.reasons}


def write_rejects(path: Path, rejects: list[Reject]) -> None:
    """Write file, line, reason and content of every unused row, in the order of the lines; only a header if none."""
    ordered = sorted(rejects, key=lambda reject: (reject.file, reject.line))
    write_whole(path, csv_text(Reject._fields, ordered))


def _invalid(data: MoleculeFile, report: Any) -> list[Reject]:
    lines = [int(data.lines[int(data.rows[e.row])]) for e in report.invalid]
    return [Reject(data.path.name, n, e.reason, e.smiles) for n, e in zip(lines, report.invalid, strict=True)]
