"""Estimators as tensors and plain values, and on disk; the model files of `sggp fit` are estimators, too."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import torch
from gpytorch.kernels import Kernel

from sggp.errors import DataFileError, InputError, NotSaved
from sggp.estimator.columns import TableEncoder
from sggp.estimator.modes.precomputed import is_precomputed
from sggp.evidence.storage import evidence_parts, evidence_values, noise_model_parts
from sggp.fitting.scaling import Scaling
from sggp.hyperparameters.result import FitResult
from sggp.hyperparameters.unidentified import Unidentified
from sggp.persistence import read_content, rebuilding, write_content
from sggp.posterior import Posterior
from sggp.posterior.kernel_values import describe_kernel, rebuild_kernel
from sggp.posterior.storage import posterior_parts, posterior_values
from sggp.solvers import describe_solver, rebuild_solver

KIND = "estimator"
_FIT = [f.name for f in fields(FitResult) if f.name not in ("kernel", "posterior", "unidentified_columns")]
_PLAIN = ("n_iter_", "log_marginal_likelihood_value_", "hyperparameters_", "trace_")
_ARRAYS = ("X_train_", "y_train_", "outliers_", "noise_variance_")


def save_estimator(path: str | os.PathLike[str], model: Any, table: Mapping[str, Any] | None = None) -> None:
    """Write a fitted `GPRegressor`, with what is to be known of its table; see `GPRegressor.save`."""
    _check_columns(model.columns_)
    try:
        describe_kernel(model.kernel_)
        given = model.get_params(deep=False)
        parameters, lost = _described(given)
        posteriors = [posterior_values(p.process, p.data, p.solution) for p in model._posteriors()]
        for posterior, values in zip(model._posteriors(), posteriors, strict=True):
            if values["kernel"] is None:
                describe_kernel(posterior.kernel)  # which says why not
    except InputError as error:
        raise InputError(
            f"this estimator cannot be kept in a file of plain values: {error}. Keep it with joblib.dump, which needs "
            "the classes where it is read, or fit it with a kernel of gpytorch.kernels."
        ) from error
    result, encoder = model.fit_result_, model.columns_
    content = {
        "table": None if table is None else dict(table),
        "parameters": parameters,
        **fit_values(result),
        "plain": {name: getattr(model, name) for name in _PLAIN},
        "cut_short": model.cut_short_,
        "noise_adjustment": model.noise_adjustment_,
        "names": [str(name) for name in model.feature_names_in_]
        if hasattr(model, "feature_names_in_")
        else None,
        "labels": _plain_labels(model._labels),
        "n_features": model.n_features_in_,
        "columns": None if encoder is None else encoder.to_dict(),
        "scaling": dict(vars(model.scaling_)),
        "arrays": {name: getattr(model, name) for name in _ARRAYS},
        "known_noise": model._known_noise,
        "noise_model": evidence_values(model.noise_model_),
        "selection": evidence_values(model.kernel_selection_),
        "posteriors": posteriors,
    }
    write_content(path, KIND, content)
    if lost:
        warnings.warn(
            f"{', '.join(lost)} of the estimator cannot be written to {path}, which predicts as it does all the same: "
            "give them again with set_params before another fit.",
            NotSaved,
            stacklevel=3,
        )


def _check_columns(encoder: TableEncoder | None) -> None:
    """Refuse names and levels that are neither text nor numbers, as intervals and days are."""
    for column in encoder.columns if encoder is not None else ():
        for value in (column.name, *(column.levels or ())):
            if not isinstance(value, str | int | float | tuple | np.generic | None):
                what = "a name" if value is column.name else "levels"
                raise InputError(
                    f"column {column.name!r} has {what} of type {type(value).__name__}, which a file of plain values "
                    "cannot hold: make it text before the fit, or keep the estimator with joblib.dump."
                )


def fit_values(result: FitResult) -> dict[str, Any]:
    """What was learnt as tensors and plain values, but for its posterior.

    Raises:
        InputError: a kernel, constraint or prior of a type that a file does not name.
    """
    return {
        "kernel": describe_kernel(result.kernel),
        "fit": {name: getattr(result, name) for name in _FIT},
        "unidentified": [asdict(record) for record in result.unidentified_columns],
    }


def fit_parts(values: Mapping[str, Any]) -> FitResult:
    """What `fit_values` was given."""
    kernel = rebuild_kernel(values["kernel"]).requires_grad_(False)
    records = tuple(Unidentified(**record) for record in values["unidentified"])
    return FitResult(kernel=kernel, unidentified_columns=records, **values["fit"])


def load_estimator(
    path: str | os.PathLike[str], model: Any, again: str = "save it again"
) -> dict[str, Any] | None:
    """Fill a new estimator with what `save_estimator` wrote, and return what it was told of the table.

    A model that an older `sggp fit` wrote holds what predictions need, and nothing else of the estimator.
    """
    content = read_content(path, KIND, again=again)
    with rebuilding(path, KIND, again):
        told = _restore_predictions(model, content)
        if "fit" in content:
            _restore_fit(model, content)
    for text in dict.fromkeys(told):
        warnings.warn(text.replace("{}", str(path)), NotSaved, stacklevel=3)
    return content.get("table")


def saved_table(path: str | os.PathLike[str], model: Any, again: str) -> dict[str, Any]:
    """As `load_estimator`, for a file that names its columns.

    Raises:
        DataFileError: it does not.
    """
    table = load_estimator(path, model, again)
    if table is None:
        raise DataFileError(
            f"{path} holds an estimator that does not say which columns of a table it is of: use it from Python with "
            f"GPRegressor.load, or {again}."
        )
    return table


def _restore_predictions(model: Any, content: dict[str, Any]) -> list[str]:
    """All that predictions need; gives what is to be told."""
    columns = content["columns"]
    model.columns_ = None if columns is None else TableEncoder.from_dict(columns)
    model.n_features_in_, model._labels = content["n_features"], content.get("labels")
    model.noise_model_ = noise_model_parts(content["noise_model"])
    told, posteriors = [], []
    for saved in content["posteriors"]:
        process, data, solution, more = posterior_parts(saved)
        posteriors.append(Posterior(process, data, solution))
        told += more
    single = len(posteriors) == 1
    model.posterior_ = posteriors[0] if single else posteriors
    model.solution_ = posteriors[0].solution if single else [p.solution for p in posteriors]
    model._tell_scaling(Scaling(**content["scaling"]))
    _check_widths(model, posteriors, is_precomputed(content.get("parameters", {}).get("kernel")))
    varies = len(posteriors[0].data.noise_variance.unique()) > 1
    if "fit" not in content and varies and model.noise_model_.row_noise is None:
        raise ValueError("noise for each row, and no model of it")
    return told


def _check_widths(model: Any, posteriors: list[Posterior], precomputed: bool) -> None:
    """Raise ValueError where columns, units, noise and posteriors are of different tables."""
    encoder, scaling, noise = model.columns_, model.scaling_, model.noise_model_
    width, surface = posteriors[0].x.shape[1], noise.surface
    inside = surface is None or bool((surface.columns < width).all())
    if encoder is not None and len(encoder.columns) != model.n_features_in_:
        raise ValueError(f"{model.n_features_in_} features, and an encoder of {len(encoder.columns)}")
    if encoder is None and model.n_features_in_ != width - 2 * precomputed:
        raise ValueError(f"{model.n_features_in_} features, and a posterior of {width} columns")
    scaled = scaling.x_offset.shape == scaling.x_scale.shape == (width,)
    if not inside or (scaling.standardised and not scaled):
        raise ValueError(f"a posterior of {width} columns, and units or a noise model of others")
    if not scaling.y_offset.shape == scaling.y_scale.shape == (len(posteriors),):
        raise ValueError(f"{len(posteriors)} posteriors, and units of {scaling.y_scale.shape} targets")


def _restore_fit(model: Any, content: dict[str, Any]) -> None:
    """What was learnt, and what a further fit starts from."""
    parameters = dict(content["parameters"])
    for name, build in (("kernel", rebuild_kernel), ("solver", rebuild_solver)):
        if isinstance(parameters[name], dict):
            parameters[name] = build(parameters[name])
    model.set_params(**parameters)
    for name in _PLAIN:
        setattr(model, name, content["plain"][name])
    for name in _ARRAYS:
        setattr(model, name, content["arrays"][name])
    model.cut_short_ = tuple(content.get("cut_short", ()))
    model.noise_adjustment_ = tuple(content["noise_adjustment"])
    model._known_noise = content["known_noise"]
    if content["names"] is not None:
        model.feature_names_in_ = np.array(content["names"], dtype=object)
    model.fit_result_ = fit_parts(content)
    model.kernel_, model.kernel_selection_ = (
        model.fit_result_.kernel,
        evidence_parts(content.get("selection")),
    )


def _plain_labels(labels: list[Any] | None) -> list[Any] | None:
    """Names of columns that are not all text, if they are numbers, text and pairs of such; else None: any will do."""
    parts = [part for label in labels or () for part in (label if isinstance(label, tuple) else (label,))]
    return labels if all(type(part) in (int, float, str, bool) for part in parts) else None


def _described(parameters: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The constructor's arguments as plain values, and the names of those that cannot be."""
    out, lost = dict(parameters), []
    if isinstance(out["kernel"], Kernel):
        out["kernel"] = describe_kernel(out["kernel"])
    if out["solver"] is not None:
        out["solver"] = describe_solver(out["solver"])
    out["device"] = None if out["device"] is None else str(out["device"])
    if isinstance(out["noise_variance"], list | tuple):
        out["noise_variance"] = np.asarray(out["noise_variance"])
    plain = dict | torch.Tensor | np.ndarray | np.generic | str | bool | int | float | None
    for name, value in out.items():
        if not isinstance(value, plain) or (value is None and parameters[name] is not None):
            out[name] = None
            lost.append(name)
    return out, lost
