"""Users' tables: guessed columns, row numbers kept, every unused row listed, typed errors."""

import csv
import gzip

import numpy as np
import pytest

from sggp.errors import DataFileError
from sggp.molecules import RejectedRow, guess_columns, read_molecules, read_table, write_rejects


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_rows_lines_and_rejects(tmp_path):
    path = write(
        tmp_path / "m.csv",
        '\nID, Smiles ,pIC50\na,CCO,1.5\nb,CN,\n"c\nd",CC,>10\n\ne,CCC\nf,C#N,nan\ng,O,-2e1\nh,N,inf,4\n',
    )
    data = read_molecules(path, need_values=True)
    assert data.smiles == ["CCO", "O"]
    assert data.values.tolist() == [1.5, -20.0]
    assert data.ids == ["a", "g"]
    assert data.rows.tolist() == [0, 5]
    assert data.lines.tolist() == [3, 4, 5, 8, 9, 10, 11]
    assert data.total == 7
    assert [(r.row, r.line) for r in data.rejected] == [(1, 4), (2, 5), (3, 8), (4, 9), (6, 11)]
    assert [r.reason for r in data.rejected] == [
        "pIC50: no value",
        "pIC50: not a number but a bound: '>10'",
        "expected 3 cells, found 2",
        "pIC50: no value: 'nan'",
        "expected 3 cells, found 4",
    ]
    assert (data.guess.smiles, data.guess.value, data.guess.id) == ("Smiles", "pIC50", "ID")
    assert len(data.rejected) + len(data.smiles) == data.total


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "smiles\ty\nCCO\t1\nCN\t2\n"),
        ("a.csv", "smiles;y\r\nCCO;1\r\nCN;2\r\n"),
        ("a.csv", '\ufeff"smiles","y"\n"CCO","1"\n"CN","2"'),
        ("a.txt", "smiles,y\nCCO,1\nCN,2\n"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_dialects_and_gzip(tmp_path, name, text, packed):
    path = tmp_path / (name + ".gz" if packed else name)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    data = read_molecules(path, need_values=True)
    assert data.smiles == ["CCO", "CN"]
    np.testing.assert_array_equal(data.values, [1, 2])


@pytest.mark.parametrize("text", ["CCO ethanol\nCN methyl amine\n", "smiles name\nCCO ethanol\nCN methyl amine\n",
                                  "CCO\tethanol\nCN\tmethyl amine\n"])  # fmt: skip
def test_smi_files_need_no_header(tmp_path, text):
    data = read_molecules(write(tmp_path / "l.smi", text))
    assert data.smiles == ["CCO", "CN"]
    assert data.ids == ["ethanol", "methyl amine"]


def test_guesses_by_content_and_says_why(tmp_path):
    path = write(tmp_path / "a.csv", "molecule text,batch,uptake\nc1ccccc1,x 1,1\nCC(=O)O,x 2,2.5\n")
    guess = guess_columns(read_table(path))
    assert (guess.smiles, guess.value, guess.id) == ("molecule text", "uptake", None)
    assert "100%" in guess.reasons["smiles"]
    assert guess.reasons["value"] == "the only column of numbers"
    assert "'molecule text'" in str(guess)
    given = guess_columns(read_table(path), value="batch", id="uptake")
    assert (given.value, given.id, given.reasons["value"]) == ("batch", "uptake", "as asked")


def test_a_name_that_says_measured_wins_and_ties_are_refused(tmp_path):
    path = write(tmp_path / "a.csv", "smiles,predicted logS,measured logS\nCC,1,2\nCN,2,3\n")
    assert guess_columns(read_table(path)).value == "measured logS"
    path = write(tmp_path / "b.csv", "smiles,ki,kd\nCC,1,2\nCN,2,3\n")
    with pytest.raises(DataFileError, match=r"several columns of numbers: ki, kd.*'smiles', 'ki', 'kd'"):
        read_molecules(path, need_values=True)
    assert read_molecules(path, value_column="kd").values.tolist() == [2, 3]
    assert read_molecules(path).values is None
    path = write(tmp_path / "c.csv", "one,two\nCCO,CN\nCN,CCO\n")
    with pytest.raises(DataFileError, match="several columns look like SMILES"):
        read_molecules(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("\n \n", "empty"),
        ("smiles,y\n", "no data row"),
        ("smiles,y,y\nCCO,1,2\n", r"several columns of numbers: y \(1\), y \(2\)"),
        ("name,y\nethanol,1\n", "no column looks like SMILES"),
        ("smiles,name\nCCO,ethanol\n", "no value column"),
        ('smiles,y\n"CCO,1\n', r"line 2: a quote .* is not closed"),
    ],
)
def test_bad_files_get_a_typed_error(tmp_path, text, message):
    path = write(tmp_path / "bad.csv", text)
    with pytest.raises(DataFileError, match=message) as caught:
        read_molecules(path, need_values=True)
    assert "bad.csv" in str(caught.value)


def test_unreadable_files(tmp_path):
    with pytest.raises(DataFileError, match="no such file"):
        read_table(tmp_path / "absent.csv")
    with pytest.raises(DataFileError, match="folder"):
        read_table(tmp_path)
    whole = gzip.compress(("smiles,y\n" + "CCO,1\n" * 5000).encode())
    (tmp_path / "half.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataFileError, match="cannot be read"):
        read_table(tmp_path / "half.csv.gz")
    path = write(tmp_path / "a.csv", "smiles,y\nCC,1\n")
    with pytest.raises(DataFileError, match=r"no column 'SMILES'.*'smiles', 'y'"):
        read_molecules(path, smiles_column="SMILES")


def test_write_rejects(tmp_path):
    rows = [RejectedRow(3, 5, 'x,"y"', "no value"), RejectedRow(8, 11, "Ü", "not SMILES syntax")]
    path = tmp_path / "rejects.csv"
    assert write_rejects(path, iter(rows)) == 2
    with path.open(newline="", encoding="utf-8") as stream:
        read = list(csv.reader(stream))
    assert read == [["row", "line", "reason", "content"], ["3", "5", "no value", 'x,"y"'],
                    ["8", "11", "not SMILES syntax", "Ü"]]  # fmt: skip
    before = path.read_bytes()

    def broken():
        yield rows[0]
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        write_rejects(path, broken())
    assert path.read_bytes() == before
    with pytest.raises(DataFileError, match="cannot write"):
        write_rejects(tmp_path / "nowhere" / "r.csv", rows)
    assert [p.name for p in tmp_path.iterdir()] == ["rejects.csv"]
