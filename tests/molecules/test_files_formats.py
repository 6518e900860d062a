"""Excel workbooks, Parquet and SD files: the same table as from CSV, and what was decided."""

import builtins
import datetime
import gzip
import io
import zipfile

import numpy as np
import pytest

from sggp.errors import DataFileError, MissingExtra
from sggp.molecules import read_molecules, read_table


def workbook(path, sheets, hidden=()):
    openpyxl = pytest.importorskip("openpyxl", reason="the extra files is not installed")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        page = book.create_sheet(name)
        for row in rows:
            page.append(row)
        page.sheet_state = "hidden" if name in hidden else "visible"
    book.save(path)
    return path


def parquet(path, columns):
    pyarrow = pytest.importorskip("pyarrow", reason="the extra files is not installed")
    from pyarrow import parquet as writer

    writer.write_table(pyarrow.table(columns), path)
    return path


class TestWorkbooks:
    def test_cells_are_those_of_a_csv_file(self, tmp_path):
        rows = [["smiles", "id", "pIC50", "done"], ["CCO", 13, 1.234, True], ["CN", 14.0, 950, False],
                [None, None, None, None], ["CC", "x", ">10", None], ["C", "=a", "n.d.", None]]  # fmt: skip
        path = workbook(tmp_path / "a.xlsx", {"data": rows})
        table = read_table(path)
        assert table.columns["done"] == ["TRUE", "FALSE", "", ""]
        read = read_molecules(table, need_values=True, bounds=True)
        assert read.smiles == ["CCO", "CN", "CC"]
        assert read.values.tolist() == [1.234, 950, 10]  # numbers of Excel's are in no doubt
        assert read.ids == ["13", "14", "x"]
        assert read.censored == (None, None, "above")
        assert [(r.line, r.reason) for r in read.rejected] == [(6, "pIC50: no value: 'n.d.'")]

    def test_text_with_decimal_commas(self, tmp_path):
        path = workbook(tmp_path / "a.xlsx", {"data": [["smiles", "y"], ["CCO", "1,5"], ["CN", "2,25"]]})
        assert read_molecules(path, need_values=True).values.tolist() == [1.5, 2.25]

    def test_which_sheet_is_read(self, tmp_path):
        sheets = {
            "old": [["smiles"], ["C"]],
            "empty": [],
            "new": [["Plate 7"], ["smiles", "y"], ["CCO", 1.5], ["CN", 2]],
        }
        path = workbook(tmp_path / "a.xlsx", {**sheets, "more": [["a"], ["b"]]}, hidden=("old",))
        table = read_table(path)
        assert table.columns == {"smiles": ["CCO", "CN"], "y": ["1.5", "2"]}
        assert table.lines.tolist() == [3, 4]
        assert table.notes == (
            "sheet 'new' is read; there are also 'old', 'empty', 'more' (--sheet)",
            "line 1 ('Plate 7') is read as a title above the table",
        )
        assert read_table(path, sheet="old").columns == {"smiles": ["C"]}
        with pytest.raises(
            DataFileError, match=r"no sheet 'x'; the sheets are 'old', 'empty', 'new', 'more'"
        ):
            read_table(path, sheet="x")
        with pytest.raises(DataFileError, match="sheet 'empty' is empty"):
            read_table(path, sheet="empty")
        (tmp_path / "a.csv").write_text("smiles\nC\n")
        with pytest.raises(DataFileError, match=r"no \.xlsx file"):
            read_table(tmp_path / "a.csv", sheet="x")

    def test_formulas_are_read_by_their_values(self, tmp_path):
        path = workbook(
            tmp_path / "a.xlsx", {"d": [["smiles", "y"], ["CCO", "=1+1"], ["CN", 3], ["C", "=2+2"]]}
        )
        content = io.BytesIO()
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(content, "w") as new:
            for name in old.namelist():
                part = old.read(name).replace(b"<f>1+1</f><v></v>", b"<f>1+1</f><v>2</v>")
                new.writestr(name, part.replace(b"<f>1+1</f><v />", b"<f>1+1</f><v>2</v>"))
        path.write_bytes(content.getvalue())
        read = read_molecules(path, need_values=True)
        assert read.values.tolist() == [2, 3]
        assert "1 cells are formulas, read by their stored values, the first in row 2" in read.notes
        assert "the first in row 4: open the file in Excel" in read.notes[1]
        assert [(r.line, r.reason) for r in read.rejected] == [
            (4, "y: not a number: '=2+2' is a formula without its value")
        ]

    def test_names_that_excel_made_dates_are_told(self, tmp_path):
        rows = [["smiles", "id"], ["CCO", datetime.datetime(2024, 1, 2)], ["CN", "1-3"]]
        read = read_molecules(workbook(tmp_path / "a.xlsx", {"d": rows}))
        assert read.ids == ["2024-01-02", "1-3"]
        assert "1 cells are dates in Excel, the first (2024-01-02) in row 2" in read.notes[0]

    def test_damaged_and_large_files(self, tmp_path, monkeypatch):
        path = workbook(tmp_path / "a.xlsx", {"d": [["smiles"], *([["C" * 1000]] * 3000)]})
        whole = path.read_bytes()
        monkeypatch.setenv("SGGP_MAX_TABLE_BYTES", "1e6")
        with pytest.raises(DataFileError, match="more than 1,000,000 bytes"):
            read_table(path)
        monkeypatch.delenv("SGGP_MAX_TABLE_BYTES")
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataFileError, match="damaged"):
            read_table(path)
        content = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(content, "w") as new:
            for name in old.namelist():
                new.writestr(name, b"<broken" if "sheet1" in name else old.read(name))
        path.write_bytes(content.getvalue())
        with pytest.raises(DataFileError, match="damaged"):
            read_table(path)

    def test_other_archives(self, tmp_path):
        for inner, words in (
            ("content.xml", "OpenDocument"),
            ("xl/workbook.bin", "xlsb"),
            ("a.csv", "zip archive of 1 "),
        ):
            with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
                archive.writestr(inner, "smiles\nC\n")
            with pytest.raises(DataFileError, match=words):
                read_table(tmp_path / "a.zip")


