"""Measured molecules that are other forms (salts, charges, stereo, tautomers) of molecules of a library."""

from __future__ import annotations

from sggp.cli.molecules.tables import Measured
from sggp.molecules import FingerprintTable
from sggp.molecules.standardise import ParentMatch, Policy, Standardiser, is_plain


def same_molecules(candidates: FingerprintTable, known: Measured, policy: str) -> list[ParentMatch]:
    """(measured position, library row) of equal parents and different canonical SMILES, in the order of the rows.

    With "none" only parents by salts and charges are looked for, and in the library only those of several parts, so
    that it costs next to nothing.

    Cost: 1 ms per library molecule with charges or parts ("parent"), 10 to 100 ms for every one ("flat").
    """
    if candidates.canonical is None or not len(known):
        return []
    sought: Policy = "flat" if policy == "flat" else "parent"
    standardiser = Standardiser(sought)
    first: dict[str, int] = {}
    for position, parent in enumerate(standardiser.parents(known.canonical)):
        first.setdefault(parent, position)
    out = []
    for row, text in enumerate(candidates.canonical):
        own = policy == "none" and "." not in text
        parent = text if own or (sought == "parent" and is_plain(text)) else standardiser.parents([text])[0]
        place = first.get(parent)
        if place is not None and known.canonical[place] != text:
            forms = standardiser.form(known.canonical[place]), standardiser.form(text)
            out.append(ParentMatch(place, row, parent, *forms))
    return out
