"""Text tables: encodings, quotes, headers, comments, delimiters, and characters that nobody sees."""

import gzip
import os
import sys

import numpy as np
import pytest

from sggp.errors import DataFileError
from sggp.molecules import FingerprintTable, guess_columns, read_molecules, read_table
from sggp.molecules.files import visible


def write(path, text, encoding="utf-8"):
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("encoding", "note"),
    [
        ("utf-8", None),
        ("utf-8-sig", None),
        ("utf-16", "read as UTF-16"),
        ("utf-16-le", "read as UTF-16"),
        ("utf-16-be", "read as UTF-16"),
        ("utf-32", "read as UTF-32"),
        ("cp1252", "read as Windows-1252, since it is not UTF-8 (byte 0xc4 in line 2)"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path, encoding, note, end):
    text = end.join(["smiles,name,value", "CCO,Äther,1.5", "CN,“x” – y,2", ""])
    read = read_molecules(write(tmp_path / "a.csv", text, encoding), need_values=True)
    assert read.ids == ["Äther", "“x” – y"]
    assert read.values.tolist() == [1.5, 2]
    assert read.lines.tolist() == [2, 3]
    assert read.notes == (() if note is None else (note,))


def test_a_few_broken_bytes_spoil_no_other_name(tmp_path):
    path = write(tmp_path / "a.csv", b"smiles,name\nCCO,\xc3\xa9\xc3\xa9\nCN,\xff\n")
    read = read_molecules(path)
    assert read.ids == ["éé", "\ufffd"]
    assert read.notes == (
        "not all of it is UTF-8: 1 places cannot be read, the first is byte 0xff in line 3",
    )
    path = write(tmp_path / "b.csv", "smiles,name\nCCO,アルコール\n", "shift-jis")
    with pytest.raises(DataFileError, match=r"neither UTF-8.*Windows-1252 .*in line 2.*save it as UTF-8"):
        read_table(path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('smiles,name,y\nCCO,"abc,1\nCN,x,2\nCC,y,3\n', 2),  # to the end of the file
        ('smiles,name,y\nCCO,a,1\nCN,"x,2\nCC,"y",3\n', 3),  # into the next quote
        ('smiles,name,y\nCCO,"abc\nCN,x,2\nCC,b"\nCCC,"y",3\n', 2),  # whole rows between two quotes
        ('smiles,name,y\nCCO,"a"b,1\nCN,x,2\n', 2),  # text behind the closing quote
        ('smiles,name,y\nCCO,a,1\nCN,x,"2\n', 3),  # in the last line
        ('"smiles,name,y\nCCO,a,1\nCN,x,2\n', 1),  # in the header
        ("smiles,y\nCCO,1\n" + "C" * 140_000 + ",2\n", 3),  # a cell without end
    ],
)
def test_a_quote_that_swallows_rows_is_refused_with_its_line(tmp_path, text, line):
    with pytest.raises(DataFileError, match=rf"a.csv: line {line}: .*(quote)"):
        read_table(write(tmp_path / "a.csv", text))


@pytest.mark.parametrize(
    ("cell", "value"),
    [('"a, b"', "a, b"), ('"a ""b"" c"', 'a "b" c'), ('5" tube', '5" tube'), ("2'-d\"x", "2'-d\"x"),
     ('"one\ntwo"', "one\ntwo"), (' "x"', "x")],
)  # fmt: skip
def test_quotes_that_are_right(tmp_path, cell, value):
    table = read_table(write(tmp_path / "a.csv", f"smiles,name,y\nCCO,{cell},1\nCN,z,2\n"))
    assert table.columns["name"] == [value, "z"]
    assert len(table.rejected) == 0


