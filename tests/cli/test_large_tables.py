"""`sggp fit` and `predict` on tables that are read by blocks: what they write is what it is for tables read as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")
pytest.importorskip("rich", reason="the extra cli is not installed")

from sggp import GPRegressor
from sggp.cli import main
from sggp.cli.model_files import load_model
from sggp.molecules.files.numeric import lines, opening
from tests.cli.commands import read, refused, write


def by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table counts as large, and blocks have twenty lines."""
    monkeypatch.setattr(opening, "LARGE", 1)
    monkeypatch.setattr(lines, "_LINES", 20)
    monkeypatch.setattr(lines, "_FEW", 8)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    a, b = np.random.default_rng(0).random((2, 90)).round(4)
    rows: list[list[object]] = [
        [i, x, z, "constant", y] for i, (x, z, y) in enumerate(zip(a, b, np.sin(5 * a) + b, strict=True))
    ]
    rows[5][1], rows[70][4], rows[71][2] = "wet", "", ">0.5"
    return write(tmp_path / "t.csv", ["", "a", "b", "note", "y"], rows)


def run(table: Path, folder: Path) -> tuple[Path, Path]:
    """A model of the table, and its predictions for it."""
    folder.mkdir()
    model, out = folder / "m.gp", folder / "p.csv"
    assert main(["fit", str(table), "--target", "y", "--out", str(model), "--seed", "1"]) == 0
    asked = ["predict", str(model), str(table), "--out", str(out), "--interval", "0.9", "--include-noise"]
    assert main(asked) == 0
    return model, out


def test_blocks_give_the_model_and_the_predictions_of_text(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = run(table, tmp_path / "text")
    as_text = capsys.readouterr()
    by_blocks(monkeypatch)
    seen: list[int] = []
    predict = GPRegressor.predict

    def watched(self: GPRegressor, X: Any, **options: Any) -> Any:
        seen.append(len(X))
        return predict(self, X, **options)

    monkeypatch.setattr(GPRegressor, "predict", watched)
    other, predicted = run(table, tmp_path / "blocks")
    as_blocks = capsys.readouterr()
    assert max(seen) == 20
    assert len(seen) == 5
    assert as_blocks.out.replace("/blocks/", "/text/") == as_text.out
    assert "unnamed 1 (row numbers, in the first 1,000 rows)" in as_blocks.err
    for name in ("m.gp.rejected.csv", "p.rejected.csv"):
        assert (other.parent / name).read_bytes() == (model.parent / name).read_bytes()
    assert (load_model(other).model.X_train_ == load_model(model).model.X_train_).all()
    for row, same in zip(read(predicted), read(out), strict=True):
        assert row["line"] == same["line"]
        for name in ("mean", "std", "low", "high"):
            assert float(row[name]) == pytest.approx(float(same[name]), rel=1e-6, abs=1e-9)


def test_predictions_appear_whole_or_not_at_all(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = run(table, tmp_path / "text")
    before = out.read_bytes()
    by_blocks(monkeypatch)
    predict = GPRegressor.predict

    def failing(self: GPRegressor, X: Any, **options: Any) -> Any:
        mean, std = predict(self, X, **options)
        return mean + np.where(X[:, 0] == X[-1, 0], np.inf if len(seen) == 2 else 0, 0), seen.append(0) or std

    seen: list[int] = []
    monkeypatch.setattr(GPRegressor, "predict", failing)
    assert "the prediction for line 61 of" in refused(capsys, "predict", model, table, "--out", out)
    assert out.read_bytes() == before
    assert sorted(path.name for path in out.parent.iterdir()) == [
        *("m.gp", "m.gp.rejected.csv", "p.csv", "p.rejected.csv"),
    ]


def test_bad_requests_are_refused_and_text_is_read_as_text(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = run(table, tmp_path / "text")
    by_blocks(monkeypatch)
    fit = ["fit", table, "--out", tmp_path / "n.gp"]
    assert "no column 'z'" in refused(capsys, *fit, "--target", "y", "--features", "z")
    assert "no column of numbers 'note'" in refused(capsys, *fit, "--target", "note")
    other = write(tmp_path / "o.csv", ["a", "c"], [[1.5, 2]] * 100)
    assert "no column 'b'" in refused(capsys, "predict", model, other, "--out", out)
    empty = write(tmp_path / "e.csv", ["", "a", "b"], [[1, "", 2]] * 100)
    assert "no row is complete; 100 unused rows in" in refused(
        capsys, "predict", model, empty, "--out", tmp_path / "q.csv"
    )
    assert len(read(tmp_path / "q.rejected.csv")) == 100
    assert not (tmp_path / "q.csv").exists()
    words = write(tmp_path / "w.csv", ["a", "sort", "y"], [[i, "AB"[i % 2], i % 2] for i in range(100)])
    capsys.readouterr()
    assert main(["fit", str(words), "--target", "y", "--out", str(tmp_path / "w.gp"), "--seed", "1"]) == 0
    assert "sort (categories)" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["relation", "errors in the head", "errors below"])
def test_bounds_and_standard_errors_of_large_tables(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bound was learnt as a number where its sign stood in another column, and 5±0.2 was none."""
    by_blocks(monkeypatch)
    monkeypatch.setattr("sggp.molecules.files.numeric.batches.HEAD", 60)
    x = np.random.default_rng(0).random(90).round(4)
    rows: list[list[object]] = [[v, round(np.sin(5 * v), 3), "="] for v in x]
    for row in rows[-3:] if form == "errors below" else rows[:3]:
        row[1:] = [row[1], ">"] if form == "relation" else [f"{row[1]}±0.2", "="]
    name = "relation" if form == "relation" else "note"
    table = write(tmp_path / "t.csv", ["x", "y", name], rows)
    fit = ["fit", str(table), "--target", "y", "--features", "x", "--kernel", "matern52", "--seed", "1"]
    assert main([*fit, "--num-samples", "2", "--out", str(tmp_path / "m.gp")]) == 0
    said, model = capsys.readouterr().err, load_model(tmp_path / "m.gp").model
    assert ("3 cells are bounds" if form == "relation" else "is read as the standard error") in said
    assert len(model.X_train_) == len(x) - 3 * (form == "relation")
    if form != "relation":
        assert len(np.unique(model.noise_variance_)) == 2  # as told, adjusted perhaps, and as learnt
