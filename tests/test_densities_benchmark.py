"""The benchmark of predictive densities: its scores against closed forms, its cells, its file."""

from __future__ import annotations

import gzip
import importlib
import itertools
import json
import math
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from sggp.predictive import PredictiveDistribution
from tests.scripts import ROOT, Scripts

Library = dict[str, ModuleType]
DRAWS = 20_000
Z = stats.norm.ppf(0.975)


@pytest.fixture
def lib(root: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.syspath_prepend(root / "benchmarks")
    parts = ("cells", "contenders", "quantiles", "report", "tables")
    return {part: importlib.import_module(f"lib.density_{part}") for part in parts}


def written(folder: Path, name: str, rows: int) -> np.ndarray:
    """A table of two inputs in the format of the UCI tables, with ten folds; gives it, (rows, 3)."""
    rng = np.random.default_rng(11)
    x = rng.uniform(-1, 1, (rows, 2)) * [1.0, 40.0]
    y = 7 + 3 * np.sin(3 * x[:, 0]) + x[:, 1] / 40 + 0.1 * rng.standard_normal(rows)
    table = np.column_stack([x, y])
    place = folder / "uci" / name
    place.mkdir(parents=True)
    for part, values in (("data", table), ("test_mask", np.arange(rows)[:, None] % 10 == np.arange(10))):
        with gzip.open(place / f"{part}.csv.gz", "wt") as file:
            np.savetxt(file, values.astype(float), delimiter=",")
    return table


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setenv("SGGP_DATA_DIR", str(tmp_path))
    return written(tmp_path, "autompg", 120)


def close_to(found: float, expected: float, error: float) -> bool:
    return abs(found - expected) < 4 * error


# scores


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_normal_densities_score_their_closed_forms(lib: Library, scale: float) -> None:
    """Standard normal targets under N(0, s²); of N(0, 1) the expected NLL is (1 + log 2π)/2, the CRPS 1/√π."""
    y = np.random.default_rng(5).standard_normal(DRAWS)
    predicted = lib["contenders"].Predicted.normal(np.zeros(DRAWS), np.full(DRAWS, scale**2))
    found = lib["cells"].score(predicted, y)
    nll = 0.5 * math.log(2 * math.pi) + math.log(scale) + 0.5 / scale**2
    crps = math.sqrt(2 * (1 + scale**2) / math.pi) - scale / math.sqrt(math.pi)  # E|Y − X| − E|X − X'|/2
    inside = 2 * stats.norm.cdf(Z * scale) - 1
    assert close_to(found["nll"], nll, math.sqrt(0.5 / DRAWS) / scale**2)
    assert close_to(found["crps"], crps, 1 / math.sqrt(DRAWS))
    assert close_to(found["coverage"], inside, math.sqrt(inside * (1 - inside) / DRAWS))
    assert close_to(found["rmse"], 1.0, math.sqrt(0.5 / DRAWS))
    assert found["width"] == pytest.approx(2 * Z * scale)


def test_student_densities_score_their_entropy(lib: Library) -> None:
    y = stats.t(5.0).rvs(size=DRAWS, random_state=6)
    distribution = PredictiveDistribution(np.zeros(DRAWS), np.ones(DRAWS), df=5.0)
    found = lib["cells"].score(lib["contenders"].Predicted(np.zeros(DRAWS), distribution), y)
    assert close_to(found["nll"], float(stats.t(5.0).entropy()), stats.t.logpdf(y, 5.0).std() / DRAWS**0.5)
    assert close_to(found["coverage"], 0.95, math.sqrt(0.95 * 0.05 / DRAWS))


def test_scores_have_the_units_of_the_target(lib: Library) -> None:
    rng = np.random.default_rng(7)
    y, mean, variance = rng.standard_normal(50), rng.standard_normal(50), rng.uniform(0.5, 2.0, 50)
    normal = lib["contenders"].Predicted.normal
    inside = lib["cells"].score(normal(mean, variance), y, unit=8.0)
    outside = lib["cells"].score(normal(8 * mean, 64 * variance), 8 * y)
    assert inside == pytest.approx(outside)


# a density through quantiles


def test_the_density_through_quantiles_is_proper_and_nearly_the_true_one(lib: Library) -> None:
    quantiles, levels = lib["quantiles"].QuantileDistribution, lib["quantiles"].LEVELS
    true = stats.norm(1.0, 2.0)
    single = quantiles(np.random.default_rng(0).permutation(true.ppf(levels))[:, None])  # crossed

    def density(y: float) -> float:
        return math.exp(single.logpdf(np.array([y]))[0])

    ends = (-60.0, *true.ppf(levels), 60.0)
    masses = [integrate.quad(density, low, high)[0] for low, high in itertools.pairwise(ends)]
    np.testing.assert_allclose(masses, [0.025, *[0.05] * 19, 0.025], rtol=1e-6)
    y = true.rvs(size=DRAWS, random_state=8)
    many = quantiles(np.repeat(true.ppf(levels)[:, None], DRAWS, axis=1))
    exact = PredictiveDistribution(np.ones(DRAWS), np.full(DRAWS, 2.0))
    assert many.crps(y).mean() == pytest.approx(exact.crps(y).mean(), rel=0.005)
    loss = exact.logpdf(y).mean() - many.logpdf(y).mean()
    assert 0 < loss < 0.03
    assert many.capped(y) == 0
    assert many.interval()[1][0] == pytest.approx(1 + 2 * Z)


def test_an_atom_has_no_log_density_to_boast_of(lib: Library) -> None:
    atom = lib["quantiles"].QuantileDistribution(np.zeros((20, 3)))
    on, beside = np.zeros(3), np.full(3, 0.01)
    assert atom.capped(on) == 1
    assert atom.logpdf(on).max() <= math.log(0.05 / lib["quantiles"].LEAST_WIDTH)
    assert atom.logpdf(beside).max() < atom.logpdf(on).max()
    np.testing.assert_allclose(atom.crps(beside), 0.01)
    assert lib["cells"].score(lib["contenders"].Predicted(on, atom), on)["nll"] is None


# cells


@pytest.mark.parametrize("name", ["ours", "homoscedastic", "GPRegressor(kernel='rbf', num_samples=8)"])
def test_our_contenders_predict_a_smooth_table(lib: Library, table: np.ndarray, name: str) -> None:
    cell = lib["cells"].measured("autompg", 3, name, None)
    assert cell["failure"] == ""
    assert (cell["n"], cell["m"], cell["d"]) == (108, 12, 2)
    noise = 0.1 / table[np.arange(120) % 10 != 3, 2].std()  # nothing predicts better than it
    assert noise / 2 < cell["rmse"] < 3 * noise
    assert cell["nll"] < math.log(3 * noise) + 0.5 * (1 + math.log(2 * math.pi))
    assert 0 < cell["crps"] < cell["rmse"]
    assert 2 * Z * noise / 2 < cell["width"] < 3 * 2 * Z * noise


def test_a_cell_holds_what_its_regressor_says(lib: Library, table: np.ndarray) -> None:
    cell = lib["cells"].measured("autompg", 2, "scikit-learn", None)
    test = np.arange(120) % 10 == 2
    standard = (table - table[~test].mean(0)) / table[~test].std(0)
    x, y, xs, ys = standard[~test, :2], standard[~test, 2], standard[test, :2], standard[test, 2]
    kernel = ConstantKernel() * Matern(np.ones(2)) + WhiteKernel(0.1)
    model = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=2, random_state=0)
    mean, std = model.fit(x, y).predict(xs, return_std=True)
    assert cell["rmse"] == pytest.approx(np.sqrt(np.mean((ys - mean) ** 2)), rel=1e-4)
    assert cell["nll"] == pytest.approx(-stats.norm(mean, std).logpdf(ys).mean(), rel=1e-4)
    assert cell["coverage"] == pytest.approx(np.mean(np.abs(ys - mean) <= Z * std))


