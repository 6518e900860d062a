"""What counts as the same molecule: salts, solvates, charges, stereo and tautomers, by a stated policy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sggp.checks import one_of
from sggp.errors import InputError, MoleculeError

Policy = Literal["none", "parent", "flat"]
POLICIES = ("none", "parent", "flat")

_NITRO = re.compile(r"\[N\+\]\(=O\)\[O-\]|O=\[N\+\]\(\[O-\]\)|\[O-\]\[N\+\]\(=O\)")
_PLAIN_ATOM = re.compile(r"\[(?:[CNOPSBFIcnopsb]|Cl|Br|Si|Se|se)(?:@@?)?H?\d?\]")
_FORMS = {"neutralised": "charged", "without stereo": "with stereo", "canonical tautomer": "another tautomer"}


@dataclass(frozen=True)
class Standardised:
    """What a molecule is standardised to.

    Attributes:
        parent: canonical SMILES.
        changes: what was done, in words ("without hydrochloride", "neutralised", ...); empty if nothing.
        parts: how many different molecules are left; more than one is a mixture.
    """

    parent: str
    changes: tuple[str, ...] = ()
    parts: int = 1


@dataclass(frozen=True)
class ParentMatch:
    """Position `row` of a list is another form of the molecule at `of`; `parent` is what both are.

    `form` says what `row` is ("with hydrochloride, charged"; "" where it is the parent itself), `of_form` the other.
    """

    row: int
    of: int
    parent: str
    form: str
    of_form: str

    def describe(self, row: str, of: str) -> str:
        """A sentence for the user, who knows the two by these names ("line 12", "line 3")."""
        one, two = (f" ({form})" if form else "" for form in (self.form, self.of_form))
        return f"{row}{one} is the same molecule as {of}{two}"


def standardise(smiles: str, policy: Policy = "parent") -> Standardised:
    """The form of one molecule that stands for all that are taken as the same.

    Args:
        smiles: one SMILES.
        policy: "none": its canonical SMILES. "parent": salts and solvates without the counter-ions and solvents of a
            fixed list (`sggp.molecules._chemistry.COMPANIONS`), metals cut off, charges neutralised where hydrogen can
            do it, functional groups in RDKit's normal form, sulfoxides as S=O; stereo is kept. If all parts are of the
            list the largest stays; if several molecules are left, the mixture stays one; a complex of which the metal
            alone would be left stays as it is. "flat": "parent", without stereo, as the
            canonical tautomer of RDKit.

    Raises:
        MoleculeError: the SMILES cannot be parsed. InputError: unknown policy.

    Cost: "parent" 1 ms for a molecule with charges or parts, else that of canonical SMILES; "flat" 10 to 100 ms.
    Source: RDKit's MolStandardize (normalisation, charges, tautomers).
    """
    return Standardiser(policy)(smiles)


class Standardiser:
    """`standardise` with one policy, for many molecules; what `parents` found is kept. Picklable."""

    def __init__(self, policy: Policy = "parent") -> None:
        self.policy = one_of(policy, "policy", POLICIES)
        self._found: dict[str, str] = {}

    def __call__(self, smiles: str) -> Standardised:
        if not isinstance(smiles, str):
            raise InputError(f"expected one SMILES, got {type(smiles).__name__}.")
        from sggp.molecules._chemistry import parent  # RDKit is an extra
        from sggp.molecules.properties import property_of_each

        if self.policy == "none" or (self.policy == "parent" and is_plain(smiles)):
            return Standardised(str(property_of_each([smiles], "canonical SMILES")[0]))
        found, changes, parts = parent(smiles, flat=self.policy == "flat")
        if found is None:
            raise MoleculeError(f"cannot be parsed as SMILES: {smiles!r}")
        return Standardised(found, tuple(changes), parts)

    def parents(self, canonical: Sequence[str]) -> list[str]:
        """The parents of n canonical SMILES; those that are their own are not parsed again ("none", "parent").

        Raises:
            MoleculeError: one cannot be parsed.
        """
        if self.policy == "none":
            return list(canonical)
        return [self._parent(text) for text in canonical]

    def _parent(self, text: str) -> str:
        if self.policy == "parent" and is_plain(text):
            return text
        if text not in self._found:
            self._found[text] = self(text).parent
        return self._found[text]

    def matches(self, canonical: Sequence[str]) -> list[ParentMatch]:
        """Molecules that are another form of an earlier one: equal parents, canonical SMILES that differ."""
        first: dict[str, int] = {}
        out = []
        for row, (text, parent) in enumerate(zip(canonical, self.parents(canonical), strict=True)):
            of = first.setdefault(parent, row)
            if canonical[of] != text:
                out.append(ParentMatch(row, of, parent, self.form(text), self.form(canonical[of])))
        return out

    def form(self, smiles: str) -> str:
        """What a molecule is beside its parent, in words; "" where it is the parent itself."""
        return ", ".join(
            _FORMS.get(change, change.replace("without ", "with ")) for change in self(smiles).changes
        )


def is_plain(smiles: str) -> bool:
    """Whether a canonical SMILES is its own parent at sight: one part, no charge, no metal."""
    if "." in smiles:
        return False
    if "[" not in smiles:
        return True
    rest = _PLAIN_ATOM.sub("", _NITRO.sub("", smiles))
    return "[" not in rest
