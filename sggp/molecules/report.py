"""What was wrong with a list of molecules: every invalid SMILES and every repeat, with its row."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

_SHOWN = 10


@dataclass(frozen=True)
class InvalidMolecule:
    """One entry that cannot be used: 0-based `row`, `line` of the file (1-based, None for lists), text, reason."""

    row: int
    line: int | None
    smiles: str
    reason: str

    def __str__(self) -> str:
        where = f"row {self.row}" if self.line is None else f"row {self.row} (line {self.line})"
        return f"{where}: {self.smiles!r}: {self.reason}"


@dataclass(frozen=True)
class DuplicateGroup:
    """Rows (0-based) and file lines that hold the same molecule, i.e. the same canonical SMILES."""

    canonical: str
    rows: tuple[int, ...]
    lines: tuple[int, ...] | None = None

    def __str__(self) -> str:
        lines = "" if self.lines is None else f" (lines {', '.join(map(str, self.lines))})"
        return f"rows {', '.join(map(str, self.rows))}{lines}: the same molecule {self.canonical!r}"


@dataclass(frozen=True)
class InvalidReport:
    """All findings about one list of molecules.

    Attributes:
        total: how many entries were read.
        invalid: entries that cannot be used.
        duplicates: groups of rows with one canonical SMILES.
        saturated: rows with a fingerprint count above 255, stored as 255.
        source: name of the file, or "" for a list.
        duplicates_checked: False where canonical forms were not computed, so `duplicates` says nothing.
    """

    total: int
    invalid: tuple[InvalidMolecule, ...] = ()
    duplicates: tuple[DuplicateGroup, ...] = ()
    saturated: tuple[int, ...] = ()
    source: str = ""
    duplicates_checked: bool = True

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows (0-based) of the invalid entries."""
        return tuple(entry.row for entry in self.invalid)

    @property
    def smiles(self) -> tuple[str, ...]:
        """Texts of the invalid entries."""
        return tuple(entry.smiles for entry in self.invalid)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Reasons of the invalid entries."""
        return tuple(entry.reason for entry in self.invalid)

    @property
    def duplicate_rows(self) -> tuple[int, ...]:
        """Rows (0-based) that repeat an earlier row."""
        return tuple(sorted(row for group in self.duplicates for row in group.rows[1:]))

    def __bool__(self) -> bool:
        """True if there is anything to report."""
        return bool(self.invalid or self.duplicates or self.saturated)

    def __str__(self) -> str:
        return self.describe()

    def describe(self, limit: int = _SHOWN) -> str:
        """A readable account that lists at most `limit` entries of each kind."""
        origin = f" of {self.source}" if self.source else ""
        lines = [f"{len(self.invalid)} of {self.total} molecules{origin} cannot be used"]
        lines += _listing(self.invalid, limit)
        if self.duplicates:
            extra = len(self.duplicate_rows)
            lines.append(f"{extra} of {self.total} rows repeat an earlier molecule")
            lines += _listing(self.duplicates, limit)
        if self.saturated:
            shown = ", ".join(map(str, self.saturated[:limit]))
            lines.append(f"{len(self.saturated)} rows have a count above 255, stored as 255: {shown}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        return {
            "total": self.total,
            "invalid": [list(astuple(entry)) for entry in self.invalid],
            "duplicates": [list(astuple(group)) for group in self.duplicates],
            "saturated": list(self.saturated),
            "source": self.source,
            "duplicates_checked": self.duplicates_checked,
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> InvalidReport:
        """The inverse of `to_dict`."""
        return InvalidReport(
            total=int(data["total"]),
            invalid=tuple(InvalidMolecule(*entry) for entry in data["invalid"]),
            duplicates=tuple(
                DuplicateGroup(name, tuple(rows), None if lines is None else tuple(lines))
                for name, rows, lines in data["duplicates"]
            ),
            saturated=tuple(data["saturated"]),
            source=str(data["source"]),
            duplicates_checked=bool(data["duplicates_checked"]),
        )


def _listing(entries: Sequence[object], limit: int) -> list[str]:
    lines = [f"  {entry}" for entry in entries[:limit]]
    if len(entries) > limit:
        lines.append(f"  ... and {len(entries) - limit} more (all of them in the report)")
    return lines


def find_duplicates(
    canonical: Sequence[str], rows: Sequence[int] | None = None, lines: Sequence[int] | None = None
) -> tuple[DuplicateGroup, ...]:
    """Groups of equal, non-empty canonical SMILES, by 128-bit digests: 16 bytes per molecule, O(n log n).

    Args:
        canonical: n canonical SMILES; "" means invalid and never matches.
        rows: n row numbers to report (default 0 … n−1).
        lines: line number of each *reported row number*, or None.
    """
    digests = np.empty((len(canonical), 2), dtype=np.uint64)
    for i, text in enumerate(canonical):
        digests[i] = np.frombuffer(hashlib.blake2b(text.encode(), digest_size=16).digest(), dtype=np.uint64)
    order = np.lexsort((np.arange(len(digests)), digests[:, 1], digests[:, 0]))
    ranked = digests[order]
    starts = np.flatnonzero(np.r_[True, (ranked[1:] != ranked[:-1]).any(axis=1)]) if len(ranked) else order
    groups = []
    for start, stop in zip(starts, np.r_[starts[1:], len(ranked)], strict=True):
        members = order[start:stop]
        if len(members) < 2 or not canonical[members[0]]:
            continue
        reported = tuple(int(i) if rows is None else int(rows[i]) for i in members)
        where = None if lines is None else tuple(int(lines[row]) for row in reported)
        groups.append(DuplicateGroup(canonical[members[0]], reported, where))
    return tuple(sorted(groups, key=lambda group: group.rows))
