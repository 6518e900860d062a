"""The HTML report of `sggp fit`: what was fitted, how good it is, and what drives it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import sggp
from sggp.analysis import CalibrationReport, FeatureImportance
from sggp.cli.fit_drivers import dependence, drivers, together
from sggp.cli.inputs import Unused
from sggp.cli.molecules.tables import Reject
from sggp.cli.report import brief, page, paragraph, picture, rows_table
from sggp.errors import DataFileError
from sggp.estimator import GPRegressor
from sggp.plotting import new_figure, plot_parity, plot_residuals

_LISTED = 40  # columns in a table
_NOISY_ROWS = 2000
_METHODS = {
    "exact": "the marginal likelihood of all rows",
    "nearest-neighbour": "the nearest-neighbour likelihood of all rows, by random batches",
    "subset": "the marginal likelihood of small neighbourhoods, averaged",
    "iterative": "the marginal likelihood of all rows, by iterative solves",
}


@dataclass(frozen=True)
class Told:
    """What the report tells of the table.

    Attributes:
        data: the file. target, names: the columns that were used. unused: other ones, with the reason.
        lines, inputs: of the rows that were used, their lines in the file and their cells.
        rejects: rows that were not used, listed in the file `rejected`.
    """

    data: Path
    target: str
    names: list[str]
    unused: dict[str, str]
    lines: list[int]
    inputs: np.ndarray
    rejects: list[Reject]
    rejected: Path


def check_varies(y: np.ndarray, data: Path) -> None:
    """Refuse, by a DataFileError, targets (n,) that leave a report nothing to say."""
    if len(y) < 2 or float(y.min()) == float(y.max()):
        raise DataFileError(
            f"{data}: a report needs two rows or more and a target that varies, got {_counted(len(y), 'row')} of "
            f"{y[0]:.4g}: use --out alone."
        )


def render(model: GPRegressor, told: Told) -> str:
    """The report as one HTML text.

    Args:
        model: fitted to the columns `told.names`, in their order, without names of its own.
        told: about the table.
    """
    left_out = model.loo_predict()
    calibration = model.calibration_report()
    importance = replace(model.feature_importance_, names=tuple(told.names))
    sobol = replace(model.sobol_indices(), names=tuple(told.names))
    sections = [
        ("In short", _summary(model, told, calibration, importance)),
        ("What was fitted", _data(model, told)),
        ("The model, and why this one", _choice(model, told)),
        ("Scores on rows the model has not seen", _scores(model, told, calibration)),
        ("Calibration", _calibration(told, calibration)),
        ("Predicted and measured", _residuals(told, left_out)),
        (
            "What drives it",
            drivers(importance, sobol) + together(column_names(model, told.names), model.X_train_),
        ),
        ("How it depends on them", dependence(model, told.inputs, told.target, importance)),
    ]
    return page(f"A Gaussian process of {told.target}", sections)


def _summary(
    model: GPRegressor, told: Told, calibration: CalibrationReport, importance: FeatureImportance
) -> str:
    held = _and(f"{100 * check.coverage:.1f}" for check in calibration.intervals)
    count = min(3, len(told.names))
    first = _and(told.names[j] for j in importance.order[:count])
    lines = (
        f"{told.target} is predicted from {_counted(len(told.names), 'column')} of {told.data.name}, learnt from "
        f"{_counted(len(model.X_train_), 'row')}. On rows that it has not seen it explains "
        f"{100 * calibration.r2:.1f} % of the variance; its typical error is {calibration.rmse:.4g}, where the values "
        f"spread by {np.std(model.y_train_):.4g}. {_noisiness(model, told)}",
        f"Its intervals of 50, 80 and 95 % hold {held} % of such rows: {_verdict(calibration)}.",
        f"The most important {'column is' if count == 1 else 'columns are'} {first}.",
    )
    return "".join(map(paragraph, lines))


def _noisiness(model: GPRegressor, told: Told) -> str:
    return f"One measurement is noisy by {noise_told(model, told.inputs, 3)}."


def _verdict(calibration: CalibrationReport) -> str:
    """What the coverages say, beyond three standard errors."""
    gaps = [(check.coverage - check.level) / check.error for check in calibration.intervals]
    wide, narrow = max(gaps) > 3, min(gaps) < -3
    if wide and narrow:
        return "errors have heavier tails than the model says"
    if wide:
        return "the model is more cautious than it need be"
    return "the model is too sure of itself" if narrow else "as it should be, but for chance"


def _data(model: GPRegressor, told: Told) -> str:
    rows, distinct = len(model.X_train_), len(np.unique(model.X_train_, axis=0))
    columns = [None] * len(told.names) if model.columns_ is None else model.columns_.columns
    kinds = [
        name if column is None or column.levels is None else f"{name} (categories)"
        for name, column in zip(told.names, columns, strict=True)
    ]
    said = [
        ("file", told.data.name),
        ("target", told.target),
        ("rows used", rows),
        ("inputs", ", ".join(kinds)),
    ]
    if distinct < rows:
        repeats = _counted(rows - distinct, "row")
        said.append(("repeats", f"{repeats} with the inputs of earlier ones, merged with these without loss"))
    if told.rejects:
        said.append(("rows not used", f"{len(told.rejects)}: {Unused().add(told.rejects).reasons()}"))
        said.append(("", f"each with its line and reason in {told.rejected.name}"))
    else:
        said.append(("rows not used", "none"))
    others = ", ".join(f"{name} ({reason})" for name, reason in told.unused.items())
    said.append(("columns not used", others or "none"))
    numbered = column_names(model, told.names)
    for record in model.fit_result_.unidentified_columns:
        if record.of is None:
            said.append((numbered[record.column], "constant: the data say nothing about it"))
        else:
            said.append(
                (numbered[record.column], f"a copy of {numbered[record.of]}: they share one influence")
            )
    for j in np.flatnonzero(np.isinf(model.x_scale_)):
        said.append((numbered[j], "without influence, as learnt: counts as constant"))
    return rows_table(["", ""], said)


def column_names(model: GPRegressor, names: list[str]) -> list[str]:
    """Names of the columns of `X_train_`: the codes of a category, where there are any, have names of their own."""
    if model.columns_ is None:
        return names
    columns = zip(model.columns_.columns, names, strict=True)
    return [str(code) for column, name in columns for code in replace(column, name=name).names]


def _choice(model: GPRegressor, told: Told) -> str:
    fit, selection = model.fit_result_, model.kernel_selection_
    went = fit.message if selection is None else fit.message.removesuffix(f"; {selection.reason}")
    said = [
        ("kernel", _kernel_name(model.kernel_)),
        ("learnt by", _METHODS.get(fit.method, fit.method)),
        ("how that went", went or "nothing to search for"),
        ("log marginal likelihood", float(model.log_marginal_likelihood_value_)),
        (
            "noise of one measurement",
            f"{noise_told(model, told.inputs)} (standard deviation, in units of {told.target})",
        ),
        ("spread of measurements", model.noise_model_.reason),
        ("linear system", repr(model.solution_)),
        ("made with", f"sggp {sggp.__version__}"),
    ]
    return rows_table(["", ""], said) + _candidates(model) + _length_scales(model, told)


def _candidates(model: GPRegressor) -> str:
    """The kernels that were compared, where there was a choice."""
    selection = model.kernel_selection_
    if selection is None:
        return ""
    rows = [
        [
            f"{score.name} (chosen)" if score.name == selection.chosen else score.name,
            f"{score.log_density:.4f}",
            f"{score.log_density_behind[0]:.4f} ± {score.log_density_behind[1]:.4f}",
            f"{score.crps:.4f}",
            f"{score.crps_behind[0]:.4f} ± {score.crps_behind[1]:.4f}",
        ]
        for score in selection.scores
    ]
    text = (
        f"Kernels compared on {selection.rows} rows that took no part in their fits, at several densities of the "
        f"table; behind: how far from the best one. {selection.reason}."
    )
    head = ["kernel", "log density, nats a row", "behind", "CRPS, relative", "behind"]
    return paragraph(text) + rows_table(head, rows)


def _length_scales(model: GPRegressor, told: Told) -> str:
    names = column_names(model, told.names)
    parts = [
        module
        for module in model.kernel_.modules()
        if getattr(module, "has_lengthscale", False) and module.lengthscale.numel() == len(names)
    ]
    if not parts:
        return ""
    spread = np.std(model.X_train_.astype(float), axis=0)
    units = np.asarray(model.x_scale_, dtype=float)
    scales = [part.lengthscale.detach().cpu().double().numpy().reshape(-1) * units for part in parts]
    order = np.argsort(np.min(np.asarray(scales) / np.where(spread > 0, spread, 1.0), axis=0), kind="stable")[
        :_LISTED
    ]
    rows = [[names[j], float(spread[j])] + [_scale(scale[j], spread[j]) for scale in scales] for j in order]
    text = (
        "How far one has to go along a column for the function to become another, in the column's own units, and in "
        "its standard deviations. Short ones bend the function; from some ten deviations on it is all but linear."
    )
    head = ["length scale"] if len(parts) == 1 else [f"length scale, {type(part).__name__}" for part in parts]
    return paragraph(text) + rows_table(["column", "standard deviation", *head], rows)


def _scale(scale: float, spread: float) -> str:
    if not np.isfinite(scale):
        return "no influence"
    if not spread > 0:
        return f"{scale:.4g} (constant column)"
    return f"{scale:.4g} ({scale / spread:.{1 if scale < 100 * spread else 0}f})"


def _scores(model: GPRegressor, told: Told, calibration: CalibrationReport) -> str:
    spread = float(np.std(model.y_train_))
    unit = f"units of {told.target}"
    rows = [
        ("R²", f"{calibration.r2:.4f}", "share of the variance that is explained"),
        ("RMSE", f"{calibration.rmse:.4g}", f"{unit}; {spread:.4g} for the mean of all rows"),
        (
            "CRPS",
            f"{calibration.crps:.4g} ± {calibration.crps_error:.2g}",
            f"{unit}; judges the whole distribution",
        ),
        (
            "NLL",
            f"{calibration.nll:.4g} ± {calibration.nll_error:.2g}",
            "nats a row; the lower the better, as CRPS",
        ),
    ]
    how = f"{calibration.n} rows, {calibration.note}."
    return paragraph(how) + rows_table(["score", "value", ""], rows)


def _calibration(told: Told, calibration: CalibrationReport) -> str:
    text = (
        "The share of measured values inside the model's intervals, and their mean width. Conformal intervals take the "
        "same shape, with a factor from one half of the rows, and are judged on the other half: they hold their level "
        "whatever the model; where they differ in width, the model's own are too narrow or too wide, and sggp predict "
        "--interval 0.95 --conformal gives conformal ones."
    )
    rows = [
        [
            f"{100 * ours.level:.0f} %",
            *(
                cell
                for check in (ours, other)
                for cell in (f"{100 * check.coverage:.1f} ± {100 * check.error:.1f} %", f"{check.width:.4g}")
            ),
        ]
        for ours, other in zip(calibration.intervals, calibration.conformal, strict=True)
    ]
    head = ["level", "coverage", "mean width", "conformal coverage", "mean width"]
    figure = new_figure(9.0, 3.8)
    calibration.plot(figure.subplots(1, 2))
    below = (
        "Left: probabilities that the model gave to values up to the measured one, flat where it is right (a hump: too "
        "cautious; raised ends: too sure). Right: below the diagonal the model is too sure of itself. Grey: what "
        f"chance makes. Test of flatness: p = {calibration.pit_pvalue:.2g}."
    )
    return paragraph(text) + rows_table(head, rows) + picture(figure, "calibration") + paragraph(below)


def _residuals(told: Told, left_out: Any) -> str:
    y, distribution = np.asarray(left_out.y), left_out.distribution
    figure = new_figure(9.0, 3.9)
    left, right = figure.subplots(1, 2)
    plot_parity(y, distribution.loc, axes=left, name=brief(told.target))
    low, high = distribution.interval(0.95)
    plot_residuals(y, distribution.loc, (high - low) / 3.92, axes=right, name=brief(told.target))
    worst = np.argsort(-np.abs(distribution.z(y)), kind="stable")[:5]
    rows = [
        [
            told.lines[int(left_out.rows[i])],
            float(y[i]),
            float(distribution.loc[i]),
            float(distribution.z(y)[i]),
        ]
        for i in worst
    ]
    text = (
        f"The rows farthest from their prediction, by their lines in {told.data.name}: worth a second look."
    )
    head = ["line", f"measured {told.target}", "predicted", "in predictive scales"]
    return picture(figure, "parity, residuals") + paragraph(text) + rows_table(head, rows)


def _kernel_name(kernel: Any) -> str:
    """The types of a kernel's parts, from the outside in."""
    nu = getattr(kernel, "nu", None)
    name = type(kernel).__name__ if nu is None else f"Matérn-{int(2 * nu)}/2"
    inner = getattr(kernel, "base_kernel", None)
    if inner is not None:
        return (
            f"{name} of {_kernel_name(inner)}" if name != "ScaleKernel" else f"scaled {_kernel_name(inner)}"
        )
    parts = getattr(kernel, "kernels", None)
    if parts is not None:
        sign = " × " if "Product" in name else " + "
        return sign.join(_kernel_name(part) for part in parts)
    return name


