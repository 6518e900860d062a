"""`sggp suggest --stream` on small files."""

from __future__ import annotations

import gzip

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")
pytest.importorskip("rich", reason="the extra cli is not installed")
pytest.importorskip("rdkit", reason="the extra molecules is not installed")

from sggp.bayesopt import streaming
from sggp.cli import main
from tests.cli.commands import LIBRARY, read, refused

COMMON = ("rank", "id", "smiles", "predicted_mean", "predicted_std", "why")


@pytest.fixture
def shards(files, tmp_path):
    """The library of `files` in two packed parts of nine molecules, and lines that cannot be used."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for i in (0, 1):
        lines = [f"L{9 * i + j},{name}\n" for j, name in enumerate(LIBRARY[9 * i : 9 * i + 9])]
        text = "code,smiles\n" + "".join(lines) + ("x,OCC\ny,C1CC\nz\n" if i else "")
        (folder / f"part-{i}.csv.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def line_of(files, library, *more) -> list[str]:
    line = ["suggest", "--measured", files["m"], "--library", library, "--out", files["out"]]
    return [str(part) for part in [*line, "--maximize", "-q", 3, "--id-column", "code", *more]]


def test_it_is_what_the_library_in_memory_gives(files, shards, tmp_path, capsys):
    assert main(line_of(files, files["l"], "--no-cache", "--seed", 4)) == 0
    expected = [[row[name] for name in COMMON] for row in read(files["out"])]
    assert main(line_of(files, shards / "part-*", "--stream", tmp_path / "s", "--seed", 4)) == 0
    said = capsys.readouterr().err
    rows = read(files["out"])
    assert [[row[name] for name in COMMON] for row in rows] == expected
    for row in rows:
        number = int(row["id"][1:])
        assert row["library_file"] == f"part-{number // 9}.csv.gz"
        assert int(row["library_line"]) == 2 + number % 9
    assert "2 of 21 rows cannot be used: " in said
    unused = [
        (row["line"], row["content"])
        for row in read(tmp_path / "next.rejected.csv")
        if row["file"] == "part-1.csv.gz"
    ]
    assert unused == [("12", "C1CC"), ("13", "z")]


def test_the_same_command_goes_on_with_its_own_seed(files, shards, tmp_path, capsys, monkeypatch):
    """Without --seed: the state keeps it, or the sample paths would be others."""
    line = line_of(files, shards, "--stream", tmp_path / "s", "--rule", "thompson")
    whole = streaming.LibrarySearch._with_block

    def interrupted(self, found, rows, bad, number):
        if number == 1:
            raise KeyboardInterrupt
        return whole(self, found, rows, bad, number)

    with monkeypatch.context() as patch:
        patch.setattr(streaming.LibrarySearch, "_with_block", interrupted)
        assert main(line) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not files["out"].exists()
    assert main(line) == 0
    first = files["out"].read_text()
    assert main([*line, "--seed", str(streaming.stream_seed(tmp_path / "s"))]) == 0
    assert files["out"].read_text() == first
    assert "begun with rule 'thompson' and not 'greedy'" in refused(capsys, *line[:-1], "greedy")
    with files["m"].open("a") as more:
        more.write("CCCCCCCCCCO,-40\n")
    assert "molecules not to propose" in refused(capsys, *line)


def test_what_cannot_be_streamed_is_refused(files, shards, tmp_path, capsys):
    state = tmp_path / "s"
    for more, words in (
        (["--rule", "top-k"], "--rule with --stream"),
        (["--standardise", "parent"], "leave it out with --stream"),
        (["--library-sheet", "a"], "not read line by line"),
    ):
        assert words in refused(capsys, *line_of(files, shards, "--stream", state, *more))
    over = line_of({**files, "out": state}, shards, "--stream", state)
    assert "read as an input" in refused(capsys, *over)
    assert "no file matches" in refused(capsys, *line_of(files, tmp_path / "none-*", "--stream", state))
    assert not state.exists()
