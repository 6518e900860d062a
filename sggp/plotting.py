"""Figures of a search, a model, a solve and a fit: best so far, parity, calibration, importance, hyperparameters.

All need matplotlib (extra ``plot``).

Every function draws into the axes it is given, or into those of a new figure that belongs to no window, and returns
the axes; ``axes.figure.savefig(path)`` writes the picture.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sggp.checks import one_of
from sggp.errors import InputError, ShapeError, missing_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sggp.solvers import Solution

__all__ = [
    "new_figure",
    "plot_best_so_far",
    "plot_calibration",
    "plot_convergence",
    "plot_coverage",
    "plot_importance",
    "plot_parity",
    "plot_pit",
    "plot_residuals",
    "plot_trace",
    "to_png",
]

_OURS = "#0b6e99"
_OTHER = "#8a8a8a"
_FAR = "#b3432b"
_LEVELS = np.linspace(0.05, 0.95, 19)


def new_figure(width: float = 5.0, height: float = 3.6) -> Figure:
    """An empty figure of the given size in inches, without touching matplotlib's global state.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("plots need matplotlib", "plot", error) from error
    return Figure(figsize=(width, height), layout="constrained")


def to_png(figure: Any, *, dpi: int = 150) -> bytes:
    """The figure as the bytes of a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def plot_best_so_far(
    best: Any,
    *,
    measurements: Sequence[float] | None = None,
    random: Any = None,
    label: str = "chosen by the model",
    value_name: str = "best value so far",
    axes: Axes | None = None,
) -> Axes:
    """The best value found against the number of measurements.

    Args:
        best: (r,) best value after each round; or a mapping from names to (k, r), the same for k searches each, of
            which the mean is drawn.
        measurements: (r,) number of measurements at each; None counts rounds.
        random: (k, r) the same for k repeats of random choice, drawn as their mean and standard deviation.
        label: name of the curve, where there is one.
        value_name: label of the y axis.
        axes: where to draw; None makes a figure.

    Raises:
        ShapeError: the curves have different lengths.
    """
    given = best if isinstance(best, Mapping) else {label: [best]}
    curves = {name: np.asarray(one, dtype=float) for name, one in given.items()}
    rounds = len(_vector(next(iter(curves.values()))[0], "best"))
    steps = np.arange(rounds) if measurements is None else _vector(measurements, "measurements")
    if random is not None:
        curves = {"": np.asarray(random, dtype=float), **curves}
    for name, curve in curves.items():
        if curve.ndim != 2 or curve.shape[1] != len(steps):
            raise ShapeError(f"{name or 'random'} must be (repeats, {len(steps)}), got {curve.shape}.")
    axes = axes if axes is not None else new_figure().subplots()
    colours = iter((_OURS, _FAR, "#5f8a3c", "#7a4fa3", "#c98a1b"))
    for name, curve in curves.items():
        mean, spread = curve.mean(axis=0), curve.std(axis=0)
        if name:
            axes.plot(steps, mean, color=next(colours, None), marker="o", markersize=4, label=name)
            continue
        axes.fill_between(steps, mean - spread, mean + spread, color=_OTHER, alpha=0.25, linewidth=0)
        said = f"random choice (mean ± s.d. of {len(curve)})"
        axes.plot(steps, mean, color=_OTHER, linestyle="--", label=said)
    return _labelled(axes, "round" if measurements is None else "measurements", value_name, legend=True)


def plot_parity(y: Any, mean: Any, std: Any = None, *, axes: Axes | None = None, name: str = "") -> Axes:
    """Predicted against true values, with one standard deviation where given.

    Args:
        y: (m,) true values.
        mean: (m,) predictions.
        std: (m,) predictive standard deviations, or None.
        axes: where to draw; None makes a figure.
        name: what the values are.

    Raises:
        ShapeError: lengths differ.
    """
    truth, guess = _pair(y, mean)
    axes = axes if axes is not None else new_figure(4.0, 3.8).subplots()
    if std is not None:
        _, spread = _pair(y, std)
        axes.errorbar(truth, guess, yerr=spread, fmt="none", ecolor=_OURS, elinewidth=0.5, alpha=0.15)
    size = min(30.0, max(5.0, 3000.0 / len(truth)))  # of few points each counts
    axes.scatter(truth, guess, s=size, color=_OURS, alpha=0.5, linewidths=0, rasterized=True)
    ends = [min(truth.min(), guess.min()), max(truth.max(), guess.max())]
    axes.plot(ends, ends, color="black", linewidth=0.8)
    spread_of_truth = float(((truth - truth.mean()) ** 2).sum())
    if spread_of_truth > 0:
        explained = 1.0 - float(((truth - guess) ** 2).sum()) / spread_of_truth
        axes.set_title(f"R² = {explained:.2f}, n = {len(truth)}", fontsize="medium")
    return _labelled(axes, f"true {name}".strip(), f"predicted {name}".strip())


def coverage(y: Any, mean: Any, std: Any) -> tuple[np.ndarray, np.ndarray]:
    """Nominal and observed coverage of central Gaussian intervals.

    Args:
        y, mean, std: (m,) true values, predictions and predictive standard deviations.

    Returns:
        levels (19,) from 0.05 to 0.95, and the share of true values inside the interval of each level.
    """
    truth, guess = _pair(y, mean)
    _, spread = _pair(y, std)
    if (spread < 0).any():
        raise InputError("a standard deviation is negative.")
    score = np.abs(truth - guess) / np.maximum(spread, np.finfo(float).tiny)
    inside = np.asarray([math.erf(value / math.sqrt(2.0)) for value in score])
    return _LEVELS, np.asarray([(inside <= level).mean() for level in _LEVELS])


def plot_calibration(y: Any, mean: Any, std: Any, *, axes: Axes | None = None) -> Axes:
    """Share of true values inside the central interval of each level, against the level.

    Below the diagonal the model is too sure of itself, above it too cautious.

    Raises:
        ShapeError: lengths differ.
        InputError: a negative standard deviation.
    """
    levels, inside = coverage(y, mean, std)
    axes = axes if axes is not None else new_figure(4.0, 3.8).subplots()
    return _draw_coverage(axes, levels, inside)


def plot_coverage(pit: Any, *, axes: Axes | None = None) -> Axes:
    """Share of measured values inside the central interval of each level, with the band of its standard error.

    Args:
        pit: (m,) probability integral transforms, the predicted probabilities of values up to the measured ones.
        axes: where to draw; None makes a figure.

    Raises:
        ShapeError: not a vector.
    """
    centred = np.abs(2 * _vector(pit, "pit") - 1)
    axes = axes if axes is not None else new_figure(4.0, 3.8).subplots()
    band = 1.96 * np.sqrt(_LEVELS * (1 - _LEVELS) / len(centred))
    axes.fill_between(_LEVELS, _LEVELS - band, _LEVELS + band, color=_OTHER, alpha=0.25, linewidth=0)
    return _draw_coverage(axes, _LEVELS, np.asarray([(centred <= level).mean() for level in _LEVELS]))


def _draw_coverage(axes: Axes, levels: np.ndarray, inside: np.ndarray) -> Axes:
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    axes.plot(levels, inside, color=_OURS, marker="o", markersize=4)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    return _labelled(axes, "nominal coverage", "observed coverage")


def plot_pit(pit: Any, *, bins: int = 10, axes: Axes | None = None) -> Axes:
    """Histogram of probability integral transforms, flat where predictions are right, with the 95 % band of a bar.

    Args:
        pit: (m,) predicted probabilities of values up to the measured ones.
        bins: bars.
        axes: where to draw; None makes a figure.

    Raises:
        ShapeError: not a vector.
    """
    values = _vector(pit, "pit")
    axes = axes if axes is not None else new_figure(4.0, 3.8).subplots()
    shares, edges = np.histogram(values, bins=bins, range=(0, 1))
    band = 1.96 * math.sqrt((1 - 1 / bins) / bins / len(values))
    axes.axhspan(1 / bins - band, 1 / bins + band, color=_OTHER, alpha=0.25, linewidth=0)
    axes.bar(edges[:-1], shares / len(values), width=1 / bins, align="edge", color=_OURS, edgecolor="white")
    axes.axhline(1 / bins, color="black", linewidth=0.8)
    axes.set(xlim=(0, 1))
    return _labelled(axes, "predicted probability of values up to the measured one", "share of rows")


def plot_residuals(y: Any, mean: Any, std: Any = None, *, axes: Axes | None = None, name: str = "") -> Axes:
    """Measured minus predicted values against the predicted ones.

    Args:
        y: (m,) measured values.
        mean: (m,) predictions.
        std: (m,) predictive standard deviations: rows beyond 1.96 of them are drawn in red; None draws none so.
        axes: where to draw; None makes a figure. name: what the values are.

    Raises:
        ShapeError: lengths differ.
    """
    truth, guess = _pair(y, mean)
    far = np.zeros(len(truth), dtype=bool)
    if std is not None:
        far = np.abs(truth - guess) > 1.96 * _pair(y, std)[1]
    axes = axes if axes is not None else new_figure(4.0, 3.8).subplots()
    for rows, colour in ((~far, _OURS), (far, _FAR)):
        axes.scatter(guess[rows], (truth - guess)[rows], s=7, color=colour, alpha=0.5, linewidths=0)
    axes.axhline(0.0, color="black", linewidth=0.8)
    if std is not None:
        axes.set_title(f"{100 * far.mean():.1f} % outside the 95 % interval (red)", fontsize="medium")
    return _labelled(axes, f"predicted {name}".strip(), f"measured − predicted {name}".strip())


def plot_importance(
    names: Sequence[str], bars: Mapping[str, tuple[Any, Any]], *, axes: Axes | None = None, most: int = 20
) -> Axes:
    """Horizontal bars of each column's importance, the first column on top.

    Args:
        names: (d,) of the columns, in the order to draw.
        bars: what it is -> (d,) values and (d,) standard errors or None.
        axes: where to draw; None makes a figure. most: columns drawn; the title says so where others are left out.

    Raises:
        ShapeError: not one value for each column. InputError: nothing to draw.
    """
    if not bars or not len(names):
        raise InputError("no columns or no bars to draw.")
    shown = min(most, len(names))
    axes = axes if axes is not None else new_figure(6.0, 1.0 + 0.32 * shown).subplots()
    height = 0.8 / len(bars)
    for number, (label, (values, errors)) in enumerate(bars.items()):
        lengths = _vector(values, label)
        if len(lengths) != len(names):
            raise ShapeError(f"{label} has {len(lengths)} values for {len(names)} columns.")
        places = np.arange(shown) + (number - 0.5 * (len(bars) - 1)) * height
        spread = None if errors is None else _vector(errors, label)[:shown]
        colour = (_OURS, _OTHER, _FAR)[number % 3]
        axes.barh(places, lengths[:shown], height, xerr=spread, color=colour, ecolor="#333333", label=label)
    axes.set_yticks(np.arange(shown), list(names[:shown]))
    axes.margins(y=0.2 / (shown + 1))
    axes.invert_yaxis()
    if shown < len(names):
        axes.set_title(f"the first {shown} of {len(names)} columns", fontsize="medium")
    return _labelled(axes, "share", "", legend=True)


def plot_convergence(
    solutions: Mapping[str, Solution],
    *,
    against: Literal["seconds", "epochs"] = "seconds",
    axes: Axes | None = None,
) -> Axes:
    """The largest relative residual of all columns over the course of each solve.

    Residuals that were measured by a full product are marked; the others are the solver's own running values.

    Args:
        solutions: name of the curve -> what the solver returned.
        against: "seconds" or "epochs" (work in units of n² kernel entries).
        axes: where to draw; None makes a figure.

    Raises:
        InputError: no solution, one without a history, or an unknown `against`.
    """
    one_of(against, "against", ("seconds", "epochs"))
    empty = [name for name, solution in solutions.items() if not solution.history]
    if empty or not solutions:
        raise InputError(
            f"expected solutions with a history, got {f'none for {empty}' if empty else 'none'}."
        )
    axes = axes if axes is not None else new_figure().subplots()
    for name, solution in solutions.items():
        work = np.asarray([getattr(record, against) for record in solution.history])
        worst = np.asarray([float(record.residual.max()) for record in solution.history])
        (line,) = axes.plot(work, worst, linewidth=1.2, label=name)
        true = np.asarray([record.kind == "true" for record in solution.history])
        axes.plot(work[true], worst[true], linestyle="none", marker="o", markersize=3, color=line.get_color())
    axes.set_yscale("log")
    work_name = "seconds" if against == "seconds" else "passes over K"
    return _labelled(axes, work_name, "relative residual of the worst column", legend=True)


def plot_trace(
    fit: Any, axes: Sequence[Axes] | None = None, *, against: Literal["step", "seconds"] = "step"
) -> np.ndarray:
    """How a fit of the hyperparameters went: its objective, and below it every hyperparameter.

    Positive hyperparameters share a logarithmic axis, one line each (the length scales of all columns in one colour);
    those that took other values, such as the mean, are dashed on a linear axis of their own at the right.

    Args:
        fit: a `FitResult`, a fitted `GPRegressor`, or the records of a trace: dicts with `step`, `seconds`, `value` and
            `values` (by name).
        axes: two axes to draw into; None makes a figure.
        against: "step" or "seconds".

    Returns:
        The two axes, of the objective and of the hyperparameters.

    Raises:
        InputError: no record, or an unknown `against`. ShapeError: another number of axes.
    """
    one_of(against, "against", ("step", "seconds"))
    records = list(getattr(fit, "trace_", getattr(fit, "trace", fit)))
    if not records:
        raise InputError("the trace is empty: this fit optimised nothing, so there is nothing to draw.")
    if axes is None:
        axes = new_figure(5.0, 5.6).subplots(2, sharex=True)
    if len(axes) != 2:
        raise ShapeError(f"expected two axes, got {len(axes)}.")
    work = np.asarray([float(record[against]) for record in records])
    value = np.asarray([record.get("value") for record in records], dtype=float)  # None: NaN
    axes[0].plot(work, value, color=_OURS, marker="o" if len(work) < 30 else None, markersize=3)
    _labelled(axes[0], "", "objective per row")
    _draw_values(axes[1], work, [record["values"] for record in records])
    _labelled(axes[1], against, "hyperparameters")
    return np.asarray(axes)


def _draw_values(axes: Axes, work: np.ndarray, values: Sequence[Mapping[str, Any]]) -> None:
    """One line per hyperparameter entry: logarithmic where all are positive, otherwise on a second axis."""
    signed, legend = None, []
    for number, name in enumerate(dict.fromkeys(name for record in values for name in record)):
        held = [i for i, record in enumerate(values) if name in record]
        entries = np.asarray([np.atleast_1d(values[i][name]) for i in held], dtype=float)
        panel = axes
        if not (entries > 0).all():
            signed = axes.twinx() if signed is None else signed
            panel = signed
        lines = panel.plot(
            work[held],
            entries,
            color=f"C{number % 10}",
            linewidth=1.2 if entries.shape[1] == 1 else 0.7,
            linestyle="-" if panel is axes else "--",
        )
        lines[0].set_label(name if entries.shape[1] == 1 else f"{name} ({entries.shape[1]})")
        legend.append(lines[0])
    axes.set_yscale("log")
    if signed is not None:
        signed.set_ylabel("dashed")
    if legend:
        axes.legend(handles=legend, frameon=False, fontsize="small")


def _labelled(axes: Axes, x: str, y: str, *, legend: bool = False) -> Axes:
    """The finished axes: labels, a grid and perhaps a legend."""
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.25)
    if legend:
        axes.legend(frameon=False, fontsize="small")
    return axes


def _vector(values: Any, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or array.size == 0:
        raise ShapeError(f"{name} must be a non-empty vector, got shape {array.shape}.")
    return array


def _pair(first: Any, second: Any) -> tuple[np.ndarray, np.ndarray]:
    a, b = _vector(first, "y"), _vector(second, "mean and std")
    if a.shape != b.shape:
        raise ShapeError(f"true values and predictions differ in length: {len(a)} and {len(b)}.")
    return a, b