@pytest.mark.parametrize(
    ("text", "smiles", "values"),
    [
        ("CCO,1.5\nCN,2\nCC,3\n", ["CCO", "CN", "CC"], [1.5, 2, 3]),
        ("CCO,ethanol,1.5\nCN,methylamine,2\n", ["CCO", "CN"], [1.5, 2]),
        ("c1ccccc1;1,5\nCN;2\n", ["c1ccccc1", "CN"], [1.5, 2]),
        (">1,CCO\n2,CN\n", ["CCO", "CN"], [1, 2]),
        ("id 1,CCO,1.5\nid 2,CN,2\n", ["CCO", "CN"], [1.5, 2]),
    ],
)
def test_a_file_without_header_keeps_its_first_molecule(tmp_path, text, smiles, values):
    read = read_molecules(write(tmp_path / "a.csv", text), need_values=True, bounds=True)
    assert read.smiles == smiles
    assert read.values.tolist() == values
    assert read.lines.tolist() == list(range(1, len(smiles) + 1))
    assert any(note.startswith("no header: line 1 (") for note in read.notes)


def test_one_column_without_header(tmp_path):
    assert read_molecules(write(tmp_path / "a.csv", "CCO\nCN\nCCC\n")).smiles == ["CCO", "CN", "CCC"]
    assert read_table(write(tmp_path / "b.csv", "1.5,2\n3,4\n")).columns == {
        "column1": ["1.5", "3"], "column2": ["2", "4"]
    }  # fmt: skip


@pytest.mark.parametrize(
    "header", ["no,structure text", "CNO,molecule", "1st,SMILES", "0,1,2", "ID,CN", "x1,target"]
)
def test_names_that_look_like_data_stay_names(tmp_path, header):
    count = len(header.split(","))
    text = header + "\n" + "\n".join(",".join(["7.5", "c1ccccc1O", "3"][:count]) for _ in range(3)) + "\n"
    assert read_table(write(tmp_path / "a.csv", text)).header == tuple(header.split(","))


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("sep=;\nsmiles;y\nCCO;1\nCN;2\n", None),
        ("# made by hand\nsmiles,y\nCCO,1\nCN,2\n", "line 1 is a comment (#), skipped"),
        ("#smiles,y\nCCO,1\nCN,2\n", None),
        ("Plate 7\n\nsmiles,y\nCCO,1\nCN,2\n", "line 1 ('Plate 7') is read as a title above the table"),
        ("smiles,y,\nCCO,1,\nCN,2,\n", None),
        ("smiles,y\nCCO,1,,\nCN,2,,\n", None),
        ("smiles|y\nCCO|1\nCN|2\n", None),
        ("\n\nsmiles\ty\nCCO\t1\n\nCN\t2\n", None),
        ("smiles,y\nCCO,1\n , \nCN,2", None),
        ("smiles\u200b,y\nC\u200bCO,1\nCN\ufeff,2\u00a0\n",
         "3 invisible characters removed, the first (U+200B) in line 1"),
        ("smiles,y\nCCO\x00,1\nCN,2\n", "1 control characters written out, the first as \\x00 in line 2"),
    ],
)  # fmt: skip
def test_what_stands_around_a_table(tmp_path, text, note):
    table = read_table(write(tmp_path / "a.csv", text))
    assert table.columns["y"] == ["1", "2"]
    assert [smiles.removesuffix("\\x00") for smiles in table.columns["smiles"]] == ["CCO", "CN"]
    assert table.notes == (() if note is None else (note,))


def test_commas_in_cells_do_not_choose_the_delimiter(tmp_path):
    text = "name;smiles;y\n" + "".join(f"1,2-{i},x,y;{'C' * i};{i},5\n" for i in range(1, 9))
    read = read_molecules(write(tmp_path / "a.csv", text), need_values=True)
    assert read.values.tolist() == [i + 0.5 for i in range(1, 9)]
    assert read.ids[0] == "1,2-1,x,y"