@pytest.mark.parametrize("name", ["catboost", "lightgbm", "ngboost", "gpboost"])
def test_a_peer_predicts_or_says_that_it_is_missing(lib: Library, table: np.ndarray, name: str) -> None:
    cell = lib["cells"].measured("autompg", 0, name, None)
    if cell["failure"]:
        assert cell["failure"].startswith("not installed")
        pytest.skip(f"{name} is not installed")
    assert 0 < cell["crps"] < cell["rmse"] < 1


def test_what_a_contender_raises_costs_its_cell(lib: Library, table: np.ndarray) -> None:
    cell = lib["cells"].measured("autompg", 0, "GPRegressor(kernel='nonsense')", None)
    assert cell["failure"].startswith("InputError: ")
    for name in ("xgboost", "GPRegressor(3)", "open('x')", "GPRegressor(kernel=open('x'))"):
        with pytest.raises(ValueError, match="unknown contender"):
            lib["contenders"].contender(name)


def test_a_cell_ends_with_its_processor_seconds(scripts: Scripts, tmp_path: Path) -> None:
    written(tmp_path, "autompg", 4000)  # far more than a second's work
    cell = {"table": "autompg", "split": 0, "contender": "GPRegressor()", "rows": None}
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n"
        "from lib.density_cells import Limits, run_cell\n"
        f"print(run_cell({cell!r}, Limits(None, 120.0, 1))['failure'])"
    )
    done = scripts.run("-c", code, SGGP_DATA_DIR=str(tmp_path))
    assert done.stdout == "stopped after 1 s of the processor\n", done.stderr


