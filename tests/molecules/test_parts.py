"""Fingerprints side by side: every column against RDKit's own, whichever door they come through."""

import json

import numpy as np
import pytest

pytest.importorskip("rdkit")

from rdkit import Chem, rdBase
from rdkit.Chem import Crippen, Descriptors, rdMolDescriptors
from rdkit.Chem import rdFingerprintGenerator as generators
from sklearn.base import clone

from sggp.datasets import nci_first_5k
from sggp.errors import DtypeError, InputError, MoleculeWarning
from sggp.molecules import FingerprintTable, SmilesFingerprinter, featurise
from sggp.molecules._rdkit import VERSION
from sggp.molecules.build import Request
from sggp.molecules.encoding.descriptors import DESCRIPTORS, quantise
from sggp.molecules.encoding.parts import COMBINED

ALL = ("descriptors", "morgan3", "torsions", "paths", "morgan2", "atom_pairs")
ODD = ["[H][H]", "[Na+].[Cl-]", "[Fe]", "O", "[NH4+]", "C" * 300, "*", "C[n+]1ccccc1", "[2H]O[2H]", "B(O)O"]
PLAIN = {
    "molecular_weight": Descriptors.MolWt,
    "tpsa": rdMolDescriptors.CalcTPSA,
    "logp": Crippen.MolLogP,
    "donors": rdMolDescriptors.CalcNumHBD,
    "acceptors": rdMolDescriptors.CalcNumHBA,
    "rotatable_bonds": rdMolDescriptors.CalcNumRotatableBonds,
    "rings": rdMolDescriptors.CalcNumRings,
    "aromatic_rings": rdMolDescriptors.CalcNumAromaticRings,
    "sp3_share": rdMolDescriptors.CalcFractionCSP3,
    "heavy_atoms": lambda molecule: molecule.GetNumHeavyAtoms(),
    "labute_area": rdMolDescriptors.CalcLabuteASA,
    "kappa2": rdMolDescriptors.CalcKappa2,
}


@pytest.fixture(scope="module")
def nci():
    return list(nci_first_5k().smiles[:200])


def expected_part(name, molecules, size):
    if name == "descriptors":
        return quantise(np.asarray([[PLAIN[d.name](m) for d in DESCRIPTORS] for m in molecules]))
    made = {
        "morgan2": lambda: generators.GetMorganGenerator(radius=2, fpSize=size),
        "morgan3": lambda: generators.GetMorganGenerator(radius=3, fpSize=size),
        "atom_pairs": lambda: generators.GetAtomPairGenerator(fpSize=size),
        "torsions": lambda: generators.GetTopologicalTorsionGenerator(fpSize=size),
        "paths": lambda: generators.GetRDKitFPGenerator(
            maxPath=5, fpSize=size, countSimulation=False, numBitsPerFeature=1
        ),
    }[name]()
    return np.asarray([made.GetCountFingerprintAsNumPy(molecule) for molecule in molecules]).clip(max=255)


@pytest.mark.parametrize(("parts", "size"), [(ALL, 512), (COMBINED, 2048), (("torsions",), 64)])
def test_every_part_is_rdkits(nci, parts, size):
    transformer = SmilesFingerprinter(fp_size=size, parts=parts)
    found = transformer.transform(nci)
    with rdBase.BlockLogs():
        molecules = [Chem.MolFromSmiles(text) for text in nci]
    ranges = transformer.settings.ranges
    assert list(ranges) == list(parts)
    assert found.shape[1] == transformer.settings.width == len(transformer.get_feature_names_out())
    for name, (start, stop) in ranges.items():
        np.testing.assert_array_equal(found[:, start:stop], expected_part(name, molecules, size), name)
        assert found[:, start:stop].any()


def test_processes_and_invalid_rows_keep_every_part_in_place(nci, monkeypatch):
    monkeypatch.setattr(featurise, "_CHUNK", 100)
    monkeypatch.setattr(featurise, "_SERIAL_CHUNK", 70)
    texts = [*nci, "C1CC", "", *nci[:30]]
    transformer = SmilesFingerprinter(fp_size=64, parts=ALL, on_invalid="mask", n_jobs=1)
    with pytest.warns(MoleculeWarning):
        alone = transformer.transform(texts)
    with pytest.warns(MoleculeWarning):
        both = clone(transformer).set_params(n_jobs=2).transform(texts)
    np.testing.assert_array_equal(both.data, alone.data)
    assert alone.data[200:202].sum() == 0
    np.testing.assert_array_equal(alone.data[:200], SmilesFingerprinter(fp_size=64, parts=ALL).transform(nci))


def test_bits_leave_descriptors_alone():
    bits = SmilesFingerprinter(fp_size=128, counts=False, parts=("torsions", "descriptors")).transform(
        ["CCCCCCO"]
    )
    counts = SmilesFingerprinter(fp_size=128, parts=("torsions", "descriptors")).transform(["CCCCCCO"])
    assert counts[0, :128].max() > 1 == bits[0, :128].max()
    np.testing.assert_array_equal(bits[0, 128:], counts[0, 128:])


