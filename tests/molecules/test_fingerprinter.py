"""SmilesFingerprinter against RDKit's own fingerprints, molecule by molecule, and as a scikit-learn transformer."""

import copy
import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

pytest.importorskip("rdkit")

from rdkit import Chem, rdBase
from rdkit.Chem import rdFingerprintGenerator

from sggp.datasets import nci_first_5k
from sggp.errors import InputError, MoleculeError, MoleculeWarning, ShapeError
from sggp.molecules import SmilesFingerprinter

GOOD = ["CCO", "c1ccccc1O", "CC(=O)Oc1ccccc1C(=O)O", "O"]
MIXED = ["CCO", "C1CC", "OCC", "C(C)(C)(C)(C)C", "", None, "CN"]


@pytest.fixture(scope="module")
def nci():
    return list(nci_first_5k().smiles[:500])


@pytest.mark.parametrize(("radius", "size"), [(2, 2048), (1, 1024), (3, 100)])
def test_counts_equal_the_sparse_fingerprint_folded_by_hand(nci, radius, size):
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius)
    expected = np.zeros((len(nci), size), dtype=np.int64)
    for row, text in enumerate(nci):
        for key, count in (
            generator.GetSparseCountFingerprint(Chem.MolFromSmiles(text)).GetNonzeroElements().items()
        ):
            expected[row, key % size] += count
    found = SmilesFingerprinter(radius=radius, fp_size=size).fit_transform(nci)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)
    assert found.max() > 1


def test_bits_equal_rdkits_bit_fingerprint(nci):
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=512)
    expected = [list(generator.GetFingerprint(Chem.MolFromSmiles(text))) for text in nci[:100]]
    found = SmilesFingerprinter(fp_size=512, counts=False).fit_transform(nci[:100])
    np.testing.assert_array_equal(found, expected)


def test_row_numbers_are_right_beyond_the_first_chunk():
    texts = ["CCO"] * 2500
    texts[2001], texts[2400] = "C1CC", "C" * 400
    report = SmilesFingerprinter(fp_size=64).check(texts)
    assert report.rows == (2001,)
    assert report.saturated == (2400,)
    assert report.duplicate_rows == tuple(row for row in range(1, 2500) if row not in (2001, 2400))


def test_every_bad_row_and_repeat_is_reported_at_once():
    with pytest.raises(MoleculeError) as caught:
        SmilesFingerprinter().transform(MIXED)
    report = caught.value.report
    assert report.rows == (1, 3, 4, 5)
    assert report.smiles == ("C1CC", "C(C)(C)(C)(C)C", "", "None")
    assert report.reasons[0] == "not SMILES syntax"
    assert "valence" in report.reasons[1]
    assert report.reasons[2:] == ("empty", "not text but NoneType")
    assert [group.rows for group in report.duplicates] == [(0, 2)]
    for part in ("row 1", "C1CC", "row 5", "rows 0, 2", "4 of 7"):
        assert part in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).report == report


def test_long_reports_are_cut_in_the_message_only():
    with pytest.raises(MoleculeError, match="and 15 more") as caught:
        SmilesFingerprinter().transform(["C1CC"] * 25)
    assert caught.value.report.rows == tuple(range(25))


def test_drop_and_mask_say_what_they_leave_out():
    with pytest.warns(MoleculeWarning, match="row 3"):
        dropped = SmilesFingerprinter(on_invalid="drop").transform(MIXED)
    expected = SmilesFingerprinter().transform(["CCO", "OCC", "CN"])
    np.testing.assert_array_equal(dropped, expected)
    with pytest.warns(MoleculeWarning, match="row 3"):
        masked = SmilesFingerprinter(on_invalid="mask").transform(MIXED)
    assert masked.shape == (7, 2048)
    assert list(masked.mask.all(axis=1)) == [False, True, False, True, True, True, False]
    np.testing.assert_array_equal(masked.data[[0, 2, 6]], expected)
    assert masked.data[[1, 3, 4, 5]].sum() == 0


def test_duplicates_are_an_error_only_if_asked():
    assert len(SmilesFingerprinter().transform(["CCO", "OCC"])) == 2
    with pytest.raises(MoleculeError, match="rows 0, 2: the same molecule 'CCO'"):
        SmilesFingerprinter(on_duplicate="raise").transform(["CCO", "CC", "OCC"])


def test_check_reports_without_raising():
    report = SmilesFingerprinter().check(MIXED)
    assert report.rows == (1, 3, 4, 5)
    assert report.duplicate_rows == (2,)
    assert not SmilesFingerprinter().check(GOOD)


