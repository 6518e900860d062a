"""Every benchmark runs, on a few rows: numbers come from quiet machines, not from here."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import pytest
import torch

from tests.scripts import ROOT, Scripts

SCRIPTS = {
    "readme.py": ["--rows", "60", "--sets", "concrete", "--adam-seconds", "0.2"],
    "passes.py": ["--rows", "400", "--sets", "pol", "britain_magnetic"],
    "systems.py": ["--rows", "300", "--columns", "3", "--with-fixed", "--sets", "arm-rbf", "airfoil", "pol"],
    "primal.py": ["--parts", "uci", "centres", "--sets", "pol", "bike", "--rows", "300"],
    "plan.py": ["--sizes", "30x3"],
    "growth.py": ["--largest", "500", "--sets", "britain_magnetic", "--repeats", "2"],
    "scale.py": ["--parts", "products", "posterior", "fit", "--rows", "300", "--samples", "2"],
    "solvers.py": ["--rows", "400", "--parts", "precision"],
    "gradient.py": ["--rows", "60", "--features", "64", "--replicates", "2"],
    "likelihood.py": ["--rows", "300", "--seeds", "1"],
    "untuned.py": ["--rows", "300", "--max-seconds", "0.2", "--sets", "pol", "bike-1e-6", "clustered", "n=5"],
    "resume.py": ["--rows", "400", "--samples", "2", "--methods", "Auto"],
    "fit.py": [
        *("--rows", "150", "--repeats", "1", "--cap-seconds", "0.5", "--sets", "yacht"),
        *("--peers", "exact", "svgp", "scikit-learn"),
    ],
    "ranks.py": ["--rows", "400", "--columns", "2", "--repeats", "1", "--ranks", "1", "2"],
    "engines.py": ["--rows", "100", "--repeats", "1", "--sets", "float64", "counts"],
    "tanimoto_fit.py": ["--rows", "300", "--targets", "F2", "PGR"],
    "fingerprints.py": [
        "--libraries",
        "esol",
        "--rows",
        "20",
        "--draws",
        "1",
        "--size",
        "60",
        "--parts",
        "all",
    ],
    "calibration.py": [
        *("--sets", "yacht", "--rows", "20", "--splits", "1"),
        *("--samples", "8", "--warmup", "10"),
    ],
    "small_bo.py": [
        *("--functions", "branin", "--seeds", "1", "--strategies", "logei", "thompson"),
        *("--noise", "noisy", "--rounds", "2"),
    ],
    "suggest.py": ["--rows", "100", "--measured", "30"],
    "screening.py": [
        *("--libraries", "enamine10k", "--rows", "300", "--seeds", "0"),
        *("--contenders", "ucb", "hypervolume", "forest", "exact-ucb", "botorch-ucb", "botorch-ts", "qpo"),
    ],
    "densities.py": [
        *("--tables", "yacht", "energy", "--splits", "0", "--rows", "60"),
        *("--contenders", "homoscedastic", "scikit-learn"),
    ],
    "kernels.py": ["--tables", "yacht", "--splits", "1", "--rows", "60"],
    "smoothness.py": [
        *("--functions", "steps", "--rows", "40", "--seeds", "1"),
        *("--tables", "yacht", "--splits", "1"),
    ],
    "few_rows.py": ["--sets", "yacht", "--molecules", "--rows", "6", "--draws", "2"],
    "paths.py": [
        *("--families", "matern32", "product", "tanimoto", "--rows", "12", "--dims", "1", "--noise", "1e-4"),
        *("--paths", "64", "--features", "64", "--queries", "40"),
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
    "outlook.py": ["--libraries", "esol", "--rows", "300", "--seeds", "1", "--rules", "ucb", "--paths", "32"],
    "out_of_core.py": [
        *("--rows", "600", "--columns", "3", "--samples", "2", "--steps", "3"),
        *("--batch", "64", "--features", "32", "--test", "20"),
    ],
    "budgets.py": ["--rows", "300", "--systems", "function", "--epochs", "6"],
    "gpu.py": ["--dry-run", "--parts", "correct", "rates", "n541508d3"],
    "stream.py": ["--rows", "60", "--files", "2", "--measured", "8", "--batch", "2"],
    "combinatorial.py": ["--size", "tiny", "--budget", "70", "--seeds", "0", "--objectives", "log P"],
    "faces.py": [
        *("--rows", "40", "--candidates", "200", "--points", "200", "--repeats", "1"),
        *("--parts", "functions", "molecules"),
    ],
    "kills.py": ["--kills", "2", "--modes", "store"],
    "thompson.py": [
        *(
            "--rows",
            "40",
            "--batch",
            "6",
            "--steps",
            "1",
            "--seeds",
            "1",
            "--scales",
            "0.4",
            "--dimension",
            "3",
        ),
        *("--candidates", "32", "--ascent", "4", "--contenders", "auto", "sdd", "turbo", "random"),
    ],
    "variance.py": ["--rows", "300", "--points", "20", "--seeds", "1", "--many", "100"],
}
SLOW = {"suggest.py", "screening.py", "faces.py", "outlook.py", "combinatorial.py", "scale.py", "small_bo.py"}
"""These take four seconds or more at any size; their models and campaigns have tests and examples of their own."""
OPTIMA: dict[str, tuple[list[float], float]] = {
    "branin": ([(3.141592653589793 + 5) / 15, 2.275 / 15], 1e-6),
    "hartmann6": ([0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573], 1e-5),
    "ackley5": ([0.5] * 5, 1e-12),
    "levy4": ([0.55] * 4, 1e-12),
    "rosenbrock3": ([0.4] * 3, 1e-8),
    "michalewicz5": (
        [x / 3.141592653589793 for x in (2.202906, 1.570796, 1.284992, 1.923058, 1.72047)],
        1e-6,
    ),
}
"""Where the maximum is in the unit cube, and the rounding of its published place and value."""
RACE = ["--rows", "300", "--methods", "AlternatingProjections", "--cap-seconds", "0.3", "--samples", "3"]


def test_every_benchmark_is_listed_here(root: Path) -> None:
    found = {path.name for path in (root / "benchmarks").glob("*.py")}
    assert found == set(SCRIPTS)


def printed(scripts: Scripts, script: str, *arguments: str) -> list[str]:
    """The rows of the tables that a script prints."""
    done = scripts.run(ROOT / "benchmarks" / script, *arguments, short=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "machine:" in done.stdout
    assert "versions:" in done.stdout
    return [line for line in done.stdout.splitlines() if line.startswith("| ")]


def test_screening_for_the_largest_values(scripts: Scripts, data_dir: Path) -> None:
    """Solubility is maximised, where docking scores above are minimised: by one rule, and chance beside it."""
    asked = ("--libraries", "esol", "--rows", "300", "--seeds", "0", "--contenders", "ucb", "random")
    assert len(printed(scripts, "screening.py", *asked)) >= 3


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
        for name in SCRIPTS
        if name != "readme.py"
    ],
)
def test_benchmark_runs_and_prints_its_table(script: str, scripts: Scripts, data_dir: Path) -> None:
    assert len(printed(scripts, script, *SCRIPTS[script])) >= 3


def test_the_readme_shows_the_table_that_its_script_prints(scripts: Scripts, data_dir: Path) -> None:
    head, _, *rows = printed(scripts, "readme.py", *SCRIPTS["readme.py"])
    columns = [cell.strip() for cell in head.split("|")]
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    tables = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("|")]
    shown = tables[tables.index(columns) + 2 :]
    assert len(rows) == 1
    assert [row[1].split(" ")[0] for row in shown[:4]] == ["concrete", "wine", "POL", "PROTEIN"]


def test_the_optimum_has_no_regret_and_noise_is_paired(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("botorch", reason="the benchmark optimises with BoTorch")
    monkeypatch.syspath_prepend(root / "benchmarks")
    objectives = importlib.import_module("lib.objectives")
    for name, (optimum, slack) in OPTIMA.items():
        problem = objectives.Problem(name, "exact", 0)
        assert problem.dimension == len(optimum)
        assert abs(float(problem.regret(torch.tensor([optimum], dtype=torch.float64)))) < slack, name
        assert bool((problem.regret(problem.design(200)) > 0).all()), name
    noisy, exact = (objectives.Problem("levy4", noise, 3) for noise in ("noisy", "exact"))
    x = noisy.design(40)
    assert torch.equal(x[:10], exact.design(10))
    noise = noisy.measure(x, 0) - exact.measure(x, 0)
    assert torch.allclose(noise[30:], noisy.measure(x[30:], 30) - exact.value(x[30:]))
    assert 0.5 < float(noise.std()) / (0.05 * exact.spread) < 1.5  # forty draws: a standard error of 11 %


def test_regrets_are_compared_seed_by_seed(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("botorch", reason="the benchmark optimises with BoTorch")
    monkeypatch.syspath_prepend(root / "benchmarks")
    shared = {
        "function": "branin",
        "noise": "exact",
        "strategy": "qlogei",
        "rounds": 4,
        "where": "",
        "spread": 1.0,
    }
    shared |= {"failure": "", "fit_seconds": [1.0], "suggest_seconds": [2.0], "warnings": {}}
    regrets = {"ours": [0.5, 1.0, 1e-9], "SingleTaskGP": [0.5, math.exp(-3), 0.0]}
    importlib.import_module("lib.bo_report").report(
        {**shared, "model": model, "seed": seed, "regret": regret}
        for model, values in regrets.items()
        for seed, regret in enumerate(values)
    )
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "| SingleTaskGP" in line)
    assert "| 0 / 2 / 1 " in row
    assert "| +1.00 ± 1.00 " in row  # of 0, 3 and 0


def test_optimisations_resume_from_their_file(scripts: Scripts, tmp_path: Path) -> None:
    pytest.importorskip("botorch", reason="the benchmark optimises with BoTorch")
    runs = tmp_path / "runs.jsonl"
    asked = ("--functions", "branin", "--strategies", "qlogei", "--models", "ours", "random", "--seeds", "1")
    asked = (*asked, "--noise", "exact", "--rounds", "5", "--json", str(runs))
    first = printed(scripts, "small_bo.py", *asked)
    kept = runs.read_text(encoding="utf-8")
    (ours,) = (run for run in map(json.loads, kept.splitlines()) if run["model"] == "ours")
    assert len(ours["x"]) == 15
    assert len(ours["fit_seconds"]) == len(ours["suggest_seconds"]) == 2  # batches of four and of one
    assert printed(scripts, "small_bo.py", *asked) == first
    assert runs.read_text(encoding="utf-8") == kept
    assert printed(scripts, "small_bo.py", "--report", str(runs)) == first


@pytest.mark.slow
def test_products_by_every_objective(scripts: Scripts, data_dir: Path) -> None:
    """One of them is a forest that was trained on docking scores."""
    asked = ("--size", "tiny", "--budget", "70", "--seeds", "0", "--contenders", "ours")
    assert len(printed(scripts, "combinatorial.py", *asked)) == 12


@pytest.mark.slow
def test_solvers_race_their_peers(scripts: Scripts, data_dir: Path, tmp_path: Path) -> None:
    picture = tmp_path / "race.png"
    mean = ["--parts", "mean", "low-noise", "--sets", "pol", "--repeats", "1", "--plot", str(picture)]
    samples = ["--parts", "samples", "accuracy", "--sets", "keggdirected", "--repeats", "2"]
    for part, cache, most in ((mean, "pol-300-0", 12), (samples, "keggdirected-300-3", 13)):
        rows = printed(scripts, "solvers.py", *RACE, *part, "--cache", str(tmp_path))
        for name in ("Auto", "AlternatingProjections", "GPyTorch CG", "float32 Cholesky", "textbook SDD"):
            assert any(name in row for row in rows)
        exact = [row for row in rows if row.startswith(("| Auto", "| float32 Cholesky"))]
        assert not any("–" in row for row in exact)  # these are as close as asked for
        assert len(rows) == most
        assert (tmp_path / f"{cache}.npz").is_file()
    assert picture.stat().st_size > 1000