def test_odd_molecules_have_descriptors_cut_to_their_scales():
    found = SmilesFingerprinter(parts=("descriptors",)).transform(ODD)
    names = [d.name for d in DESCRIPTORS]
    assert found.shape == (len(ODD), 12)
    huge = found[ODD.index("C" * 300)]
    for name in ("molecular_weight", "heavy_atoms", "rotatable_bonds", "logp", "kappa2"):
        assert huge[names.index(name)] == 255, name
    hydrogen = dict(zip(names, found[0], strict=True))
    assert hydrogen["heavy_atoms"] == 0
    assert hydrogen["rings"] == 0


def test_atom_pairs_of_huge_molecules_are_left_out():
    transformer = SmilesFingerprinter(fp_size=256, parts=("atom_pairs", "torsions"))
    with pytest.warns(MoleculeWarning, match="above 255"):
        found = transformer.transform(["C" * 500, "C" * 501])
    assert found[0, :256].any()
    assert not found[1, :256].any()
    assert found[:, 256:].any(1).all()


def test_numbers_that_are_none_and_numbers_beyond_the_scale():
    values = np.full((3, 12), np.nan)
    values[1], values[2] = np.inf, -np.inf
    np.testing.assert_array_equal(quantise(values), np.repeat([[0], [255], [0]], 12, axis=1))


def test_a_step_is_small_beside_the_spread_of_real_molecules(nci):
    """Rounding to whole steps adds at most half a step to a value; the spread is many steps."""
    stored = SmilesFingerprinter(parts=("descriptors",)).transform(nci).astype(float)
    with rdBase.BlockLogs():
        plain = np.asarray([[PLAIN[d.name](Chem.MolFromSmiles(t)) for d in DESCRIPTORS] for t in nci])
    for column, (_, low, step) in enumerate(DESCRIPTORS):
        inside = (stored[:, column] > 0) & (stored[:, column] < 255)
        back = low + step * stored[inside, column]
        assert np.abs(back - plain[inside, column]).max() <= step / 2 + 1e-9
        assert plain[:, column].std() > 5 * step


def test_a_table_has_the_parts_and_gives_them_back(tmp_path, nci):
    table = FingerprintTable.from_smiles(nci[:40], ids=[str(i) for i in range(40)])
    assert list(table.parts) == list(COMBINED)
    assert table.shape == (40, 4 * 2048 + 12)
    table.save(tmp_path / "t.sggp")
    again = FingerprintTable.open(tmp_path / "t.sggp")
    assert again.parts == table.parts
    np.testing.assert_array_equal(again[:].numpy(), table[:].numpy())
    outside = ["CCOc1ccncc1", "O=C=O"]
    np.testing.assert_array_equal(
        again.fingerprinter().transform(outside), FingerprintTable.from_smiles(outside)[:].numpy()
    )
    for name, (start, stop) in table.parts.items():
        part = table.part(name)
        np.testing.assert_array_equal(part[:].numpy(), table[:].numpy()[:, start:stop])
        np.testing.assert_array_equal(part.fingerprinter().transform(nci[:40]), part[:].numpy())
        assert list(part.ids) == list(table.ids)
        assert part.parts == {name: (0, stop - start)}
    np.testing.assert_array_equal(table.part("morgan2")[:].numpy(), SmilesFingerprinter().transform(nci[:40]))
    with pytest.raises(InputError, match="no part 'morgan3'"):
        table.part("morgan3")


def test_tables_of_one_fingerprint_are_what_they_were(tmp_path):
    """Their settings are those of earlier versions; a cache keeps them under settings without parts."""
    table = FingerprintTable.from_smiles(["CCO", "CCN"], SmilesFingerprinter())
    assert table.settings == {"radius": 2, "fp_size": 2048, "counts": True}
    assert table.parts is None
    key = Request(SmilesFingerprinter(radius=1), "drop", "keep", False).key()
    assert json.loads(key)[1:] == [VERSION, 1, 2048, True, "drop", "keep"]
    assert Request(SmilesFingerprinter(parts=COMBINED), "drop", "keep", False).key() != key


@pytest.mark.parametrize(
    ("parts", "error", "match"),
    [
        ("morgan2", DtypeError, "sequence of names"),
        (3, DtypeError, "sequence of names"),
        (["ecfp"], InputError, "unknown part 'ecfp'"),
        (["morgan12"], InputError, "unknown part"),
        ([2], InputError, "unknown part 2"),
        ([], InputError, "at least one"),
        (["torsions", "torsions"], InputError, "none twice"),
    ],
)
def test_parts_that_do_not_exist_are_refused(parts, error, match):
    with pytest.raises(error, match=match):
        SmilesFingerprinter(parts=parts).fit(["CCO"])
