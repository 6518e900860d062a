"""`sggp fit` and `sggp predict`: a Gaussian process on a table of numbers and categories."""

from __future__ import annotations

import json
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer

from sggp.bayesopt import Surrogate
from sggp.checks import one_of, whole_number
from sggp.cli.console import check_output, csv_text, stderr, stdout
from sggp.cli.fit_report import Told, check_varies, render
from sggp.cli.inputs import choose_inputs, read_cells
from sggp.cli.molecules.tables import Reject
from sggp.defaults import NUM_SAMPLES
from sggp.errors import DataFileError, InputError
from sggp.estimator import GPRegressor
from sggp.estimator.columns import TableEncoder
from sggp.files import whole_file, write_whole
from sggp.fitting.scaling import Scaling
from sggp.molecules.files import DataTable, read_table
from sggp.plotting import new_figure
from sggp.posterior import Posterior

_DEFAULT = "auto"
_KERNELS = (_DEFAULT, "matern12", "matern32", "matern52", "rbf")
_FORMAT = "sggp-model-1"
_META = ("target", "features", "shift", "spread", "offset", "scale")
_SOLVE_UP_TO = 5000


def fit(
    data: Annotated[
        Path, typer.Argument(help="CSV file of numbers and categories, with a header. gz accepted.")
    ],
    target: Annotated[str, typer.Option(help="Column to learn.")],
    out: Annotated[Path | None, typer.Option(help="Model file to write.")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML page about the model to write.")] = None,
    features: Annotated[
        str | None, typer.Option(help="Input columns, comma separated; default: all that can tell something.")
    ] = None,
    kernel: Annotated[str, typer.Option(help="One of " + ", ".join(_KERNELS) + ".")] = _DEFAULT,
    num_samples: Annotated[int, typer.Option(help="Posterior samples to carry.")] = NUM_SAMPLES,
    seed: Annotated[int | None, typer.Option(help="Makes the result reproducible.")] = None,
) -> None:
    """Learn a Gaussian process from a table, as sggp.GPRegressor does; save it, report on it, or both."""
    written = [path for path in (out, report) if path is not None]
    if not written or out == report:
        raise InputError("say what to write: --out FILE for the model, --report FILE for a page, or both.")
    for path in written:
        check_output(path, data)
    if report is not None:
        new_figure()  # names the extra that a report needs before any work
    whole_number(num_samples, "--num-samples")
    one_of(kernel, "--kernel", _KERNELS)
    table = read_table(data)
    names, categories, unused = choose_inputs(table, target, features)
    rejected = written[0].with_suffix(".rejected.csv")
    cells, rejects = read_cells(table, [*names, target], dict.fromkeys(categories), rejected)
    inputs, y = cells[:, :-1], cells[:, -1].astype(float)
    if report is not None:
        check_varies(y, data)
    listed = ", ".join(f"{name} (categories)" if name in categories else name for name in names)
    stderr().print(f"{len(y)} rows, inputs {listed}; {len(rejects)} unused rows in {rejected}")
    model = GPRegressor(
        None if kernel == _DEFAULT else kernel, num_samples=num_samples, random_state=seed
    ).fit(inputs, y)
    if out is not None:
        _save(out, _meta(model, target, names), model.posterior_)
    if report is not None:
        others = {
            name: unused.get(name, "not asked for") for name in table.header if name not in (*names, target)
        }
        told = Told(data, target, names, others, _lines(table, rejects), inputs, rejects, rejected)
        write_whole(report, render(model, told))
    noise = float(model.y_scale_[0]) * float(model.fit_result_.noise_variance) ** 0.5
    files = " and ".join(map(str, written))
    stdout().print(f"model of {target!r} in {files}; noise of one measurement {noise:.4g}")


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
    rejected = out.with_suffix(".rejected.csv")
    names, encoder = meta["features"], meta["columns"]
    known = {} if encoder is None else {n: c.levels for n, c in zip(names, encoder.columns, strict=True)}
    cells, rejects = read_cells(table, names, {n: v for n, v in known.items() if v is not None}, rejected)
    numbers = cells if encoder is None else encoder.transform(cells)
    shift, spread = (np.asarray(meta[name], dtype=float) for name in ("shift", "spread"))
    x = Scaling(shift, spread, np.zeros(1), np.ones(1), True, True).inputs(torch.from_numpy(numbers))
    surrogate = Surrogate(posterior, float(meta["offset"]), float(meta["scale"]), learned=True)
    method: Literal["solve", "samples"] = "solve" if posterior.x.shape[0] <= _SOLVE_UP_TO else "samples"
    mean, std = surrogate.predict(x, observation_noise=include_noise, method=method)
    lines = _lines(table, rejects)
    if not bool(torch.isfinite(mean).all() & torch.isfinite(std).all()):
        first = lines[int((~(torch.isfinite(mean) & torch.isfinite(std))).nonzero()[0, 0])]
        raise InputError(
            f"the prediction for line {first} of {data} is beyond what float64 holds: measure {meta['target']!r} in a "
            "larger unit, and fit the model again."
        )
    write_whole(out, csv_text(["line", "mean", "std"], zip(lines, mean.tolist(), std.tolist(), strict=True)))
    stdout().print(
        f"{len(lines)} predictions of {meta['target']!r} in {out}; {len(rejects)} unused rows in {rejected}"
    )


def _lines(table: DataTable, rejects: list[Reject]) -> list[int]:
    """Lines of the rows that were used."""
    bad = {reject.line for reject in rejects}
    return [int(line) for line in table.lines if int(line) not in bad]


def _meta(model: GPRegressor, target: str, names: list[str]) -> dict[str, Any]:
    """What a model file holds beside the posterior: the columns and their units."""
    return {
        "format": _FORMAT,
        "target": target,
        "features": names,
        "columns": None if model.columns_ is None else model.columns_.to_dict(),
        "shift": model.x_offset_.tolist(),
        "spread": model.x_scale_.tolist(),
        "offset": float(model.y_offset_[0]),
        "scale": float(model.y_scale_[0]),
    }


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
            found = meta["format"]
            if found == _FORMAT and all(name in meta for name in _META):
                columns = meta.get("columns")
                meta["columns"] = None if columns is None else TableEncoder.from_dict(columns)
                if columns is not None and len(columns["columns"]) != len(meta["features"]):
                    raise ValueError
                return meta, Posterior.load(Path(archive.extract("posterior", folder)))
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        LookupError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:
        raise DataFileError(f"{path}: damaged, or not a model written by sggp fit; fit it again.") from error
    raise DataFileError(f"{path}: model format {found!r} is not {_FORMAT!r}, or lacks a part; fit it again.")
