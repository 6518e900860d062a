"""Model files of `sggp fit` that are damaged: one line that names the file as the user did."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")
pytest.importorskip("rich", reason="the extra cli is not installed")

from sggp import GPRegressor
from sggp.cli import main
from sggp.errors import DataFileError
from sggp.molecules import read_table
from sggp.persistence import read_content, write_content


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A table and the bytes of a model of it."""
    folder = tmp_path_factory.mktemp("model")
    table = folder / "table.csv"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows([["a", "y"], *([i / 10, (i / 10) ** 2] for i in range(20))])
    model = folder / "model"
    arguments = ["--target", "y", "--out", str(model), "--seed", "0", "--num-samples", "2"]
    assert main(["fit", str(table), *arguments]) == 0
    return table, model.read_bytes()


def _changed(path: Path, **changes: object) -> None:
    """The model with parts replaced, and checksums that are right; without those that are None."""
    content = read_content(path, "estimator") | changes
    write_content(path, "estimator", {k: v for k, v in content.items() if v is not None})


DAMAGE = {
    "empty": lambda path, whole: path.write_bytes(b""),
    "text": lambda path, whole: path.write_bytes(b"a,y\n1,2\n"),
    "cut": lambda path, whole: path.write_bytes(whole[: len(whole) // 2]),
    "flipped": lambda path, whole: path.write_bytes(
        whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]
    ),
    "flipped in its numbers": lambda path, whole: path.write_bytes(
        whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    ),
    "no functions": lambda path, whole: _changed(path, posteriors=None),
    "no units": lambda path, whole: _changed(path, scaling=None),
    "no columns": lambda path, whole: _changed(path, table=None),
    "no features": lambda path, whole: _changed(path, table={"target": "y"}),
    "other features": lambda path, whole: _changed(path, table={"target": "y", "features": ["a", "b"]}),
    "features no list": lambda path, whole: _changed(path, table={"target": "y", "features": "a"}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_model_is_named(damage, fitted, tmp_path, capsys):
    table, whole = fitted
    model = tmp_path / "model"
    model.write_bytes(whole)
    DAMAGE[damage](model, whole)
    capsys.readouterr()
    assert main(["predict", str(model), str(table), "--out", str(tmp_path / "out.csv")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert str(model) in line
    assert "fit it again" in line
    assert not any(word in line for word in ("posterior", "torch", "weights_only", "pickle"))
    assert not (tmp_path / "out.csv").exists()


def test_a_model_is_an_estimator(fitted, tmp_path, capsys):
    table, whole = fitted
    (tmp_path / "m").write_bytes(whole)
    model = GPRegressor.load(tmp_path / "m")
    assert main(["predict", str(tmp_path / "m"), str(table), "--out", str(tmp_path / "out.csv")]) == 0
    with (tmp_path / "out.csv").open() as stream:
        found = [float(row["mean"]) for row in csv.DictReader(stream)]
    assert model.predict([[i / 10] for i in range(20)], return_std=True)[0].tolist() == found
    model.save(tmp_path / "python")  # which knows of no table
    assert main(["predict", str(tmp_path / "python"), str(table), "--out", str(tmp_path / "o.csv")]) == 2
    assert "does not say which columns" in capsys.readouterr().err
    assert main(["fit", str(table), "--target", "y", "--out", str(tmp_path / "python")]) == 2
    assert main(["predict", str(tmp_path / "m"), str(table), "--out", str(tmp_path / "python")]) == 2
    assert capsys.readouterr().err.count("what is there is a model") == 2
    with pytest.raises(DataFileError, match="no table but a model of sggp"):
        read_table(tmp_path / "python")
