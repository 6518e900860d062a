"""The week of `docs/chemists_week.md`, walked as it is written: every script and command, in order, in one folder."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from sggp.cli import main
from tests.cli.commands import check_alone, read

PAGE = Path(__file__).resolve().parents[2] / "docs" / "chemists_week.md"


@pytest.fixture(autouse=True)
def _no_pictures() -> None:
    """Here they are drawn."""


def test_the_week_goes_as_written(tmp_path, monkeypatch, capsys):
    pytest.importorskip("rdkit", reason="the extra molecules is not installed")
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    (script,) = re.findall(r"^```py\n(.*?)^```", text, flags=re.M | re.S)
    Path("lab.py").write_text(script, encoding="utf-8")
    said = ""
    for block in re.findall(r"^```bash\n(.*?)^```", text, flags=re.M | re.S):
        for line in block.splitlines():
            program, *words = shlex.split(line)
            if program == "python":
                monkeypatch.setattr(sys, "argv", words)
                runpy.run_path(words[0], run_name="__main__")
            else:
                assert program == "sggp"
                assert main(words) == 0, line
            said += capsys.readouterr().out
    assert "with probability" in said  # the answer to "is it worth going on?"
    assert "read off the wrong plate" in said
    check_alone(Path("week.html").read_text(encoding="utf-8"))
    assert main(["campaign", "results", "week.db", "--json"]) == 0
    trials = json.loads(capsys.readouterr().out)
    counted = [t["key"] for t in trials if t["state"] != "withdrawn"]
    assert len(set(counted)) == len(counted)  # no molecule twice
    states = [t["state"] for t in trials if t["batch"] == 1]
    assert sorted(states) == sorted(["measured"] * 5 + ["withdrawn", "failed", "pending"])
    assert len(read(Path("thursday.csv"))) == 8
