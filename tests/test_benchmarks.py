"""Every benchmark runs, on a few rows: numbers come from quiet machines, not from here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = {
    "readme.py": ["--rows", "60", "--sets", "concrete", "--adam-seconds", "0.2"],
    "passes.py": ["--rows", "400", "--sets", "pol", "britain_magnetic"],
    "primal.py": ["--parts", "uci", "centres", "--sets", "pol", "bike", "--rows", "300"],
    "growth.py": ["--largest", "500", "--sets", "britain_magnetic", "--repeats", "2"],
    "solvers.py": ["--rows", "400", "--parts", "precision"],
    "gradient.py": ["--rows", "60", "--features", "64", "--replicates", "2"],
    "likelihood.py": ["--rows", "300", "--seeds", "1"],
    "untuned.py": ["--rows", "300", "--max-seconds", "0.2", "--sets", "pol", "bike-1e-6", "clustered", "n=5"],
    "resume.py": ["--rows", "400", "--samples", "2", "--methods", "Auto"],
    "fit.py": [
        *("--rows", "150", "--repeats", "1", "--cap-seconds", "0.5", "--sets", "yacht"),
        *("--peers", "exact", "svgp", "scikit-learn"),
    ],
    "engines.py": ["--rows", "200", "--repeats", "1", "--sets", "float64", "counts"],
    "tanimoto_fit.py": ["--rows", "300", "--targets", "F2", "PGR"],
    "calibration.py": [
        *("--sets", "yacht", "--rows", "20", "--splits", "1"),
        *("--samples", "8", "--warmup", "10"),
    ],
    "predict.py": [
        "--rows",
        "300",
        "--points",
        "50",
        "--candidates",
        "400",
        "--fingerprints",
        "30",
        "--repeats",
        "1",
    ],
    "variance.py": ["--rows", "300", "--points", "20", "--seeds", "1", "--many", "100"],
}
RACE = ["--rows", "300", "--methods", "AlternatingProjections", "--cap-seconds", "0.3", "--samples", "3"]


def test_every_benchmark_is_listed_here(root: Path) -> None:
    found = {path.name for path in (root / "benchmarks").glob("*.py")}
    assert found == set(SCRIPTS)


def printed(root: Path, script: str, *arguments: str) -> list[str]:
    """The rows of the tables that a script prints."""
    command = [sys.executable, str(root / "benchmarks" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "machine:" in done.stdout
    assert "versions:" in done.stdout
    return [line for line in done.stdout.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "readme.py"])
def test_benchmark_runs_and_prints_its_table(script: str, root: Path, data_dir: Path) -> None:
    assert len(printed(root, script, *SCRIPTS[script])) >= 3


def test_the_readme_shows_the_table_that_its_script_prints(root: Path, data_dir: Path) -> None:
    head, _, *rows = printed(root, "readme.py", *SCRIPTS["readme.py"])
    columns = [cell.strip() for cell in head.split("|")]
    lines = (root / "README.md").read_text(encoding="utf-8").splitlines()
    tables = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("|")]
    shown = tables[tables.index(columns) + 2 :]
    assert len(rows) == 1
    assert [row[1].split(" ")[0] for row in shown[:4]] == ["concrete", "wine", "POL", "PROTEIN"]


@pytest.mark.slow
def test_solvers_race_their_peers(root: Path, data_dir: Path, tmp_path: Path) -> None:
    picture = tmp_path / "race.png"
    mean = ["--parts", "mean", "low-noise", "--sets", "pol", "--repeats", "1", "--plot", str(picture)]
    samples = ["--parts", "samples", "accuracy", "--sets", "keggdirected", "--repeats", "2"]
    for part, cache, most in ((mean, "pol-300-0", 12), (samples, "keggdirected-300-3", 13)):
        rows = printed(root, "solvers.py", *RACE, *part, "--cache", str(tmp_path))
        for name in ("Auto", "AlternatingProjections", "GPyTorch CG", "float32 Cholesky", "textbook SDD"):
            assert any(name in row for row in rows)
        exact = [row for row in rows if row.startswith(("| Auto", "| float32 Cholesky"))]
        assert not any("–" in row for row in exact)  # these are as close as asked for
        assert len(rows) == most
        assert (tmp_path / f"{cache}.npz").is_file()
    assert picture.stat().st_size > 1000
