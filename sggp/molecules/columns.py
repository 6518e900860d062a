"""Which column of a user's table holds the SMILES, the measured value and the id, and why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sggp.errors import DataFileError

_SMILES_NAMES = (
    "smiles",
    "canonicalsmiles",
    "smi",
    "isosmiles",
    "isomericsmiles",
    "molsmiles",
    "structure",
    "mol",
)
_VALUE_NAMES = (
    "value", "measured", "measurement", "y", "target", "activity", "score", "dockingscore", "objective",
    "pic50", "pki", "pec50", "pkd", "affinity", "exp", "expt", "experimental", "label", "response",
)  # fmt: skip
_ID_NAMES = (
    "id", "moleculeid", "compoundid", "cmpdid", "ligandid", "name", "moleculename", "compoundname", "compound",
    "chemblid", "cmpdchemblid", "moleculechemblid", "zincid", "catalogid", "inchikey", "iupac",
    "iupacname", "title", "key",
)  # fmt: skip
_SAMPLE = 200
_LOOKS_LIKE = 0.8
_SMILES_TEXT = re.compile(r"(?:Cl|Br|Si|Se|[BCNOPSFIbcnops]|\[[^\[\]\s]+\]|[0-9%()=#$:/\\.+\-@~*>])+")


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


def check_header(path: str, cells: Sequence[str]) -> list[str]:
    """The column names in the first row.

    Raises:
        DataFileError: the row looks like data, or a name is repeated.
    """
    names = [cell.strip() for cell in cells]
    known = any(_plain(name) in _SMILES_NAMES + _VALUE_NAMES + _ID_NAMES for name in names)
    if not known and any(_is_number(name) or (_is_smiles(name) and _is_structured(name)) for name in names):
        raise DataFileError(
            f"{path}: the first row {','.join(names)[:80]!r} looks like data, not like column names. Add a header "
            "row such as: smiles,value"
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataFileError(f"{path}: column names must differ; repeated: {', '.join(map(repr, repeated))}.")
    return names


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
        id = _by_name([c for c in columns if c not in (smiles, value)], _ID_NAMES)
        reasons["id"] = "no column is named like an id" if id is None else "by its name"
    if value is None:
        value, reasons["value"] = _guess_value({c: v for c, v in columns.items() if c not in (smiles, id)})
    return ColumnGuess(smiles, value, id, reasons)


def _guess_smiles(columns: Mapping[str, Sequence[str]]) -> tuple[str | None, str]:
    named = _by_name(columns, _SMILES_NAMES)
    if named is not None:
        return named, "by its name"
    shares = {c: _share(cells, lambda t: _is_smiles(t) and not _is_number(t)) for c, cells in columns.items()}
    fitting = [name for name, share in shares.items() if share >= _LOOKS_LIKE]
    if len(fitting) == 1:
        return fitting[0], f"{shares[fitting[0]]:.0%} of the sampled cells look like SMILES"
    return (
        None,
        f"several columns look like SMILES: {_names(fitting)}" if fitting else "none by name or content",
    )


def _guess_value(columns: Mapping[str, Sequence[str]]) -> tuple[str | None, str]:
    numeric = [name for name, cells in columns.items() if _share(cells, _is_number) >= 0.5]
    named = _by_name(numeric, _VALUE_NAMES)
    if named is not None:
        return named, "by its name"
    if len(numeric) == 1:
        return numeric[0], "the only column of numbers"
    measured = [name for name in numeric if {"measured", "experimental", "expt", "exp"} & set(_words(name))]
    if len(measured) == 1:
        return measured[0], "the only column of numbers named as measured"
    return None, f"several columns of numbers: {_names(numeric)}" if numeric else "no column of numbers"


def _names(columns: Sequence[str]) -> str:
    return ", ".join(columns[:8]) + (f", ... ({len(columns)} in all)" if len(columns) > 8 else "")


def _by_name(columns: Iterable[str], names: Sequence[str]) -> str | None:
    plain: dict[str, str] = {}
    for column in columns:
        plain.setdefault(_plain(column), column)
    return next((plain[name] for name in names if name in plain), None)


def _plain(name: str) -> str:
    return "".join(_words(name))


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", name.lower())


def _share(cells: Sequence[str], test) -> float:  # type: ignore[no-untyped-def]
    filled = [cell for cell in cells[:_SAMPLE] if cell]
    return sum(map(bool, map(test, filled))) / len(filled) if filled else 0.0


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_smiles(cell: str) -> bool:
    return _SMILES_TEXT.fullmatch(cell) is not None and any(character.isalpha() for character in cell)


def _is_structured(cell: str) -> bool:
    """Long enough and marked enough that no column is named like this."""
    return len(cell) >= 3 and (
        any(mark in cell for mark in "=#()[]@") or re.search(r"[A-Za-z][0-9]", cell) is not None
    )
