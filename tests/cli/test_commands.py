"""The command line on tiny files: what it writes, what it refuses, and that nothing is half written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")
pytest.importorskip("rich", reason="the extra cli is not installed")

from sggp.bayesopt.rules import DEFAULT_RULE
from sggp.cli import main
from sggp.datasets import nci_first_5k
from tests.cli.commands import ALCOHOLS, check_alone, read, refused, write


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
        assert "not used: note (the same text in every row)" in said.err
        assert [int(row["line"]) for row in read(tmp_path / "m.sggp.rejected.csv")] == [7, 8]
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
        assert "0 of 40 filled cells are numbers" in refused(capsys, *fit, "--target", "note")
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
        outside = write(tmp_path / "outside.csv", ["smiles", "value"], [["C1=CC=CN1", 9.0], ["CCO", 1.0]])
        more = ["campaign", "init", tmp_path / "d.db", "--library", files["l"], "--measured", outside]
        assert main([str(part) for part in [*more, "--maximize"]]) == 0
        assert main(["campaign", "status", str(tmp_path / "d.db")]) == 0
        assert "C1=CC=CN1" in capsys.readouterr().out  # a molecule that the library does not hold
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


def test_quick_demo_writes_its_three_files(tmp_path, capsys):
    pytest.importorskip("rdkit", reason="the extra molecules is not installed")
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    out = tmp_path / "demo"
    assert main(["demo", "--quick", "--out", str(out), "--seed", "2"]) == 0
    printed = capsys.readouterr()
    said = printed.out
    assert "best molecules found" in said
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if "│" in line]
    molecules = [line[3] for line in cells if len(line) == 4]
    assert len(molecules) == 10
    assert set(molecules) <= set(nci_first_5k().smiles)  # as they stand in the file
    assert not any("." in smiles for smiles in molecules)  # no salts, and it is said
    assert "salts and mixtures" in printed.err
    compared = {line[0].split(" ")[0]: float(line[2]) for line in cells if len(line) == 5}
    assert {"thompson", "greedy", "random", DEFAULT_RULE} == set(compared)
    check_alone((out / "report.html").read_text())
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")
    rows = read(out / "results.csv")
    for rule in set(compared) - {"random"}:
        mine = [row for row in rows if row["rule"] == rule]
        assert len(mine) == len({row["library_row"] for row in mine}) == 60
        best = [float(row["best_so_far"]) for row in mine]
        assert best == sorted(best)
        assert all(row["predicted_std"] for row in mine[50:])
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
