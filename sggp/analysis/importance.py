"""Importance of input columns: by permutation on rows that the model has not seen, and by the learnt kernel."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sggp.analysis.columns import Groups, grouped
from sggp.analysis.values import differ, numbers, values_at
from sggp.checks import whole_number
from sggp.errors import InputError, ShapeError
from sggp.plotting import plot_importance

Means = Callable[[np.ndarray], np.ndarray]  # (q, d) -> (q,)
Slopes = Callable[[np.ndarray], np.ndarray]  # (m, d) -> (m,)


@dataclass(frozen=True, eq=False)
class FeatureImportance:
    """Importance of each input column, in the order of the table; printed with the most important first.

    Attributes:
        names: (d,) of the columns.
        permutation: (d,) how much the squared error of unseen rows grows when the column is shuffled, in shares of the
            variance of y: 0 for a column that the predictions do not use; about twice the share of the variance that
            hangs on it for one that they do. Columns that say the same thing share what is theirs.
        permutation_error: (d,) standard error over the repeats.
        prior: (d,) how much functions of the learnt kernel change with the column alone, from its length scale and its
            spread; shares that add up to 1.
    """

    names: tuple[str, ...]
    permutation: Any
    permutation_error: Any
    prior: Any

    @property
    def order(self) -> np.ndarray:
        """(d,) positions of the columns, the most important by permutation first."""
        return np.argsort(-np.asarray(self.permutation), kind="stable")

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Column -> its numbers, the most important first."""
        return {
            self.names[j]: {
                "permutation": float(self.permutation[j]),
                "permutation_error": float(self.permutation_error[j]),
                "prior": float(self.prior[j]),
            }
            for j in self.order
        }

    def plot(self, axes: Any = None) -> Any:
        """Bars of both, in the axes given or those of a new figure, which are returned."""
        order = self.order
        bars = {
            "permutation": (self.permutation[order], self.permutation_error[order]),
            "length scale": (self.prior[order], None),
        }
        return plot_importance([self.names[j] for j in order], bars, axes=axes)

    def __str__(self) -> str:
        width = max(6, *(len(name) for name in self.names))
        lines = [f"{'column':<{width}} {'permutation':>16} {'length scale':>12}"]
        for j in self.order:
            share = f"{self.permutation[j]:.3f} ± {self.permutation_error[j]:.3f}"
            lines.append(f"{self.names[j]:<{width}} {share:>16} {self.prior[j]:>12.3f}")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """What a Gaussian process says of rows of its own table without each of them.

    Attributes:
        mean: (m,) predictions of rows, each without itself.
        slope: shuffled rows (m, d) -> (m,) slopes c(x', x)/c(x, x) of the posterior function there on that at the row.
            See `covariance_slope` and `function_slope`.
    """

    mean: Any
    slope: Slopes


