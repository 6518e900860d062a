"""Files read by blocks of lines, against the same files read as a whole."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import pytest

from sggp.errors import DataFileError
from sggp.molecules.files import read_molecules
from sggp.molecules.files.stream import Form, read_blocks, read_form


def rows_of(form: Form, **options: int) -> list[tuple[int, str, str]]:
    return [tuple(row) for block in read_blocks(form, **options) for row in block.rows]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


FILES = {
    "a.smi": "# made yesterday\nCCO ethanol\n\nCCN\tamine\n# between\nc1ccccc1 |c:0| benzene ring\nCC\n",
    "b.ism": "smiles name\r\nCCO a b\r\nCCN b\r\n",
    "c.csv": '# a comment\nname,smiles,note\n"a, b",CCO,"said ""so"""\nc,CCN,\nd,C\ne,CCC,x,y\nf,CC,z,\n',
    "d.tsv": "id\tSMILES\n1\tCCO\n\tCCN\n",
    "e.csv": "sep=;\nsmiles;id\nCCO;1\nCCN;'-b\n",
    "f.csv": "CCO;z1\nCCCN;z2\nc1ccccc1;z3\n",
    "g.txt": "CCO z1\nCCN z2\nCCC z3\n",
    "h.csv": "smiles\nCCO\nCCN\n",
    "i.csv": "\ufeffsmiles,id\nCC\u200bO,\u00e9\nCCN,b",
}


@pytest.mark.parametrize("name", FILES)
def test_rows_and_lines_are_those_of_the_whole_file(tmp_path, name):
    path = write(tmp_path / name, FILES[name])
    whole = read_molecules(path)
    lines = [int(whole.lines[row]) for row in whole.rows]
    expected = list(zip(lines, whole.smiles, whole.ids or [""] * len(lines), strict=True))
    form = read_form(path)
    assert rows_of(form) == expected
    assert rows_of(form, size=1) == expected
    for after in range(12):  # as a state does that goes on
        assert rows_of(form, after=after, size=2) == [row for row in expected if row[0] > after]
    bad = [(row.line, row.reason) for block in read_blocks(form) for row in block.bad]
    assert bad == [(row.line, row.reason) for row in whole.rejected]


def test_packed_files_say_how_far_they_are(tmp_path):
    text = "".join(f"{'C' * (1 + i % 50)} m{i}\n" for i in range(8000)).encode()
    for path, data in (
        (tmp_path / "l.smi.gz", gzip.compress(text)),
        (tmp_path / "l.smi.bz2", bz2.compress(text)),
    ):
        form = read_form(write(path, data))
        places = [block.position for block in read_blocks(form, size=2000)]
        assert places == sorted(places)
        assert places[-1] == len(data)
    assert len(rows_of(form)) == 8000


def test_columns_are_guessed_or_named(tmp_path):
    path = write(tmp_path / "l.csv", "smiles,code,other\nCCO,a,CCN\nCCC,b,CCCl\n")
    assert read_form(path).id is None
    form = read_form(path, smiles_column="other", id_column="code")
    assert rows_of(form) == [(2, "CCN", "a"), (3, "CCCl", "b")]
    with pytest.raises(DataFileError, match="no column 'nope'"):
        read_form(path, smiles_column="nope")
    with pytest.raises(DataFileError, match="no SMILES column"):
        read_form(write(tmp_path / "n.csv", "a,b\n1,2\n3,4\n"))


def test_a_quote_spoils_its_own_line_only(tmp_path):
    rows = "".join(f"CC,m{i}\n" for i in range(1200))
    path = write(tmp_path / "l.csv", f'smiles,id\n{rows}CCO,"open\nCCN,after\n')
    blocks = list(read_blocks(read_form(path)))
    assert [(row.line, row.content) for row in blocks[0].bad] == [(1202, 'CCO,"open')]
    assert "quotes do not close" in blocks[0].bad[0].reason
    assert blocks[0].rows[-1] == (1203, "CCN", "after")


def test_the_second_half_of_a_broken_cell_is_no_row(tmp_path):
    """Its molecule was read, with the id x"."""
    rows = "".join(f"m{i},CC\n" for i in range(1200))
    path = write(tmp_path / "l.csv", f'id,smiles\n{rows}"a\nx","CCO"\n5" ring,CCN\n"m","CCC"\n')
    (block,) = read_blocks(read_form(path))
    assert [row.line for row in block.bad] == [1202, 1203]
    assert "opened in an earlier line" in block.bad[1].reason
    assert block.rows[-2:] == [(1204, "CCN", '5" ring'), (1205, "CCC", "m")]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("l.smi", b"", "empty"),
        ("l.csv", "smiles\nCCO\n".encode("utf-16"), "UTF-8"),
        ("l.xlsx", b"PK\x03\x04....", "not read line by line"),
        ("l.parquet", b"PAR1....", "not read line by line"),
        ("l.sdf", b"a\n\n\n  0  0  0 V2000\nM  END\n", "SD file"),
        ("l.pdf", b"%PDF-1.4\n", "PDF"),
        ("l.smi", b"C" * 2**20 + b"\n", "a line of more than"),
        ("l.smi.gz", gzip.compress(b"CCO a\n" * 500)[:-12], "damaged"),
        ("none.smi", None, "no such file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_read_by_lines_is_refused(tmp_path, name, data, words):
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DataFileError, match=words) as refused:
        rows_of(read_form(path))
    assert str(path) in str(refused.value)
