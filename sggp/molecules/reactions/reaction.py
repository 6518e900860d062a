"""A reaction with the reagents of each component: how many combinations, and what each is."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sggp.checks import as_path
from sggp.errors import DataFileError, DtypeError, InputError
from sggp.molecules.files import read_molecules
from sggp.molecules.reactions.filters import FILTERS

_SHOWN = 3
_ENTRY = ("name", "smarts", "reagents")
_LONGEST = 80


@dataclass(frozen=True)
class Refused:
    """A reagent that cannot be used.

    Attributes:
        component: 1 for the first.
        row: 0-based, in its list.
        smiles, id: as given.
        reason: why.
        source, line: the file and the line in it, "" and 0 where the list came from Python.
    """

    component: int
    row: int
    smiles: str
    id: str
    reason: str
    source: str = ""
    line: int = 0


@dataclass(frozen=True)
class Reagents:
    """The usable reagents of one component.

    Attributes:
        smiles: canonical SMILES.
        ids: a text each, the row number where no list of ids was given; the SMILES where an id is empty or that of
            another molecule as well, so that every id is one molecule.
        several: how many of them match their pattern in more than one place: their combinations may have several
            products.
        protected: how many of them carry which protecting group, which the products keep.
        repeats: how many rows were left out as the same molecule again.
        source: the file, or "".
        places: (row, line) of each in its list and in the file, as in `Refused`.
        unnamed: how many of them are called by their SMILES for want of an id of their own.
        aliases: the positions of molecules by the ids under which they were repeated.
    """

    smiles: tuple[str, ...]
    ids: tuple[str, ...]
    several: int = 0
    protected: Mapping[str, int] = field(default_factory=dict)
    repeats: int = 0
    source: str = ""
    places: tuple[tuple[int, int], ...] = ()
    unnamed: int = 0
    aliases: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.smiles)

    def refused(self, position: int, component: int, reason: str) -> Refused:
        """One of them as a reagent that cannot be used."""
        row, line = self.places[position]
        return Refused(component, row, self.smiles[position], self.ids[position], reason, self.source, line)

    @cached_property
    def row_of(self) -> dict[str, int]:
        """The position of each id."""
        return {**self.aliases, **{name: row for row, name in enumerate(self.ids)}}


class Reaction:
    """A reaction and its lists of reagents.

    Args:
        smarts: reaction SMARTS with 1 to 4 reactants and one product template; of several the first is the product.
        reagents: one list for each reactant: SMILES, pairs (SMILES, id), or the path of a table of molecules (smi, CSV,
            sdf …, gz accepted).
        name: what it is called; "reaction" otherwise.

    Attributes:
        components: `Reagents` of each reactant.
        refused: every reagent that cannot be used, with the reason.

    Raises:
        InputError: no reaction SMARTS, another number of lists than reactants, or a component without a usable reagent.
        DataFileError: a file that cannot be read.
        MissingExtra: RDKit is not installed.

    Cost: each reagent is parsed and matched once, 0.1 s per 1,000.
    """

    def __init__(self, smarts: str, reagents: Sequence[Any], name: str = "reaction") -> None:
        from sggp.molecules.reactions._reactor import components  # RDKit is an extra

        if not isinstance(smarts, str) or not isinstance(name, str):
            raise DtypeError("smarts and name of a reaction are texts.")
        patterns = components(smarts)
        if isinstance(reagents, str | bytes) or not hasattr(reagents, "__len__"):
            raise DtypeError("reagents must hold one list, or path, for each reactant.")
        if len(reagents) != len(patterns):
            raise InputError(
                f"{name} has {len(patterns)} reactants, {', '.join(patterns)}, and got {len(reagents)} lists of "
                "reagents: give one for each, in this order."
            )
        self.smarts, self.name = smarts, name
        found = [_usable(smarts, number, given) for number, given in enumerate(reagents)]
        self.components = [own for own, _ in found]
        self.refused = [one for _, lost in found for one in lost]
        for number, (own, pattern) in enumerate(zip(self.components, patterns, strict=True), start=1):
            if not len(own):
                first = [f"{_short(r.smiles)} {r.reason}" for r in self.refused if r.component == number][
                    :_SHOWN
                ]
                raise InputError(
                    f"component {number} of {name} has no usable reagent for {pattern}: "
                    f"{'; '.join(first) or 'its list is empty'}."
                )

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many usable reagents each component has."""
        return tuple(len(own) for own in self.components)

    def __len__(self) -> int:
        count = 1
        for size in self.sizes:
            count *= size
        return count

    def reagents(self, rows: Sequence[int]) -> tuple[str, ...]:
        """SMILES of a combination, by the row of each reagent."""
        return tuple(own.smiles[row] for own, row in zip(self.components, rows, strict=True))

    def ids(self, rows: Sequence[int]) -> tuple[str, ...]:
        """Ids of a combination."""
        return tuple(own.ids[row] for own, row in zip(self.components, rows, strict=True))

    @cached_property
    def digest(self) -> str:
        """What it makes, as a text: changes with the SMARTS and any usable reagent."""
        plain = json.dumps([self.smarts, [own.smiles for own in self.components]])
        return hashlib.blake2b(plain.encode(), digest_size=16).hexdigest()

    def describe(self) -> list[str]:
        """Lines of plain words: sizes, and what was left out and why."""
        sizes = " x ".join(f"{size:,}" for size in self.sizes)
        lines = [f"{self.name}: {sizes} = {len(self):,} combinations"]
        for number, own in enumerate(self.components, start=1):
            lost = [one for one in self.refused if one.component == number]
            told = [f"{len(lost):,} of {len(own) + len(lost) + own.repeats:,} unusable"] * bool(lost)
            told += [f"{own.repeats:,} repeated"] * bool(own.repeats)
            told += [f"{own.several:,} match in several places"] * bool(own.several)
            told += [f"{count:,} carry {group}" for group, count in own.protected.items()]
            told += [f"{own.unnamed:,} without an id of their own, called by their SMILES"] * bool(
                own.unnamed
            )
            if told:
                lines.append(f"  component {number}: {', '.join(told)}")
            for one in lost[:_SHOWN]:
                lines.append(f"    {_short(one.smiles)} ({one.id}): {one.reason}")
        return lines


