"""What drives a fitted model, as HTML: importance, Sobol indices and partial dependence of its columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.inspection import PartialDependenceDisplay

from sggp.analysis import FeatureImportance, SobolIndices
from sggp.cli.report import brief, paragraph, picture, rows_table
from sggp.estimator import GPRegressor
from sggp.plotting import new_figure, plot_importance

_TOP = 6  # columns whose dependence is drawn, and pairs that are named
_DEPENDENCE_ROWS = 100
_LISTED = 40  # columns in a table
_STRONG = 0.9  # correlations that are told
_CORRELATED_AMONG = 500  # columns at most


def drivers(importance: FeatureImportance, sobol: SobolIndices) -> str:
    """Bars and a table of the columns, the most important first."""
    text = (
        "Permutation: how much the squared error of left-out rows grows when a column is shuffled, in shares of the "
        "variance of the target. Length scale: how much functions of the learnt kernel change with the column alone. "
        "Sobol: the share of the variance of the prediction that a column makes alone (first order) and with the "
        "others (total), as if columns were independent. Columns that hang together share "
        "their permutation importance."
    )
    order = importance.order
    bars = {
        "permutation": (importance.permutation[order], importance.permutation_error[order]),
        "Sobol, total": (sobol.total[order], sobol.total_error[order]),
        "length scale": (importance.prior[order], None),
    }
    names = [brief(importance.names[j]) for j in order]
    figure = new_figure(8.0, 1.0 + 0.4 * min(20, len(names)))
    plot_importance(names, bars, axes=figure.subplots())
    rows = [
        [
            importance.names[j],
            _with_error(importance.permutation[j], importance.permutation_error[j]),
            f"{importance.prior[j]:.3f}",
            _with_error(sobol.first[j], sobol.first_error[j]),
            _with_error(sobol.total[j], sobol.total_error[j]),
        ]
        for j in order[:_LISTED]
    ]
    head = ["column", "permutation", "length scale", "Sobol, first order", "Sobol, total"]
    return paragraph(text) + picture(figure, "importance") + rows_table(head, rows)


def together(names: Sequence[str], X: np.ndarray) -> str:
    """Which columns hang together, so that no one of them can be told apart from the other."""
    X = X.astype(float)
    varied = np.flatnonzero(X.std(axis=0) > 0)
    if not 2 <= len(varied) <= _CORRELATED_AMONG:
        return ""
    correlation = np.corrcoef(X[:, varied], rowvar=False)
    first, second = np.triu_indices(len(varied), k=1)
    size = np.abs(correlation[first, second])
    strong = [k for k in np.argsort(-size, kind="stable")[:_TOP] if size[k] > _STRONG]
    pairs = [
        f"{names[varied[first[k]]]} and {names[varied[second[k]]]} ({correlation[first[k], second[k]]:.2f})"
        for k in strong
    ]
    if not pairs:
        return ""
    text = "Strongly correlated, so that the numbers of one hang on those of the other: "
    return paragraph(f"{text}{'; '.join(pairs)}.")


def dependence(model: GPRegressor, inputs: np.ndarray, target: str, importance: FeatureImportance) -> str:
    """Partial dependence and some rows' own curves for the most important columns, by scikit-learn's display.

    Args:
        model: fitted to columns in the order of `importance`. inputs: its rows, as given to `fit`. target: its name.
    """
    rng = np.random.default_rng(0)
    X = inputs[rng.permutation(len(inputs))[:_DEPENDENCE_ROWS]]
    varied = [int(j) for j in importance.order if len(set(X[:, j])) > 1][:_TOP]
    if not varied:
        return paragraph("No column varies.")
    lines = -(-len(varied) // 3)
    figure = new_figure(9.0, 2.9 * lines)
    axes = figure.subplots(lines, 3, squeeze=False).reshape(-1)
    for spare in axes[len(varied) :]:
        spare.set_visible(False)
    columns = [] if model.columns_ is None else model.columns_.columns
    codes = [j for j, column in enumerate(columns) if column.levels is not None]
    display = PartialDependenceDisplay.from_estimator(
        model,
        X,
        varied,
        feature_names=[brief(name) for name in importance.names],
        categorical_features=codes or None,
        kind=["average" if j in codes else "both" for j in varied],
        subsample=30,
        grid_resolution=30,
        random_state=0,
        ax=axes[: len(varied)],
        ice_lines_kw={"color": "#0b6e99", "alpha": 0.2, "linewidth": 0.5},
        pd_line_kw={"color": "#b3432b", "linestyle": "-", "linewidth": 2},
    )
    for axis in display.axes_.reshape(-1):
        axis.set_ylabel(brief(target))
        if axis.get_legend():
            axis.get_legend().remove()
    for place, j in enumerate(varied):
        if j in codes:  # whose levels are the labels of the ticks
            axis = axes[place]
            axis.set_xticks(axis.get_xticks(), [brief(label.get_text()) for label in axis.get_xticklabels()])
    text = (
        f"Red: the mean prediction of {len(X)} rows of the table with the column set to each value, the others left as "
        "they are. Blue: some of the rows. Where blue lines are not parallel, the column acts together with others."
    )
    return paragraph(text) + picture(figure, "partial dependence")


def _with_error(value: float, error: float) -> str:
    return f"{round(value, 3) + 0.0:.3f} ± {error:.3f}"  # no −0.000
