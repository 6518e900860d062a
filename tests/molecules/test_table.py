"""FingerprintTable: the same numbers whichever way they are kept, and nothing written half."""

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from sggp.errors import (
    DataFileError,
    DtypeError,
    InputError,
    MemoryBudgetError,
    MoleculeError,
    MoleculeWarning,
    ShapeError,
)
from sggp.molecules import FingerprintTable, SmilesFingerprinter, packed
from sggp.molecules.packed import PackedStrings

SMILES = ["CCO", "c1ccccc1O", "CC(=O)Oc1ccccc1C(=O)O", "OCC", "CCN(CC)CC", "O"]


def counts_matrix():
    generator = np.random.default_rng(0)
    counts = generator.poisson(0.2, size=(37, 50)).astype(np.uint8)
    counts[5] = 0
    counts[7, 49] = 255
    return counts


@pytest.fixture
def table():
    pytest.importorskip("rdkit")
    return FingerprintTable.from_smiles(
        SMILES, SmilesFingerprinter(fp_size=256), ids=[f"m{i}" for i in range(6)]
    )


def test_rows_equal_the_transformer(table):
    expected = SmilesFingerprinter(fp_size=256).transform(SMILES)
    assert table[:].dtype == torch.uint8
    np.testing.assert_array_equal(table[:].numpy(), expected)
    assert list(table.smiles) == SMILES
    assert list(table.ids) == [f"m{i}" for i in range(6)]
    assert table.canonical[3] == "CCO"
    assert [group.rows for group in table.report.duplicates] == [(0, 3)]
    np.testing.assert_array_equal(table.fingerprinter().transform(SMILES), expected)


@pytest.mark.parametrize(
    "rows",
    [slice(None), slice(3, 30, 4), slice(30, 3, -5), [4, 4, 0], [-1, -37], np.array([9, 2]), np.arange(37) % 3 == 0,
     torch.tensor([36, 5, 5]), torch.arange(37) > 30, range(4), np.zeros(0, dtype=np.int64)],
)  # fmt: skip
def test_indexing_equals_numpys(rows):
    counts = counts_matrix()
    table = FingerprintTable.from_counts(counts)
    expected = counts[rows if isinstance(rows, slice) else np.asarray(rows)]
    np.testing.assert_array_equal(table[rows].numpy(), expected)
    np.testing.assert_array_equal(table.take(rows)[:].numpy(), expected)


def test_one_row_and_iteration():
    counts = counts_matrix()
    table = FingerprintTable.from_counts(counts)
    assert table[7].shape == (50,)
    assert table[-1].tolist() == counts[36].tolist()
    assert table[5].sum() == 0
    assert len(list(table)) == 37


def test_chunks_cover_every_row_once():
    counts = counts_matrix()
    table = FingerprintTable.from_counts(counts)
    parts = list(table.chunks(10))
    assert [part for part, _ in parts] == [slice(0, 10), slice(10, 20), slice(20, 30), slice(30, 37)]
    np.testing.assert_array_equal(torch.cat([block for _, block in parts]).numpy(), counts)
    with pytest.raises(InputError, match="size"):
        next(table.chunks(0))


@pytest.mark.parametrize("mmap", [True, False])
def test_a_saved_table_reads_back_the_same(table, tmp_path, mmap):
    path = tmp_path / "library.sggp"
    table.save(path)
    found = FingerprintTable.open(path, mmap=mmap)
    assert torch.equal(found[:], table[:])
    assert torch.equal(found[[5, 0]], table[[5, 0]])
    assert list(found.smiles) == list(table.smiles)
    assert list(found.ids) == list(table.ids)
    assert list(found.canonical) == list(table.canonical)
    assert found.report == table.report
    assert found.settings == table.settings
    assert isinstance(found._fingerprints.columns, np.memmap) is mmap
    assert found.nbytes == table.nbytes
    assert torch.equal(pickle.loads(pickle.dumps(found))[:], table[:])