def _short(smiles: str) -> str:
    return smiles if len(smiles) <= _LONGEST else f"{smiles[:_LONGEST]}..."


def _usable(smarts: str, number: int, given: Any) -> tuple[Reagents, list[Refused]]:
    from sggp.molecules.reactions._reactor import match

    smiles, ids, at, source, lost = _read(given, number + 1)
    kept: dict[str, str] = {}
    called: dict[str, set[str]] = {}
    places: list[tuple[int, int]] = []
    several, repeats, protected = 0, 0, dict[str, int]()
    for row, (text, name, one) in enumerate(zip(smiles, ids, match(smarts, number, smiles), strict=True)):
        if one.reason:
            lost.append(Refused(number + 1, at[row][0], str(text), name, one.reason, source, at[row][1]))
            continue
        called.setdefault(name, set()).add(one.canonical)
        if one.canonical in kept:
            repeats += 1
        else:
            kept[one.canonical] = name
            places.append(at[row])
            several += one.matches > 1
            for group in one.protected:
                protected[group] = protected.get(group, 0) + 1
    ids = [name if name and len(called[name]) == 1 else smiles for smiles, name in kept.items()]
    position_of = {smiles: position for position, smiles in enumerate(kept)}
    aliases = {name: position_of[next(iter(own))] for name, own in called.items() if name and len(own) == 1}
    unnamed = sum(name != own for name, own in zip(kept.values(), ids, strict=True))
    counted = (several, protected, repeats, source, tuple(places), unnamed, aliases)
    return Reagents(tuple(kept), tuple(ids), *counted), lost


def _read(
    given: Any, component: int
) -> tuple[list[Any], list[str], list[tuple[int, int]], str, list[Refused]]:
    """SMILES, ids, (row, line) of each, the file and the rows that are no molecules."""
    if isinstance(given, str | os.PathLike):
        data = read_molecules(given)
        ids = [str(row) for row in data.rows.tolist()] if data.ids is None else list(data.ids)
        source = str(data.path)
        lost = [
            Refused(component, one.row, one.content, "", one.reason, source, one.line)
            for one in data.rejected
        ]
        return list(data.smiles), ids, [(r, int(data.lines[r])) for r in data.rows.tolist()], source, lost
    try:
        entries = list(given)
    except TypeError as error:
        raise DtypeError(
            f"reagents of component {component} must be a list of SMILES or a path, got {type(given).__name__}."
        ) from error
    pairs = [
        one if isinstance(one, tuple) and len(one) == 2 else (one, row) for row, one in enumerate(entries)
    ]
    return (
        [t for t, _ in pairs],
        [str(name) for _, name in pairs],
        [(i, 0) for i in range(len(pairs))],
        "",
        [],
    )


