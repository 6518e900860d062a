"""`sggp fit` and `sggp predict`: a Gaussian process on a table of numbers and categories."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from sggp.checks import one_of, whole_number
from sggp.cli.console import (
    check_outputs,
    csv_text,
    exit_as_stopped,
    long_run,
    progress_lines,
    say,
    stderr,
    stdout,
)
from sggp.cli.fit_report import Told, check_varies, noise_told, render, unidentified
from sggp.cli.inputs import choose_inputs, read_cells
from sggp.cli.model_files import SavedModel, load_model, save_model
from sggp.cli.molecules.tables import Decimal, Reject, Sheet
from sggp.cli.outputs import rejected_path
from sggp.defaults import NUM_SAMPLES
from sggp.errors import InputError, UnidentifiedColumns
from sggp.estimator import GPRegressor
from sggp.files import write_whole
from sggp.molecules.files import DataTable, read_table
from sggp.plotting import new_figure

_DEFAULT = "auto"
_KERNELS = (_DEFAULT, "matern12", "matern32", "matern52", "rbf")


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
    log: Annotated[
        Path | None,
        typer.Option(help="File to add a JSON line to for every step: time, phase, residual, memory."),
    ] = None,
    sheet: Sheet = None,
    decimal: Decimal = None,
) -> None:
    """Learn a Gaussian process from a table, as sggp.GPRegressor does; save it, report on it, or both.

    SIGTERM and Ctrl-C stop the solve at its next step: what it has found is written all the same, marked as such, and
    the exit code is 143 or 130. A second one ends at once, and writes nothing.
    """
    written = [path for path in (out, report) if path is not None]
    if not written or out == report:
        raise InputError("say what to write: --out FILE for the model, --report FILE for a page, or both.")
    check_outputs({"--out": out, "--report": report, "--log": log}, [data], models=["--out"])
    if report is not None:
        new_figure()  # names the extra that a report needs before any work
    whole_number(num_samples, "--num-samples")
    one_of(kernel, "--kernel", _KERNELS)
    table = read_table(data, sheet=sheet, decimal=decimal)
    say(data.name, table.notes)
    names, categories, unused = choose_inputs(table, target, features)
    rejected = rejected_path(written[0], data, *written)
    cells, rejects = read_cells(table, [*names, target], dict.fromkeys(categories), rejected)
    inputs, y = cells[:, :-1], cells[:, -1].astype(float)
    if report is not None:
        check_varies(y, data)
    listed = ", ".join(f"{name} (categories)" if name in categories else name for name in names)
    stderr().print(f"{len(y)} rows, inputs {listed}; {len(rejects)} unused rows in {rejected}")
    model = GPRegressor(None if kernel == _DEFAULT else kernel, num_samples=num_samples, random_state=seed)
    with warnings.catch_warnings(), long_run(log) as stop:
        warnings.simplefilter("ignore", UnidentifiedColumns)  # which knows no names: told below
        model.fit(inputs, y)
    if listed := unidentified(model, names):
        stderr().print(f"the data say nothing separate about these columns: {listed}")
    if out is not None:
        save_model(out, SavedModel(target, names, model))
    if report is not None:
        others = {
            name: unused.get(name, "not asked for") for name in table.header if name not in (*names, target)
        }
        told = Told(data, target, names, others, _lines(table, rejects), inputs, rejects, rejected)
        write_whole(report, render(model, told))
    files = " and ".join(map(str, written))
    stdout().print(f"model of {target!r} in {files}; noise of one measurement {noise_told(model, inputs)}")
    if stop.reason is not None:
        stderr().print(f"stopped by {stop.reason}: {model.solution_!r}")
    exit_as_stopped(stop)


def predict(
    model: Annotated[Path, typer.Argument(help="Model file written by fit.")],
    data: Annotated[Path, typer.Argument(help="CSV file with the model's input columns. gz accepted.")],
    out: Annotated[Path, typer.Option(help="CSV file to write.")],
    include_noise: Annotated[
        bool,
        typer.Option("--include-noise", help="Standard deviation of a measurement, not of the function."),
    ] = False,
    interval: Annotated[
        float | None,
        typer.Option(help="Also columns low and high: a new measurement lies between with this probability."),
    ] = None,
    sheet: Sheet = None,
    decimal: Decimal = None,
) -> None:
    """Predict mean and standard deviation for every usable row of a table, as sggp.GPRegressor does."""
    check_outputs({"--out": out}, [model, data])
    if interval is not None and not 0 < interval < 1:
        raise InputError(f"--interval must lie strictly between 0 and 1, got {interval}; for 95 % give 0.95.")
    saved = load_model(model)
    for solution in (posterior.solution for posterior in saved.model._posteriors()):
        if not solution.converged:
            say(model, [f"its solve did not reach its tolerance: {solution.describe_failure()}"])
    table = read_table(data, sheet=sheet, decimal=decimal)
    say(data.name, table.notes)
    rejected = rejected_path(out, data, model, out)
    names, encoder = saved.features, saved.model.columns_
    known = {} if encoder is None else {n: c.levels for n, c in zip(names, encoder.columns, strict=True)}
    cells, rejects = read_cells(table, names, {n: v for n, v in known.items() if v is not None}, rejected)
    with np.errstate(over="ignore", invalid="ignore"), progress_lines():
        columns = ["mean", "std"]
        found = [*saved.model.predict(cells, return_std=True, include_noise=include_noise)]
        if interval is not None:
            columns += ["low", "high"]
            found += saved.model.predict_interval(cells, interval)
    lines = _lines(table, rejects)
    values = np.stack(found, axis=1)
    if not np.isfinite(values).all():
        first = lines[int(np.argmin(np.isfinite(values).all(axis=1)))]
        raise InputError(
            f"the prediction for line {first} of {data} is beyond what float64 holds: measure {saved.target!r} in a "
            "larger unit, and fit the model again."
        )
    rows = ([line, *row] for line, row in zip(lines, values.tolist(), strict=True))
    write_whole(out, csv_text(["line", *columns], rows))
    stdout().print(
        f"{len(lines)} predictions of {saved.target!r} in {out}; {len(rejects)} unused rows in {rejected}"
    )


def _lines(table: DataTable, rejects: list[Reject]) -> list[int]:
    """Lines of the rows that were used."""
    bad = {reject.line for reject in rejects}
    return [int(line) for line in table.lines if int(line) not in bad]
