"""One file: what is read is what was written, to the last bit, or an error that says what the file is."""

from __future__ import annotations

import json
import os
import pickle
import re
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sggp.errors import DataFileError, InputError
from sggp.linear import BayesianLinearModel, LinearPosterior
from sggp.persistence import container, read_content, read_labels, rebuilding, write_content
from sggp.posterior import Posterior, condition
from tests.solvers.dense import matern

DTYPES = list(container._TYPES)


def same(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for name in ours:
            same(ours[name], theirs[name])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other)
    elif isinstance(ours, torch.Tensor):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        ours, theirs = (t.contiguous().reshape(-1).view(torch.uint8) for t in (ours, theirs))
        assert torch.equal(ours, theirs)
    elif isinstance(ours, np.ndarray):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    else:
        assert ours == theirs or ours != ours and theirs != theirs  # noqa: RUF021


def test_all_that_a_file_holds_comes_back(tmp_path):
    base = torch.arange(12, dtype=torch.float64).reshape(3, 4) / 7
    content = {
        "types": [torch.tensor([0, 1, 1]).to(dtype) for dtype in DTYPES],
        "shapes": {
            "none": torch.zeros(3, 0),
            "point": torch.tensor(-0.0),
            "nan": torch.tensor([float("nan")]),
        },
        "views": (base.T, base[:, 1], base[0].expand(5, 4)),
        "arrays": [np.arange(3.0), np.array([True]), np.zeros((2, 0), dtype=np.int32)],
        "by columns": [np.asfortranarray(np.full((30, 4), float(i))) for i in range(5)],
        "numbers": [1, -(2**70), 0.1, float("inf"), float("-inf"), float("nan"), 5e-324, True, None],
        "texts": ["", 'ü "header_sha256":"0', "\ud800", "a\nb"],
        "keys": {1: "one", (1, "a"): [], None: {"$tensor": "mine"}, "a.b": base},
        "a": {"b": -base},
        "__metadata__": base + 1,
    }
    write_content(tmp_path / "f", "odd", content)
    same(read_content(tmp_path / "f", "odd"), content)


def test_numpy_numbers_and_foreign_byte_orders_become_plain(tmp_path):
    given = np.arange(4, dtype=">f8")
    given.setflags(write=False)
    write_content(tmp_path / "f", "odd", {"a": np.float64(0.1), "b": np.int8(3), "c": given})
    found = read_content(tmp_path / "f", "odd")
    assert (type(found["a"]), found["a"], type(found["b"]), found["b"]) == (float, 0.1, int, 3)
    np.testing.assert_array_equal(found["c"], given)


@pytest.mark.parametrize(
    "value", [object(), {1.0}, 1j, np.array(["a"]), torch.ones(2) * 1j, torch.eye(2).to_sparse(), b"x", len]
)
def test_what_no_file_holds_is_named_with_its_place(value, tmp_path):
    with pytest.raises(InputError, match=rf"{type(value).__name__}.* at a\.1\.b: it holds tensors"):
        write_content(tmp_path / "f", "odd", {"a": [0, {"b": value}]})
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_in_two_places_is_there_once(tmp_path):
    x = torch.rand(1000, 4)
    write_content(tmp_path / "f", "odd", {"a": x, "b": [x, x.T]})
    found = load_file(tmp_path / "f")
    assert set(found) == {"a", "b.1"}  # a transpose is other bytes
    again = read_content(tmp_path / "f", "odd")
    assert again["a"] is again["b"][0]


def test_one_number_that_was_expanded(tmp_path):
    value = torch.ones((), dtype=torch.float64).expand(1, 1)
    write_content(tmp_path / "file", "posterior", {"value": value})
    assert torch.equal(read_content(tmp_path / "file", "posterior")["value"], value)


def test_any_reader_of_safetensors_sees_names_versions_and_checksums(tmp_path):
    content = {"data": {"x": torch.rand(3, 2), "y": torch.rand(3).double()}, "name": "mine"}
    write_content(tmp_path / "f", "odd", content)
    same(
        dict(sorted(load_file(tmp_path / "f").items())), {f"data.{k}": v for k, v in content["data"].items()}
    )
    with safe_open(tmp_path / "f", framework="pt") as file:
        texts = file.metadata()
    assert (texts["format"], texts["format_version"], texts["kind"]) == ("sggp", "1", "odd")
    assert json.loads(texts["written_by"])["torch"] == torch.__version__
    assert json.loads(texts["content"])["name"] == "mine"
    assert set(json.loads(texts["sha256"])) == {"data.x", "data.y"}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "f"
    write_content(path, "odd", {"x": torch.rand(5, 2), "y": [1.5, "text"], "z": torch.arange(3)})
    return path.read_bytes()


