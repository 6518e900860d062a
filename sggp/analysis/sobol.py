"""Sobol indices: which share of the variance of a function each input makes, alone and with the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import qmc

from sggp.analysis.columns import Groups, grouped, named_columns
from sggp.analysis.values import differ, values_at
from sggp.checks import whole_number
from sggp.errors import InputError, ShapeError
from sggp.plotting import plot_importance

_MOST_COLUMNS = qmc.Sobol.MAXDIM // 2


@dataclass(frozen=True, eq=False)
class SobolIndices:
    """First-order and total Sobol indices of a function, in the order of the columns; printed largest total first.

    Attributes:
        names: (d,) of the columns.
        first: (d,) the share of the variance of the function that the column makes alone. first_error: standard errors.
        total: (d,) the share that would be left if all other columns were known: first plus every interaction that the
            column has a part in. total_error: standard errors.
        variance: of the function over its inputs, in squared units of y; the indices are 0 where it is.
        evaluations: of the function.
    """

    names: tuple[str, ...]
    first: Any
    first_error: Any
    total: Any
    total_error: Any
    variance: float
    evaluations: int

    @property
    def order(self) -> np.ndarray:
        """(d,) positions of the columns, the largest total first."""
        return np.argsort(-np.asarray(self.total), kind="stable")

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Column -> its numbers, the largest total first."""
        columns = ("first", "first_error", "total", "total_error")
        return {self.names[j]: {name: float(getattr(self, name)[j]) for name in columns} for j in self.order}

    def plot(self, axes: Any = None) -> Any:
        """Bars of both, in the axes given or those of a new figure, which are returned."""
        order = self.order
        bars = {
            "Sobol, total": (self.total[order], self.total_error[order]),
            "Sobol, first order": (self.first[order], self.first_error[order]),
        }
        return plot_importance([self.names[j] for j in order], bars, axes=axes)

    def __str__(self) -> str:
        width = max(6, *(len(name) for name in self.names))
        lines = [f"{'column':<{width}} {'first order':>16} {'total':>16}"]
        for j in self.order:
            first = f"{self.first[j]:.3f} ± {self.first_error[j]:.3f}"
            total = f"{self.total[j]:.3f} ± {self.total_error[j]:.3f}"
            lines.append(f"{self.names[j]:<{width}} {first:>16} {total:>16}")
        return "\n".join(lines)


def sobol_indices(
    predict: Callable[[np.ndarray], np.ndarray],
    X: Any,
    *,
    n: int = 1024,
    names: Sequence[object] | None = None,
    groups: Groups | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> SobolIndices:
    """Sobol indices of a function whose inputs are independent, each distributed as its column of a table.

    Independence is an assumption: where columns of the table hang together, the function is also asked where the table
    has no rows, and the indices describe the function, not the table.

    From A and B, (n, d) points of a scrambled Sobol' sequence through the columns' empirical quantiles, and A with
    column j of B: Sⱼ = mean f(B)(f(ABⱼ) − f(A))/V (Saltelli et al. 2010, table 2 (b)) and Tⱼ = mean (f(A) − f(ABⱼ))²/2V
    (Jansen 1999, their (f)). Standard errors by the bootstrap over the n points, which takes them as independent and so
    is on the large side.

    Args:
        predict: the function, (q, d) -> (q,): a posterior mean.
        X: (m, d) rows whose columns are the inputs' distributions; only values that occur are used.
        n: points, a power of two.
        groups: columns that are drawn together, from one row, such as the codes of a category; None draws each by
            itself. names: of the groups.
        resamples: of the bootstrap. seed: of the sequence and of the bootstrap.

    Raises:
        ShapeError, InputError: X is no table, has more than 10,600 columns, n is no power of two, or the function does
            not give one finite number for each point.

    Cost: (d + 2) · n evaluations.

    Example:
        >>> import numpy as np
        >>> from sggp.analysis import sobol_indices
        >>> X = np.random.default_rng(0).uniform(size=(500, 3))
        >>> result = sobol_indices(lambda x: 3 * x[:, 0] + x[:, 1], X)
        >>> [round(float(share), 1) for share in result.total]  # as 9 to 1
        [0.9, 0.1, 0.0]
    """
    X = np.asarray(X)
    if X.ndim != 2 or not 1 <= X.shape[1] <= _MOST_COLUMNS or len(X) == 0:
        raise ShapeError(f"X must be (m, d) with rows and 1 to {_MOST_COLUMNS} columns, got {X.shape}.")
    whole_number(n, "n", least=2)
    whole_number(resamples, "resamples", least=2)
    seed = whole_number(seed, "seed", least=0)
    if n & (n - 1):
        raise InputError(f"n must be a power of two, as Sobol' sequences have it, got {n}.")
    groups = grouped(groups, X.shape[1])
    names = named_columns(names, len(groups))
    uniform = qmc.Sobol(2 * len(groups), rng=np.random.default_rng(seed)).random(n)
    a, b = (_drawn(X, groups, half) for half in np.split(uniform, 2, axis=1))
    f_a, f_b = values_at(predict, a), values_at(predict, b)
    both = np.concatenate([f_a, f_b])
    centre = both.mean()
    unit = float(np.ptp(both)) if differ(both) else math.inf  # without spread all indices are 0
    first, total = np.empty((n, len(groups))), np.empty((n, len(groups)))
    for j, columns in enumerate(groups):
        mixed = a.copy()
        mixed[:, columns] = b[:, columns]
        change = (values_at(predict, mixed) - f_a) / unit
        first[:, j], total[:, j] = (f_b - centre) / unit * change, 0.5 * change**2
    moments = np.column_stack([f_a - centre, f_b - centre]) / unit
    rng = np.random.default_rng(seed + 1)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n
    values = _indices(np.full((1, n), 1 / n), moments, first, total)
    spread = [index.std(axis=0, ddof=1) for index in _indices(weights, moments, first, total)[:2]]
    return SobolIndices(
        names=names,
        first=values[0][0],
        first_error=spread[0],
        total=values[1][0],
        total_error=spread[1],
        variance=float(values[2][0]) * unit * unit if unit < math.inf else 0.0,
        evaluations=(len(groups) + 2) * n,
    )


def _drawn(X: np.ndarray, groups: Groups, uniform: np.ndarray) -> np.ndarray:  # (m, d), (n, groups) -> (n, d)
    """Rows whose groups are those of rows of the table, in their order: for one column its empirical quantile."""
    out = np.repeat(X[:1], len(uniform), axis=0)
    for j, columns in enumerate(groups):
        part = X[:, columns]
        try:
            ordered = part[np.lexsort(part.T[::-1])]
        except TypeError as error:
            raise InputError(f"columns {columns} of X have no order: {error}.") from error
        out[:, columns] = ordered[np.minimum((uniform[:, j] * len(X)).astype(int), len(X) - 1)]
    return out


def _indices(
    weights: np.ndarray, moments: np.ndarray, first: np.ndarray, total: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # (r, n), (n, 2), (n, d) twice -> (r, d) twice, (r,)
    """First-order and total indices and the variance, for each row of weights of the points."""
    mean = (weights @ moments).mean(axis=1)
    variance = (weights @ moments**2).mean(axis=1) - mean**2
    safe = np.where(variance > 0, variance, np.inf)[:, None]
    return weights @ first / safe, weights @ total / safe, variance
