"""`sggp fit` and `sggp predict` on numbers of any size: right, or refused with the value named; never NaN."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")
pytest.importorskip("rich", reason="the extra cli is not installed")

from sggp.cli import main
from tests.cli.commands import read, refused, write

X = np.linspace(0, 1, 20)
Y = np.sin(6 * X)


def _table(path: Path, x: np.ndarray, y: np.ndarray) -> Path:
    return write(path, ["a", "y"], [[repr(float(u)), repr(float(v))] for u, v in zip(x, y, strict=True)])


def _fitted(folder: Path, x: np.ndarray, y: np.ndarray) -> tuple[Path, Path]:
    """The table and the model of it."""
    folder.mkdir()
    table, model = _table(folder / "t.csv", x, y), folder / "model"
    fit = ["fit", str(table), "--target", "y", "--out", str(model), "--seed", "0", "--num-samples", "2"]
    assert main(fit) == 0
    return table, model


def _predictions(table: Path, model: Path, *options: str) -> tuple[np.ndarray, np.ndarray]:
    out = table.with_name("out.csv")
    assert main(["predict", str(model), str(table), "--out", str(out), *options]) == 0
    rows = read(out)
    return tuple(np.array([float(row[name]) for row in rows]) for name in ("mean", "std"))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The table in its own units, and the model of it."""
    return _fitted(tmp_path_factory.mktemp("own") / "units", X, Y)


@pytest.mark.parametrize("c", [1e-170, 1e150, 1e300])
def test_tables_in_any_units(
    c: float, own: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, x, y, size in (("y", X, c * Y, c), ("x", c * X, Y, 1.0)):
        capsys.readouterr()
        other = _fitted(tmp_path / name, x, y)
        noise = float(capsys.readouterr().out.split("measurement ")[1].split()[0])
        assert 0 < noise < size
        for options in ((), ("--include-noise",)):
            mean, std = _predictions(*own, *options)
            for part, expected in zip(_predictions(*other, *options), (mean, std), strict=True):
                assert np.abs(part / size - expected).max() <= 1e-6 * expected.max()


def test_a_prediction_beyond_float64_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = _table(tmp_path / "t.csv", X, 1.79e308 * np.sign(Y) * np.abs(Y) ** 0.1)
    model, out = tmp_path / "model", tmp_path / "out.csv"
    assert (
        main(["fit", str(table), "--target", "y", "--out", str(model), "--seed", "0", "--kernel", "rbf"]) == 0
    )
    query = _table(tmp_path / "q.csv", np.linspace(0, 1, 200), np.zeros(200))
    line = refused(capsys, "predict", model, query, "--out", out)
    assert "line" in line
    assert "float64" in line
    assert not out.exists()
