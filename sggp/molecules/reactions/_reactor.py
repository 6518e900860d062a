"""RDKit for reactions: which reagents a reaction takes, and the products of combinations of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from sggp.errors import InputError, missing_extra
from sggp.molecules.encoding.parts import FingerprintSettings
from sggp.molecules.reactions.filters import ProductFilter

try:
    from rdkit import Chem, rdBase
    from rdkit.Chem import Crippen, Descriptors, rdChemReactions
except ImportError as error:
    raise missing_extra("Reactions need RDKit", "molecules", error) from error

from sggp.molecules._rdkit import Encoded, encode, parse

MOST_ATOMS = 300
"""Reagents with more heavy atoms together are not reacted: nobody makes such products, and RDKit takes long."""
_MOST_MATCHES = 64
_KEPT = 8192

_crippen: Any = Crippen
_weight: Any = Descriptors.MolWt  # type: ignore[attr-defined]

PROTECTING = {
    "Boc": "[#7,#8]C(=O)OC(C)(C)C",
    "Fmoc": "[#7]C(=O)OCC1c2ccccc2-c2ccccc12",
    "Cbz": "[#7]C(=O)OCc1ccccc1",
    "trityl": "[#7,#8,#16]C(c1ccccc1)(c1ccccc1)c1ccccc1",
    "silyl ether": "[#8][Si]",
}
"""Protecting groups that are pointed out, since products keep them: name and SMARTS."""


class Reagent(NamedTuple):
    """What a component's pattern says of one reagent.

    Attributes:
        canonical: its SMILES, empty where it cannot be used.
        matches: how many places of it match the pattern.
        reason: why it cannot be used, else empty.
        protected: names of the protecting groups that it carries.
    """

    canonical: str
    matches: int
    reason: str
    protected: tuple[str, ...] = ()


@dataclass(frozen=True)
class Made:
    """Products of some combinations: their fingerprints, and the reason where there is none."""

    encoded: Encoded
    reasons: list[str]

    @property
    def canonical(self) -> list[str]:
        """Canonical SMILES of each, empty where there is no product."""
        return self.encoded.canonical or []


def components(smarts: str) -> list[str]:
    """The pattern of each reactant, as SMARTS.

    Raises:
        InputError: no reaction SMARTS, or no one with 1 to 4 reactants and a product.
    """
    with rdBase.BlockLogs():
        reaction = _reaction(smarts)
    count = reaction.GetNumReactantTemplates()
    if not 1 <= count <= 4 or not reaction.GetNumProductTemplates():
        raise InputError(
            f"a reaction needs 1 to 4 reactants and a product; {smarts!r} has {count} and "
            f"{reaction.GetNumProductTemplates()}."
        )
    return [Chem.MolToSmarts(pattern) for pattern in reaction.GetReactants()]


@lru_cache(maxsize=64)
def _reaction(smarts: str) -> Any:
    try:
        reaction: Any = rdChemReactions.ReactionFromSmarts(smarts)
        reaction.Initialize()
        _, errors, *_ = reaction.Validate(silent=True)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{smarts!r} is no reaction SMARTS: {str(error).strip()}.") from error
    if errors:
        raise InputError(f"{smarts!r} is no usable reaction SMARTS: RDKit finds {errors} errors in it.")
    return reaction


@lru_cache(maxsize=_KEPT)
def _molecule(smiles: str) -> Any:
    return Chem.MolFromSmiles(smiles)


@lru_cache(maxsize=256)
def _pattern(smarts: str) -> Any:
    found = Chem.MolFromSmarts(smarts)
    if found is None:
        raise InputError(f"{smarts!r} is no SMARTS.")
    return found


def check_pattern(smarts: str) -> None:
    """Refuse, by an InputError, what is no SMARTS."""
    with rdBase.BlockLogs():
        _pattern(smarts)


def match(smarts: str, component: int, smiles: Sequence[object]) -> list[Reagent]:
    """Each SMILES as a reagent of one component of the reaction, in order."""
    with rdBase.BlockLogs():
        pattern = _reaction(smarts).GetReactantTemplate(component)
        return [_match(pattern, text) for text in smiles]


def _match(pattern: Any, text: object) -> Reagent:
    molecule, reason = parse(text)
    if molecule is None:
        return Reagent("", 0, reason)
    if molecule.GetNumHeavyAtoms() > MOST_ATOMS:
        return Reagent("", 0, f"has more than {MOST_ATOMS} heavy atoms")
    matches = len(molecule.GetSubstructMatches(pattern, maxMatches=_MOST_MATCHES))
    if not matches:
        parts = ", and is a salt or mixture: give the part that reacts" if "." in str(text) else ""
        return Reagent("", 0, f"does not match {Chem.MolToSmarts(pattern)}{parts}")
    carried = tuple(name for name, group in PROTECTING.items() if molecule.HasSubstructMatch(_pattern(group)))
    return Reagent(Chem.MolToSmiles(molecule), matches, "", carried)


def outcomes(smarts: str, reagents: Sequence[str]) -> tuple[list[str], str]:
    """The different products of a combination, ascending canonical SMILES, or none and the reason.

    Of a reaction with several product templates the first is the product. Call it inside `rdBase.BlockLogs`.
    """
    molecules = [_molecule(text) for text in reagents]
    if sum(molecule.GetNumHeavyAtoms() for molecule in molecules) > MOST_ATOMS:
        return [], f"the reagents have more than {MOST_ATOMS} heavy atoms together"
    found, problem = set[str](), ""
    for products in _reaction(smarts).RunReactants(molecules, _MOST_MATCHES):
        try:
            Chem.SanitizeMol(products[0])
            found.add(Chem.MolToSmiles(products[0]))
        except (ValueError, RuntimeError) as error:
            problem = str(error).strip()
    if found:
        return sorted(found), ""
    return [], f"RDKit cannot sanitize the product: {problem}" if problem else "the reagents do not react"


def make(
    smarts: str,
    reagents: Sequence[tuple[str, ...]],
    which: Sequence[int],
    fingerprint: FingerprintSettings,
    keep: ProductFilter,
) -> Made:
    """The products of combinations of reagents, with fingerprints.

    Args:
        smarts: the reaction.
        reagents: canonical SMILES of each combination.
        which: of several products of a combination the number of the one that is meant.
        fingerprint: of what.
        keep: which products are let through.
    """
    texts, reasons = [], []
    with rdBase.BlockLogs():
        for own, number in zip(reagents, which, strict=True):
            found, reason = outcomes(smarts, own)
            if found and number >= len(found):
                reason = f"there are only {len(found)} different products"
            elif found:
                reason = refusal(found[number], keep)
            texts.append("" if reason else found[number])
            reasons.append(reason)
    encoded = encode(texts, fingerprint, canonical=True)
    for place, _, why in encoded.invalid:
        reasons[place] = reasons[place] or why
    return Made(encoded, reasons)


def first_refusal(smarts: str, reagents: Sequence[str], keep: ProductFilter) -> str:
    """Why a combination has no product at all, or an empty text."""
    with rdBase.BlockLogs():
        found, reason = outcomes(smarts, reagents)
        refused = [refusal(product, keep) for product in found]
    return reason or ("" if "" in refused else refused[0])


def refusal(smiles: str, keep: ProductFilter) -> str:
    """Why a product is left out, or an empty text."""
    if keep.passes_all:
        return ""
    molecule: Any = Chem.MolFromSmiles(smiles)
    if molecule is None:
        return "RDKit does not read its own SMILES of the product"
    for name, (low, high), of in (
        ("molecular weight", keep.molecular_weight, _weight),
        ("log P", keep.logp, _crippen.MolLogP),
    ):
        value = of(molecule) if (low, high) != (None, None) else 0.0
        if low is not None and value < low:
            return f"{name} is below {low:g}"
        if high is not None and value > high:
            return f"{name} is above {high:g}"
    for smarts in keep.exclude:
        if molecule.HasSubstructMatch(_pattern(smarts)):
            return f"holds {smarts}"
    if keep.keep is not None and not keep.keep(smiles):
        return "left out by the user's filter"
    return ""
