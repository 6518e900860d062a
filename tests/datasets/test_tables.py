"""The loaders against hand-made files, the published folds, and exact GP numbers that fix parse, order and scale."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pytest

from sggp.datasets import (
    LARGE_NAMES,
    UCI_NAMES,
    large,
    random_fold,
    standardized_split,
    uci,
    uci_hyperparameters,
)
from sggp.errors import DataFileError, InputError, ShapeError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small SGGP_DATA_DIR with one table of 20 rows, a constant column and a nearly constant one."""
    generator = np.random.default_rng(1)
    table = generator.normal(size=(20, 4))
    table[:, 1] = 3.0
    table[:, 2] = np.r_[np.zeros(19), 1e-5] + 7
    masks = np.zeros((20, 10))
    masks[np.arange(20), np.arange(20) % 10] = 1
    place = tmp_path / "uci" / "yacht"
    place.mkdir(parents=True)
    for name, values in (("data", table), ("test_mask", masks)):
        with gzip.open(place / f"{name}.csv.gz", "wt") as stream:
            np.savetxt(stream, values, delimiter=",", fmt="%.17g")
    values = {"noise_scale": 0.1, "signal_scale": 2.0, "length_scale": [1.0, 2.0, 3.0]}
    empty = dict.fromkeys(values)
    (tmp_path / "uci" / "published_hparams.json").write_text(
        json.dumps({"hparams": {"yacht": {"0": values, "3": empty}}})
    )
    monkeypatch.setenv("SGGP_DATA_DIR", str(tmp_path))
    return tmp_path, table


def test_split_and_statistics_by_hand(folder):
    _, table = folder
    data = uci("yacht", 3)
    test = np.arange(20) % 10 == 3
    mean, deviation = table[~test].mean(0), table[~test].std(0)
    assert data.x_train.shape == (18, 3)
    assert data.x_train.dtype == data.y_test.dtype == np.float64
    for column in (0, 2):
        np.testing.assert_allclose(
            data.x_train[:, column], (table[~test, column] - mean[column]) / deviation[column]
        )
    assert not data.x_train[:, 1].any()
    assert not data.x_test[:, 1].any()
    assert data.x_train[:, 2].std() == pytest.approx(1.0)
    np.testing.assert_allclose(data.y_test, (table[test, 3] - mean[3]) / deviation[3])
    np.testing.assert_allclose(data.y_statistics.undo(data.y_test), table[test, 3])
    assert data.feature_names == ("x0", "x1", "x2")
    assert "train=18, test=2, d=3" in repr(data)


def test_hyperparameters_are_variances(folder):
    found = uci_hyperparameters("yacht", 0)
    assert (found.outputscale, found.noise_variance) == (4.0, pytest.approx(0.01))
    kernel = found.kernel()
    assert kernel.outputscale.item() == pytest.approx(4.0, rel=1e-12)
    np.testing.assert_allclose(kernel.base_kernel.lengthscale.detach().numpy(), [[1.0, 2.0, 3.0]], rtol=1e-12)
    assert kernel.base_kernel.nu == 1.5
    for name, split in (("yacht", 3), ("yacht", 9), ("pol", 0)):
        with pytest.raises(InputError, match="no hyperparameters are published"):
            uci_hyperparameters(name, split)


def test_bad_requests_and_damaged_files(folder):
    place, _ = folder
    with pytest.raises(InputError, match="choose one of pol"):
        uci("boston", 0)
    for split in (10, -1, 1.5, True):
        with pytest.raises(InputError, match="split must be"):
            uci("yacht", split)
    with gzip.open(place / "uci/yacht/test_mask.csv.gz", "wt") as stream:
        np.savetxt(stream, np.zeros((19, 10)), delimiter=",")
    with pytest.raises(DataFileError, match=r"shape \(19, 10\), expected \(20, 10\)"):
        uci("yacht")
    (place / "uci/yacht/data.csv.gz").write_bytes(gzip.compress(b"1,2,x\n"))
    with pytest.raises(DataFileError, match="table of numbers"):
        uci("yacht")
    (place / "uci/published_hparams.json").write_text("[]")
    with pytest.raises(DataFileError, match="published hyperparameters"):
        uci_hyperparameters("yacht")
    with pytest.raises(InputError, match="choose one of britain"):
        large("song")
    with pytest.raises(DataFileError, match="no download with a known checksum"):
        large("beijing_pm25")
    (place / "large").mkdir()
    (place / "large/beijing_pm25.npz").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(DataFileError, match="not a table"):
        large("beijing_pm25")


