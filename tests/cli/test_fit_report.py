"""The report of `sggp fit`: one file that stands alone and says what a colleague would ask."""

from __future__ import annotations

import html
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")
pytest.importorskip("rich", reason="the extra cli is not installed")

from sggp.cli import main
from sggp.cli import report as drawings
from sggp.errors import UnidentifiedColumns
from tests.cli.commands import check_alone, refused, write

WILD = 37  # the row whose target is far off


@pytest.fixture(autouse=True)
def _no_pictures() -> None:
    """Here they are drawn."""


def table(folder: Path) -> Path:
    """A strong column, a weak one, a copy, a constant, a category and names; two unusable rows and five repeats."""
    rng = np.random.default_rng(0)
    rows: list[list[object]] = []
    for i in range(90):
        strong, weak = rng.uniform(0, 10), rng.uniform(0, 1)
        value = 50 + 4 * strong + np.sin(6 * weak) + 0.3 * rng.normal() + (40 if i == WILD else 0)
        rows.append([strong, weak, 100 * weak, 7, "ABC"[i % 3], value, f"sample {i}"])
    rows += [[*row[:5], float(str(row[5])) + 0.1, "again"] for row in rows[:5]]
    rows[3][0], rows[4][5] = "wet", ""
    return write(
        folder / "t.csv", ["heat & time", "weak", "percent", "plant", "batch", "yield", "name"], rows
    )


def text_of(page: str) -> str:
    """The words of a page, without its pictures."""
    return " ".join(html.unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)).split())


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    folder = tmp_path_factory.mktemp("report")
    page = folder / "fit.html"
    line = ["fit", str(table(folder)), "--target", "yield", "--report", str(page), "--seed", "1"]
    with warnings.catch_warnings():
        warnings.simplefilter("default", UnidentifiedColumns)  # a note, as users see it
        assert main(line) == 0
    return folder, page.read_text()


def test_a_report_stands_alone(report):
    folder, page = report
    check_alone(page)
    assert page.count("data:image/png") == 4
    assert sorted(path.name for path in folder.iterdir()) == ["fit.html", "fit.html.rejected.csv", "t.csv"]


def test_a_report_says_what_was_left_out_and_merged(report):
    text = text_of(report[1])
    assert "rows used 93" in text
    assert "inputs heat & time, weak, percent, plant, batch (categories) " in text
    assert "3 rows with the inputs of earlier ones, merged" in text  # two more repeat rows that are not used
    assert "2: heat & time: not a number: 'wet' (1); yield: no value (1)" in text
    assert "fit.html.rejected.csv" in text
    assert (
        "columns not used name (text, 91 different values: fewer than two rows each, as ids have) percent"
        in text
    )
    assert "percent a copy of weak: they share one influence" in text
    assert "plant constant: the data say nothing about it" in text


def test_a_report_says_how_good_the_model_is_and_what_drives_it(report):
    text = text_of(report[1])
    for section in ("In short", "The model, and why this one", "Calibration", "Predicted and measured"):
        assert section in text
    explained = re.search(r"it explains (\S+) % of the variance", text)
    assert explained
    assert 50 < float(explained[1]) < 100
    assert "The most important columns are heat & time" in text
    assert "Matérn" in text
    assert "column permutation length scale Sobol, first order Sobol, total heat & time" in text
    assert "weak and percent (1.00)" in text
    worst = re.search(r"in predictive scales (\d+) ", text)
    assert worst
    assert int(worst[1]) == WILD + 2  # its line in the file


def test_length_scales_are_in_the_units_of_the_table(tmp_path):
    """A column times 1000 has a length scale times 1000."""
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, 40)
    y = np.sin(6 * x) + 0.05 * rng.normal(size=40)
    found = []
    for unit in (1, 1000):
        data = write(tmp_path / f"{unit}.csv", ["a", "y"], [[unit * a, b] for a, b in zip(x, y, strict=True)])
        page = tmp_path / f"{unit}.html"
        assert main(["fit", str(data), "--target", "y", "--report", str(page), "--seed", "0"]) == 0
        match = re.search(
            r"column standard deviation length scale a (\S+) (\S+) \(", text_of(page.read_text())
        )
        assert match
        found.append((float(match[1]), float(match[2])))
    np.testing.assert_allclose(found[1], 1000 * np.array(found[0]), rtol=2e-3)  # four digits are printed
    assert found[0][0] == pytest.approx(x.std(), rel=1e-3)


def test_model_and_report_together(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    data, model, page = table(tmp_path), tmp_path / "m.sggp", tmp_path / "r.html"
    line = ["fit", data, "--target", "yield", "--features", "weak", "--out", model, "--report", page]
    assert main([str(part) for part in line]) == 0
    said = capsys.readouterr().out
    assert str(model) in said
    assert str(page) in said
    assert "The most important column is weak" in text_of(page.read_text())
    assert main(["predict", str(model), str(data), "--out", str(tmp_path / "p.csv")]) == 0


def test_refused(tmp_path, capsys, monkeypatch):
    data = table(tmp_path)
    fit = ["fit", data, "--target", "yield"]
    assert "--report FILE" in refused(capsys, *fit)
    assert "--report FILE" in refused(capsys, *fit, "--out", tmp_path / "a", "--report", tmp_path / "a")
    for rows in ([[1, 2]], [[1, 2], [2, 2]]):
        flat = write(tmp_path / "flat.csv", ["a", "y"], [list(row) for row in rows])
        assert "a target that varies" in refused(
            capsys, "fit", flat, "--target", "y", "--report", tmp_path / "r.html"
        )
    for name in ("flat.csv", "r.html.rejected.csv"):
        (tmp_path / name).unlink()
    assert "read as an input" in refused(capsys, *fit, "--report", data)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert 'pip install "sggp[plot]"' in refused(capsys, *fit, "--report", tmp_path / "r.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv"]


def test_names_that_are_formulas_to_matplotlib_or_too_long_to_draw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `$` ended the report in matplotlib's ParseException; a long name left no room for the drawing."""
    of = pytest.importorskip("matplotlib.text", reason="the extra plot is not installed").Text
    drawn, draw = list[Any](), drawings.to_png
    monkeypatch.setattr(drawings, "to_png", lambda figure: drawn.append(figure) or draw(figure))
    x = np.random.default_rng(0).uniform(-1, 1, (40, 2)).round(3)
    long = "the time between the addition of the base and the sample that was taken [min]"
    levels = ["wet", "a mixture of $5$ and of much else"]
    rows = [[*v, levels[i % 2], v[0] + v[1] + i % 2] for i, v in enumerate(x.tolist())]
    data, page = (
        write(tmp_path / "t.csv", ["cost ($/$)", long, "state $^$", "gain $%$"], rows),
        tmp_path / "r.html",
    )
    line = ["fit", data, "--target", "gain $%$", "--kernel", "matern52", "--seed", "1", "--report", page]
    assert main([str(word) for word in line]) == 0
    assert "note:" not in capsys.readouterr().err
    assert long in page.read_text()
    shown = {text.get_text() for figure in drawn for text in figure.findobj(of)}
    assert {
        "cost ($/$)",
        "the time betwee…as taken [min]",
        "state $^$",
        "a mixture of $5…d of much else",
    } <= shown
    assert long not in shown
