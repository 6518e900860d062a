"""Tables of numbers by blocks: the numbers, lines and reasons of the text route, in the memory of the numbers."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from sggp.datasets import read_matrix
from sggp.errors import DataFileError, InputError
from sggp.molecules import read_table
from sggp.molecules.files import DataTable
from sggp.molecules.files.formats import arrow
from sggp.molecules.files.numeric import lines as lines_module
from sggp.molecules.files.numeric import open_numbers

MESSY = {
    3: "1,wet,3,4",
    5: "",
    6: "1,,3,4",
    150: "1,2,3",
    151: "1,2,3,4,5",
    152: "1,2,3,4,,",
    160: '"1","2",3,4',
    170: "1,>2,3,n.d.",
    180: "inf,2,3,4",
    185: "1,2,3,4,5",
    190: "−1,1e3, .5 ,+4",
    1200: "95%,2,3,4",
    1201: "1,2,nan,4",
    1210: '1,"2,3,4',
    1220: "é,2,3,4",
}


def text(rows: int, mark: str = ",", end: str = "\n") -> str:
    numbers = np.random.default_rng(0).standard_normal((rows, 4)).tolist()
    lines = [",".join(map(repr, row)) for row in numbers]
    for line, content in MESSY.items():
        lines[line - 2] = content
    return end.join(["a,b,c,y", *lines, ""]).replace(",", mark)


def by_text(
    table: DataTable, names: list[str]
) -> tuple[list[list[float]], list[int], list[tuple[int, str, str]]]:
    """Complete rows, their lines, and (line, reason, content) of the others, from a table of text."""
    bad = [(row.line, row.reason, row.content) for row in table.rejected]
    columns = {name: table.numbers(name) for name in names}
    rows, lines = [], []
    for i in range(len(table)):
        for name, found in columns.items():
            if i in found.reasons or found.censored[i]:
                reason = found.reasons.get(i, f"not a number but a bound: {table.columns[name][i]!r}")
                bad.append((table.line(i), f"{name}: {reason}", table.content(i)))
                break
        else:
            rows.append([float(found.values[i]) for found in columns.values()])
            lines.append(table.line(i))
    return rows, lines, sorted(bad)


@pytest.mark.parametrize(("mark", "end", "packed"), [(",", "\n", False), ("\t", "\r\n", True)])
def test_a_messy_text_file_gives_what_its_text_gives(
    tmp_path: Path, mark: str, end: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "_LINES", 100)
    monkeypatch.setattr(lines_module, "_FEW", 8)
    content = "\n".join(
        line for line in text(1300, mark, "\n").split("\n") if '"2' not in line or '"1"' in line
    )
    data = content.replace("\n", end).encode()
    path = tmp_path / "t.csv"
    path.write_bytes(gzip.compress(data) if packed else data)
    names = ["a", "y", "b", "c"]
    found = read_matrix(path, names)
    rows, lines, bad = by_text(read_table(path), names)
    assert found.values.tolist() == rows
    assert found.lines.tolist() == lines
    assert [(row.line, row.reason, row.content.replace(mark, ",")) for row in found.rejected] == bad
    assert any("'n.d.' read as no value" in note for note in found.notes)


def test_a_quote_that_does_not_close_within_its_line_spoils_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text(1300))
    found = read_matrix(path)
    assert [row.reason.partition(" (")[0] for row in found.rejected if row.line == 1210] == [
        "its quotes do not close within the line"
    ]
    assert {1209, 1211} <= set(found.lines.tolist())


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_parquet_and_arrow_files_give_what_their_text_gives(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow, "BATCH", 4)
    pyarrow = pytest.importorskip("pyarrow", reason="the extra files is not installed")
    from pyarrow import feather, parquet

    rng = np.random.default_rng(0)
    real, whole = rng.standard_normal(40).tolist(), list(range(40))
    real[3], real[4], real[5], whole[7] = None, np.nan, np.inf, None
    table = pyarrow.table(
        {
            "name": [f"m{i}" for i in range(40)],
            "x": real,
            "k": whole,
            "y": rng.random(40),
            "__index_level_0__": whole,
        }
    )
    path = tmp_path / f"t.{kind}"
    (parquet.write_table if kind == "parquet" else feather.write_feather)(table, path)
    found = read_matrix(path)
    assert found.names == ("x", "k", "y")
    rows, lines, bad = by_text(read_table(path), ["x", "k", "y"])
    assert found.values.tolist() == rows
    assert found.lines.tolist() == lines
    assert [(row.line, row.reason) for row in found.rejected] == [entry[:2] for entry in bad]
    assert found.rejected[0].content == f",3,{table['y'][3].as_py()!r}"


def test_a_mapped_file_is_written_whole_in_the_memory_of_a_block(tmp_path: Path) -> None:
    peaks = []
    for rows in (20_000, 80_000):
        path, out = tmp_path / "t.csv", tmp_path / "t.npy"
        path.write_text("a,b,y\n" + "".join(f"{i}.5,{i % 7},{-i}\n" for i in range(rows)))
        tracemalloc.start()
        found = read_matrix(path, ["y", "a"], out=out)
        peaks.append(tracemalloc.get_traced_memory()[1] - found.lines.nbytes)
        tracemalloc.stop()
        assert isinstance(found.values, np.memmap)
        again = np.load(out, mmap_mode="r")
        assert again.shape == (rows, 2)
        assert again[-1].tolist() == found.values[-1].tolist() == [1 - rows, rows - 0.5]
        assert found.column("a")[:2].tolist() == [0.5, 1.5]
    assert peaks[1] < 1.2 * peaks[0] + 8 * 60_000  # the lines of the rows are joined once


def test_what_cannot_be_read_by_blocks_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    path, out = tmp_path / "t.csv", tmp_path / "t.npy"
    path.write_text("a;y\n" + "1,5;2,5\n" * 20)
    assert open_numbers(path, least=0) is None  # decimal commas are those of a whole column
    with pytest.raises(DataFileError, match="read_table reads other tables"):
        read_matrix(path)
    path.write_text("a,y\n" + "1.5,2\n" * 1100 + "wet,2\n" * 2000)
    with pytest.raises(
        DataFileError, match=r"'a' is no column of numbers: 2000 of 3100 .*line 1102: a: not a num"
    ):
        read_matrix(path, out=out)
    with pytest.raises(DataFileError, match="no column 'z'"):
        read_matrix(path, ["z"], out=out)
    path.write_text("a,y,t\n" + "1,,x\n" * 5)
    with pytest.raises(DataFileError, match="no row is complete; the first, in line 2: y: no value"):
        read_matrix(path, ["a", "y"], out=out)
    with pytest.raises(DataFileError, match="no column of numbers 't'"):
        read_matrix(path, ["t"])
    assert not out.exists()
    assert open_numbers(path) is None  # a small file: text keeps its words for every cell


def test_the_table_that_is_read_stays(tmp_path: Path) -> None:
    path, link = tmp_path / "t.csv", tmp_path / "link.npy"
    path.write_text("a,y\n" + "1,2\n" * 20)
    link.symlink_to(path)
    for out in (path, link):
        with pytest.raises(DataFileError, match="is the table that is read"):
            read_matrix(path, out=out)
    assert path.read_text().startswith("a,y")
    with pytest.raises(DataFileError, match="no such file"):
        read_matrix(tmp_path / "missing.csv")
    with pytest.raises(InputError, match="'a' 2 times"):
        read_matrix(path, ["a", "y", "a"])


def test_fields_of_structures_are_no_columns(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra files is not installed")
    from pyarrow import parquet

    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"s": [{"u": 9.0}] * 3, "s.u": [1.0, 2.0, 3.0], "y": [4.0] * 3}), path)
    assert read_matrix(path, ["y", "s.u"]).values.tolist() == [[4.0, 1.0], [4.0, 2.0], [4.0, 3.0]]
    parquet.write_table(pyarrow.table({"a": pyarrow.array([], pyarrow.float64())}), path)
    with pytest.raises(DataFileError, match=r"t\.parquet"):
        read_matrix(path)