def test_heaton_is_scored_in_degrees(lib: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGGP_DATA_DIR", str(tmp_path))
    (tmp_path / "large").mkdir()
    rng = np.random.default_rng(3)
    x, y, test = rng.uniform(size=(40, 2)), rng.normal(30, 5, 40), np.arange(40) < 9
    np.savez(tmp_path / "large" / "heaton_satellite.npz", X=x, y=y, test_mask=test)
    found = lib["tables"].load("heaton_satellite")
    assert found.unit == pytest.approx(y[~test].std())
    np.testing.assert_allclose(found.y_test * found.unit + y[~test].mean(), y[test])


# the script


def test_cells_left_out_for_their_size(
    lib: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SGGP_DATA_DIR", str(tmp_path))
    written(tmp_path, "stock", 2800)
    written(tmp_path, "airfoil", 2770)
    script = importlib.import_module("densities")
    asked = Namespace(tables=["stock", "housing", "airfoil"], contenders=["scikit-learn", "ours"], rows=None)
    asked.splits, asked.once_above = [1, 2], 2500
    cells = [(c["table"], c["split"], c["contender"]) for c in script.asked(asked, "here")]
    both = [("airfoil", 1, "scikit-learn"), ("airfoil", 1, "ours")]
    assert cells == [("stock", 1, "ours"), *both, *((t, 2, name) for t, _, name in both)]
    assert "housing is left out" in capsys.readouterr().out


def test_ranks_share_places_and_gaps_start_at_the_best(lib: Library) -> None:
    scores = {"a": 2.0, "b": 1.0, "c": 2.0, "d": 5.0}
    assert [lib["report"].ranks(scores, name) for name in scores] == [2.5, 1.0, 2.5, 4.0]
    assert [lib["report"].gaps(scores, name) for name in scores] == [1.0, 0.0, 1.0, 4.0]


def printed(scripts: Scripts, *arguments: str) -> str:
    done = scripts.run(ROOT / "benchmarks" / "densities.py", *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def tables_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| ")]


def test_a_run_resumes_and_a_contender_that_hangs_costs_one_cell(
    scripts: Scripts, table: np.ndarray, tmp_path: Path
) -> None:
    kept = tmp_path / "cells.json"
    asked = ("--tables", "autompg", "--splits", "0", "--json", str(kept), "--contenders")
    printed(scripts, *asked, "scikit-learn")
    hung = printed(scripts, *asked, "scikit-learn", "homoscedastic", "--limit-seconds", "0.01")
    assert "failed: autompg, split 0, GPRegressor, Matérn-3/2, one noise: stopped after" in hung
    before = kept.read_bytes()
    assert [bool(cell["failure"]) for cell in json.loads(before)] == [False, True]
    again = printed(scripts, *asked, "scikit-learn", "homoscedastic")
    assert kept.read_bytes() == before
    retried = printed(scripts, *asked, "scikit-learn", "homoscedastic", "--retry")
    assert "failed" not in retried
    assert json.loads(kept.read_bytes())[0] == json.loads(before)[0]
    assert tables_of(again) == tables_of(hung)
    report = printed(scripts, "--report", str(kept))
    assert tables_of(report) == tables_of(retried)
    assert any(row.startswith("| autompg (108 × 2) | scikit-learn GP") for row in tables_of(report))