def test_no_byte_can_change_unseen(small, tmp_path):
    """Every byte of header, JSON, checksums and tensors."""
    path, generator = tmp_path / "f", np.random.default_rng(0)
    for place, bit in enumerate(generator.integers(0, 8, len(small))):
        spoilt = bytearray(small)
        spoilt[place] ^= 1 << bit
        path.write_bytes(spoilt)
        with pytest.raises(DataFileError, match=re.escape(str(path))):
            read_content(path, "odd")
        assert path.read_bytes() == spoilt


def test_no_length_but_its_own_is_read(small, tmp_path):
    path = tmp_path / "f"
    for length in [*range(0, len(small), 17), len(small) - 1]:
        path.write_bytes(small[:length])
        with pytest.raises(DataFileError, match="is empty" if length == 0 else "is damaged"):
            read_content(path, "odd")
    path.write_bytes(small + b"\0")
    with pytest.raises(DataFileError, match="is damaged"):
        read_content(path, "odd")


def test_a_header_written_by_others_is_seen(tmp_path):
    """A file that the library finds whole, with our texts."""
    write_content(tmp_path / "f", "odd", {"a": torch.zeros(2), "b": torch.ones(2)})
    with safe_open(tmp_path / "f", framework="pt") as file:
        texts = file.metadata()
    save_file({"a": torch.ones(2), "b": torch.zeros(2)}, tmp_path / "g", metadata=texts)
    with pytest.raises(DataFileError, match="the checksum of its header is wrong"):
        read_content(tmp_path / "g", "odd")


def test_numbers_are_checked_one_tensor_at_a_time(tmp_path):
    write_content(tmp_path / "f", "odd", {"a": torch.zeros(2), "b": torch.ones(2)})
    whole = (tmp_path / "f").read_bytes()
    (tmp_path / "f").write_bytes(whole[:-16] + whole[-8:] + whole[-16:-8])  # changed places
    with pytest.raises(DataFileError, match="a checksum of its numbers is wrong") as told:
        read_content(tmp_path / "f", "odd")
    assert str(told.value.__cause__.__cause__) in ("'a'", "'b'")


def test_labels_are_read_without_checks(small, tmp_path):
    (tmp_path / "f").write_bytes(small[:-1] + b"!")
    assert read_labels(tmp_path / "f")["kind"] == "odd"
    save_file({"a": torch.ones(2)}, tmp_path / "foreign", metadata={"format": "pt"})
    (tmp_path / "text").write_text("x")
    assert read_labels(tmp_path / "foreign") == read_labels(tmp_path / "text") == read_labels(tmp_path) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are text")
def test_a_file_is_opened_by_any_name(tmp_path):
    path = tmp_path / os.fsdecode(b"model\xe4")
    write_content(path, "odd", {"a": torch.ones(2)})
    assert read_content(path, "odd")["a"].tolist() == [1.0, 1.0]
    assert read_labels(path)["kind"] == "odd"


def test_other_things_than_our_files_are_named(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "foreign")
    np.savez(tmp_path / "arrays.npz", a=np.ones(3))
    (tmp_path / "pickle").write_bytes(pickle.dumps({"format": "sggp"}))
    (tmp_path / "text").write_text("x,y\n1,2\n" * 100)
    torch.save({"format": "mine"}, tmp_path / "torch")
    expected = {
        "foreign": "is a file of safetensors, but not one written by sggp",
        **dict.fromkeys(
            ["arrays.npz", "pickle", "text", "torch"], "is damaged, or not a file written by sggp"
        ),
        "missing": "there is no file",
        "text/missing": "there is no file",
        "x" * 300: "is damaged, or not a file",
        "": r"there is no file .*it is a folder",
    }
    for name, text in expected.items():
        with pytest.raises(DataFileError, match=text) as told:
            read_content(tmp_path / name, "odd")
        assert str(tmp_path / name) in str(told.value)
    for value in (None, 3, b"f"):
        with pytest.raises(InputError, match="path must be a path"):
            read_content(value, "odd")