class TestParquet:
    def test_cells_are_those_of_a_csv_file(self, tmp_path):
        path = parquet(tmp_path / "a.parquet", {
            "smiles": ["CCO", "CN", None, "C"],
            "id": [13.0, 14.0, None, 15.0],
            "value": np.array([1.1, 950, 2.2, np.nan], dtype=np.float32),
            "ok": [True, None, False, True],
            "__index_level_0__": [5, 6, 7, 8],
        })  # fmt: skip
        table = read_table(path)
        assert table.header == ("smiles", "id", "value", "ok")
        assert table.columns["ok"] == ["TRUE", "", "FALSE", "TRUE"]
        read = read_molecules(table, need_values=True)
        assert read.values.tolist() == [1.1, 950, 2.2]
        assert read.ids == ["13", "14", ""]
        assert [(r.line, r.reason) for r in read.rejected] == [(4, "value: no value")]

    def test_damaged_and_large_files(self, tmp_path, monkeypatch):
        path = parquet(tmp_path / "a.parquet", {"smiles": ["C" * 1000] * 3000})
        assert path.stat().st_size < 100_000  # a repeat is stored once
        monkeypatch.setenv("SGGP_MAX_TABLE_BYTES", "1e6")
        with pytest.raises(DataFileError, match="more than 1,000,000 bytes"):
            read_table(path)
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(DataFileError, match="damaged Parquet"):
            read_table(path)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    book = workbook(tmp_path / "a.xlsx", {"d": [["smiles"], ["C"]]})
    table = parquet(tmp_path / "a.parquet", {"smiles": ["C"]})
    real = builtins.__import__

    def without(name, *arguments, **named):
        if name.split(".")[0] in ("openpyxl", "pyarrow"):
            raise ModuleNotFoundError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    for path, package in ((book, "openpyxl"), (table, "pyarrow")):
        with pytest.raises(MissingExtra, match=rf'needs {package}.*pip install "sggp\[files\]".*as CSV'):
            read_table(path)


