"""Texts that are nearly SMILES: what is read as a molecule, as which, and what is said of the others."""

from __future__ import annotations

import pytest

from sggp.errors import MoleculeError
from sggp.molecules import FingerprintTable, SmilesFingerprinter, Standardiser
from sggp.molecules.properties import property_of_each

pytest.importorskip("rdkit")


def reason(text: str) -> str:
    (found,) = SmilesFingerprinter().check([text]).reasons
    return found


@pytest.mark.parametrize("text", ["CC(=O)N c1ccccc1", "C C O", "CCO\nCCN", "CCO. CCN", "CCCC\u00a0CCCCO"])
def test_a_blank_within_smiles_does_not_end_the_molecule(text: str) -> None:
    """RDKit reads CC(=O)N and a name."""
    with pytest.raises(MoleculeError, match="row 0"):
        FingerprintTable.from_smiles([text])
    assert "blank between" in reason(text) or "U+00A0" in reason(text)


@pytest.mark.parametrize(
    "text", ["CCO ethanol", "CCO\tCHEMBL545", "CCO 17", " CCO ", "CCO |$;;R1$|", "CCO |r| CN"]
)
def test_names_and_extensions_behind_a_blank_are_none_of_the_molecule(text: str) -> None:
    assert property_of_each([text], "canonical SMILES") == ["CCO"]


@pytest.mark.parametrize(
    ("mapped", "plain"),
    [
        ("[CH3:1][OH:2]", "CO"),
        ("[CH3:7][C@H:2]([NH2:3])[C:4](=[O:5])[OH:6]", "C[C@H](N)C(=O)O"),
        ("[F:3]/[CH:1]=[CH:2]/[Cl:4]", "F/C=C/Cl"),
        ("[CH3:1][C@H:2]([CH3:3])[OH:4]", "CC(C)O"),
        ("[*:1][CH2:3][*:2]", "C([*:1])[*:2]"),
    ],
)
def test_numbers_of_atoms_make_no_other_molecule(mapped: str, plain: str) -> None:
    """Products of reactions have them; those of R groups say which is which."""
    table = FingerprintTable.from_smiles([mapped, plain])
    assert list(table.canonical) == [plain, plain]
    assert (table[0] == table[1]).all()
    assert list(table.smiles) == [mapped, plain]
    assert Standardiser("parent")(mapped).parent == plain


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("CC–O", "'–' (U+2013)"),
        ("ССО", "U+0421"),
        ("C\u200bC", "U+200B"),
        ("InChI=1S/CH4/h1H4", "but an InChI"),
        ("VNWKTOKETHGBQD-UHFFFAOYSA-N", "but an InChIKey"),
        ("CCO>>CC=O", "but a reaction"),
        ("'CCO'", "quotes are around it"),
        ("C1CC", "not SMILES syntax"),
    ],
)
def test_what_a_text_is_instead_is_said(text: str, said: str) -> None:
    found = reason(text)
    assert said in found
    assert found.startswith("not SMILES syntax")