def mixed_radix(numbers: np.ndarray, sizes: Sequence[int]) -> np.ndarray:  # (k,) -> (k, len(sizes))
    """Numbers as digits of these sizes, the last one changing fastest."""
    digits, rest = np.empty((len(numbers), len(sizes)), dtype=np.int64), numbers.copy()
    for place in range(len(sizes) - 1, -1, -1):
        digits[:, place] = rest % sizes[place]
        rest //= sizes[place]
    return digits


def read_reactions(path: str | os.PathLike[str]) -> tuple[list[Reaction], dict[str, Any]]:
    """Reactions and filters of a JSON file.

    The file holds ``{"reactions": [{"name": ..., "smarts": ..., "reagents": [file, file]}], "filters": {...}}``; a
    single reaction may stand alone. Files of reagents are looked for beside it.

    Returns:
        The reactions, and the filters as `ProductFilter.from_json` takes them.

    Raises:
        DataFileError: it cannot be read, or is no such JSON. InputError: as `Reaction`.
    """
    place = as_path(path, "path")
    entries, filters = _entries(place)
    reactions = []
    for number, (entry, files) in enumerate(entries, start=1):
        name = str(entry.get("name", f"reaction {number}" if len(entries) > 1 else "reaction"))
        try:
            reactions.append(Reaction(entry["smarts"], files, name))
        except DataFileError as error:
            raise DataFileError(f"{name} of {place}: {error}") from error
    return reactions, filters


def reagent_files(path: str | os.PathLike[str]) -> list[Path]:
    """The files of reagents that a file of reactions names; none of them is read.

    Raises:
        DataFileError: as `read_reactions`.
    """
    entries, _ = _entries(as_path(path, "path"))
    return [one for _, files in entries for one in files if isinstance(one, Path)]


def _check_names(place: Path, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse what is almost, or elsewhere, a part of a reaction file: it would be passed over. Others are comments."""
    for name in given:
        meant = get_close_matches(name, (*_ENTRY, "reactions", "filters"), n=1)
        if name not in known and (meant or name in FILTERS):
            where = (
                'in "filters", beside "reactions"' if name in (*FILTERS, "filters") else f'as "{meant[0]}"'
            )
            raise DataFileError(f'{place}: "{name}" is not read where it stands: write it {where}.')


def _entries(place: Path) -> tuple[list[tuple[dict[str, Any], list[Any]]], dict[str, Any]]:
    """The reactions of a file with their files of reagents, and its filters."""
    form = '{"reactions": [{"smarts": "...", "reagents": ["a.smi", "b.smi"]}]}'
    try:
        text = place.read_text(encoding="utf-8-sig")
        content = json.loads(text)
    except OSError as error:
        raise DataFileError(f"cannot read {place}: {error.strerror or error}.") from error
    except json.JSONDecodeError as error:
        last = ": the comma before it is one too many" * text[: error.pos].rstrip().endswith(",")
        raise DataFileError(
            f"{place} is no JSON ({error}{last}); a reaction file looks like {form}."
        ) from error
    except ValueError as error:
        raise DataFileError(f"{place} is no JSON ({error}); a reaction file looks like {form}.") from error
    entries = content.get("reactions", [content]) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise DataFileError(f"{place} holds no reactions; a reaction file looks like {form}.")
    _check_names(place, content, ("reactions", "filters") if "reactions" in content else (*_ENTRY, "filters"))
    out = []
    for number, entry in enumerate(entries, start=1):
        if isinstance(entry, dict) and entry is not content:
            _check_names(place, entry, _ENTRY)
        if (
            not isinstance(entry, dict)
            or "smarts" not in entry
            or not isinstance(entry.get("reagents"), list)
        ):
            raise DataFileError(f"reaction {number} of {place} needs smarts and reagents, as in {form}.")
        files = [Path(place.parent, one) if isinstance(one, str) else one for one in entry["reagents"]]
        out.append((entry, files))
    return out, content.get("filters", {})
