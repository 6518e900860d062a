"""Numbers as people write them: decimal commas, thousands, `>10`, words for "none"; what was decided is said."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from sggp.errors import InputError

Censored = Literal["above", "below"]

MISSING_WORDS = frozenset(
    {
        "nan",
        "na",
        "n/a",
        "n.a.",
        "n.a",
        "#n/a",
        "#na",
        "n.d.",
        "n.d",
        "nd",
        "n/d",
        "n.t.",
        "n.t",
        "nt",
        "nat",
        "<na>",
    }
    | {"none", "null", "nil", "missing", "-", "--", "---", "–", "—", "?", "."}
    | {"#num!", "#div/0!", "#value!", "#ref!", "#null!", "#name?"}
)
"""Cells that say that there is no value, in lower case."""

_RELATIONS: dict[str, Censored] = {
    ">": "above", ">=": "above", "≥": "above", "≫": "above", ">>": "above",
    "<": "below", "<=": "below", "≤": "below", "≪": "below", "<<": "below",
}  # fmt: skip
_EXACT = frozenset({"", "=", "==", "'='"})
_RELATION = re.compile(r"(>>|>=|<<|<=|[<>≥≤≫≪])\s*(.*)", re.DOTALL)
_NUMBER = re.compile(r"([+-]?)((?:\d[\d.,]*|[.,]\d[\d.,]*))([eE][+-]?\d+)?", re.ASCII)
_GROUPED = re.compile(r"\d{1,3}(?:[ \u00a0\u2007\u2009\u202f'’]\d{3})+(?![\d ])", re.ASCII)
_GAPS = re.compile(r"[ \u00a0\u2007\u2009\u202f'’]")
_MINUS = str.maketrans({"−": "-", "‒": "-", "–": "-", "﹣": "-", "－": "-", "＋": "+"})
_DOUBTFUL = re.compile(r"[1-9]\d{0,2}[.,]\d{3}", re.ASCII)


@dataclass(frozen=True)
class Numbers:
    """The numbers of n cells.

    Attributes:
        values: (n,) float64, NaN where there is none; of `>10` it is 10.
        censored: "above" for `>10` (the truth is larger), "below" for `<0.1`, else None.
        reasons: why a cell holds no number, by position; "no value" first where it says that there is none.
        notes: (position, what was decided), to be told to the user.
        doubt: positions and words where the column can be read in two ways; None where it cannot.
        errors: standard errors by position, where cells such as 5±0.2 told them.
    """

    values: np.ndarray
    censored: tuple[Censored | None, ...]
    reasons: dict[int, str]
    notes: tuple[tuple[int, str], ...] = ()
    doubt: tuple[int, str] | None = None
    errors: Mapping[int, float] = field(default_factory=dict)


def is_missing(cell: str) -> bool:
    """Whether a cell is empty or a word for "no value" (NaN, NA, n.d., -)."""
    text = cell.strip()
    return not text or text.lower() in MISSING_WORDS


def relation(cell: str) -> str | None:
    """What a cell of a column of relations says: "above", "below", None for exact; its own text where nothing."""
    text = cell.strip().strip("'\"")
    return None if text in _EXACT else _RELATIONS.get(text, text)


@dataclass
class _Votes:
    """Positions of the first cells that speak for a decimal point, a decimal comma, or leave it open.

    `short` and `long` are whole numbers of up to three and of more digits, `grouped` one with thousands beyond doubt.
    """

    point: int | None = None
    comma: int | None = None
    open_point: int | None = None
    open_comma: int | None = None
    short: int | None = None
    long: int | None = None
    grouped: int | None = None

    def count(self, position: int, body: str, exponent: str | None) -> None:
        """Take note of one unsigned number."""
        kind = _kind(body, exponent)
        if kind is not None and getattr(self, kind) is None:
            setattr(self, kind, position)
        if kind in ("point", "comma") and self.grouped is None and len(re.findall("[.,]", body)) > 1:
            self.grouped = position


def _kind(body: str, exponent: str | None) -> str | None:
    if "." in body and "," in body:
        last = max(body.rfind("."), body.rfind(","))
        return ("point" if body[last] == "." else "comma") if body.count(body[last]) == 1 else None
    mark = "." if "." in body else "," if "," in body else ""
    if not mark:
        return "short" if len(body) <= 3 else "long"
    own, other = ("point", "comma") if mark == "." else ("comma", "point")
    if body.count(mark) > 1:
        return other if re.fullmatch(rf"\d{{1,3}}(?:[{mark}]\d{{3}})+", body) else None
    return f"open_{own}" if not exponent and _DOUBTFUL.fullmatch(body) else own


def _split(cell: str) -> tuple[Censored | None, str, re.Match[str] | None]:
    """Relation, tidied text and its parts as a number (sign, body, exponent), if it has such a form."""
    text = cell.strip()
    side: Censored | None = None
    if text and text[0] in "<>≥≤≫≪" and (found := _RELATION.fullmatch(text)):
        side, text = _RELATIONS[found[1]], found[2].strip()
    match = _NUMBER.fullmatch(text)
    if match is None and text:
        text = text.translate(_MINUS)
        text = _GROUPED.sub(lambda group: _GAPS.sub("", group[0]), text)
        match = _NUMBER.fullmatch(text.replace("- ", "-"))
    return side, text, match


def read_numbers(
    cells: Sequence[str], *, decimal: str | None = None, others: Iterable[Sequence[str]] = ()
) -> Numbers:
    """The numbers of a column; how it writes decimals and thousands is decided from all of its cells.

    A comma or a point that can only be a decimal sign, or only separate thousands, decides for the column; where none
    does, the same in the other columns of the table; where none does there either, three digits behind every point
    are decimals if no shorter whole number stands beside them, and everything else is a `doubt`.

    Args:
        cells: n texts.
        decimal: "." or ",", if the user says so.
        others: other columns of the same table.

    Cost: O(n).
    """
    parts = [_split(cell) for cell in cells]
    votes = _Votes()
    for position, (_, _, match) in enumerate(parts):
        if match is not None:
            votes.count(position, match[2], match[3])
    percent = _percent(parts)
    point, note, doubt = (decimal, None, None) if decimal else _decide(votes, cells, others)
    values = np.full(len(cells), np.nan)
    reasons: dict[int, str] = {}
    words: dict[str, int] = {}
    for position, (_, text, match) in enumerate(parts):
        if percent is not None and match is None and text.endswith("%"):
            match = _NUMBER.fullmatch(text[:-1].strip())
        if match is None:
            reasons[position] = _reason(cells[position].strip(), text)
            if text and reasons[position].startswith("no value"):
                words.setdefault(text, position)
            continue
        number = _value(match, point or ".")
        if number is None:
            other = "comma" if (point or ".") == "." else "point"
            reasons[position] = (
                f"not a number: {cells[position].strip()!r} (a decimal {other}, or wrong thousands)"
            )
        elif not math.isfinite(number):
            reasons[position] = f"not finite: {cells[position].strip()!r}"
        else:
            values[position] = number
    notes = [] if note is None else [note]
    if words:
        first = min(words.values())
        notes.append((first, f"{', '.join(map(repr, words))} read as no value"))
    if percent is not None:
        notes.append((percent, "per cent signs left out: 95% is read as 95"))
    sides = tuple(None if position in reasons else side for position, (side, _, _) in enumerate(parts))
    return Numbers(values, sides, reasons, tuple(notes), doubt)


def _percent(parts: Sequence[tuple[Censored | None, str, re.Match[str] | None]]) -> int | None:
    """First cell with a per cent sign where every cell that could be a number has one."""
    signs = [
        i for i, (_, text, match) in enumerate(parts) if match is None and re.fullmatch(r"[^%]*\d\s*%", text)
    ]
    return signs[0] if signs and all(match is None for _, _, match in parts) else None


def _value(match: re.Match[str], point: str) -> float | None:
    sign, body, exponent = match[1], match[2], match[3] or ""
    thousands = "," if point == "." else "."
    if thousands in body:
        whole, _, rest = body.partition(point)
        if not re.fullmatch(rf"\d{{1,3}}(?:[{thousands}]\d{{3}})+", whole) or thousands in rest:
            return None
        body = whole.replace(thousands, "") + (point + rest if rest else "")
    if body.count(point) > 1:
        return None
    try:
        return float(sign + body.replace(point, ".") + exponent)
    except ValueError:
        return None


def _reason(shown: str, text: str) -> str:
    if not shown:
        return "no value"
    if text.lower() in MISSING_WORDS:
        return f"no value: {shown!r}"
    if re.fullmatch(r"[+-]?inf(inity)?", text, re.IGNORECASE):
        return f"not finite: {shown!r}"
    if re.match(r"[~≈±]|ca?\.? ?\d", text):
        return f"not a number: {shown!r} is approximate; write the number alone"
    if shown.startswith("="):
        return f"not a number: {shown!r} is a formula without its value"
    return f"not a number: {shown!r}"


def _decide(
    votes: _Votes, cells: Sequence[str], others: Iterable[Sequence[str]]
) -> tuple[str | None, tuple[int, str] | None, tuple[int, str] | None]:
    """Decimal sign, what to tell, and the doubt."""

    def shown(position: int | None) -> str:
        return "" if position is None else repr(cells[position].strip())

    if votes.point is not None and votes.comma is not None:
        doubt = f"{shown(votes.point)} has a decimal point, {shown(votes.comma)} a decimal comma"
        return None, None, (max(votes.point, votes.comma), doubt)
    if votes.point is not None:
        note = (
            None
            if votes.open_comma is None
            else f"commas separate thousands, as in {shown(votes.open_comma)}"
        )
        return ".", None if note is None else (votes.open_comma or 0, note), None
    if votes.comma is not None:
        if votes.open_point is None:
            return ",", (votes.comma, f"decimal commas, as in {shown(votes.comma)}"), None
        if votes.grouped is None:
            doubt = f"{shown(votes.open_point)} beside {shown(votes.comma)}: is its point a decimal one, too?"
            return None, None, (votes.open_point, doubt)
        note = f"decimal commas, as in {shown(votes.comma)}, and points between thousands"
        return ",", (votes.comma, note), None
    if votes.open_point is None and votes.open_comma is None:
        return ".", None, None
    if votes.open_point is not None and votes.open_comma is not None:
        doubt = (
            f"{shown(votes.open_point)} and {shown(votes.open_comma)}: one of the signs separates thousands"
        )
        return None, None, (max(votes.open_point, votes.open_comma), doubt)
    first = votes.open_comma if votes.open_point is None else votes.open_point
    mark, name = (",", "comma") if votes.open_point is None else (".", "point")
    position = 0 if first is None else first
    decimals = position, f"the {name} of {shown(first)} is a decimal {name}"
    if votes.long is not None:
        return mark, (position, f"{decimals[1]}, since {shown(votes.long)} has no thousands separator"), None
    elsewhere = _vote(others)
    if elsewhere is not None:
        note = f"{decimals[1]}" if elsewhere == mark else f"the {name} of {shown(first)} separates thousands"
        return elsewhere, (position, f"{note}, as other columns show"), None
    if mark == "." and votes.short is None:
        return ".", (position, f"{decimals[1]}: every number has three decimals"), None
    beside = f" beside {shown(votes.short)}" if votes.short is not None else ""
    return (
        None,
        None,
        (position, f"{shown(first)}{beside}: is its {name} a decimal {name}, or between thousands?"),
    )


def _vote(columns: Iterable[Sequence[str]]) -> str | None:
    """The decimal sign that other columns show beyond doubt."""
    votes = _Votes()
    for cells in columns:
        for cell in cells:
            text = cell.strip()
            if ("." in text or "," in text) and (match := _NUMBER.fullmatch(text)):
                votes.count(0, match[2], match[3])
    if (votes.point is None) == (votes.comma is None):
        return None
    return "," if votes.point is None else "."


def parse_measurements(
    cells: Sequence[str], *, decimal: str | None = None
) -> tuple[np.ndarray, tuple[Censored | None, ...], dict[int, str]]:
    """Values, (n,) float64; "above" for `>10`, "below" for `<0.1`, else None; and why a cell holds no number.

    Raises:
        InputError: the column can be read in two ways (`1.234` beside `950`); say `decimal`.
    """
    found = read_numbers(cells, decimal=decimal)
    if found.doubt is not None:
        raise InputError(
            f'cell {found.doubt[0] + 1}: {found.doubt[1]} Say which: decimal="." or decimal=",".'
        )
    return found.values, found.censored, found.reasons


def parse_numbers(cells: Sequence[str], *, decimal: str | None = None) -> tuple[np.ndarray, dict[int, str]]:
    """(n,) float64 with NaN where there is no exact finite number, and the reason for each such position.

    Raises:
        InputError: as `parse_measurements`.
    """
    values, censored, reasons = parse_measurements(cells, decimal=decimal)
    for position, side in enumerate(censored):
        if side is not None:
            values[position] = np.nan
            reasons[position] = bound_reason(cells[position])
    return values, dict(sorted(reasons.items()))


def bound_reason(cell: str) -> str:
    """Why `>10` is no number."""
    return f"not a number but a bound: {cell.strip()!r}"


def parse_whole(cells: Sequence[str]) -> tuple[list[int | None], dict[int, str]]:
    """Whole numbers, `13.0` (as pandas writes 13 in a column with gaps) among them, and why a cell is none."""
    values: list[int | None] = []
    reasons: dict[int, str] = {}
    for position, cell in enumerate(cells):
        text = cell.strip().translate(_MINUS)
        if re.fullmatch(r"[+-]?\d{1,18}(\.0*)?", text):
            values.append(int(text.partition(".")[0]))
            continue
        values.append(None)
        reasons[position] = "no value" if is_missing(text) else f"not a whole number: {cell.strip()!r}"
    return values, reasons