def noise_told(model: GPRegressor, inputs: np.ndarray, digits: int = 4) -> str:
    """Standard deviation of the noise of one measurement, in units of y; where it varies, at up to 2,000 rows."""
    given = np.ndim(model.noise_variance_) > 0
    every = inputs[:: -(-len(inputs) // _NOISY_ROWS)]
    found = np.sqrt(model.noise_variance_) if given else model.noise_std(every)
    low, median, high = np.quantile(found, [0.1, 0.5, 0.9])
    low_told, told, high_told = (f"{value:.{digits}g}" for value in (low, median, high))
    if low_told == high_told:
        return told + (", as told with the values" if given else "")
    adjusted = " and adjusted" if model.noise_adjustment_ != (1.0, 0.0) else ""
    how = f"it is told with the values{adjusted}" if given else "it varies"
    return f"{told} in the median; {how}, from {low_told} to {high_told} in the middle 80 %"


def unidentified(model: GPRegressor, names: list[str]) -> str:
    """The columns that the data say nothing separate about, with the reasons, by the names of the file; "" for none.

    Args:
        names: of the columns that the model was fitted to.
    """
    numbered = column_names(model, names)
    return ", ".join(
        f"{numbered[record.column]} ({record.reason if record.of is None else f'copy of {numbered[record.of]}'})"
        for record in model.fit_result_.unidentified_columns
    )


def _and(words: Iterable[str]) -> str:
    """Words as a list in a sentence."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
