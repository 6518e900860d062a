"""`sggp fit` and `sggp predict`: a Gaussian process on a table of numbers and categories."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from sggp.checks import one_of, whole_number
from sggp.cli.console import check_outputs, exit_as_stopped, long_run, progress_lines, say, stderr, stdout
from sggp.cli.fit_report import Told, check_varies, noise_told, render, unidentified
from sggp.cli.inputs import Unused, copied_rows
from sggp.cli.model_files import SavedModel, load_model, save_model
from sggp.cli.molecules.tables import Decimal, Sheet
from sggp.cli.outputs import rejected_path
from sggp.cli.predictions import Predictor
from sggp.cli.training import Asked, read_training, told_noise
from sggp.defaults import NUM_SAMPLES
from sggp.errors import InputError, UnidentifiedColumns
from sggp.estimator import GPRegressor
from sggp.files import write_whole
from sggp.plotting import new_figure
from sggp.running import apart, stop_on_signals

_DEFAULT = "auto"
_KERNELS = (_DEFAULT, "matern12", "matern32", "matern52", "rbf")


def fit(
    data: Annotated[
        Path, typer.Argument(help="Table of numbers and categories, with a header: CSV, .xlsx, .parquet, ...")
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
    max_seconds: Annotated[
        float | None, typer.Option(help="Wall time of learning and solving; the best until then is kept.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File to go on from after a kill, with the same command.")
    ] = None,
    sheet: Sheet = None,
    decimal: Decimal = None,
) -> None:
    """Learn a Gaussian process from a table, as sggp.GPRegressor does; save it, report on it, or both.

    SIGTERM and Ctrl-C stop the solve at its next step: what it has found is written all the same, marked as such, and
    the exit code is 143 or 130. A second one ends at once, and writes nothing. With --checkpoint FILE the same command
    then goes on: what was learnt is in FILE, the solve in FILE.solve; delete both when the model is written.
    """
    written = _written(out, report, data, {"--log": log, "--checkpoint": checkpoint})
    whole_number(num_samples, "--num-samples")
    one_of(kernel, "--kernel", _KERNELS)
    _check_limits(seed, max_seconds)
    rejected = rejected_path(written[0], data, *written)
    table = read_training(Asked(data, target, features, sheet, decimal), rejected)
    names, inputs, y, rejects = table.names, table.inputs, table.y, table.rejects
    if report is not None:
        check_varies(y, data)
    listed = ", ".join(f"{name} (categories)" if name in table.categories else name for name in names)
    stderr().print(f"{len(y)} rows, inputs {listed}; {Unused().add(rejects).told(rejected, len(y))}")
    named = None if kernel == _DEFAULT else kernel
    model = GPRegressor(named, num_samples=num_samples, max_seconds=max_seconds, random_state=seed)
    with stop_on_signals(at_once=True) as stop:
        with long_run(stop, log), warnings.catch_warnings():
            warnings.simplefilter("ignore", UnidentifiedColumns)  # which knows no names: told below
            model.fit(inputs, y, noise_variance=told_noise(table, model), checkpoint=checkpoint)
        say(data, copied_rows(model.X_train_, y))
        if listed := unidentified(model, names):
            stderr().print(f"the data say nothing separate about these columns: {listed}")
        told = Told(data, target, names, table.others, table.lines, inputs, rejects, rejected)
        with apart():  # what was found is written, whoever has asked to stop
            if out is not None:
                save_model(out, SavedModel(target, names, model))
            if report is not None:
                write_whole(report, render(model, told))
    files = " and ".join(map(str, written))
    stdout().print(f"model of {target!r} in {files}; noise of one measurement {noise_told(model, inputs)}")
    if stop.reason is not None:
        stderr().print(f"stopped by {stop.reason}: {model.solution_!r}")
    exit_as_stopped(stop)


def _check_limits(seed: int | None, max_seconds: float | None) -> None:
    if seed is not None and not 0 <= seed < 2**32:
        raise InputError(f"--seed must lie between 0 and 2**32 - 1, got {seed}.")
    if max_seconds is not None and not 0 < max_seconds < math.inf:
        raise InputError(f"--max-seconds must be positive, got {max_seconds:g}; leave it out for no limit.")


def _written(out: Path | None, report: Path | None, data: Path, others: dict[str, Path | None]) -> list[Path]:
    """What `fit` writes, checked before any work is done: as `check_outputs`, and the extra that a report needs."""
    written = [path for path in (out, report) if path is not None]
    if not written or out == report:
        raise InputError("say what to write: --out FILE for the model, --report FILE for a page, or both.")
    outputs = {"--out": out, "--report": report, **others}
    check_outputs(outputs, [data], models=["--out"], resumed=["--checkpoint"])
    if report is not None:
        new_figure()  # names the extra
    return written


def predict(
    model: Annotated[Path, typer.Argument(help="Model file written by fit.")],
    data: Annotated[Path, typer.Argument(help="Table with the model's input columns, of any size.")],
    out: Annotated[Path, typer.Option(help="CSV file to write.")],
    include_noise: Annotated[
        bool,
        typer.Option("--include-noise", help="Standard deviation of a measurement, not of the function."),
    ] = False,
    interval: Annotated[
        float | None,
        typer.Option(help="Also columns low and high: a new measurement lies between with this probability."),
    ] = None,
    conformal: Annotated[
        bool,
        typer.Option(
            "--conformal",
            help="With --interval: wide enough for the model's own rows, each left out, to be inside.",
        ),
    ] = False,
    sheet: Sheet = None,
    decimal: Decimal = None,
) -> None:
    """Predict mean and standard deviation for every usable row of a table, as sggp.GPRegressor does."""
    check_outputs({"--out": out}, [model, data])
    if interval is not None and not 0 < interval < 1:
        raise InputError(f"--interval must lie strictly between 0 and 1, got {interval}; for 95 % give 0.95.")
    if conformal and interval is None:
        raise InputError(
            "--conformal says how the ends of --interval are found: give --interval 0.95 as well."
        )
    saved = load_model(model)
    if (include_noise or interval is not None) and np.ndim(saved.model.noise_variance_):
        raise InputError(
            f"{model} was fitted to values of {saved.target!r} that told their standard errors (5±0.2), and that of a "
            "new measurement is not known: leave out --include-noise and --interval."
        )
    for solution in (posterior.solution for posterior in saved.model._posteriors()):
        if not solution.converged:
            say(model, [f"its solve did not reach its tolerance: {solution.describe_failure()}"])
    rejected = rejected_path(out, data, model, out)
    predictor = Predictor(saved, data, include_noise, interval, conformal)
    with progress_lines():
        used, unused = predictor.write(out, rejected, sheet=sheet, decimal=decimal)
    if unused.rows:
        stderr().print(f"{unused.told(rejected, used)}")
    stdout().print(
        f"{used} predictions of {saved.target!r} in {out}; {unused.rows} unused rows in {rejected}"
    )
