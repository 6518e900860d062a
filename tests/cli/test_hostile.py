"""What a file, a name or a path may hold: the commands show it, survive it, and overwrite nothing."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")
pytest.importorskip("rich", reason="the extra cli is not installed")

from sggp.cli import main
from sggp.cli.console import csv_text, print_table, stderr, stdout
from sggp.cli.molecules import suggest
from sggp.cli.outputs import check_outputs, rejected_path, same_file
from sggp.errors import DataFileError, InputError
from sggp.molecules import read_molecules, read_table
from tests.cli.commands import ALCOHOLS, LIBRARY, read, refused, write

HOSTILE = [
    "C[n+]1ccccc1",
    "c1cc[nH]c1",
    "[se]1cccc1",
    "a[/b]",
    "[bold]x[/bold]",
    ":smile:",
    "[link=http://x]y",
    "\\[x]",
]
ESCAPES = ["\x1b[31mred", "\x1b]0;title\x07", "\x9b2J", "back\b\b", "a\rb", "\x7f"]


def run(*argv: object) -> int:
    return main([str(part) for part in argv])


class TestTerminal:
    @pytest.mark.parametrize("terminal", [False, True])
    def test_markup_is_text_in_cells_headers_and_titles(self, capsys, monkeypatch, terminal):
        if terminal:  # where there are colours, styles of markup would show
            for name, value in (("FORCE_COLOR", "1"), ("COLUMNS", "300"), ("TERM", "xterm")):
                monkeypatch.setenv(name, value)
        print_table(HOSTILE[3], HOSTILE, [HOSTILE])
        said = capsys.readouterr().out
        assert all(said.count(text) >= 2 for text in HOSTILE)
        stdout().print(HOSTILE[0])
        stderr().print(HOSTILE[4])
        said = capsys.readouterr()
        assert said.out == "C[n+]1ccccc1\n"
        assert said.err == "[bold]x[/bold]\n"

    def test_control_characters_are_shown_and_not_obeyed(self, capsys):
        print_table("\x1b[2J", ESCAPES, [ESCAPES])
        stdout().print(ESCAPES[0])
        stderr().print(ESCAPES[1])
        said = capsys.readouterr()
        assert not set(said.out + said.err) & {
            chr(code) for code in (*range(9), *range(11, 32), *range(127, 160))
        }
        assert "\\x1b[31mred" in said.out
        assert "a\\rb" in said.out
        assert "\\x1b]0;title\\x07" in said.err

    def test_names_of_inputs_with_brackets(self, tmp_path, capsys):
        store = tmp_path / "c.db"
        assert run("campaign", "init", store, "--bound", "temp[/C]=0:100", "--maximize", "--seed", 1) == 0
        assert run("campaign", "ask", store, "-q", 2) == 0
        assert "temp[/C]" in capsys.readouterr().out

    def test_names_of_files_in_errors(self, tmp_path, capsys):
        assert "\\x1b[31m" in refused(
            capsys, "fit", tmp_path / "\x1b[31m.csv", "--target", "y", "--out", tmp_path / "m"
        )


class TestSpreadsheets:
    @pytest.mark.parametrize(
        "text", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\tx", "＝1", "'=x", "''-y"]
    )
    def test_no_cell_is_a_formula_and_all_are_read_as_they_were(self, tmp_path, text):
        path = tmp_path / "a.csv"
        path.write_text(
            csv_text(["id", "smiles", "y"], [[text, "C[n+]1ccccc1", -1.5], ["plain", "CCO", 2.0]]), newline=""
        )
        cell = path.read_text().split("\n")[1]
        assert cell.lstrip('"').startswith("'")
        table = read_table(path)
        assert table.columns["id"] == [text, "plain"]
        assert table.columns["y"] == ["-1.5", "2.0"]

    @pytest.mark.parametrize("text", ["-5", "+3.5", "-1e-7", "'x", "a=b", "C-C", "[Na+]", "(CC)", "\\r"])
    def test_other_cells_are_written_as_they_are(self, tmp_path, text):
        assert csv_text(["id"], [[text]]) == f"id\n{text}\n"

    def test_a_lone_return_is_written_out(self):
        assert csv_text(["id"], [["\rx"], ["a\r\nb"], ["\x1b[2J"]]) == 'id\n\\rx\n"a\nb"\n\\x1b[2J\n'

    def test_ids_of_a_library(self, files, tmp_path, capsys):
        names = ["=cmd|x", "\x1b[31mred", "a[/b]", "@x"]
        library = write(
            tmp_path / "l2.csv", ["id", "smiles"], [[n, s] for n, s in zip(names, LIBRARY[10:], strict=False)]
        )
        line = [
            "suggest",
            "--measured",
            files["m"],
            "--library",
            library,
            "--out",
            files["out"],
            "-q",
            4,
            "--no-cache",
        ]
        assert run(*line, "--maximize", "--seed", 1) == 0
        said = capsys.readouterr()
        assert "\x1b[31m" not in said.out + said.err
        assert "a[/b]" in said.out
        raw = files["out"].read_text()
        assert "\x1b" not in raw
        assert "\n=" not in raw.replace(",=", "\n=")
        back = read_table(files["out"]).columns["id"]
        assert sorted(back) == sorted(["=cmd|x", "\\x1b[31mred", "a[/b]", "@x"])


class TestOutputs:
    @pytest.fixture
    def line(self, files) -> list[object]:
        return [
            "suggest",
            "--measured",
            files["m"],
            "--library",
            files["l"],
            "--maximize",
            "-q",
            2,
            "--no-cache",
        ]

    def test_an_input_by_any_name_is_kept(self, files, tmp_path, capsys, line):
        before = {name: files[name].read_bytes() for name in "ml"}
        (tmp_path / "sub").mkdir()
        (tmp_path / "soft.csv").symlink_to(files["l"])
        os.link(files["m"], tmp_path / "hard.csv")
        names = [files["l"], tmp_path / "sub" / ".." / "l.csv", tmp_path / "soft.csv", tmp_path / "hard.csv",
                 tmp_path / "L.CSV", tmp_path / "l.csv.gz"]  # fmt: skip
        for path in names:
            for option in ("--out", "--report"):
                other = ["--out", tmp_path / "o.csv"] if option == "--report" else []
                assert "read as an input" in refused(capsys, *line, *other, option, path)
        assert {name: files[name].read_bytes() for name in "ml"} == before
        assert not (tmp_path / "o.csv").exists()

    def test_the_unpacked_name_of_a_packed_input(self, files, tmp_path, capsys, line):
        packed = tmp_path / "p.csv.gz"
        packed.write_bytes(gzip.compress(files["l"].read_bytes()))
        line[line.index("--library") + 1] = packed
        assert "read as an input" in refused(capsys, *line, "--out", tmp_path / "p.csv")

    def test_two_outputs_of_one_name(self, files, tmp_path, capsys, line):
        out = tmp_path / "o.csv"
        assert "would be the same file" in refused(capsys, *line, "--out", out, "--report", out)
        assert "would be the same file" in refused(
            capsys, *line, "--out", out, "--report", tmp_path / "O.csv"
        )
        assert not out.exists()

    @pytest.mark.parametrize(
        "content", [b"SQLite format 3\x00" + bytes(90), b"PK\x03\x04x", b"PAR1x", b"SGGPTAB1x"]
    )
    def test_a_file_of_another_kind_is_kept(self, files, tmp_path, capsys, line, content):
        (tmp_path / "c.db").write_bytes(content)
        assert "what is there is" in refused(capsys, *line, "--out", tmp_path / "c.db")
        assert (tmp_path / "c.db").read_bytes() == content

    def test_campaigns_and_models_are_kept(self, files, tmp_path, capsys):
        store, model, data = tmp_path / "c.db", tmp_path / "m.gp", tmp_path / "t.csv"
        assert run("campaign", "init", store, "--bound", "x=0:1", "--maximize", "--seed", 1) == 0
        before = store.read_bytes()
        assert "read as an input" in refused(capsys, "campaign", "ask", store, "--out", store)
        assert "read as an input" in refused(capsys, "campaign", "ask", store, "--out", f"{store}-wal")
        write(data, ["a", "y"], [[i / 9, (i / 9) ** 2] for i in range(10)])
        fit = ["fit", data, "--target", "y", "--seed", 1, "--out"]
        assert run(*fit, model) == 0
        assert run(*fit, model) == 0  # an older model is replaced
        assert "what is there is" in refused(capsys, *fit, store)
        assert "no model" in refused(capsys, *fit, files["m"])
        assert "read as an input" in refused(capsys, "predict", model, data, "--out", model)
        assert "an archive" in refused(
            capsys, "predict", model, data, "--out", write_zip(tmp_path / "x.xlsx")
        )
        assert store.read_bytes() == before

    def test_lists_of_unused_rows_have_names_of_their_own(self, tmp_path):
        names = ["next.csv", "next.html", "next", "next.csv.gz", "next.CSV"]
        assert [rejected_path(tmp_path / name).name for name in names] == [
            "next.rejected.csv", "next.html.rejected.csv", "next.rejected.csv", "next.csv.gz.rejected.csv",
            "next.rejected.csv",
        ]  # fmt: skip

    def test_a_users_file_of_the_name_of_the_list_is_kept(self, files, tmp_path, capsys, line):
        own = tmp_path / "next.rejected.csv"
        own.write_text("my own notes\n")
        assert run(*line, "--out", files["out"]) == 0
        assert own.read_text() == "my own notes\n"
        assert "next.rejected-2.csv" in capsys.readouterr().out
        assert run(*line, "--out", files["out"]) == 0  # the list that sggp wrote is replaced
        assert sorted(path.name for path in tmp_path.glob("next*")) == [
            "next.csv", "next.rejected-2.csv", "next.rejected.csv"
        ]  # fmt: skip
        assert rejected_path(tmp_path / "a.csv", tmp_path / "a.rejected.csv").name == "a.rejected-2.csv"

    def test_what_the_checks_refuse(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(DataFileError, match="a device or a pipe"):
            check_outputs({"--out": tmp_path / "pipe"})
        with pytest.raises(InputError, match="--out and --report"):
            check_outputs({"--out": tmp_path / "a", "--report": tmp_path / "b" / ".." / "a"})
        (tmp_path / "a").write_text("x")
        assert same_file(tmp_path / "a", tmp_path / "A")
        assert not same_file(tmp_path / "a", tmp_path / "b")
        check_outputs({"--out": tmp_path / "a", "--report": None}, [tmp_path / "b", None])

    def test_a_cache_that_cannot_be_made_is_said(self, files, tmp_path, capsys, line):
        (tmp_path / "file").write_text("x")
        line = [part for part in line if part != "--no-cache"]
        assert run(*line, "--out", files["out"], "--cache", tmp_path / "file" / "sub") == 0
        assert "no fingerprints are kept" in capsys.readouterr().err
        assert len(read(files["out"])) == 2

    def test_the_list_survives_a_report_that_fails(self, files, tmp_path, capsys, line, monkeypatch):
        pytest.importorskip("matplotlib", reason="the extra plot is not installed")

        def broken(*_: object) -> str:
            raise DataFileError("the report is broken")

        monkeypatch.setattr(suggest, "render", broken)
        line = [*line, "--out", files["out"], "--report", tmp_path / "r.html"]
        assert "the report is broken" in refused(capsys, *line)
        assert len(read(files["out"])) == 2


def write_zip(path: Path) -> Path:
    path.write_bytes(b"PK\x03\x04 an Excel file")
    return path


class TestMolecules:
    @pytest.fixture(autouse=True)
    def _rdkit(self) -> None:
        pytest.importorskip("rdkit", reason="the extra molecules is not installed")

    def suggest(self, tmp_path, measured, library, *more) -> int:
        write(tmp_path / "m.csv", ["smiles", "value"], measured)
        write(tmp_path / "l.csv", ["id", "smiles"], [[f"L{i}", s] for i, s in enumerate(library)])
        line = ["suggest", "--measured", tmp_path / "m.csv", "--library", tmp_path / "l.csv", "--out"]
        return run(*line, tmp_path / "o.csv", "--maximize", "--no-cache", "--seed", 1, *more)

    def test_a_bound_counts_as_measured(self, tmp_path, capsys):
        measured = [[s, i + 0.5] for i, s in enumerate(ALCOHOLS)] + [["CCN", ">10"], ["CCCN", "<0.1"]]
        assert self.suggest(tmp_path, measured, ["CCN", "CCCN", "CCCCN", "CCCCCN"], "-q", 2) == 0
        assert {row["smiles"] for row in read(tmp_path / "o.csv")} == {"CCCCN", "CCCCCN"}
        assert (
            "2 values are bounds (>10 in line 12): measured, so not suggested again"
            in capsys.readouterr().err
        )
        assert read(tmp_path / "o.rejected.csv") == []

    def test_salts_of_measured_molecules(self, tmp_path, capsys):
        measured = [[s, i + 0.5] for i, s in enumerate(ALCOHOLS)] + [["CCN.Cl", 3.5], ["OCC(O)CO", 2.5]]
        library = ["CCN", "OCC(O)CO.O", "CCCCN", "CCCCCN"]
        assert self.suggest(tmp_path, measured, library, "-q", 2, "--standardise", "parent") == 0
        assert {row["smiles"] for row in read(tmp_path / "o.csv")} == {"CCCCN", "CCCCCN"}
        said = capsys.readouterr().err
        assert "2 more candidates are other forms of measured molecules, and not suggested: " in said
        assert "line 12 (with hydrochloride) is the same molecule as L0" in said
        assert self.suggest(tmp_path, measured, library, "-q", 3, "--standardise", "parent") == 2
        assert "the library has only 2 that are not measured yet" in capsys.readouterr().err
        assert self.suggest(tmp_path, measured, library, "-q", 4) == 0
        assert "--standardise parent takes them as the same" in capsys.readouterr().err
        assert self.suggest(tmp_path, measured, library, "--standardise", "all") == 2

    def test_a_very_long_molecule_is_listed_and_not_drawn(self, tmp_path):
        pytest.importorskip("matplotlib", reason="the extra plot is not installed")
        measured = [[s, i + 0.5] for i, s in enumerate(ALCOHOLS)]
        library = ["C" * 5000, "CCCCCN", "C" * 10_001]
        assert self.suggest(tmp_path, measured, library, "-q", 2, "--report", tmp_path / "r.html") == 0
        assert "C" * 5000 in (tmp_path / "r.html").read_text()
        (row,) = read(tmp_path / "o.rejected.csv")
        assert (row["line"], row["reason"]) == ("4", "more than 10,000 characters")

    def test_files_of_other_formats(self, tmp_path, capsys):
        pytest.importorskip("openpyxl", reason="the extra files is not installed")
        from openpyxl import Workbook

        book = Workbook()
        book.create_sheet("plate 2").append(["smiles", "pIC50"])
        for i, smiles in enumerate(ALCOHOLS):
            book["plate 2"].append([smiles, i / 2])
        book.save(tmp_path / "m.xlsx")
        (tmp_path / "l.smi").write_text("CCCCN amine\nCCCCCN\nCCN |x| name\n")
        line = [
            "suggest",
            "--measured",
            tmp_path / "m.xlsx",
            "--library",
            tmp_path / "l.smi",
            "--out",
            tmp_path / "o.csv",
        ]
        assert run(*line, "-q", 3, "--maximize", "--no-cache", "--sheet", "plate 2") == 0
        assert {row["id"]: row["smiles"] for row in read(tmp_path / "o.csv")} == {
            "amine": "CCCCN", "": "CCCCCN", "name": "CCN"
        }  # fmt: skip
        assert "note: m.xlsx: sheet 'plate 2' is read; there are also 'Sheet'" in capsys.readouterr().err


class TestFit:
    def fit(self, path: Path, *more: object) -> int:
        return run("fit", path, "--target", "y", "--out", path.with_suffix(".gp"), "--seed", 1, *more)

    def test_a_target_of_text_is_refused(self, tmp_path, capsys):
        rows = [[i, f"text {i}"] for i in range(20)]
        rows[7][1] = 3.5
        path = write(tmp_path / "t.csv", ["a", "y"], rows)
        line = ["fit", path, "--target", "y", "--out", tmp_path / "m.gp"]
        assert "1 of 20 filled cells are numbers (line 2: 'text 0')" in refused(capsys, *line)
        assert not (tmp_path / "m.gp").exists()

    def test_decimal_commas_row_numbers_and_missing_words(self, tmp_path, capsys):
        rows = [f"{i};{i / 8:.3f};{(i / 8) ** 2:.2f}".replace(".", ",") for i in range(16)]
        rows[4] = "4;0,500;n.d."
        rows[5] = "5;0,625;>0,3"
        path = tmp_path / "t.csv"
        path.write_text(";a;y\n" + "\n".join(rows) + "\n", encoding="utf-16")
        assert self.fit(path) == 0
        said = capsys.readouterr().err
        for words in (
            "read as UTF-16",
            "decimal commas",
            "unnamed 1 (row numbers)",
            "14 rows, inputs a;",
            "1 cells are bounds",
        ):
            assert words in said
        listed = {int(row["line"]): row["reason"] for row in read(tmp_path / "t.gp.rejected.csv")}
        assert listed == {6: "y: no value: 'n.d.'", 7: "y: not a number but a bound: '>0,3'"}

    def test_the_decimal_sign_is_asked_for(self, tmp_path, capsys):
        path = write(
            tmp_path / "t.csv",
            ["a", "y"],
            [[i, y] for i, y in enumerate(["1.234", "950", "2.345", "870", "1.111"])],
        )
        assert "line 2, column 'y': '1.234' beside '950'" in refused(
            capsys, "fit", path, "--target", "y", "--out", tmp_path / "m.gp"
        )
        assert self.fit(path, "--decimal", ",") == 0
        model = tmp_path / "t.gp"
        assert run("predict", model, path, "--out", tmp_path / "p.csv", "--decimal", ",") == 0
        assert max(float(row["mean"]) for row in read(tmp_path / "p.csv")) > 500

    def test_devices_and_other_files_as_tables(self, tmp_path, capsys):
        (tmp_path / "a.csv").write_bytes(b"%PDF-1.7")
        for path, words in (
            (tmp_path / "a.csv", "a PDF"),
            ("/dev/zero", "a device|no such file"),
            (tmp_path, "a folder"),
        ):
            message = refused(capsys, "fit", path, "--target", "y", "--out", tmp_path / "m.gp")
            assert any(word in message for word in words.split("|"))


def test_a_file_of_suggestions_is_read_with_its_own_values(files):
    """What suggest writes is a table for the next day: ids, SMILES and numbers come back."""
    line = [
        "suggest",
        "--measured",
        files["m"],
        "--library",
        files["l"],
        "--out",
        files["out"],
        "--maximize",
        "-q",
        3,
    ]
    assert run(*line, "--no-cache", "--seed", 1, "--id-column", "code") == 0
    back = read_molecules(files["out"], value_column="predicted_mean")
    rows = read(files["out"])
    assert back.smiles == [row["smiles"] for row in rows]
    assert back.ids == [row["id"] for row in rows]
    assert back.values.tolist() == [float(row["predicted_mean"]) for row in rows]
