"""What runs scripts for the other tests: each is a process of its own, however it was started."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.scripts import Scripts

LAMBDA = """
import multiprocessing
multiprocessing.get_context("spawn").Process(target={target}, args=([1],)).start()
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "script.py"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("forks", [True, False])
def test_a_script_sees_what_it_was_given_and_leaves_nothing_behind(
    forks: bool, scripts: Scripts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not forks:  # as where there is no safe fork
        monkeypatch.setattr("tests.scripts.FORKS", False)
    text = """
import os, sys, torch
print(__name__, sys.argv[1:], os.getcwd(), os.environ["MINE"], sys.path[0], torch.get_default_dtype())
print("to stderr", file=sys.stderr)
torch.set_default_dtype(torch.float64)
"""
    script = write(tmp_path, text)
    for mine in ("1", "2")[: 1 + forks]:
        done = scripts.run(script, "--rows", 3, cwd=tmp_path, MINE=mine)
        assert done.stdout == f"__main__ ['--rows', '3'] {tmp_path} {mine} {tmp_path} torch.float32\n"
        assert (done.returncode, done.stderr) == (0, "to stderr\n")


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("raise ValueError('lost')", 1, "ValueError: lost"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        (LAMBDA.format(target="lambda x: x"), 1, "pickle"),
        (LAMBDA.format(target="print"), 0, ""),
    ],
    ids=["exit", "error", "killed", "no pickle", "pickle"],
)
def test_a_script_ends_as_it_ends(text: str, code: int, said: str, scripts: Scripts, tmp_path: Path) -> None:
    done = scripts.run(write(tmp_path, text))
    assert done.returncode == code
    assert said in done.stderr


def test_warnings_of_the_library_are_errors_where_they_are_to_be(scripts: Scripts, tmp_path: Path) -> None:
    text = "import warnings; from sggp.errors import NotConverged; warnings.warn('far', NotConverged); print('on')"
    script = write(tmp_path, text)
    assert scripts.run(script).stdout == "on\n"
    assert "NotConverged: far" in scripts.run(script, strict=True).stderr