def test_columns_of_one_name_or_none(tmp_path):
    table = read_table(write(tmp_path / "a.csv", "smiles,y,y,,z\nCCO,1,2,a,3\nCN,3,4,b,4\n"))
    assert table.header == ("smiles", "y (1)", "y (2)", "unnamed 4", "z")
    assert table.notes == (
        "columns without a name are called 'unnamed 4'",
        "2 columns are named 'y'; they are called 'y (1)', ...",
    )
    with pytest.raises(DataFileError, match=r"no column 'y'.*'y \(1\)', 'y \(2\)'"):
        guess_columns(table, value="y")
    table = read_table(write(tmp_path / "b.csv", "smiles,Value,value\nCCO,1,2\nCN,3,9\n"))
    assert guess_columns(table).value is None
    assert "several columns by their names: Value, value" in guess_columns(table).reasons["value"]


def test_a_column_called_value_that_holds_ids(tmp_path):
    rows = "".join(f"{'C' * i},{i},{5 + 0.7 * i:.1f}\n" for i in range(1, 8))
    table = read_table(write(tmp_path / "a.csv", "smiles,value,pIC50\n" + rows))
    assert guess_columns(table).value == "pIC50"
    table = read_table(write(tmp_path / "b.csv", "smiles,value,activity\nCCO,A1,5.5\nCN,A2,6.5\n"))
    assert guess_columns(table).value == "activity"
    table = read_table(write(tmp_path / "c.csv", "smiles,value,pIC50\nCCO,31,5.5\nCN,17,6.5\n"))
    assert guess_columns(table).value is None
    assert guess_columns(table, id="value").value == "pIC50"


