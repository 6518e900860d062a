"""The command line on tiny files: what it writes, what it refuses, and that nothing is half written."""

from __future__ import annotations

import csv
import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")
pytest.importorskip("rich", reason="the extra cli is not installed")

from sggp.cli import main
from sggp.datasets import nci_first_5k

ALCOHOLS = ["CO", "CCO", "CCCO", "CCCCO", "CCCCCO", "CCCCCCO", "CC(C)O", "CC(C)CO", "OCCO", "OCCCO"]
LIBRARY = [*ALCOHOLS, "CCCCCCCO", "CCCCCCCCO", "c1ccccc1O", "c1ccccc1CO", "CCN", "CCCN", "CCCCN", "OCC(O)CO"]


def write(path: Path, header: list[str], rows: list[list[object]]) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """Run a command that must fail with exit code 2 and one line on stderr; return that line."""
    capsys.readouterr()
    assert main([str(part) for part in argv]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(autouse=True)
def _caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes fingerprints into the user's cache."""
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    rows = [[name, float(name.count("C"))] for name in ALCOHOLS]
    measured = [*rows, ["CCO", 2.2], ["not a molecule", 1.0], ["CCC", "high"], ["CCCC", "nan"], ["", 3.0]]
    library = [[f"L{i}", smiles] for i, smiles in enumerate([*LIBRARY, "OCC", "C1CC"])]
    return {
        "m": write(tmp_path / "m.csv", ["SMILES", "activity"], measured),
        "l": write(tmp_path / "l.csv", ["code", "smiles"], library),
        "out": tmp_path / "next.csv",
    }


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
    @pytest.fixture(autouse=True)
    def _extras(self) -> None:
        pytest.importorskip("rdkit", reason="the extra molecules is not installed")

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
        sampled = [float(row["sampled_value"]) for row in rows]
        assert sampled == sorted(sampled, reverse=True)

    def test_every_unusable_row_is_listed_with_its_line(self, files):
        assert main([str(part) for part in suggest_line(files, "--minimize", "-q", 2, "--seed", 1)]) == 0
        listed = {
            (row["file"], int(row["line"])): row["reason"]
            for row in read(files["out"].with_suffix(".rejected.csv"))
        }
        assert set(listed) == {("m.csv", n) for n in (13, 14, 15, 16)} | {("l.csv", 20), ("l.csv", 21)}
        assert "not a number" in listed["m.csv", 14]
        assert "not finite" in listed["m.csv", 15]
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


class TestFitAndPredict:
    @pytest.fixture
    def numbers(self, tmp_path: Path) -> Path:
        rows: list[list[object]] = [
            [i / 20, (i * 7) % 5, "label", 100 + 3 * (i / 20) ** 2] for i in range(40)
        ]
        rows[5][0] = "wet"
        rows[6][3] = ""
        return write(tmp_path / "t.csv", ["a", "b", "note", "y"], rows)

    def test_a_model_predicts_in_the_units_of_the_target(self, numbers, tmp_path, capsys):
        model, out = tmp_path / "m.sggp", tmp_path / "p.csv"
        assert main(["fit", str(numbers), "--target", "y", "--out", str(model), "--seed", "1"]) == 0
        said = capsys.readouterr()
        assert "no numbers in them: note" in said.err
        assert [int(row["line"]) for row in read(model.with_suffix(".rejected.csv"))] == [7, 8]
        assert main(["predict", str(model), str(numbers), "--out", str(out)]) == 0
        predicted = read(out)
        truth = {line: row["y"] for line, row in enumerate(read(numbers), start=2)}
        assert len(predicted) == 39
        for row in predicted:
            if truth[int(row["line"])]:
                assert abs(float(row["mean"]) - float(truth[int(row["line"])])) < 0.3
            assert float(row["std"]) >= 0
        assert [int(row["line"]) for row in read(out.with_suffix(".rejected.csv"))] == [7]

    def test_bad_requests_are_refused(self, numbers, tmp_path, capsys):
        model = tmp_path / "m.sggp"
        fit = ["fit", numbers, "--out", model]
        assert "no column 'z'" in refused(capsys, *fit, "--target", "z")
        assert "no column 'c'" in refused(capsys, *fit, "--target", "y", "--features", "a,c")
        assert "cannot be one of" in refused(capsys, *fit, "--target", "y", "--features", "a,y")
        assert "--kernel" in refused(capsys, *fit, "--target", "y", "--kernel", "cubic")
        assert "no row is complete" in refused(capsys, *fit, "--target", "note")
        assert "--target" in refused(capsys, *fit)
        assert not model.exists()
        model.write_text("no model")
        assert "not a model" in refused(capsys, "predict", model, numbers, "--out", tmp_path / "p.csv")
        assert "no such model" in refused(
            capsys, "predict", tmp_path / "x", numbers, "--out", tmp_path / "p.csv"
        )


class TestCampaign:
    def start(self, tmp_path: Path) -> Path:
        store = tmp_path / "c.db"
        bounds = ["--bound", "time=0:10", "--bound", "heat=20:80"]
        assert main(["campaign", "init", str(store), *bounds, "--minimize", "--seed", "2"]) == 0
        return store

    def test_a_box_campaign_from_start_to_report(self, tmp_path, capsys):
        store, batch = self.start(tmp_path), tmp_path / "b.csv"
        assert main(["campaign", "ask", str(store), "-q", "3", "--out", str(batch)]) == 0
        rows = read(batch)
        assert list(rows[0]) == ["id", "time", "heat", "value"]
        assert all(0 <= float(r["time"]) <= 10 and 20 <= float(r["heat"]) <= 80 for r in rows)
        rows[0]["value"] = "1.25"
        told = write(tmp_path / "told.csv", list(rows[0]), [list(row.values()) for row in rows])
        assert main(["campaign", "tell", str(store), "--from", str(told)]) == 0
        assert main(["campaign", "tell", str(store), "2", "0.5"]) == 0
        assert main(["campaign", "fail", str(store), "3", "--reason", "spilled"]) == 0
        capsys.readouterr()
        assert main(["campaign", "status", str(store)]) == 0
        assert "2 measured, 0 pending, 1 failed" in capsys.readouterr().out
        pytest.importorskip("matplotlib", reason="the extra plot is not installed")
        assert main(["campaign", "report", str(store), "--out", str(tmp_path / "r.html")]) == 0
        check_alone((tmp_path / "r.html").read_text())

    def test_a_library_campaign_starts_from_measurements(self, files, tmp_path, capsys):
        pytest.importorskip("rdkit", reason="the extra molecules is not installed")
        store = tmp_path / "c.db"
        line = ["campaign", "init", store, "--library", files["l"], "--measured", files["m"], "--maximize"]
        assert main([str(part) for part in line]) == 0
        assert "11 measured" in capsys.readouterr().out
        assert main(["campaign", "ask", str(store), "-q", "4", "--out", str(tmp_path / "b.csv")]) == 0
        asked = [row["smiles"] for row in read(tmp_path / "b.csv")]
        assert len(set(asked)) == 4
        assert not set(asked) & set(ALCOHOLS)

    def test_bad_requests_are_refused(self, tmp_path, capsys):
        store = tmp_path / "c.db"
        init = ["campaign", "init", store]
        assert "exactly one of" in refused(capsys, *init, "--bound", "x=0:1")
        assert "either --library FILE or" in refused(capsys, *init, "--maximize")
        for bad in ("x", "x=1", "x=a:b", "=0:1"):
            assert "NAME=LOW:HIGH" in refused(capsys, *init, "--maximize", "--bound", bad)
        assert "not below" in refused(capsys, *init, "--maximize", "--bound", "x=1:0")
        assert "no such campaign" in refused(capsys, "campaign", "ask", store)
        assert not store.exists()
        self.start(tmp_path)
        assert "never overwritten" in refused(capsys, *init, "--maximize", "--bound", "x=0:1")
        assert main(["campaign", "ask", str(store), "-q", "2"]) == 0
        assert "no trial 9" in refused(capsys, "campaign", "tell", store, 9, 1.0)
        assert "finite" in refused(capsys, "campaign", "tell", store, 1, "nan")
        assert "--from FILE" in refused(capsys, "campaign", "tell", store, 1)
        table = write(tmp_path / "t.csv", ["id", "value"], [[1, 2.0], [2, "wet"]])
        assert "nothing was stored" in refused(capsys, "campaign", "tell", store, "--from", table)
        capsys.readouterr()
        assert main(["campaign", "status", str(store)]) == 0
        assert "0 measured, 2 pending" in capsys.readouterr().out


def check_alone(text: str) -> None:
    """An HTML text that loads nothing from anywhere."""
    assert text.startswith("<!DOCTYPE html>")
    sources = re.findall(r'(?:src|href|url)\s*[=(]\s*"?([^">)]{0,20})', text)
    assert sources
    assert all(source.startswith("data:") for source in sources)


def test_quick_demo_writes_its_three_files(tmp_path, capsys):
    pytest.importorskip("rdkit", reason="the extra molecules is not installed")
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    out = tmp_path / "demo"
    assert main(["demo", "--quick", "--out", str(out), "--seed", "2"]) == 0
    said = capsys.readouterr().out
    assert "best molecules found" in said
    shown = [line.split("│")[4].strip() for line in said.splitlines() if line.startswith("│")]
    assert len(shown) == 10
    assert set(shown) <= set(nci_first_5k().smiles)  # as they stand in the file
    check_alone((out / "report.html").read_text())
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")
    rows = read(out / "results.csv")
    assert len(rows) == 60
    assert len({row["library_row"] for row in rows}) == 60
    best = [float(row["best_so_far"]) for row in rows]
    assert best == sorted(best)
    assert all(row["predicted_std"] for row in rows[50:])
    assert "--property" in refused(capsys, "demo", "--quick", "--out", out, "--property", "taste")


def test_no_command_and_unknown_commands_are_refused_in_one_line(capsys):
    assert "see --help" in refused(capsys)
    assert "frobnicate" in refused(capsys, "frobnicate")
    capsys.readouterr()
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for name in ("demo", "suggest", "fit", "predict", "campaign", "bench"):
        assert name in said


def test_without_typer_the_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "typer" else object())
    assert main(["demo"]) == 2
    assert 'pip install "sggp[cli]"' in capsys.readouterr().err


def test_without_matplotlib_a_report_is_refused_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert 'pip install "sggp[plot]"' in refused(capsys, "demo", "--out", tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_the_command_lets_idle_threads_sleep_unless_told_otherwise() -> None:
    """Set before torch is loaded, in a process of its own; what the user set stays."""
    code = (
        "import os, sys; from sggp.cli import main; main(['--help']); print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    clean = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}

    def last_line(code: str, environment: dict[str, str]) -> str:
        found = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        return found.stdout.strip().splitlines()[-1]

    assert last_line(code, clean) == "1000"
    assert last_line(code, {**clean, "GOMP_SPINCOUNT": "7"}) == "7"
    assert last_line("import torch; " + code, clean) == "None"
