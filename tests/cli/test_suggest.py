"""`sggp suggest` on small files: what it chooses, lists, shows and refuses."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")
pytest.importorskip("rich", reason="the extra cli is not installed")
pytest.importorskip("rdkit", reason="the extra molecules is not installed")

from sggp.cli import main
from tests.cli.commands import ALCOHOLS, LIBRARY, check_alone, read, refused, write


def suggest_line(files: dict[str, Path], *more: object) -> list[object]:
    return [
        "suggest",
        "--measured",
        files["m"],
        "--library",
        files["l"],
        "--out",
        files["out"],
        "--no-cache",
        *more,
    ]


class TestSuggest:
    def test_it_suggests_molecules_that_are_not_measured(self, files, capsys):
        line = suggest_line(files, "--maximize", "-q", 5, "--seed", 1, "--id-column", "code")
        assert main([str(part) for part in line]) == 0
        said = capsys.readouterr()
        assert "'SMILES'" in said.err
        assert "'activity'" in said.err
        rows = read(files["out"])
        assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
        chosen = [row["smiles"] for row in rows]
        assert len(set(chosen)) == 5
        assert not set(chosen) & set(ALCOHOLS)
        for row in rows:
            assert row["id"] == f"L{row['library_row']}"
            assert LIBRARY[int(row["library_row"])] == row["smiles"]
            assert float(row["predicted_std"]) > 0
            assert row["why"].startswith(f"expected {float(row['predicted_mean']):.4g} ±")

    def test_every_unusable_row_is_listed_with_its_line(self, files):
        assert main([str(part) for part in suggest_line(files, "--minimize", "-q", 2, "--seed", 1)]) == 0
        listed = {
            (row["file"], int(row["line"])): row["reason"]
            for row in read(files["out"].with_suffix(".rejected.csv"))
        }
        assert set(listed) == {("m.csv", n) for n in (13, 14, 15, 16)} | {("l.csv", 20), ("l.csv", 21)}
        assert "not a number" in listed["m.csv", 14]
        assert listed["m.csv", 15] == "activity: no value: 'nan'"
        assert "same molecule as line 3" in listed["l.csv", 20]

    def test_molecules_are_shown_as_the_user_wrote_them(self, tmp_path, capsys):
        """Not as markup (`[nH]`, `[n+]`), not as emoji (`:o:`), not canonical, and in one piece."""
        names = ["c1cc[nH]c1", "C[n+]1ccccc1", "C1:C:C:O:C:1".lower(), "OCC", "C(" * 40 + "C" + ")C" * 40]
        library = write(
            tmp_path / "l.csv", ["code", "smiles"], [[f"[bold]{i}", s] for i, s in enumerate(names)]
        )
        measured = write(
            tmp_path / "m.csv", ["smiles", "value"], [[s, len(s)] for s in ALCOHOLS if s != "CCO"]
        )
        line = ["suggest", "--measured", measured, "--library", library, "--out", tmp_path / "o.csv", "-q", 5]
        line += ["--no-cache", "--maximize", "--id-column", "code"]
        assert main([str(part) for part in line]) == 0
        said = capsys.readouterr().out
        for i, name in enumerate(names):
            assert name in said
            assert f"[bold]{i}" in said
        store = tmp_path / "c.db"
        assert main([str(p) for p in ["campaign", "init", store, "--library", library, "--maximize"]]) == 0
        assert main(["campaign", "ask", str(store), "-q", "5"]) == 0
        said = capsys.readouterr().out
        assert [name for name in names if name not in said] == []

    def test_repeats_are_listed_as_the_user_wrote_them(self, files):
        assert main([str(part) for part in suggest_line(files, "--minimize", "-q", 2, "--seed", 1)]) == 0
        listed = {int(row["line"]): row for row in read(files["out"].with_suffix(".rejected.csv"))}
        assert listed[20]["content"] == "OCC"
        assert listed[20]["reason"] == "same molecule as line 3"

    def test_same_seed_same_file_and_compressed_input_is_the_same(self, files, tmp_path):
        packed = tmp_path / "l.csv.gz"
        packed.write_bytes(gzip.compress(files["l"].read_bytes()))
        line = suggest_line(files, "--maximize", "-q", 3, "--seed", 4)
        assert main([str(part) for part in line]) == 0
        first = files["out"].read_text()
        assert (
            main(
                [
                    str(part)
                    for part in suggest_line({**files, "l": packed}, "--maximize", "-q", 3, "--seed", 4)
                ]
            )
            == 0
        )
        assert files["out"].read_text() == first

    def test_fingerprints_are_kept_in_the_cache(self, files, tmp_path):
        line = suggest_line(files, "--maximize", "-q", 3, "--seed", 4, "--cache", tmp_path / "kept")
        line.remove("--no-cache")
        assert main([str(part) for part in line]) == 0
        first = files["out"].read_text()
        assert len(list((tmp_path / "kept").iterdir())) == 1
        assert main([str(part) for part in line]) == 0
        assert files["out"].read_text() == first

    @pytest.mark.parametrize("stream", [False, True])
    def test_one_absurd_value_does_not_choose(self, files, tmp_path, capsys, stream):
        rows = [[name, float(name.count("C"))] for name in ALCOHOLS]
        small = {**files, "m": write(tmp_path / "s.csv", ["smiles", "y"], rows)}
        line = suggest_line(small, "--maximize", "-q", 3, "--seed", 4)
        if stream:
            line = [part for part in line if part != "--no-cache"] + ["--stream", tmp_path / "one"]
        assert main([str(part) for part in line]) == 0
        first = read(files["out"])
        write(tmp_path / "s.csv", ["smiles", "y"], [*rows, ["CCOC", 1e6]])
        line[-1] = tmp_path / "two" if stream else line[-1]
        capsys.readouterr()
        assert main([str(part) for part in line]) == 0
        assert "line 12: 1e+06, where all others lie within 1 and 6" in capsys.readouterr().err
        assert [row["smiles"] for row in read(files["out"])] == [row["smiles"] for row in first]
        assert float(read(files["out"])[0]["predicted_mean"]) < 20

    def test_the_report_needs_no_other_file(self, files, tmp_path):
        pytest.importorskip("matplotlib", reason="the extra plot is not installed")
        report = tmp_path / "r.html"
        line = suggest_line(files, "--maximize", "-q", 3, "--seed", 4, "--report", report)
        assert main([str(part) for part in line]) == 0
        text = report.read_text()
        check_alone(text)
        assert text.count("data:image/svg+xml") == 3
        assert text.count("data:image/png") == 1

    def test_a_direction_is_required(self, files, capsys):
        assert "exactly one of --maximize and --minimize" in refused(capsys, *suggest_line(files))
        assert "both were given" in refused(capsys, *suggest_line(files, "--maximize", "--minimize"))
        assert not files["out"].exists()

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--smiles-column", "nope"], "no column 'nope'"),
            (["--value-column", "nope"], "no column 'nope'"),
            (["--library-smiles-column", "nope"], "no column 'nope'"),
            (["--id-column", "nope"], "no column 'nope'"),
            (["-q", "0"], "at least 1"),
            (["-q", "50"], "library has only"),
            (["-q", "many"], "valid integer"),
            (["--report", "no/such/folder/r.html"], "does not exist"),
            (["--rule", "oracle"], "'thompson'"),
        ],
    )
    def test_what_cannot_work_is_refused_and_nothing_written(self, files, capsys, more, message):
        files["out"].write_text("yesterday's")
        assert message in refused(capsys, *suggest_line(files, "--maximize", *more))
        assert files["out"].read_text() == "yesterday's"
        assert not list(files["out"].parent.glob("*.part"))

    def test_no_output_replaces_an_input(self, files, capsys):
        for name in ("m", "l"):
            before = files[name].read_bytes()
            line = suggest_line({**files, "out": files[name]}, "--maximize", "-q", 2)
            assert "read as an input" in refused(capsys, *line)
            assert files[name].read_bytes() == before

    def test_unusable_files_are_refused(self, files, tmp_path, capsys):
        empty = tmp_path / "empty.csv"
        empty.write_text("")
        numbers = write(tmp_path / "numbers.csv", ["a", "b"], [[1, 2], [3, 4]])
        invalid = write(tmp_path / "invalid.csv", ["smiles", "value"], [["what", 1.0], ["is this", 2.0]])
        header = write(tmp_path / "header.csv", ["smiles", "value"], [])
        for name, path, message in [
            ("m", empty, "empty"),
            ("l", empty, "empty"),
            ("m", header, "no data row"),
            ("m", tmp_path / "none.csv", "no such file"),
            ("m", tmp_path, "folder"),
            ("l", numbers, "no SMILES column|looks like SMILES"),
            ("m", numbers, "looks like SMILES|SMILES"),
            ("m", invalid, "no usable measurement"),
            ("l", invalid, "no row holds a usable SMILES|usable"),
        ]:
            assert re.search(
                message, refused(capsys, *suggest_line({**files, name: path}, "--maximize", "-q", 2))
            )
            assert not files["out"].exists()


class TestWhatTheModelLearns:
    """Bounds and standard errors count as in campaigns."""

    def predicted(self, tmp_path: Path, told: object, *more: object) -> float:
        """What is expected of one more alcohol when the longest of the measured ones has this value."""
        rows = [[name, told if name == "CCCCCCO" else 5 + 0.3 * name.count("C")] for name in ALCOHOLS]
        files = {
            "m": write(tmp_path / "m.csv", ["smiles", "y"], [row for row in rows if row[1] is not None]),
            "l": write(tmp_path / "l.csv", ["smiles"], [["CCCCCCCO"], ["CCN"]]),
            "out": tmp_path / "o.csv",
        }
        line = suggest_line(files, "--maximize", "-q", 2, "--seed", 1, *more)
        assert main([str(part) for part in line]) == 0
        assert read(tmp_path / "o.rejected.csv") == []
        found = {row["smiles"]: float(row["predicted_mean"]) for row in read(files["out"])}
        return found["CCCCCCCO"]

    def test_a_bound_is_learnt_from(self, tmp_path):
        """It was left out of the model: >9 and <4 said the same."""
        without, above, below = (self.predicted(tmp_path, told) for told in (None, ">9", "<4"))
        assert above > without + 0.3
        assert below < without - 0.3
        assert abs(self.predicted(tmp_path, "<30") - without) < 0.3

    def test_a_standard_error_says_how_much_a_value_counts(self, tmp_path):
        """5±1 was not used at all."""
        without, exact, vague = (self.predicted(tmp_path, told) for told in (None, "9±0.01", "9±50"))
        assert exact > without + 0.5
        assert abs(vague - without) < 0.3

    @pytest.mark.parametrize("column", ["y_std", "Noise std"])
    def test_a_column_of_standard_errors_is_that_of_the_values(self, tmp_path, capsys, column):
        """Campaigns took it, and suggest passed it over without a word."""
        rows = [[name, 9 if name == "CCCCCCO" else 5 + 0.3 * name.count("C")] for name in ALCOHOLS]
        rows += [["CCCCCCCCO", 7], ["CCCCCCCCCO", 8]]
        files = {
            "m": tmp_path / "m.csv",
            "l": write(tmp_path / "l.csv", ["smiles"], [["CCCCCCCO"], ["CCN"]]),
            "out": tmp_path / "o.csv",
        }
        found = {}
        for told in ("", "0.01", "50"):
            errors = [told if name == "CCCCCCO" else "" for name, _ in rows[:-2]] + ["-1", "-0.5"]
            write(
                files["m"], ["smiles", "y", column], [[*row, e] for row, e in zip(rows, errors, strict=True)]
            )
            line = suggest_line(files, "--maximize", "-q", 2, "--seed", 1, "--value-column", "y")
            assert main([str(part) for part in line]) == 0
            said = capsys.readouterr().err
            assert f"standard errors of {3 if told else 2} values from column {column!r}" in said
            found[told] = float(
                next(r["predicted_mean"] for r in read(files["out"]) if r["smiles"] == "CCCCCCCO")
            )
            rejected = read(tmp_path / "o.rejected.csv")
            assert [row["line"] for row in rejected] == [str(len(rows)), str(len(rows) + 1)]
            assert all("at least 0" in row["reason"] for row in rejected)
        assert found["0.01"] > found["50"] + 0.5
        write(files["m"], ["smiles", "y", column], [[*row, "much"] for row in rows])
        line = suggest_line(files, "--maximize", "-q", 2, "--value-column", "y")
        assert main([str(part) for part in line]) == 2
        assert "line 2" in (said := capsys.readouterr().err)
        assert repr(column) in said

    def test_values_are_not_their_own_standard_errors(self, tmp_path, capsys):
        rows = [[name, 5 + 0.3 * name.count("C")] for name in ALCOHOLS]
        files = {
            "m": write(tmp_path / "m.csv", ["smiles", "noise_std"], rows),
            "l": write(tmp_path / "l.csv", ["smiles"], [["CCCCCCCO"], ["CCN"]]),
            "out": tmp_path / "o.csv",
        }
        line = suggest_line(files, "--maximize", "-q", 2, "--value-column", "noise_std")
        assert main([str(part) for part in line]) == 0
        assert "standard errors" not in capsys.readouterr().err

    def test_the_report_and_the_stream_know_bounds(self, tmp_path):
        report, state = tmp_path / "r.html", tmp_path / "s.state"
        assert self.predicted(tmp_path, ">9", "--report", report) == self.predicted(
            tmp_path, ">9", "--stream", state
        )
        check_alone(report.read_text())
        assert "1 of the 10 values are bounds" in report.read_text()

    def test_equal_values_have_no_scale(self, tmp_path, capsys):
        """6, 6, 6 gave 6 ± 7.9, which was the next power of two."""
        files = {
            "m": write(tmp_path / "m.csv", ["smiles", "y"], [[name, 6] for name in ALCOHOLS]),
            "l": write(tmp_path / "l.csv", ["smiles"], [["CCCCCCCO"], ["CCN"]]),
            "out": tmp_path / "o.csv",
        }
        for more in ([], ["--stream", tmp_path / "s.state"]):
            line = suggest_line(files, "--maximize", "-q", 2, "--report", tmp_path / "r.html", *more)
            assert main([str(part) for part in line]) == 0
            rows = read(files["out"])
            assert [(float(row["predicted_mean"]), row["predicted_std"]) for row in rows] == [(6.0, "")] * 2
            assert all("±" not in row["why"] and "equal" in row["why"] for row in rows)
        assert "the choice is close to random" in capsys.readouterr().err
        check_alone((tmp_path / "r.html").read_text())

    def test_concentrations_over_decades_are_pointed_out(self, tmp_path, capsys):
        self.predicted(tmp_path, 20000)
        assert "values lie between 5.3 and 20000, over decades" in capsys.readouterr().err
        self.predicted(tmp_path, 5000)
        assert "decades" not in capsys.readouterr().err