@pytest.mark.parametrize(
    ("text", "smiles", "ids"),
    [
        ("CCO ethanol\nCN\nCCC propane two\nc1ccccc1\n", ["CCO", "CN", "CCC", "c1ccccc1"],
         ["ethanol", "", "propane two", ""]),
        ("CN\nCCO ethanol\n", ["CN", "CCO"], ["", "ethanol"]),
        ("CCO\tethanol\tx\nCN\n", ["CCO", "CN"], ["ethanol", ""]),
        ("SMILES Name\nCCO ethanol\nCN\n", ["CCO", "CN"], ["ethanol", ""]),
        ("# a comment\nCCO ethanol\n#another\nCN m\n", ["CCO", "CN"], ["ethanol", "m"]),
        ("CCO |$a;b;c$| ethanol\nCN |c:1|\nC x\n", ["CCO", "CN", "C"], ["ethanol", "", "x"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.smi", "a.ism.gz"])
def test_smi_with_optional_names(tmp_path, text, smiles, ids, name):
    data = text.encode()
    read = read_molecules(write(tmp_path / name, gzip.compress(data) if name.endswith("gz") else data))
    assert read.smiles == smiles
    assert read.ids == ids
    assert not read.rejected


def test_smiles_and_names_in_a_text_file(tmp_path):
    read = read_molecules(write(tmp_path / "a.txt", "CCO ethanol\nCN\nc1ccccc1 benzene\n"))
    assert read.smiles == ["CCO", "CN", "c1ccccc1"]
    assert read.ids == ["ethanol", "", "benzene"]
    assert "no delimiter" in read.notes[0]


@pytest.mark.parametrize(
    ("ids", "read", "note"),
    [
        (["13.0", "14.0", ""], ["13", "14", ""], "'13.0' is read as '13'"),
        (["13.0", "14.5", "x"], ["13.0", "14.5", "x"], None),
        (["1E5", "2e7", "3E1"], ["1E5", "2e7", "3E1"], None),
        (["1.23E+05", "50-00-0", "a"], ["1.23E+05", "50-00-0", "a"], "line 2: id '1.23E+05' looks like a long number"),
        (["1-1", "2-Jan", "Mar-99"], ["1-1", "2-Jan", "Mar-99"], "line 3: id '2-Jan' looks like a date"),
        (["007", "0010", "1"], ["007", "0010", "1"], None),
        (["TRUE", "NA", "-5"], ["TRUE", "NA", "-5"], None),
    ],
)  # fmt: skip
def test_ids_stay_what_they_are(tmp_path, ids, read, note):
    text = "id,smiles\n" + "".join(f"{name},{smiles}\n" for name, smiles in zip(ids, "CNO", strict=True))
    found = read_molecules(write(tmp_path / "a.csv", text))
    assert found.ids == read
    assert (len(found.notes) == 0) if note is None else (note in found.notes[0])


def test_formulas_that_were_shielded_are_read_as_they_were(tmp_path):
    table = read_table(write(tmp_path / "a.csv", "id,smiles\n'=cmd|x,C\n'-a,N\n''=q,O\n'x,F\n"))
    assert table.columns["id"] == ["=cmd|x", "-a", "'=q", "'x"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"%PDF-1.7\n", "a PDF"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), r"old Excel file \(.xls\)"),
        (b"SQLite format 3\x00" + bytes(100), "a database"),
        (b"\x89PNG\r\n\x1a\n", "a picture"),
        (b"PK\x03\x04nothing", "damaged archive"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b'{"smiles": "C"}', "XML or JSON"),
        (b"\x28\xb5\x2f\xfd1234", "packed by zstd"),
        (bytes(range(256)) * 20, "bytes that are no text"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\x1f\x8b\x08\x00broken", "cannot be read"),
        (b"", "empty"),
        (b"\xef\xbb\xbf\r\n", "empty"),
    ],
)
def test_files_that_are_no_tables_say_what_they_are(tmp_path, data, message):
    with pytest.raises(DataFileError, match=message) as caught:
        read_table(write(tmp_path / "a.csv", data))
    assert str(caught.value).startswith(str(tmp_path / "a.csv"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_devices_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataFileError, match="is a pipe"):
        read_table(tmp_path / "pipe.csv")
    for device in ("/dev/zero", "/dev/null"):
        if os.path.exists(device):
            with pytest.raises(DataFileError, match="is a device"):
                read_table(device)


def test_a_small_archive_of_a_large_table_is_refused(tmp_path, monkeypatch):
    text = b"smiles,y\n" + b"CCO,1\n" * 200_000
    monkeypatch.setenv("SGGP_MAX_TABLE_BYTES", "1e6")
    for path, data in ((tmp_path / "a.csv.gz", gzip.compress(text)), (tmp_path / "a.csv", text)):
        with pytest.raises(DataFileError, match=r"more than 1,000,000 bytes unpacked.*SGGP_MAX_TABLE_BYTES"):
            read_table(write(path, data))
    twice = gzip.compress(gzip.compress(text))
    with pytest.raises(DataFileError, match="more than 1,000,000 bytes"):
        read_table(write(tmp_path / "b.csv.gz", twice))
    monkeypatch.setenv("SGGP_MAX_TABLE_BYTES", "1e7")
    assert len(read_table(tmp_path / "a.csv.gz")) == 200_000
    monkeypatch.setenv("SGGP_MAX_TABLE_BYTES", "much")
    with pytest.raises(DataFileError, match="must be a number of bytes"):
        read_table(tmp_path / "a.csv")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are text")
def test_names_of_files_that_are_no_text_are_taken_and_shown(tmp_path):
    """As from another machine's archive, or any name beyond ASCII where LC_ALL=C."""
    pytest.importorskip("rdkit", reason="the extra molecules is not installed")
    path = write(tmp_path / os.fsdecode(b"\xe4.csv"), "smiles\nCCO\nCCN\n")
    assert len(FingerprintTable.from_csv(read_molecules(path), cache=tmp_path)) == 2
    assert visible(path.name) == r"\udce4.csv"


def test_every_row_is_used_or_listed(tmp_path):
    rng = np.random.default_rng(0)
    lines = []
    for i in range(300):
        kind = rng.integers(5)
        lines.append(["CCO,1", "CN,x", "CC", "C,1,2", ",3"][kind] + ("" if i % 7 else "\n"))
    read = read_molecules(write(tmp_path / "a.csv", "smiles,y\n" + "\n".join(lines) + "\n"), need_values=True)
    assert len(read.smiles) + len(read.rejected) == read.total == 300
    text = (tmp_path / "a.csv").read_text().splitlines()
    for row in read.rejected:
        assert text[row.line - 1] == row.content