def test_wide_tables_and_no_texts(tmp_path):
    counts = np.zeros((2, 70000), dtype=np.uint8)
    counts[1, 69999] = 3
    table = FingerprintTable.from_counts(counts)
    table.save(tmp_path / "wide.sggp")
    found = FingerprintTable.open(tmp_path / "wide.sggp")
    np.testing.assert_array_equal(found[:].numpy(), counts)
    assert found.smiles is None
    assert found.ids is None
    zeros = FingerprintTable.from_counts(np.zeros((3, 4)))
    zeros.save(tmp_path / "zeros.sggp")
    assert FingerprintTable.open(tmp_path / "zeros.sggp")[:].sum() == 0


def test_an_interrupted_save_leaves_the_old_file(table, tmp_path, monkeypatch):
    path = tmp_path / "library.sggp"
    table.save(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sggp.files.os.fsync", full)
    with pytest.raises(DataFileError, match="No space left"):
        FingerprintTable.from_counts(counts_matrix()).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["library.sggp"]
    with pytest.raises(DataFileError, match="No space left"):
        table.save(tmp_path / "new.sggp")
    assert not (tmp_path / "new.sggp").exists()


def test_damaged_files_are_refused(table, tmp_path):
    path = tmp_path / "library.sggp"
    with pytest.raises(DataFileError, match="No such file"):
        FingerprintTable.open(path)
    table.save(path)
    whole = path.read_bytes()
    for content, message in (
        (whole[:-1], "cut short"),
        (whole[:30], "damaged header"),
        (b"", "not a fingerprint table"),
        (b"smiles\nCCO\n", "not a fingerprint table"),
        (whole.replace(b'"meta"', b'"mata"', 1), "damaged header"),
        (whole.replace(b'"dtype"', b'"dtypo"', 1), "damaged header"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataFileError, match=message):
            FingerprintTable.open(path)
    with pytest.raises(DataFileError, match="cannot write"):
        table.save(tmp_path / "nowhere" / "library.sggp")


def test_a_result_beyond_the_budget_is_refused_before_it_is_made():
    table = FingerprintTable.from_counts(counts_matrix())
    with pytest.raises(MemoryBudgetError, match="chunks"):
        table.dense(slice(None), memory_budget=37 * 50 - 1)
    assert table.dense(slice(None), memory_budget=37 * 50).shape == (37, 50)


@pytest.mark.parametrize(
    ("counts", "error", "message"),
    [
        (np.array([[1, -1]]), InputError, "-1"),
        (np.array([[1.0, np.nan]]), InputError, "NaN"),
        (np.array([[0.5, 1.0]]), InputError, "whole"),
        (np.array([[256, 0]]), InputError, "256"),
        (np.zeros((0, 4)), InputError, "at least one"),
        (np.zeros(4), ShapeError, "(4,)"),
        (np.array([["a"]]), DtypeError, "numeric"),
    ],
)
def test_bad_counts_are_refused(counts, error, message):
    with pytest.raises(error) as caught:
        FingerprintTable.from_counts(counts)
    assert message in str(caught.value)


def test_bad_rows_are_refused():
    table = FingerprintTable.from_counts(counts_matrix())
    for rows in (37, -38, [0, 37], [-38]):
        with pytest.raises(IndexError, match="out of range"):
            table[rows]
    with pytest.raises(DtypeError, match="integers"):
        table[[0.5]]
    with pytest.raises(ShapeError, match="mask"):
        table[np.ones(3, dtype=bool)]
    with pytest.raises(ShapeError, match="one-dimensional"):
        table[np.zeros((2, 2), dtype=int)]
    with pytest.raises(ShapeError, match="smiles"):
        FingerprintTable.from_counts(counts_matrix(), smiles=["C"])
    with pytest.raises(InputError, match="given counts"):
        table.fingerprinter()
    with pytest.raises(InputError, match="given counts"):
        table.locate(["C"])


def test_packed_texts_behave_like_a_list():
    texts = [f"{i}é" * (i % 3) for i in range(9000)]
    packed = PackedStrings.pack(texts)
    assert list(packed) == texts
    assert packed == texts
    assert packed != texts[:-1]
    assert (packed[-1], packed[5], packed[8990:]) == (texts[-1], texts[5], texts[8990:])
    assert list(packed.take(np.array([7, 1, 1]))) == [texts[7], texts[1], texts[1]]
    assert texts[4] in packed
    for index in (9000, -9001):
        with pytest.raises(IndexError, match="out of range"):
            packed[index]


def test_policies_on_invalid_and_repeated_molecules():
    pytest.importorskip("rdkit")
    mixed = ["CCO", "C1CC", "OCC", "CN"]
    with pytest.raises(MoleculeError) as caught:
        FingerprintTable.from_smiles(mixed)
    assert caught.value.report.rows == (1,)
    with pytest.warns(MoleculeWarning, match="row 1"):
        table = FingerprintTable.from_smiles(mixed, on_invalid="drop", ids=["a", "b", "c", "d"])
    assert table.source_rows.tolist() == [0, 2, 3]
    assert list(table.ids) == ["a", "c", "d"]
    with pytest.warns(MoleculeWarning):
        table = FingerprintTable.from_smiles(mixed, on_invalid="drop", on_duplicate="drop")
    assert table.source_rows.tolist() == [0, 3]
    assert table.report.duplicate_rows == (2,)
    part = table.take([1])
    assert (part.source_rows.tolist(), list(part.smiles), part.settings) == ([3], ["CN"], table.settings)
    np.testing.assert_array_equal(table[:].numpy(), table.fingerprinter().transform(["CCO", "CN"]))
    with pytest.raises(MoleculeError, match="same molecule"):
        FingerprintTable.from_smiles(["CCO", "OCC"], on_duplicate="raise")
    with pytest.raises(MoleculeError, match="no usable"):
        FingerprintTable.from_smiles(["C1CC"], on_invalid="drop")
    for bad in ({"on_invalid": "mask"}, {"on_duplicate": "ignore"}, {"fingerprinter": "morgan"}):
        with pytest.raises(InputError, match=next(iter(bad))):
            FingerprintTable.from_smiles(mixed, **bad)
    with pytest.raises(ShapeError, match="ids"):
        FingerprintTable.from_smiles(mixed, ids=["a"])


def test_locate_finds_molecules_in_any_spelling(table):
    assert table.locate(["C(C)O", "CCCC", "O"]).tolist() == [0, -1, 5]
    with pytest.raises(MoleculeError, match="row 1"):
        table.locate(["C", "C1CC"])


def test_a_file_keeps_row_and_line_numbers(tmp_path):
    pytest.importorskip("rdkit")
    path = tmp_path / "library.csv.gz"
    with gzip.open(path, "wt") as stream:
        stream.write('name,smiles\nethanol,CCO\n"two\nlines",C1CC\n\nshort\nalcohol,OCC\nwater,O\n')
    with pytest.raises(MoleculeError) as caught:
        FingerprintTable.from_csv(path)
    assert [(entry.row, entry.line) for entry in caught.value.report.invalid] == [(1, 3), (2, 6)]
    with pytest.warns(MoleculeWarning, match=r"row 1 \(line 3\)"):
        table = FingerprintTable.from_csv(path, on_invalid="drop")
    assert table.source_rows.tolist() == [0, 3, 4]
    assert list(table.ids) == ["ethanol", "alcohol", "water"]
    assert table.report.total == 5
    assert table.report.duplicates[0].rows == (0, 3)
    assert table.report.duplicates[0].lines == (2, 7)
    assert table.report.source == "library.csv.gz"
    with pytest.raises(DataFileError, match="no column 'structure'"):
        FingerprintTable.from_csv(path, "structure")
    with pytest.raises(DataFileError, match="no such file"):
        FingerprintTable.from_csv(tmp_path / "absent.csv")


def test_the_cache_is_keyed_by_content_and_settings(tmp_path, monkeypatch):
    pytest.importorskip("rdkit")
    path, cache = tmp_path / "library.csv", tmp_path / "cache"
    path.write_text("smiles,id\nCCO,1\nCN,2\n")
    first = FingerprintTable.from_csv(path, cache=cache)
    listed = FingerprintTable.from_smiles(["CCO", "CN"], cache=cache)
    calls = []
    monkeypatch.setattr("sggp.molecules.table.build", lambda *a, **k: calls.append(a))
    again = FingerprintTable.from_csv(path, cache=cache)
    assert calls == []
    assert torch.equal(again[:], first[:])
    assert list(again.ids) == ["1", "2"]
    assert torch.equal(FingerprintTable.from_smiles(["CCO", "CN"], cache=cache)[:], listed[:])
    assert calls == []
    monkeypatch.undo()
    path.write_text("smiles,id\nCCO,1\nCCN,2\n")
    changed = FingerprintTable.from_csv(path, cache=cache)
    assert not torch.equal(changed[:], first[:])
    assert (
        FingerprintTable.from_csv(path, fingerprinter=SmilesFingerprinter(radius=1), cache=cache).settings[
            "radius"
        ]
        == 1
    )
    for name in ("y", "z"):
        assert FingerprintTable.from_smiles(["CCO", "CN"], ids=["x", name], cache=cache).ids[1] == name
    bits = FingerprintTable.from_csv(path, fingerprinter=SmilesFingerprinter(counts=False), cache=cache)
    assert bits.settings["counts"] is False
    with pytest.raises(DataFileError, match="cache"):
        FingerprintTable.from_csv(path, cache=path)
    assert not list(cache.glob(".*"))


@pytest.mark.parametrize("place", [0, 12, 40, 0.2, 0.4, 0.6, 0.8, 0.9])
def test_a_damaged_cache_file_is_built_again(tmp_path, place):
    """Zeros within it, as a full disk or a power cut leaves them, were fingerprints; a bit in its header a KeyError."""
    pytest.importorskip("rdkit")
    smiles = ["CCO", "c1ccccc1C(=O)N", "CN(C)CCOC(=O)C"]
    expected = FingerprintTable.from_smiles(smiles, cache=tmp_path)
    (stored,) = tmp_path.iterdir()
    whole = stored.read_bytes()
    start = place if isinstance(place, int) else int(place * len(whole))
    for damaged in (whole[:-5], whole[:start] + bytes(16) + whole[start + 16 :], whole[:-1] + b"!"):
        stored.write_bytes(damaged)
        again = FingerprintTable.from_smiles(smiles, cache=tmp_path)
        assert torch.equal(again[:], expected[:])
        assert list(again.canonical) == list(expected.canonical)
        assert stored.read_bytes() == whole


def test_damage_within_a_table_is_seen_when_it_is_read_whole(tmp_path):
    table = FingerprintTable.from_counts(np.arange(12).reshape(3, 4))
    table.save(tmp_path / "t.sggp")
    content = bytearray((tmp_path / "t.sggp").read_bytes())
    content[-20] ^= 1
    (tmp_path / "t.sggp").write_bytes(content)
    for how in ({"mmap": False}, {"verify": True}):
        with pytest.raises(DataFileError, match="is damaged"):
            FingerprintTable.open(tmp_path / "t.sggp", **how)


def resident(name):
    """Kilobytes of each mapped part of a file that are in memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if line.endswith(name)]
    sizes = [dict(line.split(":") for line in lines[i + 1 : i + 20] if ":" in line) for i in starts]
    return [int(size["Rss"].split()[0]) for size in sizes]


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="tells what is resident on Linux only")
def test_a_sweep_over_a_mapped_table_keeps_none_of_it(tmp_path):
    generator = np.random.default_rng(0)
    stored = tmp_path / "table.sggp"
    FingerprintTable.from_counts(generator.integers(0, 3, (3000, 200))).save(stored)
    table = FingerprintTable.open(stored)
    assert sum(int(block.sum()) for _, block in table.chunks(1000)) > 0
    assert len(resident(stored.name)) >= 2
    assert max(resident(stored.name)) <= 64  # pointers and row numbers


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="tells what is resident on Linux only")
def test_rows_here_and_there_do_not_gather_the_file_in_memory(tmp_path, monkeypatch):
    counts = np.random.default_rng(0).integers(0, 3, (2400, 2000), dtype=np.uint8)
    stored, most = tmp_path / "table.sggp", []
    FingerprintTable.from_counts(counts).save(stored)
    table, give_back = FingerprintTable.open(stored), packed._give_back
    monkeypatch.setattr(
        packed, "_give_back", lambda *arrays: most.append(max(resident(stored.name))) or give_back(*arrays)
    )
    rows = np.arange(5, 2400, 24)[::-1].copy()
    assert np.array_equal(table[rows].numpy(), counts[rows])
    assert 0 < max(most) <= 32 * 2 * 64  # of the columns, 6.4 MB: windows of 64 kB, a row in two of them
