"""Files that sggp wrote before it wrote safetensors: they are still read, and no longer written.

Torch's own files of plain values ("sggp-posterior-1" without a checksum; "-2", tables and noise models with one at the
end), and zips of those: an estimator, and the model of `sggp fit`. Torch reads them as tensors and plain values alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["OLD_FILE", "read_old"]

OLD_FILE = b"PK\x03\x04"
"""How they begin: all are zips."""
_DIGEST = 32
_UNCHECKED = "sggp-posterior-1"
_KINDS = {
    _UNCHECKED: "posterior",
    "sggp-posterior-2": "posterior",
    "sggp-checkpoint-2": "checkpoint",
    "sggp-estimator-table-1": "table",
    "sggp-noise-1": "noise model",
}
_ARRAYS = ("arrays", "scaling", "known_noise")


def read_old(path: Path) -> tuple[str, dict[str, Any]]:
    """Kind and content, as of a new file.

    Raises:
        ValueError, LookupError, ...: it is none of these files, or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = set(archive.namelist())
            if "format.json" in members:
                return "estimator", _estimator(archive)
            if "model.json" in members:
                return "estimator", _model(archive)
        return _values(path.read_bytes())
    except (zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, EOFError) as error:
        raise ValueError("not a whole file") from error


def _values(data: bytes) -> tuple[str, dict[str, Any]]:
    body, digest = data[:-_DIGEST], data[-_DIGEST:]
    checked = hashlib.blake2b(body, digest_size=_DIGEST).digest() == digest
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of a file that is none of its own
        where = None if torch.cuda.is_available() else "cpu"
        content = torch.load(io.BytesIO(body if checked else data), map_location=where, weights_only=True)
    form = content["format"]
    if checked == (form == _UNCHECKED):
        raise ValueError("its checksum is wrong")
    return _KINDS[form], content


def _part(archive: zipfile.ZipFile, name: str, kind: str) -> dict[str, Any]:
    found, content = _values(archive.read(name))
    if found != kind:
        raise ValueError(f"{name} is not a {kind}")
    return content


def _estimator(archive: zipfile.ZipFile) -> dict[str, Any]:
    head = json.loads(archive.read("format.json"))
    if (head["format"], head["version"]) != ("sggp-estimator", 1):
        raise ValueError("not an estimator")
    content = _part(archive, "table", "table")
    content |= {name: _as_arrays(content[name]) for name in _ARRAYS}
    content["parameters"]["noise_variance"] = _as_arrays(content["parameters"]["noise_variance"])
    posteriors = [_part(archive, f"posterior{j}", "posterior") for j in range(head["targets"])]
    return content | {
        "noise_model": _part(archive, "noise", "noise model")["model"],
        "posteriors": posteriors,
        "n_features": content["plain"]["n_features_in_"],
    }


def _model(archive: zipfile.ZipFile) -> dict[str, Any]:
    """What the model of a table needs to predict; the first format had no noise model."""
    meta = json.loads(archive.read("model.json"))
    if meta["format"] not in ("sggp-model-1", "sggp-model-2"):
        raise ValueError("not a model")
    names = {"x_offset": "shift", "x_scale": "spread", "y_offset": "offset", "y_scale": "scale"}
    scaling = {ours: np.atleast_1d(np.asarray(meta[theirs], dtype=float)) for ours, theirs in names.items()}
    noise = meta["format"] == "sggp-model-2"
    return {
        "columns": meta.get("columns"),
        "scaling": {**scaling, "standardised": True, "normalised": True},
        "noise_model": _part(archive, "noise", "noise model")["model"] if noise else {"kind": "NoiseModel"},
        "posteriors": [_part(archive, "posterior", "posterior")],
        "n_features": len(meta["features"]),
        "table": {"target": meta["target"], "features": meta["features"]},
    }


def _as_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_arrays(part) for name, part in value.items()}
    return value.numpy() if isinstance(value, Tensor) else value
