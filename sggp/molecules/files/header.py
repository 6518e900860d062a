"""Whether the first record of a file names its columns, and how they are then called."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sggp.molecules.files.columns import ID_NAMES, SMILES_NAMES, VALUE_NAMES, is_number, is_smiles, plain

_KNOWN = frozenset((*SMILES_NAMES, *VALUE_NAMES, *ID_NAMES))
_LIKE = 0.8


def has_header(records: Sequence[Sequence[str]]) -> bool:
    """Whether the first record holds names.

    It does where one of its cells is a usual name, or where they count the columns (0, 1, 2, ...). It does not where
    a cell is a number, or is SMILES above a column of SMILES.
    """
    first = [cell.strip() for cell in records[0]]
    if any(plain(cell) in _KNOWN for cell in first):
        return True
    if len(first) > 2 and any(
        first == [str(i) for i in range(start, start + len(first))] for start in (0, 1)
    ):
        return True
    if any(is_number(cell) for cell in first):
        return False
    for position, cell in enumerate(first):
        below = [record[position].strip() for record in records[1:] if position < len(record)]
        below = [text for text in below if text]
        if is_smiles(cell) and _balanced(cell):
            alike = sum(is_smiles(text) and not is_number(text) for text in below)
            if (alike >= _LIKE * len(below)) if below else _structured(cell):
                return False
    return True


def _balanced(text: str) -> bool:
    """Whether brackets open and close as in SMILES."""
    depth = 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0 and text.count("[") == text.count("]")


def _structured(cell: str) -> bool:
    """Long enough and marked enough that no column is named like this."""
    return len(cell) >= 3 and (
        any(mark in cell for mark in "=#()[]@") or re.search(r"[A-Za-z][0-9]", cell) is not None
    )


def split_header(records: Sequence[Sequence[str]], notes: list[str]) -> tuple[list[str], list[int]]:
    """Names of the columns and their positions, those left out that have neither a name nor a cell.

    A column without a name is called "unnamed 1" by its position; columns of one name are all numbered, "y (1)" and
    "y (2)", so that neither is taken for the other.
    """
    names = [
        cell.strip().removeprefix("#").strip() if i == 0 else cell.strip()
        for i, cell in enumerate(records[0])
    ]
    empty = [
        not name and not any(i < len(record) and record[i].strip() for record in records[1:])
        for i, name in enumerate(names)
    ]
    while empty and empty[-1]:  # a delimiter at the end of every line; within a line a cell may come later
        names.pop()
        empty.pop()
    unnamed = [i for i, name in enumerate(names) if not name]
    for i in unnamed:
        names[i] = f"unnamed {i + 1}"
    if unnamed:
        notes.append("columns without a name are called " + ", ".join(repr(names[i]) for i in unnamed))
    repeated = sorted({name for name in names if names.count(name) > 1})
    for name in repeated:
        places = [i for i, other in enumerate(names) if other == name]
        for number, i in enumerate(places, start=1):
            names[i] = f"{name} ({number})"
        notes.append(f"{len(places)} columns are named {name!r}; they are called {name + ' (1)'!r}, ...")
    return names, list(range(len(names)))
