"""What the tests of the commands share: small files, and how a command is refused."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from sggp.cli import main

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


def check_alone(text: str) -> None:
    """An HTML text that loads nothing from anywhere."""
    assert text.startswith("<!DOCTYPE html>")
    sources = re.findall(r'(?:src|href|url)\s*[=(]\s*"?([^">)]{0,20})', text)
    assert sources
    assert all(source.startswith("data:") for source in sources)
