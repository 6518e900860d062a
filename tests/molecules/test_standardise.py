"""Which molecules count as the same: salts, solvates, charges, stereo and tautomers, by policy."""

import pickle

import pytest

pytest.importorskip("rdkit", reason="the extra molecules is not installed")

from rdkit import Chem

from sggp.errors import InputError, MoleculeError
from sggp.molecules import ParentMatch, Standardiser
from sggp.molecules._chemistry import COMPANIONS
from sggp.molecules.standardise import POLICIES, is_plain, standardise


@pytest.mark.parametrize(
    ("smiles", "parent", "changes"),
    [
        ("CCN.Cl", "CCN", ("without hydrochloride",)),
        ("C[NH+](C)CCc1ccccc1.[Cl-]", "CN(C)CCc1ccccc1", ("without hydrochloride", "neutralised")),
        ("CC(=O)[O-].[Na+]", "CC(=O)O", ("without sodium", "neutralised")),
        ("O=C(O[Na])c1ccccc1", "O=C(O)c1ccccc1", ("without sodium", "neutralised")),
        ("CCN.CCN.OS(O)(=O)=O", "CCN", ("without sulfate",)),
        ("CCCCCCCCN.OC(=O)C(O)C(O)C(O)=O.O", "CCCCCCCCN", ("without hydrate, tartrate",)),
        ("CCCNCC.OC(=O)/C=C/C(O)=O", "CCCNCC", ("without fumarate or maleate",)),
        ("C[n+]1ccccc1.[I-]", "C[n+]1ccccc1", ("without hydroiodide",)),
        ("C[C@H]([NH3+])C(=O)[O-]", "C[C@H](N)C(=O)O", ("neutralised",)),
        ("C[N+](C)(C)CC(=O)[O-]", "C[N+](C)(C)CC(=O)[O-]", ()),
        ("CN(=O)=O", "C[N+](=O)[O-]", ()),
        ("CCO.O", "CCO", ("without hydrate",)),
        ("Cl", "Cl", ()),
        ("CC(N)C(=O)O", "CC(N)C(=O)O", ()),
        ("CS(=O)CCN.Cl", "CS(=O)CCN", ("without hydrochloride",)),
        ("C[S@](=O)CCN.Cl", "C[S@](=O)CCN", ("without hydrochloride",)),
    ],
)
def test_parents(smiles, parent, changes):
    found = standardise(smiles)
    assert (found.parent, found.changes, found.parts) == (parent, changes, 1)
    again = standardise(found.parent)
    assert (again.parent, again.changes) == (parent, ())


def test_the_three_policies():
    smiles = "Oc1ccccn1.C/C=C/[C@H](N)O.Cl"
    assert standardise(smiles, "none").parent == Chem.CanonSmiles(smiles)
    assert standardise(smiles, "none").changes == ()
    assert standardise("Oc1ccccn1.Cl", "parent").parent == "Oc1ccccn1"
    flat = standardise("Oc1ccccn1.Cl", "flat")
    assert flat.parent == "O=c1cccc[nH]1"
    assert flat.changes == ("without hydrochloride", "canonical tautomer")
    assert standardise("F/C=C/F", "parent").parent == "F/C=C/F"
    assert standardise("F/C=C/F", "flat").parent == standardise("F/C=C\\F", "flat").parent == "FC=CF"
    assert standardise("C[C@H](F)Cl", "flat").changes == ("without stereo",)


def test_a_mixture_stays_one():
    found = standardise("CCCc1cccnc1.CCCc1ccco1.Cl")
    assert found.parent == "CCCc1cccnc1.CCCc1ccco1"
    assert found.parts == 2
    assert found.changes == ("without hydrochloride", "mixture of 2 molecules kept")


def test_every_companion_is_known_by_its_name():
    for name, smiles in COMPANIONS.items():
        found = standardise(f"c1ccc2ncccc2c1CCCC.{smiles}")
        assert found.parent == "CCCCc1cccc2ncccc12", name
        assert found.changes[0].startswith("without "), name
    assert len({Chem.CanonSmiles(smiles) for smiles in COMPANIONS.values()}) == len(COMPANIONS)


def test_plain_molecules_are_their_own_parents():
    for smiles in (
        "CCO",
        "c1cc[nH]c1",
        "C[C@H](N)C(=O)O",
        "O=[N+]([O-])c1ccccc1",
        "CC(F)=C",
        "C[Si](C)(C)C",
        "F/C=C/F",
    ):
        smiles = Chem.CanonSmiles(smiles)
        assert is_plain(smiles)
        assert standardise(smiles).parent == smiles
        from sggp.molecules._chemistry import parent

        assert parent(smiles, flat=False) == (
            smiles,
            [],
            1,
        )  # what is skipped at sight would have changed nothing
    for smiles in ("CCN.Cl", "C[NH3+]", "CC(=O)[O][Na]", "[2H]C", "C[N+](C)(C)C"):
        assert not is_plain(smiles)


def test_forms_of_one_molecule_are_matched_and_described():
    canonical = [
        Chem.CanonSmiles(s) for s in ("CCN", "CCO", "CCN.Cl", "CC[NH3+].[Cl-]", "CCN", "[Na]OC(C)=O")
    ]
    matches = Standardiser("parent").matches(canonical)
    assert matches == [
        ParentMatch(2, 0, "CCN", "with hydrochloride", ""),
        ParentMatch(3, 0, "CCN", "with hydrochloride, charged", ""),
    ]
    assert (
        matches[0].describe("line 12", "line 3")
        == "line 12 (with hydrochloride) is the same molecule as line 3"
    )
    assert Standardiser("none").matches(canonical) == []
    flat = Standardiser("flat").matches(["F/C=C/F", "F/C=C\\F"])[0]
    assert flat.describe("a", "b") == "a (with stereo) is the same molecule as b (with stereo)"


def test_a_sulfoxide_and_its_salt_are_one():
    """The base was taken as it stands, the salt as C[S+]([O-])CCN."""
    forms = ["CS(=O)CCN", "CS(=O)CCN.Cl", "C[S+]([O-])CCN", "C[S+]([O-])CC[NH3+].[Cl-]"]
    assert set(Standardiser("parent").parents(forms)) == {"CS(=O)CCN"}


@pytest.mark.parametrize(
    "smiles",
    [
        "[NH3]->[Pt](<-[NH3])(Cl)Cl",
        "Cl[Pt](Cl)(Cl)Cl",
        "CC(=O)O[Cu]OC(C)=O",
        "[C]12=[C]3[CH]4[C]5=[C]1[Fe]23541678[C]2=[C]1[CH]6[C]7=[C]28",
    ],
)
def test_a_complex_is_not_its_metal_alone(smiles):
    """Cisplatin was the same molecule as platinum chloride; the last had a parent that cannot be read."""
    found = standardise(smiles)
    assert found.parent == Chem.CanonSmiles(smiles)
    assert Standardiser("parent").parents([found.parent]) == [found.parent]


def test_refused():
    assert POLICIES == ("none", "parent", "flat")
    with pytest.raises(InputError, match="policy"):
        Standardiser("all")
    for policy in POLICIES:
        with pytest.raises(MoleculeError):
            standardise("C1CC", policy)
        with pytest.raises(InputError, match="one SMILES"):
            Standardiser(policy)(None)
    assert pickle.loads(pickle.dumps(Standardiser("flat"))).policy == "flat"
