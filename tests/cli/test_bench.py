"""`sggp bench` and `sggp bench engines` say what they measured; how fast anything is does not matter here."""

from __future__ import annotations

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")
pytest.importorskip("rich", reason="the extra cli is not installed")

from sggp.cli import main
from sggp.cli.bench import machine
from sggp.native import cpu, library


def test_bench_prints_ceilings_and_rates(capsys, monkeypatch):
    monkeypatch.setattr(machine, "_ROWS", 64)
    monkeypatch.setattr(machine, "_FINGERPRINTS", 64)
    monkeypatch.setattr(machine, "_best_time", lambda call: (call(), 0.5)[1])
    assert main(["bench"]) == 0
    said = capsys.readouterr().out
    assert "sgemm" in said
    assert "Tanimoto" in said


def test_bench_engines_prints_every_engine_and_its_share(capsys):
    assert main(["bench", "engines", "--rows", "64", "--repeats", "1"]) == 0
    said = capsys.readouterr().out
    for word in (
        "sgemm",
        "exp",
        "memory",
        "bound",
        "share",
        "torch",
        "2048 bits",
        "1024 counts",
        "d = 90, s = 65",
    ):
        assert word in said
    for isa in cpu.instruction_sets()[-1:]:
        assert f"C++ ({isa})" in said
        assert "popcount" in said
    assert "no C++ engine" not in said or not cpu.available()


def test_bench_engines_without_the_library_says_so(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    library._loaded.cache_clear()
    try:
        assert main(["bench", "engines", "--rows", "16", "--repeats", "1"]) == 0
    finally:
        library._loaded.cache_clear()
    said = capsys.readouterr().out
    assert "no C++ engine: the C++ engine was not built" in said
    assert "C++ (" not in said
    assert "torch" in said
