"""Model files of `sggp fit`: one zip of the columns with their units, the posterior and the noise model."""

from __future__ import annotations

import json
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sggp.errors import DataFileError
from sggp.estimator import GPRegressor
from sggp.estimator.columns import TableEncoder
from sggp.evidence.spread import NoiseModel
from sggp.evidence.storage import load_noise_model, save_noise_model
from sggp.files import whole_file
from sggp.fitting.scaling import Scaling
from sggp.posterior import Posterior

_FORMAT = "sggp-model-2"
_OLD_FORMAT = "sggp-model-1"
"""Without a noise model: one noise variance for all rows."""
_META = ("target", "features", "shift", "spread", "offset", "scale")
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    LookupError,
    TypeError,
    ValueError,
    RuntimeError,
)


@dataclass(frozen=True)
class SavedModel:
    """A model with the names of its columns.

    Attributes:
        target: the column that is predicted. features: those it is predicted from.
        model: predicts as the estimator that was saved; nothing else of it is kept.
    """

    target: str
    features: list[str]
    model: GPRegressor


def save_model(path: Path, saved: SavedModel) -> None:
    """Write a fitted model of one target to `path`."""
    model = saved.model
    meta = {
        "format": _FORMAT,
        "target": saved.target,
        "features": saved.features,
        "columns": None if model.columns_ is None else model.columns_.to_dict(),
        "shift": model.x_offset_.tolist(),
        "spread": model.x_scale_.tolist(),
        "offset": float(model.y_offset_[0]),
        "scale": float(model.y_scale_[0]),
    }
    with whole_file(path) as stream, tempfile.TemporaryDirectory() as folder:
        model.posterior_.save(Path(folder) / "posterior")
        save_noise_model(Path(folder) / "noise", model.noise_model_)
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("model.json", json.dumps(meta))
            for name in ("posterior", "noise"):
                archive.write(Path(folder) / name, name)


def load_model(path: Path) -> SavedModel:
    """Read what `save_model` wrote, or an older file.

    Raises:
        DataFileError: the file is missing, damaged or another.
    """
    if not path.is_file():
        raise DataFileError(f"{path}: no such model file.")
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            meta = json.loads(archive.read("model.json"))
            found = meta["format"]
            if found in (_FORMAT, _OLD_FORMAT) and all(name in meta for name in _META):
                posterior = Posterior.load(Path(archive.extract("posterior", folder)))
                noise = NoiseModel()
                if found == _FORMAT:
                    noise = load_noise_model(Path(archive.extract("noise", folder)))
                return SavedModel(meta["target"], meta["features"], _restored(meta, posterior, noise))
    except _UNREADABLE as error:
        raise DataFileError(f"{path}: damaged, or not a model written by sggp fit; fit it again.") from error
    raise DataFileError(f"{path}: model format {found!r} is not {_FORMAT!r}, or lacks a part; fit it again.")


def _restored(meta: dict[str, Any], posterior: Posterior, noise: NoiseModel) -> GPRegressor:
    """An estimator with all that its predictions need.

    Raises:
        LookupError, TypeError, ValueError: the parts do not go together.
    """
    columns, features = meta.get("columns"), meta["features"]
    model: Any = GPRegressor()
    model.columns_ = None if columns is None else TableEncoder.from_dict(columns)
    if columns is not None and len(columns["columns"]) != len(features):
        raise ValueError(f"{len(features)} features, and an encoder of {len(columns['columns'])}")
    shift, spread, offset, scale = (
        np.atleast_1d(np.asarray(meta[name], dtype=float)) for name in ("shift", "spread", "offset", "scale")
    )
    width = posterior.x.shape[1]
    inside = noise.surface is None or bool((noise.surface.columns < width).all())
    if not shift.shape == spread.shape == (width,) or not inside:
        raise ValueError(f"a posterior of {width} columns, and units or a noise model of others")
    if noise.row_noise is None and len(posterior.data.noise_variance.unique()) > 1:
        raise ValueError("noise for each row, and no model of it")
    model.n_features_in_ = len(features)
    model.posterior_, model.noise_model_ = posterior, noise
    model.scaling_ = Scaling(shift, spread, offset, scale, True, True)
    return model