def test_large_table(folder):
    place, _ = folder
    (place / "large").mkdir()
    x = np.arange(40, dtype=np.float32).reshape(20, 2)
    np.savez(
        place / "large/beijing_pm25.npz",
        X=x,
        y=x[:, 0],
        feature_names=["a", "b"],
        target_name="t",
        codes=x[:, 1],
    )
    table = large("beijing_pm25")
    assert (table.x.dtype, table.feature_names, table.target_name) == (np.float64, ("a", "b"), "t")
    assert list(table.extras) == ["codes"]
    test = random_fold(20, 4)
    data = table.split(test, 4)
    assert (data.split, len(data.x_test), data.target_name) == (4, 2, "t")
    np.testing.assert_allclose(data.x_statistics.undo(data.x_test), x[test])


def test_random_folds_partition_the_rows():
    folds = np.array([random_fold(103, i) for i in range(10)])
    np.testing.assert_array_equal(folds.sum(0), np.ones(103))
    assert set(folds.sum(1)) == {10, 11}
    expected = np.random.default_rng(0).permutation(103)[2::10]
    assert sorted(expected) == np.flatnonzero(folds[2]).tolist()
    with pytest.raises(InputError, match="fold"):
        random_fold(10, 10)


def test_bad_splits():
    x, y = np.ones((4, 2)), np.ones(4)
    with pytest.raises(ShapeError, match="boolean mask"):
        standardized_split(x, y, np.zeros(4))
    with pytest.raises(ShapeError):
        standardized_split(x, y[:3], np.zeros(4, dtype=bool))
    for mask in (np.zeros(4, dtype=bool), np.ones(4, dtype=bool)):
        with pytest.raises(InputError, match="training and test"):
            standardized_split(x, y, mask)
    with pytest.raises(InputError, match="finite"):
        standardized_split(x, np.array([1, 2, np.nan, 3]), np.arange(4) == 1)


def test_import_is_light():
    code = "import sys, sggp.datasets; print([m for m in ('torch', 'sklearn', 'rdkit', 'pooch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_published_tables_partition_into_folds(data_dir):
    for name in ("pol", "energy", "wine"):
        parts = [uci(name, split) for split in range(10)]
        n = len(parts[0].x_train) + len(parts[0].x_test)
        assert sum(len(part.x_test) for part in parts) == n
    assert (len(parts[0].x_train), parts[0].x_train.shape[1]) == (1440, 11) if n > 1000 else True
    assert len(uci("pol").x_train) == 13500
    assert set(UCI_NAMES) >= {"pol", "elevators", "bike", "protein", "keggdirected"}
    assert "britain_magnetic" in LARGE_NAMES


@pytest.mark.parametrize(
    ("name", "rmse", "nll"),
    [pytest.param("pol", 0.1368, -0.8149, marks=pytest.mark.slow),
     pytest.param("elevators", 0.3857, 0.4647, marks=pytest.mark.slow),
     pytest.param("bike", 0.0923, -1.4911, marks=pytest.mark.slow)],
)  # fmt: skip
def test_exact_gp_on_3000_rows_gives_the_reference_numbers(data_dir, name, rmse, nll):
    """Fixes the parse, the column order and the square of the published scales; dense algebra, no sggp kernel."""
    from scipy.linalg import cho_solve, cholesky, solve_triangular
    from scipy.spatial.distance import cdist

    data, values = uci(name, 0), uci_hyperparameters(name, 0)
    rows = np.random.default_rng(0).permutation(len(data.x_train))[:3000]
    x, z = data.x_train[rows] / values.lengthscale, data.x_test / values.lengthscale

    def covariance(a, b):
        r = np.sqrt(3) * cdist(a, b)
        return values.outputscale * (1 + r) * np.exp(-r)

    factor = cholesky(covariance(x, x) + values.noise_variance * np.eye(3000), lower=True)
    cross = covariance(x, z)
    mean = cross.T @ cho_solve((factor, True), data.y_train[rows])
    half = solve_triangular(factor, cross, lower=True)
    variance = values.outputscale - (half**2).sum(0) + values.noise_variance
    error = data.y_test - mean
    assert np.sqrt((error**2).mean()) == pytest.approx(rmse, abs=5e-4)
    assert (0.5 * np.log(2 * np.pi * variance) + 0.5 * error**2 / variance).mean() == pytest.approx(
        nll, abs=2e-3
    )
