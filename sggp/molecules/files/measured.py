"""The numbers of a measured column, with what stands beside them: relations such as > and <, and units."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace

from sggp.errors import DataFileError
from sggp.molecules.files.columns import is_number, plain
from sggp.molecules.files.numbers import Censored, Numbers, is_missing, read_numbers, relation
from sggp.molecules.files.table import DataTable

_RELATIONS = ("relation", "standardrelation", "operator", "qualifier", "modifier", "censoring", "censored")
_UNITS = ("unit", "units", "standardunit", "standardunits")
_VALUES = ("value", "standardvalue", "activityvalue")
_LOGARITHM = re.compile("p(ic50|ec50|ac50|xc50|ki|kd|chembl|activity|potency)")
_SIDES: dict[str, Censored] = {"above": "above", "below": "below"}
_SIGNS = 0.5  # share of the filled cells that must be signs in a column of relations
_PLUS_MINUS = re.compile(r"(.*\d.*?)(?:±|\+/[-−]|\+[-−])(.*\d.*)", re.DOTALL)
_MICRO = str.maketrans({"µ": "u", "μ": "u"})


def measured_numbers(
    table: DataTable,
    name: str,
    *,
    among: Collection[str] = (),
    ignore: Collection[str] = (),
    units: bool = True,
    mostly: bool = True,
) -> Numbers:
    """The numbers of a column of measurements, as `DataTable.numbers`, beside its relations and units.

    5±0.2 (or +-, +/-) is 5 with the standard error 0.2.
    A column of =, > and < named relation or qualifier, or as `name` with such an ending, says which values are bounds.
    A row whose relation is none of these (~) has no number.

    Args:
        among: all measured columns of the table; where they are several, only an ending of `name` says which is meant.
        ignore: columns that mean something else.
        units: whether a column of units that differ is refused.

    Raises:
        DataFileError: as `DataTable.numbers`; values in several units; relations of one of several columns, or of IC50
            beside pIC50.
    """
    found = _with_errors(table, name, mostly=mostly)
    others = {key: cells for key, cells in table.columns.items() if key != name and key not in ignore}
    if units:
        _check_units(table, name, found, _named(others, name, _UNITS, shared=len(among) < 2))
    beside = relations_beside(others, name)
    if beside is None:
        return found
    if len(among) > 1 and plain(beside) in _RELATIONS:
        if not any(relation(cell) in ("above", "below") for cell in others[beside]):
            return found
        raise DataFileError(
            f"{table.path}: of which of {', '.join(among)} does column {beside!r} say which values are bounds? Call it "
            f"{name} {beside}, or write the signs into the cells, as >10."
        )
    if plain(beside) in _RELATIONS:
        _refuse_other_scale(table, name, beside, others)
    return _with_relations(name, found, beside, others[beside])


def relations_beside(columns: Mapping[str, Collection[str]], name: str) -> str | None:
    """The column of =, > and < that says which values of the column `name` are bounds; None without one."""
    others = [key for key in columns if key != name]
    return next(
        (key for key in _named(others, name, _RELATIONS, shared=True) if _of_signs(columns[key])), None
    )


def tells_error(cell: str) -> bool:
    """Whether a cell has the form 5±0.2, of a value and its standard error."""
    return _PLUS_MINUS.fullmatch(cell) is not None


def bound_text(cell: str, side: Censored) -> str:
    """A bound with its sign, which may stand in a column beside it."""
    return (
        cell.strip() if cell.strip()[:1] in "<>≥≤≫≪" else f"{'>' if side == 'above' else '<'}{cell.strip()}"
    )


def _refuse_other_scale(table: DataTable, name: str, beside: str, others: dict[str, list[str]]) -> None:
    """Refuse pIC50 beside IC50 and a relation that says not of which: > of the one is < of the other."""
    if not (logarithm := _LOGARITHM.match(plain(name))):
        return
    scale = [
        key
        for key, cells in others.items()
        if (logarithm[1] in plain(key) or plain(key) in _VALUES)
        and not _LOGARITHM.match(plain(key))
        and any(is_number(cell) for cell in cells)
    ]
    if scale and any(relation(cell) in ("above", "below") for cell in others[beside]):
        raise DataFileError(
            f"{table.path}: column {beside!r} says which values are bounds, of {scale[0]!r} or of {name!r}? Where one "
            f"is above a number, the other is below. Call it {name} {beside} if it is of that, or write the signs into "
            "the cells, as >5, and leave that column out."
        )


def _with_errors(table: DataTable, name: str, *, mostly: bool) -> Numbers:
    """As `DataTable.numbers`, of what stands before ±, with what stands behind it."""
    tried = {i: _PLUS_MINUS.fullmatch(cell) for i, cell in enumerate(table.columns[name])}
    split = {i: match for i, match in tried.items() if match is not None}
    if not split:
        return table.numbers(name, mostly=mostly)
    cells = [split[i][1] if i in split else cell for i, cell in enumerate(table.columns[name])]
    plain = replace(table, columns={**table.columns, name: cells})
    found = plain.numbers(name, mostly=mostly)
    told = read_numbers([one[2] for one in split.values()], decimal=table.decimal, others=[cells])
    errors, reasons, values, sides = {}, dict(found.reasons), found.values.copy(), list(found.censored)
    for place, position in enumerate(split):
        error, cell = float(told.values[place]), table.columns[name][position].strip()
        if split[position][2].rstrip().endswith("%") and not split[position][1].rstrip().endswith("%"):
            reasons[position] = (
                f"not a number: {cell!r} tells its error in per cent; write it in units of the value"
            )
            values[position], sides[position] = float("nan"), None
        elif position not in reasons and error >= 0 and told.doubt is None and told.censored[place] is None:
            errors[position] = error
        else:
            reasons[position] = f"not a number: {cell!r}"
            values[position], sides[position] = float("nan"), None
    first = next(iter(split))
    words = f"what follows ± is read as the standard error, as in {table.columns[name][first].strip()!r}"
    notes = (*found.notes, (first, words))
    return replace(found, values=values, censored=tuple(sides), reasons=reasons, notes=notes, errors=errors)


def _named(columns: Collection[str], name: str, endings: Collection[str], *, shared: bool) -> list[str]:
    """The columns called as a value column with one of these endings, then, if `shared`, as the ending alone."""
    own = [key for key in columns if any(plain(key) == plain(name) + ending for ending in endings)]
    return own + [key for key in columns if shared and plain(key) in endings and key not in own]


def _of_signs(cells: Collection[str]) -> bool:
    """Whether at least half of the filled cells are signs of relations."""
    filled = [cell for cell in cells if not is_missing(cell)]
    signs = sum(relation(cell) in (None, "above", "below") for cell in filled)
    return bool(filled) and signs >= _SIGNS * len(filled)


def _with_relations(name: str, found: Numbers, beside: str, cells: list[str]) -> Numbers:
    sides, reasons, said = list(found.censored), dict(found.reasons), list[int]()
    for position, cell in enumerate(cells):
        word = None if is_missing(cell) else relation(cell)
        side = _SIDES.get(word or "")
        if position in reasons or word is None:
            continue
        if side is None:
            reasons[position] = f"its relation {cell!r} is neither =, > nor <"
        elif sides[position] not in (None, side):
            reasons[position] = f"not a number: its relation {cell!r} is not that in its cell"
        else:
            sides[position] = side
            said.append(position)
    values = found.values.copy()
    for position in reasons.keys() - found.reasons.keys():
        values[position], sides[position] = float("nan"), None
    errors = {position: error for position, error in found.errors.items() if position not in reasons}
    count = sum(side is not None for side in sides)
    more = [(said[0], f"column {beside!r} says which values are bounds: {count} are")] if said else []
    notes = (*found.notes, *more)
    return replace(found, values=values, censored=tuple(sides), reasons=reasons, errors=errors, notes=notes)


def _check_units(table: DataTable, name: str, found: Numbers, columns: list[str]) -> None:
    """Refuse values in several units, which cannot be compared."""
    for column in columns:
        seen: dict[str, int] = {}
        for position, cell in enumerate(table.columns[column]):
            if position not in found.reasons and not is_missing(cell):
                seen.setdefault("".join(cell.split()).translate(_MICRO), position)
        if len(seen) > 1:
            one, two = sorted(seen.values())[:2]
            cells = table.columns[column]
            raise DataFileError(
                f"{table.path} line {table.line(two)}, column {column!r}: {cells[two]!r}, but {cells[one]!r} in line "
                f"{table.line(one)}: values of {name!r} in different units cannot be compared. Convert them to one "
                f"unit, or give that column another name if it is not of {name!r}."
            )
