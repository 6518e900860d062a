"""Every benchmark runs, on a few rows: numbers come from quiet machines, not from here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = {
    "spine.py": ["--rows", "400", "--repeats", "1"],
    "passes.py": ["--rows", "400", "--sets", "pol"],
}


def test_every_benchmark_is_listed_here(root: Path) -> None:
    found = {path.name for path in (root / "benchmarks").glob("*.py")} - {"common.py"}
    assert found == set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_benchmark_runs_and_prints_its_table(script: str, root: Path, data_dir: Path) -> None:
    command = [sys.executable, str(root / "benchmarks" / script), *SCRIPTS[script]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "machine:" in done.stdout
    assert "versions:" in done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) >= 5
