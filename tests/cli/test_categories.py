"""`sggp fit` and `sggp predict` on tables with columns of text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")
pytest.importorskip("rich", reason="the extra cli is not installed")

from sggp import GPRegressor
from sggp.cli import main
from sggp.persistence import read_content, write_content
from tests.cli.commands import read, refused, write

EFFECT = {"oak": 0.0, "pine": 2.0, "elm": -2.0}
HEADER = ["width", "sample", "wood", "hall", "empty", "code", "y"]


def _rows(n: int = 60) -> list[list[object]]:
    rng = np.random.default_rng(0)
    rows: list[list[object]] = []
    for i in range(n):
        width, wood = float(rng.uniform(0, 3)), str(rng.choice(list(EFFECT)))
        y = np.sin(2 * width) + EFFECT[wood] + 0.05 * rng.standard_normal()
        code = ["7", "2A", "3B"][i % 3]  # text, though some cells could be numbers
        rows.append([width, f"S{i:03d}", wood, "A", "", code, 100 + 10 * y])
    return rows


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "t.csv", HEADER, _rows())


def _fit(table: Path, model: Path, *more: str) -> int:
    return main(["fit", str(table), "--target", "y", "--out", str(model), "--seed", "0", *more])


def test_text_with_few_values_is_used_and_ids_are_left_out(table, tmp_path, capsys):
    model, out = tmp_path / "m.sggp", tmp_path / "p.csv"
    assert _fit(table, model) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "sample (text, 60 different values: every row has its own, as ids do)" in said
    assert "hall (the same text in every row)" in said
    assert "empty (no value)" in said
    assert "inputs width, wood (categories), code (categories); 0 unused rows" in said
    assert main(["predict", str(model), str(table), "--out", str(out)]) == 0
    cells = np.array([[row[0], row[2], row[5]] for row in _rows()], dtype=object)
    y = np.array([row[-1] for row in _rows()], dtype=float)
    expected = GPRegressor(random_state=0).fit(cells, y).predict(cells)
    np.testing.assert_allclose([float(row["mean"]) for row in read(out)], expected, rtol=1e-5)
    assert np.sqrt(np.mean((expected - y) ** 2)) < 1


def test_rows_of_unknown_or_no_level_are_rejected_with_the_reason(table, tmp_path):
    model, out = tmp_path / "m.sggp", tmp_path / "p.csv"
    assert _fit(table, model, "--features", "width,wood") == 0
    new = write(
        tmp_path / "new.csv", ["wood", "width"], [["oak", 1.0], ["yew", 1.0], ["", 1.0], ["elm", 2.0]]
    )
    assert main(["predict", str(model), str(new), "--out", str(out)]) == 0
    assert [int(row["line"]) for row in read(out)] == [2, 5]
    reasons = [row["reason"] for row in read(out.with_suffix(".rejected.csv"))]
    assert reasons == ["wood: 'yew' was not in the training table", "wood: no value"]


def test_a_column_of_ids_that_is_asked_for_is_refused(table, tmp_path, capsys):
    fit = ["fit", table, "--target", "y", "--out", tmp_path / "m"]
    assert "'sample' of --features is no category" in refused(capsys, *fit, "--features", "width,sample")
    assert not (tmp_path / "m").exists()


def test_an_encoding_that_does_not_fit_is_a_damaged_model(table, tmp_path, capsys):
    model = tmp_path / "m"
    assert _fit(table, model) == 0
    content = read_content(model, "estimator")
    content["columns"]["columns"].pop()
    write_content(model, "estimator", content)
    assert "fit it again" in refused(capsys, "predict", model, table, "--out", tmp_path / "p.csv")


@pytest.mark.parametrize("words", [("True", "False"), ("TRUE", "FALSE"), ("true", "false")])
def test_truth_values_of_a_file_are_those_of_a_program(words, tmp_path):
    """pandas and spreadsheets read them as truth values, which a model of the same file did not know."""
    rows = [
        [width, words[i % 3 != 0], 100 + 10 * width + 5 * (i % 3 == 0)]
        for i, (width, *_) in enumerate(_rows())
    ]
    table, out = write(tmp_path / "t.csv", ["width", "wet", "y"], rows), tmp_path / "p.csv"
    assert _fit(table, tmp_path / "m") == 0
    assert main(["predict", str(tmp_path / "m"), str(table), "--out", str(out)]) == 0
    cells = np.array([[row[0], row[1] == words[0]] for row in rows], dtype=object)
    mean = GPRegressor.load(tmp_path / "m").predict(cells)
    np.testing.assert_allclose(mean, [float(row["mean"]) for row in read(out)], rtol=1e-9)