def permutation_importance(
    predict: Means,
    X: Any,
    y: Any,
    *,
    left_out: LeaveOneOut | None = None,
    groups: Groups | None = None,
    repeats: int = 5,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:  # (d,), (d,)
    """Growth of the squared error when one column is shuffled among rows that the model has not seen.

    With held-out rows, as Breiman 2001 and scikit-learn have it. With rows of the training table, each of which is to
    be predicted without itself, at its own place and at the shuffled one x': there a Gaussian process has the mean

        m₋ᵢ(x') = m(x') − c(x', xᵢ)/c(xᵢ, xᵢ) · (m(xᵢ) − m₋ᵢ(xᵢ))

    with m and c the posterior mean and covariance of all rows: what row i has added there, by the slope of f(x') on
    f(xᵢ). Exact for fixed hyperparameters; a column that predictions do not use gets exactly 0.

    Args:
        predict: posterior mean of all training rows, (q, d) -> (q,).
        X: (m, d) rows. y: (m,) their measured values.
        left_out: for rows of the training table; None for held-out ones.
        groups: columns that are shuffled together, such as the codes of a category; None shuffles each by itself.
        repeats: shuffles of each column, 2 or more.
        seed: of the shuffles.

    Returns:
        Means over the repeats and their standard errors, for each group, in shares of the variance of y.

    Raises:
        ShapeError: the lengths differ. InputError: y has no spread, values that are not finite, too few repeats.

    Cost: (1 + repeats · d) · m predictions and as many slopes.
    """
    X, y = np.asarray(X), numbers(y, "y")
    whole_number(repeats, "repeats", least=2)
    seed = whole_number(seed, "seed", least=0)
    if X.ndim != 2 or y.shape != X.shape[:1]:
        raise ShapeError(f"expected rows (m, d) and (m,) values, got {X.shape} and {y.shape}.")
    if len(y) < 2 or not differ(y):
        raise InputError("y must have some spread, in whose share the importance is measured.")
    fitted = values_at(predict, X)
    base = fitted if left_out is None else numbers(left_out.mean, "left_out.mean")
    if base.shape != y.shape:
        raise ShapeError(f"expected ({len(y)},) predictions in left_out.mean, got {base.shape}.")
    error, rng, groups = np.mean((y - base) ** 2), np.random.default_rng(seed), grouped(groups, X.shape[1])
    growth = np.zeros((repeats, len(groups)))
    for j, columns in enumerate(groups):
        for repeat in range(repeats):
            moved = X.copy()
            moved[:, columns] = X[rng.permutation(len(X))][:, columns]
            mean = values_at(predict, moved)
            if left_out is not None:
                mean = mean - left_out.slope(moved) * (fitted - base)
            growth[repeat, j] = (np.mean((y - mean) ** 2) - error) / np.var(y)
    return growth.mean(axis=0), growth.std(axis=0, ddof=1) / math.sqrt(repeats)


def covariance_slope(
    covariance: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, block: int = 128
) -> Slopes:
    """Slopes from posterior covariances of f, exact.

    Args:
        covariance: (q, d) -> (q, q). rows: (m, d), those that are left out. block: pairs of rows at a time.
    """

    def slope(moved: np.ndarray) -> np.ndarray:
        out = []
        for start in range(0, len(rows), block):
            pairs = np.concatenate([rows[start : start + block], moved[start : start + block]])
            half, matrix = len(pairs) // 2, covariance(pairs)
            out.append(_ratio(np.diagonal(matrix, offset=half), np.diagonal(matrix)[:half]))
        return np.concatenate(out)

    return slope


def function_slope(functions: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> Slopes:
    """Slopes from posterior functions, for tables whose covariances would cost a solve per row.

    Each has an error of about √(c(x', x')/c(x, x)/s).

    Args:
        functions: (q, d) -> (q, s), the same s functions in every call. rows: (m, d), those that are left out.
    """

    def deviations(points: np.ndarray) -> np.ndarray:
        values = functions(points)
        return values - values.mean(axis=1, keepdims=True)

    here = deviations(rows)

    def slope(moved: np.ndarray) -> np.ndarray:
        return _ratio((deviations(moved) * here).sum(axis=1), (here * here).sum(axis=1))

    return slope


def _ratio(covariance: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Slopes; 0 where f is known exactly at a row, which then has no part in it."""
    positive = variance > 0
    return np.where(positive, covariance / np.where(positive, variance, 1.0), 0.0)


def prior_importance(
    kernel: Callable[[np.ndarray, np.ndarray], np.ndarray],
    X: Any,
    *,
    groups: Groups | None = None,
    rows: int = 256,
    seed: int = 0,
) -> np.ndarray:  # (d,)
    """How much functions drawn from a kernel change with one column alone, over the spread it has in the table.

    Half the mean squared difference of f between two rows of which one has its column j from another row, in shares of
    the variance of f: 1 − k(x, x')/√(k(x, x) k(x', x')), on average, and then in shares of the sum over columns. For a
    kernel with one length scale per column it is 1 − ρ(|xⱼ − x'ⱼ|/ℓⱼ): close to (spread/ℓ)² for long ones.

    Args:
        kernel: (q, d), (r, d) -> (q, r) values.
        X: (n, d) rows. groups: columns that are moved together; None moves each by itself.
        rows: how many of them at most, drawn at random. seed: of the draw.

    Returns:
        Shares that add up to 1; zeros where no column has any influence.
    """
    X, rng = np.asarray(X), np.random.default_rng(seed)
    groups = grouped(groups, X.shape[1])
    chosen = X[rng.permutation(len(X))[:rows]]
    own = np.diagonal(kernel(chosen, chosen))
    change = np.zeros(len(groups))
    for j, columns in enumerate(groups):
        moved = chosen.copy()
        moved[:, columns] = chosen[rng.permutation(len(chosen))][:, columns]
        if (moved == chosen).all():
            continue
        size = np.sqrt(own * np.diagonal(kernel(moved, moved)))
        between = np.diagonal(kernel(chosen, moved))
        change[j] = max(0.0, float(np.mean(1 - between / np.where(size > 0, size, 1.0))))
    total = change.sum()
    return change / total if total > 0 else change
