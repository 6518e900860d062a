"""The command line on tiny files: what it writes, what it refuses, and that nothing is half written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import sggp
import sggp.cli

pytest.importorskip("typer", reason="the extra cli is not installed")
pytest.importorskip("rich", reason="the extra cli is not installed")

import typer

from sggp.bayesopt.rules import DEFAULT_RULE
from sggp.cli import main
from sggp.cli.app import build
from sggp.datasets import nci_first_5k
from tests.cli.commands import check_alone, read, refused, write
from tests.scripts import Scripts


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
        assert "not a file written by sggp" in refused(
            capsys, "predict", model, numbers, "--out", tmp_path / "p.csv"
        )
        assert "there is no file" in refused(
            capsys, "predict", tmp_path / "x", numbers, "--out", tmp_path / "p.csv"
        )


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
    mine = write(tmp_path / "results.csv", ["mine"], [[1]])
    assert "results.csv, not written by sggp demo" in refused(capsys, "demo", "--quick", "--out", tmp_path)
    assert mine.read_bytes() == b"mine\r\n1\r\n"


def test_no_command_and_unknown_commands_are_refused_in_one_line(capsys):
    assert "see --help" in refused(capsys)
    assert "frobnicate" in refused(capsys, "frobnicate")
    capsys.readouterr()
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sggp {sggp.__version__}\n"
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for name in ("demo", "suggest", "fit", "predict", "plan", "campaign", "bench"):
        assert name in said


def _single_valued() -> list[tuple[list[str], str, str]]:
    """Command, first and last name of every option of one value."""

    def below(command: Any, words: list[str]) -> Iterator[tuple[list[str], str, str]]:
        for name, inner in getattr(command, "commands", {}).items():
            yield from below(inner, [*words, name])
        for option in command.params:
            if option.param_type_name == "option" and not option.is_flag and not option.multiple:
                yield words, option.opts[0], option.opts[-1]

    return [*below(typer.main.get_command(build()), [])]


def test_an_option_of_one_value_is_given_once(capsys):
    options = _single_valued()
    assert len(options) > 80
    for words, option, other in options:
        said = refused(capsys, *words, option, "1", other, "2")  # the last won, and nobody was told
        assert "is given 2 times" in said
        assert option in said


def test_options_of_several_values_and_flags_may_be_given_again(tmp_path, capsys):
    store = tmp_path / "c.db"
    line = [
        "campaign",
        "init",
        store,
        "--bound",
        "a=0:1",
        "--bound",
        "b=0:2",
        "--maximize",
        "--maximize",
        "--json",
    ]
    assert main([str(word) for word in [*line, "--json"]]) == 0


def test_the_package_is_the_command(scripts: Scripts) -> None:
    done = scripts.run("-m", "sggp", "--version", anew=("sggp",))
    assert (done.returncode, done.stdout) == (0, f"sggp {sggp.__version__}\n")


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


BESIDE_TORCH = """
import os, sys, types
import sggp.cli
app = types.ModuleType("sggp.cli.app")
app.run = lambda argv: print("torch" in sys.modules, os.environ.get("GOMP_SPINCOUNT"))
sys.modules["sggp.cli.app"] = app  # the module that loads torch; what it would find is said
sggp.cli.main([])
"""


def test_the_command_lets_idle_threads_sleep_unless_told_otherwise() -> None:
    """Set before torch is loaded, in a process of its own; what the user set stays."""
    clean = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}

    def said(code: str, environment: dict[str, str]) -> str:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert said(BESIDE_TORCH, clean) == "False 1000"
    assert said(BESIDE_TORCH, {**clean, "GOMP_SPINCOUNT": "7"}) == "False 7"
    loaded = "import sys, types; sys.modules['torch'] = types.ModuleType('torch')"
    assert said(loaded + BESIDE_TORCH, clean) == "True None"


def test_the_command_lets_large_memory_go_unless_told_otherwise(monkeypatch):
    """Before torch is loaded; what the user set stays, and so does a C library that has no such option."""
    set_options = []
    library = SimpleNamespace(mallopt=lambda *option: set_options.append(option))
    monkeypatch.setattr("sggp.cli.ctypes.CDLL", lambda name: library)
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    sggp.cli._give_memory_back()
    assert set_options == []  # torch is loaded here
    monkeypatch.delitem(sys.modules, "torch")
    sggp.cli._give_memory_back()
    assert set_options == [(-3, 2 * 2**20)]
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1")
    sggp.cli._give_memory_back()
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_")
    monkeypatch.delattr(library, "mallopt")
    sggp.cli._give_memory_back()
    assert len(set_options) == 1


def test_an_interruption_while_it_starts(monkeypatch, capsys):
    class Loading(ModuleType):
        def __getattr__(self, name: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "sggp.cli.app", Loading("sggp.cli.app"))
    assert main(["--version"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
