"""Files that sggp wrote before safetensors; those in old/ are bytes that it wrote then."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from sggp import GPRegressor
from sggp.errors import DataFileError
from sggp.operators import KernelOperator
from sggp.persistence import read_content
from sggp.posterior import Posterior
from sggp.solvers import ConjugateGradients
from tests.solvers.dense import matern

OLD = Path(__file__).parent / "old"
QUERIES = [[0.25, 0.5], [0.75, 0.1]]


def test_a_posterior(tmp_path):
    posterior, q = Posterior.load(OLD / "posterior"), torch.tensor(QUERIES, dtype=torch.float64)
    expected = [[1.4474326175960752, -0.028912279551103648], [1.6136545557532254, 1.3328652408377624]]
    np.testing.assert_allclose(posterior.mean(q), [1.6160102933586091, 1.2828002888637045], rtol=1e-6)
    np.testing.assert_allclose(posterior.samples(q), expected, rtol=1e-6)
    posterior.save(tmp_path / "new")
    assert torch.equal(Posterior.load(tmp_path / "new").samples(q), posterior.samples(q))


def test_an_estimator(tmp_path):
    model = GPRegressor.load(OLD / "estimator")
    mean, std = model.predict(QUERIES, return_std=True)
    np.testing.assert_allclose(mean, [1.3290604800620056, 0.23926388305230079], rtol=1e-6)
    np.testing.assert_allclose(std, [0.038388326088461516, 0.009624127977792421], rtol=1e-6)
    np.testing.assert_allclose(
        model.sample_y(QUERIES, 2),
        [[1.3536357810522281, 1.2593036947102605], [0.25220249868594585, 0.2369209810070243]],
        rtol=1e-6,
    )
    assert (model.kernel, model.X_train_.shape, model.n_features_in_) == ("matern52", (12, 2), 2)
    model.save(tmp_path / "new")
    np.testing.assert_array_equal(
        GPRegressor.load(tmp_path / "new").sample_y(QUERIES, 2), model.sample_y(QUERIES, 2)
    )


def test_a_model_of_a_table(tmp_path):
    main = pytest.importorskip("sggp.cli", reason="the extra cli is not installed").main
    check_outputs = pytest.importorskip("sggp.cli.outputs").check_outputs
    rows = [[i / 10, "u" if i % 3 else "v"] for i in range(3)]
    with (tmp_path / "t.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["a", "kind"], *rows])
    arguments = [str(OLD / "model"), str(tmp_path / "t.csv"), "--out", str(tmp_path / "p.csv")]
    assert main(["predict", *arguments]) == 0
    copy = tmp_path / "model"
    copy.write_bytes((OLD / "model").read_bytes())
    check_outputs({"--out": copy}, models=["--out"])  # fit may replace it
    with pytest.raises(DataFileError, match="what is there is"):
        check_outputs({"--out": copy})
    with (tmp_path / "p.csv").open() as stream:
        found = [[float(row["mean"]), float(row["std"])] for row in csv.DictReader(stream)]
    expected = [
        [0.9997960900161152, 0.0038183673829061708],
        [0.009859383964399449, 0.003554726920463661],
        [0.04026077332321476, 0.0029427784506630863],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_model_of_the_first_format_has_one_noise(tmp_path):
    with zipfile.ZipFile(OLD / "model") as archive:
        head = json.dumps(json.loads(archive.read("model.json")) | {"format": "sggp-model-1"}).encode()
    model = GPRegressor.load(repacked("model", tmp_path / "f", model_json=head, noise=None))
    assert (model.noise_model_.row_noise, model.noise_model_.surface) == (None, None)
    x = [[0.5, "u"], [1.5, "v"]]
    latent, noisy = (model.predict(x, return_std=True, include_noise=noise)[1] for noise in (False, True))
    noise = model.y_scale_[0] ** 2 * float(model.posterior_.data.noise_variance.max())
    np.testing.assert_allclose(noisy**2, latent**2 + noise, rtol=1e-9)


def test_a_checkpoint(tmp_path):
    x = torch.rand(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    operator, rhs = KernelOperator(matern(2), x, 0.1), torch.ones(60, 2, dtype=torch.float64)
    first = ConjugateGradients().solve(operator, rhs, generator=0, checkpoint=tmp_path / "c")
    stream = io.BytesIO()
    torch.save(read_content(tmp_path / "c", "checkpoint") | {"format": "sggp-checkpoint-2"}, stream)
    digest = hashlib.blake2b(stream.getvalue(), digest_size=32).digest()
    (tmp_path / "c").write_bytes(stream.getvalue() + digest)
    before = operator.entries_evaluated
    again = ConjugateGradients().solve(operator, rhs, generator=0, checkpoint=tmp_path / "c")
    assert operator.entries_evaluated - before < 60**2  # the look at the operator, no product
    assert torch.equal(again.x, first.x)


def repacked(name: str, path: Path, **members: bytes | None) -> Path:
    with zipfile.ZipFile(OLD / name) as archive, zipfile.ZipFile(path, "w") as new:
        for member in archive.namelist():
            content = members.get(member.replace(".", "_"), archive.read(member))
            if content is not None:
                new.writestr(member, content)
    return path


def test_damage_in_old_files_is_seen(tmp_path):
    path, generator = tmp_path / "f", np.random.default_rng(0)
    kinds = {"posterior": Posterior.load, "estimator": GPRegressor.load, "model": GPRegressor.load}
    for name, load in kinds.items():
        whole = (OLD / name).read_bytes()
        expected = {"posterior": "posterior", "estimator": "estimator", "model": "estimator"}[name]
        content = repr(read_content(OLD / name, expected))
        for place in generator.integers(0, len(whole), 40):
            spoilt = bytearray(whole)
            spoilt[place] ^= 1 << int(generator.integers(0, 8))
            path.write_bytes(spoilt)
            try:
                found = read_content(path, expected)
            except DataFileError:
                continue
            assert repr(found) == content  # a date in the zip, say
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataFileError, match="is damaged"):
            load(path)


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("estimator", {"format_json": b'{"format": "mine", "version": 1}'}),
        ("estimator", {"noise": None}),
        ("estimator", {"table": b"not one"}),
        ("model", {"model_json": b"[1]"}),
        ("model", {"model_json": b"\xff"}),
        ("model", {"model_json": json.dumps({"format": "sggp-model-9"}).encode()}),
        ("model", {"posterior": None}),
    ],
)
def test_old_files_with_other_parts_are_refused(name, members, tmp_path):
    with pytest.raises(DataFileError, match="is damaged, or not a file written by sggp"):
        GPRegressor.load(repacked(name, tmp_path / "f", **members))


def test_a_part_of_another_kind_is_refused(tmp_path):
    with zipfile.ZipFile(OLD / "estimator") as archive:
        noise = archive.read("noise")
    with pytest.raises(DataFileError, match="is damaged, or not a file written by sggp"):
        GPRegressor.load(repacked("estimator", tmp_path / "f", posterior0=noise))
