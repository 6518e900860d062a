"""`sggp predict` says of new measurements what GPRegressor says, of a model file as of the model itself."""

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


def table(n: int, *, even: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise ten times as large where the second input is positive, or the same everywhere."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, 2))
    sigma = np.where((x[:, 1] > 0) & (not even), 0.3, 0.03)
    return x, 5 + 20 * (np.sin(3 * x[:, 0]) + sigma * rng.standard_normal(n))


TABLES = {"heteroscedastic": (False, 0), "homoscedastic": (True, 0), "outliers": (True, 4)}


def written(path: Path, x: np.ndarray, y: np.ndarray) -> Path:
    return write(path, ["a", "b", "y"], [[*map(repr, row)] for row in np.c_[x, y].tolist()])


@pytest.fixture(scope="module", params=TABLES)
def fitted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, GPRegressor]:
    """A folder with a model file and a table of new rows, and the estimator of the same table and seed."""
    folder = tmp_path_factory.mktemp(request.param)
    even, outliers = TABLES[request.param]
    x, y = table(160, even=even)
    y[:outliers] += 300
    data = written(folder / "data.csv", x, y)
    options = ["--target", "y", "--out", str(folder / "model"), "--seed", "3", "--num-samples", "4"]
    assert main(["fit", str(data), *options]) == 0
    written(folder / "new.csv", *table(150, even=even, seed=1))
    model = GPRegressor(num_samples=4, random_state=3).fit(x, y)
    assert (model.noise_model_.surface is None) == even
    assert len(model.outliers_) == outliers
    return folder, model


def predicted(folder: Path, out: Path, *options: str) -> dict[str, np.ndarray]:
    assert main(["predict", str(folder / "model"), str(folder / "new.csv"), "--out", str(out), *options]) == 0
    rows = read(out)
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def test_predictions_are_those_of_the_estimator(fitted: tuple[Path, GPRegressor], tmp_path: Path) -> None:
    folder, model = fitted
    x = table(150, even=model.noise_model_.surface is None, seed=1)[0]
    for options, noisy in (((), False), (("--include-noise",), True)):
        found = predicted(folder, tmp_path / "out.csv", *options)
        assert list(found) == ["line", "mean", "std"]
        mean, std = model.predict(x, return_std=True, include_noise=noisy)
        np.testing.assert_allclose(found["mean"], mean, rtol=1e-9)
        np.testing.assert_allclose(found["std"], std, rtol=1e-7)
    for coverage in (0.95, 0.5):
        found = predicted(folder, tmp_path / "out.csv", "--interval", str(coverage))
        assert list(found) == ["line", "mean", "std", "low", "high"]
        np.testing.assert_allclose(found["std"], model.predict(x, return_std=True)[1], rtol=1e-7)
        low, high = model.predict_interval(x, coverage)
        np.testing.assert_allclose(found["low"], low, rtol=1e-7)
        np.testing.assert_allclose(found["high"], high, rtol=1e-7)
    found = predicted(folder, tmp_path / "out.csv", "--interval", "0.9", "--conformal")
    low, high = model.predict_interval(x, 0.9, conformal=True)
    np.testing.assert_allclose([found["low"], found["high"]], [low, high], rtol=1e-7)


def test_an_interval_that_is_no_share_is_refused(
    fitted: tuple[Path, GPRegressor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = fitted[0], tmp_path / "out.csv"
    for value in ("95", "0", "1", "-0.5", "nan"):
        line = refused(
            capsys, "predict", folder / "model", folder / "new.csv", "--out", out, "--interval", value
        )
        assert "--interval" in line
        assert "0.95" in line
    line = refused(capsys, "predict", folder / "model", folder / "new.csv", "--out", out, "--conformal")
    assert "--interval 0.95" in line
    assert not out.exists()


def test_a_model_without_its_noise_or_with_that_of_others_is_refused(
    fitted: tuple[Path, GPRegressor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = fitted[0], tmp_path / "model"
    content = read_content(folder / "model", "estimator")
    damages = [
        {"noise_model": None},
        {"noise_model": {"kind": "Tail"}},
        {"scaling": content["scaling"] | {"x_offset": np.zeros(1)}},
    ]
    for damage in damages:
        write_content(out, "estimator", content | damage)
        line = refused(capsys, "predict", out, folder / "new.csv", "--out", tmp_path / "out.csv")
        assert str(out) in line
        assert "fit it again" in line