class TestStructures:
    @pytest.fixture
    def sdf(self):
        pytest.importorskip("rdkit", reason="the extra molecules is not installed")
        from rdkit import Chem

        stream = io.StringIO()
        writer = Chem.SDWriter(stream)
        for smiles, title, value in (
            ("CCO", "eth", "1.5"),
            ("C[C@H](N)C(=O)O", "", ">2"),
            ("C[n+]1ccccc1", "p", "3"),
        ):
            molecule = Chem.MolFromSmiles(smiles)
            molecule.SetProp("_Name", title)
            molecule.SetProp("pIC50", value)
            if title:
                molecule.SetProp("note", f"made for {title}\nin two lines")
            writer.write(molecule)
        writer.close()
        return stream.getvalue()

    @pytest.mark.parametrize("name", ["a.sdf", "a.txt"])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_molecules_titles_and_items(self, tmp_path, sdf, name, end):
        (tmp_path / name).write_bytes(sdf.replace("\n", end).encode())
        read = read_molecules(tmp_path / name, need_values=True, bounds=True)
        assert read.smiles == ["CCO", "C[C@H](N)C(=O)O", "C[n+]1ccccc1"]
        assert read.ids == ["eth", "", "p"]
        assert read.values.tolist() == [1.5, 2, 3]
        assert read.censored == (None, "above", None)
        table = read_table(tmp_path / name)
        assert table.columns["note"] == ["made for eth in two lines", "", "made for p in two lines"]
        lines = sdf.splitlines()
        assert [lines[line - 1] for line in table.lines] == ["eth", "", "p"]

    def test_a_broken_record_is_listed_and_the_rest_read(self, tmp_path, sdf):
        (tmp_path / "a.sdf").write_text(
            sdf.replace("  3  2  0", "  9  2  0", 1)
            .replace("M  END", "M  EN", 2)
            .replace("M  EN", "M  END", 1)
        )
        read = read_molecules(tmp_path / "a.sdf")
        assert read.smiles == ["C[n+]1ccccc1"]
        assert read.total == 3
        assert [(r.row, r.content, r.reason) for r in read.rejected] == [
            (0, "eth", "RDKit cannot read its block of atoms"),
            (1, "untitled", "no block of atoms that ends with M  END"),
        ]

    def test_one_molecule_and_none(self, tmp_path, sdf):
        (tmp_path / "a.mol").write_text(sdf.partition("M  END")[0] + "M  END\n")
        assert read_molecules(tmp_path / "a.mol").smiles == ["CCO"]
        (tmp_path / "b.sdf").write_text("smiles,y\nCCO,1\n")
        with pytest.raises(DataFileError, match="is no SD file"):
            read_table(tmp_path / "b.sdf")

    def test_an_item_called_smiles_is_kept_beside_the_structure(self, tmp_path, sdf):
        (tmp_path / "a.sdf").write_text(sdf.replace("pIC50", "SMILES"))
        table = read_table(tmp_path / "a.sdf")
        assert table.header == ("structure", "id", "SMILES", "note")


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "smi", "xlsx", "parquet"])
def test_a_damaged_file_is_refused_or_read_with_every_row_listed(tmp_path, kind):
    lines = [f"{'C' * i} n{i}" for i in range(1, 40)]
    path = tmp_path / f"a.{kind}"
    if kind == "xlsx":
        workbook(path, {"d": [["smiles", "id"], *(line.split() for line in lines)]})
    elif kind == "parquet":
        parquet(path, {"smiles": [line.split()[0] for line in lines]})
    else:
        text = "\n".join(
            lines if kind == "smi" else ["smiles,id", *(line.replace(" ", ",") for line in lines)]
        )
        path.write_bytes(gzip.compress(text.encode()) if kind == "csv.gz" else text.encode())
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0  # with a message that begins with the path
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(len(data), size=4):
            data[place] = rng.choice([0, 10, 13, 34, 35, 44, 59, 124, 200, 255])
        path.write_bytes(bytes(data[: len(data) - int(rng.integers(2)) * 25]))
        try:
            table = read_table(path)
        except DataFileError as error:
            refused += str(error).startswith(str(path))
            continue
        assert len(table.rows) + len(table.rejected) == len(table.lines)
    assert refused > 0 or kind == "smi"
