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


def _predictions(folder: Path, x: np.ndarray, y: np.ndarray, *options: str) -> tuple[np.ndarray, np.ndarray]:
    table, model, out = _table(folder / "t.csv", x, y), folder / "model", folder / "out.csv"
    fit = ["fit", str(table), "--target", "y", "--out", str(model), "--seed", "0", "--num-samples", "2"]
    assert main(fit) == 0
    assert main(["predict", str(model), str(table), "--out", str(out), *options]) == 0
    rows = read(out)
    return tuple(np.array([float(row[name]) for row in rows]) for name in ("mean", "std"))


@pytest.mark.parametrize("c", [1e200, 1e-170, 1e150, 1e-150, 1e300])
def test_tables_in_any_units(c: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in ((), ("--include-noise",)):
        mean, std = _predictions(tmp_path, X, Y, *options)
        for x, y, size in ((X, c * Y, c), (c * X, Y, 1.0)):
            capsys.readouterr()
            found = _predictions(tmp_path, x, y, *options)
            for part, own in zip(found, (mean, std), strict=True):
                assert np.abs(part / size - own).max() <= 1e-6 * own.max()
            noise = float(capsys.readouterr().out.split("measurement ")[1].split()[0])
            assert 0 < noise < size


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