def test_a_newer_file_is_refused_as_newer_whatever_it_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "FORMAT_VERSION", 2)
    monkeypatch.setattr(container, "_versions", lambda: {"sggp": "7.3"})
    write_content(tmp_path / "f", "posterior", {"something": "else"})
    monkeypatch.undo()
    with pytest.raises(DataFileError, match=r"newer sggp \(7\.3, format 2;.* up to 1\): update sggp"):
        Posterior.load(tmp_path / "f")
    texts = {"format": "sggp", "format_version": "3", "checksums": "of another kind"}
    save_file({"a": torch.ones(2)}, tmp_path / "g", metadata=texts)
    with pytest.raises(DataFileError, match=r"newer sggp \(of unknown version, format 3"):
        Posterior.load(tmp_path / "g")


def test_the_wrong_kind_is_told_with_what_opens_it(tmp_path):
    write_content(tmp_path / "f", "posterior", {})
    with pytest.raises(
        DataFileError, match=r"holds a posterior, not an estimator: open it with .*Posterior\.load"
    ):
        read_content(tmp_path / "f", "estimator")
    with pytest.raises(DataFileError, match="something in it is missing"):
        Posterior.load(tmp_path / "f", kernel=matern(2))


def test_errors_within_are_told_of_the_file_and_others_pass():
    for error in (KeyError("x"), ValueError(), RuntimeError(), InputError("no")):
        with (
            pytest.raises(DataFileError, match=r"f is not a whole thing .*: fit it again"),
            rebuilding("f", "thing", "fit it again"),
        ):
            raise error
    with pytest.raises(KeyboardInterrupt), rebuilding("f", "thing"):
        raise KeyboardInterrupt


def test_a_disk_that_fails_leaves_what_was_there(small, tmp_path, monkeypatch):
    (tmp_path / "f").write_bytes(small)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sggp.files.os.fsync", full)
    with pytest.raises(DataFileError, match=r"No space left on device.*is unchanged"):
        write_content(tmp_path / "f", "odd", {"x": torch.rand(1000)})
    assert (tmp_path / "f").read_bytes() == small
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_more_text_than_a_file_holds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "_MOST_HEADER", 2000)
    with pytest.raises(DataFileError, match="names and texts of 0 MB"):
        write_content(tmp_path / "f", "odd", {"a": "x" * 2000})
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_unpickled_and_what_was_read_outlives_its_file(tmp_path, monkeypatch):
    x = torch.rand(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    posterior = condition(
        matern(2), x, x.sum(1), noise_variance=1e-2, num_samples=2, num_features=16, generator=0
    )
    posterior.save(tmp_path / "p")

    def refuse(*_, **__):
        raise AssertionError("unpickled")

    for place in ("torch.load", "pickle.load", "pickle.loads", "pickle.Unpickler"):
        monkeypatch.setattr(place, refuse)
    again = Posterior.load(tmp_path / "p")
    monkeypatch.undo()
    (tmp_path / "p").write_bytes(
        bytes((tmp_path / "p").stat().st_size)
    )  # in place, under any map of the file
    for method in ("mean", "samples", "variance"):
        assert torch.equal(getattr(again, method)(x + 0.1), getattr(posterior, method)(x + 0.1))


def test_a_posterior_takes_as_many_bytes_as_its_rows_and_samples(tmp_path):
    """8 n (d + 3 + 2 s) bytes, and what no n changes."""

    def size(n, s):
        x = torch.rand(n, 4, dtype=torch.float64)
        posterior = condition(
            matern(4), x, x.sum(1), noise_variance=0.1, num_samples=s, num_features=16, generator=0
        )
        posterior.save(tmp_path / "p")
        return (tmp_path / "p").stat().st_size

    for s in (1, 8):
        assert size(300, s) - size(100, s) == pytest.approx(8 * 200 * (4 + 3 + 2 * s), abs=64)


def test_a_linear_posterior_comes_back(tmp_path):
    phi = torch.rand(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = BayesianLinearModel(num_samples=4).fit(phi, phi.sum(1), generator=0)
    found.save(tmp_path / "l")
    again = LinearPosterior.load(tmp_path / "l")
    for method in ("mean", "samples", "variance", "covariance"):
        assert torch.equal(getattr(again, method)(phi), getattr(found, method)(phi))
    assert (again.trace, again.noise_variance, repr(again.solution)) == (
        found.trace,
        found.noise_variance,
        repr(found.solution),
    )
    with pytest.raises(InputError, match="fit again"):
        again.variance(phi, method="solve")
    content = read_content(tmp_path / "l", "linear posterior")
    for change in (
        {"weights": torch.ones(4)},
        {"deviations": torch.ones(5, 3)},
        {"trace": [{}]},
        {"solver": {}},
    ):
        write_content(tmp_path / "m", "linear posterior", content | change)
        with pytest.raises(DataFileError, match="not a whole linear posterior"):
            LinearPosterior.load(tmp_path / "m")
