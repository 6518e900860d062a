"""Model files of `sggp fit` that are damaged: one line that names the file as the user did."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")
pytest.importorskip("rich", reason="the extra cli is not installed")

from sggp.cli import main


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


def _repacked(path: Path, **members: bytes | None) -> None:
    """The model with members replaced, or left out where None."""
    with zipfile.ZipFile(path) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    found |= {name.replace("_", "."): content for name, content in members.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in found.items():
            if content is not None:
                archive.writestr(name, content)


def _meta(path: Path, **changes: object) -> None:
    with zipfile.ZipFile(path) as archive:
        meta = json.loads(archive.read("model.json")) | changes
    _repacked(path, model_json=json.dumps({k: v for k, v in meta.items() if v is not None}).encode())


DAMAGE = {
    "empty": lambda path, whole: path.write_bytes(b""),
    "text": lambda path, whole: path.write_bytes(b"a,y\n1,2\n"),
    "cut": lambda path, whole: path.write_bytes(whole[: len(whole) // 2]),
    "flipped": lambda path, whole: path.write_bytes(
        whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]
    ),
    "posterior damaged": lambda path, whole: _repacked(path, posterior=b"not one"),
    "no posterior": lambda path, whole: _repacked(path, posterior=None),
    "no head": lambda path, whole: _repacked(path, model_json=None),
    "head no text": lambda path, whole: _repacked(path, model_json=b"\xff\xfe"),
    "head a list": lambda path, whole: _repacked(path, model_json=b"[1]"),
    "another format": lambda path, whole: _meta(path, format="sggp-model-9"),
    "no features": lambda path, whole: _meta(path, features=None),
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
