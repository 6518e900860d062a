"""What `sggp fit` says of columns and noise, in the words of the file."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from sggp import GPRegressor
from sggp.cli import main
from sggp.cli.model_files import load_model
from sggp.molecules.files.numeric import opening


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


def waves(rows=60):
    rng = np.random.default_rng(0)
    x, error = rng.uniform(-1, 1, (rows, 2)).round(3), rng.uniform(0.05, 0.5, rows).round(3)
    return x, (np.sin(3 * x[:, 0]) + error * rng.standard_normal(rows)).round(3), error


def fitted(tmp_path, rows, header=("a", "b", "y"), more=()):
    data = write(tmp_path / "t.csv", list(header), rows)
    out = str(tmp_path / "m.gp")
    line = [
        "fit",
        data,
        "--target",
        "y",
        "--kernel",
        "matern52",
        "--num-samples",
        "2",
        "--seed",
        "0",
        "--out",
        out,
    ]
    assert main([*line, *more]) == 0
    return load_model(tmp_path / "m.gp").model


def test_standard_errors_are_the_noise_of_their_rows(tmp_path, capsys):
    """5±0.2 was no number to `fit`, where `suggest` and campaigns read value and noise."""
    x, y, error = waves()
    rows = [[*v, f"{t} ± {e}"] for v, t, e in zip(x, y, error, strict=True)]
    model = fitted(tmp_path, rows, more=["--report", str(tmp_path / "r.html")])
    said = capsys.readouterr()
    assert "is read as the standard error, as in" in said.err
    assert "0 unused rows" in said.err
    assert "in the median; it is told with the values, from" in said.out
    assert "it is told with the values, from" in (tmp_path / "r.html").read_text()
    same = GPRegressor("matern52", num_samples=2, random_state=0).fit(x, y, noise_variance=error**2)
    np.testing.assert_allclose(model.predict(x), same.predict(x), rtol=1e-12)
    np.testing.assert_allclose(model.noise_variance_, error**2)
    new = write(tmp_path / "n.csv", ["a", "b"], x[:3].tolist())
    predict = ["predict", str(tmp_path / "m.gp"), new, "--out", str(tmp_path / "p.csv")]
    assert main(predict) == 0
    for asked in (["--include-noise"], ["--interval", "0.9"]):
        assert main([*predict, *asked]) == 2
        assert "that of a new measurement is not known: leave out" in capsys.readouterr().err


@pytest.mark.parametrize("told", [10, 30, 55])
def test_the_noise_of_rows_that_tell_none_is_learnt(tmp_path, told):
    """From them alone if they are twenty or more, as a campaign learns it."""
    x, y, error = waves()
    rows = [[*v, f"{t}±{e}" if i < told else t] for i, (v, t, e) in enumerate(zip(x, y, error, strict=True))]
    model = fitted(tmp_path, rows)
    of = slice(told, None) if told <= 40 else slice(None)
    plain = GPRegressor("matern52", noise="constant", random_state=0).fit(x[of], y[of])
    np.testing.assert_allclose(model.noise_variance_[:told], error[:told] ** 2)
    np.testing.assert_allclose(model.noise_variance_[told:], plain.noise_variance_)


def test_the_column_of_signs_is_no_input(tmp_path, capsys):
    """It was a category, which new rows had to have; its name was told without its sign."""
    x, y, _ = waves(30)
    rows = [[*v, t, ">" if i % 3 == 0 else "="] for i, (v, t) in enumerate(zip(x, y, strict=True))]
    model = fitted(tmp_path, rows, header=("a", "b", "y", "relation"))
    assert model.X_train_.shape == (20, 2)
    said = capsys.readouterr().err
    assert "not used: relation (says which values of y are bounds)" in said
    assert f"the first in line 2 (y: not a number but a bound: '>{y[0]}'), all for this reason" in said


def test_features_with_commas_and_features_that_stand_twice(tmp_path, capsys):
    x, y, _ = waves(30)
    rows, header = np.c_[x, y].tolist(), ("conc, M", "b", "y")
    assert fitted(tmp_path, rows, header, ["--features", '"conc, M",b']).n_features_in_ == 2
    line = ["fit", str(tmp_path / "t.csv"), "--target", "y", "--out", str(tmp_path / "n.gp"), "--features"]
    assert main([*line, "b, b"]) == 2
    assert "--features names 'b' twice" in capsys.readouterr().err


def test_what_categories_may_hide_is_told(tmp_path, capsys):
    """Days of a month and words for no value became categories without a word."""
    x, y, _ = waves(60)
    rows = [[f"2024-01-0{1 + i % 9}", ["wet", "dry", "NA"][i % 3], t] for i, t in enumerate(y)]
    fitted(tmp_path, rows, header=("day", "state", "y"))
    said = " ".join(capsys.readouterr().err.split())
    assert "column 'day' is taken for categories; if these are numbers or dates, as '2024-01-01'" in said
    assert "column 'state': 'NA' is a category here; a missing value is an empty cell" in said


def test_a_table_without_inputs_says_why(tmp_path, capsys):
    data = write(
        tmp_path / "t.csv", ["when", "y"], [[f"2024-{1 + i // 28}-{1 + i % 28}", i] for i in range(160)]
    )
    assert main(["fit", data, "--target", "y", "--out", str(tmp_path / "m.gp")]) == 2
    said = capsys.readouterr().err
    assert "no column to learn from beside the target 'y': not used are when (text, 160" in said
    assert "write them as plain numbers" in said


def test_unused_rows_are_told_by_reason(tmp_path, capsys):
    x, y, _ = waves(30)
    fitted(tmp_path, np.c_[x, y].tolist())
    rows = [[1, 2], ["", 2], ["", 3], ["wet", 4], [5, ">1"]]
    new = write(tmp_path / "n.csv", ["a", "b"], [*rows, [7, 8]])
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "m.gp"), new, "--out", str(tmp_path / "p.csv")]) == 0
    said = capsys.readouterr().err
    assert (
        "the first in line 3 (a: no value); by reason: a: no value (2); a: not a number: 'wet' (1); b: not"
        in said
    )
    assert "that is most of the table" in said


def test_truth_values_are_those_of_other_programs(tmp_path):
    """pandas writes True, Excel and R TRUE: each row of such a table was unusable."""
    rows = [["True" if i % 2 else "False", i / 9, i % 2 + i / 30] for i in range(30)]
    fitted(tmp_path, rows, header=("flag", "a", "y"))
    new = write(
        tmp_path / "n.csv", ["flag", "a"], [["True", 1], ["TRUE", 1], ["true", 1], ["yes", 1], ["T", 1]]
    )
    assert main(["predict", str(tmp_path / "m.gp"), new, "--out", str(tmp_path / "p.csv")]) == 0
    with (tmp_path / "p.csv").open(newline="") as file:
        means = {row["line"]: row["mean"] for row in csv.DictReader(file)}
    assert set(means) == {"2", "3", "4"}
    assert len(set(means.values())) == 1


@pytest.mark.parametrize("ending", ["xlsx", "parquet", "csv.gz"])
def test_no_table_gets_the_name_of_a_format_that_is_not_written(tmp_path, capsys, ending):
    """CSV by the name of a workbook, which Excel refused to open."""
    x, y, _ = waves(30)
    fitted(tmp_path, np.c_[x, y].tolist())
    capsys.readouterr()
    out = tmp_path / f"p.{ending}"
    assert main(["predict", str(tmp_path / "m.gp"), str(tmp_path / "t.csv"), "--out", str(out)]) == 2
    assert "and tables as CSV; choose another ending, such as .csv" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("wrong", [("--seed", "-1"), ("--max-seconds", "0"), ("--max-seconds", "nan")])
def test_numbers_of_the_command_are_checked_before_the_table_is_read(tmp_path, capsys, wrong):
    """A negative seed was an error to be reported, after the table was read."""
    line = ["fit", str(tmp_path / "none.csv"), "--target", "y", "--out", str(tmp_path / "m.gp")]
    assert main([*line, *wrong]) == 2
    assert f"error: {wrong[0]} must" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["y_std", "noise_std"])
@pytest.mark.parametrize("large", [False, True])
def test_a_column_of_standard_errors_is_noise_and_no_input(tmp_path, capsys, monkeypatch, name, large):
    """It was an input, which new rows had to have; `suggest` and campaigns take it for what it says."""
    monkeypatch.setattr(opening, "LARGE", 1 if large else 2**22)
    x, y, error = waves()
    rows = [[*v, t, e] for v, t, e in zip(x, y, error, strict=True)]
    model = fitted(tmp_path, rows, header=("a", "b", "y", name))
    assert f"{name} (standard errors of y" in capsys.readouterr().err
    assert model.X_train_.shape == (60, 2)
    np.testing.assert_allclose(model.noise_variance_, error**2)
    rows[3][3], rows[4][3] = "", -1
    model = fitted(tmp_path, rows, header=("a", "b", "y", name))
    assert (
        f"the first in line 6 (y: its standard error in {name} is a number of at least 0"
        in capsys.readouterr().err
    )
    np.testing.assert_allclose(np.delete(model.noise_variance_, 3), np.delete(error, [3, 4]) ** 2)
    assert fitted(tmp_path, rows[5:], ("a", "b", "y", name), ["--features", f"a,{name}"]).n_features_in_ == 2