def test_counts_above_255_are_saturated_and_said():
    chain = "C" * 400
    with pytest.warns(MoleculeWarning, match="above 255.*: 1"):
        found = SmilesFingerprinter().transform(["CCO", chain])
    assert found[1].max() == 255
    bits = SmilesFingerprinter(counts=False).transform([chain])
    assert bits.max() == 1


def test_rdkit_logs_are_silenced_during_the_call_only(capfd):
    SmilesFingerprinter().check(["C1CC"])
    assert "SMILES Parse Error" not in capfd.readouterr().err
    rdBase.LogToCppStreams()
    assert Chem.MolFromSmiles("C1CC") is None
    assert "SMILES Parse Error" in capfd.readouterr().err


def test_input_containers():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    expected = SmilesFingerprinter(fp_size=64).transform(GOOD)
    frame = pandas.DataFrame({"smiles": GOOD, "y": range(4)})
    containers = [
        tuple(GOOD),
        np.array(GOOD),
        np.array(GOOD, dtype=object)[:, None],
        frame["smiles"],
        frame[["smiles"]],
    ]
    for container in containers:
        np.testing.assert_array_equal(SmilesFingerprinter(fp_size=64).transform(container), expected)
    with pytest.raises(ShapeError, match=r"\(4, 2\)"):
        SmilesFingerprinter().transform(frame)
    with pytest.raises(InputError, match="put it in a list"):
        SmilesFingerprinter().transform("CCO")
    with pytest.raises(InputError, match="empty"):
        SmilesFingerprinter().transform([])
    with pytest.raises(InputError, match="int"):
        SmilesFingerprinter().transform(3)


@pytest.mark.parametrize(
    "settings",
    [{"radius": -1}, {"radius": 1.5}, {"fp_size": 0}, {"fp_size": True}, {"counts": "no"}, {"on_invalid": "ignore"},
     {"on_duplicate": "drop"}],
)  # fmt: skip
def test_bad_settings_are_refused_by_fit_and_transform(settings):
    name = next(iter(settings))
    for method in ("fit", "transform"):
        with pytest.raises(InputError, match=name):
            getattr(SmilesFingerprinter(**settings), method)(GOOD)


def test_bad_n_jobs_is_refused():
    with pytest.raises(InputError, match="n_jobs"):
        SmilesFingerprinter(n_jobs=0).transform(GOOD)


def test_is_a_scikit_learn_transformer():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    transformer = SmilesFingerprinter(radius=1, fp_size=128, n_jobs=1)
    before = pickle.loads(pickle.dumps(transformer)).transform(GOOD)
    for other in (
        clone(transformer),
        copy.deepcopy(transformer),
        pickle.loads(pickle.dumps(transformer.fit(GOOD))),
    ):
        np.testing.assert_array_equal(other.transform(GOOD), before)
        assert other.get_params() == transformer.get_params()
    names = transformer.get_feature_names_out()
    assert list(names[[0, 127]]) == ["morgan1_0", "morgan1_127"]
    frame = transformer.set_output(transform="pandas").transform(pandas.Series(GOOD, index=[5, 6, 7, 8]))
    assert list(frame.columns) == list(names)
    assert list(frame.index) == [5, 6, 7, 8]
    model = make_pipeline(SmilesFingerprinter(fp_size=128), Ridge()).fit(GOOD, [1.0, 2.0, 3.0, 4.0])
    assert model.predict(["CCO"]).shape == (1,)


@pytest.mark.parametrize(
    "check",
    ["check_estimator_cloneable", "check_estimator_tags_renamed", "check_valid_tag_types", "check_estimator_repr",
     "check_no_attributes_set_in_init", "check_get_params_invariance", "check_set_params", "check_mixin_order",
     "check_parameters_default_constructible"],
)  # fmt: skip
def test_scikit_learns_own_checks_that_need_no_numeric_matrix(check):
    """`check_estimator` as a whole skips estimators of one-dimensional text; these are the checks that apply."""
    from sklearn.utils import estimator_checks

    assert getattr(estimator_checks, check)("SmilesFingerprinter", SmilesFingerprinter()) is None


def test_scikit_learn_is_told_that_the_input_is_text():
    from sklearn.exceptions import SkipTestWarning
    from sklearn.utils.estimator_checks import check_estimator

    with pytest.warns(SkipTestWarning, match="string=True"):
        results = check_estimator(SmilesFingerprinter(), on_skip=None, on_fail=None)
    assert [r for r in results if r["status"] == "failed"] == []
