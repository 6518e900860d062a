"""`sggp fit` and `sggp predict`: a Gaussian process on a table of numbers."""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer

from sggp.bayesopt import Surrogate
from sggp.checks import whole_number
from sggp.cli.console import check_output, csv_text, stderr, stdout
from sggp.cli.molecules.tables import Reject, write_rejects
from sggp.defaults import NUM_SAMPLES
from sggp.errors import DataFileError, InputError
from sggp.estimator import GPRegressor
from sggp.files import whole_file, write_whole
from sggp.molecules.files import DataTable, parse_numbers, read_table
from sggp.posterior import Posterior

_DEFAULT = "auto"
_KERNELS = (_DEFAULT, "matern12", "matern32", "matern52", "rbf")
_FORMAT = "sggp-model-1"
_SOLVE_UP_TO = 5000


def fit(
    data: Annotated[Path, typer.Argument(help="CSV file of numbers with a header. gz accepted.")],
    target: Annotated[str, typer.Option(help="Column to learn.")],
    out: Annotated[Path, typer.Option(help="Model file to write.")],
    features: Annotated[
        str | None, typer.Option(help="Input columns, comma separated; default: all.")
    ] = None,
    kernel: Annotated[str, typer.Option(help="One of " + ", ".join(_KERNELS) + ".")] = _DEFAULT,
    num_samples: Annotated[int, typer.Option(help="Posterior samples to carry.")] = NUM_SAMPLES,
    seed: Annotated[int | None, typer.Option(help="Makes the result reproducible.")] = None,
) -> None:
    """Learn a Gaussian process from a table, as sggp.GPRegressor does, and save it."""
    check_output(out, data)
    whole_number(num_samples, "--num-samples")
    if kernel not in _KERNELS:
        raise InputError(f"--kernel must be one of {', '.join(_KERNELS)}, got {kernel!r}.")
    table = read_table(data)
    names = _inputs(table, target, features)
    numbers, rejects = _numbers(table, [*names, target], data)
    rejected = out.with_suffix(".rejected.csv")
    write_rejects(rejected, rejects)
    if not len(numbers):
        raise DataFileError(f"{data}: no row is complete; the {len(rejects)} unused rows are in {rejected}.")
    inputs, y = numbers[:, :-1], numbers[:, -1]
    stderr().print(f"{len(y)} rows, inputs {', '.join(names)}; {len(rejects)} unused rows in {rejected}")
    model = GPRegressor(
        None if kernel == _DEFAULT else kernel, num_samples=num_samples, random_state=seed
    ).fit(inputs, y)
    meta = {
        "format": _FORMAT,
        "target": target,
        "features": names,
        "shift": model.x_offset_.tolist(),
        "spread": model.x_scale_.tolist(),
        "offset": float(model.y_offset_[0]),
        "scale": float(model.y_scale_[0]),
    }
    _save(out, meta, model.posterior_)
    stdout().print(f"model of {target!r} in {out}; noise of one measurement {model.noise_variance_**0.5:.4g}")


def predict(
    model: Annotated[Path, typer.Argument(help="Model file written by fit.")],
    data: Annotated[Path, typer.Argument(help="CSV file with the model's input columns. gz accepted.")],
    out: Annotated[Path, typer.Option(help="CSV file to write.")],
    include_noise: Annotated[
        bool,
        typer.Option("--include-noise", help="Standard deviation of a measurement, not of the function."),
    ] = False,
) -> None:
    """Predict mean and standard deviation for every usable row of a table."""
    check_output(out, model, data)
    meta, posterior = _load(model)
    table = read_table(data)
    numbers, rejects = _numbers(table, meta["features"], data)
    rejected = out.with_suffix(".rejected.csv")
    write_rejects(rejected, rejects)
    if not len(numbers):
        raise DataFileError(f"{data}: no row is complete; the {len(rejects)} unused rows are in {rejected}.")
    x = torch.from_numpy((numbers - np.asarray(meta["shift"])) / np.asarray(meta["spread"]))
    surrogate = Surrogate(posterior, float(meta["offset"]), float(meta["scale"]), learned=True)
    method: Literal["solve", "samples"] = "solve" if posterior.x.shape[0] <= _SOLVE_UP_TO else "samples"
    mean, std = surrogate.predict(x, observation_noise=include_noise, method=method)
    bad = {reject.line for reject in rejects}
    lines = [int(line) for line in table.lines if int(line) not in bad]
    write_whole(out, csv_text(["line", "mean", "std"], zip(lines, mean.tolist(), std.tolist(), strict=True)))
    stdout().print(
        f"{len(lines)} predictions of {meta['target']!r} in {out}; {len(rejects)} unused rows in {rejected}"
    )


def _inputs(table: DataTable, target: str, features: str | None) -> list[str]:
    """The input columns: those named, or every column but the target that holds a number."""
    asked = None if features is None else [name.strip() for name in features.split(",") if name.strip()]
    for name in [target, *(asked or [])]:
        if name not in table.columns:
            raise DataFileError(
                f"{table.path}: there is no column {name!r}; the columns are {', '.join(table.header)}."
            )
    if asked is not None:
        if target in asked:
            raise InputError(f"the target {target!r} cannot be one of --features.")
        if not asked:
            raise InputError("--features names no column.")
        return asked
    numeric: list[str] = []
    text: list[str] = []
    for name in table.header:
        if name != target:
            _, reasons = parse_numbers(table.columns[name])
            (text if len(reasons) == len(table) else numeric).append(name)
    if text:
        stderr().print(f"not used, no numbers in them: {', '.join(text)}")
    if not numeric:
        raise DataFileError(f"{table.path}: no column of numbers beside the target {target!r}.")
    return numeric


def _numbers(table: DataTable, names: list[str], path: Path) -> tuple[np.ndarray, list[Reject]]:
    """(m, len(names)) float64 of the complete rows, and the rows left out."""
    rejects = [Reject(path.name, r.line, r.reason, r.content) for r in table.rejected]
    columns, reasons = [], dict[int, str]()
    for name in names:
        if name not in table.columns:
            raise DataFileError(
                f"{path}: there is no column {name!r}; the columns are {', '.join(table.header)}."
            )
        values, bad = parse_numbers(table.columns[name])
        columns.append(values)
        for position, reason in bad.items():
            reasons.setdefault(position, f"{name}: {reason}")
    for position, reason in reasons.items():
        content = ",".join(column[position] for column in table.columns.values())
        rejects.append(Reject(path.name, int(table.lines[int(table.rows[position])]), reason, content))
    keep = [i for i in range(len(table)) if i not in reasons]
    return np.stack(columns, axis=1)[keep], rejects


def _save(path: Path, meta: dict[str, Any], posterior: Posterior) -> None:
    with whole_file(path) as stream, tempfile.TemporaryDirectory() as folder:
        inner = Path(folder) / "posterior"
        posterior.save(inner)
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("model.json", json.dumps(meta))
            archive.write(inner, "posterior")


def _load(path: Path) -> tuple[dict[str, Any], Posterior]:
    if not path.is_file():
        raise DataFileError(f"{path}: no such model file.")
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            meta = json.loads(archive.read("model.json"))
            if meta.get("format") != _FORMAT:
                raise DataFileError(f"{path}: model format {meta.get('format')!r} is not {_FORMAT!r}.")
            return meta, Posterior.load(Path(archive.extract("posterior", folder)))
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError) as error:
        raise DataFileError(f"{path}: not a model written by sggp fit ({error}).") from error
