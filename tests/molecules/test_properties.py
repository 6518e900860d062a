"""Computed properties against RDKit's descriptors, drawings as self-contained SVG, and life without RDKit."""

import builtins
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from sggp.errors import InputError, MissingExtra, MoleculeError
from sggp.molecules import compute_property, draw_grid, logp, molecule_svg, qed
from tests.scripts import Scripts

SMILES = ["CC(=O)Oc1ccccc1C(=O)O", "CCO", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C"]


def test_values_are_those_of_rdkit():
    pytest.importorskip("rdkit")
    from rdkit import Chem
    from rdkit.Chem import Descriptors

    molecules = [Chem.MolFromSmiles(text) for text in SMILES]
    table = {
        "qed": Descriptors.qed,
        "logp": Descriptors.MolLogP,
        "molecular_weight": Descriptors.MolWt,
        "tpsa": Descriptors.TPSA,
    }
    for name, function in table.items():
        found = compute_property(SMILES, name)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, [function(m) for m in molecules], rtol=1e-12)
    assert qed(SMILES[0]) == pytest.approx(0.5501, abs=1e-4)  # aspirin, as published with QED
    assert logp("CCO") == pytest.approx(-0.0014, abs=1e-6)


def test_desirability_for_the_brain_is_that_of_the_published_ramps():
    """Ethanol by hand: log P and weight 1, TPSA 20.23 of a ramp from 20 to 40, one donor of a ramp from .5 to 3.5."""
    pytest.importorskip("rdkit", reason="the extra molecules is not installed")
    share = (1 + 1 + (20.23 - 20) / 20 + (3.5 - 1) / 3) / 4
    assert compute_property(["CCO"], "cns_mpo")[0] == pytest.approx(share, abs=1e-6)
    both = compute_property(SMILES, "cns") ** 2
    np.testing.assert_allclose(both, compute_property(SMILES, "cns_mpo") * compute_property(SMILES, "qed"))
    grease, sugar = compute_property(["C" * 30, "OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O"], "cns_mpo")
    assert grease == pytest.approx((0 + (500 - 422.826) / 140 + 0 + 1) / 4, abs=1e-4)  # C30H62
    assert sugar == pytest.approx((1 + 1 + (120 - 110.38) / 30 + 0) / 4, abs=1e-3)


def test_drawings_are_inline_svg():
    pytest.importorskip("rdkit")
    one = molecule_svg(SMILES[0], "aspirin <1>", size=(120, 90))
    root = ElementTree.fromstring(one)
    assert root.tag.endswith("svg")
    assert root.get("width") == "120px"
    assert "href" not in one
    grid = ElementTree.fromstring(draw_grid(SMILES, ["a", "b", "c"], columns=2, size=(100, 50)))
    assert (grid.get("width"), grid.get("height")) == ("200px", "100px")
    assert len(draw_grid(SMILES)) > len(one)


def test_bad_input():
    pytest.importorskip("rdkit")
    for call in (lambda s: compute_property(s, "qed"), draw_grid):
        with pytest.raises(MoleculeError, match="row 1") as caught:
            call(["CCO", "C1CC", ""])
        assert caught.value.report.rows == (1, 2)
    with pytest.raises(MoleculeError):
        qed("nonsense!")
    with pytest.raises(InputError, match="must be one of"):
        compute_property(SMILES, "beauty")
    with pytest.raises(InputError, match="2 legends for 3"):
        draw_grid(SMILES, ["a", "b"])
    with pytest.raises(InputError, match="columns"):
        draw_grid(SMILES, columns=0)
    with pytest.raises(InputError, match="empty"):
        draw_grid([])


def test_without_rdkit_the_error_names_the_extra(scripts: Scripts):
    code = """
import sys, warnings
warnings.simplefilter("ignore")
sys.modules["rdkit"] = None
import numpy as np
from sggp.errors import MissingExtra
from sggp.molecules import FingerprintTable, SmilesFingerprinter, qed
assert len(FingerprintTable.from_counts(np.ones((2, 3)))[:]) == 2
for call in (SmilesFingerprinter().transform, FingerprintTable.from_smiles, lambda texts: qed(texts[0])):
    try:
        call(["C"])
    except MissingExtra as error:
        assert 'pip install "sggp[molecules]"' in str(error)
    else:
        raise SystemExit("no error")
"""
    done = scripts.run("-c", code, anew=("sggp", "rdkit"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_libraries_of_x11_drawings_alone_are_refused(monkeypatch):
    """As in a container: RDKit is there, and its drawings cannot be loaded. To install RDKit again cures nothing."""
    pytest.importorskip("rdkit")
    real = builtins.__import__

    def without(name, *arguments, **named):
        if name == "rdkit.Chem.Draw":
            raise ImportError("libXrender.so.1: cannot open shared object file")
        return real(name, *arguments, **named)

    monkeypatch.delitem(sys.modules, "sggp.molecules._rdkit", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    assert qed("CCO") == pytest.approx(0.4068, abs=1e-3)
    with pytest.raises(MissingExtra, match=r"cannot be loaded \(libXrender.so.1"):
        molecule_svg("CCO")


def test_a_molecule_too_large_to_draw_is_named_instead():
    pytest.importorskip("rdkit")
    root = ElementTree.fromstring(molecule_svg("C" * 5000, "a<b"))
    (words,) = [node.text for node in root.iter() if node.tag.endswith("text")]
    assert words == "a<b (5000 atoms, not drawn)"
    grid = draw_grid(["CCO", "C" * 201, "C" * 200], ["x", "y", "z"], columns=2, size=(100, 50))
    places = [node.attrib for node in ElementTree.fromstring(grid).iter() if "not drawn" in (node.text or "")]
    assert [(place["x"], place["y"]) for place in places] == [("150", "25")]
    with pytest.raises(MoleculeError, match="more than 10,000 characters"):
        molecule_svg("C" * 10_001)
