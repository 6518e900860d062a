"""What `sggp fit` says of columns and noise, in the words of the file."""

from __future__ import annotations

import csv

import numpy as np

from sggp.cli.__main__ import main


def write(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def test_columns_that_tell_nothing_are_named_as_in_the_file(tmp_path, capsys):
    rng = np.random.default_rng(0)
    heat, weak = rng.random((2, 40))
    rows = np.c_[heat, weak, 100 * weak, np.full(40, 7.0), np.sin(5 * heat) + weak]
    data = write(tmp_path / "t.csv", ["heat & time", "weak", "percent", "plant", "yield"], rows.tolist())
    assert main(["fit", data, "--target", "yield", "--out", str(tmp_path / "m.sggp"), "--seed", "0"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "nothing separate about these columns:" in said
    assert "percent (copy of weak)" in said
    assert "plant (constant" in said
    assert "weak (" not in said.replace("(copy of weak)", "")


def test_the_noise_of_a_surface_is_told_as_one_that_varies(tmp_path, capsys):
    """Ten times as large where the second column is positive: neither .03 nor .3 is the noise of a measurement."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (400, 2))
    sigma = np.where(x[:, 1] > 0, 0.3, 0.03)
    y = np.sin(3 * x[:, 0]) + sigma * rng.standard_normal(400)
    data = write(tmp_path / "t.csv", ["a", "b", "y"], np.c_[x, y].tolist())
    assert main(["fit", data, "--target", "y", "--out", str(tmp_path / "m.sggp"), "--seed", "0"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "in the median; it varies, from" in said
    low, high = (float(said.split(word)[1].split()[0]) for word in ("varies, from ", " to "))
    assert 0.015 < low < 0.06
    assert 0.15 < high < 0.6


def test_a_bound_beside_its_relation_is_not_learnt_as_a_number(tmp_path, capsys):
    rows = [[i / 9, i / 3, "=" if i else ">"] for i in range(10)]
    data = write(tmp_path / "t.csv", ["x", "y", "relation"], rows)
    line = ["fit", data, "--target", "y", "--features", "x", "--seed", "0", "--out", str(tmp_path / "m.sggp")]
    assert main(line) == 0
    assert "1 cells are bounds" in capsys.readouterr().err
    with (tmp_path / "m.sggp.rejected.csv").open(newline="") as file:
        assert [row["line"] for row in csv.DictReader(file)] == ["2"]


def test_copies_and_columns_of_numbers_with_a_sign_are_told(tmp_path, capsys):
    """A file that was appended to itself; a price that is text by its sign; a cell that is no number."""
    rng = np.random.default_rng(0)
    x = rng.random(30)
    rows = [[f"{v:.4f}", f"${i}.50", f"{np.sin(5 * v):.4f}"] for i, v in enumerate(np.tile(x, 3))]
    data = write(tmp_path / "t.csv", ["x", "price", "y"], [*rows, ["?", "$1", "2"]])
    assert main(["fit", data, "--target", "y", "--out", str(tmp_path / "m.sggp"), "--seed", "0"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "60 of 90 rows are copies of others" in said
    assert "if these are numbers or dates, as '$0.50', write them as plain numbers" in said
    assert "1 unused rows in" in said
    assert "the first in line 92 (x: " in said
