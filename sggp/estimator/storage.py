"""Estimators on disk: tensors and plain values with checksums, no pickle, written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
import zipfile
import zlib
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpytorch.kernels import Kernel

from sggp.checks import as_path
from sggp.errors import DataFileError, InputError, NotSaved, SggpError
from sggp.estimator.columns import TableEncoder
from sggp.evidence.storage import load_noise_model, save_noise_model
from sggp.files import read_content, whole_file, write_content
from sggp.fitting.scaling import Scaling
from sggp.hyperparameters.result import FitResult
from sggp.hyperparameters.unidentified import Unidentified
from sggp.posterior import Posterior
from sggp.posterior.kernel_values import describe_kernel, rebuild_kernel
from sggp.solvers import describe_solver, rebuild_solver

_FORMAT, _VERSION = "sggp-estimator", 1
_TABLE = "sggp-estimator-table-1"
_FIT = [f.name for f in fields(FitResult) if f.name not in ("kernel", "posterior", "unidentified_columns")]
_PLAIN = ("n_features_in_", "n_iter_", "log_marginal_likelihood_value_", "hyperparameters_", "trace_")
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    LookupError,
    TypeError,
    ValueError,
    RuntimeError,
    AttributeError,
)


def save_estimator(path: str | os.PathLike[str], model: Any) -> None:
    """Write a fitted `GPRegressor`; see `GPRegressor.save`."""
    posteriors = model.posterior_ if isinstance(model.posterior_, list) else [model.posterior_]
    described = [describe_kernel(k) for k in (model.kernel_, *(p.kernel for p in posteriors))]
    if None in described:
        raise InputError(
            f"the kernel {type(model.kernel_).__name__} holds a type that no file of plain values can hold: keep the "
            "estimator with joblib.dump, which needs the class where it is read."
        )
    parameters, lost = _described(model.get_params(deep=False))
    result = model.fit_result_
    content = {
        "format": _TABLE,
        "parameters": parameters,
        "kernel": described[0],
        "fit": {name: getattr(result, name) for name in _FIT},
        "unidentified": [asdict(record) for record in result.unidentified_columns],
        "plain": {name: _without_numpy(getattr(model, name)) for name in _PLAIN},
        "noise_adjustment": list(model.noise_adjustment_),
        "names": None
        if not hasattr(model, "feature_names_in_")
        else [str(n) for n in model.feature_names_in_],
        "columns": None if model.columns_ is None else model.columns_.to_dict(),
        "scaling": {name: _tensor(value) for name, value in vars(model.scaling_).items()},
        "arrays": {
            n: _tensor(getattr(model, n)) for n in ("X_train_", "y_train_", "outliers_", "noise_variance_")
        },
        "known_noise": _tensor(model._known_noise),
    }
    head = {
        "format": _FORMAT,
        "version": _VERSION,
        "targets": len(posteriors),
        "libraries": {name: version(name) for name in ("sggp", "torch", "gpytorch", "numpy")},
    }
    with whole_file(path) as stream, tempfile.TemporaryDirectory() as folder:
        write_content(Path(folder) / "table", content)
        save_noise_model(Path(folder) / "noise", model.noise_model_)
        for j, posterior in enumerate(posteriors):
            posterior.save(Path(folder) / f"posterior{j}")
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("format.json", json.dumps(head))
            for name in sorted(os.listdir(folder)):
                archive.write(Path(folder) / name, name)
    if lost:
        warnings.warn(
            f"{', '.join(lost)} of the estimator cannot be written to {path}, which predicts as it does all the same: "
            "give them again with set_params before another fit.",
            NotSaved,
            stacklevel=3,
        )


def load_estimator(path: str | os.PathLike[str], model: Any) -> Any:
    """Fill a new estimator with what `save_estimator` wrote; see `GPRegressor.load`."""
    target = as_path(path, "path")
    if not target.is_file():
        raise DataFileError(f"there is no file {target}.")
    try:
        with zipfile.ZipFile(target) as archive, tempfile.TemporaryDirectory() as folder:
            head = json.loads(archive.read("format.json"))
            if head["format"] != _FORMAT:
                raise DataFileError(f"{target} holds {head['format']!r}, not an estimator.")
            if head["version"] > _VERSION:
                raise DataFileError(
                    f"{target} was written by a newer sggp ({head['libraries']['sggp']}, format {head['version']}; "
                    f"this one reads up to {_VERSION}): update sggp."
                )
            names = ["table", "noise", *(f"posterior{j}" for j in range(head["targets"]))]
            parts = [Path(archive.extract(name, folder)) for name in names]
            _restore(model, read_content(parts[0], _TABLE))
            model.noise_model_ = load_noise_model(parts[1])
            posteriors = [Posterior.load(part) for part in parts[2:]]
    except SggpError:
        raise
    except _UNREADABLE as error:
        raise DataFileError(
            f"{target} is damaged, or not an estimator written by GPRegressor.save. It is left as it is."
        ) from error
    single = len(posteriors) == 1
    model.posterior_ = posteriors[0] if single else posteriors
    model.solution_ = posteriors[0].solution if single else [p.solution for p in posteriors]
    return model


def _restore(model: Any, content: dict[str, Any]) -> None:
    parameters = dict(content["parameters"])
    for name, build in (("kernel", rebuild_kernel), ("solver", rebuild_solver)):
        if isinstance(parameters[name], dict):
            parameters[name] = build(parameters[name])
    parameters["noise_variance"] = _array(parameters["noise_variance"])
    model.set_params(**parameters)
    columns = content["columns"]
    model.columns_ = None if columns is None else TableEncoder.from_dict(columns)
    for name, value in content["plain"].items():
        setattr(model, name, value)
    for name, value in content["arrays"].items():
        setattr(model, name, _array(value))
    model.noise_adjustment_ = tuple(content["noise_adjustment"])
    model._known_noise = _array(content["known_noise"])
    if content["names"] is not None:
        model.feature_names_in_ = np.array(content["names"], dtype=object)
    model.scaling_ = Scaling(**{name: _array(value) for name, value in content["scaling"].items()})
    model._tell_scaling(model.scaling_)
    kernel = rebuild_kernel(content["kernel"]).requires_grad_(False)
    records = tuple(Unidentified(**record) for record in content["unidentified"])
    model.fit_result_ = FitResult(kernel=kernel, unidentified_columns=records, **content["fit"])
    model.kernel_, model.kernel_selection_ = kernel, None


def _described(parameters: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The constructor's arguments as plain values, and the names of those that cannot be."""
    out, lost = dict(parameters), []
    out["noise_variance"] = _tensor(out["noise_variance"])
    if isinstance(out["kernel"], Kernel):
        out["kernel"] = describe_kernel(out["kernel"])
    if out["solver"] is not None:
        out["solver"] = describe_solver(out["solver"])
    out["device"] = None if out["device"] is None else str(out["device"])
    for name, value in out.items():
        plain = isinstance(value, dict | torch.Tensor | str | bool | int | float | None)
        if isinstance(value, np.generic):
            out[name] = value.item()
        elif not plain or (value is None and parameters[name] is not None):
            out[name] = None
            lost.append(name)
    return out, lost


def _tensor(value: Any) -> Any:
    """Arrays and lists as tensors; anything else as it is."""
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray | list | tuple) else value


def _array(value: Any) -> Any:
    return value.numpy() if isinstance(value, torch.Tensor) else value


def _without_numpy(value: Any) -> Any:
    if isinstance(value, dict):
        return {_without_numpy(k): _without_numpy(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_numpy(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value
