"""Which column of a user's table holds the SMILES, the measured value and the id, and why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sggp.errors import DataFileError
from sggp.molecules.files.numbers import is_missing

SMILES_NAMES = (
    "smiles",
    "canonicalsmiles",
    "smi",
    "isosmiles",
    "isomericsmiles",
    "molsmiles",
    "structure",
    "mol",
)
VALUE_NAMES = (
    "value", "measured", "measurement", "y", "target", "activity", "score", "dockingscore", "objective",
    "pic50", "pki", "pec50", "pkd", "affinity", "exp", "expt", "experimental", "label", "response",
)  # fmt: skip
ID_NAMES = (
    "id", "moleculeid", "compoundid", "cmpdid", "ligandid", "name", "moleculename", "compoundname", "compound",
    "chemblid", "cmpdchemblid", "moleculechemblid", "zincid", "catalogid", "inchikey", "iupac",
    "iupacname", "title", "key",
)  # fmt: skip
_SAMPLE = 200
_LOOKS_LIKE = 0.8
_SMILES_TEXT = re.compile(r"(?:Cl|Br|Si|Se|[BCNOPSFIbcnops]|\[[^\[\]\s]+\]|[0-9%()=#$:/\\.+\-@~*>])+")
_DIGITS = r"(?:\d[\d.,'\u00a0\u202f]*|[.,]\d+)(?:[eE][+-]?\d+)?"
_NUMBER = re.compile(
    rf"(?:[<>]=?|[≥≤])?\s*[+\-−]?{_DIGITS}\s*(?:%|(?:±|\+/?[-−])\s*{_DIGITS})?",
    re.ASCII,
)


@dataclass(frozen=True)
class ColumnGuess:
    """The columns to use (None: not found) and, per role "smiles", "value", "id", the reason in words."""

    smiles: str | None
    value: str | None
    id: str | None
    reasons: dict[str, str]

    def __str__(self) -> str:
        found = {"smiles": self.smiles, "value": self.value, "id": self.id}
        return "; ".join(
            f"{k}: {'none' if v is None else repr(v)} ({self.reasons[k]})" for k, v in found.items()
        )


def choose_columns(
    path: str,
    columns: Mapping[str, Sequence[str]],
    *,
    smiles: str | None = None,
    value: str | None = None,
    id: str | None = None,
) -> ColumnGuess:
    """Pick the three columns; names that are given are checked and taken.

    Names decide first (compared without case, blanks and punctuation), contents second: SMILES are texts of SMILES
    characters in 4 of 5 sampled cells; the value is the one column of numbers. Where several columns fit equally
    well none is picked, and the reason says so.

    Raises:
        DataFileError: a given name is not a column.
    """
    reasons: dict[str, str] = {}
    for role, given in (("smiles", smiles), ("value", value), ("id", id)):
        if given is not None:
            if not isinstance(given, str) or given not in columns:
                raise DataFileError(
                    f"{path}: there is no column {given!r}. The columns are: {', '.join(map(repr, columns))}."
                )
            reasons[role] = "as asked"
    if smiles is None:
        smiles, reasons["smiles"] = _guess_smiles({c: v for c, v in columns.items() if c not in (value, id)})
    if id is None:
        id, reasons["id"] = _guess_id([c for c in columns if c not in (smiles, value)])
    if value is None:
        value, reasons["value"] = _guess_value({c: v for c, v in columns.items() if c not in (smiles, id)})
    return ColumnGuess(smiles, value, id, reasons)


def _guess_smiles(columns: Mapping[str, Sequence[str]]) -> tuple[str | None, str]:
    named = _by_name(columns, SMILES_NAMES)
    if named:
        return _only(named, "by its name")
    shares = {c: _share(cells, lambda t: is_smiles(t) and not is_number(t)) for c, cells in columns.items()}
    fitting = [name for name, share in shares.items() if share >= _LOOKS_LIKE]
    if len(fitting) == 1:
        return fitting[0], f"{shares[fitting[0]]:.0%} of the sampled cells look like SMILES"
    return (
        None,
        f"several columns look like SMILES: {_names(fitting)}" if fitting else "none by name or content",
    )


def _guess_id(columns: Iterable[str]) -> tuple[str | None, str]:
    named = _by_name(columns, ID_NAMES)
    return _only(named, "by its name") if named else (None, "no column is named like an id")


def _guess_value(columns: Mapping[str, Sequence[str]]) -> tuple[str | None, str]:
    numeric = [name for name, cells in columns.items() if _share(cells, is_number) >= 0.5]
    if len(numeric) > 1:  # row numbers and ids that count, whatever they are called
        numeric = [name for name in numeric if not counts_rows(columns[name])] or numeric
    named = [name for name in numeric if plain(name) in VALUE_NAMES]
    if named:
        return _only(named, "by its name")
    if len(numeric) == 1:
        return numeric[0], "the only column of numbers"
    measured = [name for name in numeric if {"measured", "experimental", "expt", "exp"} & set(_words(name))]
    if len(measured) == 1:
        return measured[0], "the only column of numbers named as measured"
    return None, f"several columns of numbers: {_names(numeric)}" if numeric else "no column of numbers"


def counts_rows(cells: Sequence[str]) -> bool:
    """Whether a column of at least five cells counts up by one, as row numbers do."""
    if len(cells) < 5 or not all(re.fullmatch(r"\d+(\.0)?", cell) for cell in cells[:_SAMPLE]):
        return False
    numbers = [int(cell.partition(".")[0]) for cell in cells[:_SAMPLE]]
    return all(after == before + 1 for before, after in pairwise(numbers))


def _only(columns: Sequence[str], reason: str) -> tuple[str | None, str]:
    if len(columns) == 1:
        return columns[0], reason
    return None, f"several columns by their names: {_names(columns)}"


def _names(columns: Sequence[str]) -> str:
    return ", ".join(columns[:8]) + (f", ... ({len(columns)} in all)" if len(columns) > 8 else "")


def _by_name(columns: Iterable[str], names: Sequence[str]) -> list[str]:
    """The columns of the first of these names that there is."""
    called: dict[str, list[str]] = {}
    for column in columns:
        called.setdefault(plain(column), []).append(column)
    return next((called[name] for name in names if name in called), [])


def plain(name: str) -> str:
    """A name without case, blanks and punctuation."""
    return "".join(_words(name))


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", name.lower())


def _share(cells: Sequence[str], test) -> float:  # type: ignore[no-untyped-def]
    filled = [cell for cell in cells[:_SAMPLE] if not is_missing(cell)]
    return sum(map(bool, map(test, filled))) / len(filled) if filled else 0.0


def is_number(cell: str) -> bool:
    """Whether a cell is a number in the form in which people write them; `>10` is one, `nan` is none."""
    return _NUMBER.fullmatch(cell.strip()) is not None


def is_smiles(cell: str) -> bool:
    """Whether a cell has the characters of SMILES only."""
    return _SMILES_TEXT.fullmatch(cell) is not None and any(character.isalpha() for character in cell)
